"""``diffstyle status``: how far a run is, from its files alone."""

from __future__ import annotations

import json

import click


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def status(run: str, as_json: bool) -> int:
    """Say what of a run is done, failed and left, how fast it goes, and who is at it.

    RUN is the output folder (or an address on S3 or GCS), or the job file that names it. Only files are read: it works
    from any machine, while the run goes on or after it ended.

    Exit codes: 0 all done, 3 done with failures, 4 something is left.
    """
    from pipeline.monitoring.status import read_status
    from pipeline.storage.place import Place

    place = Place.parse(run)
    if place.is_local and place.is_file():
        from pipeline.jobfile.load import load_job

        place = Place.parse(load_job(run).output)
    found = read_status(place)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        for line in found.lines():
            click.echo(line)
    return found.exit_code
