"""`diffstyle doctor`: each finding with what to do, and an exit code."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from support.whole_jobs import MODEL

from pipeline.cli.main import main
from pipeline.runner import doctor
from pipeline.runner.doctor import Finding, examine
from pipeline.storage.counts import count
from pipeline.workers import local
from pipeline.workers.local import LocalWorkers


def invoke(*args: object) -> Any:
    return CliRunner().invoke(main, ["doctor", *map(str, args)])


def of(topic: str, findings: list[Finding]) -> list[Finding]:
    return [one for one in findings if one.topic == topic]


def test_everything_is_looked_at_and_jobs_can_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFSTYLE_CACHE", str(tmp_path))
    monkeypatch.setattr(doctor, "gpu_driver_is_there", lambda: False)  # else PyTorch might not fit this machine's
    done = invoke("--json", "--model", MODEL)
    findings = [Finding(**one) for one in json.loads(done.output)]
    assert done.exit_code == 0
    assert list(dict.fromkeys(one.topic for one in findings)) == [
        *("versions", "device", "disk", "ray", "weights", "network")
    ]
    assert "torch 2." in of("versions", findings)[0].text
    assert f"the cache, {tmp_path}: " in " ".join(one.text for one in of("disk", findings))
    assert "shipped:demo/model/demo-64.yaml" in of("weights", findings)[0].text
    threads = count(LocalWorkers().plan("cpu", 1, None)[1].threads, "thread")
    assert of("network", findings)[0].text.endswith(f" ms with {threads}, as a job's worker has")
    assert not any(one.level == "note" and one.topic == "network" for one in findings)
    lines = invoke("--model", MODEL).output.splitlines()
    assert len([line for line in lines if line.split()[0] in ("ok", "note", "wrong")]) == len(findings)


def test_the_network_is_called_with_the_threads_of_a_jobs_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight cores are four workers of two threads each."""
    before, threads = torch.get_num_threads(), []
    load = doctor.load_model

    def watched(*args: Any, **options: Any) -> Any:
        unet = load(*args, **options)
        encode = unet.encode
        unet.encode = lambda *values: (threads.append(torch.get_num_threads()), encode(*values))[1]
        return unet

    monkeypatch.setattr(doctor, "load_model", watched)
    monkeypatch.setattr(local, "cores", lambda: 8)
    monkeypatch.setattr(doctor, "resolve_device", lambda name: "cpu")
    finding = doctor._network_call(str(MODEL))
    assert set(threads) == {2}
    assert finding.text.endswith(" ms with 2 threads, as a job's worker has")
    assert torch.get_num_threads() == before


def test_weights_that_are_not_here_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFSTYLE_CACHE", str(tmp_path))
    done = invoke("--model", "celebahq")
    assert done.exit_code == 2
    assert "wrong  network   weights of celebahq are not here yet; run `diffstyle models fetch celebahq`" in done.output


def test_a_cluster_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    done = invoke("--model", MODEL, "--address", "127.0.0.1:9")
    assert done.exit_code == 2
    assert "wrong  ray       --address 127.0.0.1:9: no Ray cluster there" in done.output
    assert "fix the address, or omit --address" in done.output


def test_ray_says_where_its_token_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    (first, *_) = doctor._ray(None)
    assert "no token" in first.text
    assert "RAY_AUTH_MODE is disabled" in first.text
    monkeypatch.setenv("RAY_AUTH_TOKEN", "hush-hush")
    (first, *_) = doctor._ray(None)
    assert "a token in RAY_AUTH_TOKEN" in first.text
    assert "hush" not in first.text


def test_what_lacks_comes_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(5e8, 4e8, 1e8))
    monkeypatch.setattr(doctor, "gpu_driver_is_there", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(doctor, "_installed", lambda package: None if package in ("lmdb", "pyarrow") else "1.0")
    monkeypatch.setattr(doctor.LocalWorkers, "memory", lambda self: 1e9)
    findings = list(examine(str(MODEL)))
    lacking = [one for one in findings if one.level != "ok" and one.topic != "weights"]
    assert all(one.cure for one in lacking)
    text = "\n".join(map(str, lacking))
    assert "not installed: pyarrow" in text
    assert "pip install 'diffstyle[lmdb]'" in text
    assert "100.0 MB free" in text
    assert "compute.actors: 1" in text
    assert "can't use it" in text or doctor.sys.platform != "linux"
    assert "--shm-size" in text or doctor.sys.platform != "linux"
