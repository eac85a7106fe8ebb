// One signal, looked at: its spectrogram and its level.

import { Spectrogram } from "./spectrogram.js";

const FLOOR = -60; // dBFS, left end of the meter
const FALL = 24; // dB/s at most, so that the eye can follow
const SAY_EVERY = 250; // ms between figures

export class Scope {
  #root;
  #spectrogram;
  #bar;
  #meter;
  #text;
  #analyser = null;
  #source = null;
  #samples = new Float32Array(2048);
  #shown = FLOOR;
  #time = 0;
  #said = 0;

  /** @param {HTMLElement} root */
  constructor(root) {
    this.#root = root;
    this.#spectrogram = new Spectrogram(root.querySelector("canvas"), root.querySelector(".axis"));
    this.#meter = root.querySelector(".meter");
    this.#bar = this.#meter.querySelector("i");
    this.#text = root.querySelector(".level");
  }

  /**
   * Says so where the browser does not let it look: Firefox, at a device of another rate than the context's.
   * @param {AudioContext} context @param {MediaStream} stream
   */
  watch(context, stream) {
    this.rest();
    try {
      this.#source = context.createMediaStreamSource(stream);
    } catch (error) {
      if (error.name !== "NotSupportedError") throw error;
      this.#root.classList.add("empty", "blind");
      return;
    }
    this.#analyser = new AnalyserNode(context, { fftSize: 2048, smoothingTimeConstant: 0 });
    this.#source.connect(this.#analyser);
    this.#root.classList.remove("empty", "blind");
  }

  rest() {
    this.#source?.disconnect();
    this.#source = this.#analyser = null;
    this.#shown = FLOOR;
    this.#fill();
    this.#meter.setAttribute("aria-valuenow", FLOOR);
    this.#meter.removeAttribute("aria-valuetext");
    this.#text.textContent = "–";
  }

  clear() {
    this.#spectrogram.clear();
  }

  mark() {
    this.#spectrogram.mark();
  }

  #fill() {
    this.#bar.style.clipPath = `inset(0 ${((100 * this.#shown) / FLOOR).toFixed(1)}% 0 0)`;
  }

  /** @param {number} now ms */
  draw(now) {
    if (!this.#analyser) return;
    this.#spectrogram.draw(this.#analyser, now);
    this.#analyser.getFloatTimeDomainData(this.#samples);
    const power = this.#samples.reduce((sum, x) => sum + x * x, 0) / this.#samples.length;
    const level = Math.max(FLOOR, 10 * Math.log10(power + 1e-12));
    this.#shown = Math.max(level, this.#shown - (FALL * Math.min(100, now - this.#time)) / 1000);
    this.#time = now;
    this.#fill();
    if (now - this.#said < SAY_EVERY) return;
    this.#said = now;
    const text = `${this.#shown.toFixed(0).replace("-", "−")} dB`;
    this.#meter.setAttribute("aria-valuenow", this.#shown.toFixed(0));
    this.#meter.setAttribute("aria-valuetext", text);
    this.#text.textContent = text;
  }
}
