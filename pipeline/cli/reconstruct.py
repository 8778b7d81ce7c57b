"""``diffstyle reconstruct``: sample the pictures of a bank back and say how near they come."""

from __future__ import annotations

import click

from diffstyle.errors import ConfigError
from pipeline.storage.errors import EXIT_FAILURES


@click.command()
@click.argument("path", metavar="BANK")
@click.option("--job", metavar="JOB.yaml", help="Take model, weights and compute from this job. Default: the run's.")
@click.option("--model", help="A model's name or YAML file. Default: as the bank says.")
@click.option("--weights", help="The model's weights. Default: as the job or the model's config says.")
@click.option("--steps", type=click.IntRange(min=2), help="Steps of the sampling. Default: as many as the inversion.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many entries.")
@click.option("--pictures", help="Shards or a data set to compare with. Default: the shards beside the bank.")
@click.option("--output", help="Write the reconstructions into this folder too, as PNG files.")
@click.option("--again", is_flag=True, help="Also those that are reconstructed already.")
@click.option("--local", is_flag=True, help="Compute in this process, without Ray: for a few pictures.")
@click.option("--quiet", "-q", is_flag=True, help="No progress, only the summary.")
def reconstruct(
    path: str,
    job: str | None,
    model: str | None,
    weights: str | None,
    steps: int | None,
    limit: int | None,
    pictures: str | None,
    output: str | None,
    again: bool,
    local: bool,
    quiet: bool,
) -> int:
    """Sample pictures back from the x_T of a BANK by plain DDIM.

    The PSNR against the prepared picture and a thumbnail are written into the bank, for `diffstyle bank show`, `bank
    info` and `to_pandas()`. Run again, only what lacks them is done.
    """
    import tempfile
    from pathlib import Path

    from pipeline.banks.reader import LatentBank
    from pipeline.cli.bank_change import holding
    from pipeline.monitoring.progress import Progress
    from pipeline.runner.api import choose_workers
    from pipeline.runner.bank_model import find_model, find_pictures
    from pipeline.stages.reconstruct import missing_rows
    from pipeline.stages.reconstruct import reconstruct as sample_back
    from pipeline.stages.walk import Walk
    from pipeline.storage.place import Place

    bank = LatentBank.open(path)
    walk = Walk.of_bank(bank.description)
    steps = steps or walk.steps
    if steps > walk.t_0 + 1:
        raise ConfigError(f"--steps {steps}: there are only {walk.t_0 + 1} timesteps up to t_0")
    folder = Place.parse(output) if output else None
    with holding(path), tempfile.TemporaryDirectory() as scratch:
        missing_rows(bank, steps, {}, limit=1)  # a bank without x_T is told before anything is read
        shards, rows_of = find_pictures(bank, pictures, Path(scratch))
        if pictures and not set(rows_of) & set(bank.index["image"].to_pylist()):
            raise ConfigError(f"--pictures {pictures}: none of these are pictures of {path}")
        rows = missing_rows(bank, steps, rows_of, output=folder, limit=limit, again=again)
        if not rows:
            click.echo("nothing to do: every entry is reconstructed; --again does it again")
            return 0
        found_model = find_model(bank, job, model, weights)
        with (
            found_model.pool(choose_workers(local=local)) as pool,
            Progress(len(rows), "reconstruct", "picture", quiet=quiet) as progress,
        ):
            results = sample_back(
                pool,
                bank,
                rows,
                steps,
                # Whole batches, and enough units that all workers end at about the same time.
                per_unit=pool.batch * max(1, min(64 // pool.batch, -(-len(rows) // (4 * pool.size * pool.batch)))),
                shards=shards,
                pictures=rows_of,
                output=folder,
                on_done=lambda done, failed, outcome: progress.advance(done + failed, failed),
            )
    return _summary(path, results, shards is None)


def _summary(path: str, results: list[dict], no_shards: bool) -> int:
    import statistics

    from pipeline.storage.counts import count

    failed = [one for one in results if "error" in one]
    values = [one["psnr"] for one in results if one.get("psnr") is not None]
    made = count(len(results) - len(failed), "picture")
    click.echo(f"{made} reconstructed; `diffstyle bank show {path} KEY` shows one")
    if values:
        click.echo(f"PSNR: median {statistics.median(values):.2f} dB, {min(values):.2f} to {max(values):.2f}")
    if no_shards:
        click.echo("no PSNR: there are no shards beside the bank; --pictures names them, or the data set")
    elif len(values) < len(results) - len(failed):
        click.echo(f"no PSNR for {len(results) - len(failed) - len(values)}: their pictures are not among those given")
    for one in failed[:5]:
        click.echo(f"failed: {one['key']}: {one['error']}")
    if failed:
        click.echo(f"{len(failed)} failed; the same command tries them again")
    return EXIT_FAILURES if failed else 0
