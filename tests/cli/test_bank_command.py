"""`diffstyle bank`: what each subcommand says and leaves behind."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner
from PIL import Image
from support.bank_samples import describe, fill, latents

from diffstyle.errors import DiffStyleError
from pipeline.banks.columns import write_column
from pipeline.banks.reader import LatentBank
from pipeline.cli.bank import bank as command
from pipeline.cli.bank_look import _in_blocks
from pipeline.cli.main import main
from pipeline.shards.rows import INDEX_SCHEMA, REJECTS_SCHEMA
from pipeline.shards.store import ShardStore
from pipeline.storage.lock import OutputLock
from pipeline.storage.place import Place


def run(*args: object, fails: str | None = None, returns: int | None = None, answer: str | None = None) -> str:
    result = CliRunner().invoke(command, [str(arg) for arg in args], standalone_mode=False, input=answer)
    if fails is not None:
        assert isinstance(result.exception, DiffStyleError), result.exception
        assert fails in str(result.exception)
        assert "\n" not in str(result.exception)
    elif result.exception is not None:
        raise result.exception
    assert result.return_value == returns
    return result.output


@pytest.fixture
def root(tmp_path: Path) -> Path:
    writer = fill(tmp_path / "bank", describe(), range(10))
    writer.commit_aliases([{"key": "other-name", "image": latents(5, describe()).image}])
    return tmp_path / "bank"


def test_info(root):
    summary = json.loads(run("info", root, "--json"))
    assert (summary["entries"], summary["images"], summary["parts"]) == (11, 10, 3)
    assert summary["bytes"] == sum(file.stat().st_size for file in (root / "data").iterdir())
    assert summary["settings"]["inversion"]["steps"] == 50
    assert summary["last_made"].startswith("20")
    text = run("info", root)
    assert "entries: 11" in text
    assert "tensors:" in text
    assert "bytes: " in text
    assert str(summary["bytes"]) not in text  # as 12.3 kB, for people
    run("info", root / "nowhere", fails="no description.json here")


def test_info_shows_the_ends_of_long_lists(tmp_path):
    timesteps = tuple(range(120, 920, 20))
    fill(tmp_path / "out" / "banks" / "content", describe(h_timesteps=timesteps), range(1))
    text = run("info", tmp_path / "out" / "banks" / "content")
    assert "(40 in all)" in text
    assert "(1 in all)" not in text
    assert "columns:" not in text  # there are none


def test_an_output_in_the_place_of_a_bank_is_told_its_banks(tmp_path):
    bank = tmp_path / "out" / "banks" / "content"
    fill(bank, describe(), range(1))
    run("info", tmp_path / "out", fails=f"this is a run's output; give one of its banks, {bank}")


def test_the_help_cuts_no_line():
    for words in ("bank", "models"):
        lines = CliRunner().invoke(main, [words, "--help"]).output.splitlines()
        commands = lines[lines.index("Commands:") + 1 :]
        assert len(commands) > 1
        assert [line for line in commands if line.endswith("...")] == []


def test_info_of_an_empty_bank(tmp_path):
    fill(tmp_path, describe(), range(0))
    assert "entries: 0" in run("info", tmp_path)


def test_show(root):
    text = run("show", root, "other-name")
    assert f"other names: {latents(5, describe()).key}" in text
    assert "x_t: float32 (3, 8, 8), mean" in text
    n = len(describe().h_timesteps)
    assert f"  at {n} timesteps, t = 999 to " in text
    assert text.count("norm") == 1
    long = run("show", root, "other-name", "--long")
    assert "  t = 999: norm" in long
    assert long.count("t = ") == n
    run("show", root, "other-nome", fails="close: other-name")
    run("show", root, "other-name", "--thumbnail", root / "a.png", fails="diffstyle reconstruct")


def test_show_columns_and_thumbnail(root, tmp_path):
    entry = latents(5, describe())
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (255, 0, 0)).save(stream, "PNG")
    write_column(root, "thumbnail", {entry.image: stream.getvalue()})
    write_column(root, "psnr", {entry.image: 31.5})
    write_column(root, "psnr", {latents(6, describe()).image: 20.0})
    text = run("show", root, entry.key)
    assert "psnr: 31.5" in text
    assert "--thumbnail FILE" in text
    assert "\x1b[38;2;255;0;0;48;2;255;0;0m" in _in_blocks(stream.getvalue())
    run("show", root, entry.key, "--thumbnail", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == stream.getvalue()
    frame = LatentBank.open(root).to_pandas().set_index("key")
    assert frame["psnr"].notna().sum() == 3  # two images, one of them under two names
    with pytest.raises(DiffStyleError, match="no column of the index"):
        write_column(root, "width", {})
    with pytest.raises(DiffStyleError, match="different kinds"):
        write_column(root, "psnr", {entry.image: "high"})


def test_verify_and_repair(root):
    assert "all is well" in run("verify", root, returns=0)
    assert "nothing is broken" in run("repair", root)
    next((root / "data").iterdir()).write_bytes(b"")
    text = run("verify", root, returns=3)
    assert "wrong: part-" in text
    assert "bank repair" in text
    assert "dropped" in run("repair", root)
    run("verify", root, returns=0)


def test_merge_export(root, tmp_path):
    fill(tmp_path / "b", describe(), range(8, 12))
    write_column(root, "psnr", {latents(3, describe()).image: 31.5})
    assert "12 images copied" in run("merge", tmp_path / "out", root, tmp_path / "b")
    assert "12 images copied" in run("export", tmp_path / "out", tmp_path / "tars", "--format", "webdataset")
    assert "12 images" in run("verify", tmp_path / "tars", returns=0)
    run("export", tmp_path / "out", tmp_path / "less", "--tensor", "h", "--timestep", "h=999")
    assert LatentBank.open(tmp_path / "less").description.h_timesteps == (999,)
    for copy, there in (("out", True), ("tars", True), ("less", False)):
        assert ("psnr" in LatentBank.open(tmp_path / copy).to_pandas()) == there
    run("export", tmp_path / "out", tmp_path / "x", "--timestep", "999", fails="write NAME=VALUE")
    run("export", tmp_path / "out", tmp_path / "x", "--timestep", "h=all", fails="not a whole number")
    run("export", tmp_path / "out", tmp_path / "x", "--dtype", "z=float16", fails="keeps no z; it keeps h and x_t")


def test_prune(root, tmp_path):
    run("prune", root, fails="--job, --shards or --keep")
    run("prune", root, "--keep", tmp_path / "none.txt", fails="none.txt")
    listed = tmp_path / "keep.txt"
    listed.write_text(f"{latents(0, describe()).key}\n\nother-name\n")
    assert "8 images leave: in nothing of what is kept" in run("prune", root, "--keep", listed, "--dry-run")
    run("prune", root, "--keep", listed, answer="n\n")
    assert len(LatentBank.open(root)) == 11
    shards = ShardStore(tmp_path / "shards")
    shards.describe({"size": 8})
    rows = [{"image": latents(number, describe()).image, "source": f"{number}.png"} for number in (1, 2)]
    shards.commit("part", pa.Table.from_pylist(rows, INDEX_SCHEMA), REJECTS_SCHEMA.empty_table())
    run("prune", root, "--keep", listed, "--shards", tmp_path / "shards", "--yes")
    assert len(LatentBank.open(root)) == 5
    run("prune", root, "--shards", tmp_path / "nowhere", "--yes", fails="right folder")
    listed.write_text("\n")  # as `grep ... > keep.txt` that matched nothing leaves it
    run("prune", root, "--keep", listed, "--yes", fails="nothing would be kept, so nothing is dropped")
    assert len(LatentBank.open(root)) == 5
    listed.write_text("nobody\n")
    run("prune", root, "--keep", listed, fails="'nobody'")


def test_no_changes_under_a_run(root, tmp_path):
    fill(tmp_path / "out" / "banks" / "content", describe(), range(3))
    bank = tmp_path / "out" / "banks" / "content"
    with OutputLock(Place.parse(tmp_path / "out")):
        run("repair", bank, fails="is in use by")
        run("merge", bank, root, fails="is in use by")
        assert "entries: 3" in run("info", bank)
    assert "7 images copied" in run("merge", bank, root)
    run("repair", tmp_path / "misspelt", fails="right folder")
    assert not (tmp_path / "misspelt").exists()


def test_similar(root):
    lines = run("similar", root, "other-name", "--top", 3).splitlines()
    assert len(lines) == 3
    assert all(latents(5, describe()).key not in line for line in lines)
    run("similar", root, "other-name", "--timestep", 7, fails="not kept")


def test_the_command_imports_nothing_heavy():
    code = "import sys, pipeline.cli.bank as _; print({'torch', 'ray', 'pyarrow', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_bank_inside_of_a_run_is_refused_where_the_run_would_remove_it(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    fill(source, describe(), range(2))
    out.mkdir()
    (out / "output.json").write_text("{}")
    for folder in ("pictures", "manifest/deep"):
        result = CliRunner().invoke(main, ["bank", "export", str(source), str(out / folder)])
        assert result.exit_code == 2
        assert f"lies inside the run {out}" in result.output
        assert not (out / folder).exists()
    assert CliRunner().invoke(main, ["bank", "export", str(source), str(out / "banks" / "copy")]).exit_code == 0
