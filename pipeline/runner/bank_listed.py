"""What of a bank its data set still lists."""

from __future__ import annotations

from diffstyle.errors import ConfigError
from pipeline.jobfile.schema import Job
from pipeline.runner.sides import sides
from pipeline.shards.store import open_shards
from pipeline.sources import open_source
from pipeline.storage.layout import OutputLayout
from pipeline.storage.place import Place


def images_listed(job: Job, bank: Place) -> set[str]:
    """The images of the pictures that the job's data set for ``bank`` lists now.

    Shards keep pictures whose files are gone, so it is the data set that is asked. Raises ConfigError where the bank is
    none of those that the job makes from a data set.
    """
    prepared_sides = [side for side in sides(job) if side.needs_shards]
    for side in prepared_sides:
        if OutputLayout.side_of_bank(bank) == side.name and OutputLayout.around_bank(bank) == OutputLayout(side.output):
            listed = {item.source for block in open_source(side.spec).blocks({}) for item in block.items}
            rows = open_shards(side.shards).current().select(["source", "image"]).to_pylist()
            return {row["image"] for row in rows if row["source"] in listed}
    names = " and ".join(str(side.bank) for side in prepared_sides) or "none"
    raise ConfigError(f"--job: the job does not make {bank} from a data set; it makes {names}")
