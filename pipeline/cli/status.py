"""``diffstyle status``: how far a run is, from its files alone."""

from __future__ import annotations

import json
import sys
import time

import click

from pipeline.cli.stopping import NOTHING_WRITTEN, if_stopped

#: Seconds between two looks of --watch.
EVERY = 2.0


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
@click.option("--watch", is_flag=True, help="Show it again every two seconds, until no run is at it any more.")
@if_stopped(NOTHING_WRITTEN)
def status(run: str, as_json: bool, watch: bool) -> int:
    """Say what of a run is done, failed and left, how fast it goes, and who runs it.

    RUN is the output folder (or an address on S3 or GCS), or the job file that names it. Only files are read: it works
    from any machine, while the run goes on or after it ended.

    Exit codes: 0 all done, 3 done with failures, 4 something is left or the last run was stopped.
    """
    from pipeline.monitoring.status import status as status_of

    if watch and as_json:
        raise click.UsageError("--watch is for people, and --json for programs; omit one of them")
    state = status_of(run)
    while watch and state.holder is not None:
        _clear()
        click.echo(str(state))
        time.sleep(EVERY)
        state = status_of(run)
    if watch:
        _clear()
    click.echo(json.dumps(state.to_dict(), indent=2) if as_json else str(state))
    return state.exit_code


def _clear() -> None:
    """Empty the terminal; elsewhere nothing happens."""
    from pipeline.storage.masking import unescaped

    if sys.stdout.isatty():
        unescaped(sys.stdout).write("\x1b[2J\x1b[1;1H")
