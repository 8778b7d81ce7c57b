"""``diffstyle prune``: drop results that no current job wants."""

from __future__ import annotations

import click

from pipeline.cli.stopping import KEPT, NOTHING_WRITTEN, if_stopped


@click.command()
@click.argument("jobs", metavar="JOB.yaml...", nargs=-1, required=True)
@click.option("--yes", "-y", is_flag=True, help="Drop it. Without this, only say what would go.")
def prune(jobs: tuple[str, ...], yes: bool) -> None:
    """Drop the pairs of an output folder, pictures, rows and scores, that none of these jobs wants.

    Name every job that writes to the folder: what none of them asks for goes, such as pairs of an old gamma or of
    pictures that have left a data set. Shards and banks stay (`diffstyle bank prune` is for those).
    """
    from diffstyle.errors import ConfigError
    from pipeline.jobfile.load import load_job
    from pipeline.results.manifest import Manifest
    from pipeline.results.prune import drop_leavings, find_leavings
    from pipeline.results.retention import Wanted
    from pipeline.runner.run import Run
    from pipeline.storage.layout import SIDES, OutputLayout
    from pipeline.storage.lock import OutputLock
    from pipeline.storage.pair_ids import PairIds
    from pipeline.storage.place import Place

    loaded = [load_job(job, check_inputs=True) for job in jobs]
    output = Place.parse(loaded[0].output)
    for path, job in zip(jobs[1:], loaded[1:], strict=True):
        if Place.parse(job.output) != output:
            raise ConfigError(f"{path}: output is {job.output}, but that of {jobs[0]} is {output}; prune one at a time")
    manifest = Manifest(output)
    if not manifest.store.exists():
        raise ConfigError(f"{output}: no results here; run a job first")
    with if_stopped(KEPT if yes else NOTHING_WRITTEN), OutputLock(output):
        wanted = PairIds()
        banks: set[Place] = set()
        for job in loaded:
            run = Run(job)
            asked = run.wanted()
            wanted = PairIds(wanted.ids(), *(ids for recipe in asked.recipes for ids in asked.ids(recipe)))
            banks.update(run.bank_places().values())
        for bank in (bank for side in SIDES for bank in OutputLayout(output).banks(side) if bank not in banks):
            size = sum(entry.size for entry in bank.list(recursive=True)) / 1e6
            click.echo(f"note: {bank} ({size:.1f} MB) is of none of these jobs; it stays, as other jobs may name it")
        rule = Wanted(wanted)
        leavings = find_leavings(manifest, rule)
        if not leavings:
            click.echo("nothing to drop: every pair is wanted")
            return
        if not yes:
            click.echo(f"would drop {leavings}; to do it: --yes")
            return
        drop_leavings(manifest, leavings, rule)
        click.echo(f"dropped {leavings}")
