"""Where everything lies in an output folder. ARCHITECTURE.md draws it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pipeline.storage.place import Place

#: The names of a job's sides; a job whose contents are its styles has the one side ``both``.
SIDES: Sequence[str] = ("content", "style", "both")

# Of the digest that tells the further banks of a side apart.
_DIGITS = 8
_BANK = re.compile(rf"(?P<side>{'|'.join(SIDES)})(?:-[0-9a-f]{{{_DIGITS}}})?")


@dataclass(frozen=True)
class OutputLayout:
    """The files and folders of the output at ``root``; only :meth:`banks` and :meth:`own_job` look what is there."""

    root: Place

    PICTURES: ClassVar[str] = "pictures"
    MANIFEST: ClassVar[str] = "manifest"
    SCORES: ClassVar[str] = "scores"
    NETWORKS: ClassVar[str] = "networks"
    DESCRIPTION: ClassVar[str] = "output.json"
    SCORES_DESCRIPTION: ClassVar[str] = "scores.json"
    _BANKS: ClassVar[str] = "banks"

    @classmethod
    def around_bank(cls, bank: Place) -> OutputLayout | None:
        """The layout of the output that a bank lies in; None for a bank that stands alone."""
        return cls(bank.parent.parent) if bank.parent.name == cls._BANKS else None

    @classmethod
    def shards_beside(cls, bank: Place) -> Place | None:
        """Where the run that made a bank keeps its prepared pictures; None for a bank that stands alone."""
        layout = cls.around_bank(bank)
        return None if layout is None else layout.shards(cls.side_of_bank(bank) or bank.name)

    @classmethod
    def around(cls, place: Place) -> OutputLayout | None:
        """The layout of the output that a place lies in, at any depth; None for one outside of every output."""
        while (folder := place.parent) != place and folder.path.strip("/"):
            if (folder / cls.DESCRIPTION).is_file():
                return cls(folder)
            place = folder
        return None

    # ---- a run's own files ----
    @property
    def job(self) -> Place:
        """The job as it was last run, resolved."""
        return self.root / "job.yaml"

    @classmethod
    def own_job(cls, folder: Place) -> Place | None:
        """The job file that a user keeps in a folder, as ``diffstyle new FOLDER`` writes it.

        Args:
            folder: A folder or anything else.

        Returns:
            None where there is none, and for an output, whose ``job.yaml`` a run has written: nothing else of a run is
            beside a user's own.
        """
        layout = cls(folder)
        if not (folder.is_local and layout.job.is_file()):
            return None
        of_a_run = (layout.events, layout.plan, folder / cls.DESCRIPTION, layout.manifest, folder / cls._BANKS)
        return None if any(one.exists() for one in (*of_a_run, folder / "shards", folder / ".lock")) else layout.job

    @property
    def plan(self) -> Place:
        """How many pairs the run wants, and what was there when it began."""
        return self.root / "plan.json"

    @property
    def batches(self) -> Place:
        """The batch size of each kind of workers that measured one."""
        return self.root / "batches.json"

    @property
    def pruning(self) -> Place:
        """The tars that a prune is about to rewrite; there only while one is under way, or after it was killed."""
        return self.root / "prune-under-way.json"

    @property
    def events(self) -> Place:
        """The folder of event logs."""
        return self.root / "events"

    # ---- what a run makes ----
    @property
    def pictures(self) -> Place:
        """The folder of results."""
        return self.root / self.PICTURES

    @property
    def manifest(self) -> Place:
        """The folder of the manifest's parts."""
        return self.root / self.MANIFEST

    @property
    def scores(self) -> Place:
        """The folder of the scores' parts."""
        return self.root / self.SCORES

    @property
    def networks(self) -> Place:
        """The folder of what networks that the user brought say of the pictures."""
        return self.root / self.NETWORKS

    @property
    def contact_sheets(self) -> Place:
        """The folder of contact sheets, one for each point of the sweep and one of the sweep itself."""
        return self.root / "contact-sheets"

    @property
    def report(self) -> Place:
        """The folder of the page that shows the pairs."""
        return self.root / "report"

    def shards(self, side: str) -> Place:
        """The shard store of a side."""
        return self.root / "shards" / side

    def bank(self, side: str, identity: str = "") -> Place:
        """The first latent bank of a side; or a further one, by the digest of what makes it another."""
        return self.root / self._BANKS / (f"{side}-{identity[:_DIGITS]}" if identity else side)

    def banks(self, side: str) -> list[Place]:
        """The banks of a side that are there: the first one, then the others by name. Looks into the folder."""
        folder = self.root / self._BANKS
        names = [name for name in folder.folders() if self.side_of_bank(folder / name) == side]
        return [folder / name for name in names if (folder / name / "description.json").is_file()]

    @classmethod
    def side_of_bank(cls, bank: Place) -> str | None:
        """The side that a bank of an output is of, by its name; None for a bank that stands alone."""
        match = _BANK.fullmatch(bank.name)
        return match["side"] if match and bank.parent.name == cls._BANKS else None
