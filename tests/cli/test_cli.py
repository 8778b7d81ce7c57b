"""The command line: quick to start, one line for an error, exit codes that a scheduler can act on."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from support.whole_jobs import MODEL

from diffstyle import __version__
from diffstyle.errors import ConfigError
from pipeline.cli import main
from pipeline.storage.errors import EXIT_BUG, EXIT_STOPPED
from pipeline.storage.yamlfile import MistakesError

ROOT = Path(__file__).resolve().parents[2]


def diffstyle(*args, **options):
    command = [sys.executable, "-m", "pipeline", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, **options)


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


@pytest.mark.parametrize(
    ("words", "nearest"),
    [(["rnu", "job.yaml"], "Did you mean 'run'?"), (["Score"], "Did you mean 'score'?"), (["bank", "inof"], "'info'")],
)
def test_a_misspelt_command_is_told_the_nearest(words, nearest):
    result = CliRunner().invoke(main.main, words)
    assert result.exit_code == 2
    assert nearest in result.output, result.output


@pytest.mark.parametrize(
    ("words", "cure"),
    [
        (["run", "job.yaml", "--gamma", "0.4"], "gamma is a field of the job: --set injection.gamma=VALUE\n"),
        (["try", "--t-edit", "9"], "t_edit is a field of the job: --set injection.t_edit=VALUE\n"),
        (
            ["plan", "job.yaml", "--plan=fast"],
            "plan is a field of the job: --set inversion.plan=VALUE or --set injection.plan=VALUE\n",
        ),
        (["run", "job.yaml", "--dryrun"], "Error: No such option '--dryrun'. Did you mean '--dry-run'?\n"),
        (["score", "out", "--gamma", "0.4"], "Error: No such option '--gamma'.\n"),
        (["models", "list"], "Error: No such command 'list'; `diffstyle models` alone lists them.\n"),
        (
            ["models", "afhq-dog"],
            "Error: No such command 'afhq-dog'; a model is shown by `diffstyle models show afhq-dog`.\n",
        ),
        (["models", "shw"], "Error: No such command 'shw'. Did you mean 'show'?\n"),
    ],
)
def test_what_one_naturally_tries_is_told_the_cure(words, cure):
    result = CliRunner().invoke(main.main, words)
    assert result.exit_code == 2
    assert result.output.endswith(cure), result.output


def test_a_model_whose_weights_are_not_here_is_shown_with_the_way_to_them(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFSTYLE_CACHE", str(tmp_path))
    for name, way in {
        "afhq-dog": "download afhq_dog_4m.pt by hand from https://github.com/jychoi118/ilvr_adm (the README's link \"",
        "celebahq": "run `diffstyle models fetch celebahq`",
    }.items():
        last = CliRunner().invoke(main.main, ["models", "show", name]).output.splitlines()[-1]
        assert last.startswith(f"weights of {name} are not here yet; {way}"), last
    assert "not here" not in CliRunner().invoke(main.main, ["models", "show", str(MODEL)]).output


def test_help_is_quick_since_it_imports_next_to_nothing():
    """Seconds say how fast the machine is; 121 modules of Python, click and ours were a tenth of one."""
    probe = (
        "import sys\n"
        "from pipeline.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'ray', 'pandas', 'pyarrow', 'numpy', 'PIL', 'pydantic', 'yaml', 'rich'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy), len(sys.modules) < 200)\n"
    )
    result = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert "heavy: [] True" in result.stdout, result.stdout + result.stderr


def test_models_can_be_listed_without_torch():
    probe = "import sys, pipeline.cli.models; print({'torch', 'ray', 'pyarrow'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, timeout=300)
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
        (
            raising(OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300)),
            2,
            f"error: {'x' * 117}...: File name too long; give another name\n",
        ),
        (
            raising(IsADirectoryError(21, "Is a directory", "/out/plan.json")),
            2,
            "error: /out/plan.json: a folder is where a file should be, or a file where a folder should be; "
            "move it away and run the command again\n",
        ),
    ],
)
def test_how_commands_end(function, code, said):
    result = CliRunner().invoke(group_of(function), ["go"])
    assert result.exit_code == code
    assert said in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "arguments",
    [("try", MODEL, MODEL, "--out", f"{'x' * 260}.png"), ("explain", "tiny", "--out", f"{'x' * 260}.png")],
    ids=lambda arguments: arguments[0],
)
def test_a_name_that_no_file_can_have_is_one_line(arguments):
    result = CliRunner().invoke(main.main, [*map(str, arguments)])
    assert result.exit_code == 2
    assert result.output.splitlines()[-1] == f"error: {'x' * 117}...: File name too long; give another name"
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


@pytest.mark.parametrize("command", [("models", "show", "nope"), ("status", "/nowhere"), ("bank", "info", "/nowhere")])
def test_verbose_may_be_written_anywhere(command):
    for at in range(len(command) + 1):
        for flag in ("-v", "--verbose"):
            result = CliRunner().invoke(main.main, [*command[:at], flag, *command[at:]])
            assert result.exit_code == 2
            assert "Traceback" in result.output, (at, flag)
    result = CliRunner().invoke(main.main, command)  # and is not remembered
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert "-v, --verbose" in CliRunner().invoke(main.main, [*command[:-1], "--help"]).output


def test_a_value_that_looks_like_it_is_a_value(tmp_path):
    result = CliRunner().invoke(main.main, ["models", "show", "--", "-v"])
    assert "unknown model '-v'" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("system", ["win32", "cygwin", "freebsd14"])
def test_other_systems_are_told_in_the_first_line(system):
    code = (
        f"import sys, click; sys.platform = {system!r}; sys.modules['fcntl'] = None\n"
        "from pipeline.cli.main import main\nmain(['status', '/nowhere'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    name = {"win32": "Windows", "cygwin": "Cygwin"}.get(system, system)
    assert done.stderr.startswith(f"error: DiffStyle runs on Linux and macOS, not on {name};")
    assert (done.stderr.count("\n"), done.stdout) == (1, "")
    code = f"import sys; sys.platform = {system!r}\nimport pipeline\npipeline.run"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stderr.splitlines()[-1].startswith("ImportError: DiffStyle runs on Linux and macOS")


def test_the_systems_are_said_on_the_first_page_and_in_the_metadata():
    assert "Linux or macOS" in (ROOT / "README.md").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    systems = [line for line in project["classifiers"] if line.startswith("Operating System")]
    assert systems == ["Operating System :: MacOS", "Operating System :: POSIX :: Linux"]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("diffstyle ", {"run", "try", "models"}),
        ("diffstyle bank ex", {"export"}),
        ("diffstyle run --lo", {"--local"}),
        ("diffstyle run ha", {"harmonization"}),
        ("diffstyle plan de", {"demo"}),
    ],
)
def test_completion_in_a_shell(words, offered):
    env = os.environ | {"_DIFFSTYLE_COMPLETE": "bash_complete", "COMP_WORDS": words}
    done = diffstyle(env=env | {"COMP_CWORD": str(len(words.split(" ")) - 1)})
    assert offered <= {line.partition(",")[2] for line in done.stdout.splitlines()}
    script = diffstyle(env=os.environ | {"_DIFFSTYLE_COMPLETE": "bash_source"}).stdout
    assert "complete -o nosort -F _diffstyle_completion diffstyle" in script


def test_unknown_commands_and_options():
    for args in (["runn"], ["--nope"], ["models", "--nope"], ["models", "show"]):
        result = diffstyle(*args)
        assert result.returncode == 2
        assert "Traceback" not in result.stderr
        assert "Usage:" in result.stderr


SLOW_TO_STOP = """
import signal, sys, time, click
from pathlib import Path
from pipeline.cli import main as cli
# Said either way: the tests themselves may have been started under nohup.
signal.signal(signal.SIGHUP, signal.SIG_IGN if "nohup" in sys.argv else signal.SIG_DFL)
group = cli.LazyGroup("x", table={})
def go():
    try:
        print("up", flush=True)
        time.sleep(3 if "nohup" in sys.argv else 30)
    finally:
        print("cleaning", flush=True)
        while not Path(sys.argv[1]).exists():
            time.sleep(0.05)
        print("clean", flush=True)
group.get_command = lambda ctx, name: click.Command("go", callback=go)
group.main(["go"])
"""


def stopped_by(clean: Path, *signals: signal.Signals, how: str = "") -> tuple[int, str, str]:
    """A command that cleans up until there is a file ``clean``, and gets ``signals``, all but the first meanwhile."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_TO_STOP, str(clean), how],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "up\n"
    process.send_signal(signals[0])
    said = ""
    if len(signals) > 1:
        assert process.stdout.readline() == "cleaning\n"
        process.send_signal(signals[1])
        while "stopping" not in said:  # it was heard
            line = process.stderr.readline()
            assert line
            said += line
    for number in signals[2:]:
        process.send_signal(number)
    if len(signals) < 3:
        clean.touch()
    out, err = process.communicate(timeout=300)
    return process.returncode, out, said + err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_command_in_order(tmp_path, number):
    code, out, err = stopped_by(tmp_path / "clean", number)
    assert code == 4
    assert "clean\n" in out
    assert err.strip().startswith("stopped;")
    assert len(err.split("\n")) <= 3  # click begins with an empty line, after the ^C of a terminal


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_does_not_disturb_the_clean_up(tmp_path, second):
    code, out, err = stopped_by(tmp_path / "clean", signal.SIGTERM, second)
    assert code == 4
    assert out == "clean\n"
    assert [line.split()[0] for line in err.splitlines() if line] == ["stopping", "stopped;"]


def test_a_third_signal_ends_at_once(tmp_path):
    code, out, _ = stopped_by(tmp_path / "never", signal.SIGTERM, signal.SIGTERM, signal.SIGTERM)
    assert code == -signal.SIGTERM
    assert out == ""


def test_under_nohup_a_hangup_is_ignored(tmp_path):
    code, out, _ = stopped_by(tmp_path / "clean", signal.SIGHUP, how="nohup")
    assert code == 0
    assert out == "cleaning\nclean\n"


def test_models_command(tmp_path):

    env = os.environ | {"DIFFSTYLE_CACHE": str(tmp_path)}
    header, *lines = diffstyle("models", env=env).stdout.splitlines()
    assert header.split() == ["model", "family", "size", "weights", "licence"]
    assert len(lines) >= 10
    cells = [re.split("  +", line) for line in lines]
    assert ["shipped:demo/model/demo-64.yaml", "ddpm", "64 px", "here", "Apache-2.0"] in cells
    assert ["imagenet", "adm", "256 px", "to fetch"] in [line[:4] for line in cells]
    assert ["ffhq", "adm", "256 px", "by hand"] in [line[:4] for line in cells]
    assert {re.search(" (adm|ddpm) ", line).start() for line in lines} == {header.index("family") - 1}  # columns
    demo = diffstyle("models", "show", "shipped:demo/model/demo-64.yaml", env=env)
    assert "model: shipped:demo/model/demo-64.yaml\n" in demo.stdout
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
    for unbuffered in ("", "1"):
        env = os.environ | {"PYTHONUNBUFFERED": unbuffered}
        result = subprocess.run(
            ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=300, env=env, check=False
        )
        assert result.stderr == ""
        assert result.stdout.splitlines()[-1] == "0"


def test_a_command_goes_on_when_its_reader_has_gone(tmp_path):
    script = (
        "import sys, time, click\nfrom pathlib import Path\nfrom pipeline.cli import main as cli\n"
        "group = cli.LazyGroup('x', table={})\n"
        "def go():\n"
        "    for n in range(20):\n        click.echo(f'line {n}', err=n % 2 == 1)\n        time.sleep(0.05)\n"
        f"    Path({str(tmp_path / 'done')!r}).touch()\n"
        "group.get_command = lambda ctx, name: click.Command('go', callback=go)\n"
        "group.main(['go'])\n"
    )
    (tmp_path / "script.py").write_text(script)
    command = f"{sys.executable} {tmp_path / 'script.py'} 2>&1 | head -1; echo ${{PIPESTATUS[0]}}"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=300, env=env, check=False)
    assert done.stdout == "line 0\n0\n"
    assert done.stderr == ""
    assert (tmp_path / "done").exists()


def test_a_file_that_ends_too_soon_is_no_stop():
    """Click takes an EOFError for a user's Ctrl-D; "stopped", code 4, would start the same command again and again."""
    result = CliRunner().invoke(group_of(raising(EOFError("no data left in file"))), ["go"])
    assert result.exit_code == EXIT_BUG
    assert "no data left in file" in result.output
    assert "stopped" not in result.output


def test_an_end_of_the_input_at_a_question_is_a_stop():
    result = CliRunner().invoke(group_of(lambda: click.confirm("sure?")), ["go"], input="")
    assert result.exit_code == EXIT_STOPPED
