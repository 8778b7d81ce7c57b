"""``diffstyle run`` as a user starts it: a process of its own, with its own Ray."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from support.waiting import wait_for
from support.whole_jobs import CONTENTS, STYLES, job_file, manifest, run_job

ROOT = Path(__file__).resolve().parents[2]
ALL = {"content": str(CONTENTS), "style": str(STYLES), "compute": {"tile_seconds": 0.1}}


# The command, whose workers make the pairs of one batch and take very long over the next ones: however fast the machine
# and its user are, the run is in the middle of its pairs when it is stopped.
NEVER_DONE = """
import functools, itertools, time
from pipeline.cli.main import main
from pipeline.workers import local, ray_workers

def slow(load):
    import diffstyle.sampling
    inject, batches = diffstyle.sampling.inject, itertools.count()

    def once(*values, **options):
        time.sleep(600 if next(batches) else 0)
        return inject(*values, **options)

    diffstyle.sampling.inject = once
    return load()

for kind in (local.LocalWorkers, ray_workers.RayWorkers):
    kind.__init__ = functools.partialmethod(kind.__init__, open_model=slow)
main()
"""


def start(*arguments: str, code: str | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, *(["-m", "pipeline"] if code is None else ["-c", code]), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, text=True, start_new_session=True, **pipes)


def wait_for_pairs(process: subprocess.Popen[str], out: Path) -> None:
    def committed() -> bool:
        assert process.poll() is None, process.communicate()
        return any((out / "manifest").glob("*.parquet"))

    wait_for(committed, within=300)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=500)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    """The output of the whole job, made in one go."""
    folder = tmp_path_factory.mktemp("whole")
    run_job(folder, **ALL)
    return folder / "out"


def test_ctrl_c_ends_cleanly_and_the_same_command_goes_on(tmp_path, uninterrupted):
    file = job_file(tmp_path, **ALL)
    out = tmp_path / "out"
    process = start("run", str(file), code=NEVER_DONE)
    wait_for_pairs(process, out)
    process.send_signal(signal.SIGINT)  # to the command alone; a terminal's Ctrl-C goes to its workers as well
    code, said, err = ended(process)
    assert code == 4, err
    assert said == ""
    lines = [line for line in err.splitlines() if line]  # click moves on from the terminal's ^C with an empty one
    assert lines[-1] == "stopped; what is finished is kept, and the same command goes on from there"
    assert "\x1b" not in err
    for line in lines[:-1]:  # progress as plain lines, and nothing from Ray
        assert re.match(r"(shard|invert|inject)( content| style)?: ", line), line
    before = len(manifest(out))
    assert 0 < before < 24

    code, said, err = ended(start("run", str(file), "--quiet", "--local"))  # Ray would make the same
    assert (code, err) == (0, "")
    assert "prepared 0 pictures\ninverted 0 pictures\n" in said
    assert f"made {24 - before} pairs in " in said
    assert f"; {before} were there already" in said
    columns = ["pair", "picture", "picture_hash", "seed", "settings", "content_source", "style_source"]
    pd.testing.assert_frame_equal(manifest(out)[columns], manifest(uninterrupted)[columns])
    assert {path.name for path in (out / "pictures").rglob("*.png")} == {
        path.name for path in (uninterrupted / "pictures").rglob("*.png")
    }


@pytest.mark.parametrize("gap", [0.1, 0.4])
def test_a_second_ctrl_c_does_not_change_how_a_local_run_ends(tmp_path, gap):
    """With torch loaded, the interpreter itself takes half a second to end; a signal may come then, too."""
    file = job_file(tmp_path, **ALL)
    process = start("run", str(file), "--local", "--quiet", code=NEVER_DONE)
    wait_for_pairs(process, tmp_path / "out")
    process.send_signal(signal.SIGINT)
    time.sleep(gap)
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert code == 4, err
    assert "stopped; what is finished is kept, and the same command goes on from there" in err.splitlines()


def test_a_mistake_is_one_line_in_no_time_and_writes_nothing(tmp_path):
    file = job_file(tmp_path, injection={"gama": 1})
    code, said, err = ended(start("run", str(file)))
    assert (code, said, err.count("\n")) == (2, "", 1)
    assert "injection.gama: unknown field 'gama'; did you mean 'gamma'?" in err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_writes_nothing(tmp_path):
    code, said, err = ended(start("run", str(job_file(tmp_path)), "--dry-run", "--set", "injection.gamma=[0.1, 0.2]"))
    assert (code, err) == (0, "")
    assert "pairs      4 (all) x 2 settings" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.long
@pytest.mark.slow
def test_the_real_architecture_at_256_px(tmp_path, shared):
    """AFHQ's U-Net with random weights, as few steps as there can be: banks, picture, manifest."""
    job = {
        "model": "afhq-dog",
        "weights": "random:0",
        "output": "out",
        "content": {"folder": str(shared / "images" / "afhq" / "contents"), "limit": 1},
        "style": {"folder": str(shared / "images" / "afhq" / "styles"), "limit": 1},
        "inversion": {"steps": 3},
        "injection": {"events": 2, "plan": {"grid": 3}},
        "compute": {"device": "cpu", "actors": 1},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    code, said, err = ended(start("run", str(tmp_path / "job.yaml"), "--local"))
    assert code == 0, err
    assert "made 1 pair " in said
    (row,) = manifest(tmp_path / "out").to_dict("records")
    assert (row["status"], row["width"], row["height"], row["model"]) == ("ok", 256, 256, "afhq-dog")
    assert (tmp_path / "out" / row["picture"]).stat().st_size == row["picture_bytes"]
    x_T = pd.read_parquet(tmp_path / "out" / "banks" / "style" / "data")
    assert list(x_T["x_t_shape"][0]) == [3, 256, 256]
    h = pd.read_parquet(tmp_path / "out" / "banks" / "content" / "data")
    assert list(h["h_shape"][0]) == [1, 512, 8, 8]
