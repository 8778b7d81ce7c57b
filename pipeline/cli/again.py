"""``diffstyle again``: is a row what its settings make?"""

from __future__ import annotations

import io
from pathlib import Path

import click

from pipeline.cli.options import picture_target
from pipeline.cli.stopping import NOTHING_WRITTEN, if_stopped
from pipeline.storage.errors import EXIT_FAILURES


@click.command()
@click.argument("folder", metavar="DATASET")
@click.argument("row", metavar="[ROW]", required=False)
@click.option("--content", metavar="NAME", help="Instead of ROW, or to tell several apart: the content's name.")
@click.option("--style", metavar="NAME", help="Likewise: the style's name.")
@click.option("--split", metavar="NAME", help="Look only into this split of the data set.")
@click.option("--run", metavar="RUN", help="The run that the data set was chosen from, where it has been moved.")
@click.option("--contents", metavar="SOURCE", help="The data set that has the content, in place of the job's.")
@click.option("--styles", metavar="SOURCE", help="The data set that has the style, in place of the job's.")
@click.option("--model", metavar="MODEL", help="A model's name or file, in place of the job's.")
@click.option("--weights", metavar="FILE", help="The model's weights, in place of the job's.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    help="auto: the row's kind of device where this machine has it.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Keep the picture here.")
@click.option(
    "--strip",
    "strip_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write content, the row's picture, the new one and the style side by side.",
)
def again(
    folder: str,
    row: str | None,
    content: str | None,
    style: str | None,
    split: str | None,
    run: str | None,
    contents: str | None,
    styles: str | None,
    model: str | None,
    weights: str | None,
    device: str,
    out: Path | None,
    strip_file: Path | None,
) -> int:
    """Make one ROW of a data set again, from what the row says, and compare it with the row's picture.

    DATASET is a folder that `diffstyle select` wrote, or the output folder of a run. ROW is the pair's id or its first
    digits, the file name of its picture, or, in a data set, its number in its split, counted from 0.

    The content and the style come from the banks and shards of the run where they are still there, else from the data
    set's own pictures, else from the sources. On the same kind of device the bytes are the same.

    Exit codes: 0 the same bytes; 3 another picture, and how far from the row's; 2 what it was made from is missing or
    has changed.
    """
    from pipeline.results.pictures import save_picture
    from pipeline.runner.again import again as make_again
    from pipeline.storage.whole import write_whole

    for option, file in (("--out", out), ("--strip", strip_file)):
        if file is not None:
            picture_target(file, "", option=option)
    with if_stopped(NOTHING_WRITTEN):
        result = make_again(
            folder,
            row,
            content=content,
            style=style,
            split=split,
            run=run,
            contents=contents,
            styles=styles,
            model=model,
            weights=weights,
            device=device,
        )
    click.echo(str(result))
    if out is not None:
        write_whole(out, result.data)
        click.echo(f"wrote {out}{_other_format(out, result.data)}")
    if strip_file is not None:
        save_picture(result.strip(), strip_file)
        click.echo(f"wrote {strip_file}")
    return 0 if result.same else EXIT_FAILURES


def _other_format(file: Path, data: bytes) -> str:
    """A word where the bytes, which are those of the row's format, are not what the file's name says."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        kind = image.format or ""
    named = Image.registered_extensions()[file.suffix.lower()]
    return "" if kind == named else f"; it holds a {kind}, as the row's picture does, and not a {named}"
