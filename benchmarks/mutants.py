"""How many small faults do the tests let through? Puts one fault at a time into a copy of the tree and runs its tests.

    python benchmarks/mutants.py FAULTS.yaml [--only WORD] [--report FILE]

FAULTS.yaml is a list of mappings: ``file``, ``old`` (text that stands there once), ``new`` (what replaces it), and
``tests`` (arguments of pytest: the tests that should notice). They are run without a fault first, and must pass. The
working tree itself is never changed. Exit code 3 where a fault passes unnoticed, 2 where one does not fit any more.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

# Imported once for all the children.
import hypothesis  # noqa: F401
import pandas as pd  # noqa: F401
import pyarrow.parquet as pq  # noqa: F401
import pydantic  # noqa: F401
import pytest
import torch  # noqa: F401
import yaml

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 600  # for one fault's tests; a fault that hangs is a fault that is noticed


def copied(tree: Path) -> None:
    """Every file that git knows, or would take in, below ``tree``."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)


def run_tests(tree: Path, tests: list[str]) -> tuple[int, str]:
    """(pytest's exit code, or -1 where it did not end; what it printed).

    In a child of this process, which has imported what takes long and is nobody's to change.
    """
    printed = tree.parent / "printed"
    child = os.fork()
    if child == 0:
        descriptor = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.chdir(tree)
        os.environ["PYTHONPATH"] = str(tree)
        sys.path[:] = [str(tree), *(path for path in sys.path if path and not Path(path).is_relative_to(ROOT))]
        sys.dont_write_bytecode = True
        code = 99
        try:
            code = int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *tests]))
        finally:
            sys.stdout.flush()
            os._exit(code)
    give_up = time.monotonic() + SECONDS
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), printed.read_text(errors="replace")
        if time.monotonic() > give_up:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -1, ""
        time.sleep(0.05)


def outcome(tree: Path, fault: dict) -> tuple[str, str]:
    """(``caught``, ``missed`` or ``stale``; the test that failed first, or why the fault does not fit)."""
    file = tree / fault["file"]
    before = file.read_text()
    n = before.count(fault["old"])
    if n != 1:
        return "stale", f"the text is there {n} times"
    file.write_text(before.replace(fault["old"], fault["new"]))
    try:
        code, printed = run_tests(tree, fault["tests"])
    finally:
        file.write_text(before)
    if code == 0:
        return "missed", ""
    first = [line for line in printed.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if not first and code != -1:
        raise SystemExit(f"pytest ended with {code} and named no test:\n{printed[-3000:]}")
    return "caught", first[0] if first else "it hangs"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("faults", type=Path)
    parser.add_argument("--only", default="", help="only the faults whose file or text has this in it")
    parser.add_argument("--report", type=Path, help="write the outcomes here as YAML")
    options = parser.parse_args()
    faults = [one for one in yaml.safe_load(options.faults.read_text()) if options.only in one["file"] + one["new"]]
    report = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder) / "tree"
        copied(tree)
        for tests in {tuple(fault["tests"]): None for fault in faults}:
            code, printed = run_tests(tree, list(tests))
            if code != 0:
                raise SystemExit(f"without a fault, these tests don't pass: {' '.join(tests)}\n{printed[-3000:]}")
        for fault in faults:
            begun = time.monotonic()
            kind, why = outcome(tree, fault)
            report.append({**fault, "outcome": kind, "why": why})
            text = " ".join(fault["new"].split())[:80]
            print(f"{kind:<7} {time.monotonic() - begun:5.1f} s  {fault['file']}: {text}  {why[:120]}", flush=True)
            if options.report:
                options.report.write_text(yaml.safe_dump(report, sort_keys=False, width=120))
    total = Counter(one["outcome"] for one in report)
    for name, n in sorted(Counter((one["file"], one["outcome"]) for one in report).items()):
        print(f"{name[0]}: {n} {name[1]}")
    print(f"{total['caught']} of {total['caught'] + total['missed']} caught; {total['stale']} do not fit the code")
    return 3 if total["missed"] else 2 if total["stale"] else 0


if __name__ == "__main__":
    sys.exit(main())
