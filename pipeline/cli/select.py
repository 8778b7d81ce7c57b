"""``diffstyle select``: choose pairs by scores, names and licences, and write them as a data set."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.stopping import NOTHING_WRITTEN, if_stopped
from pipeline.storage.counts import data_size

if TYPE_CHECKING:
    from pipeline.storage.place import Place

_POSITIVE = click.IntRange(min=1)


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--out", metavar="DATASET", help="The folder to write. Without it, only say what would be chosen.")
@click.option(
    "--where", metavar="SQL", help="A condition over the manifest's columns and the scores, as content_kept > 0.5."
)
@click.option("--keep", "keep", metavar="CSV", help="A list with the columns pair and decision (keep or reject).")
@click.option(
    "--licence", "--license", "licence", metavar="LIST", help="Licences that both sources must have, as cc0,cc-by."
)
@click.option("--splits", metavar="LIST", help="Held-out splits, as train=0.8,validation=0.1,test=0.1.")
@click.option(
    "--splits-by",
    type=click.Choice(["both", "content", "style"]),
    default="both",
    show_default=True,
    help="What is held out; `both` drops the pairs whose content and style belong to different splits.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the splits.")
@click.option(
    "--drop-duplicates",
    is_flag=False,
    flag_value=4,
    type=click.IntRange(0, 64),
    metavar="[BITS]",
    help="Drop pictures whose hash differs in at most BITS of 64 bits from a better one's; without a number, 4.",
)
@click.option("--best", metavar="SCORE", help="Prefer pairs with a high SCORE; -SCORE prefers low ones.")
@click.option("--per-style", type=_POSITIVE, metavar="N", help="At most N pairs of a style.")
@click.option("--per-content", type=_POSITIVE, metavar="N", help="At most N pairs of a content.")
@click.option("--limit", type=_POSITIVE, metavar="N", help="At most N pairs in all.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["imagefolder", "parquet", "webdataset"]),
    default="imagefolder",
    show_default=True,
    help="The form of the data set.",
)
@click.option(
    "--pictures",
    type=click.Choice(["results", "triplets"]),
    default="results",
    show_default=True,
    help="Results alone, or with the content and the style of each.",
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier data set at DATASET, once the new one is whole.")
@click.pass_context
def select(context: click.Context, run: str, out: str | None, **given: Any) -> None:
    """Choose pairs of a RUN and write them as a data set for `datasets`, WebDataset or PyTorch.

    RUN is the output folder (or an address on S3 or GCS), or the job file that names it. The rules are applied in the
    order of the options here, and how many pairs each left out is said. See docs/select.md.
    """
    from diffstyle.errors import ConfigError
    from pipeline.monitoring.status import output_of
    from pipeline.results.select.choose import Rules, choose
    from pipeline.results.select.dataset import check_target, write_dataset
    from pipeline.results.select.licences import allowed_list
    from pipeline.results.select.splits import parse_splits
    from pipeline.storage.place import Place

    place = output_of(run)
    rules = Rules(
        where=given["where"],
        keep=Path(given["keep"]) if given["keep"] is not None else None,
        licences=allowed_list(given["licence"]) if given["licence"] is not None else (),
        splits=parse_splits(given["splits"]) if given["splits"] is not None else {},
        splits_by=given["splits_by"],
        seed=given["seed"],
        duplicates=given["drop_duplicates"],
        best=given["best"],
        per_style=given["per_style"],
        per_content=given["per_content"],
        limit=given["limit"],
    )
    if given["overwrite"] and out is None:
        raise ConfigError("--overwrite: there is no --out to replace")
    if out is not None:  # before the work, not after it
        check_target(Place.parse(out), place, given["overwrite"])
    with if_stopped(NOTHING_WRITTEN):
        choice = choose(place, rules, whole=out is not None)
    for line in choice.lines():
        click.echo(line)
    if out is None:
        if len(choice.table):
            click.echo("nothing is written; --out DATASET writes them")
        return
    target = Place.parse(out)
    before = _folder(target)

    def left() -> str:  # a data set appears whole, at the end
        now = _folder(target)
        return NOTHING_WRITTEN if now in (None, before) else f"{target} is written"

    with if_stopped(left):
        written = write_dataset(
            place,
            choice,
            target,
            given["form"],
            triplets=given["pictures"] == "triplets",
            overwrite=given["overwrite"],
            command=_command(context),
        )
        for note in written.notes:
            click.echo(f"note: {note}")
        click.echo(f"wrote {written.folder} ({given['form']}, {data_size(written.bytes)})")


def _folder(place: Place) -> int | None:
    """Which folder is there, by the number that its disk gives it; None: none."""
    folder = Path(place.path)
    return folder.stat().st_ino if folder.exists() else None


def _command(context: click.Context) -> str:
    """The command as it was given, to be typed again."""
    words = ["diffstyle", "select"]
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if context.get_parameter_source(str(parameter.name)) is not click.core.ParameterSource.COMMANDLINE:
            continue
        if isinstance(parameter, click.Argument):
            words.append(str(value))
        elif isinstance(parameter, click.Option):
            words.append(parameter.opts[0] if value is True else f"{parameter.opts[0]}={value}")
    return shlex.join(words)
