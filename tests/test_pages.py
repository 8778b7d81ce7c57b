"""What the pages name exists: every command and option, and what their Python imports."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from pipeline.cli.main import main as cli
from pipeline.jobfile.load import load_job
from pipeline.jobfile.starting import starting_injection
from pipeline.models.config import load_model_config

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in _BLOCK.findall(page.read_text()) if kind == language]


def shell_lines(page: Path) -> Iterator[str]:
    """Every line of a page's shell blocks that calls ``diffstyle``."""
    for block in blocks(page, "sh") + blocks(page, "console"):
        for line in block.replace("\\\n", " ").splitlines():
            yield from re.findall(r"(?:^|\s)((?:\.venv/bin/)?diffstyle .*)", line.partition("#")[0].rstrip())


def named_commands(page: Path) -> Iterator[str]:
    """Every command that is named within a sentence; its arguments may be omitted there."""
    for code in _CODE.findall(_BLOCK.sub("", page.read_text())):
        if code.startswith("diffstyle "):
            yield code


SHELL = sorted({(page.name, line) for page in PAGES for line in shell_lines(page)})
NAMED = sorted({(page.name, line) for page in PAGES for line in named_commands(page)})


def parsed(line: str) -> tuple[click.Command, list[str]]:
    """The command that a line calls, and the words that follow it."""
    words = shlex.split(re.split(r"\s[|>]|\s2>", line)[0])[1:]
    command: click.Command = cli
    with click.Context(cli) as context:
        while words and isinstance(command, click.Group):
            if words[0].startswith("-"):
                words.pop(0)
                continue
            inner = command.get_command(context, words[0])
            assert inner is not None, f"`{line}`: there is no command {words[0]}"
            command, words = inner, words[1:]
    return command, words


def understood(line: str) -> None:
    """The line's options exist, and the command takes its arguments; nothing runs."""
    command, words = parsed(line)
    command.make_context(command.name, [word for word in words if word.strip("[].")])


@pytest.mark.parametrize(("page", "line"), SHELL)
def test_lines_of_shell_are_understood(page: str, line: str) -> None:
    understood(line)


@pytest.mark.parametrize(("page", "line"), NAMED)
def test_commands_within_sentences_exist_with_their_options(page: str, line: str) -> None:
    command, words = parsed(line)
    used = {word.strip("[]").partition("=")[0] for word in words if word.lstrip("[").startswith("-")}
    assert used <= {*options(command), "--help"}


def test_lines_are_looked_at() -> None:
    assert len(SHELL) > 20
    assert len(NAMED) > 30
    with pytest.raises(AssertionError, match="no command heal"):
        understood("diffstyle heal results/tiny")
    with pytest.raises(click.NoSuchOption):
        understood("diffstyle run job.yaml --dry")
    with pytest.raises(click.UsageError):
        understood("diffstyle bank export a b --format zip")
    with pytest.raises(click.UsageError):
        understood("diffstyle run")


def options(command: click.Command) -> set[str]:
    names = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    if isinstance(command, click.Group):
        with click.Context(command) as context:
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                names |= options(inner)
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_within_sentences_exist(page: Path) -> None:
    text = _BLOCK.sub("", page.read_text())
    named = {code.split()[0].partition("=")[0] for code in _CODE.findall(text) if re.match(r"--[a-z]", code)}
    of_scripts = {
        name
        for script in (ROOT / "benchmarks").glob("*.py")
        for name in re.findall(r"--[a-z][\w-]*", script.read_text())
    }
    assert named - options(cli) - of_scripts - {"--help"} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_of_a_page_can_be_read_and_imports_what_exists(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in ("pipeline", "diffstyle"):
                module = importlib.import_module(str(node.module))
                assert [one.name for one in node.names if not hasattr(module, one.name)] == [], page.name


BEGINNERS = [ROOT / "README.md", ROOT / "docs" / "quick-start.md", *sorted((ROOT / "docs" / "tutorials").glob("*.md"))]


def test_one_plan_is_advised_everywhere():
    """`fast` to look, none for the data set itself, for the reason in docs/speed.md; the paper's jobs say its own."""
    jobs = {file: load_job(file) for file in (ROOT / "jobs" / "demo.yaml", ROOT / "jobs" / "tiny.yaml")}
    advised = {file.name: job.injection.plan for file, job in jobs.items()}
    advised |= {name: starting_injection(load_model_config(name))["plan"] for name in ("tiny", "demo-64", "celebahq")}
    for page in BEGINNERS:
        injections = [yaml.safe_load(block).get("injection", {}) for block in blocks(page, "yaml")]
        advised |= {f"{page.name}, {n}": one["plan"] for n, one in enumerate(injections) if "plan" in one}
    assert {"README.md, 0", "quick-start.md, 0", "style-mixing.md, 0"} <= set(advised)
    assert {name: plan for name, plan in advised.items() if plan != "fast"} == {}
    assert "### Which plan" in (ROOT / "docs" / "speed.md").read_text()
    assert all("speed.md#which-plan" in page.read_text() for page in BEGINNERS[:2])
