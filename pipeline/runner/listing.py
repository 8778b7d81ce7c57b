"""The pictures of a side as its data set lists them now, usable or not."""

from __future__ import annotations

from pipeline.runner.sides import Side
from pipeline.shards.store import open_shards
from pipeline.sources import open_source
from pipeline.stages.pairs import Listed


def listed_pictures(side: Side) -> list[Listed]:
    """A row for each picture that the data set of ``side`` lists, in its order, as often as it is listed."""
    store = open_shards(side.shards)
    images = {row["source"]: row["image"] for row in store.current().select(["source", "image"]).to_pylist()}
    rejects = {row["source"]: row["reason"] for row in store.rejects().to_pylist()}

    def reason(source: str) -> str:
        if source in images:
            return "it could not be inverted; `diffstyle bank info` says why"
        return rejects.get(source, "it is not prepared yet; run the shard stage")

    return [Listed(source, images.get(source), reason(source)) for source in open_source(side.spec).listing()]
