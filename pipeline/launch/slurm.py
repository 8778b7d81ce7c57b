"""A job on Slurm: a batch script that starts a Ray cluster of its own on its nodes, and queues itself again.

The run gets a time budget below the limit of Slurm, so it ends in order; the script then asks Slurm to run it again,
and the next run goes on where it was. It needs sbatch, srun and scontrol, and Ray 2.49 for `ray symmetric-run`.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence

from diffstyle.errors import ConfigError, one_line
from pipeline.jobfile.schema import Job
from pipeline.launch.bundle import portable

#: Of the time limit, what is kept for finishing the tiles under way, in seconds; at most a quarter of it.
_MARGIN = 900

_LIMIT = re.compile(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)")

_SCRIPT = """\
#!/bin/bash
#SBATCH --job-name=diffstyle
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --time={limit}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=diffstyle-%j.log
{options}
# One run of a job within the time limit. When its time is up it is queued again and goes on; after a preemption or the
# loss of a node, Slurm queues it again by itself.
set -u

# What the run may take of the limit, so that it ends in order.
budget={budget}

job=$(mktemp "${{TMPDIR:-/tmp}}/diffstyle-XXXXXX.yaml")
trap 'rm -f "$job"' EXIT
cat > "$job" <<'END_OF_JOB'
{job}END_OF_JOB

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))
# Only the tasks of this job know the token of its Ray.
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \\n')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \\
  ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" --include-dashboard=false \\
  -- diffstyle run "$job" --address "$head:$port" --quiet --set stop_after={stop_after}{flags}
code=$?

# A run that stopped before its time was up has met something that another one would meet too: a full disk, lost rights.
if [ "$code" -eq 4 ] && [ "$SECONDS" -ge "$budget" ]; then
  scontrol requeue "$SLURM_JOB_ID" && exit 0
fi
exit "$code"
"""


def batch_script(job: Job, *, nodes: int, limit: str, options: Sequence[str], flags: Sequence[str]) -> str:
    """The script for ``sbatch``.

    Args:
        job: The job; it is written into the script.
        nodes: How many nodes its Ray cluster has.
        limit: Slurm's time limit of one run, ``HH:MM:SS`` or ``D-HH:MM:SS``.
        options: Further options of sbatch, without their dashes: ``gpus-per-node=4``.
        flags: Further options of ``diffstyle run``.

    Raises:
        ConfigError: An option is not one.
    """
    match = _LIMIT.fullmatch(limit)
    if match is None:
        raise ConfigError(f"--time {limit}: write HH:MM:SS or D-HH:MM:SS, as 08:00:00")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    total = ((24 * days + hours) * 60 + minutes) * 60 + seconds
    budget = total - min(_MARGIN, total // 4)
    if budget < 1:
        raise ConfigError(f"--time {limit}: too short for a run")
    for option in options:
        if not re.fullmatch(r"[a-z][a-z-]*(=[^\s]+)?", option):
            raise ConfigError(f"--sbatch {option}: write an option of sbatch without its dashes, as gpus-per-node=4")
    text = portable(job)
    if "END_OF_JOB" in text.splitlines():
        raise ConfigError("the job holds the line END_OF_JOB, which ends it in a script of Slurm; write it otherwise")
    return _SCRIPT.format(
        nodes=nodes,
        limit=limit,
        options="".join(f"#SBATCH --{option}\n" for option in options),
        budget=budget,
        # A job's own budget is for all of it: where it is the shorter one, the job does not queue itself again.
        stop_after=budget if job.stop_after is None else f"{min(budget, job.stop_after):g}",
        job=text,
        flags="".join(f" {shlex.quote(flag)}" for flag in flags),
    )


def send(script: str) -> str:
    """Send a script to Slurm.

    Args:
        script: As :func:`batch_script` returned it.

    Returns:
        The number of the job.

    Raises:
        ConfigError: There is no Slurm here, or it refuses the job.
    """
    if shutil.which("sbatch") is None:
        raise ConfigError("--slurm: there is no sbatch on this machine; call it on one that submits to Slurm")
    done = subprocess.run(["sbatch", "--parsable"], input=script, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"--slurm: sbatch refuses the job ({one_line(RuntimeError(done.stderr or done.stdout))})")
    return done.stdout.strip().partition(";")[0]
