"""What a newcomer writes by habit: one line says what was meant, of lists, mappings, comments and nested fields."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.whole_jobs import MODEL, job_file

from diffstyle.errors import ConfigError
from pipeline.jobfile.load import load_job


@pytest.mark.parametrize(
    ("assignment", "meant"),
    [
        ("injection.gamma=0.2,0.4", "must be a number, not '0.2,0.4'; a list is written [0.2, 0.4]"),
        ("injection.omega=1, 2, 3e-1", "a list is written [1, 2, 3e-1]"),
        ("seed=1,2", "must be a whole number, not '1,2'; a list is written [1, 2]"),
        ("injection.gamma=(0.2, 0.4)", "a list is written [0.2, 0.4]"),
        ("injection.gamma=[0.2,0.4", "what begins with [ ends with ]"),
        ("pairs={random:3}", "with a space after the colon, {random: 3} is a mapping"),
        ("content=a.png,b.png", "a.png,b.png: no such file or folder; a list is written [a, b]"),
        ("gamma=0.4", "--set gamma: unknown field 'gamma'; did you mean 'injection.gamma'?"),
        ("limit=3", "did you mean 'content.limit' or 'style.limit'?"),
    ],
)
def test_an_override(tmp_path: Path, assignment: str, meant: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_job(job_file(tmp_path), [assignment], check_inputs=True)
    assert meant in str(error.value)
    assert "\n" not in str(error.value)


def test_a_right_list_has_no_such_hint(tmp_path: Path) -> None:
    job = load_job(job_file(tmp_path), ["injection.gamma=[0.2, 0.4]", "seed=[1, 2]", "pairs={random: 3}"])
    assert job.injection.gamma == (0.2, 0.4)
    with pytest.raises(ConfigError) as error:
        load_job(job_file(tmp_path), ["injection.gamma=much"])
    assert str(error.value).endswith("must be a number, not 'much'")


@pytest.mark.parametrize("field", ["gamma", "t_edit", "mask"])
def test_a_field_at_the_top_that_belongs_into_injection(tmp_path: Path, field: str) -> None:
    file = job_file(tmp_path)
    file.write_text(f"{file.read_text()}{field}: 0.3\n")
    with pytest.raises(ConfigError, match=f"unknown field '{field}'; did you mean 'injection.{field}'"):
        load_job(file)


def written(folder: Path, content: str, output: str = "out") -> Path:
    file = folder / "job.yaml"
    file.write_text(f"model: {MODEL}\noutput: {output}\ncontent: {content}\nstyle: .\n")
    return file


@pytest.mark.parametrize(
    ("assignment", "meant"),
    [
        ("content={path: x}", "content.path: unknown field 'path'; did you mean 'folder'?"),
        ("style={images: x}", "style.images: unknown field 'images'; did you mean 'folder'?"),
        ("content={csv: x}", "did you mean 'list'?"),
        ("content={bank: x, path: y}", "content.path: unknown field 'path'; did you mean 'bank'?"),
        ("weights={folder: x}", "weights.folder: unknown field 'folder'; did you mean 'path'?"),
    ],
)
def test_what_a_section_calls_by_another_name_is_meant_before_that_name_elsewhere(tmp_path, assignment, meant) -> None:
    with pytest.raises(ConfigError) as error:
        load_job(job_file(tmp_path), [assignment])
    assert meant in str(error.value)


def test_a_path_that_a_comment_cuts(tmp_path: Path) -> None:
    (tmp_path / "photos #2").mkdir()
    missing = f"job.yaml:3: content: {tmp_path}/photos: YAML takes #2 for a comment, but {tmp_path}/photos #2 is there"
    with pytest.raises(ConfigError) as error:
        load_job(written(tmp_path, "./photos #2"), check_inputs=True)
    assert missing in str(error.value)
    (tmp_path / "photos").mkdir()  # or else these would be read in silence
    with pytest.raises(ConfigError) as error:
        load_job(written(tmp_path, "./photos #2"), check_inputs=True)
    assert missing in str(error.value)
    with pytest.raises(ConfigError, match=r"nowhere: no such file or folder; YAML takes #3 for a comment: put a path"):
        load_job(written(tmp_path, "nowhere #3"), check_inputs=True)
    for text in ("'photos #2'", '"./photos #2"'):
        assert load_job(written(tmp_path, text), check_inputs=True).content.addresses == (f"{tmp_path}/photos #2",)
    for text in ("photos # those of May", "photos #those", "photos  # 2"):
        assert load_job(written(tmp_path, text), check_inputs=True).content.addresses == (f"{tmp_path}/photos",)
    with pytest.raises(ConfigError, match=r"nowhere: no such file or folder$"):
        load_job(written(tmp_path, "nowhere # words"), check_inputs=True)


def test_two_numbered_outputs_are_not_taken_for_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load_job(written(tmp_path, ".", "./run #1"))
    assert "job.yaml:2: output: ./run: YAML takes #1 for a comment; put a path with a # in quotes" in str(error.value)
    assert load_job(written(tmp_path, ".", "'./run #1'")).output == f"{tmp_path}/run #1"
    assert load_job(written(tmp_path, ".", "./run # first try")).output == f"{tmp_path}/run"
    assert load_job(written(tmp_path, ".", "./run#1")).output == f"{tmp_path}/run#1"
