"""`diffstyle submit --slurm`: the script passes shellcheck, and runs a job to its end through a requeue.

The stand-ins for sbatch, srun and scontrol run the script for real on this machine; Ray's own command runs too, in a
namespace of its own, since it ends every Ray that it sees.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.whole_jobs import SIX_PAIRS, job_file, manifest

from diffstyle.errors import ConfigError
from pipeline.cli.main import main
from pipeline.jobfile.load import load_job
from pipeline.launch.slurm import batch_script

#: As Slurm does: run the script of stdin, and again as long as it asks for it.
SBATCH = """#!/bin/bash
folder=$(dirname "$0")/..
cat > "$folder/script"
grep -q '^#SBATCH --requeue' "$folder/script" || { echo "can't be requeued" >&2; exit 1; }
export SLURM_JOB_ID=4711 SLURM_JOB_NODELIST=$(hostname) SLURM_JOB_NUM_NODES=1
for SLURM_RESTART_COUNT in 0 1 2 3; do
  export SLURM_RESTART_COUNT
  rm -f "$folder/requeued"
  bash "$folder/script" >> "$folder/log" 2>&1
  echo $? >> "$folder/codes"
  [ -e "$folder/requeued" ] || break
done
echo 4711
"""
SCONTROL = """#!/bin/bash
case "$1 $2" in
  "show hostnames") echo "$3" ;;
  "requeue 4711") touch "$(dirname "$0")/../requeued" ;;
  *) exit 1 ;;
esac
"""
#: Without its own options, in a namespace of its own; or with the Ray's command replaced by what it would run. However
#: fast the machine, the script's budget of a second has passed when it ends.
SRUN = {
    "namespace": """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
unshare --pid --fork --mount --mount-proc --net sh -c 'ip link set lo up; exec "$@"' sh "$@"
code=$?
sleep 1.1
exit $code
""",
    "without Ray": """#!/bin/bash
while [[ $1 != -- ]]; do shift; done
shift
words=()
for word in "$@"; do
  [[ $word == --address ]] && { words+=(--local); skip=1; continue; }
  [[ ${skip:-0} == 1 ]] && { skip=0; continue; }
  words+=("$word")
done
"${words[@]}"
code=$?
sleep 1.1
exit $code
""",
}
#: The clock of the first two runs goes on by a day with each unit that might begin, and that of the third stands.
DIFFSTYLE = """#!{python}
import os
from pipeline.cli.main import main
from pipeline.runner import budget

class Clock:
    now = 0
    def monotonic(self):
        self.now += 86400 * (os.environ["SLURM_RESTART_COUNT"] in "01")
        return self.now

budget.time = Clock()
main()
"""


def slurm_here(folder: Path, srun: str) -> dict[str, str]:
    """An environment in which Slurm's commands are the stand-ins below ``folder``."""
    commands = folder / "bin"
    commands.mkdir()
    for name, text in {
        "sbatch": SBATCH,
        "scontrol": SCONTROL,
        "srun": SRUN[srun],
        "diffstyle": DIFFSTYLE.format(python=sys.executable),
    }.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    return {**os.environ, "PATH": f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}"}


def submit(environment: dict[str, str], *words: object) -> str:
    command = [sys.executable, "-m", "pipeline", "submit", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("srun", ["without Ray", pytest.param("namespace", marks=pytest.mark.long)])
def test_the_script_runs_a_job_to_its_end_through_requeues(tmp_path, srun):
    """Each of the first two runs begins one unit; then their time is up."""
    if srun == "namespace" and subprocess.run(["unshare", "--pid", "--fork", "--net", "true"], check=False).returncode:
        pytest.skip("may not make namespaces")
    folder = tmp_path / "slurm"
    folder.mkdir()
    job = job_file(tmp_path, **SIX_PAIRS)
    assert "job 4711" in submit(slurm_here(folder, srun), job, "--slurm", "--time", "00:00:01")
    log = (folder / "log").read_text()
    assert (folder / "codes").read_text().split() == ["0", "0", "0"], log  # who queues itself again has done its part
    assert log.count("stop_after: 1 s have passed") == 2
    assert log.count("made 6 pairs") == 1
    assert ("On head node" in log) == (srun == "namespace")
    rows = manifest(tmp_path / "out")
    assert rows["pair"].is_unique
    assert (rows["status"] == "ok").all()


@pytest.mark.slow
def test_a_run_that_fails_is_not_queued_again(tmp_path):
    (tmp_path / "slurm").mkdir()
    job = job_file(tmp_path, **SIX_PAIRS)
    words = ("--slurm", "--time", "00:00:01", "--set", "content.folder=/nowhere")
    submit(slurm_here(tmp_path / "slurm", "without Ray"), job, *words)
    assert (tmp_path / "slurm/codes").read_text().split() == ["2"]
    assert "/nowhere" in (tmp_path / "slurm/log").read_text()


def test_shellcheck_is_content(tmp_path):
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("no shellcheck")
    job = load_job(job_file(tmp_path, output="/a b/it's $$HOME `x`"))
    text = batch_script(job, nodes=2, limit="1-00:00:00", options=["gpus-per-node=4"], flags=["--retry-failed"])
    file = tmp_path / "script.sh"
    file.write_text(text)
    done = subprocess.run([shellcheck, "--severity=style", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_script_says_what_was_asked_for(tmp_path):
    file = tmp_path / "job.sh"
    words = ["--slurm", "--nodes", "3", "--time", "02:00:00", "--sbatch", "gpus-per-node=4", "--script", str(file)]
    result = CliRunner().invoke(main, ["submit", str(job_file(tmp_path)), *words])
    assert result.exit_code == 0, result.output
    text = file.read_text()
    for line in ("#SBATCH --nodes=3", "#SBATCH --time=02:00:00", "#SBATCH --gpus-per-node=4", "budget=6300"):
        assert line in text.splitlines()
    job = text.partition("<<'END_OF_JOB'\n")[2].partition("END_OF_JOB")[0]
    (tmp_path / "again.yaml").write_text(job)
    assert load_job(tmp_path / "again.yaml") == load_job(tmp_path / "job.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limit": "8h"}, "--time 8h: write HH:MM:SS"),
        ({"limit": "00:00:00"}, "too short"),
        ({"options": ["--gpus=1"]}, "without its dashes"),
        ({"options": ["gpus=1\n#SBATCH --uid=0"]}, "without its dashes"),
    ],
)
def test_wrong_options(tmp_path, changes, message):
    given = {"nodes": 1, "limit": "01:00:00", "options": [], "flags": [], **changes}
    with pytest.raises(ConfigError, match=message):
        batch_script(load_job(job_file(tmp_path)), **given)


def test_no_slurm_here(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    result = CliRunner().invoke(main, ["submit", str(job_file(tmp_path)), "--slurm"])
    assert result.exit_code == 2
    assert "there is no sbatch on this machine" in result.output
