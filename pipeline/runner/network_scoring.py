"""Scores by the user's networks, in the driver: each network's columns, where they are missing."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence

from diffstyle.errors import CheckpointError, ConfigError
from pipeline.models.network_spec import NetworkSpec, load_network_spec
from pipeline.results.frechet import frechet_distances, frechet_lines
from pipeline.results.manifest import Manifest
from pipeline.results.network_scores import SOURCES_SCHEMA, NetworkScores, networks_of
from pipeline.runner.run import Run
from pipeline.stages.score import Sources, Unscored
from pipeline.stages.score_networks import embed_sources, score_by_network
from pipeline.storage.counts import count

log = logging.getLogger(__name__)


def network_specs(files: Sequence[str | os.PathLike[str]], side: int) -> list[NetworkSpec]:
    """The networks that some files describe, each tried on noise: a wrong one ends the run before it begins.

    Args:
        files: A YAML file for each.
        side: Of the run's pictures, in pixels.

    Raises:
        ConfigError: A file is missing or wrong, or two networks have one name.
        CheckpointError: A network can't be loaded, or gives something else than its file says, or no finite numbers.
    """
    import torch

    specs = [load_network_spec(file) for file in files]
    for n, spec in enumerate(specs):
        if any(spec.name == other.name for other in specs[:n]):
            raise ConfigError(f"score.networks: two of them are called {spec.name}; their columns would be the same")
        NetworkScores.check(spec.name, spec.columns())
        network, x = spec.load("cpu"), torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
        seen, others = network.look(x), network.look(x.flip(0))
        given = [*seen, *(network.compare(seen, others, one) for one in spec.compare)]
        if not all(bool(values.isfinite().all()) for values in given):
            raise CheckpointError(
                f"{spec.network}: gives numbers that are not finite (NaN or infinite) for two pictures of noise, and "
                "so can't score; export it in float32, with its weights loaded, and see input.mean and input.std"
            )
    return specs


def score_by_networks(run: Run, specs: Sequence[NetworkSpec], sources: Callable[[], dict[str, Sources]]) -> None:
    """Score what lacks scores by each network; ``run`` holds the output's lock. Killed at any moment, it goes on.

    Args:
        run: The run.
        specs: The networks.
        sources: Returns, of each side, its prepared pictures; called where there is something to do.
    """
    manifest = Manifest(run.output)
    for spec in specs:
        scores = NetworkScores(run.output, spec.name)
        differing = scores.open(spec.identity(), spec.columns())
        if differing:
            log.warning(f"{spec.name}: another network than before ({'; '.join(differing)}); its scores are made again")
        scores.remove_uncommitted()
        scored = scores.scored()
        todo = Unscored(manifest, scored)
        with run.stage(f"score {spec.name}", len(todo), "picture", scores.remove_uncommitted) as on_done:
            pool = run.pool if len(todo) else None
            # Embeddings are quick; of what is compared map by map, less is lost with a killed unit.
            per_unit = run.share(len(todo), 256 if spec.gives == "embedding" else 64)
            sides = list(sources().values()) if len(todo) else []
            done, failed = score_by_network(pool, scores, spec, todo, sides, per_unit, on_done)
        run.counts.scored_by[spec.name] = (done, len(scored))
        run.counts.not_scored = max(run.counts.not_scored, failed)
        if spec.frechet and (done or not scores.frechet()):
            _embed_sources(run, scores, spec, manifest, sources())
            scores.write_frechet(frechet_distances(manifest, scores))
        run.counts.notes += frechet_lines(spec.name, scores.frechet())
    for other in networks_of(run.output):
        if other.name not in {spec.name for spec in specs} and len(left := Unscored(manifest, other.scored())):
            run.counts.notes.append(
                f"{count(len(left), 'picture')} without the scores of network {other.name}: name its file by --network"
            )


def _embed_sources(
    run: Run, scores: NetworkScores, spec: NetworkSpec, manifest: Manifest, sources: dict[str, Sources]
) -> None:
    """The embeddings of the contents and styles that the pictures were made of, where they are missing."""
    known = set(scores.sources.rows(SOURCES_SCHEMA, ["image"])["image"].to_pylist())
    wanted = manifest.images("content") | manifest.images("style")
    todo = []
    for side in sources.values():
        own = side.only(wanted - known)
        known |= set(own.rows)  # a picture may be on both sides
        todo.append(own)
    total = sum(len(side.rows) for side in todo)
    with run.stage(f"embed sources by {spec.name}", total, "picture", scores.remove_uncommitted) as on_done:
        embed_sources(run.pool if total else None, scores, spec, todo, run.share(total), on_done)
