"""What commands have in common: the options of those that run a job, and how values are shown."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem


def _complete_job(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For completion in a shell: the ready jobs, and files."""
    from pipeline.storage.shipped import shipped_files

    ready = [CompletionItem(name) for name in shipped_files("jobs") if name.startswith(incomplete)]
    return [*ready, CompletionItem(incomplete, type="file")]


class WholeSentences(click.Group):
    """A group whose help has the first sentence of each command, over several lines where it is long, never cut."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(limit=1000)) for name, one in commands if one])


#: The argument JOB of every command that takes a job.
job_argument = click.argument("job", metavar="JOB.yaml", shell_complete=_complete_job)


def job_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The argument JOB and the options of every command that runs one."""
    for decorate in reversed(
        (
            job_argument,
            click.option(
                "--set",
                "overrides",
                multiple=True,
                metavar="KEY=VALUE",
                help="Override a field of the job, e.g. injection.gamma=0.4. May be given several times.",
            ),
            click.option("--address", help="Join the Ray cluster at this address instead of starting an embedded Ray."),
            click.option("--local", is_flag=True, help="Compute in this process, without Ray: for small jobs."),
            click.option("--retry-failed", is_flag=True, help="Try again what failed before."),
            click.option(
                "--max-failures",
                type=click.IntRange(min=0),
                metavar="N",
                help="Stop after more than N failed pictures or pairs; instead of the job's compute.max_failures.",
            ),
            click.option("--quiet", "-q", is_flag=True, help="No progress, only the summary."),
            click.option(
                "--summary",
                metavar="FILE",
                help="Write a summary as JSON when the run ends, however it ends.",
            ),
            click.option(
                "--webhook",
                envvar="DIFFSTYLE_WEBHOOK",
                metavar="URL",
                help="POST that summary to this address. Better by the variable DIFFSTYLE_WEBHOOK, which no list of "
                "processes shows.",
            ),
        )
    ):
        command = decorate(command)
    return command


def run_stages(
    job: str,
    overrides: tuple[str, ...],
    stages: Sequence[str] | None,
    summary: str | None = None,
    webhook: str | None = None,
    **options: Any,
) -> int:
    """Run some stages of a job, say what was made, and return the exit code."""
    from pipeline.jobfile.load import load_job
    from pipeline.runner.closing import told_at_the_end
    from pipeline.runner.closing_checks import check_webhook, summary_file

    file = None if summary is None else summary_file(summary, job, _output_of(job, overrides))
    if webhook is not None:
        check_webhook(webhook)
    with told_at_the_end(file, webhook) as closing:
        loaded = load_job(job, overrides, check_inputs=True)
        closing.output = loaded.output

        from pipeline.runner.api import run

        result = run(loaded, stages=stages, counts=closing.counts, **options)
        closing.exit_code = result.exit_code
    click.echo(str(result))
    if result.counts.pairs_made and not options["quiet"]:
        say_next("report" if loaded.score and stages is None else "score", loaded.output)
    return result.exit_code


def on_a_terminal() -> bool:
    """Whether a person reads what the command prints."""
    return sys.stdout.isatty()


def say_next(command: str, run: str) -> None:
    """On a terminal, name the command that goes on from here with a run."""
    if on_a_terminal():
        click.echo(f"next: diffstyle {command} {shlex.quote(run)}")


def _output_of(job: str, overrides: tuple[str, ...]) -> str | None:
    """Where a job writes; None where it can't be read, which the run itself is about to say."""
    from diffstyle.errors import DiffStyleError
    from pipeline.jobfile.load import load_job

    try:
        return load_job(job, overrides).output
    except (DiffStyleError, OSError):
        return None


def show_preview(
    job: str, overrides: tuple[str, ...], retry_failed: bool = False, measure: bool = False, elsewhere: bool = False
) -> int:
    """Print what a job would do now, and return the exit code: 2 where it can't run here."""
    from pipeline.jobfile.load import load_job
    from pipeline.runner.api import preview

    loaded = load_job(job, overrides, check_inputs=True)
    state = preview(loaded, retry_failed=retry_failed, measure=measure, elsewhere=elsewhere)
    click.echo(str(state))
    return state.exit_code


def print_values(values: Mapping[str, Any], shown: Callable[[Any], str]) -> None:
    """Print a line for each value, those of a mapping below its name; ``shown`` makes the text of one."""
    for name, value in values.items():
        if isinstance(value, dict):
            click.echo(f"{name}:")
            for inner, detail in value.items():
                click.echo(f"  {inner}: {shown(detail)}")
        else:
            click.echo(f"{name}: {shown(value)}")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: with lines on a terminal, elsewhere in columns that are two spaces or more apart."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        from pipeline.storage.masking import unescaped

        table = Table(*header)
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        Console(file=unescaped(sys.stdout)).print(table)
        return
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def picture_target(out: Path | None, stem: str, inputs: Sequence[str] = (), option: str = "--out") -> Path:
    """The file that a picture is to be written to: ``out``, or else STEM.png here, numbered where that is there.

    Raises:
        ConfigError: ``out`` is no picture by its name, its folder is missing, or it is one of ``inputs``.
    """
    from diffstyle.errors import ConfigError

    if out is None:
        names = (f"{stem[:120]}{'' if n == 1 else f'-{n}'}.png" for n in range(1, 10_000))
        return next(Path(one) for one in names if not Path(one).exists())
    if out.suffix.lower() not in _PICTURES:
        raise ConfigError(f"{option} {out}: must end in one of {', '.join(_PICTURES)}")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"{option} {out}: there is no folder {out.parent}; make it first")
    if any(Path(one).exists() and out.exists() and out.samefile(one) for one in inputs):
        raise ConfigError(f"{option} {out}: is one of the two pictures; give another name")
    return out


_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
