// A sound in the browser: decoded, recorded, played. What models hear has 16,000 samples a second, and so has this.

const RATE = 16000;

/** A sound file's samples, or null where this browser cannot decode it. */
export async function decoded(blob) {
  try {
    return await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await blob.arrayBuffer());
  } catch {
    return null;
  }
}

/** A WAV file of the first channel, 16 bits a sample. */
export function wav(buffer) {
  const samples = buffer.getChannelData(0);
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const word = (at, text) => [...text].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  word(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  word(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, buffer.sampleRate, true);
  view.setUint32(28, 2 * buffer.sampleRate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  word(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((value, i) => view.setInt16(44 + 2 * i, 32767 * Math.max(-1, Math.min(1, value)), true));
  return new Blob([view], { type: "audio/wav" });
}

/** The largest file that a server takes for a task, in bytes: in a chat base64 makes four bytes of three. */
export const largest = ({ max_megabytes }, task) => 1e6 * max_megabytes * (task === "transcribe" ? 1 : 0.75) - 2000;

/** The longest recording that a server takes for each task, in seconds. */
export const longest = ({ max_megabytes, max_seconds }) =>
  Math.max(1, Math.min(max_seconds, (0.74 * 1e6 * max_megabytes) / (2 * RATE)));

/** Hears the microphone until it is stopped. */
export class Recorder {
  /** Begins; `heard` gets the level (0 to 1) and the seconds, twenty times a second. */
  static async begin(heard) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error("This browser records only for https or for this machine's own address, http://127.0.0.1.");
    }
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true }).catch((error) => {
      const known = {
        NotAllowedError: "The browser does not let this page hear the microphone. Allow it beside the address.",
        NotFoundError: "There is no microphone. Connect one, or choose a file.",
      };
      throw new Error(known[error.name] ?? "The microphone cannot be heard. Is another program using it?");
    });
    const recorder = new Recorder(stream);
    try {
      recorder.start(heard);
    } catch {
      await recorder.close();
      throw new Error("This browser cannot record what the microphone hears. Choose a file instead.");
    }
    return recorder;
  }

  constructor(stream) {
    this.stream = stream;
  }

  start(heard) {
    this.recorder = new MediaRecorder(this.stream);
    const parts = [];
    this.recorder.ondataavailable = ({ data }) => parts.push(data);
    this.ended = new Promise((resolve) => {
      this.recorder.onstop = () => resolve(new Blob(parts, { type: this.recorder.mimeType }));
    });
    this.recorder.start();
    this.context = new AudioContext();
    const analyser = new AnalyserNode(this.context, { fftSize: 2048 });
    this.context.createMediaStreamSource(this.stream).connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    const began = performance.now();
    this.timer = setInterval(() => {
      analyser.getFloatTimeDomainData(samples);
      heard(Math.max(...samples.map(Math.abs)), (performance.now() - began) / 1000);
    }, 50);
  }

  /** Ends; what was recorded, in the browser's own format. */
  async end() {
    clearInterval(this.timer);
    if (this.recorder.state !== "inactive") this.recorder.stop();
    const blob = await this.ended;
    await this.close();
    return blob;
  }

  /** Lets the microphone go. */
  async close() {
    this.stream.getTracks().forEach((track) => track.stop());
    await this.context?.close();
  }
}

/** Plays a sound or a part of it; `told` hears where it is, in seconds, and whether it plays. */
export class Player {
  constructor(told) {
    this.told = told;
    this.buffer = null;
    this.at = this.from = 0;
    this.playing = null;
  }

  load(buffer) {
    this.stop();
    this.buffer = buffer;
    this.seek(0);
  }

  seek(at) {
    const { playing } = this;
    this.stop();
    this.from = 0;
    this.at = Math.max(0, Math.min(at, this.buffer?.duration ?? 0));
    if (playing) this.play(this.at);
    else this.told(this.at, null);
  }

  /** From a second on, to another or to the end; what is shown as played begins at `since`. */
  play(from, to = this.buffer.duration, since = 0) {
    this.stop();
    this.from = since;
    this.context ??= new AudioContext();
    this.context.resume();
    const start = from < this.buffer.duration - 0.01 ? from : 0;
    const source = new AudioBufferSourceNode(this.context, { buffer: this.buffer });
    source.connect(this.context.destination);
    source.start(0, start, Math.max(0, to - start));
    const part = { source, start, to, began: this.context.currentTime };
    this.playing = part;
    const step = () => {
      if (this.playing !== part) return;
      this.at = Math.min(part.start + this.context.currentTime - part.began, to);
      if (this.at >= to) this.stop();
      else requestAnimationFrame(step);
      this.told(this.at, this.playing);
    };
    step();
  }

  stop() {
    if (!this.playing) return;
    this.playing.source.stop();
    this.playing = null;
    this.told(this.at, null);
  }
}
