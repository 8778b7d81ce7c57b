"""ARCHITECTURE.md names every module once, in the paragraph of its district, and every name in an output folder."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from test_imports import LEVEL

from pipeline.cli.main import COMMANDS
from pipeline.storage.layout import SIDES, OutputLayout
from pipeline.storage.place import Place

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "ARCHITECTURE.md").read_text()
DISTRICTS = sorted(district for district in LEVEL if (ROOT / "pipeline" / district).is_dir())


def modules(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*.py") if file.name != "__init__.py"}


def named(text: str) -> Counter[str]:
    return Counter(re.findall(r"`([\w/]+\.py)`", text))


@pytest.mark.parametrize("district", DISTRICTS)
def test_every_module_of_a_district_is_in_its_paragraph_once(district: str) -> None:
    (paragraphs,) = re.findall(rf"^\*\*`{district}/`\*\*(.*?)(?=^\*\*`|^## )", PAGE, re.MULTILINE | re.DOTALL)
    there = modules(ROOT / "pipeline" / district)
    if district == "cli":
        there -= {f"{name}.py" for name in COMMANDS}
    assert named(paragraphs) == Counter(there)


def test_every_module_of_the_method_is_in_its_section_once() -> None:
    (section,) = re.findall(r"^## `diffstyle/`.*?\n(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)
    assert named(section) == Counter(modules(ROOT / "diffstyle"))


def test_files_that_the_page_names_elsewhere_are_there() -> None:
    for path in set(re.findall(r"`?((?:storage|stages|workers|results|banks|tests)/\w+\.py)", PAGE)):
        assert (ROOT / path).exists() or (ROOT / "pipeline" / path).exists(), path


def test_the_layout_of_an_output_is_drawn_whole() -> None:
    (drawing,) = re.findall(r"^OUT/\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    drawn = {line.split()[0].rstrip("/") for line in drawing.splitlines() if line.startswith("  ") and line[2] != " "}
    layout = OutputLayout(Place.parse("/out"))
    properties = [name for name, value in vars(OutputLayout).items() if isinstance(value, property)]
    names = {str(getattr(layout, name).relative_to(layout.root)) for name in properties}
    names |= {str(place(side).relative_to(layout.root)) for side in SIDES for place in (layout.shards, layout.bank)}
    names.add(str(layout.bank("content", "DIGEST").relative_to(layout.root)))
    assert drawn == names | {OutputLayout.DESCRIPTION, OutputLayout.SCORES_DESCRIPTION, ".lock"}
