"""How far a run is, from its files alone: on any machine, while it runs on another, or long after."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from diffstyle.errors import DiffStyleError
from pipeline.banks.reader import LatentBank
from pipeline.monitoring.activity import MEASURING, STARTING, Activity, time_words
from pipeline.monitoring.events import read_events, run_ids
from pipeline.monitoring.progress import duration
from pipeline.monitoring.rate import rate
from pipeline.results.manifest import MANIFEST_SCHEMA, Manifest
from pipeline.results.scores import Scores
from pipeline.shards.passed_over import read_passed_over, total
from pipeline.shards.store import open_shards
from pipeline.storage.counts import count
from pipeline.storage.errors import EXIT_DONE, EXIT_FAILURES, EXIT_STOPPED
from pipeline.storage.identity import digest_of
from pipeline.storage.layout import SIDES, OutputLayout
from pipeline.storage.lock import Holder, holder_of
from pipeline.storage.masking import masking_errors
from pipeline.storage.pair_ids import PairIds, packed
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place
from pipeline.storage.tables import DamagedError
from pipeline.storage.visible import on_one_line

if TYPE_CHECKING:
    from pipeline.jobfile.schema import Job

# Event that says how many seconds something took -> what; None: the stage that it names.
_TIMED = {"workers_started": STARTING, "batch_measured": MEASURING, "stage_done": None}


class NoRunError(DiffStyleError):
    """A folder in which no job was ever run."""


def write_plan(
    output: Place,
    log: Callable[..., None],
    wanted: int,
    known: tuple[int, int],
    rows: tuple[int, int],
    lost: int = 0,
    banks: Mapping[str, str] = {},
) -> None:
    """Note what the run that begins to inject wants, for :func:`read_status`.

    known  how many of the wanted pairs are (done, failed) by now
    rows   how many pairs of the manifest are; an earlier job may have made some that this one does not want. While
           this run holds the output only its own pairs come, so what is new in the manifest is progress
    lost   how many more pairs the job asks for that can't be made, since a picture of theirs can't be used
    banks  the sides whose pictures this run prepares or inverts -> the names of their banks; an earlier job may have
           left others
    """
    plan: dict[str, Any] = {
        "wanted": wanted,
        "done": known[0],
        "failed": known[1],
        "manifest_done": rows[0],
        "manifest_failed": rows[1],
        "lost": lost,
        "sides": list(banks),
        "banks": dict(banks),
        "at": time.time(),
    }
    log("pairs_planned", **plan)
    OutputLayout(output).plan.write_bytes(json.dumps({**plan, "hash": digest_of(plan)}, indent=2).encode() + b"\n")


@dataclass(repr=False)
class Status:
    """How far a run is; ``str()`` is what ``diffstyle status`` prints. None where the files do not say yet.

    Attributes:
        output: The output folder.
        holder: The process that is at it now, or None.
        sides: A line for each side, of what is prepared and inverted.
        wanted, done, failed: How many pairs.
        lost: How many more pairs can't be made, since a picture of theirs can't be used.
        rejected, not_inverted, not_scored: How many pictures of the job can't be read, could not be inverted, and how
            many results could not be read to score them.
        rate: Pairs a second, lately.
        calls_per_second: Network calls a second of the last run, on one picture each.
        waiting: The share of the workers' time in which the model waited for data, 0 to 1.
        seconds: Where the time of the last run went, by stage.
        errors: Why pairs failed: (error, how often), the most frequent first.
        repeated: Rows too many that finished pairs have in the manifest.
        last: How the last run ended, where none runs now.
        last_exit: The exit code of the last run; None where none has ended, or it was killed.
    """

    output: Place
    holder: Holder | None
    sides: list[str] = field(default_factory=list)
    wanted: int | None = None
    done: int = 0
    failed: int = 0
    lost: int = 0
    rejected: int = 0
    not_inverted: int = 0
    not_scored: int = 0
    rate: float | None = None
    calls_per_second: float | None = None
    waiting: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    errors: list[tuple[str, int]] = field(default_factory=list)
    repeated: int = 0
    last: str = ""
    last_exit: int | None = None

    @property
    def left(self) -> int | None:
        """How many wanted pairs are neither done nor failed."""
        return None if self.wanted is None else max(0, self.wanted - self.done - self.failed)

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes at the rate of late."""
        return self.left / self.rate if self.left is not None and self.rate else None

    @property
    def exit_code(self) -> int:
        """0 all done, 3 done with failures, 4 something is left: pairs, or the end of a run that was stopped."""
        if self.left is None or self.left > 0:
            return EXIT_STOPPED
        if self.holder is None and self.last and self.last_exit not in (EXIT_DONE, EXIT_FAILURES):
            return EXIT_STOPPED
        failed = self.failed or self.lost or self.rejected or self.not_inverted or self.not_scored
        return EXIT_FAILURES if failed else EXIT_DONE

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"output   {self.output}"]
        lines.append(f"running  {self.holder}" if self.holder else f"running  no{self.last}")
        lines += self.sides
        if self.wanted is None:
            lines.append("pairs    not planned yet, or pruned or repaired since")
            return lines
        share = f" ({100 * self.done // self.wanted} %)" if self.wanted else ""
        lines.append(f"pairs    {self.wanted} wanted: {self.done} done{share}, {self.failed} failed, {self.left} left")
        if self.lost:
            lines.append(f"lost     {count(self.lost, 'more pair')}: a picture can't be used")
        if self.rejected:
            lines.append(f"rejected {count(self.rejected, 'picture')} that can't be read")
        if self.repeated:
            rows = count(self.repeated, "row")
            lines.append(f"repeated {rows} of pairs that are in another manifest part too, not counted;")
            lines.append("         the next run drops them")
        if self.rate:
            calls = f"; {self.calls_per_second:.3g} network calls/s" if self.calls_per_second else ""
            lines.append(f"rate     {self.rate:.3g} pictures/s lately{calls}")
        if self.seconds_left:
            after = "" if self.holder else " of running"
            lines.append(f"to go    {duration(self.seconds_left)}{after}")
        if self.waiting is not None:
            lines.append(f"waiting  the model waits for data {100 * self.waiting:.0f} % of its workers' time")
        if time := time_words(self.seconds):
            lines.append(f"time     {time}")
        lines += [f"failed   {n} x {error}" for error, n in self.errors]
        if self.exit_code == EXIT_FAILURES:
            lines.append(f"         why, for each: `diffstyle failures {self.output}`; --retry-failed tries them again")
        return lines

    def __str__(self) -> str:
        return "\n".join(map(on_one_line, self.lines()))

    def __repr__(self) -> str:
        wanted = "no pairs known yet" if self.wanted is None else f"{self.done} of {count(self.wanted, 'pair')} done"
        return f"<Status {self.output}: {wanted}, {self.failed} failed>"

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        names = ["wanted", "done", "failed", "left", "lost", "rejected", "not_inverted", "not_scored"]
        names += ["rate", "calls_per_second", "seconds_left", "waiting", "seconds", "repeated", "last_exit"]
        holder = None if self.holder is None else str(self.holder)
        figures = {name: getattr(self, name) for name in names}
        return {"output": str(self.output), "running": holder, **figures, "errors": dict(self.errors)}


@masking_errors
def status(output: str | os.PathLike[str] | Place | Job) -> Status:
    """How far a run is, from its files alone: on any machine, while it runs elsewhere, or long after.

    Args:
        output: The output folder or its address on S3 or GCS, a job file that names it, or a job.

    Returns:
        Counts of pairs, the rate, why pairs failed; ``print(status(output))`` shows them as the command does.

    Raises:
        NoRunError: No job was run there.
    """
    return read_status(output_of(output))


def output_of(run: str | os.PathLike[str] | Place | Job) -> Place:
    """The output folder of a run, given as that folder, its address, a job, a job file that names it or its folder.

    Raises:
        DiffStyleError: The job file can't be read.
    """
    address: Any = getattr(run, "output", run)  # of a job, without importing what a job is
    place = Place.parse(address)
    file = place if place.is_local and place.is_file() else OutputLayout.own_job(place)
    if file is not None:
        from pipeline.jobfile.load import load_job  # with pydantic, which a folder has no need of

        place = Place.parse(load_job(file.path).output)
    return place


def read_status(output: Place) -> Status:
    """The status of the run in ``output``. Changes nothing; raises NoRunError where no job was run."""
    if not OutputLayout(output).job.is_file():
        raise NoRunError(f"{output}: no job was run here (there is no job.yaml); give a job's output folder")
    status = Status(output, holder_of(output))
    manifest = Manifest(output)
    plan = read_plan(output)
    _sides(status, SIDES if plan is None else plan.get("sides", SIDES), {} if plan is None else plan.get("banks", {}))
    if plan is not None:
        known = manifest.known()
        n_done, n_failed, status.repeated = len(known.done), len(known.failed), known.repeated
        status.wanted, status.lost = plan["wanted"], plan.get("lost", 0)
        status.done = plan["done"] + n_done - plan["manifest_done"]
        status.failed = plan["failed"] + n_failed - plan["manifest_failed"]
        status.rate = rate(manifest, plan["at"])
        if n_failed:
            status.errors = _errors(manifest, known.done)
    status.not_scored = Scores(output).unreadable()
    _from_events(status)
    return status


def read_plan(output: Place) -> dict[str, Any] | None:
    """What :func:`write_plan` noted; None where no run has planned its pairs yet. DamagedError if it is not whole."""
    place = OutputLayout(output).plan
    try:
        plan = json.loads(place.read_bytes())
        written = plan.pop("hash")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        plan = written = None
    if plan is None or digest_of(plan) != written:
        raise DamagedError(f"{place}: not as it was written; run the job again, which writes it") from None
    return plan


def _sides(status: Status, of_this_job: Collection[str], banks: Mapping[str, str]) -> None:
    """What is prepared and inverted of each side; what failed counts for the sides, and their banks, of this job."""
    layout = OutputLayout(status.output)
    for name in SIDES:
        parts = []
        shards, bank = layout.shards(name), layout.bank(name).parent / banks.get(name, name)
        if PartStore(shards).exists():
            store = open_shards(shards)
            rejected = len(store.rejected())
            status.rejected += rejected if name in of_this_job else 0
            parts.append(f"{len(store.rows(['key']))} prepared" + (f", {rejected} rejected" if rejected else ""))
        if PartStore(bank).exists():
            opened = LatentBank.open(bank)
            failed = len(opened.failed())
            status.not_inverted += failed if name in of_this_job else 0
            parts.append(f"{len(opened)} inverted" + (f", {failed} not inverted" if failed else ""))
        if parts:
            status.sides.append(f"{name:<8} {', '.join(parts)}")
        for other in layout.banks(name):
            if other != bank:
                n = len(LatentBank.open(other))
                status.sides.append(f"{'':<8} {n} inverted in {other.relative_to(layout.root)}")
        if (line := total(read_passed_over(shards)).line()) is not None:
            status.sides.append(f"{'':<8} {line}")


def _errors(manifest: Manifest, done: PairIds) -> list[tuple[str, int]]:
    """Why pairs failed that were not made since. Memory: the different errors."""

    def errors(rows: pa.Table) -> Counter[str]:
        failed = rows.filter(pc.equal(rows["status"], "failed"))
        still = failed.filter(pa.array(~done.contains(packed(failed["pair"]))))
        return Counter(error or "unknown" for error in still["error"].to_pylist())

    every = manifest.store.each(errors, MANIFEST_SCHEMA, ["pair", "status", "error"])
    return sum(every, Counter[str]()).most_common(5)


def _from_events(status: Status) -> None:
    """What only the event log of the last run says: what its workers did with their time, how it ended."""
    runs = run_ids(status.output)
    if not runs:
        return
    activity, ended = Activity(), ""
    for event in read_events(status.output, runs[-1]):
        name = event["event"]
        if name == "run_started":
            ended, status.seconds, status.last_exit = "", {}, None
        elif name == "part_done" and event.get("stage") == "inject" and event.get("began"):
            activity.add(event.get("worker"), event["began"], event.get("compute", 0.0), event.get("calls", 0))
        elif name in _TIMED:
            kind = _TIMED[name] or event["stage"]
            status.seconds[kind] = status.seconds.get(kind, 0.0) + event["seconds"]
        elif name == "run_ended":
            ended = f"; the last run ended at {event['time'][:19]}: {event['outcome']}"
            status.last_exit = event.get("exit_code", EXIT_DONE if event["outcome"] == "done" else EXIT_STOPPED)
    status.waiting, status.calls_per_second = activity.waiting, activity.calls_per_second
    status.last = ended or "; the last run was killed"
