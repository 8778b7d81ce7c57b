"""``--dry-run``: what a job would do and write now, and whether it can run here. No model runs, and no Ray.

It reads lists, what is in the output already, and a few pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.banks.index import read_description
from pipeline.banks.payload import payload_bytes
from pipeline.banks.tensors import BankError
from pipeline.jobfile.schema import BankSpec, Job, ListedPairs, RandomPairs
from pipeline.jobfile.starting import unsuited
from pipeline.models.config import load_model_config
from pipeline.models.session import ModelFacts, model_facts
from pipeline.models.weights import remote_weights, weights_place
from pipeline.monitoring.progress import duration
from pipeline.results.manifest import Manifest
from pipeline.results.words import setting_words
from pipeline.runner import estimate, obstacles
from pipeline.runner.dropping import would_drop
from pipeline.runner.estimate import Duration, Portion, Work
from pipeline.runner.remaining import PairsState, SideCounts, SideState, pairs_states, side_state
from pipeline.runner.sides import PlannedBank, Side, bank_description, check_apart, plan_bank, sides
from pipeline.shards.decode import preparation
from pipeline.shards.store import ShardStore
from pipeline.stages.inject import settings_columns, too_short_plan
from pipeline.stages.recipe import edit_of, injection_plan, open_directions
from pipeline.stages.walk import Walk
from pipeline.storage.counts import count, data_size
from pipeline.storage.errors import EXIT_DONE, EXIT_WRONG_INPUT
from pipeline.storage.layout import OutputLayout
from pipeline.storage.parts import PartStore, now
from pipeline.storage.place import Place
from pipeline.storage.stored_description import DescriptionError
from pipeline.storage.visible import on_one_line
from pipeline.workers.local import cores


@dataclass(frozen=True)
class PreviewSide:
    """Contents or styles, or both at once.

    Attributes:
        name: ``content``, ``style`` or ``both``.
        source: Where its pictures come from, for people: ``in FOLDER``.
        counts: How many there are, and how far they are.
        network_calls: Calls that make an entry of the bank; 0 for a bank that is given.
        decodes: Likewise, of the network's second half.
        h_timesteps: At how many timesteps the bank keeps h.
        bank_bytes: What the new entries of the bank would take.
        further_bank: Of a bank that would be made beside others: why the first of them does not serve.
        thing: What one of its pictures is, for people.
    """

    name: str
    source: str
    counts: SideCounts
    network_calls: int = 0
    decodes: int = 0
    h_timesteps: int = 0
    bank_bytes: int = 0
    makes_bank: bool = False
    further_bank: str = ""
    thing: str = "picture"

    def lines(self) -> list[str]:
        """For people."""
        counts = self.counts
        lines = [f"{self.name:<10} {count(counts.pictures, self.thing)} {self.source}"]
        if not self.makes_bank:
            return lines
        before = [f"{counts.inverted} inverted already"] if counts.inverted else []
        before += [f"{counts.rejected} rejected"] if counts.rejected else []
        before += [f"{counts.failed} failed"] if counts.failed else []
        kept = f", h at {count(self.h_timesteps, 'timestep')}" if self.h_timesteps else ""
        each = f"{data_size(self.bank_bytes / counts.to_invert)} each" if counts.to_invert else "nothing to add"
        calls = f"{counts.to_invert} x {count(self.network_calls, 'network call')}{kept}"
        lines.append(f"  bank     {'; '.join([*before, calls])}; {data_size(self.bank_bytes)} ({each})")
        if self.further_bank:
            lines.append(f"  note: {self.further_bank}")
        return lines


@dataclass(frozen=True)
class PreviewSettings:
    """A point of the sweep: the steps of its walk, what one pair takes of the network, and how many pairs are left."""

    gamma: Any
    words: str  # gamma and the other main fields, those that tell it from the others among them
    steps: int
    network_calls: int
    decodes: int
    injections: int
    pairs: PairsState = field(default=PairsState(0))

    def __str__(self) -> str:
        state = self.pairs
        before = f"; {state.done} of {count(state.wanted, 'pair')} made already" if state.done else ""
        failed = f"; {state.failed} failed" if state.failed else ""
        return (
            f"{self.words}: {count(self.steps, 'step')}, {count(self.network_calls, 'network call')}, "
            f"{count(self.decodes, 'decode')}, {count(self.injections, 'injection')} a pair{before}{failed}"
        )


@dataclass(frozen=True, repr=False)
class Preview:
    """What a job would do and write now; ``str()`` is what ``diffstyle plan`` prints.

    Counts are of listed pictures: of those that no run has prepared yet, copies and unreadable ones, which make the job
    smaller, are found only later.

    Attributes:
        model: Its name; ``family`` its architecture, ``image_size`` in px, ``h_shape`` (C, h, w).
        sides: Contents and styles.
        pairs: How many pairs each point of the sweep has, ``pair_rule`` says which.
        settings: The points of the sweep.
        work: What a run would do now: pictures to prepare, inversions, pairs, encodes and decodes.
        to_write: Bytes by kind: shards, banks, pictures, manifest, contact sheets. ``basis`` says what the size of a
            picture is judged by.
        seconds: How long that takes; None where the speed is not known.
        speed: What the time is judged by, or how to find out, for people.
        free: Bytes that are free on the output's disk; None for a store.
        lost: How many pairs can't be made, since a picture of theirs can't be used.
        obstacles: Why the job can't run here as it is; empty where it can.
        notes: What to think about beforehand.
        drops: What a run would drop by the job's ``keep``, for people; empty for nothing.
    """

    model: str
    family: str
    image_size: int
    h_shape: tuple[int, ...]
    sides: tuple[PreviewSide, ...]
    pairs: int
    pair_rule: str
    settings: tuple[PreviewSettings, ...]
    work: Work
    to_write: Mapping[str, float]
    picture_format: str
    basis: str
    output: str
    seconds: Duration | None = None
    speed: str = ""
    free: int | None = None
    lost: int = 0
    obstacles: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    drops: str = ""

    @property
    def pictures(self) -> int:
        """How many pictures the job has in all, made or not."""
        return sum(one.pairs.wanted for one in self.settings)

    @property
    def network_calls(self) -> int:
        """Of what would be done now, on one picture each."""
        return self.work.encodes

    @property
    def total_bytes(self) -> float:
        """All that would be written."""
        return sum(self.to_write.values())

    @property
    def exit_code(self) -> int:
        """That of the command: 0 where the job can run here, 2 where it can't."""
        return EXIT_WRONG_INPUT if self.obstacles else EXIT_DONE

    def lines(self) -> list[str]:
        """For people."""
        h = "x".join(map(str, self.h_shape))
        lines = [f"model      {self.model}: {self.family}, {self.image_size} px, h {h}"]
        for side in self.sides:
            lines += side.lines()
        lines.append(f"pairs      {self.pairs} ({self.pair_rule}) x {count(len(self.settings), 'setting')}")
        lines += [f"  {one}" for one in self.settings]
        if self.lost:
            lines.append(f"  {count(self.lost, 'pair')} can't be made, since a picture can't be used")
        lines += [f"  note: {note}" for note in self.notes]
        lines.append(f"now        {self._now()}")
        kinds = ", ".join(f"{kind} {data_size(n)}" for kind, n in self.to_write.items())
        lines.append(
            f"to write   about {data_size(self.total_bytes)}: {kinds}; results as {self.picture_format} ({self.basis})"
        )
        if self.free is not None:
            lines.append(f"disk       {data_size(self.free)} free")
        if self.work:
            lines.append(f"time       {self._time()}")
        if self.drops:
            lines.append(f"keep       {self.drops}")
        lines.append(f"output     {self.output}")
        lines += [f"can't run  {reason}" for reason in self.obstacles]
        return lines

    def _now(self) -> str:
        work = self.work
        if not work:
            return "nothing to do: all is done"
        parts = [f"{count(work.pictures, 'picture')} to prepare"] if work.pictures else []
        parts += [count(work.inversions, "inversion")] if work.inversions else []
        parts.append(count(work.pairs, "pair"))
        calls = f"{count(work.encodes, 'network call')} (encodes) and {count(work.decodes, 'decode')}"
        return f"{', '.join(parts)}: {calls}"

    def _time(self) -> str:
        if self.seconds is None:
            return self.speed
        one = self.seconds
        return f"about {duration(one.expected)} ({duration(one.low)} to {duration(one.high)}) {self.speed}"

    def __str__(self) -> str:
        return "\n".join(map(on_one_line, self.lines()))

    def __repr__(self) -> str:
        return f"<Preview {self.output}: {count(self.pictures, 'pair')}, {self.work.pairs} to make>"


def preview_job(job: Job, retry: bool = False, measure: bool = False, elsewhere: bool = False) -> Preview:
    """See :func:`pipeline.preview`."""
    job_sides = sides(job)
    check_apart(job_sides)
    config = load_model_config(job.model)
    output = Place.parse(job.output)
    reasons = [obstacles.of_weights(job, config), obstacles.of_output(output)]
    if not elsewhere:
        reasons.append(obstacles.of_device(job))
    facts = _facts(job, weights_here=reasons[0] is None)
    refused = obstacles.of_job(job, job_sides, facts)
    reasons.append(refused)
    banks = [_bank(job, side, facts) for side in job_sides]
    states = [
        side_state(side, retry, _shards_are_of_use(side, config.size), bank)
        for side, bank in zip(job_sides, banks, strict=True)
    ]
    previewed = [_side(job, state, bank) for state, bank in zip(states, banks, strict=True)]
    contents, styles = states[0], states[-1]
    walk = Walk.of_bank(banks[0].description)
    ends = (banks[0].description, banks[-1].description) if refused is None else None
    pairs, lost = pairs_states(job, facts, contents, styles, ends, retry)
    points = _points(job, walk, facts, pairs)
    work, stages = _work(previewed, points)
    costs = estimate.picture_costs(job, job_sides, config.size)
    workers, resources = estimate.crew_here(job)
    batch, speed, basis = estimate.speed_here(job, workers, resources, measure)
    preparing = work.pictures * costs.seconds / cores()
    seconds = None if speed is None else estimate.duration_of(stages, speed, batch, workers, preparing)
    per_call = None if speed is None else speed.encode + 2 * speed.decode
    n_new = sum(side.counts.to_invert for side in previewed)
    banks_bytes = sum(side.bank_bytes for side in previewed) + estimate.bank_index_bytes(n_new, job.bank.part_size)
    to_write = {
        "shards": sum(estimate.shards_bytes(side.counts.to_prepare, costs) for side in previewed),
        "banks": banks_bytes,
        "pictures": work.pairs * costs.result,
        "manifest": estimate.manifest_bytes(job, work.pairs, batch, workers, per_call),
        "contact sheets": estimate.sheets_bytes(
            len(points), len(contents.entries), len(styles.entries), costs, config.size
        ),
    }
    reasons.append(obstacles.of_disk(output, estimate.total_bytes(to_write)))
    return Preview(
        model=config.name,
        family=config.family,
        image_size=config.size,
        h_shape=facts.h_shape,
        sides=tuple(previewed),
        pairs=max((one.pairs.wanted for one in points), default=0),
        pair_rule=_pairs_words(job),
        settings=tuple(points),
        work=work,
        to_write=to_write,
        picture_format=job.pictures.format,
        basis=costs.basis,
        output=str(job.output),
        seconds=seconds,
        speed=basis,
        free=obstacles.free_bytes(output),
        lost=lost,
        obstacles=tuple(reason for reason in reasons if reason is not None),
        notes=tuple(note for note in (too_short_plan(job), unsuited(job.injection, config)) if note is not None),
        drops="" if ends is None or reasons[0] else would_drop(job, facts, banks, contents.entries, now()),
    )


def _facts(job: Job, weights_here: bool) -> ModelFacts:
    """The model. Its fingerprint only where there is something to compare it with: by its weights, or, where these are
    not here, as the banks and directions say themselves."""
    config = load_model_config(job.model)
    output = Place.parse(job.output)
    own = [place for side in sides(job) for place in OutputLayout(output).banks(side.name)]
    given = [side.bank for side in sides(job) if isinstance(side.spec, BankSpec)]
    banks = [PartStore(place) for place in (*given, *own)]
    directions = open_directions(job, config.unet_architecture.h_shape, None)
    if weights_here and not _to_be_fetched(job) and (banks or directions or Manifest(output).store.exists()):
        return model_facts(job.model, job.weights)
    fingerprint = ""  # there is nothing that it is compared with
    if banks:
        fingerprint = read_description(banks[0])[0].model_fingerprint
    elif directions:
        fingerprint = next(iter(directions.values())).about["model_fingerprint"]
    return ModelFacts(config.name, fingerprint, config.size, config.unet_architecture.h_shape)


def _to_be_fetched(job: Job) -> bool:
    """Whether a run would fetch the weights first, which looking at the job does not do."""
    config = load_model_config(job.model)
    remote = remote_weights(config, job.weights)
    return remote is not None and weights_place(config, job.weights) is None


def _bank(job: Job, side: Side, facts: ModelFacts) -> PlannedBank:
    """The side's bank: as it is where it serves the job, else as the job would make it."""
    try:
        return plan_bank(job, side, facts)
    except BankError:
        if isinstance(side.spec, BankSpec):
            raise
        return PlannedBank(side.bank, bank_description(job, side, facts), False)


def _shards_are_of_use(side: Side, size: int) -> bool:
    """Whether the side's prepared pictures are there, and as the job wants them."""
    if not side.needs_shards or not PartStore(side.shards).exists():
        return False
    try:
        ShardStore(side.shards).check(preparation(size), side.spec.reading)
    except DescriptionError:
        return False
    return True


def _side(job: Job, state: SideState, bank: PlannedBank) -> PreviewSide:
    description = bank.description
    given = isinstance(state.side.spec, BankSpec)
    walk = None if given else Walk.of_bank(description).plan(keep=())
    return PreviewSide(
        state.side.name,
        state.source,
        state.counts,
        network_calls=0 if walk is None else walk.encodes,
        decodes=0 if walk is None else walk.decodes,
        h_timesteps=len(description.h_timesteps) if description.keeps_h else 0,
        bank_bytes=0 if given else payload_bytes(description, state.counts.to_invert, job.bank.part_size),
        makes_bank=not given,
        further_bank=bank.instead_of and f"{bank.instead_of}, so another bank is made beside it, {bank.place.name}",
        thing=state.thing,
    )


def _points(job: Job, walk: Walk, facts: ModelFacts, pairs: list[PairsState]) -> list[PreviewSettings]:
    """The sweep. Raises ConfigError for settings that make no sense together."""
    points = []
    directions = open_directions(job, facts.h_shape, None)
    sweep = job.settings()
    words = setting_words([settings_columns(settings) for settings in sweep], all_of_one=True)
    for settings, own_words, state in zip(sweep, words, pairs, strict=True):
        plan = injection_plan(settings, walk)
        edit = settings.edit
        if edit is not None:
            edit_of(edit, directions[edit.directions], plan)  # or a ConfigError
        calls = len(plan.steps), plan.encodes, plan.decodes, len(plan.injections)
        points.append(PreviewSettings(settings.to_dict()["gamma"], own_words, *calls, state))
    return points


def _work(previewed: list[PreviewSide], points: list[PreviewSettings]) -> tuple[Work, list[list[Portion]]]:
    """What would be done now: in all, and stage by stage."""
    stages = [[Portion(side.counts.to_invert, side.network_calls, side.decodes)] for side in previewed]
    stages.append([Portion(one.pairs.to_make, one.network_calls, one.decodes) for one in points])
    portions = [portion for stage in stages for portion in stage]
    work = Work(
        pictures=sum(side.counts.to_prepare for side in previewed),
        inversions=sum(side.counts.to_invert for side in previewed),
        pairs=sum(one.pairs.to_make for one in points),
        encodes=sum(portion.n * portion.encodes for portion in portions),
        decodes=sum(portion.n * portion.decodes for portion in portions),
    )
    return work, stages


def _pairs_words(job: Job) -> str:
    if isinstance(job.pairs, RandomPairs):
        return f"{count(job.pairs.random, 'random style')} for each content"
    return f"listed in {job.pairs.file}" if isinstance(job.pairs, ListedPairs) else job.pairs
