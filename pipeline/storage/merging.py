"""Which small parts of a store become one, and the note that says so while it is done.

Ten thousand small files cost a reader more than their rows do. A merge has four writes, and ``parts.py`` makes them:

1. ``index/.merging-TURN.json``: which parts become which part;
2. the merged part, whole: from here on it counts and the parts that it replaces don't;
3. those parts are deleted;
4. the note is deleted.

A reader lists the parts first and then the notes. So where it sees a merged part beside some that this replaces, the
note is there and says so, or they have been deleted since, and then it lists again (``PartStore.each``). A kill after
any of the writes leaves what counts unambiguous, and the next holder ends the merge or forgets it. On a store a holder
that was taken over may still write the merged part, but then it is of an old turn and does not count. It asks whether
its turn is the newest after it wrote that part and before it deletes: so a successor that comes later sees the merged
part, and if one came before, nothing is deleted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from diffstyle.errors import one_line
from pipeline.storage.identity import digest
from pipeline.storage.place import Entry, Place
from pipeline.storage.tables import DamagedError

#: So many small parts may there be before they are merged.
MANY = 256
#: A part below so many bytes is small; some ten thousand rows.
SMALL = 1 << 20
#: Merged parts have about so many bytes: some fifty thousand rows, which a reader holds in some tens of megabytes.
LARGE = 4 << 20

_NOTE = re.compile(r"\.merging-\d{8}\.json")
_MERGED = "merged-"


def is_merged(part: str) -> bool:
    """Whether a part was made of others."""
    return part.startswith(_MERGED)


@dataclass(frozen=True)
class Merge:
    """Parts that become one.

    Attributes:
        into: The name of the merged part.
        parts: The names of the parts that it replaces.
    """

    into: str
    parts: tuple[str, ...]

    def note(self, index: Place, turn: int) -> Place:
        """Write down that the merge begins; returns where."""
        place = index / f".merging-{turn:08}.json"
        place.write_bytes(json.dumps({"into": self.into, "parts": self.parts}).encode())
        return place


def notes(hidden: Iterable[Entry]) -> dict[Place, Merge]:
    """The merges of a store that are under way, or were killed. DamagedError for a note that is not whole.

    Args:
        hidden: The hidden files beside its index, listed after the index itself.
    """
    merges = {}
    for entry in hidden:
        if not _NOTE.fullmatch(entry.place.name):
            continue
        try:
            stored = json.loads(entry.place.read_bytes())
            merges[entry.place] = Merge(str(stored["into"]), tuple(map(str, stored["parts"])))
        except FileNotFoundError:  # it has ended
            continue
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedError(
                f"{entry.place}: not as it was written ({one_line(error)}); delete it and run the job again, which "
                "drops the rows that are in two parts"
            ) from error
    return merges


def small_parts(parts: Mapping[str, Entry], prefix: str = "") -> list[Merge]:
    """What to merge of a store's parts: nothing until there are MANY small ones.

    Args:
        parts: The parts' names, and their index files.
        prefix: What the names of the merged parts begin with.
    """
    small = [(name, entry.size) for name, entry in parts.items() if entry.size < SMALL]
    if len(small) <= MANY:
        return []
    groups: list[list[str]] = [[]]
    held = 0
    for name, size in small:
        if held >= LARGE:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += size
    return [Merge(f"{prefix}{_MERGED}{digest(*group)[:20]}", tuple(group)) for group in groups if len(group) > 1]
