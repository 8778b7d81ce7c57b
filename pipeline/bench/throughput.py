"""Whole jobs against their number of pairs: how long each part takes, and what the main process needs."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from pipeline.monitoring.events import read_events
from pipeline.storage.place import Place
from pipeline.storage.shipped import shipped_folder

HEAD = (
    "| pairs | contents x styles | whole run, s | start-up, s | banks, s | injection, s | report and end, s "
    "| pairs a second, injection | pairs a second, whole run | peak MiB of the main process |"
)
STEPS = 10  # network calls a pair: few, so that what the machinery costs shows
_RUN = """
import sys
from pipeline.bench.peak import peak_mib
from pipeline.cli.main import main
try:
    main(["run", "--quiet", sys.argv[1]])
finally:
    print(peak_mib())
"""


@dataclass(frozen=True)
class JobTimes:
    """Seconds of the parts of one run, which add up to the whole, and the peak memory of its main process."""

    start_up: float  # of the process, Ray, the decoding workers and, later, of those that hold the model
    banks: float  # preparing and inverting
    injection: float
    end: float  # contact sheet, Ray's end
    peak: float  # MiB

    @property
    def whole(self) -> float:
        return self.start_up + self.banks + self.injection + self.end


def throughput(device: str, pairs: tuple[int, ...] = (10, 100, 1000)) -> list[str]:
    """The lines of a table of whole jobs, ``diffstyle run`` in a process of its own on an empty output for each."""
    model = shipped_folder("demo") / "tiny" / "tiny-model.yaml"
    lines = [
        f"Whole jobs at 32 px, trained tiny model, on {device}, {STEPS} network calls a pair. Start-up is what passes "
        "until the workers that decode, and those that hold the model, begin their first unit.",
        "",
        HEAD,
        "| ---: " * (HEAD.count("|") - 1) + "|",
    ]
    for n in pairs:
        contents, styles = sides(n)
        with tempfile.TemporaryDirectory() as folder:
            measured = measure(Path(folder), model, device, contents, styles)
        cells = [f"{n:,}", f"{contents} x {styles}", f"{measured.whole:.1f}", f"{measured.start_up:.1f}"]
        cells += [f"{measured.banks:.1f}", f"{measured.injection:.1f}", f"{measured.end:.1f}"]
        cells += [f"{n / measured.injection:.2f}", f"{n / measured.whole:.2f}", f"{measured.peak:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def sides(pairs: int) -> tuple[int, int]:
    """Contents and styles whose product is ``pairs``, as near to each other as they can be, contents not fewer."""
    styles = next(n for n in range(math.isqrt(pairs), 0, -1) if pairs % n == 0)
    return pairs // styles, styles


def measure(folder: Path, model: Path, device: str, contents: int, styles: int) -> JobTimes:
    """Run a job below an empty ``folder``. Raises RuntimeError where it does not make all its pairs."""
    pictures = shipped_folder("demo") / "tiny" / "pictures"
    turned_pictures(pictures / "contents", folder / "contents", contents)
    turned_pictures(pictures / "styles", folder / "styles", styles)
    job = {
        "model": str(model),
        "output": str(folder / "out"),
        "content": {"folder": str(folder / "contents")},
        "style": {"folder": str(folder / "styles")},
        "injection": {"gamma": 0.6, "t_edit": 200, "events": STEPS, "plan": {"grid": STEPS}},
        "compute": {"device": device, "batch": 4},  # given, not measured: that would count as work
    }
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump(job))
    begun = time.time()
    done = subprocess.run([sys.executable, "-c", _RUN, str(file)], capture_output=True, text=True)
    ended = time.time()
    events = list(read_events(Place.parse(folder / "out")))
    made = events[-1].get("pairs_made") if events else None
    if done.returncode or made != contents * styles:
        outcome = f"exit code {done.returncode}, {made} of {contents * styles} pairs made"
        raise RuntimeError(f"the job of {contents} x {styles} pairs: {outcome}: {done.stderr[-2000:]}")
    return parts(events, begun, ended, float(done.stdout.splitlines()[-1]))


def turned_pictures(source: Path, folder: Path, n: int) -> None:
    """Fill ``folder`` with ``n`` distinct pictures, made of those in ``source`` by turning."""
    originals = sorted(source.glob("*.png"))
    if n > 360 * len(originals):
        raise ValueError(f"{n} pictures can't be made of {len(originals)}")
    folder.mkdir()
    for k in range(n):
        turn, which = divmod(k, len(originals))
        with Image.open(originals[which]) as image:
            # 7 has no divisor in common with 360, so no angle comes twice.
            turned = image.convert("RGB").rotate(7 * turn, Image.Resampling.BICUBIC, fillcolor="white")
        turned.save(folder / f"{k:04d}.png")


def parts(events: list[dict[str, Any]], begun: float, ended: float, peak: float) -> JobTimes:
    """Where a run's time went, from its event log; ``begun`` and ``ended``: of its process, seconds since the epoch."""
    decoding = _time(next(event for event in events if event["event"] == "worker_started"))
    asked = _time(next(event for event in events if event["event"] == "workers"))
    first = next(event for event in events if event["event"] == "part_done" and event["stage"].startswith("invert"))
    inverting = first["began"] - first["queued"] - first["load"]
    ends = {event["stage"]: _time(event) for event in events if event["event"] == "stage_done"}
    banks, injected = ends["invert style"], ends["inject"]
    return JobTimes(
        start_up=decoding - begun + inverting - asked,
        banks=banks - decoding - (inverting - asked),
        injection=injected - banks,
        end=ended - injected,
        peak=peak,
    )


def _time(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()
