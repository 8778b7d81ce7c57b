"""``diffstyle new``: a commented job file, asked for on a terminal, or from options."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from pipeline.cli.stopping import NOTHING_WRITTEN, if_stopped


@click.command()
@click.argument("target", metavar="[FOLDER|FILE.yaml]", default=".")
@click.option("--model", help="A model's name, YAML file or .safetensors. Default: the demo's small model.")
@click.option(
    "--content", metavar="PATH", help="Pictures whose content is injected. Default: contents beside the file."
)
@click.option("--style", metavar="PATH", help="Pictures that give the style. Default: styles beside the file.")
@click.option("--output", metavar="FOLDER", help="Where results go. Default: results beside the file.")
@click.option(
    "--gamma", metavar="LIST", help="How strongly content is blended in, 0 to 1: 0.3, or 0.2,0.4 to try both."
)
@click.option("--mask", metavar="MASK", help="Where content goes: a picture, TOP,LEFT,BOTTOM,RIGHT or `reference`.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any other field, as pairs=zip.")
@click.option("--yes", is_flag=True, help="Ask nothing; what no option says has its default.")
def new(target: str, overrides: tuple[str, ...], yes: bool, **given: Any) -> None:
    """Write a job file of the main fields, with comments: FOLDER/job.yaml, or FILE.yaml. A file that is there is kept.

    On a terminal, what no option says is asked for.
    """
    from diffstyle.errors import ConfigError
    from pipeline.jobfile.load import load_job
    from pipeline.jobfile.new import new_job
    from pipeline.storage.layout import OutputLayout
    from pipeline.storage.place import Place

    file = Path(target) if target.endswith((".yaml", ".yml")) else Path(target) / "job.yaml"
    if file.exists():
        raise ConfigError(f"{file}: is there already; give another name, or remove it")
    with if_stopped(NOTHING_WRITTEN):
        if _on_a_terminal() and not yes:
            given = _asked(given)
        text, job = new_job(file, **{name: value for name, value in given.items() if value}, overrides=overrides)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise ConfigError(f"{file}: can't be written ({error.strerror}); give another folder") from None
    assert load_job(file).model_dump(mode="json") == job.model_dump(mode="json")
    click.echo(f"wrote {file}")
    for side in ("content", "style"):
        for address in getattr(getattr(job, side), "addresses", ()):
            if "://" not in address and not set(address) & set("*?[{") and not Path(address).exists():
                click.echo(f"{side}: {address} is not there yet; put the pictures there")
    output = Place.parse(job.output)
    if output.is_local and OutputLayout(output).job.is_file():
        click.echo(f"output: {job.output} has the pictures of a run already, and takes this job's too; see --output")
    click.echo(f"next: diffstyle run {shlex.quote(str(file))} --dry-run")


def _on_a_terminal() -> bool:
    return sys.stdin.isatty()


def _asked(given: dict[str, Any]) -> dict[str, Any]:
    """The options, with those that are missing asked for; a wrong model is asked for again."""
    from diffstyle.errors import ConfigError
    from pipeline.jobfile.starting import DEMO_MODEL, starting_injection
    from pipeline.models.config import load_model_config

    while True:
        model = given["model"] or click.prompt("model (`diffstyle models` lists them)", DEMO_MODEL, err=True)
        try:
            config = load_model_config(model)
            break
        except ConfigError as error:
            if given["model"]:
                raise
            click.echo(f"  {error}", err=True)
    answers = given | {"model": model}
    gamma = f"{starting_injection(config)['gamma']:g}"
    for name, question, default in (
        ("content", "pictures whose content is wanted", "contents"),
        ("style", "pictures whose style is wanted", "styles"),
        ("output", "folder for the results", "results"),
        ("gamma", "gamma, how strongly content goes in (0 to 1; several with commas)", gamma),
    ):
        answers[name] = given[name] or click.prompt(question, default, err=True)
    return answers
