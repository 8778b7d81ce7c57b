"""One row of a data set or of a run, by what a person calls it, with its picture and where it came from."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffstyle.errors import ConfigError
from pipeline.results.contact_sheets import read_bytes
from pipeline.results.manifest import MANIFEST_SCHEMA, Manifest
from pipeline.results.select.read import dataset_rows, selection_of
from pipeline.results.words import setting_words, short_name
from pipeline.storage.counts import count
from pipeline.storage.identity import source_name, source_stem
from pipeline.storage.layout import OutputLayout
from pipeline.storage.place import Place
from pipeline.storage.tables import DamagedError

#: Pairs are named by at least so many of their 32 digits.
_DIGITS = 6
_SHOWN = 6
_NEAR = 0.5  # how alike a name is that may have been meant; names are often short


@dataclass(frozen=True)
class MadeRow:
    """A row as it was written.

    Attributes:
        row: The manifest's columns, those that are known.
        name: What it is called in messages.
        picture: The picture's bytes; None where they are gone.
        sources: ``content`` and ``style``: the prepared picture's bytes, where the data set has them.
        run: The output folder that it was made in; None: not known.
        job: The job file that made it, as text; None: not known.
        note: What is to be told of it.
    """

    row: Mapping[str, Any]
    name: str
    picture: bytes | None = field(repr=False)
    sources: Mapping[str, bytes] = field(repr=False)
    run: Place | None
    job: str | None = field(repr=False)
    note: str = ""


def look_up(
    folder: Place,
    name: str | None = None,
    *,
    content: str | None = None,
    style: str | None = None,
    split: str | None = None,
    run: Place | None = None,
) -> MadeRow:
    """The one row that fits.

    Args:
        folder: A data set that `diffstyle select` wrote, or a run's output folder.
        name: The pair's id or its first digits, the name of its picture's file, or, in a data set, its number in the
            split, counted from 0.
        content: The content's key, its name or that of its file.
        style: Likewise.
        split: Look only into this split of a data set.
        run: The output folder that a data set was chosen from; None: the one that it names.

    Returns:
        The row.

    Raises:
        ConfigError: The folder is neither, or no row fits, or several.
    """
    if name is None and content is None and style is None:
        raise ConfigError("which pair? Give its number, its id, its picture's name, or --content and --style")
    fits = _Fit(name, content, style)
    selection = selection_of(Path(folder.path)) if folder.is_local else None
    if selection is not None:
        return _in_dataset(Path(folder.path), selection, fits, split, run)
    if split is not None:
        raise ConfigError(f"--split {split}: {folder} is no data set of `diffstyle select`")
    if not Manifest(folder).store.exists():
        raise ConfigError(
            f"{folder}: neither a data set of `diffstyle select` nor the output folder of a run; check the path"
        )
    return _in_run(folder, fits)


@dataclass(frozen=True)
class _Fit:
    """What is asked for, and whether a row fits it."""

    name: str | None
    content: str | None
    style: str | None

    @property
    def number(self) -> int | None:
        """Of a row; None where the name is none."""
        return int(self.name) if self.name is not None and re.fullmatch(r"\d{1,9}", self.name) else None

    def __call__(self, row: Mapping[str, Any], number: int | None) -> bool:
        for side, wanted in (("content", self.content), ("style", self.style)):
            if wanted is not None and wanted not in _names(row, side):
                return False
        if self.name is None or (number is not None and number == self.number):
            return True
        name = self.name.lower()
        if re.fullmatch(rf"[0-9a-f]{{{_DIGITS},32}}", name) and row["pair"].startswith(name):
            return True
        # A file of a data set ends in digits of the pair; one of a run has a path in the manifest.
        file = re.search(r"__([0-9a-f]{12})(\.[a-z]+)?$", name)
        if file is not None and row["pair"].startswith(file[1]):
            return True
        picture = row.get("picture") or ""
        parts = re.split("[/#]", picture), re.split("[/#]", self.name)  # of a path, or of a longer or shorter one
        least = min(map(len, parts))
        return bool(picture) and parts[0][-least:] == parts[1][-least:]

    def __str__(self) -> str:
        sides = [f"{side} {wanted}" for side, wanted in (("content", self.content), ("style", self.style)) if wanted]
        return " with ".join([*([f"row {self.name}"] if self.name is not None else []), *sides])


def _names(row: Mapping[str, Any], side: str) -> set[str]:
    key, source = row[f"{side}_key"], row.get(f"{side}_source")
    names = {key, short_name(key), row[f"{side}_image"]}
    return names if source is None else names | {source, source_name(source), source_stem(source)}


def _in_dataset(
    folder: Path, selection: Mapping[str, Any], fits: _Fit, split: str | None, run: Place | None
) -> MadeRow:
    fitting = [one for one in dataset_rows(folder, selection, split) if fits(one.row, one.number)]
    if not fitting and fits.number is not None:
        counts = ", ".join(f"{name} {n}" for name, n in (selection.get("splits") or {}).items())
        raise ConfigError(f"{folder}: no {fits}; rows are counted from 0, and there are {counts}")
    if not fitting:
        raise _none_fits(str(folder), fits, (one.row for one in dataset_rows(folder, selection, split)))
    splits = list(dict.fromkeys(one.split for one in fitting))
    which = f": --split {' or '.join(splits)}" if len(splits) == len(fitting) else ", by its number and --split"
    _check_one([(f"{one.split} {one.number}", one.row) for one in fitting], fits, str(folder), which)
    (one,) = fitting
    pictures = one.read()
    made_in = Place.parse(selection["run"]) if run is None and selection.get("run") else run
    return MadeRow(
        row=one.row,
        name=f"row {one.number} of {one.split}",
        picture=pictures.get("image"),
        sources={side: pictures[side] for side in ("content", "style") if side in pictures},
        run=made_in,
        job=_job_of(made_in) or selection.get("job"),
        note="" if "image" in pictures else f"{folder}: the picture of the row is gone",
    )


def _in_run(run: Place, fits: _Fit) -> MadeRow:
    if fits.number is not None and len(fits.name or "") < _DIGITS:
        raise ConfigError(f"row {fits.name}: the pairs of a run have no numbers; give the pair's id or its picture")
    fitting = [row for rows in _parts(run) for row in rows if fits(row, None)]
    if not fitting:
        raise _none_fits(str(run), fits, (row for rows in _parts(run) for row in rows))
    made = [row for row in fitting if row["status"] == "ok"]
    if fitting and not made:
        raise ConfigError(f"{run}: pair {fitting[0]['pair'][:12]} was not made: {fitting[0]['error']}")
    unique = list({row["pair"]: row for row in made}.values())
    _check_one([(row["pair"][:12], row) for row in unique], fits, str(run), ", by its id")
    (row,) = unique
    try:
        picture, note = read_bytes(run, row["picture"]), ""
    except DamagedError as error:
        picture, note = None, str(error)
    return MadeRow(row, f"pair {row['pair'][:12]}", picture, {}, run, _job_of(run), note)


def _parts(run: Place) -> Iterator[list[dict[str, Any]]]:
    """The manifest's rows, a part at a time: all of a large run would fill the memory."""
    store = Manifest(run).store
    for part in store.parts():
        yield store.part_rows(part, MANIFEST_SCHEMA).to_pylist()


def _none_fits(where: str, fits: _Fit, rows: Iterable[Mapping[str, Any]]) -> ConfigError:
    """That no row fits, with the name that was meant, or how rows are named."""
    all_names: dict[str, set[str]] = {"content": set(), "style": set()}
    shown: dict[str, set[str]] = {"content": set(), "style": set()}
    for row in rows:
        for side in all_names:
            all_names[side] |= _names(row, side)
            source = row.get(f"{side}_source")
            shown[side].add(short_name(row[f"{side}_key"]) if source is None else source_name(source))
            shown[side].add(short_name(row[f"{side}_key"]))
    cures = []
    for side, wanted in (("content", fits.content), ("style", fits.style)):
        if wanted is not None and wanted not in all_names[side]:
            near = difflib.get_close_matches(wanted, sorted(shown[side]), 1, _NEAR)
            cures.append(f"no {side} is called {wanted}" + (f"; did you mean {near[0]}?" if near else ""))
    if fits.name is not None and not cures:
        sides = [side for side in all_names if fits.name in all_names[side]]
        if sides:
            as_sides = " or ".join(f"--{side} {shlex.quote(fits.name)}" for side in sides)
            cures.append(f"that is the name of a {' and of a '.join(sides)}: give it as {as_sides}")
        else:
            options = [
                f"--{side} {shlex.quote(near)}"
                for side in shown
                for near in difflib.get_close_matches(fits.name, sorted(shown[side]), 1, _NEAR)
            ]
            cures.append(
                f"did you mean {' or '.join(options)}?"
                if options
                else "give the pair's id, its picture's file, or --content NAME and --style NAME"
            )
    return ConfigError("; ".join([f"{where}: no {fits}", *cures]))


def _check_one(fitting: list[tuple[str, Mapping[str, Any]]], fits: _Fit, where: str, which: str) -> None:
    """ConfigError where several rows fit; ``which`` says how to tell them apart."""
    if len(fitting) > 1:
        words = setting_words([row for _, row in fitting])
        listed = [
            f"{name} ({short_name(row['content_key'])} in {short_name(row['style_key'])}, {told_apart})"
            for (name, row), told_apart in zip(fitting[:_SHOWN], words, strict=False)
        ]
        more = f" and {len(fitting) - _SHOWN} more" if len(fitting) > _SHOWN else ""
        raise ConfigError(
            f"{where}: {count(len(fitting), 'row', 'fits/fit')} {fits}: {', '.join(listed)}{more}; say which{which}"
        )


def _job_of(run: Place | None) -> str | None:
    """The job file of a run; None where it, or the run, is gone."""
    if run is None or not (job := OutputLayout(run).job).is_file():
        return None
    return job.read_bytes().decode()
