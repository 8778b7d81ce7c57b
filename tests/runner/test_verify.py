"""`diffstyle verify`: each kind of damage is one line, is named, and is healed by --repair and the next run."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image
from support.whole_jobs import SIX_PAIRS, run_job

from diffstyle.errors import DiffStyleError
from pipeline.cli.main import main
from pipeline.monitoring.status import NoRunError, read_status
from pipeline.results.manifest import TIMING_COLUMNS, Manifest
from pipeline.results.scores import Scores, score_rows
from pipeline.runner.verify import repair_run, verify_run
from pipeline.storage.lock import OutputLock
from pipeline.storage.place import Place
from pipeline.storage.tables import write_table

FORMS: dict[str, dict[str, Any]] = {
    "files": {},
    "tars": {"pictures": {"to": "webdataset"}, "bank": {"format": "webdataset"}},
}


@pytest.fixture(scope="module", params=["files"])
def made(request, tmp_path_factory) -> Path:
    """A job of six pairs that has run; copied by each test."""
    folder = tmp_path_factory.mktemp(f"made-{request.param}") / "job"
    run_job(folder, **{**SIX_PAIRS, **FORMS[request.param]})
    (folder / "changes.json").write_text(json.dumps(FORMS[request.param]))
    return folder


@pytest.fixture
def job(made, tmp_path) -> Path:
    shutil.copytree(made, tmp_path / "job")
    return tmp_path / "job"


def again(job: Path) -> Any:
    return run_job(job, **{**SIX_PAIRS, **json.loads((job / "changes.json").read_text())})


def content(out: Path) -> dict[str, Any]:
    """Everything of an output that a second run must give back: bytes, or rows without the time they were made."""
    found: dict[str, Any] = {}
    for file in sorted(path for path in out.rglob("*") if path.is_file()):
        name = str(file.relative_to(out))
        if name.startswith(("events/", ".lock/")) or file.name in ("plan.json", "job.yaml"):
            continue
        if file.name == "description.json":
            found[name] = json.loads(file.read_text())["identity"]
        elif file.suffix == ".parquet" and "/data/" not in name:
            rows = pq.read_table(file).to_pylist()
            rows = [{k: v for k, v in row.items() if k not in TIMING_COLUMNS} for row in rows]
            folder = name.rpartition("/")[0]
            # Pairs of a part that was cut down are made in a part of their own.
            found.setdefault(folder, []).extend(rows)
        else:
            found[name] = file.read_bytes()
    for name, rows in found.items():
        if isinstance(rows, list):
            found[name] = sorted(rows, key=lambda row: json.dumps(row, default=str))
    return found


def file_of(out: Path, pattern: str) -> Path:
    return sorted(path for path in out.glob(pattern) if path.is_file())[0]


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


HARMS = {
    "flipped": flip,
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "deleted": lambda file: file.unlink(),
}
KINDS = {
    "picture": "pictures/**/*",
    "manifest": "manifest/*.parquet",
    "shard": "shards/content/data/*.tar",
    "shard index": "shards/style/index/*.parquet",
    "bank": "banks/content/data/*",
    "bank index": "banks/style/index/*.parquet",
    "plan": "plan.json",
    "description": "output.json",
}
CASES = [("files", kind, "flipped") for kind in KINDS]
CASES += [("files", kind, "cut") for kind in ("picture", "manifest", "shard index", "plan")]
# Not of tables: a commit that is gone leaves what was never committed, and a run makes it.
CASES += [("files", kind, "deleted") for kind in ("picture", "shard", "bank")]
CASES += [("tars", kind, harm) for kind, harm in (("picture", "flipped"), ("picture", "deleted"), ("bank", "cut"))]


@pytest.mark.parametrize(("made", "kind", "harm"), CASES, indirect=["made"])
def test_damage_is_one_line_and_is_healed(job, kind, harm):
    out = job / "out"
    wanted = content(out)
    file = file_of(out, KINDS[kind])
    HARMS[harm](file)

    # Neither `status` nor `run` ends in anything but an answer or one line that names the file.
    lines = []
    for action in (lambda: read_status(Place.parse(out)).lines(), lambda: again(job)):
        try:
            action()
        except DiffStyleError as error:
            lines.append(str(error))
        if kind == "plan":
            break  # a run writes it again
    assert all("\n" not in line and str(file.parent) in line for line in lines)
    # What is read again is not passed over: that is tables, and pictures, which the contact sheets show.
    assert lines or kind in ("shard", "bank") or file.suffix == ".tar"

    report = verify_run(Place.parse(out))
    assert any(str(file) in problem or file.stem in problem for problem in report.problems), report.problems
    assert all("\n" not in problem for problem in report.problems)
    with OutputLock(Place.parse(out)):
        repair_run(report)
    assert verify_run(Place.parse(out)).ok
    again(job)
    assert content(out) == wanted
    assert read_status(Place.parse(out)).exit_code == 0


@pytest.mark.parametrize("kind", ["manifest", "shard index", "bank index", "plan", "description"])
def test_a_commit_that_is_gone_is_made_again_by_the_next_run(job, kind):
    wanted = content(job / "out")
    file_of(job / "out", KINDS[kind]).unlink()
    read_status(Place.parse(job / "out")).lines()
    verify_run(Place.parse(job / "out"))
    again(job)
    assert content(job / "out") == wanted
    assert verify_run(Place.parse(job / "out")).ok


def command(*args: object, code: int) -> str:
    result = CliRunner().invoke(main, ["verify", *map(str, args)])
    assert result.exit_code == code, result.output
    return result.output


def test_the_command(job):
    out = job / "out"
    assert "6 pairs (" in command(out, code=0)
    assert "all is well" in command(job / "job.yaml", "-q", code=0)
    picture = file_of(out, "pictures/**/*")
    flip(picture)
    said = command(out, "-q", code=3)
    assert said.count("wrong: ") == 1
    assert f"wrong: {picture}: " in said
    assert "1 problem\n" in said
    assert "--repair` drops what is broken" in said
    with OutputLock(Place.parse(out)):
        assert "note: in use by" in command(out, "-q", code=3)
        assert "is in use by" in command(out, "--repair", code=2)
    assert "run the job again" in command(out, "--repair", code=0)
    command(out, code=0)
    again(job)
    assert "6 pairs (" in command(out, code=0)
    said = command(job / "nowhere", "--repair", code=2)
    assert "nothing of a run is here" in said
    assert not (job / "nowhere").exists()


def test_scores_are_checked_too(job):
    out = Place.parse(job / "out")
    scores = Scores(out)
    scores.open({})
    pairs = Manifest(out).table(["pair"])["pair"].to_pylist()
    scores.commit("part-1", score_rows({"pair": pair, "edges": 0.5} for pair in pairs[:3]))
    scores.commit("part-2", score_rows({"pair": pair, "edges": 0.5} for pair in pairs[3:]))
    assert verify_run(out).ok
    flip(job / "out" / "scores" / "part-2.parquet")
    report = verify_run(out)
    assert [("part-2.parquet" in problem, "\n" in problem) for problem in report.problems] == [(True, False)]
    repair_run(report)
    assert verify_run(out).ok
    assert len(scores.table()) == 3
    assert (job / "out" / "plan.json").is_file()


@pytest.mark.parametrize("kind", ["manifest", "shard index", "bank index", "scores"])
def test_what_a_newer_release_wrote_is_never_dropped(job, kind):
    """Its tables have a column that this one does not know: they are whole, and `--repair` would lose all of them."""
    out = job / "out"
    scores = Scores(Place.parse(out))
    scores.open({})
    pairs = Manifest(Place.parse(out)).table(["pair"])["pair"].to_pylist()
    scores.commit("part-1", score_rows({"pair": pair, "edges": 0.5} for pair in pairs))
    file = file_of(out, KINDS.get(kind, "scores/*.parquet"))
    table = pq.read_table(file)
    with file.open("wb") as stream:
        write_table(stream, table.append_column("later", pa.array(["x"] * len(table))))
    before = bytes_of(out)
    for option, code in (("-q", 3), ("--repair", 3)):
        said = command(out, option, code=code if kind.endswith("index") else 2)
        (line,) = (line for line in said.splitlines() if str(file) in line)
        assert "written by another release of diffstyle (column 'later', string" in line
        assert "drops it" not in line
    assert bytes_of(out) == before


def bytes_of(out: Path) -> dict[Path, bytes]:
    """Every file but those of the lock."""
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and ".lock" not in path.parts}


def test_pictures_that_no_row_names(job):
    out = Place.parse(job / "out")
    stray = out / "pictures" / "stray.png"
    stray.write_bytes(b"x")
    report = verify_run(out)
    assert report.problems == [f"{stray}: no row of the manifest names it"]
    repair_run(report)
    assert not stray.is_file()
    assert verify_run(out).ok


def test_a_pair_in_two_parts(job):
    manifest = Manifest(Place.parse(job / "out"))
    part = manifest.store.parts()[0]
    rows = manifest.store.part_rows(part, manifest.table().schema)
    manifest.commit("tile-zz", rows.slice(0, 1))
    (problem,) = verify_run(manifest.output).problems
    assert f"1 pair has a row in another part too, the first in {part}" in problem
    repair_run(verify_run(manifest.output))
    assert verify_run(manifest.output).ok
    assert manifest.counts() == (6, 0)


def test_a_pair_that_failed_before_it_was_made_is_no_problem(job):
    manifest = Manifest(Place.parse(job / "out"))
    row = manifest.table().slice(0, 1).to_pylist()[0]
    manifest.commit_failures([{**row, "status": "failed", "error": "out of memory", "picture": None}])
    assert verify_run(manifest.output).ok


def test_what_is_not_of_pairs_leaves_their_plan(job):
    """A bank that is repaired changes no count of pairs."""
    file_of(job / "out", KINDS["bank"]).write_bytes(b"")
    repair_run(verify_run(Place.parse(job / "out")))
    assert (job / "out" / "plan.json").is_file()
    assert "6 done" in "\n".join(read_status(Place.parse(job / "out")).lines())


def test_a_manifest_that_names_files_elsewhere(job, tmp_path):
    """A stranger's results: nothing is read from outside, and nothing there is deleted."""
    secret = tmp_path / "secret.png"
    Image.new("RGB", (32, 32)).save(secret)
    manifest = Manifest(Place.parse(job / "out"))
    part = manifest.store.parts()[0]
    for name in (str(secret), "../../secret.png", "pictures/../../../secret.png", "../../x.tar#secret.png"):
        rows = manifest.store.part_rows(part, manifest.table().schema).to_pylist()
        rows[0]["picture"] = name
        manifest.commit(part, rows)
        with pytest.raises(DiffStyleError, match="no picture of a run"):
            again(job)
        report = verify_run(manifest.output)
        assert any("no picture of a run" in problem for problem in report.problems)
    repair_run(report)
    assert secret.is_file()
    again(job)
    assert verify_run(manifest.output).ok


def test_a_shard_store_that_can_not_be_used_is_said(job):
    file = job / "out" / "shards" / "content" / "description.json"
    file.write_text(file.read_text().replace('"size": 32', '"size": 64'))
    report = verify_run(Place.parse(job / "out"))
    assert len(report.kept) == 1
    assert "it was changed since it was written" in report.problems[0]
    assert "can't be repaired" in command(job / "out", "--repair", code=3)
    assert file.is_file()


def test_nothing_of_a_run(tmp_path):
    with pytest.raises(NoRunError, match="nothing of a run"):
        verify_run(Place.parse(tmp_path))


def test_a_png_whose_pixels_are_whole_and_bytes_are_not(job):
    """The checksum of its last chunk: the pixels are the same, the bytes are not."""
    tar = file_of(job / "out", "shards/content/data/*.tar")
    data = tar.read_bytes()
    at = data.index(b"IEND") + 4
    tar.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with Image.open(io.BytesIO(data[data.index(b"\x89PNG") :])) as image:
        image.load()
    assert any(tar.name in problem for problem in verify_run(Place.parse(job / "out")).problems)


def test_the_job_that_was_run_last(job):
    place = job / "out" / "job.yaml"
    head, _, text = place.read_text().partition("\n")
    assert head.startswith("# ")
    for changed in (text.replace("gamma: 0.6", "gamma: 0.7"), "", text[: len(text) // 2]):
        place.write_text(f"{head}\n{changed}")
        report = verify_run(Place.parse(job / "out"))
        assert report.problems == [f"{place}: not as it was written; run the job again, which writes it"]
        repair_run(report)
        assert place.is_file()
    again(job)
    assert verify_run(Place.parse(job / "out")).ok
    # One of an earlier release says no hash.
    place.write_text(text)
    assert verify_run(Place.parse(job / "out")).ok
    place.write_text("a: [")
    assert not verify_run(Place.parse(job / "out")).ok


def test_a_line_of_the_events_that_can_not_be_read_is_told_and_is_no_problem(job):
    (log,) = (job / "out" / "events").iterdir()
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([lines[0], b"\x00" + lines[1][1:], *lines[2:]]))
    report = verify_run(Place.parse(job / "out"))
    assert report.ok
    (note,) = (note for note in report.notes if "events" in note)
    assert f"{log}: 1 line can't be read" in note
