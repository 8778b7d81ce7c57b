/* The pairs of a run as columns, and what is computed from them: filters, order, choices. No element of the page is
   touched here. */
"use strict";

class Pairs {
  constructor(facts) {
    this.facts = facts;
    const n = facts.pairs;
    this.n = n;
    this.read = 0;
    this.pair = new Array(n);
    this.name = new Array(n);
    for (const name of ["content", "style", "setting", "thumbnail", "folder", "large"]) {
      this[name] = new Int32Array(n).fill(name === "large" ? -1 : 0);
    }
    this.seconds = new Float32Array(n).fill(NaN);
    this.created = new Float64Array(n).fill(NaN);
    this.scores = {};
    for (const score of facts.scores) this.scores[score.name] = new Float32Array(n).fill(NaN);
    this.own = {};
    for (const name of facts.own_parameters) this.own[name] = new Array(n);
    this.troubles = new Map();
    this.choice = new Uint8Array(n); // 0 none, 1 keep, 2 reject
    this.searched = {};
  }

  /* Take in a chunk that a script has left in diffstyle.pairs. */
  add(start, chunk) {
    const many = chunk.pair.length;
    for (const name of ["content", "style", "setting", "thumbnail", "folder", "large"]) {
      if (chunk[name]) this[name].set(chunk[name], start);
    }
    for (let i = 0; i < many; i++) {
      this.pair[start + i] = chunk.pair[i];
      this.name[start + i] = chunk.name[i];
      this.seconds[start + i] = chunk.seconds[i] ?? NaN;
      this.created[start + i] = chunk.created[i] ?? NaN;
    }
    for (const [name, values] of Object.entries(chunk.scores)) {
      const column = this.scores[name];
      for (let i = 0; i < many; i++) column[start + i] = values[i] ?? NaN;
    }
    for (const [name, values] of Object.entries(chunk.own)) {
      for (let i = 0; i < many; i++) this.own[name][start + i] = values[i];
    }
    for (const [i, trouble] of Object.entries(chunk.troubles)) this.troubles.set(start + Number(i), trouble);
    this.read += many;
  }

  status(row) {
    return this.troubles.get(row)?.[0] ?? "ok";
  }

  title(row) {
    return `${this.facts.contents[this.content[row]].name} in ${this.facts.styles[this.style[row]].name}`;
  }

  /* The address of a picture's own file; null where it has none that a browser can show. */
  address(row) {
    const folder = this.facts.folders[this.folder[row]];
    if (this.facts.pictures === null || !folder || folder.endsWith("#")) return null;
    let name = this.name[row];
    if (name === 0) return null;
    if (typeof name === "number") name = this.usual(row, name);
    return this.facts.pictures + (folder + name).split("/").map(encodeURIComponent).join("/");
  }

  usual(row, number) {
    const key = (list, column) => this.facts[list][this[column][row]].key;
    return `${key("contents", "content")}__${key("styles", "style")}.${this.facts.extensions[number - 1]}`;
  }

  /* Where the picture lies, as text. */
  where(row) {
    const name = this.name[row];
    if (name === 0) return "";
    return this.facts.folders[this.folder[row]] + (typeof name === "number" ? this.usual(row, name) : name);
  }

  values(key) {
    return key === "seconds" ? this.seconds : this.scores[key];
  }

  /* Lowest and highest of a score, and how many are in each of some bins. */
  histogram(key, rows, bins) {
    const column = this.values(key);
    let low = Infinity, high = -Infinity;
    for (let i = 0; i < this.n; i++) {
      const value = column[i];
      if (value < low) low = value;
      if (value > high) high = value;
    }
    if (!(low <= high)) return null;
    const counts = new Array(bins).fill(0), scale = high > low ? bins / (high - low) : 0;
    for (const row of rows) {
      const value = column[row];
      if (value === value) counts[Math.min(bins - 1, Math.floor((value - low) * scale))]++;
    }
    return {low, high, counts};
  }

  /* The rows that pass a filter, sorted. A range that was not moved lets pairs without that score pass. */
  select(filter) {
    const rows = [];
    const texts = filter.text ? [this.matching("contents", filter.text), this.matching("styles", filter.text)] : null;
    const labels = {};
    for (const side of ["contents", "styles"]) {
      const label = filter[side];
      if (label !== "") labels[side] = this.facts[side].map((one) => (one.label ?? "") === label);
    }
    const ranges = Object.entries(filter.ranges).map(([name, [low, high]]) => [this.values(name), low, high]);
    for (let i = 0; i < this.n; i++) {
      if (filter.settings && !filter.settings.has(this.setting[i])) continue;
      if (filter.style >= 0 && this.style[i] !== filter.style) continue;
      if (filter.status && this.status(i) !== filter.status) continue;
      if (filter.choice >= 0 && this.choice[i] !== filter.choice) continue;
      if (labels.contents && !labels.contents[this.content[i]]) continue;
      if (labels.styles && !labels.styles[this.style[i]]) continue;
      if (texts && !texts[0][this.content[i]] && !texts[1][this.style[i]]) continue;
      if (ranges.every(([column, low, high]) => column[i] >= low && column[i] <= high)) rows.push(i);
    }
    const selected = Int32Array.from(rows);
    if (filter.sort) {
      const column = this.values(filter.sort), sign = filter.down ? -1 : 1;
      // What has no such score comes last, whichever way.
      selected.sort((a, b) => {
        const x = column[a], y = column[b];
        if (x !== x || y !== y) return (x !== x) - (y !== y) || a - b;
        return sign * (x - y) || a - b;
      });
    }
    return selected;
  }

  matching(side, text) {
    const wanted = text.toLowerCase();
    this.searched[side] ??= this.facts[side].map((one) =>
      [one.name, one.key, one.label, one.caption, one.source].filter(Boolean).join("\n").toLowerCase());
    return this.searched[side].map((one) => one.includes(wanted));
  }
}

/* Choices by pair, kept by the browser. */
class Choices {
  constructor(pairs) {
    this.pairs = pairs;
    this.place = `diffstyle-report-${pairs.facts.id}`;
    this.problem = "";
  }

  load() {
    let kept = null;
    try {
      kept = JSON.parse(localStorage.getItem(this.place) ?? "{}");
    } catch (error) {
      this.problem = "This browser keeps no choices for this page: export them before you close it.";
      return;
    }
    const choice = new Map();
    for (const pair of kept.keep ?? []) choice.set(pair, 1);
    for (const pair of kept.reject ?? []) choice.set(pair, 2);
    if (choice.size) this.pairs.pair.forEach((pair, row) => (this.pairs.choice[row] = choice.get(pair) ?? 0));
  }

  save() {
    const kept = {keep: this.chosen(1), reject: this.chosen(2)};
    try {
      localStorage.setItem(this.place, JSON.stringify(kept));
      this.problem = "";
    } catch (error) {
      this.problem = "The browser can't keep so many choices: export them before you close the page.";
    }
  }

  chosen(number) {
    const found = [];
    for (let row = 0; row < this.pairs.n; row++) if (this.pairs.choice[row] === number) found.push(this.pairs.pair[row]);
    return found;
  }

  csv() {
    const lines = ["pair,decision"];
    for (let row = 0; row < this.pairs.n; row++) {
      if (this.pairs.choice[row]) lines.push(`${this.pairs.pair[row]},${["", "keep", "reject"][this.pairs.choice[row]]}`);
    }
    return lines.join("\n") + "\n";
  }
}

/* A number as a person reads it. */
function shown(value) {
  if (value === null || value === undefined || value !== value) return "-";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  if (Math.abs(value) < 0.01) return String(Number(value.toFixed(4)));
  return Math.abs(value) >= 100 ? value.toFixed(1) : String(Number(value.toPrecision(3)));
}

/* An element with attributes and children; text is always text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}
