// A spectrogram that grows at its right edge: mel scale from 0 to 24 kHz, colour by level.

const QUIET = -100; // dBFS of a bin
const LOUD = -30;
const SECONDS = 8; // across the picture
const TOP = 24_000; // Hz
const LABELS = [500, 1000, 2000, 4000, 8000, 16_000]; // Hz
const STOPS = [
  [0, 9, 11, 20], [0.2, 35, 22, 74], [0.4, 92, 30, 112], [0.58, 166, 47, 98],
  [0.74, 225, 93, 62], [0.88, 248, 166, 67], [1, 252, 244, 196],
];

const mel = (hz) => 2595 * Math.log10(1 + hz / 700);
const hertz = (m) => 700 * (10 ** (m / 2595) - 1);

/** 256 colours from quiet to loud, RGBA. */
export function palette() {
  const colours = new Uint8ClampedArray(256 * 4);
  for (let i = 0; i < 256; i++) {
    const at = i / 255;
    const next = Math.max(1, STOPS.findIndex((stop) => stop[0] >= at));
    const [low, high] = [STOPS[next - 1], STOPS[next]];
    const part = (at - low[0]) / (high[0] - low[0]);
    for (let c = 0; c < 3; c++) colours[4 * i + c] = low[c + 1] + part * (high[c + 1] - low[c + 1]);
    colours[4 * i + 3] = 255;
  }
  return colours;
}

export class Spectrogram {
  #canvas;
  #context;
  #colours = palette();
  #time = null; // ms, of the last column
  #x = 0;
  #mark = false;
  #bins = new Float32Array(0);
  #still = matchMedia("(prefers-reduced-motion: reduce)");

  /** @param {HTMLCanvasElement} canvas @param {HTMLElement} axis */
  constructor(canvas, axis) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d", { alpha: false });
    for (const hz of LABELS) {
      const label = document.createElement("span");
      label.textContent = hz < 1000 ? `${hz} Hz` : `${hz / 1000} kHz`;
      label.style.bottom = `${(100 * mel(hz)) / mel(TOP)}%`;
      axis.append(label);
    }
    new ResizeObserver(() => this.#fit()).observe(canvas);
    this.#fit();
  }

  clear() {
    this.#time = null;
    this.#x = 0;
    this.#mark = false;
    this.#context.fillStyle = `rgb(${STOPS[0].slice(1)})`;
    this.#context.fillRect(0, 0, this.#canvas.width, this.#canvas.height);
  }

  /** Draw a dashed line at the next column. */
  mark() {
    this.#mark = true;
  }

  /** @param {AnalyserNode} analyser @param {number} now ms */
  draw(analyser, now) {
    const { width, height } = this.#canvas;
    const perSecond = width / SECONDS;
    const columns = this.#time === null ? 1 : Math.floor(((now - this.#time) / 1000) * perSecond);
    if (columns < 1) return;
    this.#time = this.#time === null ? now : this.#time + (columns * 1000) / perSecond;
    this.#column(analyser, Math.min(columns, width), height);
  }

  #column(analyser, columns, height) {
    if (this.#bins.length !== analyser.frequencyBinCount) this.#bins = new Float32Array(analyser.frequencyBinCount);
    analyser.getFloatFrequencyData(this.#bins);
    this.#bins.forEach((level, k, bins) => (bins[k] = Math.max(QUIET, level))); // silence is -Infinity
    const image = this.#context.createImageData(columns, height);
    const pixels = new Uint32Array(image.data.buffer);
    const colours = new Uint32Array(this.#colours.buffer);
    const perBin = analyser.context.sampleRate / analyser.fftSize; // Hz
    for (let row = 0; row < height; row++) {
      const low = hertz((mel(TOP) * (height - row - 1)) / height) / perBin;
      const high = hertz((mel(TOP) * (height - row)) / height) / perBin;
      const level = Math.min(1, (this.#level(low, high) - QUIET) / (LOUD - QUIET));
      pixels.fill(colours[Math.round(255 * level)], row * columns, (row + 1) * columns);
    }
    const x = this.#place(columns);
    this.#context.putImageData(image, x, 0);
    if (this.#mark) this.#dashes(x, height);
  }

  /** The loudest bin of a row, or between two bins where rows are finer than bins. */
  #level(low, high) {
    const bins = this.#bins;
    if (low > bins.length - 1) return QUIET;
    if (high - low < 1) {
      const k = Math.floor(low);
      return bins[k] + (low - k) * ((bins[k + 1] ?? bins[k]) - bins[k]);
    }
    let loudest = QUIET;
    for (let k = Math.ceil(low); k < high && k < bins.length; k++) loudest = Math.max(loudest, bins[k]);
    return loudest;
  }

  /** Make room for new columns: shift the picture or, where motion is unwelcome, write on from the left again. */
  #place(columns) {
    const { width } = this.#canvas;
    if (!this.#still.matches) {
      this.#context.drawImage(this.#canvas, -columns, 0);
      return width - columns;
    }
    const x = this.#x;
    this.#x = x + columns >= width ? 0 : x + columns;
    return x;
  }

  #dashes(x, height) {
    this.#mark = false;
    this.#context.fillStyle = "#fff";
    for (let y = 0; y < height; y += 12) this.#context.fillRect(x, y, 2, 6);
  }

  #fit() {
    const ratio = Math.min(2, devicePixelRatio);
    const [width, height] = [this.#canvas.clientWidth, this.#canvas.clientHeight].map((n) => Math.round(n * ratio));
    if (width && height && (width !== this.#canvas.width || height !== this.#canvas.height)) {
      Object.assign(this.#canvas, { width, height });
      this.clear();
    }
  }
}
