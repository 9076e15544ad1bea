// The page: a sound, what is asked, and the models side by side.

import { keep, keeps, models as list } from "./asking.js";
import { Model } from "./model.js";
import { Player, Recorder, decoded, largest, longest, wav } from "./sound.js";
import { Wave } from "./wave.js";
import { bytes, clock, lasting } from "./words.js";

const at = (id) => document.getElementById(id);
let server = null;
let models = [];
let sound = null;
let recorder = null;
let running = null;
let taken = null;

const player = new Player((seconds, playing) => {
  wave.move(seconds, player.from);
  models.forEach((model) => model.at(playing ? seconds : null));
  at("play").classList.toggle("stops", Boolean(playing));
  at("play").setAttribute("aria-label", playing ? "Pause" : "Play");
  if (sound?.buffer) at("time").textContent = `${clock(seconds)} / ${clock(wave.seconds)}`;
});
const wave = new Wave(at("wave"), at("canvas"), (seconds) => player.seek(seconds));

/** Tells what went wrong, or with nothing that all is well. */
function fail(message = "") {
  at("error").textContent = message;
  at("error").hidden = !message;
}

/** Does something, and tells where it fails. */
const tried = (work) => work.catch((error) => fail(error.message));

const task = () => document.querySelector("input[name=task]:checked").value;
const fits = () => Boolean(models.length && sound && (task() !== "ask" || at("question").value.trim()));

/** What can be done now. */
function update() {
  at("play").disabled = !sound?.buffer;
  at("run").disabled = !running && !fits();
  at("run").textContent = running ? "Stop" : "Run";
  at("question").hidden = task() !== "ask";
  at("record-text").textContent = recorder ? "Stop" : "Record";
  at("record").classList.toggle("records", Boolean(recorder));
}

/** Tells that a sound is too large to be sent for a task, where it is. */
function refuses(blob, task) {
  const most = server ? largest(server, task) : Infinity;
  if (blob.size > most) fail(`The sound has ${bytes(blob.size)}; this server takes ${bytes(most)} of it. Cut it.`);
  return blob.size > most;
}

/** Takes a sound, and has it heard at once. */
async function take(blob, name, recorded = false) {
  if (!recorded && refuses(blob, "transcribe")) return; // before it is read: it may be more than there is memory
  running?.abort();
  fail();
  const mine = (taken = {});
  await drop();
  const buffer = await decoded(blob);
  if (taken !== mine) return; // another one came meanwhile, or is being recorded
  if (recorded && !buffer) return fail("The browser cannot read its own recording. Choose a file instead.");
  sound = { buffer, blob: recorded ? wav(buffer) : blob };
  at("name").textContent = name;
  at("time").textContent = "";
  at("empty").hidden = Boolean(buffer);
  at("empty").textContent = "This browser cannot play this file. The models may still hear it.";
  models.forEach((model) => model.clear());
  wave.show(buffer);
  player.load(buffer);
  compare();
  update();
  if (fits()) run();
}

async function run() {
  if (refuses(sound.blob, task())) return;
  fail();
  const mine = (running = new AbortController());
  const turns = at("in-turn").checked || models.length === 1;
  const asked = { task: task(), question: at("question").value.trim(), sound: sound.blob };
  const one = async (model) => {
    const text = await model.ask(asked, mine.signal, turns).catch((error) => {
      if (error.status === 401) askForKey();
      return error.message;
    });
    compare();
    if (text) at("status").textContent = `${model.facts.id}: ${text}`;
  };
  update();
  models.forEach((model) => model.clear());
  compare();
  if (turns) {
    for (const model of models) if (!mine.signal.aborted) await one(model);
  } else await Promise.all(models.map(one));
  if (running === mine) running = null;
  update();
  tell((await list().catch(() => ({ server }))).server);
}

/** What the server takes, and what it took. */
function tell(told) {
  server = told;
  at("peak").textContent = bytes(server.peak_memory_bytes);
  at("most").textContent = `${lasting(server.max_seconds)} and ${server.max_megabytes} MB`;
}

/** The teacher, or else the first, is what the others are held against. */
function compare() {
  const other = models.find((model) => model.facts.about.role === "teacher") ?? models[0];
  at("against").textContent = models.length > 1 ? `×: relative to ${other.facts.id}.` : "";
  models.forEach((model) => model.compare(models, other));
}

const play = ({ start, end }) => {
  if (!sound?.buffer) return;
  const same = player.playing?.start === start && player.playing?.to === Math.min(end, sound.buffer.duration);
  if (same) player.stop();
  else player.play(start, Math.min(end, sound.buffer.duration), start);
};
const mark = (segment) => wave.mark(segment && [segment.start, segment.end]);

/** Ends a recording, if there is one, and returns it. */
async function drop() {
  const ended = recorder;
  recorder = null;
  wave.record(null);
  update();
  return ended?.end();
}

async function record() {
  if (recorder) return take(await drop(), "Recording", true);
  fail();
  player.stop();
  const levels = [];
  const limit = longest(server ?? { max_megabytes: 25, max_seconds: 3600 });
  at("record").disabled = true; // while the browser asks for the microphone
  try {
    recorder = await Recorder.begin((level, seconds) => {
      levels.push(Math.min(1, 1.5 * level));
      wave.record(levels);
      at("time").textContent = clock(seconds);
      if (seconds >= limit) tried(record());
    });
  } finally {
    at("record").disabled = false;
  }
  running?.abort();
  sound = taken = null;
  wave.show(null);
  player.load(null);
  models.forEach((model) => model.clear());
  compare();
  at("name").textContent = "Recording";
  at("empty").hidden = true;
  at("status").textContent = "Recording";
  update();
}

function askForKey() {
  at("key-form").hidden = false;
  at("main").classList.add("closed");
  fail(keeps() ? "This is not the server's key." : "");
  at("key").focus();
}

async function open() {
  try {
    const found = await list();
    at("key-form").hidden = true;
    at("main").classList.remove("closed");
    fail();
    tell(found.server);
    models = found.data.map((facts) => new Model(facts, play, mark));
  } catch (error) {
    return error.status === 401 ? askForKey() : fail(error.message);
  }
  at("models").replaceChildren(...models.map((model) => model.element));
  at("turns").hidden = models.length < 2;
  at("foot").hidden = false;
  compare();
  update();
}

at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keep(at("key").value);
  open();
});
at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) running.abort();
  else if (fits()) run();
});
at("ask").addEventListener("input", update);
at("play").addEventListener("click", () => (player.playing ? player.stop() : player.play(player.at)));
at("wave").addEventListener("keydown", (event) => {
  if (event.key !== " " || !sound?.buffer) return;
  event.preventDefault();
  at("play").click();
});
at("record").addEventListener("click", () => tried(record()));
at("choose").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", () => {
  const [file] = at("file").files;
  at("file").value = ""; // so that the same one can be chosen again
  if (file) tried(take(file, file.name));
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  at("stage").classList.add("dragged");
});
addEventListener("dragleave", (event) => event.relatedTarget ?? at("stage").classList.remove("dragged"));
addEventListener("drop", (event) => {
  event.preventDefault();
  at("stage").classList.remove("dragged");
  const [file] = event.dataTransfer.files;
  if (file) tried(take(file, file.name));
});

update();
open();
