"""``README.md``: the data card. What is in the data set, how it was chosen, from what, and how to make it again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

import diffstyle
from pipeline.results.manifest import MANIFEST_SCHEMA
from pipeline.results.pictures import EXTENSIONS
from pipeline.results.scores import ScoreColumn
from pipeline.results.select.choose import Choice
from pipeline.results.select.formats import Form, webdataset_features
from pipeline.results.select.licences import licence_ids
from pipeline.results.select.pairs import score_columns
from pipeline.storage.counts import count
from pipeline.storage.identity import digest, file_hash
from pipeline.storage.place import Place

FILE = "README.md"
SELECTION = "selection.json"
SELECTION_KIND = "diffstyle-selection"

#: Columns of the manifest that say which pair and which file a row is, and how it went. The others are settings.
_NO_SETTINGS = {
    *("pair", "status", "error", "picture", "picture_hash", "picture_bytes", "format", "settings"),
    *("recipe", "made_with", "network_calls", "seconds", "created"),
}
_SHOWN = 12
#: Files that somebody may edit.
_TEXTS = (".md", ".json", ".jsonl")
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def write_card(
    folder: Path,
    name: str,
    choice: Choice,
    form: Form,
    pictures: Sequence[str],
    schema: pa.Schema,
    command: str,
    job: str | None,
) -> None:
    """Write ``README.md``.

    Args:
        folder: Of the data set.
        name: The data set's.
        choice: The chosen pairs.
        form: The data set's form.
        pictures: Its columns of pictures.
        schema: Its other columns.
        command: The command that chose them.
        job: The run's job file, as text; None where the run has none.
    """
    sections = [
        f"# {name}",
        "Pictures that keep the content of one picture and take the style of another, made by "
        f"diffstyle {diffstyle.__version__} with a frozen diffusion model. "
        f"{count(len(choice.table), 'pair')} of {choice.made:,} that were made.",
        _splits(choice),
        "## How they were chosen",
        "\n".join(f"- {line}" for line in choice.lines()),
        _columns(pictures, schema, score_columns(choice.table)),
        _settings(choice.table),
        _scores(choice.table),
        _sources(choice.table),
        "## How to make it again",
        f"```sh\n{command}\n```",
    ]
    if job is not None:
        sections += ["of the output of this job:", f"```yaml\n{job.rstrip()}\n```"]
    head = yaml.safe_dump(_head(choice, form, pictures, schema), sort_keys=False, allow_unicode=True)
    text = f"---\n{head}---\n\n" + "\n\n".join(section for section in sections if section) + "\n"
    (folder / FILE).write_text(text, encoding="utf-8")


def licences_of(table: pa.Table) -> list[str]:
    """The licences of the chosen sources, the most frequent first; none where some source states none."""
    counts = Counter(table["content_licence"].to_pylist()) + Counter(table["style_licence"].to_pylist())
    return [] if None in counts else [licence for licence, _ in counts.most_common()]


def _head(choice: Choice, form: Form, pictures: Sequence[str], schema: pa.Schema) -> dict[str, object]:
    """What the Hugging Face hub and `datasets` read: where the splits are, size and licence."""
    n = len(choice.table)
    head: dict[str, object] = {}
    licences = licences_of(choice.table)
    if licences:
        short = {one for licence in licences for one in licence_ids(licence)}
        head["license"] = short.pop() if len(short) == 1 else "other"
    head["task_categories"] = ["image-to-image"]
    head["tags"] = ["style-transfer", "diffstyle"]
    head["size_categories"] = [next((text for limit, text in _SIZES if n < limit), "n>1M")]
    files = [{"split": split, "path": form.pattern.format(split=split)} for split in choice.splits]
    # `datasets` keeps what it read under a hash of this, not of the files: a name used again gave the old pictures.
    names = ("pair", "split", "picture_hash")
    chosen = digest(*(str(value) for name in names for value in choice.table[name].to_pylist()), *pictures)
    head["configs"] = [{"config_name": "default", "description": f"selection {chosen}", "data_files": files}]
    if form.name == "webdataset":  # else `datasets` guesses from five samples, which may lack a score
        (ending,) = pc.unique(choice.table["format"]).to_pylist()
        head["dataset_info"] = {"features": webdataset_features(EXTENSIONS[ending], pictures, schema)}
    return head


def _splits(choice: Choice) -> str:
    rows = []
    for split, n in choice.splits.items():
        part = choice.table.filter(pc.equal(choice.table["split"], split))
        images = [pc.count_distinct(part[f"{side}_image"]).as_py() for side in ("content", "style")]
        rows.append((split, f"{n:,}", f"{images[0]:,}", f"{images[1]:,}"))
    return _table(("split", "pairs", "contents", "styles"), rows)


def _columns(pictures: Sequence[str], schema: pa.Schema, scores: Mapping[str, ScoreColumn]) -> str:
    meanings = {"image": "the result", "content": "the content, as the model saw it", "style": "the style, likewise"}
    lines = [f"- `{name}`: {meanings[name]}" for name in pictures]
    lines += [f"- `{field.name}`{_says(scores.get(field.name))}" for field in schema]
    return "## Columns\n\n" + "\n".join(lines)


def _says(score: ScoreColumn | None) -> str:
    if score is None:
        return ""
    network = f"; network {score.network}, SHA-256 `{score.hash}`" if score.network else ""
    return f": {score.says}{network}"


def _settings(table: pa.Table) -> str:
    rows = []
    for name in MANIFEST_SCHEMA.names:
        if name in _NO_SETTINGS or name.startswith(("content_", "style_")):
            continue
        counts = Counter(value for value in table[name].to_pylist() if value is not None)
        if counts:
            shown = [f"`{value:g}`" if isinstance(value, float) else f"`{value}`" for value in sorted(counts)[:_SHOWN]]
            rows.append(
                (name, ", ".join(shown) + (f" and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else ""))
            )
    return "## Settings\n\n" + _table(("setting", "values"), rows)


def _scores(table: pa.Table) -> str:
    rows = []
    for name, score in score_columns(table).items():
        if table[name].null_count < len(table):
            values = table[name].drop_null().cast(pa.float64()).to_numpy()
            numbers = np.quantile(values, (0, 0.1, 0.5, 0.9, 1))
            words = {True: "more", False: "less", None: "-"}[score.better]
            rows.append((name, words, *(f"{number:.3g}" for number in numbers), f"{len(values):,}"))
    if not rows:
        return ""
    head = ("score", "better", "least", "10 %", "median", "90 %", "most", "pairs")
    return "## Scores\n\n" + _table(head, rows)


def _sources(table: pa.Table) -> str:
    text = ["## Sources"]
    for side in ("content", "style"):
        n = pc.count_distinct(table[f"{side}_image"]).as_py()
        lines = [f"- {count(n, f'{side} picture')}"]
        for column, words in (("label", "labels"), ("licence", "licences"), ("attribution", "attributions")):
            counts = Counter(table[f"{side}_{column}"].to_pylist())
            stated = [(value, pairs) for value, pairs in counts.most_common() if value is not None]
            if stated:
                shown = ", ".join(f"{' '.join(value.split())} ({pairs:,})" for value, pairs in stated[:_SHOWN])
                rest = f" and {len(stated) - _SHOWN} more, in the rows" if len(stated) > _SHOWN else ""
                lines.append(f"  - {words}, by pairs: {shown}{rest}")
            if column == "licence" and counts[None]:
                lines.append(f"  - the {side} states no licence: {count(counts[None], 'pair')}")
        text.append("\n".join(lines))
    return "\n\n".join(text)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _files_above_pictures(folder: Path) -> list[str]:
    return [str(file.relative_to(folder)) for file in [*folder.glob("*"), *folder.glob("*/*")] if file.is_file()]


def foreign_files(folder: Path) -> list[str]:
    """Files in a data set that are not of it: neither in its ``selection.json`` nor pictures of its ``metadata.jsonl``.

    Args:
        folder: A data set that :func:`write_selection` has described.

    Returns:
        Their paths below the folder, sorted; a folder without files counts as one.
    """
    selection = json.loads((folder / SELECTION).read_bytes())
    own = set(selection.get("files", []))
    for table in [name for name in own if name.endswith("/metadata.jsonl")]:
        if (folder / table).is_file():
            with (folder / table).open(encoding="utf-8") as rows:
                for row in map(json.loads, rows):
                    names = (value for name, value in row.items() if name == "file_name" or name.endswith("_file_name"))
                    own |= {f"{table.rpartition('/')[0]}/{name}" for name in names}
    folders = {str(parent) for name in own for parent in Path(name).parents}
    paths = ((str(path.relative_to(folder)), path) for path in folder.rglob("*"))
    return sorted(
        name for name, path in paths if name not in (folders if path.is_dir() and not path.is_symlink() else own)
    )


def changed_files(folder: Path) -> list[str]:
    """The texts of a data set that were edited since :func:`write_selection` described it, sorted.

    One that was written before texts had their hashes there, or that is gone, counts as unchanged.
    """
    hashes = json.loads((folder / SELECTION).read_bytes()).get("hashes", {})
    present = ((name, folder / name) for name in sorted(hashes) if (folder / name).is_file())
    return [name for name, file in present if file_hash(file) != hashes[name]]


def write_selection(folder: Path, run: Place, choice: Choice, form: Form, command: str, job: str | None) -> None:
    """Write ``selection.json``: the same for programs, and the mark of a data set that may be replaced.

    Args:
        folder: Of the data set.
        run: The output folder that the pairs were chosen from.
        choice: The chosen pairs.
        form: The data set's form.
        command: The command that chose them.
        job: The run's job file, as text; None where the run has none.
    """
    files = _files_above_pictures(folder)
    selection = {
        "kind": SELECTION_KIND,
        "diffstyle": diffstyle.__version__,
        "command": command,
        "format": form.name,
        "made": choice.made,
        "left_out": [{"rule": one.rule, "pairs": one.pairs, "why": one.why} for one in choice.left_out],
        "pairs": len(choice.table),
        "splits": choice.splits,
        "run": str(run),
        "job": job,
        "files": sorted([SELECTION, *files]),
        "hashes": {name: file_hash(folder / name) for name in sorted(files) if name.endswith(_TEXTS)},
    }
    (folder / SELECTION).write_text(json.dumps(selection, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
