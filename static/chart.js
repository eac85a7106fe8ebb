// Lines over time in a figure, with their newest values above.

const SVG = "http://www.w3.org/2000/svg";
const KEPT = 150; // points: five minutes of one every two seconds
const [WIDTH, HEIGHT] = [300, 84];

export class Chart {
  #lines;
  #format;
  #least;
  #points = []; // each an array with the value of each line; null where there is none
  #paths;
  #values;
  #most = document.createElement("span");
  #svg = document.createElementNS(SVG, "svg");

  /**
   * @param {HTMLElement} figure
   * @param {string[]} lines their names
   * @param {(value: number) => string} format
   * @param {number} least that the scale reaches up to
   */
  constructor(figure, lines, format, least) {
    [this.#lines, this.#format, this.#least] = [lines, format, least];
    const list = document.createElement("ul");
    this.#values = lines.map((name) => {
      const [item, value] = [document.createElement("li"), document.createElement("b")];
      value.textContent = "–";
      item.append(name, value);
      list.append(item);
      return value;
    });
    this.#svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.#svg.setAttribute("preserveAspectRatio", "none");
    this.#svg.setAttribute("role", "img");
    this.#paths = lines.map(() => this.#svg.appendChild(document.createElementNS(SVG, "path")));
    this.#most.className = "most";
    figure.append(list, this.#svg, this.#most);
  }

  /** @param {(number|null)[]} values the newest of each line */
  add(values) {
    this.#points.push(values);
    if (this.#points.length > KEPT) this.#points.shift();
    const shown = values.map((value) => (value === null ? "–" : this.#format(value)));
    this.#values.forEach((element, n) => (element.textContent = shown[n]));
    this.#svg.setAttribute("aria-label", this.#lines.map((name, n) => `${name} ${shown[n]}`).join(", "));
    const top = Math.max(this.#least, ...this.#points.flat());
    this.#most.textContent = this.#format(top);
    this.#paths.forEach((path, n) => path.setAttribute("d", this.#path(n, top)));
  }

  #path(line, top) {
    let [path, pen] = ["", "M"];
    this.#points.forEach((values, n) => {
      const value = values[line];
      if (value !== null) {
        const x = WIDTH - ((this.#points.length - 1 - n) * WIDTH) / (KEPT - 1);
        path += `${pen}${x.toFixed(1)} ${(HEIGHT - 1 - (value / top) * (HEIGHT - 4)).toFixed(1)}`;
      }
      pen = value === null ? "M" : "L";
    });
    return path;
  }
}
