"""The paths of a job: where they start, what can't be one, and any file name by ``--set``."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from support.whole_jobs import MODEL, job_file, paint

from diffstyle.errors import ConfigError
from pipeline.cli.main import main
from pipeline.jobfile.load import load_job
from pipeline.jobfile.schema import Job
from pipeline.sources import open_source
from pipeline.storage.cache import cache_folder
from pipeline.storage.variables import escape

#: Every field of a job that is a path: its name for --set, and where the job has it.
PATHS = {
    "model": lambda job: job.model,
    "weights": lambda job: job.weights,
    "weights.path": lambda job: job.weights.path,
    "output": lambda job: job.output,
    "content": lambda job: job.content.any,
    "content.folder": lambda job: job.content.folder,
    "style.bank": lambda job: job.style.bank,
    "pairs.list": lambda job: job.pairs.file,
    "injection.mask.picture": lambda job: job.injection.mask[0].picture,
    "injection.mask.folder": lambda job: job.injection.mask[0].folder,
    "injection.edit.directions": lambda job: job.injection.edit[0].directions,
    "score.networks": lambda job: job.score.networks[0],
}
BASE = (
    f"model: {MODEL}\noutput: out\ncontent: contents\nstyle: {{any: styles}}\npairs: {{}}\ninjection: {{mask: {{}}}}\n"
)


@pytest.fixture
def base(tmp_path, monkeypatch) -> Path:
    """A job file without the fields that can be either of several, and another working directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    file = tmp_path / "job.yaml"
    file.write_text(BASE)
    return file


def with_others(field: str) -> list[str]:
    """What makes the base job valid beside ``field``."""
    others = ["pairs=all"] if not field.startswith("pairs") else []
    others += ["injection.mask=null"] if not field.startswith("injection.mask") else []
    others += ["injection.edit.strength=1", "injection.edit.component=0"] if field.startswith("injection.edit") else []
    return others + (["weights.key=ema"] if field == "weights.path" else [])


@pytest.mark.parametrize("field", PATHS)
@settings(max_examples=60, deadline=None)
@given(
    name=st.one_of(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=12),
        st.text(alphabet="#*?[]{}:,&!@%'\"`|>-~$ ab1.\\=\n", min_size=1, max_size=8),
    )
)
def test_any_file_name_can_be_given_by_set(field, name, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "any-name.yaml"
    file.write_text(BASE)
    path = f"/folder/{name}/x.yaml"  # a model is a path by its slash
    quoted = "'" + escape(path).replace("'", "''") + "'"
    for text in (quoted, escape(path)):  # a path that begins with / needs no quotes
        overrides = [*with_others(field), f"{field}={text}"]
        if field == "model":
            with pytest.raises(ConfigError, match=r"no such file|can't be read"):
                load_job(file, overrides)
        else:
            assert PATHS[field](load_job(file, overrides)) == os.path.normpath(path)


@pytest.mark.parametrize("field", [field for field in PATHS if field != "model"])
def test_relative_paths_by_set_start_at_the_working_directory(field, base):
    job = load_job(base, [*with_others(field), f"{field}=run #1"])
    assert PATHS[field](job) == str(Path.cwd() / "run #1")
    assert job.output == str(Path.cwd() / "run #1" if field == "output" else base.parent / "out")


def test_globs_and_braces_by_set(base):
    others = with_others("content")
    job = load_job(base, [*others, "content.webdataset={0000..0009}.tar"])
    assert job.content.addresses == (str(Path.cwd() / "{0000..0009}.tar"),)
    job = load_job(base, [*others, "content=*.tar"])
    assert job.content.addresses == (str(Path.cwd() / "*.tar"),)
    job = load_job(base, [*others, "content=[a.tar, '*.tar', '{0..3}.tar']"])
    assert job.content.addresses == tuple(str(Path.cwd() / name) for name in ("a.tar", "*.tar", "{0..3}.tar"))


def test_a_job_built_in_python_starts_at_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = Job(model="afhq-dog", output="o", content="c", style={"bank": "b"}, weights="random:3")
    assert (job.model, job.weights) == ("afhq-dog", "random:3")
    assert (job.output, job.style.bank) == (str(tmp_path / "o"), str(tmp_path / "b"))
    assert job.content.addresses == (str(tmp_path / "c"),)
    monkeypatch.chdir("/")
    assert pickle.loads(pickle.dumps(job)) == job
    assert Job.model_validate(job.model_dump(by_alias=True, exclude_none=True)) == job


@pytest.mark.parametrize("field", PATHS)
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("~no-such-user/x", "~no-such-user/x: the home folder ~no-such-user is not known; write the path in full"),
        ("a\0b/x", "'a\\x00b/x': a path can't hold the character NUL"),
        ("s3://key:se/cret@bucket/x", "s3://***@bucket/x: an address holds no login; set AWS_ACCESS_KEY_ID"),
        ("ftp://host/x", "ftp://host/x: not an address; use a path"),
        ("/a/" + "b" * 256, "is 256 bytes long; the name of a file or folder has at most 255"),
        ("./" + "ü" * 128, "is 256 bytes long"),
        (" ", "is empty"),
        ("$HOME/x", "write ${HOME} for the environment variable"),
    ],
)
def test_what_is_no_path_is_one_line_with_its_field(field, path, expected, base):
    if field == "model" and path == " ":
        return  # a model's name
    text = path.replace("\0", "\\0")
    with pytest.raises(ConfigError) as caught:
        load_job(base, [*with_others(field), f'{field}="{text}"'])
    line = str(caught.value)
    assert line.startswith(f"--set {field}: ")
    assert expected in line
    assert "\n" not in line
    assert "cret" not in line


def test_the_same_in_the_file_names_the_line(tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text("model: afhq-dog\noutput: ~no-such-user/x\ncontent: [a, \"b\\0\"]\nstyle: {bank: 's3://a:b@c'}\n")
    with pytest.raises(ConfigError) as caught:
        load_job(file)
    where = [line.removeprefix(str(file)).split(": ")[:2] for line in caught.value.mistakes]
    assert where == [[":2", "output"], [":3", "content[1]"], [":4", "style.bank"]]


def test_a_number_as_a_path_asks_for_quotes(base):
    with pytest.raises(ConfigError, match="must be text, not 2024; for a path of that name, put it in quotes: '2024'"):
        load_job(base, [*with_others("output"), "output=2024"])
    assert load_job(base, [*with_others("output"), "output='2024'"]).output == str(Path.cwd() / "2024")


def test_no_home_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("DIFFSTYLE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    with pytest.raises(ConfigError, match="no home folder is known for the cache; set DIFFSTYLE_CACHE to a folder"):
        cache_folder()
    with pytest.raises(ConfigError, match=r"output: ~/x: the home folder ~ is not known; set HOME"):
        load_job(job_file(tmp_path, output="~/x"))
    monkeypatch.setenv("DIFFSTYLE_CACHE", "~/cache")
    with pytest.raises(ConfigError, match=r"~/cache: the home folder ~ is not known; set HOME"):
        cache_folder()


@pytest.mark.parametrize("name", ["~no-such-user/job.yaml", "a" * 300, "a" * 300 + ".yaml", "a\0b.yaml", "b/" * 3000])
def test_a_job_file_that_no_disk_can_have(name):
    result = CliRunner().invoke(main, ["plan", name])
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert result.output.startswith("error: ")


def test_an_input_that_can_t_be_looked_at(tmp_path, base):
    with pytest.raises(ConfigError, match=r"style: .*: can't be looked at \(File name too long\)"):
        load_job(base, ["pairs=all", "injection.mask=null", "content=/", f"style={'a/' * 3000}b"], check_inputs=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gamma: 0.3", "gamma: unknown field 'gamma'; did you mean 'injection.gamma'?"),
        ("format: png", "format: unknown field 'format'; did you mean 'bank.format' or 'pictures.format'?"),
        ("steps: 50", "steps: unknown field 'steps'; did you mean 'inversion.steps'?"),
        ("gama: 50", "gama: unknown field 'gama'; did you mean 'injection.gamma'?"),
        ("injection: {batch: 4}", "injection.batch: unknown field 'batch'; did you mean 'compute.batch'?"),
        ("compute: {output: x}", "compute.output: unknown field 'output'; did you mean 'output'?"),
        ("injection: {gama: 1}", "injection.gama: unknown field 'gama'; did you mean 'gamma'?"),
        ("pairs: {lists: x}", "pairs.lists: unknown field 'lists'; did you mean 'list'?"),
        ("zzz: 1", "zzz: unknown field 'zzz'; allowed: bank, compute, content, "),
    ],
)
def test_an_unknown_field_suggests_where_it_belongs(tmp_path, text, expected):
    file = tmp_path / "job.yaml"
    file.write_text(f"model: afhq-dog\noutput: o\ncontent: c\nstyle: s\n{text}\n")
    with pytest.raises(ConfigError) as caught:
        load_job(file)
    assert f"job.yaml:5: {expected}" in str(caught.value)


def test_plain_words_in_a_job_mean_what_people_mean(tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text(
        "model: afhq-dog\noutput: 2024-01-01\ncontent: no\nstyle: 1:30\n"
        "injection: {events: 010, gamma: 1e-1}\ncompute: {compile: TRUE}\nseed: 1_000\n"
    )
    job = load_job(file)
    assert (job.injection.events, job.injection.gamma, job.compute.compile, job.seed) == (10, (0.1,), True, (1000,))
    assert (job.output, job.content.any, job.style.any) == tuple(
        str(tmp_path / n) for n in ("2024-01-01", "no", "1:30")
    )
    file.write_text(
        "model: afhq-dog\noutput: o\ncontent: c\nstyle: s\ncompute: {compile: yes}\nseed: 99999999999999999999\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_job(file)
    assert [line.partition(": ")[2] for line in caught.value.mistakes] == [
        "compute.compile: must be auto, true or false, not 'yes'",
        "seed: must be less than 9223372036854775808, not 99999999999999999999",
    ]


def test_a_source_given_as_text_starts_at_its_base(tmp_path):
    paint(tmp_path / "a" / "x.png", 1)
    assert open_source("a", tmp_path).count() == 1


def test_every_path_of_a_job_is_tried_here():
    """A new field that is a path must be an address, and be in PATHS (or be one of a source's kinds)."""

    def described(model: type[BaseModel], prefix: str = "") -> set[str]:
        from pipeline.storage.mistakes import models_in

        fields = set()
        for name, field in model.model_fields.items():
            path = f"{prefix}{field.alias or name}"
            if "resolving" in repr((field.annotation, field.metadata)):
                fields.add(path)
            for inner in models_in(field.annotation) + [m for extra in field.metadata for m in models_in(extra)]:
                fields |= described(inner, f"{path}.")
        return fields

    kinds = {"folder", "webdataset", "parquet", "list", "lmdb", "any", "bank"}
    of_sources = {f"{side}.{kind}" for side in ("content", "style") for kind in kinds}
    assert described(Job) == (set(PATHS) - {"content"}) | of_sources


@settings(max_examples=100, deadline=None)
@given(
    names=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=12)
        | st.text(alphabet="#*?[]{}:,&!@%'\"`|>-~$ abN1.\\=\n", min_size=1, max_size=8),
        min_size=3,
        max_size=3,
    )
)
def test_any_job_that_is_written_reads_back_as_itself(names, tmp_path_factory):
    output, content, column = names
    source = {"list": [f"/a/{content}", "s3://b/c"], "label_column": column}
    job = Job.model_validate({"model": "afhq-dog", "output": f"/{output}", "content": source, "style": {"sample": 1}})
    file = tmp_path_factory.getbasetemp() / "written.yaml"
    file.write_text(job.to_yaml(), encoding="utf-8")
    assert load_job(file) == job
