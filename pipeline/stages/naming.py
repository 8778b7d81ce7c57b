"""How a name in a list of pairs finds its picture. docs/job-file.md states the rules for users."""

from __future__ import annotations

import difflib
import posixpath
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pipeline.storage.identity import source_name, source_parts, source_stem

# Of the names of a side, so many are compared with an unknown one: all of a large data set would take minutes.
_COMPARED = 5000


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as its data set lists it.

    source  where it came from, as in the manifest
    number  its entry; None for one that can't be used
    reason  why it can't be used
    """

    source: str
    number: int | None
    reason: str = ""


class UnknownNameError(Exception):
    """A name that is no picture's, or several pictures'; the message says which it may be."""


class _Table:
    """Names -> the pictures that are called so; copies of the same picture count as one."""

    def __init__(self) -> None:
        self._pictures: dict[str, list[Picture]] = {}

    def add(self, name: str, picture: Picture) -> None:
        known = self._pictures.setdefault(name, [])
        if not any(_same(picture, other) for other in known):
            known.append(picture)

    def get(self, name: str) -> list[Picture]:
        return self._pictures.get(name, [])

    def some(self) -> list[str]:
        return list(self._pictures)[:_COMPARED]


def _same(one: Picture, other: Picture) -> bool:
    return one.number == other.number and (one.number is not None or one.source == other.source)


class Names:
    """The names of one side's pictures, usable or not: one that can't be used never gives its name to another.

    Args:
        side: ``content`` or ``style``, for messages.
        pictures: as the data set lists them.
        keys: (key or image hash, picture) for each name that a bank or a store gave.
        roots: the folders of the data set, from which relative paths are taken.
    """

    def __init__(
        self, side: str, pictures: Iterable[Picture], keys: Iterable[tuple[str, Picture]], roots: Sequence[str]
    ):
        self._side = side
        self._paths, self._relative, self._keys = _Table(), _Table(), _Table()
        self._files, self._stems = _Table(), _Table()
        prefixes = [root.rstrip("/") + "/" for root in roots]
        for picture in pictures:
            self._add(picture, prefixes)
        for key, picture in keys:
            self._keys.add(key, picture)

    def _add(self, picture: Picture, prefixes: Sequence[str]) -> None:
        file, member = source_parts(picture.source)
        end = "" if member is None else f"#{member}"
        self._paths.add(picture.source, picture)
        self._paths.add(file + end, picture)
        for prefix in prefixes:
            if file.startswith(prefix):
                self._relative.add(file[len(prefix) :] + end, picture)
        if member is not None and "/" in member:
            self._relative.add(member, picture)
        self._files.add(source_name(picture.source), picture)
        self._stems.add(source_stem(picture.source), picture)

    def find(self, name: str, folder: str) -> Picture:
        """The picture that ``name`` stands for in a list that lies in ``folder``. Raises UnknownNameError.

        As a path: whole, from a folder of the data set, or from the list's folder; else as a key or an image hash;
        else, if it has no folders, as a file name, else as a file name without its suffix.
        """
        tried: list[Callable[[], list[Picture]]] = [
            lambda: self._as_path(name, folder),
            lambda: self._keys.get(name),
        ]
        if "/" not in name and "\\" not in name:
            tried += [lambda: self._files.get(name), lambda: self._stems.get(name)]
        for look in tried:
            pictures = look()
            if len(pictures) == 1:
                return pictures[0]
            if pictures:
                examples = " or ".join(shown(source) for source in sorted(one.source for one in pictures)[:2])
                raise UnknownNameError(
                    f"several {self._side}s are called '{shown(name)}' ({examples}); give the path or key"
                )
        raise UnknownNameError(f"no {self._side} is called '{shown(name)}'{self._near(name)}")

    def _as_path(self, name: str, folder: str) -> list[Picture]:
        matching: list[Picture] = []
        for text in dict.fromkeys((name, _tidy(name), _tidy(name.replace("\\", "/")))):
            beside = (
                posixpath.normpath(posixpath.join(folder, text)) if "://" not in folder + text else f"{folder}/{text}"
            )
            for pictures in (self._paths.get(text), self._relative.get(text), self._paths.get(beside)):
                matching += [one for one in pictures if not any(_same(one, other) for other in matching)]
        return matching

    def _near(self, name: str) -> str:
        base = name.replace("\\", "/").rpartition("/")[2]
        same_file = [picture.source for picture in self._files.get(base)]
        if same_file:
            return f" in that folder; did you mean '{shown(same_file[0])}'?"
        close = difflib.get_close_matches(base, self._files.some() + self._stems.some(), n=1)
        return f"; did you mean '{shown(close[0])}'?" if close else "; give a path, key, image hash or file name"


def shown(text: str, most: int = 120) -> str:
    """A name in a message: on one line, printable, and not longer than it helps."""
    plain = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
    return plain if len(plain) <= most else plain[:most] + "..."


def _tidy(path: str) -> str:
    """The path without ``./``, ``//`` and ``x/..``; an address with a scheme stays as it is."""
    return path if "://" in path or not path else posixpath.normpath(path)
