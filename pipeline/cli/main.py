"""The ``diffstyle`` command: a table of subcommands, each imported only when it runs, and what becomes of errors.

Exit codes, for schedulers: 0 all done; 2 wrong input, nothing to gain from running it again unchanged; 3 done, with
failures that the manifest names; 4 stopped, and the same command goes on from there; 1 a bug.
A command returns its exit code (None: 0) or raises a DiffStyleError, which carries one.
"""

from __future__ import annotations

import atexit
import errno
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import click

from diffstyle import __version__
from diffstyle.errors import DiffStyleError, cut
from pipeline.cli.stopping import KEPT, CommandStopped
from pipeline.storage.errors import EXIT_BUG, EXIT_DONE, EXIT_STOPPED, EXIT_WRONG_INPUT, BugError, fatal
from pipeline.storage.masking import masked_output
from pipeline.storage.system import unsupported_system
from pipeline.storage.visible import on_one_line

#: name -> (module:attribute, help). The help stands here so that ``diffstyle --help`` imports no command.
COMMANDS = {
    "try": ("pipeline.cli.try_pair:try_pair", "One pair at once, from two picture files; no job file."),
    "new": ("pipeline.cli.new:new", "Write a commented job file: asked for, or from options."),
    "explain": (
        "pipeline.cli.explain:explain",
        "Say a job's steps in words and as a picture, and what each parameter does.",
    ),
    "jobs": ("pipeline.cli.jobs:jobs", "List the ready jobs."),
    "run": ("pipeline.cli.run:run", "Run a job: shard, precompute, inject."),
    "submit": ("pipeline.cli.submit:submit", "Run a job on a Ray cluster or on Slurm, from any machine."),
    "plan": ("pipeline.cli.plan:plan", "Say what a job would compute, and how large its banks would be."),
    "shard": ("pipeline.cli.shard:shard", "Stage 1: prepare pictures, write them to WebDataset shards."),
    "precompute": ("pipeline.cli.precompute:precompute", "Stage 2: invert prepared pictures into a latent bank."),
    "inject": ("pipeline.cli.inject:inject", "Stage 3: make the pairs' pictures and the manifest."),
    "score": ("pipeline.cli.score:score", "Stage 4: score every picture: content kept, style kept, sanity."),
    "select": ("pipeline.cli.select:select", "Choose pairs by their scores and write them as a data set."),
    "again": ("pipeline.cli.again:again", "Make one row of a data set or a run again, and compare."),
    "report": ("pipeline.cli.report:report", "Write a page, for a browser, that shows every pair with its scores."),
    "status": ("pipeline.cli.status:status", "Say what of a run is done, failed and left."),
    "failures": ("pipeline.cli.failures:failures", "List every rejected source and failed pair, with its reason."),
    "verify": ("pipeline.cli.verify:verify", "Check that all of a run's output is as it was written; --repair it."),
    "prune": ("pipeline.cli.prune:prune", "Drop the pictures that no current job wants."),
    "doctor": ("pipeline.cli.doctor:doctor", "Look at versions, devices, disk, Ray and weights, with what to do."),
    "models": ("pipeline.cli.models:models", "List models, fetch their weights."),
    "bank": ("pipeline.cli.bank:bank", "Look into latent banks, check and change them."),
    "reconstruct": ("pipeline.cli.reconstruct:reconstruct", "Sample pictures back from a bank, with their PSNR."),
    "train": ("pipeline.cli.train:train", "Train a small diffusion model."),
    "quality": ("pipeline.cli.quality:quality", "Score a model and settings on pictures with known answers."),
    "bench": ("pipeline.cli.bench:bench", "Measure speed on this machine."),
}


#: Holds a word where this call of the command is to show tracebacks.
_VERBOSE: set[str] = set()


def _verbose_option() -> click.Option:
    def note(ctx: click.Context, option: click.Parameter, given: bool) -> None:
        if given:
            _VERBOSE.add("verbose")

    return click.Option(
        ["-v", "--verbose"], is_flag=True, expose_value=False, is_eager=True, callback=note, help="Show tracebacks."
    )


def _take_verbose(command: click.Command) -> None:
    """Let a command, and those in it, take ``-v`` too, so that it may be written anywhere."""
    if not any("-v" in parameter.opts for parameter in command.params):
        command.params.append(_verbose_option())
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        _take_verbose(inner)


class LazyGroup(click.Group):
    """A group that knows its commands from a table and imports the one that runs."""

    def __init__(self, *args: Any, table: dict[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.table:
            return None
        module, _, attribute = self.table[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        _take_verbose(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not (name.startswith("-") or ctx.resilient_parsing) and self.get_command(ctx, name) is None:
            from difflib import get_close_matches

            near = get_close_matches(name.lower(), self.table, n=1)
            ctx.fail(f"No such command {name!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.table.items()])

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, standalone_mode: bool = True, **kw: Any
    ) -> Any:
        """Run, and leave with the exit codes of this module's docstring."""
        if not standalone_mode:
            return super().main(args, prog_name, standalone_mode=False, **kw)
        if (refusal := unsupported_system()) is not None:
            _say(f"error: {refusal}")
            sys.exit(EXIT_WRONG_INPUT)
        _VERBOSE.clear()
        with _stopping_in_order(), _output_that_may_close(), masked_output():
            try:
                result = super().main(args, prog_name, standalone_mode=False, **kw)
            except BaseException as error:  # noqa: BLE001 - the one place where every error ends; none is swallowed
                _leave(error, bool(_VERBOSE))
        sys.exit(result if isinstance(result, int) else EXIT_DONE)


@contextmanager
def _stopping_in_order() -> Iterator[None]:
    """While inside, Ctrl-C, SIGTERM and SIGHUP stop the command in order, once; schedulers send one after the other.

    The second says that this is under way, and the third ends the process at once. SIGHUP stays ignored under nohup.
    Once a signal came, that holds until the process has ended, so that its exit code is the command's.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received = 0

    def stop(number: int, frame: object) -> None:
        nonlocal received
        received += 1
        if received == 1:
            raise KeyboardInterrupt("Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name)
        if received == 2:
            with suppress(OSError):
                os.write(2, b"stopping already; a third signal ends it at once, which loses nothing that is finished\n")
            return
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in wanted if signal.getsignal(number) != signal.SIG_IGN}

    def ignore() -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)

    for number in before:
        signal.signal(number, stop)
    # The interpreter drops handlers in Python when it ends, and then a signal would kill it while torch is unloaded;
    # what is ignored stays so. Registered before anything else, this runs last.
    atexit.register(ignore)
    try:
        yield
    finally:
        if not received:  # else the process is about to end, and what ends it is not to be disturbed
            atexit.unregister(ignore)
            for number, handler in before.items():
                signal.signal(number, handler)


class _Output:
    """A stream for people whose reader may go away: what is written after that is dropped, and the command goes on."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
            if "\n" in text:  # now, so that a reader that is gone is noticed here and not at the end
                self._stream.flush()
        except BrokenPipeError:
            self._drop()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _output_that_may_close() -> Iterator[None]:
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and _Output(stream) for stream in before)  # type: ignore[assignment]
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, _Output):
                stream.flush()
        sys.stdout, sys.stderr = before


def _leave(error: BaseException, verbose: bool) -> NoReturn:
    """Say what happened and exit with its code."""
    cause = getattr(error, "cause", None)
    if isinstance(error, click.Abort) and isinstance(error.__cause__, CommandStopped):  # click wraps a Ctrl-C
        error = error.__cause__
    if isinstance(error, click.Abort) and isinstance(error.__cause__, EOFError):  # and a file that ends too soon
        error = error.__cause__
    if isinstance(cause, DiffStyleError):  # Ray wraps what a task raised, with the worker's traceback in the text
        error = cause
    if isinstance(error, SystemExit):
        raise error
    if isinstance(error, click.exceptions.Exit):
        sys.exit(error.exit_code)
    if type(error).__name__ == "NoArgsIsHelpError" and isinstance(error, click.UsageError):  # click 8.2 and later
        error.show()
        sys.exit(EXIT_DONE)
    if isinstance(error, click.UsageError):
        error.show()
        if isinstance(error, click.NoSuchOption):
            _name_the_field(error)
        sys.exit(EXIT_WRONG_INPUT)
    if verbose and not isinstance(error, click.Abort | KeyboardInterrupt):
        traceback.print_exception(error)
    if isinstance(error, click.ClickException):
        _say(f"error: {error.format_message()}")
        sys.exit(EXIT_WRONG_INPUT)
    if isinstance(error, click.Abort | KeyboardInterrupt):
        _say(f"stopped; {error.left if isinstance(error, CommandStopped) else KEPT}")
        sys.exit(EXIT_STOPPED)
    if isinstance(error, DiffStyleError):
        for line in getattr(error, "mistakes", None) or [str(error)]:
            _say(f"error: {line}")
        sys.exit(error.exit_code)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = f" ({error.filename})" if error.filename else ""
        _say(f"error: the disk is full{place}; free some space, and the same command goes on from there")
        sys.exit(EXIT_STOPPED)
    if isinstance(error, OSError) and isinstance(stop := fatal(error), DiffStyleError):  # of a store, or rights
        _say(f"error: {stop}")
        sys.exit(stop.exit_code)
    if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        _say(f"error: {cut(str(error.filename), 120)}: {error.strerror}; give another name")
        sys.exit(EXIT_WRONG_INPUT)
    if isinstance(error, IsADirectoryError | NotADirectoryError | FileExistsError):
        _say(
            f"error: {error.filename or error}: a folder is where a file should be, or a file where a "
            "folder should be; move it away and run the command again"
        )
        sys.exit(EXIT_WRONG_INPUT)
    if isinstance(error, BrokenPipeError):  # the reader of our output went away, as in `diffstyle models | head`
        sys.stdout = sys.stderr = open("/dev/null", "w")  # noqa: SIM115, PTH123 - open until the interpreter has flushed
        sys.exit(EXIT_DONE)
    if isinstance(error, BugError):
        click.echo(str(error), err=True)
    elif not verbose:
        traceback.print_exception(error)
    _say("this is a bug in diffstyle; please report it with the lines above")
    sys.exit(EXIT_BUG)


def _name_the_field(error: click.NoSuchOption) -> None:
    """Say how a field of the job is set, where its name was given as an option."""
    if error.ctx is None or not any("--set" in parameter.opts for parameter in error.ctx.command.params):
        return
    from pipeline.jobfile.reference import job_fields

    name = error.option_name.lstrip("-").replace("-", "_")
    fields = [field.path for field in job_fields() if field.path.split(".")[-1] == name]
    if fields:
        options = " or ".join(f"--set {field}=VALUE" for field in fields)
        _say(f"{name} is a field of the job: {options}")


def _say(text: str) -> None:
    click.echo(on_one_line(" ".join(text.split("\n"))), err=True)


@click.group(cls=LazyGroup, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="diffstyle")
def main() -> None:
    """Style transfer for whole data sets: every content in every style, by frozen diffusion models, on Ray."""


main.params.append(_verbose_option())
