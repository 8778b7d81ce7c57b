/* The filters beside the pictures, and the views that are no pictures: plots, failures, facts. */
"use strict";

function options(values, chosen) {
  return values.map(([value, text]) => make("option", {value, selected: String(value) === String(chosen)}, text));
}

class Filters {
  constructor(app) {
    this.app = app;
    this.place = document.getElementById("filters");
    if (matchMedia("(max-width: 760px)").matches) this.place.open = false;
    this.histograms = new Map();
    this.build();
  }

  /* On a phone the filters cover the pictures: what was asked for is below them. */
  away() {
    if (matchMedia("(max-width: 760px)").matches) {
      this.place.open = false;
      scrollTo(0, 0);
    }
  }

  choose(label, name, values, change) {
    const {filter} = this.app;
    const select = make("select", {"data-filter": name, onchange: (event) => {
      change(event.target.value);
      this.app.update();
    }}, ...options(values, filter[name]));
    return make("label", {}, label, select);
  }

  build() {
    const {app} = this, {filter, pairs} = app, facts = pairs.facts;
    const search = make("input", {type: "search", "data-filter": "text", placeholder: "part of a name, label, caption",
      value: filter.text, oninput: (event) => {
        filter.text = event.target.value.trim();
        app.later();
      }});
    const labels = (side) => [...new Set(facts[side].map((one) => one.label ?? ""))].sort();
    const byLabel = (side, text) => labels(side).length < 2 ? null : this.choose(text, side,
      [["", "any"], ...labels(side).filter(Boolean).map((label) => [label, label])], (value) => (filter[side] = value));
    const parts = [
      make("label", {}, "Search", search),
      this.choose("Status", "status", [["", "any"], ["ok", "ok"], ["failed", "failed"], ["damaged", "missing or damaged"],
        ["unscored", "could not be scored"]], (value) => (filter.status = value)),
      this.choose("Choice", "choice", [[-1, "any"], [0, "undecided"], [1, "keep"], [2, "reject"]],
        (value) => (filter.choice = Number(value))),
      this.choose("Style", "style", [[-1, "any"], ...facts.styles.map((style, n) => [n, style.name])],
        (value) => (filter.style = Number(value))),
      byLabel("contents", "Label of the content"), byLabel("styles", "Label of the style"),
    ];
    if (facts.settings.length > 1) parts.push(this.settings());
    parts.push(this.choices());
    const scored = [...facts.scores, {name: "seconds", better: false, says: "time that the pair took"}];
    if (!facts.scores.length) {
      parts.push(make("fieldset", {}, make("legend", {}, "Scores"), make("p", {class: "says"},
        noScores(facts))));
    }
    for (const score of scored) parts.push(this.score(score));
    parts.push(make("div", {class: "row"}, make("button", {type: "button", onclick: () => app.reset()}, "Clear all filters")));
    const summary = this.place.querySelector("summary");
    this.place.replaceChildren(summary, ...parts.filter(Boolean));
  }

  settings() {
    const {app} = this, facts = app.pairs.facts;
    const box = (setting, n) => make("label", {}, make("input", {type: "checkbox", "data-setting": n,
      checked: !app.filter.settings || app.filter.settings.has(n), onchange: (event) => {
        const chosen = app.filter.settings ?? new Set(facts.settings.keys());
        chosen[event.target.checked ? "add" : "delete"](n);
        app.filter.settings = chosen.size === facts.settings.length ? null : chosen;
        app.update();
      }}), " ", setting.words);
    return make("fieldset", {}, make("legend", {}, "Settings"), ...facts.settings.map(box));
  }

  choices() {
    const {app} = this;
    const all = (number, text) => make("button", {type: "button", "aria-label": `All that the filter shows: ${text}`,
      onclick: () => app.decideAll(number)}, text);
    this.counted = make("p", {class: "says"});
    return make("fieldset", {}, make("legend", {}, "Choices"), this.counted,
      make("p", {class: "says"}, "All that the filter shows:"),
      make("div", {class: "row"}, all(1, "keep"), all(2, "reject"), all(0, "clear")),
      make("div", {class: "row"}, make("button", {type: "button", id: "export", onclick: () => app.export()},
        "Export the choices (CSV)")),
      make("p", {class: "says"}, "k keeps, r rejects, the same key again clears."));
  }

  score(score) {
    const {app} = this, whole = app.pairs.histogram(score.name, app.all, 40), name = score.name;
    if (!whole) return null;
    const {low, high} = whole, canvas = make("canvas", {width: 256, height: 44, "aria-hidden": "true"});
    const ends = make("div", {class: "ends"}, make("span"), make("span"));
    const range = app.filter.ranges[name] ?? [low, high];
    const slider = (end, words) => make("input", {type: "range", min: 0, max: 1000, step: 1, "data-range": `${name}-${end}`,
      value: high > low ? Math.round((1000 * (range[end] - low)) / (high - low)) : 1000 * end,
      "aria-label": `${name}, ${words}`, oninput: () => this.moved(name)});
    const sliders = [slider(0, "at least"), slider(1, "at most")];
    this.histograms.set(name, {low, high, canvas, ends, sliders});
    const sort = (down, text) => make("button", {type: "button", "data-sort": `${name}-${text}`,
      "aria-pressed": String(app.filter.sort === name && app.filter.down === down),
      onclick: () => app.sort(name, down)}, `${text} first`);
    const ways = score.better === null ? [[false, "lowest"], [true, "highest"]]
      : [[!score.better, "worst"], [score.better, "best"]];
    this.label(name);
    return make("fieldset", {}, make("legend", {}, name), make("p", {class: "says"}, score.says),
      make("div", {class: "range"}, canvas, ...sliders), ends,
      make("div", {class: "row"}, ...ways.map(([down, text]) => sort(down, text))));
  }

  moved(name) {
    const {low, high, sliders} = this.histograms.get(name), {ranges} = this.app.filter;
    const at = sliders.map((slider) => Number(slider.value));
    if (at[0] > at[1]) {
      const moving = document.activeElement === sliders[0] ? 0 : 1;
      at[moving] = at[1 - moving];
      sliders[moving].value = at[moving];
    }
    // The ends leave room for what rounding took from float32 values.
    const value = (n) => (n === 0 ? low : n === 1000 ? high : low + ((high - low) * n) / 1000);
    if (at[0] === 0 && at[1] === 1000) delete ranges[name];
    else ranges[name] = at.map(value);
    this.label(name);
    this.app.later();
  }

  label(name) {
    const {low, high, ends, sliders} = this.histograms.get(name);
    const [from, to] = this.app.filter.ranges[name] ?? [low, high];
    ends.children[0].textContent = shown(from);
    ends.children[1].textContent = shown(to);
    sliders[0].setAttribute("aria-valuetext", shown(from));
    sliders[1].setAttribute("aria-valuetext", shown(to));
  }

  /* Show the counts of what passes, in front of those of all. */
  draw(rows) {
    const {app} = this, style = getComputedStyle(document.documentElement);
    for (const [name, {canvas}] of this.histograms) {
      const drawing = canvas.getContext("2d"), all = (canvas.all ??= app.pairs.histogram(name, app.all, 40));
      const some = app.pairs.histogram(name, rows, 40), top = Math.sqrt(Math.max(...all.counts, 1));
      drawing.clearRect(0, 0, 256, 44);
      for (const [counts, colour] of [[all.counts, "--line"], [some.counts, "--bar"]]) {
        drawing.fillStyle = style.getPropertyValue(colour);
        counts.forEach((n, i) => {
          const height = (42 * Math.sqrt(n)) / top;
          drawing.fillRect(i * 6.4, 44 - height, 5.6, height);
        });
      }
    }
    for (const button of this.place.querySelectorAll("[data-sort]")) {
      const [, name, text] = button.dataset.sort.match(/^(.*)-(\w+)$/);
      const better = app.pairs.facts.scores.find((score) => score.name === name)?.better;
      const down = text === "highest" || (text === "best" ? Boolean(better) : text === "worst" && !better);
      button.setAttribute("aria-pressed", String(app.filter.sort === name && app.filter.down === down));
    }
    this.count();
  }

  count() {
    const counts = [0, 0, 0];
    for (const choice of this.app.pairs.choice) counts[choice]++;
    this.counted.textContent = `${shown(counts[1])} keep, ${shown(counts[2])} reject, ${shown(counts[0])} undecided`;
  }
}

/* ---- plots ---- */
function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function quartiles(values) {
  const sorted = Float64Array.from(values).sort();
  const at = (share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
  return [at(0.25), at(0.5), at(0.75)];
}

function bars(histogram, title) {
  const top = Math.max(...histogram.counts, 1), wide = 300 / histogram.counts.length;
  const plot = svg("svg", {viewBox: "0 0 320 130", role: "img", "aria-label":
    `${title}: from ${shown(histogram.low)} to ${shown(histogram.high)}`});
  histogram.counts.forEach((n, i) => plot.append(svg("rect", {class: "fill", x: 10 + i * wide, width: Math.max(1, wide - 1),
    y: 105 - (100 * n) / top, height: (100 * n) / top}, svg("title", {}, String(n)))));
  plot.append(svg("line", {class: "axis", x1: 10, x2: 310, y1: 105, y2: 105}),
    svg("text", {x: 10, y: 120}, shown(histogram.low)),
    svg("text", {x: 310, y: 120, "text-anchor": "end"}, shown(histogram.high)));
  return plot;
}

/* The median of groups as dots with their quartiles as lines. */
function groups(entries, title) {
  const all = entries.flatMap(([, values]) => values), height = 22 * entries.length + 26;
  const low = Math.min(...all.map((one) => one[0])), high = Math.max(...all.map((one) => one[2]));
  const x = (value) => 120 + (180 * (value - low)) / (high - low || 1);
  const plot = svg("svg", {viewBox: `0 0 320 ${height}`, role: "img", "aria-label":
    `${title}: ${entries.map(([name, [[, median]]]) => `${name} ${shown(median)}`).join(", ")}`});
  entries.forEach(([name, [[first, median, third]]], i) => {
    const y = 14 + 22 * i;
    plot.append(svg("text", {x: 112, y: y + 4, "text-anchor": "end"}, name.length > 18 ? `${name.slice(0, 17)}\u2026` : name),
      svg("line", {class: "stroke", x1: x(first), x2: x(third), y1: y, y2: y}),
      svg("circle", {class: "dot", cx: x(median), cy: y, r: 4}, svg("title", {}, `${name}: ${shown(median)}`)));
  });
  plot.append(svg("text", {x: 120, y: height - 4}, shown(low)),
    svg("text", {x: 300, y: height - 4, "text-anchor": "end"}, shown(high)));
  return plot;
}

const MOST_GROUPS = 30;

function noScores(facts) {
  return facts.unsourced ? "The scores of this run are empty: the pictures that it was made of are not here to compare with."
    : "This run has no scores. `diffstyle score RUN` makes them; then write the report again.";
}

function plotsPage(app) {
  const {pairs} = app, facts = pairs.facts, page = make("div", {class: "page"});
  if (!facts.scores.length) {
    page.append(make("h2", {}, "Plots"), make("p", {}, noScores(facts)));
    return page;
  }
  page.append(make("p", {class: "says"}, `Of the ${shown(app.rows.length)} pairs that pass the filter. `,
    "Dots are medians, lines go from the first to the third quartile."));
  const grouped = (name, column) => {
    const found = new Map();
    for (const row of app.rows) {
      const value = pairs.scores[name][row];
      if (value !== value) continue;
      if (!found.has(column[row])) found.set(column[row], []);
      found.get(column[row]).push(value);
    }
    return [...found].map(([key, values]) => [key, [quartiles(values)]]);
  };
  const section = (title, draw) => {
    const plots = facts.scores.map((score) => [score, draw(score)]).filter(([, plot]) => plot);
    page.append(make("h2", {}, title), make("div", {class: "plots"}, ...plots.map(([score, plot]) =>
      make("figure", {}, make("figcaption", {}, score.name), plot))));
  };
  section("How the scores are distributed", (score) => {
    const histogram = pairs.histogram(score.name, app.rows, 40);
    return histogram && bars(histogram, score.name);
  });
  if (facts.settings.length > 1) {
    section("By setting, gamma upwards", (score) => {
      const entries = grouped(score.name, pairs.setting).sort((a, b) => a[0] - b[0]).slice(0, MOST_GROUPS);
      return entries.length ? groups(entries.map(([n, values]) => [facts.settings[n].words, values]), score.name) : null;
    });
  }
  if (facts.frechet.length) page.append(...frechetTable(facts));
  section(`By style${facts.styles.length > MOST_GROUPS ? `, the ${MOST_GROUPS} lowest` : ", lowest first"}`, (score) => {
    const entries = grouped(score.name, pairs.style).sort((a, b) => a[1][0][1] - b[1][0][1]).slice(0, MOST_GROUPS);
    return entries.length ? groups(entries.map(([n, values]) => [facts.styles[n].name, values]), score.name) : null;
  });
  return page;
}

/* Distances of whole settings, which no filter changes. */
function frechetTable(facts) {
  const heads = ["network", "setting", "to the contents", "to the styles", "pictures"];
  const cell = (distance, n) => distance === null ? "-" : `${shown(distance)} (${shown(n)})`;
  const rows = facts.frechet.map((one) => [one.network, facts.settings[one.setting].words,
    cell(one.content, one.content_pictures), cell(one.style, one.style_pictures), shown(one.pictures)]);
  return [make("h2", {}, "Fr\u00e9chet distances of whole settings"),
    make("p", {class: "says"}, "Of all pairs, whatever the filter; small is near. Compare them only where the numbers of pictures, "
      + "in brackets those of the sources, are the same."),
    make("table", {id: "frechet"}, make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", {scope: "col"}, head)))),
      make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((text) => make("td", {}, text))))))];
}

/* ---- failures and rejects ---- */
const MOST_ROWS = 500;

function troublesPage(app) {
  const {pairs} = app, facts = pairs.facts, page = make("div", {class: "page"});
  const row = (cells) => make("tr", {}, ...cells.map((cell) => make("td", {}, cell)));
  const list = (heads, rows) => make("table", {}, make("thead", {}, make("tr", {}, ...heads.map((head) =>
    make("th", {scope: "col"}, head)))), make("tbody", {}, ...rows.map(row)));
  const more = (n) => n > MOST_ROWS ? make("p", {class: "says"}, `The first ${MOST_ROWS} of ${shown(n)}.`) : "";
  const troubles = [...pairs.troubles].sort((a, b) => a[0] - b[0]);
  page.append(make("h2", {}, `Pairs: ${shown(troubles.length)}`));
  if (!troubles.length) page.append(make("p", {}, "Every pair has its picture."));
  else {
    page.append(list(["content", "style", "setting", "what", "why"], troubles.slice(0, MOST_ROWS).map(([one, [kind, why]]) => {
      const source = (picture) => make("span", {}, thumbnail(facts.sources, picture.thumbnail, 64), picture.name);
      return [source(facts.contents[pairs.content[one]]), source(facts.styles[pairs.style[one]]),
        facts.settings[pairs.setting[one]].words,
        make("button", {type: "button", onclick: () => app.open(one)}, kind), why];
    })), more(troubles.length));
  }
  page.append(make("h2", {}, `Pictures of the data sets that could not be read: ${shown(facts.rejects.length)}`));
  if (facts.rejects.length) {
    page.append(list(["side", "picture", "why"], facts.rejects.slice(0, MOST_ROWS).map((one) =>
      [one.side, one.source, one.reason])), more(facts.rejects.length));
  }
  return page;
}

/* ---- facts ---- */
function factsPage(app) {
  const {pairs} = app, facts = pairs.facts, {seconds, calls} = facts.cost;
  const failed = [...pairs.troubles.values()].filter(([kind]) => kind === "failed").length;
  const made = pairs.n - failed, kept = pairs.choice.reduce((n, choice) => n + (choice === 1), 0);
  const passing = app.rows.reduce((n, row) => n + (pairs.choice[row] !== 2 && pairs.status(row) !== "failed"), 0);
  const each = (n) => n ? `${shown(seconds / n)} s, ${shown(calls / n)} network calls` : "-";
  const table = (rows) => make("table", {}, make("tbody", {}, ...rows.map(([name, value]) =>
    make("tr", {}, make("th", {scope: "row"}, name), make("td", {}, value)))));
  return make("div", {class: "page"},
    make("h2", {}, "The run"), table([
      ["pairs", `${shown(made)} made, ${shown(failed)} failed`],
      ["sources", `${shown(facts.contents.length)} contents, ${shown(facts.styles.length)} styles, `
        + `${shown(facts.rejects.length)} pictures that could not be read`],
      ["scored", `${shown(facts.scored)} of ${shown(pairs.n)}`],
      ["report written", `${facts.made}, by DiffStyle ${facts.version}`],
    ]),
    make("h2", {}, "What it cost"), table([
      ["all", `${shown(seconds)} s of computing, ${shown(calls)} network calls`],
      ["per pair made", each(made)],
      [`per pair that passes the filter and is not rejected (${shown(passing)})`, each(passing)],
      [`per pair marked keep (${shown(kept)})`, each(kept)],
    ]),
    make("p", {class: "says"}, "Preparing, inverting and scoring pictures is not counted here."),
    make("h2", {}, "Settings"), ...facts.settings.flatMap((setting) => [make("h3", {}, setting.words),
      table(Object.entries(setting.parameters).filter(([, value]) => value !== null).map(([name, value]) =>
        [name, String(value)]))]),
    make("h2", {}, "Keys"), table([
      ["arrows", "another pair: in the matrix by content and style, in the list by place"],
      ["Enter", "enlarge"], ["k, r", "keep, reject; again: undecided"],
      [", and .", "the same pair at the setting before, and after"], ["Esc", "close"],
    ]));
}
