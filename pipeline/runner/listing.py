"""The pictures of a side as its data set lists them now, usable or not."""

from __future__ import annotations

from diffstyle.errors import ConfigError
from pipeline.runner.sides import Side
from pipeline.shards.store import open_shards
from pipeline.sources import open_source
from pipeline.stages.pairs import Listed


def listed_pictures(side: Side, by_place: bool = False) -> list[Listed]:
    """A row for each picture that the data set of ``side`` lists, in its order, as often as it is listed.

    Args:
        side: contents or styles.
        by_place: the rows are paired by their places, so each must have a certain one.

    Raises:
        ConfigError: a file of the data set can't be read to its end, and the places of what follows are needed.
    """
    store = open_shards(side.shards)
    images = {row["source"]: row["image"] for row in store.current().select(["source", "image"]).to_pylist()}
    rejects = {row["source"]: row["reason"] for row in store.rejects().to_pylist()}

    def reason(source: str) -> str:
        if source in images:
            return "it could not be inverted; `diffstyle bank info` says why"
        return rejects.get(source, "it is not prepared yet; run the shard stage")

    source = open_source(side.spec)
    rows = [Listed(name, images.get(name), reason(name)) for name in source.listing()]
    if by_place and source.torn:
        raise ConfigError(
            f"{side.name}: {source.torn[0]} can't be read to its end, so nobody knows which picture comes next; "
            "fetch it again, or give the pairs in a list instead of pairs: zip"
        )
    return rows
