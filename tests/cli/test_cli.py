"""The command line: quick to start, one line for an error, exit codes that a scheduler can act on."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from diffstyle import __version__
from diffstyle.errors import ConfigError
from pipeline.cli import main
from pipeline.storage.yamlfile import MistakesError

ROOT = Path(__file__).resolve().parents[2]


def diffstyle(*args, **options):
    command = [sys.executable, "-m", "pipeline", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, **options)


def group_of(function) -> click.Group:
    """A group like the real one whose one command `go` is the function."""
    group = main.LazyGroup("diffstyle", table={}, params=main.main.params, callback=main.main.callback)
    group.table["go"] = ("", "Go.")
    group.get_command = lambda ctx, name: click.Command("go", callback=function)  # type: ignore[method-assign]
    return group


def raising(error):
    def go():
        raise error

    return go


def test_help_is_quick_and_imports_nothing_heavy():
    probe = (
        "import sys, time; begin = time.perf_counter()\n"
        "from pipeline.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'ray', 'pandas', 'pyarrow', 'numpy', 'PIL', 'pydantic', 'yaml', 'rich'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy))\n"
    )
    result = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "heavy: []" in result.stdout, result.stdout + result.stderr
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        assert diffstyle("--help").returncode == 0
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.5


def test_models_can_be_listed_without_torch():
    probe = "import sys, pipeline.cli.models; print({'torch', 'ray', 'pyarrow'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "set()", result.stderr


def test_help_lists_the_commands_that_exist():
    result = diffstyle("--help")
    for name, (place, text) in main.COMMANDS.items():
        module = ROOT.joinpath(*place.partition(":")[0].split(".")).with_suffix(".py")
        assert f"  {name} " in result.stdout
        assert module.is_file()
        assert text.endswith(".")
    assert diffstyle().stdout + diffstyle().stderr != ""


def test_every_command_of_the_table_loads():
    for name in main.main.list_commands(click.Context(main.main)):
        assert isinstance(main.main.get_command(click.Context(main.main), name), click.Command), name


def test_version():
    assert diffstyle("--version").stdout.strip() == f"diffstyle, version {__version__}"


@pytest.mark.parametrize(
    ("function", "code", "said"),
    [
        (lambda: None, 0, ""),
        (lambda: 3, 3, ""),
        (raising(ConfigError("job.yaml:3: x\nis wrong")), 2, "error: job.yaml:3: x is wrong\n"),
        (raising(MistakesError(["a: 1", "b: 2"])), 2, "error: a: 1\nerror: b: 2\n"),
        (
            raising(KeyboardInterrupt()),
            4,
            "stopped; what is finished is kept, and the same command goes on from",
        ),
        (raising(OSError(errno.ENOSPC, "No space left", "/out/x")), 4, "error: the disk is full (/out/x); free some"),
        (raising(click.ClickException("wrong")), 2, "error: wrong\n"),
    ],
)
def test_how_commands_end(function, code, said):
    result = CliRunner().invoke(group_of(function), ["go"])
    assert result.exit_code == code
    assert said in result.output
    assert "Traceback" not in result.output


def test_errors_from_ray_workers_are_told_by_their_cause():
    class RayTaskError(Exception):
        cause = ConfigError("the real reason")

    result = CliRunner().invoke(group_of(raising(RayTaskError("long\nremote\ntraceback"))), ["go"])
    assert (result.exit_code, result.output) == (2, "error: the real reason\n")


def test_a_bug_shows_its_traceback():
    result = CliRunner().invoke(group_of(raising(ValueError("oops"))), ["go"])
    assert result.exit_code == 1
    assert "ValueError: oops" in result.output
    assert "bug" in result.output


def test_verbose_shows_tracebacks():
    for args, expected in ((["go"], False), (["-v", "go"], True), (["--verbose", "go"], True)):
        result = CliRunner().invoke(group_of(raising(ConfigError("x"))), args)
        assert result.exit_code == 2
        assert ("Traceback" in result.output) == expected


def test_unknown_commands_and_options():
    for args in (["runn"], ["--nope"], ["models", "--nope"], ["models", "show"]):
        result = diffstyle(*args)
        assert result.returncode == 2
        assert "Traceback" not in result.stderr
        assert "Usage:" in result.stderr


def test_sigterm_ends_like_ctrl_c(tmp_path):
    script = (
        "import time, click\nfrom pipeline.cli import main as cli\n"
        "group = cli.LazyGroup('x', table={})\n"
        "def go():\n    print('up', flush=True)\n    time.sleep(30)\n"
        "group.get_command = lambda ctx, name: click.Command('go', callback=go)\n"
        "group.main(['go'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "up\n"
    process.terminate()
    _, err = process.communicate(timeout=20)
    assert process.returncode == 4
    assert err.strip().startswith("stopped;")


def test_models_command(tmp_path):
    import os

    env = os.environ | {"DIFFSTYLE_CACHE": str(tmp_path)}
    lines = diffstyle("models", env=env).stdout.splitlines()
    assert len(lines) >= 10
    assert any(line.startswith("imagenet\tadm\t256\tnot here: diffstyle models fetch imagenet\t") for line in lines)
    place = tmp_path / "models" / "afhq-dog" / "afhq_dog_4m.pt"
    place.parent.mkdir(parents=True)
    place.touch()
    rows = {row["name"]: row for row in json.loads(diffstyle("models", "--json", env=env).stdout)}
    assert rows["afhq-dog"]["present"]
    assert rows["afhq-dog"]["place"] == str(place)
    assert not rows["ffhq"]["present"]
    shown = diffstyle("models", "show", "ffhq", env=env)
    assert "  page: https://github.com/jychoi118/P2-weighting" in shown.stdout
    assert json.loads(diffstyle("models", "show", "ffhq", "--json", env=env).stdout) == rows["ffhq"]
    fetched = diffstyle("models", "fetch", "ffhq", env=env)
    assert fetched.returncode == 2
    assert "download ffhq_p2.pt by hand from https://github.com/jychoi118/P2-weighting" in fetched.stderr
    wrong = diffstyle("models", "show", "ffhk", env=env)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "did you mean 'ffhq'?" in wrong.stderr


def test_the_reader_of_the_output_may_go_away():
    command = f"{sys.executable} -m pipeline models --json | head -1; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in result.stderr
