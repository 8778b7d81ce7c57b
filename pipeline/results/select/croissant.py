"""``croissant.json``: the data set as Croissant 1.0 describes one, for tools that search and load data sets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.results.select.formats import Form

FILE = "croissant.json"

_CROISSANT = "http://mlcommons.org/croissant/"
_IN_CROISSANT = (
    *("citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet", "format"),
    *("includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex"),
    *("repeated", "replace", "samplingRate", "separator", "source", "subField", "transform"),
)
_CONTEXT: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": _CROISSANT,
    "rai": f"{_CROISSANT}RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{name: f"cr:{name}" for name in _IN_CROISSANT},
}


def write_croissant(
    folder: Path, name: str, form: Form, splits: Sequence[str], schema: pa.Schema, licences: Sequence[str], day: date
) -> None:
    """Write ``croissant.json`` for a data set whose other files are there.

    Args:
        folder: Of the data set.
        name: The data set's.
        form: Its form.
        splits: Their names.
        schema: The columns, without those of pictures.
        licences: Of the sources, as they state them.
        day: Its date: that of the newest picture.
    """
    files = sorted({file for split in splits for file in folder.glob(form.data.format(split=split))})
    rows = {
        "@type": "cr:FileSet",
        "@id": "rows",
        "name": "rows",
        "description": "The files that hold the rows.",
        "encodingFormat": form.encoding,
        "includes": [form.data.format(split=split) for split in splits],
    }
    distribution = [*(_file(folder, file, form) for file in files), rows]
    fields = [_field(field.name, _kind(field.type), {"column": field.name}, "rows") for field in schema]
    if form.name == "webdataset":  # a row is the JSON of a sample, and readers of Croissant give it as a text
        distribution.append(
            {
                "@type": "cr:FileSet",
                "@id": "samples",
                "name": "samples",
                "containedIn": [{"@id": file.relative_to(folder).as_posix()} for file in files],
                "encodingFormat": "application/json",
                "includes": "*.json",
            }
        )
        fields = [_field("json", "sc:Text", {"fileProperty": "content"}, "samples")]
    described = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": f"{_CROISSANT}1.0",
        "name": name,
        "description": "Pictures of contents in the styles of others, made by diffstyle with a frozen diffusion model.",
        "datePublished": day.isoformat(),
        "version": "1.0.0",
        **({"license": list(licences)} if licences else {}),
        "distribution": distribution,
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "pairs",
                "name": "pairs",
                "description": "A row for each picture.",
                "key": {"@id": fields[0]["@id"]},
                "field": fields,
            }
        ],
    }
    text = json.dumps(described, indent=1, ensure_ascii=False)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def _file(folder: Path, file: Path, form: Form) -> dict[str, Any]:
    path = file.relative_to(folder).as_posix()
    with file.open("rb") as stream:
        checksum = hashlib.file_digest(stream, "sha256").hexdigest()
    return {
        "@type": "cr:FileObject",
        "@id": path,
        "name": path,
        "contentUrl": path,
        "contentSize": f"{file.stat().st_size} B",
        "encodingFormat": form.encoding,
        "sha256": checksum,
    }


def _kind(type_: pa.DataType) -> str:
    if pa.types.is_integer(type_):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(type_) else "sc:Text"


def _field(name: str, kind: str, extract: Mapping[str, str], files: str) -> dict[str, Any]:
    source = {"fileSet": {"@id": files}, "extract": extract}
    return {"@type": "cr:Field", "@id": f"pairs/{name}", "name": name, "dataType": kind, "source": source}
