/* One pair, enlarged: content, result and style side by side, its settings, its scores, and the rest of its sweep. */
"use strict";

class Detail {
  constructor(app) {
    this.app = app;
    this.pairs = app.pairs;
    this.dialog = document.getElementById("detail");
    this.dialog.addEventListener("close", () => app.closed());
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close();
    });
    this.row = -1;
  }

  get isOpen() {
    return this.dialog.open;
  }

  show(row) {
    const {pairs, app} = this, facts = pairs.facts;
    this.row = row;
    const content = facts.contents[pairs.content[row]], style = facts.styles[pairs.style[row]];
    const setting = facts.settings[pairs.setting[row]], choice = pairs.choice[row], trouble = pairs.troubles.get(row);
    const decide = (number, text, key) => make("button", {type: "button", "aria-pressed": String(choice === number),
      onclick: () => app.decide(row, number)}, `${text} (${key})`);
    const walk = (dx, sign, words) => make("button", {type: "button", "aria-label": words, title: words,
      onclick: () => app.step(dx, 0)}, sign);
    this.dialog.replaceChildren(
      make("div", {class: "bar"}, make("h2", {id: "detail-title"}, `${pairs.title(row)}, ${setting.words}`),
        walk(-1, "\u2190", "Previous pair"), walk(1, "\u2192", "Next pair"), decide(1, "Keep", "k"),
        decide(2, "Reject", "r"),
        make("button", {type: "button", onclick: () => this.dialog.close()}, "Close (Esc)")),
      trouble ? make("p", {class: "bad"}, `${trouble[0]}: ${trouble[1]}`) : "",
      make("div", {class: "three"}, this.source(content, "Content"), this.result(row), this.source(style, "Style")),
      this.sweep(row),
      make("div", {class: "two"}, this.table("Scores", this.scores(row)), this.table("Settings", this.settings(row)),
        this.table("Content", this.about(content)), this.table("Style", this.about(style))),
    );
    if (!this.dialog.open) this.dialog.showModal();
    this.dialog.scrollTop = 0;
  }

  /* A box as wide as its column, showing a cell of a sheet. */
  cell(sheets, number, words) {
    const box = make("div", {class: "big", role: "img", "aria-label": words});
    if (!sheets || number < 0) {
      box.append("no picture");
      return box;
    }
    const each = sheets.across * sheets.across, sheet = Math.floor(number / each), at = number % each;
    const columns = Math.min(sheets.across, sheets.count - sheet * each);
    const rows = Math.ceil(Math.min(each, sheets.count - sheet * each) / sheets.across);
    const percent = (n, of) => (of > 1 ? (100 * n) / (of - 1) : 0);
    box.style.backgroundImage = `url("${sheets.files[sheet]}")`;
    box.style.backgroundSize = `${100 * columns}% ${100 * rows}%`;
    box.style.backgroundPosition =
      `${percent(at % sheets.across, columns)}% ${percent(Math.floor(at / sheets.across), rows)}%`;
    if (this.pairs.facts.side <= 64) box.classList.add("sharp");
    return box;
  }

  source(source, side) {
    const words = `${side} ${source.name}`;
    return make("figure", {}, this.cell(this.pairs.facts.sources, source.thumbnail, words),
      make("figcaption", {}, `${side}: ${source.name}`));
  }

  result(row) {
    const {pairs} = this, facts = pairs.facts, words = `Result: ${pairs.title(row)}`;
    const small = () => pairs.large[row] >= 0 ? this.cell(facts.large, pairs.large[row], words)
      : this.cell(facts.thumbnails, pairs.thumbnail[row], words);
    const address = pairs.thumbnail[row] >= 0 ? pairs.address(row) : null;
    const caption = make("figcaption", {}, "Result");
    let box = small();
    if (address !== null) {
      const image = make("img", {src: address, alt: words});
      image.addEventListener("load", () => image.classList.toggle("sharp", image.naturalWidth <= 64));
      image.addEventListener("error", () => {
        box.replaceWith(small());
        caption.append(" (its thumbnail: the picture itself is not where it was)");
      });
      box = make("div", {class: "big"}, image);
      caption.append(": ", make("a", {href: address, target: "_blank", rel: "noopener"}, "open the file"));
    } else if (pairs.large[row] < 0 && pairs.thumbnail[row] >= 0) {
      caption.append(" (its thumbnail)");
    }
    return make("figure", {}, box, caption);
  }

  /* The same content and style at every setting. */
  sweep(row) {
    const {pairs, app} = this, same = app.sweepOf(row);
    if (same.length < 2) return "";
    const score = app.filter.sort;
    return make("section", {"aria-label": "The same pair at every setting"},
      make("h3", {}, `This pair at ${same.length} settings (keys , and .)`),
      make("div", {class: "sweep"}, ...same.map((one) => make("button", {type: "button", "aria-current": String(one === row),
        onclick: () => app.go(one)}, thumbnail(pairs.facts.thumbnails, pairs.thumbnail[one], 118),
      pairs.facts.settings[pairs.setting[one]].words,
      score ? make("div", {}, `${score} ${shown(pairs.values(score)[one])}`) : ""))));
  }

  scores(row) {
    const {facts, scores} = this.pairs;
    if (!facts.scores.length) return [["none yet", "run `diffstyle score` on this run, then `diffstyle report` again"]];
    return facts.scores.map((score) => [score.name, shown(scores[score.name][row]), score.says]);
  }

  settings(row) {
    const {pairs} = this, facts = pairs.facts, made = pairs.created[row];
    return [
      ...Object.entries(facts.settings[pairs.setting[row]].parameters),
      ...facts.own_parameters.map((name) => [name, pairs.own[name][row]]),
      ["seconds", shown(pairs.seconds[row])],
      ["created", made === made ? new Date(1000 * made).toISOString().replace("T", " ").slice(0, 16) + " UTC" : null],
      ["status", pairs.status(row)], ["pair", pairs.pair[row]], ["picture", pairs.where(row)],
    ].filter(([, value]) => value !== null && value !== undefined && value !== "");
  }

  about(source) {
    return ["key", "label", "caption", "source", "meta"].filter((name) => source[name]).map((name) => [name, source[name]]);
  }

  table(title, rows) {
    return make("section", {}, make("h3", {}, title), make("table", {}, make("tbody", {},
      ...rows.map(([name, value, says]) => make("tr", {title: says ?? null}, make("th", {scope: "row"}, name),
        make("td", {}, String(value)))))));
  }
}
