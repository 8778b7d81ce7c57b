"""The quality benchmark as a page: tables and one plot, between the markers of a Markdown file."""

from __future__ import annotations

import time
from pathlib import Path

from pipeline.bench.pages import write_between
from pipeline.bench.quality import BAR, Quality, Scores, machine

BEGIN, END = "<!-- quality: written by `diffstyle quality` -->", "<!-- quality: end -->"


def tables(quality: Quality, model: str, settings: str) -> str:
    """The Markdown of a result."""
    vgg = quality.scores["DiffStyle"].vgg_a is not None
    head = ["result", "edges with A", "way to the truth", "colours to B", "dB to the truth"]
    head += ["conv4_3 with A", "Gram to B"] if vgg else []
    head.append("nearer to B than to A by")
    lines = [
        f"Model {model}; {quality.n_pairs} pairs of {quality.n_drawings} held-out drawings; {settings}. "
        f"Plain reconstruction of the styles: {quality.reconstruction:.1f} dB. "
        f"Taken {time.strftime('%Y-%m-%d')} with {', '.join(f'{k} {v}' for k, v in machine().items())}, "
        f"in {quality.seconds:.0f} s.",
        "",
        "| " + " | ".join(head) + " |",
        "| --- " * len(head) + "|",
    ]
    for name, scores in quality.scores.items():
        cells = [f"**{name}**" if name == "DiffStyle" else name, f"{scores.edges_a.mean():.3f}", str(quality.way[name])]
        cells += [f"{scores.colour_b.mean():.3f}", "-" if name == "the truth" else f"{scores.psnr.mean():.2f}"]
        if scores.vgg_a is not None and scores.gram_b is not None:
            cells += [f"{scores.vgg_a.mean():.3f}", f"{scores.gram_b.mean():.3f}"]
        lines.append("| " + " | ".join([*cells, str(quality.nearer_b[name])]) + " |")
    mine, over, style = (kept["DiffStyle"] for kept in (quality.way, quality.over_return_b, quality.nearer_b))
    content_ok, style_ok = quality.content_reached, quality.style_reached
    lines += [
        "",
        f"- Content beats returning B by {over} (edges with A), {mine} of the way from B to the truth; the bar is an "
        f"interval above 0 and {BAR} of the way: **{'reached' if content_ok else 'not reached'}**.",
        f"- Style is nearer to B than to A by {style}: **{'reached' if style_ok else 'not reached'}**.",
        "",
        "| claim | measured | holds |",
        "| --- | --- | --- |",
        *(f"| {claim.text} | {claim.measured} | {'yes' if claim.holds else 'no'} |" for claim in quality.claims),
        "",
        "| gamma | edges with A | colours to B | dB to the truth |",
        "| --- | --- | --- | --- |",
    ]
    for gamma, scores in quality.sweep.items():
        lines.append(
            f"| {gamma:g} | {scores.edges_a.mean():.3f} | {scores.colour_b.mean():.3f} | {scores.psnr.mean():.2f} |"
        )
    return "\n".join(lines)


def write_page(page: Path, text: str) -> None:
    """Put ``text`` between the markers of a page. Raises ConfigError for a page without them."""
    write_between(page, (BEGIN, END), text)


def plot(quality: Quality, path: Path) -> bool:
    """Content against style as gamma goes from 0 to 1, as a PNG. False where matplotlib is not installed."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        return False

    def at(scores: Scores) -> tuple[float, float]:
        return float(scores.colour_b.mean()), float(scores.edges_a.mean())

    figure, axes = plt.subplots(figsize=(6, 4.2), dpi=110)
    points = [at(scores) for scores in quality.sweep.values()]
    axes.plot(*zip(*points, strict=True), "o-", color="tab:blue", label="DiffStyle, gamma 0 to 1")
    for gamma, point in zip(quality.sweep, points, strict=True):
        axes.annotate(f"{gamma:g}", point, textcoords="offset points", xytext=(6, 4), fontsize=8)
    for name, marker in (("return B", "s"), ("return A", "^"), ("A in B's colours", "v"), ("the truth", "*")):
        axes.plot(*at(quality.scores[name]), marker, markersize=10, linestyle="none", label=name)
    axes.set_xlabel("distance of colours to B (style lost)")
    axes.set_ylabel("correlation of edges with A (content gained)")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)
    return True
