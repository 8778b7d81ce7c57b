"""``diffstyle quality``: the benchmark with known answers."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.options import job_argument
from pipeline.cli.stopping import NOTHING_WRITTEN, if_stopped


@click.command()
@job_argument
@click.option(
    "--data", required=True, help="Held-out pictures with known answers: demo/heldout.parquet of the source tree."
)
@click.option(
    "--pairs",
    default=208,
    show_default=True,
    type=click.IntRange(4),
    help="How many pairs; half of them in paintings that training never saw, where the data has some.",
)
@click.option(
    "--tried",
    default=40,
    show_default=True,
    type=click.IntRange(0),
    help="On how many pairs to try other settings and measure the method's claims; 0: not.",
)
@click.option("--slow-peer/--no-slow-peer", default=True, show_default=True, help="Run the peer that optimises pixels.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a field of the job.")
@click.option(
    "--page", type=click.Path(path_type=Path, exists=True), help="Write the tables between this page's markers."
)
@click.option(
    "--section",
    default="quality",
    show_default=True,
    help="The name in those markers: a page can have several results.",
)
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="Write the plot to this PNG (matplotlib).")
def quality(
    job: str,
    data: str,
    pairs: int,
    tried: int,
    slow_peer: bool,
    overrides: tuple[str, ...],
    page: Path | None,
    section: str,
    plot_file: Path | None,
) -> int:
    """Score a job's model and settings on held-out drawings whose true paintings are known.

    Content A injected into style B is compared with the true painting of A in B's style, beside plain baselines and
    other ways to transfer style, with confidence intervals; paintings that training saw and others apart. The method's
    own claims are measured too. Exit code 3 if a target is not reached.
    """
    import torch

    from pipeline.bench.claims import try_settings
    from pipeline.bench.heldout import load_groups
    from pipeline.bench.quality import Bench, Inverted, Quality, measure, one_setting, timed, vgg_if_there
    from pipeline.bench.quality_page import plot, tables, write_page
    from pipeline.jobfile.load import load_job
    from pipeline.models.accelerate import tuned
    from pipeline.models.config import load_model_config
    from pipeline.models.load import load_model

    with if_stopped(NOTHING_WRITTEN):
        loaded = load_job(job, overrides)
        config = load_model_config(loaded.model)
        precision: torch.dtype = getattr(torch, loaded.compute.precision)
        unet = tuned(load_model(config, loaded.weights, "cpu", precision), "cpu")
        settings = one_setting(loaded.settings())
        vgg = vgg_if_there()
        result, other_settings, contents = Quality(), None, Inverted(unet, loaded.inversion.steps)
        for n, (name, group) in enumerate(load_groups(data, pairs, unet.image_size).items()):
            with timed(result.seconds, "inversions"):
                bench = Bench(unet, group, loaded.inversion.steps, contents)
            result.groups[name] = measure(bench, settings, vgg, slow_peer, result.seconds)
            if n == 0 and tried:
                with timed(result.seconds, "other settings"):
                    other_settings = try_settings(bench, settings, vgg, tried)
    values = settings.to_dict()
    plan = {name: value for name, value in values["plan"].items() if value is not None}
    words = f"gamma {values['gamma']:g}, t_edit {values['t_edit']}, {values['events']} events, plan {plan}"
    words += f", {loaded.compute.precision}"
    if "t_start" in values:
        words += f"; content is injected from t_start {values['t_start']} down"
    text = tables(result, other_settings, config.name, words)
    click.echo(text)
    if page:
        write_page(page, text, section)
    if plot_file and not plot(result, other_settings, plot_file):
        click.echo("no plot: pip install matplotlib", err=True)
    return 0 if result.reached else 3
