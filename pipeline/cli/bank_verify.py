"""``diffstyle bank verify``: is every part of a bank as it was written, and do pictures give the same latents again?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffstyle.errors import ConfigError
from pipeline.cli.stopping import NOTHING_WRITTEN, if_stopped
from pipeline.storage.counts import count, data_size
from pipeline.storage.errors import EXIT_FAILURES

if TYPE_CHECKING:
    from pipeline.stages.reinvert import Reinvert


@click.command()
@click.argument("path", metavar="BANK")
@click.option("--reinvert", type=click.IntRange(min=1), metavar="N", help="Invert so many pictures again and compare.")
@click.option("--job", metavar="JOB.yaml", help="With --reinvert: model and weights as this job says.")
@click.option("--model", help="With --reinvert: a model's name or YAML file. Default: as the bank says.")
@click.option("--weights", help="With --reinvert: the model's weights.")
@click.option("--pictures", help="With --reinvert: shards or a data set. Default: the shards beside the bank.")
@if_stopped(NOTHING_WRITTEN)
def verify(
    path: str, reinvert: int | None, job: str | None, model: str | None, weights: str | None, pictures: str | None
) -> int:
    """Check every part: hashes, shapes, finite values, index against files both ways.

    With --reinvert, also whether pictures chosen at random give the same x_T and h again, within what the stored dtype
    allows. The exit code is 3 if something is wrong.
    """
    import tempfile

    from pipeline.banks.verify import verify as check

    if reinvert:
        with tempfile.TemporaryDirectory() as scratch:
            again = _reinvert(path, job, model, weights, pictures, Path(scratch))
            report = check(path, reinvert=again, sample=reinvert, progress=_parts_done)
        if again.compared:
            pictures_again = count(again.compared, "picture")
            click.echo(f"{pictures_again} inverted again; the largest relative error is {again.largest:.2g}")
        if again.absent:
            click.echo(f"note: {count(again.absent, 'picture')} of the sample not among the pictures given")
    else:
        report = check(path, progress=_parts_done)
    for note in report.notes:
        click.echo(f"note: {note}")
    for problem in report.problems:
        click.echo(f"wrong: {problem}")
    click.echo(
        f"{count(report.images, 'image')} in {count(report.parts, 'part')} ({data_size(report.bytes)}), "
        f"{count(report.names, 'name')}, {report.failed} failed: "
        f"{'all is well' if report.ok else count(len(report.problems), 'problem')}"
    )
    if not report.ok:
        click.echo(f"`diffstyle bank repair {path}` drops what is broken; the next precompute makes it again")
    return 0 if report.ok else EXIT_FAILURES


def _reinvert(
    path: str, job: str | None, model: str | None, weights: str | None, pictures: str | None, scratch: Path
) -> Reinvert:
    from pipeline.banks.reader import LatentBank
    from pipeline.runner.bank_model import find_model, find_pictures
    from pipeline.stages.reinvert import Reinvert

    opened = LatentBank.open(path)
    shards, rows = find_pictures(opened, pictures, scratch)
    if shards is None:
        raise ConfigError(f"{path}: no shards beside the bank to invert again; name them, or the data set: --pictures")
    return Reinvert(opened, find_model(opened, job, model, weights).context, shards, rows)


def _parts_done(done: int, total: int) -> None:
    # A line for each twentieth: as good in a log as on a terminal.
    if total > 20 and done * 20 // total > (done - 1) * 20 // total:
        click.echo(f"{done} of {count(total, 'part')} checked", err=True)
