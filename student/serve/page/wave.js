// The waveform: drawn in the colours of the page, and a slider to hands and to screen readers.

import { clock } from "./words.js";

const BAR = 3;
const GAP = 2;

export class Wave {
  /** `seek` is told the second that somebody went to. */
  constructor(place, canvas, seek) {
    this.place = place;
    this.canvas = canvas;
    this.samples = null;
    this.levels = null;
    this.part = null;
    this.seconds = this.at = this.from = 0;
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    place.addEventListener("pointerdown", (event) => {
      if (!this.seconds) return;
      place.setPointerCapture(event.pointerId);
      this.go(event, seek);
    });
    place.addEventListener("pointermove", (event) => {
      if (place.hasPointerCapture(event.pointerId)) this.go(event, seek);
    });
    place.addEventListener("keydown", (event) => {
      const step = event.shiftKey ? 5 : 1;
      const to = {
        ArrowLeft: this.at - step,
        ArrowDown: this.at - step,
        ArrowRight: this.at + step,
        ArrowUp: this.at + step,
        PageDown: this.at - 10,
        PageUp: this.at + 10,
        Home: 0,
        End: this.seconds,
      }[event.key];
      if (to === undefined || !this.seconds) return;
      event.preventDefault();
      seek(to);
    });
  }

  go(event, seek) {
    const { left, width } = this.canvas.getBoundingClientRect();
    seek(((event.clientX - left) / width) * this.seconds);
  }

  /** Shows a sound, or with null none. */
  show(buffer) {
    this.samples = buffer?.getChannelData(0) ?? null;
    this.seconds = buffer?.duration ?? 0;
    this.levels = this.part = null;
    this.place.setAttribute("aria-valuemax", this.seconds.toFixed(1));
    this.place.setAttribute("aria-disabled", String(!buffer));
    if (buffer) this.place.tabIndex = 0;
    else this.place.removeAttribute("tabindex");
    this.move(0);
  }

  /** Shows what is being recorded: its levels so far. */
  record(levels) {
    this.levels = levels;
    this.draw();
  }

  /** Shows what was played, from a second to another. */
  move(at, from = 0) {
    this.at = at;
    this.from = from;
    this.place.setAttribute("aria-valuenow", at.toFixed(1));
    this.place.setAttribute("aria-valuetext", `${clock(at)} of ${clock(this.seconds)}`);
    this.draw();
  }

  /** Marks a part, [start, end] in seconds, or with null none. */
  mark(part) {
    this.part = part;
    this.draw();
  }

  draw() {
    const { canvas } = this;
    const { clientWidth: width, clientHeight: height } = canvas;
    const ratio = devicePixelRatio || 1;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const ink = canvas.getContext("2d");
    ink.scale(ratio, ratio);
    const colours = getComputedStyle(canvas);
    const colour = (name) => colours.getPropertyValue(name).trim();
    const x = (at) => (at / this.seconds) * width;
    if (this.part && this.seconds) {
      ink.fillStyle = colour("--marked");
      ink.beginPath();
      ink.roundRect(x(this.part[0]), 0, Math.max(2, x(this.part[1]) - x(this.part[0])), height, 6);
      ink.fill();
    }
    const bars = this.bars(Math.floor(width / (BAR + GAP)));
    const played = this.levels ? [0, width] : this.seconds ? [x(this.from), x(this.at)] : [0, 0];
    bars.forEach((level, i) => {
      const left = i * (BAR + GAP);
      const tall = Math.max(BAR, level * (height - 16));
      const middle = left + BAR / 2;
      ink.fillStyle = colour(middle >= played[0] && middle < played[1] ? "--accent" : "--wave");
      ink.globalAlpha = this.samples || this.levels ? 1 : 0.35;
      ink.beginPath();
      ink.roundRect(left, (height - tall) / 2, BAR, tall, BAR / 2);
      ink.fill();
    });
  }

  /** A level for each bar: the loudest sample of each, the loudest bar being 1. */
  bars(count) {
    if (this.levels) return this.levels.slice(-count);
    if (!this.samples) return new Array(count).fill(0);
    if (this.made?.samples !== this.samples || this.made.bars.length !== count) {
      const step = this.samples.length / count;
      const bars = Array.from({ length: count }, (_, i) => {
        const part = this.samples.subarray(Math.floor(i * step), Math.ceil((i + 1) * step));
        return part.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      });
      const most = Math.max(...bars, 0.01);
      this.made = { samples: this.samples, bars: bars.map((level) => level / most) };
    }
    return this.made.bars;
  }
}
