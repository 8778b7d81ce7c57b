"""An installed wheel, away from the source tree: what it carries, and that the ready jobs run from it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from support.places import ROOT

from pipeline.jobfile.load import load_job


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("diffstyle-*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel) -> Path:
    """The wheel, unpacked as pip would."""
    folder = wheel.parent / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def python(installed: Path, cwd: Path, *args: str) -> str:
    """The output of a Python that finds the unpacked wheel before anything else, in a folder that is not the tree."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, *args], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_carries_what_the_ready_jobs_read_and_no_more(wheel):
    with zipfile.ZipFile(wheel) as archive:
        carried = {info.filename for info in archive.infolist()}
        demo = sum(info.file_size for info in archive.infolist() if "/_shipped/demo/" in info.filename)
    tree = ("configs", "jobs", "demo/model", "demo/contents", "demo/styles", "demo/unseen-styles", "demo/tiny")
    wanted = {file for folder in tree for file in (ROOT / folder).rglob("*") if file.is_file()}
    expected = {f"pipeline/_shipped/{file.relative_to(ROOT).as_posix()}" for file in wanted}
    assert {name for name in carried if "/_shipped/" in name} == expected
    assert demo < 28 << 20
    assert not [name for name in carried if name.startswith(("tests/", "demo/", "jobs/"))]


def test_the_wheel_carries_the_page_of_reports(installed):
    assets = Path("pipeline/results/report/assets")
    assert {file.name for file in (installed / assets).iterdir()} == {file.name for file in (ROOT / assets).iterdir()}


def test_the_tests_look_at_the_wheel_and_not_at_the_tree(installed, tmp_path):
    said = python(installed, tmp_path, "-c", "import diffstyle, pipeline; print(diffstyle.__file__, pipeline.__file__)")
    assert said.split() == [str(installed / package / "__init__.py") for package in ("diffstyle", "pipeline")]


def test_the_demo_as_installed(installed, tmp_path):
    few = ("--local", "--set", "content.limit=1", "--set", "style.limit=1", "--dry-run")
    said = python(installed, tmp_path, "-m", "pipeline", "run", "demo", *few)
    assert str(tmp_path / "results" / "demo") in said
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_the_tiny_job_as_installed(installed, tmp_path):
    settings = (
        "content.limit=1",
        "style.limit=1",
        "inversion.steps=4",
        "injection.events=2",
        "injection.plan={grid: 4}",
    )
    changes = [word for setting in settings for word in ("--set", setting)]
    python(installed, tmp_path, "-m", "pipeline", "run", "tiny", "--local", "--quiet", *changes)
    out = tmp_path / "results" / "tiny"
    assert pd.read_parquet(out / "manifest")["status"].tolist() == ["ok"]
    job = load_job(out / "job.yaml")
    for path in (job.model, job.content.any, job.style.any):
        assert Path(path).is_relative_to(installed / "pipeline" / "_shipped" / "demo" / "tiny")


def test_the_benchmarks_models_as_installed(installed, tmp_path):
    code = """
from pipeline.bench.pairs import pictures, trained
for name in ("tiny", "demo"):
    unet = trained(name)
    print(name, unet.image_size, *pictures(unet, "styles", 2).shape)
"""
    assert python(installed, tmp_path, "-c", code).splitlines() == ["tiny 32 2 3 32 32", "demo 64 2 3 64 64"]
