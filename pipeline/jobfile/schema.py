"""What a job may say: the pydantic models of a job file, and the settings that a pair of pictures is made with.

``docs/job-file.md`` describes every field for users. Reading a file, with overrides and line numbers, is
``load.py``'s; a :class:`Job` built in Python is validated all the same, its relative paths from the working directory.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    field_serializer,
    field_validator,
)

from pipeline.jobfile.fields import (
    AutoCount,
    AutoSwitch,
    Count,
    FromPython,
    Number,
    Seconds,
    Strict,
    Whole,
    as_list,
    is_mapping,
    plain_if_single,
)
from pipeline.jobfile.injection import Injection, InjectionSettings, Inversion
from pipeline.models.config import WeightsChoice, is_config_name, is_weights_word
from pipeline.sources import SourceSpec
from pipeline.storage.address import AS_WRITTEN, Address, InputAddress, LocalInput, address_or_word, local_or_word
from pipeline.storage.masking import masked
from pipeline.storage.mistakes import shown
from pipeline.storage.yamlcore import dump

# ---- sources ----


class SampleSpec(Strict):
    """Pictures drawn from the model itself: plain sampling from seeded noise."""

    sample: Count
    """instead of a data set: this many pictures sampled from the model itself"""
    seed: Whole = 0
    """with `sample`: seed of their noise"""


class BankSpec(Strict):
    """An existing latent bank, used as it is."""

    OTHER_NAMES: ClassVar[Mapping[str, str]] = dict.fromkeys(("path", "folder", "dir", "directory"), "bank")

    bank: InputAddress
    """instead of a data set: an existing latent bank, used as it is"""


def _source_kind(value: Any) -> str:
    given = value if isinstance(value, dict) else {}
    if isinstance(value, SampleSpec) or "sample" in given:
        return "<SampleSpec>"
    return "<BankSpec>" if isinstance(value, BankSpec) or "bank" in given else "<SourceSpec>"


Source = Annotated[
    Annotated[SampleSpec, Tag("<SampleSpec>")]
    | Annotated[BankSpec, Tag("<BankSpec>")]
    | Annotated[SourceSpec, Tag("<SourceSpec>")],
    Discriminator(_source_kind),
]


# ---- pairs, storage, computing ----


class RandomPairs(Strict):
    """``random`` styles for each content, chosen by ``seed`` and the content, whatever else is in the job."""

    random: Count
    """so many styles for each content, chosen by `seed` and the content, whatever else is in the job"""
    seed: Whole = 0
    """with `random`: another seed chooses other styles"""


class ListedPairs(Strict):
    """A CSV or Parquet file with the columns ``content`` and ``style``."""

    file: InputAddress = Field(alias="list")
    """a CSV, JSON lines or Parquet file with the columns `content` and `style`, see below"""


def _pairs_kind(value: Any) -> str:
    if not is_mapping(value):
        return "<word>"
    listed = isinstance(value, ListedPairs) or (isinstance(value, dict) and "random" not in value)
    return "<ListedPairs>" if listed else "<RandomPairs>"


def _pairs_word(value: Any) -> Any:
    if value not in ("all", "zip"):
        raise ValueError(f"must be all, zip, {{random: k}} or {{list: FILE}}, not {shown(value)}")
    return value


Pairs = Annotated[
    Annotated[Literal["all", "zip"], BeforeValidator(_pairs_word), Tag("<word>")]
    | Annotated[RandomPairs, Tag("<RandomPairs>")]
    | Annotated[ListedPairs, Tag("<ListedPairs>")],
    Discriminator(_pairs_kind),
]


class Bank(Strict):
    """How latent banks are stored."""

    format: Literal["parquet", "webdataset"] = "parquet"
    """`parquet` or `webdataset`"""
    x_t: Literal["float32", "float16"] = "float32"
    """type of the stored x_T: `float32` or `float16`"""
    h: Literal["float16", "float32"] = "float16"
    """type of the stored h: `float16` or `float32`"""
    keep: Literal["events", "all"] = "events"
    """which h are kept: those that the injection events need, or `all` of the inversion"""
    role: Literal["own", "both"] = "own"
    """`own`: contents keep their h, styles their x_T; `both`: each keeps both, for
    [pictures between two](banks.md#pictures-between-two-entries)"""
    part_size: Count = 64
    """pictures in a part, the unit of writing and resuming"""


class Pictures(Strict):
    """How results are stored."""

    to: Literal["folder", "webdataset"] = "folder"
    """`folder`, or `webdataset` (tar files)"""
    format: Literal["png", "jpeg", "webp"] = "png"
    """`png`, `jpeg` or `webp`"""
    quality: Annotated[Whole, Field(ge=1, le=100)] = 95
    """of jpeg and webp, 1 to 100"""


class Compute(Strict):
    """On what the job runs."""

    @field_validator("threads")
    @classmethod
    def _not_too_many(cls, value: int | str) -> int | str:
        # OpenMP ends the process without a word where it can't start them.
        if isinstance(value, int) and value > 512:
            raise ValueError(f"must be at most 512, not {value}")
        return value

    actors: AutoCount = "auto"
    """processes that hold the model; `auto` takes one a GPU, or as many as the cores and the memory allow; with
    `--local` there is one"""
    if_fewer: Literal["run", "wait", "refuse"] = "run"
    """where there is no room for all `actors` now: `run` with those that fit, which is told, while the others start as
    nodes join; `wait` also where none fits yet, as on a cluster that grows on demand; `refuse` to run"""
    gpu_share: Annotated[Number, Field(gt=0, le=1)] | None = None
    """of a GPU for each actor: `0.5` puts two on one. `null`: a whole one, less where `actors` are more than GPUs"""
    decode_on: Annotated[str, Field(min_length=1)] | None = None
    """pictures are read and decoded only on nodes that declare this resource (`ray start --resources='{"NAME": 1}'`),
    such as those without a GPU; `null`: on every CPU"""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`cpu`, `cuda`, `mps`; `auto` takes the fastest that is there, one that is not there ends the run at once"""
    batch: AutoCount = "auto"
    """pictures in one network call; `auto` measures what pays (seconds, before the first pictures), once for each
    network, device, precision and number of threads, and remembers it in the cache folder
    (`~/.cache/diffstyle/batches.json`) and, for the rest of the job, in the output (`batches.json`)"""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """`float32`, `bfloat16` or `float16` for the network; the sampler's own state is float32. On a GPU `float16`
    costs nothing that can be seen, on a CPU `bfloat16` a grey level or two ([speed](speed.md#precision)); bank
    and pictures in the same one"""
    compile: AutoSwitch = "auto"
    """on a GPU the network is recorded as CUDA graphs; `true` compiles it before (`torch.compile`), which takes
    most of a minute the first time and is kept in the cache folder; `auto` does so for pictures of 128 px and
    more"""
    threads: AutoCount = "auto"
    """CPU threads of each actor"""
    max_failures: Annotated[Whole, Field(ge=0)] | None = None
    """stop after so many failed pictures or pairs; `null` never stops for that"""
    tile_seconds: Annotated[Number, Field(gt=0)] = 120.0
    """how long a worker should compute between two commits; a kill costs at most about that"""
    unit_timeout: Seconds | None = None
    """how long a worker may give no result (seconds, or `30m`): then it is taken for hung and replaced, and what it
    was at is tried again alone, halved and named, as after a death. Several times `tile_seconds`; `null` waits for
    ever. Not with `--local`, where nothing can end a unit"""
    start_timeout: Seconds | None = 1800.0
    """how long a worker may take to load the model once its process is up (seconds, or `30m`), fetching weights by
    address included: then it is replaced, and after three times in a row the run ends (or goes on with the workers
    that have started), naming the weights; `null` waits for ever. Not with `--local`"""


Weights = Annotated[
    Annotated[WeightsChoice, Tag("<WeightsChoice>")]
    | Annotated[str, *address_or_word(is_weights_word, reads=True), Tag("<word>")],
    Discriminator(lambda value: "<WeightsChoice>" if is_mapping(value) else "<word>"),
]


class ScoreSpec(Strict):
    """Scores as a last stage, by the model itself and by networks of the user's."""

    networks: Annotated[tuple[LocalInput, ...], BeforeValidator(as_list), Field(min_length=1)]
    """files of networks that score the pictures too, see [scores](scores.md#by-networks-of-your-own)"""


Score = Annotated[
    Annotated[ScoreSpec, Tag("<ScoreSpec>")] | Annotated[bool, Tag("<switch>")],
    Discriminator(lambda value: "<ScoreSpec>" if is_mapping(value) else "<switch>"),
]


class ModelChoice(FromPython):
    """A model, and the checkpoint that it takes."""

    model: Annotated[str, *local_or_word(is_config_name)]
    """name of a model (`diffstyle models` lists them), or the path of a [model's YAML file](#your-own-model) or of
    a `.safetensors` file that says its architecture"""
    weights: Weights | None = None
    """another checkpoint of the same architecture: a file, or a diffusers folder (float16 or in shards too);
    `null` is the model's own. An [address](#weights-by-address) (`s3://`, `gs://`, `hf://OWNER/NAME`) is fetched once
    by each machine that needs it. `random:SEED` makes random weights, for trying things out"""


class Job(ModelChoice):
    """A job: one model, contents, styles, and what to make of them."""

    output: Address
    """folder for everything that the job makes; running the job again goes on where it stopped"""
    content: Source
    """the pictures whose content is injected, see [sources](#content-and-style)"""
    style: Source
    """the pictures that receive it, see [sources](#content-and-style)"""
    seed: Annotated[tuple[Whole, ...], BeforeValidator(as_list), Field(min_length=1)] = (0,)
    """seed of the noise that `t_boost` draws; a pair's noise depends on it and the two pictures alone. A list is a
    sweep"""
    inversion: Inversion = Inversion()
    injection: Injection = Injection()
    pairs: Pairs = "all"
    """which pairs are made: `all`, every content in every style; `zip`, the first content with the first style,
    and so on; or one of the forms [below](#pairs)"""
    bank: Bank = Bank()
    pictures: Pictures = Pictures()
    score: Score = False
    """`true`: score every picture as a last stage: content kept, style kept, sanity ([scores](scores.md))"""
    compute: Compute = Compute()
    stop_after: Seconds | None = None
    """time budget of a run (seconds, or `6h`): then no new work is begun, what is under way is finished and
    committed, and the run ends with code 4, to be gone on with"""
    keep: Seconds | None = None
    """how long pictures of settings that this job no longer wants stay (seconds, or `30d`); what is older is dropped
    once a run has made its pairs, see [growing](running.md#growing). `null`: for ever, or until `diffstyle prune`"""

    @field_serializer("seed")
    def _as_written(self, values: tuple[int, ...]) -> Any:
        return plain_if_single(values)

    @property
    def score_networks(self) -> tuple[str, ...]:
        """The files of the networks that score the pictures, besides the model itself."""
        return self.score.networks if isinstance(self.score, ScoreSpec) else ()

    def settings(self) -> list[InjectionSettings]:
        """The sweep: every combination of the listed values, each once, in the lists' order, seed varying fastest."""
        injection = self.injection
        seeds: tuple[int | None, ...] = self.seed if injection.t_boost > 0 else (None,)
        shared = {
            name: getattr(injection, name) for name in ("t_edit", "t_start", "t_boost", "events", "dt_lambda", "dt_end")
        }
        swept: dict[str, tuple[Any, ...]] = {
            "gamma": injection.gamma,
            "omega": injection.omega,
            "mask": injection.mask,
            "edit": tuple(injection.edit_points),
            "start_from_content": injection.start_from_content,
            "match_colours": injection.match_colours,
            "seed": seeds,
        }
        points = {
            InjectionSettings(**dict(zip(swept, point, strict=True)), plan=injection.plan_spec, **shared): None
            for point in itertools.product(*swept.values())
        }
        return list(points)

    def __str__(self) -> str:
        return self.to_yaml().rstrip()

    def __repr__(self) -> str:
        return masked(f"<Job {self.model} -> {self.output}>")

    def to_yaml(self) -> str:
        """The resolved job as a job file: defaults written out, paths absolute, ``${NAME}`` where a path or another
        text was written so. Reading it gives an equal job."""
        values = self.model_dump(mode="json", by_alias=True, exclude_none=True, context={AS_WRITTEN: True})
        return dump(values)
