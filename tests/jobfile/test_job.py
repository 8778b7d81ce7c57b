"""Job files: what is accepted, what a mistake reads like, sweeps, overrides, paths, the ready jobs, the docs."""

from __future__ import annotations

import itertools
import json
import pickle
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffstyle.errors import ConfigError
from pipeline.jobfile.injection import PlanSpec, gamma_schedule
from pipeline.jobfile.load import load_job
from pipeline.jobfile.schema import BankSpec, Job, RandomPairs, SampleSpec
from pipeline.storage.identity import digest_of
from pipeline.storage.shipped import shipped_files
from pipeline.storage.yamlfile import MistakesError

ROOT = Path(__file__).resolve().parents[2]
BASE = "model: afhq-dog\noutput: out\ncontent: contents\nstyle: styles\n"


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "job.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def mistakes_of(path, *overrides, **options) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_job(path, list(overrides), **options)
    lines = getattr(caught.value, "mistakes", [str(caught.value)])
    assert all("\n" not in line for line in (*lines, str(caught.value)))
    return lines


def test_smallest_job_has_the_papers_defaults(write, tmp_path):
    job = load_job(write(BASE))
    assert job.output == str(tmp_path / "out")
    assert job.content.addresses == (str(tmp_path / "contents"),)
    assert job.settings()[0].to_dict() == {
        "gamma": 0.3,
        "t_edit": 400,
        "t_boost": 0,
        "events": 50,
        "dt_lambda": 1.0,
        "dt_end": 950,
        "omega": 0.0,
        "mask": None,
        "plan": {"aligned": {"between": 2, "tail": 20, "order": 2}},
        "seed": None,
    }
    assert (job.inversion.steps, job.inversion.t_0, job.pairs, job.compute.actors) == (50, 999, "all", "auto")


@pytest.mark.parametrize(
    ("name", "steps", "gamma", "t_boost", "dt_lambda", "mask"),
    [
        ("afhq-style-mixing", 50, 0.3, 200, 1.0, None),
        ("celebahq-masked", 50, 0.3, 200, 0.9985, "reference"),
        ("harmonization", 1000, 0.4, 0, 1.0, None),
    ],
)
def test_ready_jobs_have_the_seeds_parameters(name, steps, gamma, t_boost, dt_lambda, mask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = load_job(name)
    (point,) = job.settings()
    assert job.inversion.steps == steps
    assert point.plan == PlanSpec(grid=1000)
    assert (point.gamma, point.t_boost, point.dt_lambda, point.mask) == (gamma, t_boost, dt_lambda, mask)
    assert (point.t_edit, point.events, point.omega) == (400, 50, 0)
    assert Path(job.output).is_relative_to(tmp_path)


def test_exactly_the_three_ready_jobs_are_shipped():
    assert {"afhq-style-mixing", "celebahq-masked", "harmonization"} <= set(shipped_files("jobs"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("injection:\n  gama: 0.3", "job.yaml:6: injection.gama: unknown field 'gama'; did you mean 'gamma'?"),
        ("injektion: {}", "job.yaml:5: injektion: unknown field 'injektion'; did you mean 'injection'?"),
        ("injection: {gamma: 1.2}", "job.yaml:5: injection.gamma: must be at most 1, not 1.2"),
        ("injection: {gamma: strong}", "job.yaml:5: injection.gamma: must be a number, not 'strong'"),
        ("injection: {gamma: yes}", "job.yaml:5: injection.gamma: must be a number, not 'yes'"),
        ("injection: {gamma: .nan}", "job.yaml:5: injection.gamma: must be a finite number, not nan"),
        ("injection: {gamma: []}", "job.yaml:5: injection.gamma: must have at least 1 item, not an empty list"),
        ("injection:\n  gamma:\n  - 0.1\n  - {linear: [0, 2]}", "job.yaml:8: injection.gamma[1].linear[1]: must be at"),
        ("injection: {gamma: {linear: [1]}}", "injection.gamma.linear: must be two numbers, [first, last]"),
        ("injection: {gamma: {linear: [0, 1], cosine: [0, 1]}}", "injection.gamma: give exactly one of linear"),
        ("injection: {t_edit: 1000}", "job.yaml:5: injection.t_edit: must be at most 999, not 1000"),
        ("injection: {t_boost: 1.5}", "job.yaml:5: injection.t_boost: must be a whole number, not 1.5"),
        ("injection: {dt_lambda: 0}", "job.yaml:5: injection.dt_lambda: must be more than 0, not 0"),
        ("injection: {events: evry}", "job.yaml:5: injection.events: must be every or a whole number, not 'evry'"),
        ("injection: {mask: refrence}", "injection.mask: must be null, reference, or a mapping with rectangle"),
        ("injection: {mask: {rectangle: [0.5, 0, 0.5, 1]}}", "injection.mask.rectangle: must be [top, left, bottom"),
        ("injection: {mask: {rectangel: [0, 0, 1, 1]}}", "'rectangel'; did you mean 'rectangle'?"),
        ("injection: {plan: fastest}", "job.yaml:5: injection.plan: unknown plan 'fastest'; did you mean 'fast'?"),
        ("injection: {plan: {aligned: {betwen: 2}}}", "job.yaml:5: injection.plan.aligned.betwen: unknown field"),
        ("injection: {plan: {aligned: {}}, events: every}", "injection: events: every needs a grid plan"),
        ("injection: {t_start: 300}", "injection: t_start is 300, below t_edit 400: content is injected from t_start"),
        ("inversion: {steps: 50, t_0: 20}", "inversion: steps is 50, but there are only 21 timesteps"),
        ("pairs: al", "job.yaml:5: pairs: must be all, zip, {random: k} or {list: FILE}, not 'al'"),
        ("pairs: {random: 0}", "job.yaml:5: pairs.random: must be at least 1, not 0"),
        (
            "pictures: {format: jpg}",
            "pictures.format: must be 'png', 'jpeg' or 'webp', not 'jpg'; did you mean 'jpeg'?",
        ),
        ("bank: {keep: [1]}", "job.yaml:5: bank.keep: must be 'events' or 'all', not a list ([1])"),
        ("compute: {actors: fuor}", "job.yaml:5: compute.actors: must be auto or a whole number, not 'fuor'"),
        ("compute: 3", "job.yaml:5: compute: must be a mapping of fields, not 3"),
        ("seed: 1\nseed: 2", "job.yaml:6: seed: is given twice, first in line 5"),
        ("weights: [a]", "job.yaml:5: weights: must be text, not a list (['a'])"),
        (
            "weights: {path: w.pt, sha256: abc}",
            "weights.sha256: must be the 64 digits (0-9, a-f) that sha256sum prints",
        ),
        ("weights: hf://gpt2", "weights: hf://gpt2: a hub's address is hf://OWNER/NAME or hf://OWNER/NAME@REVISION"),
        ("weights: [a", "job.yaml:6: not valid YAML: while parsing a flow sequence"),
        ("weights: *nothing", "job.yaml:5: not valid YAML: found undefined alias"),
        ("weights: &a [*a]", "job.yaml:5: weights[0]: an alias (*name) contains itself"),
        ("? [1]\n: 2", "job.yaml:5: a field's name must be plain text"),
        ("weights: ${DIFFSTYLE_NO_SUCH}", "job.yaml:5: weights: the environment variable DIFFSTYLE_NO_SUCH is not set"),
    ],
)
def test_a_mistake_is_one_line_with_place_field_and_mend(write, text, expected):
    (line,) = mistakes_of(write(BASE + text + "\n"))
    assert expected in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("- a", "must be a mapping of fields"),
        ("model: afhq-dog\noutput: o\ncontent: c", "style: is required"),
        (
            "model: afhq\noutput: o\ncontent: c\nstyle: s",
            "job.yaml:1: model: unknown model 'afhq'; did you mean 'afhq-dog'?",
        ),
        ("model: ./mine.yaml\noutput: o\ncontent: c\nstyle: s", "mine.yaml: no such file"),
        (
            "model: afhq-dog\noutput: o\ncontent: c\nstyle: {foldr: s}",
            "style.foldr: unknown field 'foldr'; did",
        ),
        ("model: afhq-dog\noutput: o\ncontent: c\nstyle: {sample: 0}", "style.sample: must be at least 1, not 0"),
        ("a: \x01", ":1: not text"),
    ],
)
def test_other_mistakes(write, text, expected):
    assert expected in mistakes_of(write(text))[0]


def test_all_mistakes_are_told_in_the_order_of_the_file(write):
    path = write("modl: x\noutput: o\ncontent: c\nstyle: s\npictures:\n  quality: 200\ninjection: {gamma: 3}\n")
    lines = mistakes_of(path)
    assert [re.sub(r".*job.yaml", "", line).split(" ")[1] for line in lines] == [
        "modl:",
        "pictures.quality:",
        "injection.gamma:",
        "model:",
    ]
    with pytest.raises(MistakesError, match=r"\(and 3 more mistakes\)") as caught:
        load_job(path)
    assert pickle.loads(pickle.dumps(caught.value)).mistakes == lines


def test_a_file_that_cannot_be_read(tmp_path):
    assert mistakes_of(tmp_path / "none.yaml") == [f"{tmp_path / 'none.yaml'}: no such file"]
    assert "is a folder" in mistakes_of(tmp_path)[0]
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    assert "not a text file" in mistakes_of(tmp_path / "b.yaml")[0]
    assert "did you mean 'harmonization'?" in mistakes_of("harmonisation")[0]


def test_overrides_replace_values_and_make_mappings(write):
    job = load_job(
        write(BASE),
        ["injection.gamma=[0.2, {cosine: [0.1, 0.5]}]", "compute.batch=4", "pairs={random: 2}", "weights=random:3"],
    )
    assert len(job.settings()) == 2
    assert job.compute.batch == 4
    assert job.pairs == RandomPairs(random=2)
    assert job.weights == "random:3"
    assert load_job(write(BASE), ["seed=1", "seed=2"]).seed == (2,)


def test_overrides_reach_into_a_source_in_its_short_form(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    path = write(BASE)
    limited = load_job(path, ["content.limit=5"])
    assert limited.content.addresses == (str(tmp_path / "contents"),)
    assert limited.content.limit == 5
    other = load_job(path, ["content.limit=5", "content.parquet=p.parquet"])
    assert other.content.kind == "parquet"
    assert other.content.addresses == (str(tmp_path.parent / "p.parquet"),)
    assert other.content.limit == 5
    assert load_job(path, ["content.sample=7"]).content == SampleSpec(sample=7)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("injection.gama=1", "--set injection.gama: unknown field 'gama'; did you mean 'gamma'?"),
        ("injektion.gamma=1", "--set injektion.gamma: injektion: unknown field"),
        ("injection.gamma=2", "--set injection.gamma: must be at most 1, not 2"),
        ("injection={gamma: 2}", "--set injection: injection.gamma: must be at most 1, not 2"),
        ("injection.gamma", "--set injection.gamma: not an assignment; write --set a.b=value"),
        ("=3", "not an assignment"),
        ("model.name=3", "--set model.name: model is not a mapping here, but 'afhq-dog'"),
        ("injection.gamma=[1", "--set injection.gamma: must be a number, not '[1'"),
        ("output=", "--set output: must be text, not null"),
        ("model=celebhq", "--set model: unknown model 'celebhq'; did you mean 'celebahq'?"),
    ],
)
def test_a_mistake_in_an_override_names_it(write, override, expected):
    (line,) = mistakes_of(write(BASE), override)
    assert expected in line


def test_paths_start_at_the_file_or_for_overrides_at_the_working_directory(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    text = (
        "model: ./m.yaml\nweights: w.pt\noutput: s3://bucket/out\ncontent: {webdataset: ['a-{0..3}.tar', /b.tar]}\n"
        "style: {bank: ../bank}\npairs: {list: pairs.csv}\ninjection: {mask: [null, {picture: m.png}, {folder: ms}]}\n"
    )
    (tmp_path / "m.yaml").write_text((ROOT / "configs/afhq-dog.yaml").read_text())
    job = load_job(write(text), ["injection.mask={picture: n.png}"])
    assert job.model == str(tmp_path / "m.yaml")
    assert job.weights == str(tmp_path / "w.pt")
    assert job.output == "s3://bucket/out"
    assert job.content.addresses == (str(tmp_path / "a-{0..3}.tar"), "/b.tar")
    assert job.style == BankSpec(bank=str(tmp_path.parent / "bank"))
    assert job.pairs.file == str(tmp_path / "pairs.csv")
    assert job.injection.mask[0].picture == str(tmp_path.parent / "n.png")
    masks = load_job(write(text)).injection.mask
    assert [masks[0], masks[1].picture, masks[2].folder] == [None, str(tmp_path / "m.png"), str(tmp_path / "ms")]


def test_environment_variables(write, monkeypatch):
    monkeypatch.setenv("DATA", "/data")
    monkeypatch.setenv("STEPS", "20")
    job = load_job(write(BASE.replace("contents", "${DATA}/c$${X}") + "inversion: {steps: '${STEPS}'}\n"))
    assert job.content.addresses == ("/data/c${X}",)
    assert job.inversion.steps == 20


def test_merge_keys_and_anchors(write):
    text = BASE + "injection: &base\n  gamma: 0.1\n  omega: 1\n"
    path = write(text.replace("injection: &base", "x: 1\ninjection: &base"))
    assert "unknown field 'x'" in mistakes_of(path)[0]
    job = load_job(write("inversion: &i {steps: 20}\n" + BASE + "bank: {<<: {format: webdataset}, part_size: 2}\n"))
    assert (job.bank.format, job.bank.part_size, job.inversion.steps) == ("webdataset", 2, 20)


def test_sweeps_are_every_combination_once(write):
    text = BASE + "seed: [1, 2]\ninjection: {t_boost: 200, gamma: [0.2, 1, 1.0], omega: [0, 0.5]}\n"
    text = text.replace("omega: [0, 0.5]", "omega: [0, 0.5], mask: [null, reference]")
    job = load_job(write(text))
    points = [(p.gamma, p.omega, p.mask, p.seed) for p in job.settings()]
    assert points == list(itertools.product([0.2, 1.0], [0.0, 0.5], [None, "reference"], [1, 2]))
    quiet = load_job(write(text), ["injection.t_boost=0"])
    assert {p.seed for p in quiet.settings()} == {None}
    assert len(quiet.settings()) == 8


def test_settings_are_canonical(write):
    written = ["1", "1.0", "1e0", "'1'", "[1]"]
    identities = {digest_of(load_job(write(BASE), [f"injection.gamma={g}"]).settings()[0].to_dict()) for g in written}
    assert len(identities) == 1
    plans = ["reference", "{grid: 1000}"]
    assert len({str(load_job(write(BASE), [f"injection.plan={p}"]).settings()[0].to_dict()) for p in plans}) == 1
    schedule = load_job(write(BASE), ["injection.gamma={linear: [0, 1]}"]).settings()[0]
    assert schedule.to_dict()["gamma"] == {"linear": [0.0, 1.0]}
    assert json.loads(json.dumps(schedule.to_dict())) == schedule.to_dict()
    assert gamma_schedule(schedule.gamma).at([900, 650, 400]) == [0.0, 0.5, 1.0]
    assert gamma_schedule(0.3).at([5, 4]) == [0.3, 0.3]
    assert "-0.0" not in str(load_job(write(BASE), ["injection.omega=-0.0"]).settings()[0].to_dict())


@pytest.mark.parametrize(
    "more",
    [
        "",
        "seed: [3, 4]\ninjection: {mask: [null, reference, {rectangle: [0, 0, 1, 1]}], gamma: {values: [0.1, 0.2]}}\n",
        "pairs: {list: p.csv}\ncompute: {max_failures: 0, threads: 2, actors: 3}\nweights: random\n",
        "pairs: {random: 3, seed: 9}\ninjection: {plan: {aligned: {tail: 5}}, events: 20}\n",
    ],
)
def test_the_resolved_job_reads_back_as_itself(write, more):
    job = load_job(write(BASE + more))
    again = load_job(write(job.to_yaml(), "again.yaml"))
    assert again == job
    assert again.to_yaml() == job.to_yaml()
    assert again.settings() == job.settings()


def test_inputs_that_are_missing_are_named_when_asked(write, tmp_path):
    (tmp_path / "styles").mkdir()
    path = write(BASE + "weights: w.pt\npairs: {list: p.csv}\ninjection: {mask: {folder: m}}\n")
    load_job(path)
    lines = mistakes_of(path, check_inputs=True)
    assert [line.split(": ")[1] for line in lines] == ["content", "weights", "pairs.list", "injection.mask.folder"]
    assert f"job.yaml:3: content: {tmp_path / 'contents'}: no such file or folder" in lines[0]
    load_job(write("model: afhq-dog\noutput: o\ncontent: s3://b/c\nstyle: 'st*'\nweights: random\n"), check_inputs=True)


def test_a_job_is_validated_in_python_too():
    job = Job(model="afhq-dog", output="o", content={"sample": 3}, style="s")
    assert job.content == SampleSpec(sample=3)
    with pytest.raises(MistakesError):
        Job(model="afhq-dog", output="o", content="c", style="s", injection={"gamma": 7})


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_job_file_is_read_or_refused_and_nothing_else(data, tmp_path_factory):
    text = (ROOT / "jobs/celebahq-masked.yaml").read_text()
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 12)))
        text = text[:start] + data.draw(st.text(alphabet="[]{}:,-&*!|>'\"#\n\t aé0.1$%@~", max_size=6)) + text[end:]
    path = tmp_path_factory.getbasetemp() / "damaged.yaml"
    path.write_text(text, encoding="utf-8")
    said = ""
    try:
        load_job(path)
    except ConfigError as error:
        said = str(error)
    assert "\n" not in said


# ---- the page for users ----


def test_the_documented_job_is_valid(write):
    page = (ROOT / "docs/job-file.md").read_text(encoding="utf-8")
    job, model = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert load_job(write(job)).model == "afhq-dog"
    from pipeline.models.config import load_model_config

    assert load_model_config(write(model, "model.yaml")).unet_architecture.h_shape == (128, 16, 16)


def test_more_threads_than_a_process_can_start_are_a_mistake(write):
    job = "model: m\noutput: o\ncontent: c\nstyle: s\ncompute: {threads: 100000}\n"
    with pytest.raises(MistakesError, match=r"compute\.threads: must be at most"):
        load_job(write(job))


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("6h", 21600), ("2d", 172800)])
def test_durations(write, text, seconds):
    job = load_job(write(BASE), [f"compute.unit_timeout={text}"])
    assert job.compute.unit_timeout == seconds
    assert load_job(write(job.to_yaml(), "again.yaml")) == job


@pytest.mark.parametrize("text", ["0", "-3", "6x", "h", "30 minutes", "true", ".nan", "-1h", "nanh", "infd"])
def test_no_durations(write, text):
    (line,) = mistakes_of(write(BASE), f"compute.unit_timeout={text}")
    assert "compute.unit_timeout" in line
