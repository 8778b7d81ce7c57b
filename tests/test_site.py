"""The site of the docs: it builds without a warning, links lead somewhere, tutorials run, tables are true."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import pyarrow as pa
import pytest

from pipeline.banks.description import PAYLOAD_FIELDS, PICTURE_FIELDS, STATE_FIELDS
from pipeline.results.manifest import MANIFEST_SCHEMA
from pipeline.shards.write import INDEX_SCHEMA

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TUTORIALS = [*sorted((DOCS / "tutorials").glob("*.md")), DOCS / "quick-start.md"]


def run_page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_page", DOCS / "run_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", str(DOCS), str(tmp_path)]
    built = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert built.returncode == 0, built.stderr
    index = (tmp_path / "index.html").read_text(encoding="utf-8")
    for page in PAGES:
        made = page.relative_to(DOCS).with_suffix(".html")
        assert (tmp_path / made).exists()
        assert str(made) in index, f"{page}: no table of contents names it"
    assert "diffstyle.inject" in (tmp_path / "python.html").read_text(encoding="utf-8")
    assert "diffstyle-select" in (tmp_path / "commands.html").read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+://|mailto:", target):
            continue
        file, _, anchor = target.partition("#")
        place = (page.parent / file) if file else page
        assert place.exists(), f"{page}: {target}"
        if anchor and place.suffix == ".md":
            assert anchor in anchors(place), f"{page}: {target}"


class Small:
    """A page with two pictures a side in place of each data set, and few steps; all else as it is written."""

    FEW_STEPS = "--set inversion.steps=12 --set 'injection.plan={grid: 12}' --set injection.events=6"

    def __init__(self, page: Path) -> None:
        self.page, self.parent = page, page.parent

    def read_text(self, encoding: str) -> str:
        text = re.sub(r"limit: \d+|style: shipped:\S+", self.smaller, self.page.read_text(encoding=encoding))
        few = "diffstyle run demo --set content.limit=4 --set style.limit=2 --local"
        text = re.sub(r"diffstyle run demo$", few, text, flags=re.M)
        text = re.sub(r"^(diffstyle run \S+)(?!.*--dry-run)", rf"\1 {self.FEW_STEPS}", text, flags=re.M)
        if self.page.stem != "quick-start":  # which starts Ray twice, as it is written; once more shows nothing new
            text = re.sub(r"(diffstyle score \S+)$", r"\1 --local", text, flags=re.M)
        return text

    @staticmethod
    def smaller(match: re.Match[str]) -> str:
        address = match[0].partition(" ")[2]
        return "limit: 2" if match[0].startswith("limit") else f'style: {{folder: "{address}", limit: 2}}'

    def __str__(self) -> str:
        return str(self.page)


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_every_block_of_a_tutorial_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    run = run_page()
    run.run_page(Small(page), tmp_path)
    for made, shown in run.pictures(page, tmp_path):
        assert made.stat().st_size > 1000
        assert shown.exists()


@pytest.mark.slow
@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "python.md"], ids=lambda page: page.stem)
def test_every_block_that_is_run_in_the_source_tree_runs(
    page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    run_page().run_page(Small(page), tmp_path)
    if page.stem == "README":
        assert (tmp_path / "results/demo/report/index.html").exists()
        assert "4 pairs" in capsys.readouterr().out
        assert len(list((tmp_path / "results/sweep/pictures").rglob("*.png"))) == 4
        assert (tmp_path / "results/sweep/contact-sheets/sweep.png").exists()


def test_a_block_that_fails_is_told(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```sh\ndiffstyle status --no-such-option\n```\n")
    with pytest.raises(click.ClickException, match="No such"):
        run_page().run_page(page, tmp_path)
    page.write_text("```sh\nfalse\n```\n")
    with pytest.raises(RuntimeError, match="`false` ended with 1"):
        run_page().run_page(page, tmp_path)


# ---- the tables of columns ----


def columns_of(section: str) -> dict[str, str]:
    """Column -> its type, of a section of the page."""
    page = (DOCS / "columns.md").read_text(encoding="utf-8")
    body = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    assert body is not None
    rows = re.findall(r"^\| ([\w, ]+) \|([^|]*)\|", body[1], re.M)
    return {name.strip(): kind for names, kind in rows for name in names.split(",") if name.strip() != "column"}


@pytest.mark.parametrize(
    ("section", "schema"),
    [
        ("The manifest", MANIFEST_SCHEMA),
        ("Shards", INDEX_SCHEMA),
        ("Banks", pa.schema([*PICTURE_FIELDS, *PAYLOAD_FIELDS, *STATE_FIELDS])),
    ],
)
def test_every_column_is_in_the_table_with_its_type(section: str, schema: pa.Schema) -> None:
    shown = columns_of(section)
    extra = {"NAME_offset", "NAME_size", "NAME_crc"} if section == "Banks" else set()
    assert set(shown) - extra == set(schema.names)
    for name, kind in shown.items():
        stated = re.sub(r", null$", "", kind.strip())
        if name not in extra and stated:
            assert str(schema.field(name).type) == stated, name


def test_every_message_is_one_of_ours() -> None:
    sources = "".join(
        file.read_text(encoding="utf-8") for top in ("pipeline", "diffstyle") for file in (ROOT / top).rglob("*.py")
    )
    headings = re.findall(r"^### `(.*)`$", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.M)
    assert len(headings) > 12
    assert [text for text in headings if text not in sources] == []
