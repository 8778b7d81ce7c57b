"""Runs that were never computed: a manifest, scores and a few pictures, for reports and their pages."""

from __future__ import annotations

import datetime
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.results.manifest import Manifest, manifest_rows
from pipeline.results.network_scores import NetworkScores
from pipeline.results.scores import SCORES, Scores, score_rows
from pipeline.storage.identity import digest
from pipeline.storage.place import Place
from pipeline.storage.tar import TarWriter

WHEN = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)


def made_up_run(
    output: Path,
    contents: Sequence[str],
    styles: Sequence[str],
    gammas: Sequence[float] = (0.6,),
    scored: bool = True,
    pictures: int = 16,
    side: int = 32,
    tar: bool = False,
) -> Path:
    """Write a run of all contents in all styles at all gammas; its pairs share a few pictures. Returns ``output``.

    Pair n has picture n modulo their number: a file ``pictures/all/N.png``, or a member of ``pictures/all.tar``.
    A pair's scores follow from its place: ``content_kept`` rises from 0 to 1 in the order of gamma, content, style.
    """
    made = [made_up_picture(n, side) for n in range(pictures)]
    if tar:
        (output / "pictures").mkdir(parents=True)
        with (output / "pictures" / "all.tar").open("wb") as stream:
            writer = TarWriter(stream)
            for n in reversed(range(pictures)):
                writer.add(f"{n}.png", made[n])
            writer.end()
    else:
        (output / "pictures" / "all").mkdir(parents=True)
        for n, data in enumerate(made):
            (output / "pictures" / "all" / f"{n}.png").write_bytes(data)
    hashes = [digest(data) for data in made]
    rows, scores, many = [], [], len(gammas) * len(contents) * len(styles)
    for gamma in gammas:
        for content in contents:
            for style in styles:
                n = len(rows)
                row = _row(n, gamma, content, style, hashes, side)
                if tar:
                    row["picture"] = f"pictures/all.tar#{n % pictures}.png"
                rows.append(row)
                scores.append(
                    {
                        "pair": rows[-1]["pair"],
                        **{name: (n * (3 + k)) % 101 / 100 for k, name in enumerate(SCORES)},
                        "content_kept": n / max(1, many - 1),
                        "phash": bytes(8),
                        "created": WHEN,
                    }
                )
    place = Place.parse(str(output))
    manifest = Manifest(place)
    manifest.open()
    manifest.commit("part", manifest_rows(rows))
    if scored:
        store = Scores(place)
        store.open({})
        store.commit("part", score_rows(scores))
    return output


def with_frechet(output: Path) -> None:
    """Give a run of two contents in one style Fréchet distances by a network: 1.5, 2.5, ... to the contents."""
    place = Place.parse(str(output))
    scores = NetworkScores(place, "look")
    scores.open({"network": "look", "hash": "0"}, {"look_content": (True, "cosine")})
    rows = Manifest(place).table(["settings", "gamma"]).to_pylist()
    gammas = {row["settings"]: row["gamma"] for row in rows}
    counts = {"pictures": 2, "content_pictures": 2, "style_pictures": 1, "dimensions": 8}
    settings = ["gone since", *sorted(gammas, key=lambda one: gammas[one])]
    scores.write_frechet(
        [{"settings": one, "content": n + 0.5, "style": None, **counts} for n, one in enumerate(settings)]
    )


def made_up_picture(n: int, side: int) -> bytes:
    """A PNG of smooth colours that follow from n."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(n).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC).save(stream, "PNG")
    return stream.getvalue()


def key(name: str) -> str:
    return f"{name}-{digest(name)[:12]}"


def _row(n: int, gamma: float, content: str, style: str, hashes: Sequence[str], side: int) -> dict:
    picture = n % len(hashes)
    sides = {}
    for kind, name in (("content", content), ("style", style)):
        sides |= {
            f"{kind}_key": key(name),
            f"{kind}_image": digest(name),
            f"{kind}_source": f"/data/{kind}s/{name}.png",
            f"{kind}_label": f"label {len(name) % 3}",
            f"{kind}_caption": f"a drawing of {name}",
        }
    return {
        "pair": digest(f"{gamma} {content} {style}"),
        "status": "ok",
        "picture": f"pictures/all/{picture}.png",
        "picture_hash": hashes[picture],
        "format": "png",
        "width": side,
        "height": side,
        **sides,
        "settings": digest(f"settings {gamma}"),
        "gamma": gamma,
        "gamma_schedule": json.dumps({"constant": gamma}),
        "t_edit": 400,
        "omega": 0.0,
        "network_calls": 68,
        "precision": "float32",
        "model": "made up",
        "seconds": 0.5,
        "created": WHEN,
    }
