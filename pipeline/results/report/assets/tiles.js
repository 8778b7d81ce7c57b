/* The matrix and the list: only the tiles that can be seen are elements. */
"use strict";

/* A picture of a sheet, shown at a size; an empty box where there is none. */
function thumbnail(sheets, number, size) {
  const box = make("span", {class: "thumb"});
  box.style.width = box.style.height = `${size}px`;
  if (sheets && number >= 0) {
    const each = sheets.across * sheets.across, sheet = Math.floor(number / each), at = number % each;
    const columns = Math.min(sheets.across, sheets.count - sheet * each);
    box.style.backgroundImage = `url("${sheets.files[sheet]}")`;
    box.style.backgroundSize = `${columns * size}px auto`;
    box.style.backgroundPosition = `${-(at % sheets.across) * size}px ${-Math.floor(at / sheets.across) * size}px`;
    if (diffstyle.facts.side <= 64) box.classList.add("sharp");
  }
  return box;
}

class Tiles {
  constructor(app) {
    this.app = app;
    this.pairs = app.pairs;
    this.scroll = make("div", {class: "scroll"});
    this.scroll.addEventListener("scroll", () => this.later(), {passive: true});
    new ResizeObserver(() => this.later()).observe(this.scroll);
    this.at = -1;
  }

  get size() {
    return matchMedia("(max-width: 760px)").matches ? 72 : 96;
  }

  later() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      if (this.scroll.isConnected) this.draw();
    });
  }

  /* Let a layer hold an element for each wanted key, at its place; others go. */
  fill(layer, wanted, build) {
    const there = (layer.there ??= new Map());
    for (const [key, element] of there) {
      if (!wanted.has(key)) {
        element.remove();
        there.delete(key);
      }
    }
    const fresh = document.createDocumentFragment();
    for (const [key, [x, y]] of wanted) {
      if (there.has(key)) continue;
      const element = build(key);
      element.style.left = `${x}px`;
      element.style.top = `${y}px`;
      there.set(key, element);
      fresh.append(element);
    }
    layer.append(fresh);
  }

  clear(...layers) {
    for (const layer of layers) {
      layer.replaceChildren();
      layer.there = new Map();
    }
  }

  tile(row, extra = "") {
    const {pairs, app} = this, size = this.size, trouble = pairs.troubles.get(row);
    const choice = ["", "keep", "reject"][pairs.choice[row]];
    const value = app.filter.sort ? shown(pairs.values(app.filter.sort)[row]) : "";
    const label = [pairs.title(row), pairs.facts.settings[pairs.setting[row]].words, value && `${app.filter.sort} ${value}`,
      trouble && `${trouble[0]}: ${trouble[1]}`, choice].filter(Boolean).join(", ");
    const tile = make("button", {type: "button", class: `tile ${choice} ${extra}`, "aria-label": label, title: label,
      tabindex: row === this.at ? 0 : -1, "data-row": row, onclick: () => app.open(row)},
    thumbnail(pairs.facts.thumbnails, pairs.thumbnail[row], size));
    tile.style.width = tile.style.height = `${size}px`;
    if (trouble && trouble[0] !== "unscored") tile.append(make("span", {class: "why"}, trouble[0]));
    if (value) tile.append(make("span", {class: "value"}, value));
    if (choice) tile.append(make("span", {class: `mark ${choice}`}, choice === "keep" ? "\u2713" : "\u2715"));
    tile.classList.toggle("at", row === this.at);
    return tile;
  }

  element(row) {
    return this.scroll.querySelector(`[data-row="${row}"]`);
  }

  /* Make a row the current one, bring it into sight and, unless a dialog is open, give it the keyboard. */
  focus(row, keyboard = true) {
    const before = this.element(this.at);
    if (before) {
      before.classList.remove("at");
      before.tabIndex = -1;
    }
    this.at = row;
    this.into(row);
    this.draw();
    const now = this.element(row);
    if (now) {
      now.classList.add("at");
      now.tabIndex = 0;
      if (keyboard) now.focus({preventScroll: true});
    }
  }

  bring(x, y, left, top, height = this.size) {
    const {scroll, size} = this;
    if (x < scroll.scrollLeft) scroll.scrollLeft = x;
    if (x + size + left > scroll.scrollLeft + scroll.clientWidth) scroll.scrollLeft = x + size + left - scroll.clientWidth;
    if (y < scroll.scrollTop) scroll.scrollTop = y;
    if (y + height + top > scroll.scrollTop + scroll.clientHeight) scroll.scrollTop = y + height + top - scroll.clientHeight;
  }
}

/* All pairs of the filter in their order. Where there are several settings, each tile says its own below the picture. */
class List extends Tiles {
  constructor(app) {
    super(app);
    this.layer = make("div", {class: "body", role: "group", "aria-label": "Pairs, in the chosen order"});
    this.scroll.append(this.layer);
  }

  show(rows) {
    this.rows = rows;
    this.place = null;
    if (!rows.includes(this.at)) this.at = rows.length ? rows[0] : -1;
    this.clear(this.layer);
    this.draw();
  }

  get words() {
    return this.app.several ? 28 : 0; // pixels: two lines
  }

  get down() {
    return this.size + this.words + 6;
  }

  tile(row) {
    const tile = super.tile(row), {pairs} = this;
    if (this.words) {
      tile.classList.add("named");
      tile.style.height = `${this.size + this.words}px`;
      tile.append(make("span", {class: "setting"}, pairs.facts.settings[pairs.setting[row]].words));
    }
    return tile;
  }

  get across() {
    return Math.max(1, Math.floor((this.scroll.clientWidth - 8) / (this.size + 6)));
  }

  draw() {
    const step = this.size + 6, {across, down, scroll, rows} = this;
    if (across !== this.drawnAcross) this.clear(this.layer);
    this.drawnAcross = across;
    this.layer.style.height = `${Math.ceil(rows.length / across) * down + 8}px`;
    const first = Math.max(0, Math.floor(scroll.scrollTop / down) - 2);
    const last = Math.ceil((scroll.scrollTop + scroll.clientHeight) / down) + 2;
    const wanted = new Map();
    for (let i = first * across; i < Math.min(rows.length, last * across); i++) {
      wanted.set(rows[i], [8 + (i % across) * step, 8 + Math.floor(i / across) * down]);
    }
    this.fill(this.layer, wanted, (row) => this.tile(row));
  }

  index(row) {
    if (!this.place) this.place = new Map(Array.from(this.rows, (one, i) => [one, i]));
    return this.place.get(row) ?? -1;
  }

  into(row) {
    const i = this.index(row);
    if (i >= 0) this.bring(0, Math.floor(i / this.across) * this.down, 8, 16, this.size + this.words);
  }

  move(row, dx, dy) {
    const i = this.index(row), next = i + dx + dy * this.across;
    return next >= 0 && next < this.rows.length ? this.rows[next] : row;
  }
}

/* Contents down, styles across, at one setting. */
class Matrix extends Tiles {
  constructor(app) {
    super(app);
    this.tops = make("div", {class: "tops", "aria-hidden": "true"});
    this.lefts = make("div", {class: "lefts", "aria-hidden": "true"});
    this.layer = make("div", {class: "body", role: "group", "aria-label": "Contents down, styles across"});
    this.corner = make("div", {class: "corner"});
    this.grid = make("div", {class: "matrix"}, this.corner, this.tops, this.lefts, this.layer);
    this.scroll.append(this.grid);
  }

  show(rows) {
    const {pairs, app} = this, many = pairs.facts.styles.length;
    const contents = new Set(), styles = new Set();
    this.cells = new Map();
    for (const row of rows) {
      if (pairs.setting[row] !== app.setting) continue;
      contents.add(pairs.content[row]);
      styles.add(pairs.style[row]);
      const key = pairs.content[row] * many + pairs.style[row];
      if (!this.cells.has(key)) this.cells.set(key, row);
    }
    const byNumber = (a, b) => a - b;
    this.contents = [...contents].sort(byNumber);
    this.styles = [...styles].sort(byNumber);
    if (this.at < 0 || pairs.setting[this.at] !== app.setting || this.row(...this.cell(this.at)) !== this.at) {
      this.at = this.cells.size ? this.cells.values().next().value : -1;
    }
    this.corner.replaceChildren(`${this.contents.length} contents down, ${this.styles.length} styles across`);
    this.clear(this.tops, this.lefts, this.layer);
    this.draw();
  }

  cell(row) {
    return [this.styles.indexOf(this.pairs.style[row]), this.contents.indexOf(this.pairs.content[row])];
  }

  row(x, y) {
    return this.cells.get(this.contents[y] * this.pairs.facts.styles.length + this.styles[x]);
  }

  draw() {
    const {scroll, pairs, size} = this, step = size + 4, head = size + 38, facts = pairs.facts;
    if (size !== this.drawnSize) this.clear(this.tops, this.lefts, this.layer);
    this.drawnSize = size;
    const width = this.styles.length * step, height = this.contents.length * step;
    this.grid.style.gridTemplate = `${head}px ${height + 8}px / ${size + 12}px ${width + 8}px`;
    const [x0, x1] = [scroll.scrollLeft, scroll.scrollLeft + scroll.clientWidth].map((x) => Math.floor(x / step));
    const [y0, y1] = [scroll.scrollTop, scroll.scrollTop + scroll.clientHeight].map((y) => Math.floor(y / step));
    const xs = [Math.max(0, x0 - 2), Math.min(this.styles.length - 1, x1 + 1)];
    const ys = [Math.max(0, y0 - 2), Math.min(this.contents.length - 1, y1 + 1)];
    const tops = new Map(), lefts = new Map(), tiles = new Map();
    for (let x = xs[0]; x <= xs[1]; x++) tops.set(this.styles[x], [4 + x * step, 2]);
    for (let y = ys[0]; y <= ys[1]; y++) lefts.set(this.contents[y], [4, 4 + y * step]);
    for (let y = ys[0]; y <= ys[1]; y++) {
      for (let x = xs[0]; x <= xs[1]; x++) {
        const row = this.row(x, y);
        if (row !== undefined) tiles.set(row, [4 + x * step, 4 + y * step]);
      }
    }
    const named = (source, picture) => {
      const head = make("div", {class: "head", title: source.name}, make("span", {class: "words"}, source.name),
        thumbnail(facts.sources, source.thumbnail, picture));
      head.style.width = `${size}px`;
      return head;
    };
    this.fill(this.tops, tops, (n) => named(facts.styles[n], size - 4));
    this.fill(this.lefts, lefts, (n) => named(facts.contents[n], size - 32));
    this.fill(this.layer, tiles, (row) => this.tile(row));
  }

  into(row) {
    const [x, y] = this.cell(row), step = this.size + 4;
    if (x >= 0 && y >= 0) this.bring(x * step, y * step, this.size + 20, this.size + 46);
  }

  move(row, dx, dy) {
    let [x, y] = this.cell(row);
    if (x < 0 || y < 0) return row;
    while (true) {
      x += dx;
      y += dy;
      if (x < 0 || y < 0 || x >= this.styles.length || y >= this.contents.length) return row;
      const next = this.row(x, y);
      if (next !== undefined) return next;
    }
  }
}
