"""Fetching weights from a local server that resumes, refuses, cuts, changes and lies."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from click.testing import CliRunner
from support.fetch_server import Handler

from diffstyle.errors import CheckpointError, ConfigError, DiffStyleError
from pipeline.cli.main import main
from pipeline.models import download, records
from pipeline.models.config import ModelConfig, WeightsChoice, load_model_config
from pipeline.models.download import FetchError, fetch_model
from pipeline.models.weights import cache_place
from pipeline.models.weights_here import weights_here

BODY = bytes(range(256)) * 12_000  # 3 MB: several reads


@pytest.fixture
def about():
    return SimpleNamespace(
        files={"/w.pt": BODY},
        requests=[],
        cuts=[],
        ranges=True,
        etag=True,
        length=True,
        status=None,
        chunked=False,
        token=None,
        refusal="GatedRepo",
        tokens=[],
        type="application/octet-stream",
    )


@pytest.fixture
def address(about, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.about = about
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _quick_and_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFSTYLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "_PAUSE", 0.0)


@pytest.fixture
def model(address):
    def model(**weights) -> ModelConfig:
        config = load_model_config("celebahq")
        given = {"url": f"{address}/w.pt", "file": "w.pt", "page": None, **weights}
        return config.model_copy(update={"weights": config.weights.model_copy(update=given)})

    return model


def refused(config) -> str:
    with pytest.raises(DiffStyleError) as caught:
        fetch_model(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def ranges(about) -> list[str | None]:
    return [range for _, range in about.requests]


def part_of(config):
    return cache_place(config).with_name("w.pt.part")


def later(file: Path) -> None:
    """Let a file be written a second later: the clock of files may stand still for some milliseconds."""
    written = file.stat().st_mtime_ns
    os.utime(file, ns=(written, written + 10**9))


def leave_part(config, about, size: int) -> None:
    """What an earlier, cut run leaves: it gave up because the server then went away."""
    about.cuts, about.status = [size], [200, 404]
    refused(config)
    about.cuts, about.status = [], None
    about.requests.clear()
    assert part_of(config).stat().st_size == size


def test_fetch_and_fetch_again(model, about):
    config, seen = model(), []
    place = fetch_model(config, lambda name, done, total: seen.append((name, done, total)))
    assert place == cache_place(config)
    assert place.read_bytes() == BODY
    assert seen[-1] == ("w.pt", len(BODY), len(BODY))
    record = json.loads(place.with_name("w.pt.fetched.json").read_text())
    assert record["sha256"] == hashlib.sha256(BODY).hexdigest()
    assert record["url"] == config.weights.url
    assert sorted(p.name for p in place.parent.iterdir()) == [".w.pt.lock", "w.pt", "w.pt.fetched.json"]
    assert fetch_model(config) == place
    assert len(about.requests) == 1


def test_a_cut_connection_is_resumed_at_once(model, about):
    about.cuts = [1_000_000, 500_000]
    assert fetch_model(model()).read_bytes() == BODY
    assert ranges(about) == [None, "bytes=1000000-", "bytes=1500000-"]


def test_the_next_run_goes_on_from_the_part(model, about):
    config = model()
    leave_part(config, about, 1_234_567)
    assert fetch_model(config).read_bytes() == BODY
    assert ranges(about) == ["bytes=1234567-"]


def test_without_range_support_it_starts_anew(model, about):
    config = model()
    leave_part(config, about, 1_000_000)
    about.ranges = False
    assert fetch_model(config).read_bytes() == BODY
    assert ranges(about) == ["bytes=1000000-"]


def test_without_a_mark_of_the_version_it_starts_anew(model, about):
    config = model()
    about.etag = False
    leave_part(config, about, 1_000_000)
    assert fetch_model(config).read_bytes() == BODY
    assert ranges(about) == [None]


def test_a_file_that_changed_meanwhile_is_not_joined_to_the_old_part(model, about):
    config = model()
    leave_part(config, about, 1_000_000)
    about.files["/w.pt"] = BODY[::-1]
    assert fetch_model(config).read_bytes() == BODY[::-1]


def test_a_part_that_is_already_whole(model, about):
    config = model()
    leave_part(config, about, 1_000_000)
    part_of(config).write_bytes(BODY)
    assert fetch_model(config).read_bytes() == BODY
    assert ranges(about) == [f"bytes={len(BODY)}-"]


def test_a_part_that_is_too_long_is_thrown_away(model, about):
    config = model()
    leave_part(config, about, 1_000_000)
    part_of(config).write_bytes(BODY + b"x")
    assert fetch_model(config).read_bytes() == BODY


def test_a_server_that_always_cuts(model, about):
    about.cuts, about.ranges = [1000] * 100, False
    message = refused(model())
    assert "the connection was cut after 1,000 of 3,072,000 bytes; 1,000 bytes are kept" in message
    assert len(about.requests) < 10


def test_exit_codes_say_whether_to_run_it_again(model, about):
    about.cuts, about.ranges = [1000] * 100, False
    with pytest.raises(FetchError) as caught:
        fetch_model(model())
    assert caught.value.exit_code == 4
    about.status = 404
    with pytest.raises(FetchError) as caught:
        fetch_model(model())
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("length", [False, "-5", "0x10", "many"])
def test_without_a_length_a_file_is_refused_unless_something_else_tells_that_it_is_whole(model, about, length):
    about.length = length
    message = refused(model())
    assert "so that a cut could not be told from the end of the file" in message
    assert "add weights.size or weights.sha256" in message
    assert not cache_place(model()).exists()
    seen = []
    sized = model(size=len(BODY))
    assert fetch_model(sized, lambda *a: seen.append(a)).read_bytes() == BODY
    assert seen[-1] == ("w.pt", len(BODY), len(BODY))
    cache_place(sized).unlink()
    assert fetch_model(model(sha256=hashlib.sha256(BODY).hexdigest())).read_bytes() == BODY


def test_a_cut_without_a_length_is_noticed_by_the_size_in_the_config(model, about):
    about.length, about.ranges, about.cuts = False, False, [1000] * 100
    message = refused(model(size=len(BODY)))
    assert "cut after 1,000 of 3,072,000 bytes" in message
    assert not cache_place(model()).exists()


def test_chunks_have_an_end_of_their_own(model, about, monkeypatch):
    monkeypatch.setattr(Handler, "protocol_version", "HTTP/1.1")
    about.length, about.chunked = False, True
    assert fetch_model(model()).read_bytes() == BODY
    cache_place(model()).unlink()
    about.cuts, about.ranges, about.etag = [1000] * 100, False, False
    assert "the connection was cut" in refused(model())


def test_a_file_of_another_size_than_the_configs_is_refused(model):
    assert "the server's file has 3,072,000 bytes, not 7 as its config says" in refused(model(size=7))


def test_failures_are_forgotten_after_progress(model, about):
    about.status = [503, 503, 200, 503, 503, 200, 503, 503, 200]
    about.cuts = [1_000_000, 1_000_000]
    assert fetch_model(model()).read_bytes() == BODY
    assert ranges(about)[-1] == "bytes=2000000-"


def test_any_number_of_cuts_that_bring_something(model, about):
    about.cuts = [300_000] * 10
    assert fetch_model(model()).read_bytes() == BODY
    assert len(about.requests) == 11


def test_a_weak_mark_names_no_bytes_to_go_on_from(model, about):
    config = model()
    about.etag = "weak"
    leave_part(config, about, 1_000_000)
    assert fetch_model(config).read_bytes() == BODY
    assert ranges(about) == [None]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (404, "no such file there (HTTP 404)"),
        (403, "the server refuses (HTTP 403 Forbidden)"),
        (503, "the server refuses (HTTP 503 Service Unavailable)"),
    ],
)
def test_refusals_are_one_line(model, about, status, expected):
    about.status = status
    assert expected in refused(model())
    assert not cache_place(model()).exists()


def test_a_busy_server_is_asked_again(model, about):
    about.status = [503, 503, 200]
    assert fetch_model(model()).read_bytes() == BODY


def test_a_web_page_is_not_taken_for_weights(model, about):
    config = model()
    leave_part(config, about, 1_000_000)
    about.files["/w.pt"] = b"\n<!DOCTYPE html><p>Sign in"
    message = refused(config)
    assert "gives a web page, not a file; 1,000,000 bytes are kept" in message
    about.files["/w.pt"], about.type = b"hello", "text/html; charset=utf-8"
    assert "gives a web page" in refused(config)
    about.files["/w.pt"], about.type = BODY, "application/octet-stream"
    assert fetch_model(config).read_bytes() == BODY


def test_nobody_there(model, monkeypatch):
    assert "cannot be reached (Connection refused)" in refused(model(url="http://127.0.0.1:9/w.pt"))


def test_a_wrong_hash_is_refused_and_thrown_away(model, about):
    config = model(sha256="0" * 64)
    message = refused(config)
    assert f"has sha256 {hashlib.sha256(BODY).hexdigest()}, not {'0' * 64} as its config or the job says" in message
    assert not part_of(config).exists()
    assert not cache_place(config).exists()
    right = model(sha256=hashlib.sha256(BODY).hexdigest())
    assert fetch_model(right).read_bytes() == BODY


def test_the_hash_seen_first_counts_from_then_on(model, about):
    config = model()
    place = fetch_model(config)
    place.unlink()
    about.files["/w.pt"] = BODY[::-1]
    message = refused(config)
    assert "as it had when it was first fetched" in message
    assert "w.pt.fetched.json and fetch again" in message
    place.with_name("w.pt.fetched.json").unlink()
    assert fetch_model(config).read_bytes() == BODY[::-1]


def test_a_damaged_cached_file_is_noticed(model):
    config = model()
    place = fetch_model(config)
    download.check_cached(config)
    place.write_bytes(BODY[:-1] + b"!")
    later(place)
    with pytest.raises(CheckpointError, match="delete the file and fetch it again"):
        download.check_cached(config)
    assert "delete the file and fetch it again" in refused(config)


def test_a_cached_file_is_hashed_only_when_it_changed(model, monkeypatch):
    config = model()
    place = fetch_model(config)
    calls = []
    monkeypatch.setattr(records, "file_hash", lambda file: calls.append(file) or hashlib.sha256(BODY).hexdigest())
    download.check_cached(config)
    assert calls == []
    later(place)
    download.check_cached(config)
    download.check_cached(config)
    assert calls == [place]


def test_a_full_disk_known_beforehand(model, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(FetchError, match="is full, 3,072,000 more bytes are needed") as caught:
        fetch_model(model())
    assert caught.value.exit_code == 4


def test_a_disk_that_fills_up_keeps_the_part(model, about, monkeypatch):
    config, room = model(), [2]

    def append(stream, block):
        if room[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= 1
        stream.write(block)

    with monkeypatch.context() as patch:
        patch.setattr(download, "_append", append)
        message = refused(config)
    assert "the disk of" in message
    assert "bytes are kept, the same command goes on from there" in message
    about.requests.clear()
    assert fetch_model(config).read_bytes() == BODY
    assert ranges(about) == [f"bytes={2 << 20}-"]


def test_two_at_once_are_refused(model):
    config = model()
    cache_place(config).parent.mkdir(parents=True)
    with download._locked(cache_place(config)):
        assert "another process is fetching it" in refused(config)
    fetch_model(config)


def test_a_page_only_model_says_what_to_do_by_hand():
    with pytest.raises(
        ConfigError, match=r"download afhq_dog_4m.pt by hand from https://github.com/jychoi118/ilvr_adm"
    ):
        fetch_model(load_model_config("afhq-dog"))


def test_a_refusal_points_at_the_page(model, about):
    about.status = 403
    assert "; https://example.org/page may say more, the file belongs at" in refused(
        model(page="https://example.org/page")
    )


def test_the_command_with_a_model_of_ones_own(address, about, tmp_path):
    config = load_model_config("celebahq").model_dump()
    config["weights"] = {"file": "w.pt", "url": f"{address}/w.pt"}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(config))
    about.cuts, about.status = [1000, 0, 0, 0], None
    cut = CliRunner().invoke(main, ["models", "fetch", str(path)])
    assert cut.exit_code == 4
    assert "error: " in cut.output
    assert "1,000 bytes are kept, the same command goes on from there" in cut.output
    about.cuts = []
    done = CliRunner().invoke(main, ["models", "fetch", str(path)])
    assert (done.exit_code, done.output) == (0, f"celebahq: {tmp_path}/cache/models/celebahq/w.pt\n")
    assert ranges(about)[-1] == "bytes=1000-"
    about.status = 404
    (tmp_path / "cache/models/celebahq/w.pt").unlink()
    assert CliRunner().invoke(main, ["models", "fetch", str(path)]).exit_code == 2


# ---- hub repositories ----

REPOSITORY = "/google/ddpm-church-256/resolve/main"


@pytest.fixture
def hub(address, about, monkeypatch, tmp_path):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_ENDPOINT", address + "/")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    about.files = {f"{REPOSITORY}/config.json": b"{}", f"{REPOSITORY}/diffusion_pytorch_model.bin": BODY}
    return load_model_config("ddpm-church-256")


def test_a_hub_repository_without_safetensors(hub, about):
    place = fetch_model(hub)
    assert place == cache_place(hub)
    assert (place / "diffusion_pytorch_model.bin").read_bytes() == BODY
    assert (place / "config.json").read_bytes() == b"{}"
    about.requests.clear()
    about.tokens.clear()
    assert fetch_model(hub) == place
    assert about.requests == about.tokens == []


def test_a_hub_repository_that_a_job_names_is_fetched_by_the_run(hub, about):
    config = load_model_config("celebahq")  # which has no address of its own
    address = f"hf://{hub.weights.hub}"
    place = weights_here(config, address)
    assert (place / "diffusion_pytorch_model.bin").read_bytes() == BODY
    about.requests.clear()
    about.tokens.clear()
    assert weights_here(config, address) == place
    assert about.requests == about.tokens == []
    other = hashlib.sha256(b"another").hexdigest()
    with pytest.raises(FetchError, match=f"not {other} as its config or the job says"):
        weights_here(config, WeightsChoice(path=address, sha256=other))
    assert place.is_dir()


def test_a_hub_repository_with_safetensors(hub, about):
    about.files[f"{REPOSITORY}/diffusion_pytorch_model.safetensors"] = BODY[::-1]
    place = fetch_model(hub)
    assert (place / "diffusion_pytorch_model.safetensors").read_bytes() == BODY[::-1]
    assert not (place / "diffusion_pytorch_model.bin").exists()


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_a_hub_repository_in_shards(hub, about, variant):
    names = ["diffusion_pytorch_model-00001-of-00002.safetensors", "diffusion_pytorch_model-00002-of-00002.safetensors"]
    index = json.dumps({"weight_map": {"a": names[0], "b": names[1]}}).encode()
    about.files = {f"{REPOSITORY}/{name}": name.encode() for name in names}
    about.files |= {
        f"{REPOSITORY}/config.json": b"{}",
        f"{REPOSITORY}/diffusion_pytorch_model.safetensors.index{variant}.json": index,
    }
    place = fetch_model(hub)
    assert [(place / name).read_text() for name in names] == names
    (place / names[1]).unlink()
    fetch_model(hub)
    assert (place / names[1]).read_text() == names[1]
    download.check_cached(hub)
    (place / names[1]).write_text("another")
    with pytest.raises(CheckpointError, match="delete the file and fetch it again"):
        download.check_cached(hub)


def test_a_hub_repository_without_weights(hub, about):
    config = about.files.pop(f"{REPOSITORY}/config.json")
    assert "has no file config.json" in refused(hub)
    about.files = {f"{REPOSITORY}/config.json": config}
    assert "has neither diffusion_pytorch_model.safetensors nor diffusion_pytorch_model.bin" in refused(hub)


def test_a_gated_hub_repository_needs_a_token(hub, about, monkeypatch):
    about.token = "hf_secret"
    message = refused(hub)
    assert (
        "ddpm-church-256: is gated; accept its terms on that page, then set HF_TOKEN or run `hf auth login`" in message
    )
    about.refusal = "RepoNotFound"
    assert "no such repository, or a private one" in refused(hub)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert (fetch_model(hub) / "diffusion_pytorch_model.bin").read_bytes() == BODY
    assert set(about.tokens) == {None, "Bearer hf_secret"}


def test_a_hub_that_cannot_be_reached_is_worth_another_try(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client tries again by itself
    with pytest.raises(FetchError, match="cannot be reached") as caught:
        fetch_model(hub)
    assert caught.value.exit_code == 4


def test_a_hub_file_with_another_hash_than_the_configs(hub):
    config = hub.model_copy(update={"weights": hub.weights.model_copy(update={"sha256": "0" * 64})})
    assert f"not {'0' * 64} as its config or the job says" in refused(config)


def test_without_the_hubs_client_the_extra_is_named(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'diffstyle[hub]'" in refused(hub)
