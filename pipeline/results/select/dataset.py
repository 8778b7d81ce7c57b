"""Writing a data set: whole or not at all, on a local disk."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from diffstyle.errors import ConfigError
from pipeline.results.manifest import Manifest
from pipeline.results.select.card import (
    SELECTION,
    SELECTION_KIND,
    changed_files,
    foreign_files,
    licences_of,
    write_card,
    write_selection,
)
from pipeline.results.select.choose import Choice
from pipeline.results.select.croissant import write_croissant
from pipeline.results.select.formats import FORMS, Form
from pipeline.results.select.pictures import RunPictures
from pipeline.results.select.rows import are_dates, as_json, described
from pipeline.storage.layout import OutputLayout
from pipeline.storage.place import Place


@dataclass(frozen=True)
class Written:
    """The data set that was written.

    Attributes:
        folder: Where it is.
        pairs: How many rows it has.
        bytes: Of all its files.
        notes: What the user should know.
    """

    folder: Path
    pairs: int
    bytes: int
    notes: tuple[str, ...]


def check_target(target: Place, run: Place, overwrite: bool) -> Path:
    """The folder to write to.

    Raises:
        ConfigError: It is on an object store, in the run, or there already: replaced is only a data set that this
            command wrote, and only where that is asked for.
    """
    if not target.is_local:
        raise ConfigError(
            f"--out {target}: data sets can't be written to an object store yet; write to a disk, and copy"
        )
    folder = Path(target.path)
    if target == run or _is_in(target, run):
        raise ConfigError(f"--out {folder}: lies in the run's own output folder; choose a folder beside it")
    if _is_in(run, target):
        raise ConfigError(f"--out {folder}: the run itself lies in it; choose another folder")
    if folder.exists() or folder.is_symlink():
        if not overwrite:
            raise ConfigError(f"--out {folder}: is there already; --overwrite replaces it")
        if not _is_ours(folder):
            raise ConfigError(
                f"--out {folder}: --overwrite replaces only a data set of `diffstyle select`; this is none"
            )
        if changed := changed_files(folder):
            raise ConfigError(
                f"--out {folder}: {' and '.join(changed)} in it {'was' if len(changed) == 1 else 'were'} edited since, "
                "and --overwrite would lose that; move the data set, or write to another folder"
            )
        if foreign := foreign_files(folder):
            more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
            raise ConfigError(
                f"--out {folder}: {foreign[0]}{more} in it is not of the data set, "
                "and --overwrite would lose it; move it"
            )
    return folder


def _is_in(place: Place, folder: Place) -> bool:
    return place.scheme == folder.scheme and place.path.startswith(f"{folder.path.rstrip('/')}/")


def _is_ours(folder: Path) -> bool:
    try:
        selection = json.loads((folder / SELECTION).read_bytes())
    except (OSError, ValueError):
        return False
    return not folder.is_symlink() and isinstance(selection, dict) and selection.get("kind") == SELECTION_KIND


def write_dataset(
    run: Place, choice: Choice, target: Place, format: str, *, triplets: bool, overwrite: bool, command: str
) -> Written:
    """Write the chosen pairs as a data set.

    Args:
        run: The output folder that they were chosen from.
        choice: The pairs.
        target: The data set's folder.
        format: ``imagefolder``, ``parquet`` or ``webdataset``.
        triplets: Whether the pictures of content and style are written, too.
        overwrite: Whether an earlier data set there is replaced, once this one is whole.
        command: The command that chose them, for the card.

    Raises:
        ConfigError: The target won't do, nothing is chosen, or pictures are missing.
        DamagedError: A picture is not as the manifest says. Nothing is written.
    """
    folder = check_target(target, run, overwrite)
    if not len(choice.table):
        raise ConfigError(
            f"no pair is left: {'; '.join(str(one) for one in choice.left_out if one.pairs) or 'the run has none'}"
        )
    form = FORMS[format]
    endings = pc.unique(choice.table["format"]).to_pylist()
    if form.one_ending and len(endings) > 1:
        raise ConfigError(
            f"--format {format}: its results must be of one kind, and these are {', '.join(sorted(endings))}; "
            f"choose one with --where \"format = '{sorted(endings)[0]}'\""
        )
    with_splits = b"order" in (choice.table.schema.field("split").metadata or {})
    rows = described(_with_recipes(run, choice.table), with_splits)
    notes: list[str] = []
    if form.types_from_rows:
        rows = _typed(rows, choice, notes)
    pictures = RunPictures(run, choice.table, triplets)
    columns = ["image", *(["content", "style"] if triplets else [])]
    with _draft(folder) as draft:
        for split in choice.splits:
            chosen = pc.equal(choice.table["split"], split)
            table, chosen_rows = choice.table.filter(chosen), rows.filter(chosen)
            plain = as_json(chosen_rows, form.types_from_rows) if form.as_json else _plain(chosen_rows)
            with form.writer(draft, split, columns, rows.schema) as writer:
                for sample in pictures.samples(table, plain):
                    writer.add(sample)
        _describe(draft, folder.name, run, choice, form, columns, rows.schema, command)
        size = sum(file.stat().st_size for file in draft.rglob("*") if file.is_file())
        _move(draft, folder)
    return Written(folder, len(choice.table), size, tuple(notes))


def _with_recipes(run: Place, table: pa.Table) -> pa.Table:
    """With the column ``recipe``, so that a row can be made again from what it says."""
    recipes = Manifest(run).recipes()
    column = pa.array([recipes.get(settings) for settings in table["settings"].to_pylist()], pa.string())
    return table.add_column(table.column_names.index("settings") + 1, "recipe", column)


def _plain(table: pa.Table) -> Iterator[dict[str, object]]:
    for batch in table.to_batches(1024):
        yield from batch.to_pylist()


def _typed(rows: pa.Table, choice: Choice, notes: list[str]) -> pa.Table:
    """Without what readers would take for another type: numbers that a split has none of, texts that are all dates."""
    lacking: dict[str, None] = {}
    dates: dict[str, None] = {}
    for split in choice.splits:
        part = rows.filter(pc.equal(choice.table["split"], split))
        numbers = [one.name for one in rows.schema if one.type != pa.string()]
        lacking |= dict.fromkeys(name for name in numbers if part[name].null_count == len(part))
        texts = [one.name for one in rows.schema if one.type == pa.string()]
        dates |= dict.fromkeys(name for name in texts if are_dates(part[name]))
    if lacking:
        notes.append(f"left out the columns {', '.join(lacking)}: empty in one of the splits")
    if dates:
        notes.append(
            f"left out the columns {', '.join(dates)}: readers of this form take them for dates, not texts; "
            "--format parquet keeps them"
        )
    return rows.drop_columns([*lacking, *dates])


def _describe(
    draft: Path,
    name: str,
    run: Place,
    choice: Choice,
    form: Form,
    columns: list[str],
    schema: pa.Schema,
    command: str,
) -> None:
    job = OutputLayout(run).job
    text = job.read_bytes().decode() if job.is_file() else None
    write_card(draft, name, choice, form, columns, schema, command, text)
    newest = pc.max(choice.table["created"]).as_py()
    day = newest.date() if newest is not None else date(1970, 1, 1)
    write_croissant(draft, name, form, list(choice.splits), schema, licences_of(choice.table), day)
    write_selection(draft, run, choice, form, command, text)


@contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    """An empty folder beside ``folder`` to write in, gone when the block ends; so is what a killed command left there.

    Raises ConfigError where another command is writing the same data set.
    """
    draft = folder.with_name(f".{folder.name}.part")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft.mkdir(exist_ok=True)
    held = os.open(draft, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = draft.exists() and os.path.samestat(draft.stat(), os.fstat(held))
        except BlockingIOError:
            ours = False
        if not ours:
            raise ConfigError(f"--out {folder}: another `diffstyle select` is writing it")
        for left in draft.iterdir():
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        try:
            yield draft
        finally:
            if draft.exists():
                shutil.rmtree(draft)
    finally:
        os.close(held)


def _move(draft: Path, folder: Path) -> None:
    """Put the finished draft in the data set's place. Killed between the two renames, the old one is beside it."""
    old = folder.with_name(f".{folder.name}.old")
    if old.exists():
        shutil.rmtree(old)
    for file in draft.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
    if folder.exists():
        folder.rename(old)
    draft.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
