// One model: what it writes, the segments of it, and what it takes.

import { written } from "./asking.js";
import { bytes, clock, counted, lasting, times } from "./words.js";

const SHOWN = { ttft: lasting, tpot: lasting, memory: bytes, size: bytes };
const TIMES = new Set(["ttft", "tpot"]);
const FLAGS = { repeats: "went in circles, and was stopped", cut: "longer than the sound allows, and was cut" };
const UNTRAINED = "Not trained on this: take it as a guess.";

export class Model {
  /** `touched` is told a segment that is to be played; `marked` one that is pointed at, or null. */
  constructor(facts, touched, marked) {
    this.facts = facts;
    this.touched = touched;
    this.marked = marked;
    this.figures = { memory: facts.about.memory_bytes, size: facts.about.weight_bytes };
    this.element = document.querySelector("#model").content.firstElementChild.cloneNode(true);
    this.find = (selector) => this.element.querySelector(selector);
    const title = this.find("h2");
    title.textContent = facts.id;
    title.id = `model-${Math.random().toString(36).slice(2)}`;
    this.element.setAttribute("aria-labelledby", title.id);
    this.find(".role").textContent = facts.about.role ?? "";
    this.find(".role").hidden = !facts.about.role;
    const { parameters, dtype, device } = facts.about;
    this.find(".facts").textContent = `${counted(parameters)} parameters · ${dtype} on ${device}`;
    this.clear("Its text will stand here.");
  }

  clear(note = "") {
    this.segments = [];
    this.find(".segments").replaceChildren();
    this.say("pending", "");
    this.say("note", note);
    this.say("state", "");
    this.element.classList.remove("failed");
    this.alone = false;
    Object.assign(this.figures, { ttft: null, tpot: null });
  }

  say(where, text) {
    this.find(`.${where}`).textContent = text;
  }

  /** Asks it, and shows what it writes; `alone`: while no other writes. Returns its text. */
  async ask(asked, signal, alone) {
    const began = performance.now();
    this.clear();
    this.alone = alone;
    this.say("state", "waiting");
    const learnt = this.facts.tasks[asked.task];
    if (!learnt) {
      this.say("state", "");
      this.say("note", "This model has not learnt this.");
      return "";
    }
    this.element.setAttribute("aria-busy", "true");
    try {
      for await (const event of written(this.facts.id, asked, signal)) this.take(event);
      this.say("state", `done in ${lasting((performance.now() - began) / 1000)}`);
      this.conclude(asked.task, learnt.trained);
      return this.segments.map((segment) => segment.text).join(" ");
    } catch (error) {
      this.say("state", error.name === "AbortError" ? "stopped" : "");
      if (error.name === "AbortError") return "";
      this.element.classList.add("failed");
      this.say("note", error.message);
      throw error;
    } finally {
      this.element.setAttribute("aria-busy", "false");
    }
  }

  take({ delta, segment, timing }) {
    if (delta) {
      this.say("state", "writing");
      this.say("pending", (this.find(".pending").textContent + delta).trimStart());
    }
    if (segment) {
      this.say("pending", "");
      this.add(segment);
    }
    if (timing) Object.assign(this.figures, { ttft: timing.ttft_s, tpot: timing.tpot_s });
  }

  conclude(task, trained) {
    if (!this.segments.some((segment) => segment.text)) {
      this.say("note", task === "transcribe" ? "Nobody speaks here." : "It is silent.");
    } else if (!trained) this.say("note", UNTRAINED);
  }

  add(segment) {
    this.segments.push(segment);
    if (!segment.text) return;
    const item = document.createElement("li");
    const play = document.createElement("button");
    const said = document.createElement("span");
    play.type = "button";
    play.textContent = clock(segment.start);
    play.setAttribute("aria-label", `Play ${clock(segment.start)} to ${clock(segment.end)}`);
    said.textContent = segment.text;
    item.append(play, said);
    for (const flag of segment.flags.filter((flag) => FLAGS[flag])) {
      const told = document.createElement("small");
      told.textContent = FLAGS[flag];
      item.append(told);
    }
    item.addEventListener("click", ({ target }) => {
      // Else somebody marks the text to copy it.
      if (target.closest("button") || getSelection().isCollapsed) this.touched(segment);
    });
    for (const event of ["pointerenter", "focusin"]) item.addEventListener(event, () => this.marked(segment));
    for (const event of ["pointerleave", "focusout"]) item.addEventListener(event, () => this.marked(null));
    this.find(".segments").append(item);
    segment.item = item;
  }

  /** Shows which segment is being heard; null: none. */
  at(seconds) {
    for (const { item, start, end } of this.segments) {
      item?.classList.toggle("heard", seconds !== null && seconds >= start && seconds < end);
    }
  }

  /** Shows the figures beside those of another model; times only where each wrote alone, as they share the machine. */
  compare(models, other) {
    for (const [name, shown] of Object.entries(SHOWN)) {
      const place = this.find(`[data-figure="${name}"]`);
      const value = this.figures[name];
      const fair = models.every((model) => model.figures[name] && (model.alone || !TIMES.has(name)));
      const most = fair ? Math.max(...models.map((model) => model.figures[name])) : Infinity;
      place.querySelector("dd").textContent = value === null ? "–" : shown(value);
      place.style.setProperty("--share", (value ?? 0) / most);
      if (!fair || other === this) continue;
      const ratio = document.createElement("small");
      ratio.textContent = times(value / other.figures[name]);
      ratio.title = `of ${other.facts.id}`;
      place.querySelector("dd").append(" ", ratio);
    }
    this.element.classList.toggle("reference", other === this);
  }
}
