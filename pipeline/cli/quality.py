"""``diffstyle quality``: the benchmark with known answers."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.options import job_argument


@click.command()
@job_argument
@click.option(
    "--data", required=True, help="Held-out pictures with known answers: demo/heldout.parquet of the source tree."
)
@click.option("--pairs", default=234, show_default=True, type=click.IntRange(2), help="How many pairs.")
@click.option("--unseen", is_flag=True, help="Paintings that training never saw.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a field of the job.")
@click.option(
    "--page", type=click.Path(path_type=Path, exists=True), help="Write the tables between this page's markers."
)
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="Write the plot to this PNG (matplotlib).")
def quality(
    job: str, data: str, pairs: int, unseen: bool, overrides: tuple[str, ...], page: Path | None, plot_file: Path | None
) -> int:
    """Score a job's model and settings on held-out drawings whose true paintings are known.

    Content A injected into style B is compared with the true painting of A in B's style, beside plain baselines, with
    confidence intervals; the method's own claims are measured too. Exit code 3 if content or style is not reached.
    """
    from pipeline.bench.heldout import load_pairs
    from pipeline.bench.quality import measure, one_setting
    from pipeline.bench.quality_page import plot, tables, write_page
    from pipeline.jobfile.load import load_job
    from pipeline.models.config import load_model_config
    from pipeline.models.load import load_model

    loaded = load_job(job, overrides)
    config = load_model_config(loaded.model)
    unet = load_model(config, loaded.weights)
    settings = one_setting(loaded.settings())
    result = measure(unet, load_pairs(data, pairs, unet.image_size, unseen), settings, loaded.inversion.steps)
    values = settings.to_dict()
    plan = {name: value for name, value in values["plan"].items() if value is not None}
    words = f"gamma {values['gamma']:g}, t_edit {values['t_edit']}, {values['events']} events, plan {plan}"
    words += ", paintings that training never saw" if unseen else ""
    text = tables(result, config.name, words)
    click.echo(text)
    if page:
        write_page(page, text)
    if plot_file and not plot(result, plot_file):
        click.echo("no plot: pip install matplotlib", err=True)
    return 0 if result.content_reached and result.style_reached else 3
