"""``diffstyle models``: what models there are, whether their weights are here, and fetching them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from pipeline.cli.options import WholeSentences, print_table, print_values
from pipeline.cli.stopping import NOTHING_WRITTEN, if_stopped
from pipeline.models.config import (
    ModelConfig,
    all_model_configs,
    is_config_name,
    load_model_config,
    shipped_model_configs,
)
from pipeline.models.weights import cache_place, missing_weights, weights_place


class _Models(WholeSentences):
    """Says what to write where a model's name stands in place of a command."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not ctx.resilient_parsing and name not in self.commands:
            if name == "list":
                ctx.fail("No such command 'list'; `diffstyle models` alone lists them.")
            if name in all_model_configs() or not is_config_name(name):
                ctx.fail(f"No such command {name!r}; a model is shown by `diffstyle models show {name}`.")
        return super().resolve_command(ctx, args)


@click.group(cls=_Models, invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
@if_stopped(NOTHING_WRITTEN)
def models(ctx: click.Context, as_json: bool) -> None:
    """List models; show one; fetch its weights."""
    if ctx.invoked_subcommand is None:
        shipped = [_described(config, address) for address, config in shipped_model_configs().items()]
        _list([*shipped, *(_described(config) for config in all_model_configs().values())], as_json)


@models.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@if_stopped(NOTHING_WRITTEN)
def show(name: str, as_json: bool) -> None:
    """Everything known about the model NAME (or the YAML file NAME)."""
    config = load_model_config(name)
    if not is_config_name(name):
        from pipeline.jobfile.starting import starting_injection

        starting_injection(config)  # a mistake in a user's own file is told here
        _ = config.unet_architecture  # which takes importing torch
    described = _described(config, None if is_config_name(name) else name)
    if as_json:
        click.echo(json.dumps(described, indent=2))
        return
    print_values({field: value for field, value in described.items() if value is not None}, _plain)
    if not described["present"]:
        click.echo(missing_weights(config))


@models.command()
@click.argument("name")
def fetch(name: str) -> None:
    """Download the weights of the model NAME into the cache; run it again to resume a download."""
    from pipeline.models.download import fetch_model

    config = load_model_config(name)
    with _progress() as progress:
        place = fetch_model(config, progress)
    click.echo(f"{config.name}: {place}")


def _described(config: ModelConfig, address: str | None = None) -> dict[str, Any]:
    """``address``: what a job says as ``model:``; default: the name."""
    place = weights_place(config)
    weights = config.weights.model_dump(exclude_none=True)
    return {
        "name": config.name,
        "model": address or config.name,
        "title": config.title,
        "dataset": config.dataset,
        "family": config.family,
        "size": config.size,
        "present": place is not None,
        "place": str(place or cache_place(config)),
        "obtain": "fetch" if config.weights.url or config.weights.hub else "by hand" if config.weights.page else "path",
        "licence": config.licence,
        "paper": config.paper,
        "repository": config.repository,
        "architecture": config.architecture,
        "injection": config.injection or None,
        "weights": weights if "hub" in weights else {k: v for k, v in weights.items() if k != "revision"},
    }


_HEADER = ("model", "family", "size", "weights", "licence")


def _list(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    print_table(
        _HEADER,
        [
            (row["model"], row["family"], f"{row['size']} px", _state(row), row["licence"] or "not stated")
            for row in rows
        ],
    )
    if sys.stdout.isatty():
        click.echo("to fetch: diffstyle models fetch NAME. by hand: diffstyle models show NAME says from where.")


def _state(row: dict[str, Any]) -> str:
    return "here" if row["present"] else {"fetch": "to fetch", "by hand": "by hand"}.get(row["obtain"], "missing")


def _plain(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list | dict | bool) else str(value)


@contextmanager
def _progress() -> Iterator[Any]:
    """A bar on a terminal, a line every ten seconds elsewhere."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        from pipeline.storage.masking import unescaped

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, TimeRemainingColumn(), console=Console(file=unescaped(sys.stderr))) as bar:
            tasks: dict[str, Any] = {}

            def draw(name: str, done: int, total: int | None) -> None:
                if name not in tasks:
                    tasks[name] = bar.add_task(name, total=total)
                bar.update(tasks[name], completed=done, total=total)

            yield draw
        return
    shown_at = time.monotonic()

    def write(name: str, done: int, total: int | None) -> None:
        nonlocal shown_at
        if time.monotonic() - shown_at >= 10:
            shown_at = time.monotonic()
            share = f" of {total / 1e6:,.0f} MB ({done / total:.0%})" if total else " MB"
            click.echo(f"{name}: {done / 1e6:,.0f}{share}", err=True)

    yield write
