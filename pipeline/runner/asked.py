"""What a run that makes pairs asks for, and its note for ``diffstyle status``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.monitoring.status import write_plan
from pipeline.monitoring.summary import RunCounts
from pipeline.stages.recipe import Recipe
from pipeline.storage.place import Place


@dataclass(frozen=True)
class Asked:
    """What a job asks for.

    Attributes:
        recipes: The points of its sweep.
        pairs: How many pairs, of all of them.
        lost: How many more that can't be made, since a picture can't be used.
        banks: Side -> the name of its bank, of those that the run makes.
    """

    recipes: Sequence[Recipe]
    pairs: int
    lost: int
    banks: Mapping[str, str]

    def note(self, output: Place, log: Callable[..., None], counts: RunCounts, rows: tuple[int, int]) -> None:
        """Write it down, with what is there by now.

        Args:
            output: The output folder.
            log: Notes an event.
            counts: Of the run.
            rows: How many pairs of the whole manifest are done, and how many failed.
        """
        known = counts.pairs_there + counts.pairs_made, counts.pairs_failed
        write_plan(output, log, self.pairs, known, rows, lost=self.lost, banks=self.banks)
