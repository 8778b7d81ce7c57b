"""What goes wrong in jobs: one clear line each, the right exit code, and nothing of an earlier run lost."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner
from support.whole_jobs import CONTENTS, DATA, MODEL, STYLES, job_file, manifest, paint, run_job

from pipeline.cli.main import main


@pytest.fixture(scope="module")
def earlier(tmp_path_factory) -> Path:
    """A folder with a job that has run."""
    folder = tmp_path_factory.mktemp("earlier")
    run_job(folder)
    return folder


@pytest.fixture
def there(earlier, tmp_path) -> Iterator[Path]:
    """A copy of it. Whatever a test does to it, results and banks must be the same afterwards."""
    folder = tmp_path / "job"
    shutil.copytree(earlier, folder)
    before = contents_of(folder / "out")
    yield folder
    assert contents_of(folder / "out") == before


def contents_of(out: Path) -> dict[Path, bytes | None]:
    """Every file and folder of an output, but for the lock, whose number grows where a run gets as far as that."""
    paths = (path for path in out.rglob("*") if path.relative_to(out).parts[0] != ".lock")
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


def refused(file: Path, *arguments: str, command: str = "run", code: int = 2) -> str:
    """The one line that a command ends with."""
    result = CliRunner().invoke(main, [command, str(file), "--local", "--quiet", *arguments])
    assert result.exit_code == code, result.output
    (line,) = result.output.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def model_of(folder: Path, **changes) -> str:
    """A model's YAML like the tests' own, with ``changes``; its path."""
    config = yaml.safe_load(MODEL.read_text())
    config["weights"] = {"path": str(DATA / "tiny-ddpm.safetensors")}
    file = folder / "model.yaml"
    file.write_text(yaml.safe_dump({**config, **changes}))
    return str(file)


# ---- before anything starts ----


def test_a_typo_names_line_field_and_the_nearest_known_one(there):
    file = job_file(there, injection={"gama": 0.3})
    line = refused(file)
    number = file.read_text().splitlines().index("  gama: 0.3") + 1
    assert line == f"{file}:{number}: injection.gama: unknown field 'gama'; did you mean 'gamma'?"
    assert "--set pictures.format: must be" in refused(job_file(there), "--set", "pictures.format=gif")


def test_a_missing_folder(there):
    assert refused(job_file(there, content="./nowhere")).endswith(f"content: {there}/nowhere: no such file or folder")


def test_a_folder_without_pictures(there):
    (there / "empty").mkdir()
    assert f"{there}/empty: no picture" in refused(job_file(there, content="./empty"))


def test_a_missing_job():
    assert refused(Path("/nowhere/job.yaml")) == "/nowhere/job.yaml: no such file"


def test_missing_weights(there):
    line = refused(job_file(there, model=model_of(there, weights={"path": "./gone.safetensors"})))
    assert "gone.safetensors" in line
    assert refused(job_file(there), "--set", "weights=gone.pt").endswith("gone.pt: no such file or folder")


def test_a_wrong_checkpoint_names_what_differs(there):
    architecture = yaml.safe_load(MODEL.read_text())["architecture"]
    line = refused(job_file(there, model=model_of(there, architecture={**architecture, "ch": 64})))
    assert "tiny-ddpm.safetensors states another architecture than the given one: ch 32 for 64" in line
    # Tensors without a word about their architecture: they are named.
    from safetensors.torch import load_file

    torch.save(load_file(DATA / "tiny-ddpm.safetensors"), there / "plain.pt")
    line = refused(job_file(there), "--set", f"weights={there}/plain.pt", "--set", f"model={there}/model.yaml")
    assert "181 misshapen (temb.dense.0.weight (128, 32) for (256, 64), " in line
    torch.save({"weights": torch.zeros(3)}, there / "other.pt")
    assert "other.pt" in refused(job_file(there), "--set", f"weights={there}/other.pt")
    (there / "text.pt").write_text("no checkpoint")
    assert "text.pt" in refused(job_file(there), "--set", f"weights={there}/text.pt")


# ---- banks that don't belong to the job ----

HOW_TO_MAKE_ONE = (
    "give the job its pictures in place of the bank ({side}: FOLDER), and `diffstyle precompute` makes one that fits"
)


def banks(folder: Path) -> dict[str, dict[str, str]]:
    return {side: {"bank": str(folder / "out" / "banks" / side)} for side in ("content", "style")}


def test_a_bank_of_another_model(there, tmp_path):
    line = refused(job_file(tmp_path / "new", **banks(there), weights="random:0"))
    assert "was made with another model: tiny with fingerprint" in line
    assert line.endswith(HOW_TO_MAKE_ONE.format(side="content"))


def test_a_bank_of_another_size_or_preprocessing(there, tmp_path):
    import json

    for name, change, expected in (
        ("size", lambda what: what.update(image_size=64), "has pictures of 64 px, the model takes 32"),
        ("crop", lambda what: what["preprocessing"].update(crop="none"), "preprocessed differently"),
        ("h", lambda what: what["tensors"]["h"].update(shape=[4, 2, 2]), "keeps h of shape (4, 2, 2), the model's is"),
        ("walk", lambda what: what["inversion"].clear(), "does not say in how many steps"),
        ("steps", lambda what: what["inversion"].update(steps="many"), "does not say in how many steps"),
        ("t_0", lambda what: what["inversion"].update(t_0=900), "inverted up to different timesteps"),
    ):
        bank = tmp_path / name
        shutil.copytree(there / "out" / "banks" / "content", bank)
        description = json.loads((bank / "description.json").read_text())
        change(description["identity"])
        del description["hash"]  # a bank of another making, not a damaged one
        (bank / "description.json").write_text(json.dumps(description))
        line = refused(job_file(tmp_path / "new", **{**banks(there), "content": {"bank": str(bank)}}))
        assert expected in line, line


def test_a_bank_of_the_other_role(there, tmp_path):
    swapped = {"content": banks(there)["style"], "style": banks(there)["content"]}
    assert f"keeps x_t and no h; {HOW_TO_MAKE_ONE}".format(side="content") in refused(
        job_file(tmp_path / "new", **swapped)
    )
    half = {**banks(there), "style": banks(there)["content"]}
    assert f"keeps h and no x_t; {HOW_TO_MAKE_ONE}".format(side="style") in refused(job_file(tmp_path / "new", **half))


def test_a_bank_that_lacks_an_h(there, tmp_path):
    line = refused(job_file(tmp_path / "new", **banks(there), injection={"t_edit": 0}))
    assert f"this job needs h at timesteps 0 and 199, which {there}/out/banks/content doesn't have" in line
    assert "bank.keep: all" in line


def test_what_is_no_bank(there, tmp_path):
    line = refused(job_file(tmp_path / "new", **{**banks(there), "content": {"bank": str(CONTENTS)}}))
    assert str(CONTENTS) in line


def test_stages_in_the_wrong_order(tmp_path):
    line = refused(job_file(tmp_path), command="inject")
    assert str(tmp_path / "out" / "banks" / "content") in line
    assert "diffstyle precompute" in line
    line = refused(job_file(tmp_path), command="precompute")
    assert str(tmp_path / "out" / "shards" / "content") in line
    assert "diffstyle shard" in line


# ---- pairs and masks ----


def test_zip_with_unequal_sides(there):
    line = refused(job_file(there, pairs="zip", style={"folder": str(STYLES), "limit": 1}))
    assert "there are 2 contents and 1 style" in line


def test_lists_of_pairs(there):
    (there / "pairs.csv").write_text("content,style\nnobody,nobody\n")
    line = refused(job_file(there, pairs={"list": "pairs.csv"}))
    assert "row 1 (line 2): no content is called 'nobody'" in line
    (there / "pairs.csv").write_text("a,b\n1,2\n")
    assert "has no column 'content'; its columns are a, b" in refused(job_file(there, pairs={"list": "pairs.csv"}))


def test_masks_that_are_missing_or_broken(there):
    (there / "masks").mkdir()
    line = refused(job_file(there, injection={"mask": {"folder": "./masks"}}))
    assert "has no mask for 2 of 2 contents (e.g. adventurer-00025.png)" in line
    (there / "mask.png").write_bytes(b"no picture")
    line = refused(job_file(there, injection={"mask": {"picture": "./mask.png"}}))
    assert "mask.png is not readable as a picture" in line


# ---- pictures ----


def test_corrupt_pictures_are_named_and_cost_nothing_else(tmp_path):
    for n in range(2):
        paint(tmp_path / "photos" / f"p{n}.png", n)
    whole = (tmp_path / "photos" / "p0.png").read_bytes()
    (tmp_path / "photos" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "photos" / "empty.png").write_bytes(b"")
    file = job_file(tmp_path, content="./photos", style={"folder": str(STYLES), "limit": 1})
    result = CliRunner().invoke(main, ["run", str(file), "--local", "--quiet"])
    assert result.exit_code == 3
    (said,) = (line for line in result.output.splitlines() if "can't be read" in line)
    assert said == "rejected 2 pictures that can't be read"
    rejects = pd.read_parquet(tmp_path / "out" / "shards" / "content" / "rejects")
    reasons = {Path(source).name: reason for source, reason in zip(rejects["source"], rejects["reason"], strict=True)}
    assert set(reasons) == {"cut.png", "empty.png"}
    assert reasons["empty.png"] == "the file is empty (0 bytes)"
    assert len(manifest(tmp_path / "out")) == 2
    # With the cause fixed, one of them is made, and nothing else is made again.
    (tmp_path / "photos" / "cut.png").write_bytes(paint(tmp_path / "whole.png", 5).read_bytes())
    (tmp_path / "photos" / "empty.png").unlink()
    result = CliRunner().invoke(main, ["run", str(file), "--local", "--quiet"])
    assert "made 1 pair " in result.output
    assert "2 were there already" in result.output


def test_no_picture_can_be_read(there):
    (there / "broken").mkdir()
    (there / "broken" / "a.png").write_bytes(b"no picture")
    line = refused(job_file(there, content="./broken"), "--set", f"output={there}/new")
    assert "none of the pictures could be read" in line
    assert "a.png" in line
