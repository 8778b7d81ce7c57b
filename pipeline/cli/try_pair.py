"""``diffstyle try``: one pair at once, from two picture files."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.options import picture_target
from pipeline.cli.stopping import NOTHING_WRITTEN, if_stopped


@click.command("try")
@click.argument("content")
@click.argument("style")
@click.option("--gamma", metavar="LIST", help="How strongly content is blended in, 0 to 1: as 0.2,0.4,0.6.")
@click.option(
    "--mask",
    metavar="MASK",
    help="Where content goes: a picture that is white there, TOP,LEFT,BOTTOM,RIGHT in fractions, or `reference`.",
)
@click.option("--model", help="A model's name, YAML file or .safetensors. Default: the demo's small model.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Another field, as injection.t_edit=200.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Where to write the strip.")
@click.option("--quiet", "-q", is_flag=True, help="No progress, only where the strip is.")
def try_pair(
    content: str,
    style: str,
    gamma: str | None,
    mask: str | None,
    model: str | None,
    overrides: tuple[str, ...],
    out: Path | None,
    quiet: bool,
) -> None:
    """Put the content of one picture into the style of another, and write a strip: content, results, style.

    No job file and no Ray. Without --model, the small model of the demo draws cartoon faces at 64 px, in seconds.
    Without --out, the strip goes into this folder, under the names of both pictures.
    """
    with if_stopped(NOTHING_WRITTEN):
        from pipeline.runner.try_pair import try_pair as run_try

        file = picture_target(out, f"try-{Path(content).stem}-{Path(style).stem}", (content, style))
        trial = run_try(
            content, style, gamma=gamma, mask=mask, model=model, overrides=overrides, quiet=True if quiet else None
        )
    trial.save(file)
    click.echo(f"wrote {file}" if quiet else f"{trial}\nwrote {file}")
