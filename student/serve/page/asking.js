// What the server is asked, and what it says as it writes.

const KEY = "key";

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** The key that somebody gave, in this tab alone. */
export const keep = (key) => sessionStorage.setItem(KEY, key);
export const keeps = () => sessionStorage.getItem(KEY) !== null;

/** A request with the key, whose refusal is an error in the server's words. */
async function send(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  // A header has bytes for letters: those of UTF-8, as the server compares them.
  const bytes = key === null ? "" : String.fromCharCode(...new TextEncoder().encode(key));
  const headers = { ...options.headers, ...(key === null ? {} : { authorization: `Bearer ${bytes}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Refused("The server does not answer. Is it still running?", 0);
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => null);
  throw new Refused(said?.error?.message ?? `The server answered with status ${response.status}.`, response.status);
}

/** The models, and the server's bounds. */
export const models = async () => (await send("v1/models")).json();

/** Hands on what a model writes of a sound: {delta}, {segment} and at its end {timing}. */
export async function* written(model, asked, signal) {
  const response = await send(...(await (asked.task === "transcribe" ? transcription : chat)(model, asked, signal)));
  let whole = false;
  for await (const event of events(response)) {
    if (event.error) throw new Refused(event.error.message, 500);
    const delta = event.delta ?? event.choices?.[0].delta.content;
    const segment = event.type === "transcript.text.segment" ? event : event.segment;
    if (delta) yield { delta };
    if (segment) yield { segment };
    if (event.timing) {
      whole = true;
      yield { timing: event.timing };
    }
  }
  if (!whole) throw new Refused("The server went away before the end.", 0);
}

async function transcription(model, { sound }, signal) {
  const body = new FormData();
  body.append("model", model);
  body.append("stream", "true");
  body.append("timestamp_granularities[]", "segment");
  body.append("file", sound, "sound");
  return ["v1/audio/transcriptions", { method: "POST", body, signal }];
}

async function chat(model, { task, question, sound }, signal) {
  // The server tells the format by the bytes; base64 has to have one.
  const content = [{ type: "input_audio", input_audio: { data: await base64(sound), format: "wav" } }];
  if (task === "ask") content.push({ type: "text", text: question });
  const body = JSON.stringify({ model, stream: true, messages: [{ role: "user", content }] });
  return ["v1/chat/completions", { method: "POST", body, signal, headers: { "content-type": "application/json" } }];
}

function base64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Refused("The file cannot be read any more. Choose it again.", 0));
    reader.readAsDataURL(blob);
  });
}

/** Server-sent events, each a JSON object. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    let read;
    try {
      read = await reader.read();
    } catch (error) {
      throw error.name === "AbortError" ? error : new Refused("The server went away before the end.", 0);
    }
    if (read.done) return;
    const lines = (rest + read.value).split("\n\n");
    rest = lines.pop();
    for (const line of lines) if (line !== "data: [DONE]") yield JSON.parse(line.slice("data: ".length));
  }
}
