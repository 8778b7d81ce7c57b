"""Scoring by a network that the user brought: results beside their contents and styles, as that network sees them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from diffstyle.errors import CheckpointError
from pipeline.models.network_spec import NetworkSpec
from pipeline.models.session import LoadedModel
from pipeline.results.network_scores import SOURCES_SCHEMA, NetworkScores
from pipeline.stages.commit import OnDone, commit_outcomes
from pipeline.stages.score import PicturesToScore, Sources, Unscored
from pipeline.storage import merging
from pipeline.storage.identity import digest
from pipeline.storage.parts import now
from pipeline.workers.base import Pool
from pipeline.workers.unit import Outcome, halves

if TYPE_CHECKING:
    import torch

    from pipeline.measures.networks import ScoringNetwork


@lru_cache(maxsize=2)  # by the hash too: in one process a file may change from run to run
def _network(spec: NetworkSpec, expected: str, device: str) -> ScoringNetwork:
    """The network in this worker. CheckpointError where its file is another than the driver's."""
    seen = spec.hash()
    if seen != expected:
        raise CheckpointError(
            f"network {spec.name}: this worker sees another file than the driver (SHA-256 {seen[:8]}, not "
            f"{expected[:8]}); give every machine the same"
        )
    return spec.load(device)


def _look(
    model: LoadedModel, network: ScoringNetwork, pictures: Sequence[np.ndarray]
) -> list[tuple[torch.Tensor, ...]]:
    """What the network sees in each of some pictures, each with a batch axis of one, on its device."""
    from diffstyle.images import to_tensor

    def some(indices: Sequence[int]) -> list[tuple[torch.Tensor, ...]]:
        maps = network.look(to_tensor(np.stack([pictures[i] for i in indices])).to(model.device))
        return [tuple(one[k : k + 1] for one in maps) for k in range(len(indices))]

    return model.in_batches(len(pictures), some, fill=False)


def _finite(looked: tuple[torch.Tensor, ...]) -> bool:
    return all(bool(one.isfinite().all()) for one in looked)


def _bytes(embedding: tuple[torch.Tensor, ...]) -> bytes | None:
    """An embedding as it is stored; None where it is not finite."""
    values = embedding[0].cpu().numpy().astype("<f4")
    return values.tobytes() if np.isfinite(values).all() else None


@dataclass(frozen=True)
class NetworkScoreUnit(PicturesToScore):
    """Some results to be scored by a network.

    Attributes:
        spec: The network.
        hash: Of its files, as the driver sees them.
    """

    spec: NetworkSpec
    hash: str

    def compute(
        self, model: LoadedModel, loaded: tuple[list[np.ndarray | str], dict[str, np.ndarray]]
    ) -> list[dict[str, Any]]:
        """A row of scores for each pair."""
        results, sources = loaded
        network = _network(self.spec, self.hash, model.device)
        rows = self.rows(results)
        whole = [n for n, result in enumerate(results) if not isinstance(result, str)]
        # Feature maps of a whole unit would not fit in memory: of them, those of a batch are held at a time.
        some = len(whole) if network.small else model.batch
        seen: dict[str, tuple[torch.Tensor, ...]] = {}
        for start in range(0, len(whole), max(some, 1)):
            begun, chunk = time.perf_counter(), whole[start : start + some]
            images = dict.fromkeys(self.pairs[n][f"{side}_image"] for n in chunk for side in self.spec.compare)
            seen = {image: seen[image] for image in images if image in seen}
            new = [image for image in images if image in sources and image not in seen]
            pictures = [sources[image] for image in new] + [results[n] for n in chunk]
            looked = _look(model, network, pictures)  # type: ignore[arg-type]
            seen |= dict(zip(new, looked, strict=False))
            own = dict(zip(chunk, looked[len(new) :], strict=True))
            for side in self.spec.compare:
                known = [n for n in chunk if self.pairs[n][f"{side}_image"] in seen]
                if known:
                    x = _together([own[n] for n in known])
                    y = _together([seen[self.pairs[n][f"{side}_image"]] for n in known])
                    for n, value in zip(known, network.compare(x, y, side).tolist(), strict=True):
                        if math.isfinite(value):
                            rows[n][f"{self.spec.name}_{side}"] = value
                        else:
                            source = seen[self.pairs[n][f"{side}_image"]]
                            rows[n]["error"] = rows[n]["error"] or self._not_finite(own[n], source, side)
            for n in chunk:
                rows[n]["seconds"] = (time.perf_counter() - begun) / len(chunk)
                if self.spec.frechet:
                    rows[n]["embedding"] = _bytes(own[n])
                    if rows[n]["embedding"] is None:
                        rows[n]["error"] = self._not_finite(own[n])
        return rows

    def _not_finite(
        self, own: tuple[torch.Tensor, ...], source: tuple[torch.Tensor, ...] | None = None, side: str = ""
    ) -> str:
        """Why a result has no score: which of the two pictures the network gives no finite numbers for."""
        if not _finite(own):
            culprit = "this picture"
        elif source is not None and not _finite(source):
            culprit = f"its {side}"
        else:
            culprit = f"this picture beside its {side}"
        return f"network {self.spec.name}: what it gives for {culprit} is not finite (NaN or infinite)"

    def save(self, computed: list[dict[str, Any]]) -> pa.Table:
        return NetworkScores(self.output, self.spec.name).rows(computed)


def _together(looked: Sequence[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
    import torch

    return tuple(torch.cat(maps) for maps in zip(*looked, strict=True))


@dataclass(frozen=True)
class EmbedUnit:
    """Some sources whose embeddings are wanted: contents or styles, by their images."""

    sources: Sources
    spec: NetworkSpec
    hash: str

    @property
    def name(self) -> str:
        return f"embed-{digest(*sorted(self.sources.rows))[:20]}"

    def load(self) -> dict[str, np.ndarray]:
        """image -> pixels."""
        return self.sources.read()

    def compute(self, model: LoadedModel, loaded: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        """A row for each image; its embedding is None where it is not finite."""
        network = _network(self.spec, self.hash, model.device)
        looked = _look(model, network, list(loaded.values()))
        return [{"image": image, "embedding": _bytes(one)} for image, one in zip(loaded, looked, strict=True)]

    def save(self, computed: list[dict[str, Any]]) -> pa.Table:
        return pa.Table.from_pylist(computed, SOURCES_SCHEMA)

    def split(self) -> Sequence[EmbedUnit]:
        return [replace(self, sources=self.sources.only(set(half))) for half in halves(tuple(self.sources.rows))]


# ---- the driver's side ----
def score_by_network(
    pool: Pool | None,
    scores: NetworkScores,
    spec: NetworkSpec,
    todo: Unscored,
    sources: Sequence[Sources],
    per_unit: int,
    on_done: OnDone,
) -> tuple[int, int]:
    """Score the pictures of ``todo`` by a network and commit them part by part; returns how many were (scored, failed).

    Args:
        pool: The workers.
        scores: The network's store, open.
        spec: The network.
        todo: The pictures that lack its scores.
        sources: Where the prepared pictures of the sides are.
        per_unit: How many pairs make a unit.
        on_done: Called after each unit.
    """
    hashed = scores.about["hash"]

    def units() -> Iterator[NetworkScoreUnit]:
        for pairs in todo.units(per_unit):
            images = {pair[f"{side}_image"] for pair in pairs for side in spec.compare}
            yield NetworkScoreUnit(scores.output, pairs, tuple(side.only(images) for side in sources), spec, hashed)

    n_committed = 0

    def commit(outcome: Outcome) -> tuple[int, int]:
        nonlocal n_committed
        rows = outcome.result
        if outcome.error is not None:
            rows = scores.rows(
                {"pair": p["pair"], "error": outcome.error, "created": now()} for p in outcome.unit.pairs
            )
        scores.store.commit(outcome.unit.name, rows)
        n_committed += 1
        if n_committed % merging.MANY == 0:
            scores.merge_small()
        failed = len(rows) - rows["error"].null_count
        return len(rows) - failed, failed

    counts = commit_outcomes(pool, units(), commit, on_done)
    scores.merge_small()
    return counts


def embed_sources(
    pool: Pool | None, scores: NetworkScores, spec: NetworkSpec, todo: Sequence[Sources], per_unit: int, on_done: OnDone
) -> tuple[int, int]:
    """Find the embeddings of sources and commit them part by part; returns how many were (found, failed)."""

    def units() -> Iterator[EmbedUnit]:
        for side in todo:
            images = sorted(side.rows)
            for start in range(0, len(images), per_unit):
                yield EmbedUnit(side.only(set(images[start : start + per_unit])), spec, scores.about["hash"])

    def commit(outcome: Outcome) -> tuple[int, int]:
        if outcome.error is not None:
            return 0, len(outcome.unit.sources.rows)
        scores.sources.commit(outcome.unit.name, outcome.result)
        failed = outcome.result["embedding"].null_count
        return len(outcome.result) - failed, failed

    return commit_outcomes(pool, units(), commit, on_done)
