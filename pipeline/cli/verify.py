"""``diffstyle verify``: is a run's output as it was written?"""

from __future__ import annotations

import click

from pipeline.cli.stopping import KEPT, NOTHING_WRITTEN, if_stopped
from pipeline.storage.errors import EXIT_FAILURES


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--repair", is_flag=True, help="Drop what is broken, so that the next run makes it again.")
@click.option("--quiet", "-q", is_flag=True, help="Only problems and the summary.")
def verify(run: str, repair: bool, quiet: bool) -> int:
    """Check an output folder: every picture against its hash in the manifest, both ways, shards and banks.

    RUN is the output folder (or an address on S3 or GCS), or the job file that names it. All bytes are read. Pictures
    of a run that is at work may be named by no row yet: check before or after it.

    Exit codes: 0 all is well, or with --repair: all that was wrong is dropped; 3 something is wrong.
    """
    from contextlib import nullcontext

    from pipeline.monitoring.status import output_of
    from pipeline.runner.verify import repair_run, verify_run
    from pipeline.storage.lock import OutputLock, holder_of
    from pipeline.storage.visible import on_one_line

    place = output_of(run)
    if not repair and (holder := holder_of(place)) is not None:
        click.echo(f"note: in use by {holder}; what it is writing may look broken")
    with (
        if_stopped(KEPT if repair else NOTHING_WRITTEN),
        OutputLock(place) if repair and place.exists() else nullcontext(),
    ):
        tell = (lambda line: None) if quiet else lambda line: click.echo(line, err=True)
        report = verify_run(place, tell)
        if repair and report.seals:
            for problem in report.problems:
                click.echo(on_one_line(f"wrong: {problem}"))
            repair_run(report)
            click.echo("they are dropped; now all parts are checked")
            report = verify_run(place, tell)
        for note in report.notes if not quiet else ():
            click.echo(on_one_line(f"note: {note}"))
        for problem in report.problems:
            click.echo(on_one_line(f"wrong: {problem}"))
        click.echo(report.summary())
        if report.ok:
            return 0
        if not repair:
            click.echo(f"`diffstyle verify {run} --repair` drops what is broken; the next run makes it again")
            return EXIT_FAILURES
        repair_run(report)
    click.echo("what was broken is dropped; run the job again to make it")
    if report.kept:
        click.echo(f"{len(report.kept)} of the problems can't be repaired; see their lines")
    return EXIT_FAILURES if report.kept else 0
