"""``--dry-run``: its numbers are those of the run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.whole_jobs import CONTENTS, SIX_PAIRS, STYLES, job_file, paint, run_job

from diffstyle.networks.ddpm import DDPMUNet
from pipeline.cli.main import main
from pipeline.jobfile.load import load_job
from pipeline.models import network_speed
from pipeline.models.network_speed import NetworkSpeed
from pipeline.results.manifest import Manifest
from pipeline.runner.api import preview
from pipeline.runner.estimate import Portion, duration_of
from pipeline.runner.preview import Preview
from pipeline.stages.pairs import PairsError


def planned(folder: Path, *overrides: str, **changes) -> Preview:
    """What a job would do."""
    return preview(load_job(job_file(folder, **changes), overrides))


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("overrides", "changes"),
    [
        (["injection.gamma=[0.2, 0.6]", "injection.omega=0.3"], {"content": {"sample": 2}}),
        (["pictures.to=webdataset", "pictures.format=jpeg", "pairs={random: 1}"], {}),
        (["injection.plan={aligned: {between: 1, tail: 3}}", "inversion.plan=second-order", "bank.keep=all"], {}),
    ],
)
def test_its_numbers_are_those_of_the_run(overrides, changes, tmp_path, monkeypatch):
    said = planned(tmp_path, "compute.batch=1", *overrides, **changes)
    assert not (tmp_path / "out").exists()
    calls, decoded = [], []
    encode, decode = DDPMUNet.encode, DDPMUNet.decode

    def counting(self, x, *rest, **more):
        calls.append(len(x))
        return encode(self, x, *rest, **more)

    def counting_decodes(self, h, *rest, **more):
        decoded.append(len(h))
        return decode(self, h, *rest, **more)

    monkeypatch.setattr(DDPMUNet, "encode", counting)
    monkeypatch.setattr(DDPMUNet, "decode", counting_decodes)
    run = run_job(tmp_path, "compute.batch=1", *overrides, **changes)
    assert (said.work.encodes, said.work.pairs) == (sum(calls), run.counts.pairs_made)
    assert said.work.decodes == sum(decoded)
    out = tmp_path / "out"
    made = sum(size(folder) for folder in (out / "banks").glob("*/data"))
    assert sum(side.bank_bytes for side in said.sides) == pytest.approx(made, rel=0.05)
    # The results of a job are not known beforehand, and those of so few steps are flat or noisy: near enough to see
    # whether a disk will do.
    for kind, estimated in said.to_write.items():
        written = size(out / kind.replace(" ", "-"))
        assert written / 3 <= estimated <= written * 3, kind
    assert said.obstacles == ()


def test_the_lines_a_person_reads(tmp_path):
    lines = preview(load_job(job_file(tmp_path, pairs={"random": 1}))).lines()
    assert lines[0] == "model      tiny: ddpm, 32 px, h 64x8x8"
    assert lines[1] == f"content    2 pictures in {CONTENTS}"
    assert lines[2].startswith("  bank     2 x 5 network calls, h at 3 timesteps; ")
    assert lines[3] == f"style      2 pictures in {STYLES}"
    assert lines[5] == "pairs      2 (1 random style for each content) x 1 setting"
    assert lines[6] == "  gamma 0.6, t_edit 200: 6 steps, 6 network calls, 10 decodes, 4 injections a pair"
    assert lines[-1] == f"output     {tmp_path}/out"


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["injection.dt_lambda=0.9985", "injection.plan=balanced"], True),
        (["injection.dt_lambda=0.9985", "injection.plan=reference"], False),
        (["injection.plan=balanced"], False),
    ],
)
def test_a_dt_lambda_that_a_short_plan_cannot_follow_is_told(tmp_path, overrides, told):
    text = str(preview(load_job(job_file(tmp_path), overrides)))
    assert ("injection.dt_lambda is 0.9985 and injection.plan is shorter" in text) == told


@pytest.mark.parametrize(
    ("events", "plan", "warned"),
    [(10, "fast", True), (16, "fast", False), (7, "balanced", True), (8, "balanced", False), (2, "reference", False)],
)
def test_long_gaps_that_a_short_plan_cannot_follow_are_warned_of(tmp_path, events, plan, warned):
    text = str(preview(load_job(job_file(tmp_path), [f"injection.events={events}", f"injection.plan={plan}"])))
    assert (f"injection.events is {events}, and injection.plan has" in text) == warned


def test_a_list_counts_its_distinct_pairs(tmp_path):
    (tmp_path / "pairs.csv").write_text("content,style,note\na,b,1\na,b,2\na,c,3\n")
    assert planned(tmp_path, pairs={"list": "pairs.csv"}).work.pairs == 2
    (tmp_path / "pairs.csv").write_text("a,b\n1,2\n")
    with pytest.raises(PairsError, match="has no column 'content'"):
        planned(tmp_path, pairs={"list": "pairs.csv"})


@pytest.mark.parametrize(("k", "n"), [(1, 2), (2, 4), (3, 4), (100, 4)])
def test_no_more_random_styles_than_there_are(tmp_path, k, n):
    """Two contents and two styles."""
    assert planned(tmp_path, pairs={"random": k}).work.pairs == n


def test_zip_with_unequal_sides_is_told_beforehand(tmp_path):
    with pytest.raises(PairsError, match="there are 2 contents and 3 styles"):
        planned(tmp_path, pairs="zip", style={"folder": str(STYLES), "limit": 3})


def test_sources_that_are_no_pictures(tmp_path):
    paint(tmp_path / "photos" / "a.png", 1)
    (tmp_path / "photos" / "b.png").write_bytes(b"no picture")
    assert planned(tmp_path, content="./photos").work.pairs == 4


def test_banks_and_samples_have_no_pictures_to_judge_by(tmp_path):
    text = str(planned(tmp_path, content={"sample": 3}, style={"sample": 2}))
    assert "content    3 samples of the model" in text
    assert "pictures 8.9 kB, " in text
    assert "results as png (sizes as photographs usually take)" in text


# ---- what is done already ----


def test_what_is_done_is_not_counted_again(tmp_path):
    """A finished job has nothing to do; new contents and another gamma are counted alone."""
    for n in range(3):
        paint(tmp_path / "c" / f"c{n}.png", n)
    job = SIX_PAIRS | {"content": str(tmp_path / "c")}
    fresh = planned(tmp_path, **job)
    assert (fresh.work.pictures, fresh.work.inversions, fresh.work.pairs) == (5, 5, 6)
    run_job(tmp_path, **job)
    done = planned(tmp_path, **job)
    assert not done.work
    assert done.pictures == 6
    assert done.settings[0].pairs.done == 6
    assert "now        nothing to do: all is done" in str(done)
    paint(tmp_path / "c" / "c3.png", 3)
    grown = planned(tmp_path, "injection.gamma=[0.6, 0.2]", **job)
    assert (grown.work.pictures, grown.work.inversions, grown.work.pairs) == (1, 1, 2 + 8)
    assert [one.pairs.done for one in grown.settings] == [6, 0]
    assert "; 6 of 8 pairs made already" in str(grown)
    result = run_job(tmp_path, "injection.gamma=[0.6, 0.2]", **job)
    counts = result.counts
    assert (counts.prepared, counts.inverted, counts.pairs_made) == (1, 1, 10)


def test_after_a_stop_it_counts_what_is_left(tmp_path, monkeypatch):
    commit = Manifest.commit

    class Stop(Exception):
        pass

    def stops(self, part, rows):
        commit(self, part, rows)
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "commit", stops)
        with pytest.raises(Stop):
            run_job(tmp_path, **SIX_PAIRS)
    left = planned(tmp_path, **SIX_PAIRS)
    assert (left.work.pictures, left.work.inversions, left.work.pairs) == (0, 0, 4)
    assert left.work.encodes == 4 * left.settings[0].network_calls
    assert run_job(tmp_path, **SIX_PAIRS).counts.pairs_made == 4


def test_rejected_and_failed_pictures_are_left_out_until_they_are_tried_again(tmp_path):
    for n in range(2):
        paint(tmp_path / "c" / f"c{n}.png", n)
    (tmp_path / "c" / "broken.png").write_bytes(b"no picture")
    job = SIX_PAIRS | {"content": str(tmp_path / "c")}
    run_job(tmp_path, **job)
    loaded = load_job(job_file(tmp_path, **job))
    assert not preview(loaded).work
    assert "1 rejected" in str(preview(loaded))
    again = preview(loaded, retry_failed=True).work
    assert (again.pictures, again.inversions, again.pairs) == (1, 1, 2)


# ---- why it can't run here ----


def planned_by_command(folder: Path, *words: str, **changes) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["plan", str(job_file(folder, **changes)), *words])
    return result.exit_code, result.output


def test_a_job_that_can_run_says_so_by_its_exit_code(tmp_path):
    assert planned_by_command(tmp_path)[0] == 0


def test_weights_that_are_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFSTYLE_CACHE", str(tmp_path / "cache"))
    code, text = planned_by_command(tmp_path, model="celebahq")
    assert code == 2
    assert "can't run  weights of celebahq are not here yet; run `diffstyle models fetch celebahq`" in text
    assert planned_by_command(tmp_path, model="celebahq", weights="random")[0] == 0


def test_a_device_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, text = planned_by_command(tmp_path, "--set", "compute.device=cuda")
    assert code == 2
    assert "can't run  compute.device is cuda, but PyTorch sees no CUDA device on this machine" in text
    job = load_job(job_file(tmp_path), ["compute.device=cuda"])
    assert preview(job, elsewhere=True).obstacles == ()


def test_an_output_that_can_not_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    code, text = planned_by_command(tmp_path, output="file/out")
    assert code == 2
    assert f"can't run  output: {tmp_path}/file is a file, where a folder should be" in text


def test_a_disk_that_is_too_small(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    code, text = planned_by_command(tmp_path)
    assert code == 2
    assert re.search(r"the disk of .* has 1.0 kB free, and about [\d.]+ [km]B would be written", text, re.IGNORECASE)


def test_each_line_of_a_sweep_says_what_tells_it_from_the_others(tmp_path):
    lower = {"rectangle": [0.5, 0, 1, 1]}
    swept = {"gamma": 0.6, "events": 4, "omega": [0, 0.5], "mask": [None, lower], "t_boost": 500, "plan": {"grid": 4}}
    lines = list(map(str, planned(tmp_path, injection=swept, seed=[1, 2]).settings))
    told = {line.partition(":")[0] for line in lines}
    assert len(told) == len(lines) == 8
    assert "gamma 0.6, t_edit 200, omega 0.5, mask rectangle 0.5, 0, 1, 1, seed 2" in told


def test_banks_that_do_not_serve_the_job_are_no_obstacle(tmp_path):
    run_job(tmp_path, stages=("shard", "precompute"))
    assert planned_by_command(tmp_path)[0] == 0
    code, text = planned_by_command(tmp_path, "--set", "inversion.steps=5")
    assert code == 0
    assert "banks/content was inverted in 6 steps (this job's inversion.steps is 5)" in text


@pytest.mark.parametrize("given", [("content", "style"), ("content",), ("style",)])
def test_a_new_output_for_banks_that_are_there(tmp_path, given):
    """Also where there is no result yet, the model is that of the banks, and not an unknown one."""
    run_job(tmp_path / "banks", stages=("shard", "precompute"))
    banks = {side: {"bank": str(tmp_path / "banks" / "out" / "banks" / side)} for side in given}
    code, text = planned_by_command(tmp_path, **banks)
    assert code == 0, text
    assert "can't run" not in text
    assert run_job(tmp_path, **banks).exit_code == 0


def test_a_new_output_for_banks_of_another_model(tmp_path):
    run_job(tmp_path / "banks", stages=("shard", "precompute"))
    style = {"bank": str(tmp_path / "banks" / "out" / "banks" / "style")}
    code, text = planned_by_command(tmp_path, style=style, weights="random")
    assert code == 2
    assert "was made with another model" in text
    assert "has 00000000" not in text


def test_banks_where_the_weights_are_not_here(tmp_path):
    """What can't be known is not compared."""
    run_job(tmp_path / "banks", stages=("shard", "precompute"))
    style = {"bank": str(tmp_path / "banks" / "out" / "banks" / "style")}
    code, text = planned_by_command(tmp_path, style=style, weights=str(tmp_path / "gone.safetensors"))
    assert code == 2
    assert "gone.safetensors" in text
    assert "another model" not in text


# ---- time ----


def test_time_is_calls_times_speed_over_the_workers():
    speed = NetworkSpeed(encode=2.0, decode=1.0)
    stages = [[Portion(6, 10, 10)], [Portion(4, 10, 10)], [Portion(8, 50, 90), Portion(8, 20, 20)]]
    one = duration_of(stages, speed, batch=1, workers=1, starting=(0.0, 0.0, 0.0))
    assert one.expected == 10 * 30 + 8 * (100 + 90) + 8 * 60
    assert one.low < one.expected < one.high
    two = duration_of(stages, speed, batch=1, workers=2, starting=(0.0, 0.0, 0.0))
    assert two.expected == one.expected / 2
    # A batch that is not full takes as long as one that is: 6 and 4 pictures in batches of 4 are three batches.
    by_four = duration_of(stages, speed, batch=4, workers=1, starting=(0.0, 0.0, 0.0))
    assert by_four.expected == 3 * 4 * 30 + 8 * 190 + 8 * 60
    # Three batches on two workers: one of them waits for the last.
    assert duration_of([[Portion(3, 1, 0)]], speed, 1, 2, starting=(0.0, 0.0, 0.0)).expected == 4.0
    assert duration_of(stages, speed, 1, 1, preparing=5.0, starting=(1.0, 2.0, 3.0)).expected == one.expected + 7
    assert duration_of([], speed, 1, 1).expected == 0


def test_the_speed_is_measured_once_and_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFSTYLE_CACHE", str(tmp_path / "cache"))
    job = load_job(job_file(tmp_path))
    assert preview(job).seconds is None
    assert "time       not known on cpu in float32; --measure finds out" in str(preview(job))
    measured = preview(job, measure=True)
    assert measured.seconds is not None
    assert measured.seconds.low < measured.seconds.expected < measured.seconds.high
    monkeypatch.setattr(network_speed, "_in_processes", lambda *_: pytest.fail("measured again"))
    assert preview(job).seconds is not None
    assert preview(job).speed == measured.speed
    assert "on cpu in float32, 1 worker of 1 thread, 2 pictures at once: measured 20" in str(preview(job))
    assert preview(load_job(job_file(tmp_path), ["compute.batch=3"])).seconds is None  # not for another batch


def test_measure_goes_with_dry_run(tmp_path):
    result = CliRunner().invoke(main, ["run", str(job_file(tmp_path)), "--measure"])
    assert result.exit_code == 2
    assert "--measure goes with --dry-run" in result.output
