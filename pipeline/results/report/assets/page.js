/* The page: views, the filter that they share, keys, and reading the data. */
"use strict";

const noFilter = () => ({text: "", status: "", choice: -1, style: -1, contents: "", styles: "", settings: null,
  ranges: {}, sort: "", down: false});

class App {
  constructor(facts) {
    this.pairs = new Pairs(facts);
    this.choices = new Choices(this.pairs);
    this.filter = noFilter();
    this.setting = 0;
    this.views = {};
    this.main = document.getElementById("view");
  }

  start() {
    const {pairs} = this, facts = pairs.facts;
    this.choices.load();
    this.all = Int32Array.from({length: pairs.n}, (_, i) => i);
    this.rows = this.all;
    this.list = new List(this);
    this.matrix = new Matrix(this);
    this.detail = new Detail(this);
    const tabs = {matrix: "Matrix", list: "List", plots: "Plots", troubles: "Failures", facts: "Facts"};
    this.tabs = new Map(Object.entries(tabs).map(([name, text]) =>
      [name, make("button", {type: "button", id: `tab-${name}`, onclick: () => this.show(name)}, text)]));
    this.several = facts.settings.length > 1;
    this.menu = make("select", {id: "setting", "aria-label": "Setting of the matrix", onchange: (event) => {
      this.setting = Number(event.target.value);
      this.show("matrix");
    }}, ...options(facts.settings.map((one, n) => [n, one.words]), 0));
    document.getElementById("tabs").append(...this.tabs.values(), this.menu);
    this.filters = new Filters(this);
    document.addEventListener("keydown", (event) => this.key(event));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.filters.draw(this.rows));
    // A matrix of which nearly all is empty, as of pairs by row, says less than a list.
    const full = pairs.n / facts.settings.length / (facts.contents.length * facts.styles.length);
    this.show(full < 0.02 ? "list" : "matrix");
    this.update();
  }

  /* ---- what is shown ---- */
  update() {
    this.rows = this.pairs.select(this.filter);
    this.swept = null;
    document.getElementById("count").textContent = this.rows.length === this.pairs.n
      ? `${shown(this.pairs.n)} pairs` : `${shown(this.rows.length)} of ${shown(this.pairs.n)} pairs`;
    this.filters.draw(this.rows);
    this.show(this.view);
  }

  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.update(), 60);
  }

  show(view) {
    this.view = view;
    for (const [name, tab] of this.tabs) tab.setAttribute("aria-pressed", String(name === view));
    this.menu.hidden = !this.several || view !== "matrix"; // the other views show every setting that the filter lets pass
    const tiles = this.tiles;
    if (tiles) {
      if (tiles.scroll.parentNode !== this.main) this.main.replaceChildren(tiles.scroll);
      tiles.show(this.rows);
    } else {
      this.main.replaceChildren({plots: plotsPage, troubles: troublesPage, facts: factsPage}[view](this));
    }
    this.say(this.choices.problem);
  }

  get tiles() {
    return {matrix: this.matrix, list: this.list}[this.view];
  }

  sort(name, down) {
    const again = this.filter.sort === name && this.filter.down === down;
    Object.assign(this.filter, again ? {sort: "", down: false} : {sort: name, down});
    this.view = "list";
    this.list.scroll.scrollTop = 0;
    this.list.at = -1;
    this.filters.away();
    this.update();
  }

  reset() {
    this.filter = noFilter();
    this.filters.build();
    this.update();
  }

  say(text) {
    const note = document.getElementById("note");
    note.textContent = text;
    note.hidden = !text;
  }

  /* ---- one pair ---- */
  open(row) {
    this.go(row);
  }

  /* Make a row the current one, and show it where the dialog is open or is to be opened. */
  go(row) {
    const tiles = this.tiles;
    if (this.view === "matrix" && this.pairs.setting[row] !== this.setting) {
      this.setting = this.pairs.setting[row];
      this.menu.value = this.setting;
      this.matrix.show(this.rows);
    }
    if (tiles) tiles.focus(row, false);
    this.detail.show(row);
  }

  closed() {
    if (this.tiles && this.tiles.at >= 0) this.tiles.focus(this.tiles.at, true);
  }

  step(dx, dy) {
    const tiles = this.tiles;
    if (!tiles) return;
    const from = this.detail.isOpen ? this.detail.row : tiles.at;
    if (from < 0) return;
    const next = tiles.move(from, dx, dy);
    if (this.detail.isOpen) this.go(next);
    else tiles.focus(next);
  }

  /* The rows of the same content and style, by setting. */
  sweepOf(row) {
    const {pairs} = this, many = pairs.facts.styles.length;
    if (!this.swept) {
      this.swept = new Map();
      for (let i = 0; i < pairs.n; i++) {
        const key = pairs.content[i] * many + pairs.style[i];
        if (this.swept.has(key)) this.swept.get(key).push(i);
        else this.swept.set(key, [i]);
      }
    }
    return this.swept.get(pairs.content[row] * many + pairs.style[row]);
  }

  /* ---- choices ---- */
  decide(row, number) {
    const {pairs, tiles} = this;
    pairs.choice[row] = pairs.choice[row] === number ? 0 : number;
    this.choices.save();
    this.say(this.choices.problem);
    this.filters.count();
    const old = tiles?.element(row);
    if (old) {
      const fresh = tiles.tile(row), focused = document.activeElement === old;
      fresh.style.left = old.style.left;
      fresh.style.top = old.style.top;
      old.replaceWith(fresh);
      tiles.layer.there.set(row, fresh);
      if (focused) fresh.focus();
    }
    if (this.detail.isOpen) this.detail.show(row);
  }

  decideAll(number) {
    const words = ["clear the choice of", "keep", "reject"][number];
    if (!confirm(`Really ${words} all ${shown(this.rows.length)} pairs that the filter shows?`)) return;
    for (const row of this.rows) this.pairs.choice[row] = number;
    this.choices.save();
    this.update();
  }

  export() {
    const address = URL.createObjectURL(new Blob([this.choices.csv()], {type: "text/csv"}));
    make("a", {href: address, download: `${this.pairs.facts.title}-choices.csv`}).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }

  /* ---- keys ---- */
  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, select, textarea, summary")) return;
    const row = this.detail.isOpen ? this.detail.row : this.tiles?.at ?? -1;
    const ways = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
    if (ways[event.key] && this.tiles) this.step(...ways[event.key]);
    else if (row >= 0 && (event.key === "k" || event.key === "r")) this.decide(row, event.key === "k" ? 1 : 2);
    else if (row >= 0 && (event.key === "," || event.key === ".") && this.detail.isOpen) {
      const sweep = this.sweepOf(row), next = sweep.indexOf(row) + (event.key === "," ? -1 : 1);
      if (sweep[next] !== undefined) this.go(sweep[next]);
    } else return;
    event.preventDefault();
  }
}

/* A page from disk may not fetch: data comes as scripts. */
function script(address) {
  return new Promise((resolve, reject) => document.head.append(make("script",
    {src: address, onload: resolve, onerror: () => reject(new Error(`${address} is missing; write the report again`))})));
}

async function begin() {
  const note = document.getElementById("note");
  try {
    if (!diffstyle.facts) throw new Error("data/facts.js is missing; write the report again");
    const app = (diffstyle.app = new App(diffstyle.facts));
    await Promise.all(diffstyle.facts.chunks.map(script));
    for (const [start, chunk] of Object.entries(diffstyle.pairs)) app.pairs.add(Number(start), chunk);
    diffstyle.pairs = {};
    app.start();
    document.body.dataset.ready = "yes";
  } catch (error) {
    note.textContent = `This report can't be shown: ${error.message}`;
    note.hidden = false;
    throw error;
  }
}
begin();
