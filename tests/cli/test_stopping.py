"""After Ctrl-C every command says in one line what it leaves behind, and ends with 4."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from support.whole_jobs import paint

from pipeline.cli import main


def stop(*values: object, **options: object) -> None:
    raise KeyboardInterrupt("Ctrl-C")


def said(result: Result) -> str:
    """What the command said, without the line end that click puts after the terminal's ``^C``."""
    return result.output.strip()


#: What a command does first -> the command.
READS = {
    "pipeline.runner.try_pair.try_pair": "try a.png b.png",
    "pipeline.monitoring.failures.failures": "failures RUN",
    "pipeline.results.select.choose.choose": "select RUN",
    "pipeline.jobfile.load.load_job": "explain tiny --no-picture",
    "pipeline.jobfile.new.new_job": "new FOLDER --yes",
    "pipeline.jobfile.ready.ready_jobs": "jobs",
    "pipeline.runner.api.preview": "plan tiny",
    "pipeline.monitoring.status.status": "status RUN",
    "pipeline.runner.doctor.examine": "doctor",
    "pipeline.runner.verify.verify_run": "verify RUN",
    "pipeline.runner.again.again": "again RUN 1",
    "pipeline.models.load.load_model": "quality tiny --data FILE",
    "pipeline.bench.speed.report": "bench --quick",
    "pipeline.cli.models.shipped_model_configs": "models",
    "pipeline.cli.models.load_model_config": "models show ddpm",
    "pipeline.banks.verify.verify": "bank verify BANK",
    "pipeline.banks.reader.LatentBank.open": "bank info BANK",
    "pipeline.banks.drop.prune": "bank prune BANK --shards SHARDS --dry-run",
    "pipeline.banks.directions.find_directions": "bank directions BANK --out FILE",
}


@pytest.mark.parametrize(("function", "words"), READS.items(), ids=READS.values())
def test_a_stop_before_anything_is_written_says_so(monkeypatch, tmp_path, function, words):
    monkeypatch.chdir(tmp_path)
    if "prune" in function:
        monkeypatch.setattr("pipeline.cli.bank_change._images_of_shards", lambda shards: set())
    if "find_directions" in function:
        monkeypatch.setattr("pipeline.banks.reader.LatentBank.open", lambda path: None)
    monkeypatch.setattr(function, stop)
    result = CliRunner().invoke(main.main, words.split())
    assert said(result) == "stopped; nothing was written"
    assert result.exit_code == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", ["bank keys BANK", "bank similar BANK KEY", "bank show BANK KEY"])
def test_so_does_one_while_a_bank_is_looked_at(monkeypatch, words):
    monkeypatch.setattr("pipeline.banks.reader.LatentBank.open", stop)
    result = CliRunner().invoke(main.main, words.split())
    assert (said(result), result.exit_code) == ("stopped; nothing was written", 4)


def test_a_stop_at_a_question_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr("pipeline.cli.new._on_a_terminal", lambda: True)
    result = CliRunner().invoke(main.main, ["new", str(tmp_path / "job.yaml")], input="")  # the end of input, as Ctrl-D
    assert result.output.splitlines()[-1] == "stopped; nothing was written"
    assert result.exit_code == 4
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_report_says_that_it_is_not_whole(monkeypatch):
    monkeypatch.setattr("pipeline.results.report.write.write_report", stop)
    result = CliRunner().invoke(main.main, ["report", "RUN"])
    assert said(result) == "stopped; the report is not whole, and the same command writes it again"
    assert result.exit_code == 4


@pytest.mark.parametrize(("at", "left"), [(1, "no state was saved yet"), (4, "--resume goes on from ")])
def test_a_stopped_training_says_what_it_goes_on_from(monkeypatch, tmp_path, at, left):
    from diffstyle.training import Trainer

    batch = Trainer.batch
    monkeypatch.setattr(Trainer, "batch", lambda self, step: stop() if step == at else batch(self, step))
    paint(tmp_path / "pictures" / "a.png", 1, side=8)
    model = {"family": "ddpm", "image_size": 8, "ch": 32, "ch_mult": [1], "num_res_blocks": 1, "attn_resolutions": []}
    config = {"data": str(tmp_path / "pictures"), "model": model, "steps": 9, "save_every": 2, "batch_size": 1}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    result = CliRunner().invoke(main.main, ["train", str(tmp_path / "train.yaml"), "--output", str(tmp_path / "out")])
    state = tmp_path / "out" / "state.pt"
    assert result.output.splitlines()[-1] == f"stopped; {left}{state if at > 2 else ''}"
    assert result.exit_code == 4
    assert state.exists() == (at > 2)


@pytest.mark.parametrize(("when", "left"), [("before", "nothing was written"), ("after", "{out} is written")])
def test_a_stopped_selection_says_whether_its_data_set_is_there(monkeypatch, tmp_path, when, left):
    def written(run, choice, target, *values, **options):
        if when == "after":
            Path(target.path).mkdir()
        raise KeyboardInterrupt("Ctrl-C")

    monkeypatch.setattr("pipeline.results.select.choose.choose", lambda *values, **options: Lines())
    monkeypatch.setattr("pipeline.results.select.dataset.write_dataset", written)
    out = tmp_path / "out"
    result = CliRunner().invoke(main.main, ["select", str(tmp_path / "run"), "--out", str(out)])
    assert said(result) == f"stopped; {left.format(out=out)}"
    assert result.exit_code == 4


class Lines:
    """What was chosen, with nothing to say of it."""

    def lines(self) -> list[str]:
        return []
