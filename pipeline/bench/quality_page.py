"""The quality benchmark as a page: tables and one plot, between the markers of a Markdown file."""

from __future__ import annotations

import time
from pathlib import Path

from pipeline.bench.claims import Tried
from pipeline.bench.comparison import METHOD, RECOLOURED, RETURN_B, TRUTH, Comparison
from pipeline.bench.pages import write_between
from pipeline.bench.quality import Group, Quality, machine


def markers(section: str) -> tuple[str, str]:
    """The lines of a page between which a section is written."""
    return f"<!-- {section}: written by `diffstyle quality` -->", f"<!-- {section}: end -->"


def tables(quality: Quality, tried: Tried | None, model: str, settings: str) -> str:
    """The Markdown of a result; ``model`` and ``settings`` in words."""
    pairs = sum(len(group) for group in quality.groups.values())
    took = ", ".join(f"{part} {seconds:.0f}" for part, seconds in quality.seconds.items())
    lines = [
        f"Model {model}; {pairs} pairs; {settings}. Taken {time.strftime('%Y-%m-%d')} with "
        f"{', '.join(f'{name} {value}' for name, value in machine().items())}, in "
        f"{sum(quality.seconds.values()):.0f} s ({took}).",
    ]
    for name, group in quality.groups.items():
        lines += ["", f"### {name[0].upper()}{name[1:]}", *_group(group)]
    if tried is not None:
        lines += ["", "### What was tried", *_tried(tried)]
    return "\n".join(lines)


def _group(group: Group) -> list[str]:
    comparison = group.comparison
    lines = [
        "",
        f"{len(group)} pairs of {group.n_drawings} held-out drawings in {group.n_paintings} paintings. "
        f"Plain reconstruction of the styles: {group.reconstruction:.1f} dB.",
        "",
        *_table(
            ["target", "goal", "measured", "verdict"],
            [[t.text, f"{t.goal:g}", str(t.measured), f"**{t.verdict}**"] for t in group.targets],
        ),
        "",
        "As measured:",
        "",
        *_measured(comparison, list(comparison.scores)),
        "",
        "On the way from B (0) to the truth (1):",
        "",
    ]
    ways = [
        [_name(method), *(comparison.way(method, measure.name).short for measure in comparison.measures)]
        for method in comparison.scores
        if method not in (RETURN_B, TRUTH)
    ]
    return lines + _table(["result", *(measure.heading for measure in comparison.measures)], ways)


def _measured(comparison: Comparison, methods: list[str]) -> list[str]:
    """The means of all measures, dB in place of pixels, and whether the style is nearer to B than to A."""
    headings, names = ["result"], []
    for measure in comparison.measures:
        headings.append("dB to the truth" if measure.name == "pixels" else measure.heading)
        names.append("psnr" if measure.name == "pixels" else measure.name)
    rows = []
    for method in methods:
        means = {name: float(comparison.scores[method][name].mean()) for name in names}
        cells = [f"{mean:.2f}" if name == "psnr" else f"{mean:.3f}" for name, mean in means.items()]
        if method == TRUTH:
            cells[names.index("psnr")] = "-"
        rows.append([_name(method), *cells, comparison.nearer_b(method).short])
    return _table([*headings, "nearer to B than to A by"], rows)


def _tried(tried: Tried) -> list[str]:
    comparison = tried.comparison
    methods = [method for method in comparison.scores if method not in (RETURN_B, TRUTH)]
    return [
        "",
        f"On the first {len(tried)} pairs of the first group. DiffStyle with one setting changed; "
        "start_from_content and colours made B's are no part of the method.",
        "",
        *_measured(comparison, methods),
        "",
        *_table(
            ["claim", "measured", "holds"],
            [[claim.text, str(claim.measured), "yes" if claim.holds else "no"] for claim in tried.claims],
        ),
    ]


def _name(method: str) -> str:
    return f"**{method}**" if method == METHOD else method


def _table(headings: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(headings)} |", "| --- " * len(headings) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def write_page(page: Path, text: str, section: str = "quality") -> None:
    """Put ``text`` between the markers of a section. Raises ConfigError for a page without them."""
    write_between(page, markers(section), text)


def plot(quality: Quality, tried: Tried | None, path: Path) -> bool:
    """Content against style, each group by itself, as a PNG. False where matplotlib is not installed."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        return False

    def at(comparison: Comparison, method: str) -> tuple[float, float]:
        scores = comparison.scores[method]
        return float(scores["colours"].mean()), float(scores["edges"].mean())

    shapes = {RETURN_B: "s", TRUTH: "*", METHOD: "o", "return A": "^", RECOLOURED: "v", "mean of A and B": "x"}
    count = len(quality.groups)
    figure, all_axes = plt.subplots(1, count, figsize=(6 * count, 4.4), dpi=110, sharey=True, squeeze=False)
    for n, (name, group) in enumerate(quality.groups.items()):
        axes = all_axes[0, n]
        if tried is not None and n == 0:
            points = [at(tried.comparison, method) for method in tried.gammas.values()]
            axes.plot(*zip(*points, strict=True), ".-", color="tab:grey", label=f"gamma 0 to 1, {len(tried)} pairs")
        for method in group.comparison.scores:
            marker = shapes.get(method, "D")
            axes.plot(*at(group.comparison, method), marker, markersize=8, linestyle="none", label=method)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("distance of colours to B (style lost)")
        axes.grid(alpha=0.3)
        if n == 0:
            axes.set_ylabel("correlation of edges with A (content gained)")
            axes.legend(fontsize=7)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)
    return True
