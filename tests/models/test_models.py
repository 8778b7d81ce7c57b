"""The shipped model configs, finding weights, and loading a model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from support.places import DATA

from diffstyle.checkpoint import save_unet
from diffstyle.errors import CheckpointError, ConfigError
from diffstyle.networks.build import build_unet
from pipeline.models.config import all_model_configs, load_model_config, shipped_model_configs
from pipeline.models.load import load_model, random_unet
from pipeline.models.weights import cache_place, missing_weights, weights_place
from pipeline.storage import shipped
from pipeline.storage.cache import cache_folder

SEED_TABLE = ("celebahq", "ffhq", "lsun-church", "lsun-bedroom", "afhq-dog", "metfaces", "imagenet")
HUB = ("ddpm-celebahq-256", "ddpm-church-256", "ddpm-bedroom-256")
TINY = {
    "name": "tiny",
    "architecture": {
        "family": "ddpm",
        "image_size": 16,
        "ch": 64,
        "ch_mult": [1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [8],
    },
    "weights": {"path": "tiny.safetensors"},
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFSTYLE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


def changed(config, **weights):
    return config.model_copy(update={"weights": config.weights.model_copy(update=weights)})


def test_every_model_of_the_seed_and_the_three_repositories_is_there():
    configs = all_model_configs()
    assert set(SEED_TABLE + HUB) <= set(configs)
    for name, config in configs.items():
        assert config.name == name
        assert config.title
        assert config.repository


@pytest.mark.parametrize("name", SEED_TABLE + HUB)
def test_architectures(name):
    config = load_model_config(name)
    assert config.size == 256
    assert config.unet_architecture.h_shape == ((1024 if name == "imagenet" else 512), 8, 8)
    adm = name in ("ffhq", "metfaces", "afhq-dog", "imagenet")
    assert config.family == ("adm" if adm else "ddpm")
    parameters = sum(p.numel() for p in build_unet(config.unet_architecture, "meta").parameters())
    # As published: the DDPM port and its diffusers twin, P2's "93M" ADM, guided diffusion's large one.
    assert round(parameters / 1e6) == (553 if name == "imagenet" else 94 if adm else 114)


def test_church_and_bedroom_are_not_swapped():
    configs = all_model_configs()
    for place in ("church", "bedroom"):
        for name in (f"lsun-{place}", f"ddpm-{place}-256"):
            weights = configs[name].weights
            assert place in (weights.url or weights.hub)
            assert place in configs[name].dataset


def test_weights_have_an_address_or_a_page():
    for config in all_model_configs().values():
        weights = config.weights
        assert weights.url or weights.hub or (weights.page and weights.note), config.name
        if weights.url:
            assert weights.url.endswith(f"/{weights.file}")
            assert weights.url.startswith("https://")


def test_a_model_by_name_or_path(tiny, tmp_path):
    config = load_model_config(tiny)
    assert config == load_model_config(str(tiny))
    assert config.weights.path == str(tmp_path / "tiny.safetensors")
    with pytest.raises(ConfigError, match="did you mean 'metfaces'"):
        load_model_config("metface")
    with pytest.raises(ConfigError, match="no such file"):
        load_model_config(tmp_path / "none.yaml")


def test_the_demos_models_have_names_too():
    """Messages call them so, and a job may."""
    shipped = shipped_model_configs()
    assert {config.name for config in shipped.values()} == {"demo-64", "tiny"}
    for address, config in shipped.items():
        assert load_model_config(config.name) == load_model_config(address) == config
        assert config.name not in all_model_configs()  # one name, one model
    with pytest.raises(ConfigError, match="unknown model 'demo64'; did you mean 'demo-64'"):
        load_model_config("demo64")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"weight": {}}, "weight: unknown field 'weight'; did you mean 'weights'?"),
        ({"weights": {}}, "weights: give one of url, hub, page, path"),
        ({"weights": {"url": "https://x/y.pt"}}, "weights: give file"),
        ({"weights": {"url": "ftp://x/y.pt", "file": "y.pt"}}, "weights.url: "),
        ({"weights": {"url": "https://x/y.pt", "file": "../y.pt"}}, "must be a plain file name"),
        ({"weights": {"url": "ftp://x/y.pt", "file": "y.pt"}}, "weights.url: must be an address with https://, s3://"),
        ({"weights": {"hub": "gpt2"}}, "weights.hub: must be a repository, OWNER/NAME, not 'gpt2'"),
        ({"name": "my model"}, "name: must be letters (a-z), digits, dots, hyphens and underscores, not 'my model'"),
        ({"weights": {"path": "x", "sha256": "abc"}}, "weights.sha256: "),
        ({"architecture": {"family": "ddpm"}}, "architecture: lacks the field 'image_size'"),
    ],
)
def test_a_mistake_in_a_config_is_named_with_its_line(tmp_path, change, expected):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(TINY | change))
    with pytest.raises(ConfigError) as caught:
        load_model_config(path)
    assert str(caught.value).startswith(f"{path}:")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mistake_in_an_architecture_names_model_and_field(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(TINY | {"architecture": TINY["architecture"] | {"chh": 3}}))
    with pytest.raises(ConfigError, match="model tiny: unknown ddpm architecture field 'chh'"):
        _ = load_model_config(path).unet_architecture


def test_a_checkpoint_that_says_its_architecture_is_a_model(tmp_path, monkeypatch):
    own = load_model_config(DATA / "tiny-ddpm.safetensors")
    described = load_model_config(DATA / "tiny-model.yaml")
    assert (own.name, own.unet_architecture) == ("tiny-ddpm", described.unet_architecture)
    assert load_model(own).fingerprint == load_model(described).fingerprint
    shutil.copy(DATA / "tiny-ddpm.safetensors", tmp_path / "_my model.safetensors")
    monkeypatch.chdir(tmp_path)
    bare = load_model_config("_my model.safetensors")  # a path, though without a folder
    assert (bare.name, bare.weights.path) == ("my-model", str(tmp_path / "_my model.safetensors"))


@pytest.mark.parametrize(
    ("name", "metadata", "expected"),
    [
        ("a.safetensors", {}, "does not say its architecture; write a YAML file with architecture and weights.path"),
        ("a.pt", {}, "does not say its architecture; write a YAML file with architecture and weights.path"),
        ("a.safetensors", {"diffstyle.architecture": "{"}, "its metadata 'diffstyle.architecture' is not readable"),
        ("a.safetensors", {"diffstyle.architecture": "[]"}, "is not readable (no mapping of fields)"),
        ("a.safetensors", {"diffstyle.architecture": "{}"}, "architecture: lacks the field 'family'"),
        ("a.safetensors", None, "is not a whole .safetensors file"),
        ("missing.safetensors", None, "does not exist"),
        ("missing.ckpt", None, "does not exist"),
    ],
)
def test_a_checkpoint_that_is_no_model_is_one_line(tmp_path, name, metadata, expected):
    file = tmp_path / name
    if metadata is not None:
        save_file({"a": torch.zeros(1)}, file, metadata=metadata)
    elif not name.startswith("missing"):
        file.write_bytes((DATA / "tiny-ddpm.safetensors").read_bytes()[:300])
    with pytest.raises(ConfigError) as caught:
        load_model_config(file)
    assert expected in str(caught.value)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_random_weights_depend_on_the_seed_alone(tiny):
    config = load_model_config(tiny)
    torch.manual_seed(1)
    first = load_model(config, "random:5")
    torch.manual_seed(2)
    again = load_model(config, "random:5")
    assert first.fingerprint == again.fingerprint != ""
    assert first.fingerprint != load_model(config, "random").fingerprint
    assert load_model(config, "random").fingerprint == load_model(config, "random:0").fingerprint
    assert not first.training
    assert not any(p.requires_grad for p in first.parameters())
    half = load_model(config, "random:5", dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert half.fingerprint == first.fingerprint


@pytest.mark.parametrize("name", ["tiny", "adm"])
def test_random_weights_give_a_usable_network(tiny, name):
    architecture = dict(TINY["architecture"])
    if name == "adm":
        architecture = {
            "family": "adm",
            "image_size": 32,
            "num_channels": 32,
            "channel_mult": [1, 2, 2],
            "num_res_blocks": 1,
            "attention_resolutions": [8],
            "num_head_channels": 32,
            "learn_sigma": True,
        }
    config = load_model_config(tiny).model_copy(update={"architecture": architecture})
    unet = random_unet(config.unet_architecture)
    x = torch.randn(2, 3, config.size, config.size, generator=torch.Generator().manual_seed(0))
    encoded = unet.encode(x, torch.tensor([10, 900]))
    noise = unet.decode(*encoded)
    assert 0.01 < float(noise.std()) < 3
    # Both halves matter: another h gives another estimate, another timestep another h.
    assert not torch.allclose(noise, unet.decode(encoded.h.flip(0), encoded.skips, encoded.emb), atol=1e-3)
    assert not torch.allclose(encoded.h, unet.encode(x, torch.tensor([900, 10])).h, atol=1e-3)


def test_missing_weights_say_how_to_get_them(cache, tiny, tmp_path):
    assert cache_folder() == cache
    celebahq = load_model_config("celebahq")
    with pytest.raises(CheckpointError, match="run `diffstyle models fetch celebahq`"):
        load_model(celebahq)
    dog = load_model_config("afhq-dog")
    message = missing_weights(dog)
    for piece in ("afhq_dog_4m.pt", "https://github.com/jychoi118/ilvr_adm", str(cache), "`weights:` in the job"):
        assert piece in message
    with pytest.raises(CheckpointError, match="neither a checkpoint file nor a diffusers folder"):
        load_model(dog, tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match=r"tiny.safetensors does not exist; fix weights.path"):
        load_model(load_model_config(tiny))


def test_weights_are_found_by_override_path_and_cache(cache, tiny, tmp_path):
    config = load_model_config(tiny)
    unet = random_unet(config.unet_architecture, 3)
    save_unet(unet, tmp_path / "tiny.safetensors")
    assert load_model(config).fingerprint == unet.fingerprint
    other = random_unet(config.unet_architecture, 4)
    save_unet(other, tmp_path / "other.safetensors")
    assert load_model(config, str(tmp_path / "other.safetensors")).fingerprint == other.fingerprint
    cached = changed(config, path=None, url="https://example.invalid/a.safetensors", file="a.safetensors")
    assert weights_place(cached) is None
    save_unet(other, cache_place(cached))
    assert weights_place(cached) == cache / "models" / "tiny" / "a.safetensors"
    assert load_model(cached).fingerprint == other.fingerprint


def test_a_cached_file_that_changed_is_refused(tiny):
    config = changed(load_model_config(tiny), path=None, url="https://example.invalid/a", file="a.safetensors")
    save_unet(random_unet(config.unet_architecture, 4), cache_place(config))
    load_model(config)  # seen for the first time: its hash is noted
    cache_place(config).touch()
    load_model(config)  # the same bytes with another date are the same file
    save_unet(random_unet(config.unet_architecture, 5), cache_place(config))
    with pytest.raises(CheckpointError, match=r"its sha256 is \w+, not \w+ as when it was first seen") as caught:
        load_model(config)
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="as its config or the job says"):
        load_model(changed(config, sha256="0" * 64))


def test_a_hub_repository_is_a_folder(cache):
    config = load_model_config("ddpm-church-256")
    assert cache_place(config) == cache / "models" / "ddpm-church-256"
    cache_place(config).mkdir(parents=True)
    assert weights_place(config) is None
    (cache_place(config) / "diffusion_pytorch_model.bin").touch()
    assert weights_place(config) == cache_place(config)


def test_weights_of_another_model_name_it(tiny, tmp_path):
    config = load_model_config(tiny)
    small = config.model_copy(update={"architecture": TINY["architecture"] | {"num_res_blocks": 2}})
    save_unet(random_unet(small.unet_architecture), tmp_path / "s.safetensors")
    with pytest.raises(CheckpointError, match="states another architecture"):
        load_model(config, tmp_path / "s.safetensors")


def test_the_default_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("DIFFSTYLE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "diffstyle"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "diffstyle"


def test_shipped_files_are_found_in_an_installed_package(tmp_path, monkeypatch):
    here = shipped.shipped_folder("configs")
    assert here == Path(__file__).resolve().parents[2] / "configs"
    shutil.copytree(here, tmp_path / "_shipped" / "configs")
    monkeypatch.setattr(shipped, "_PACKAGE", tmp_path)
    assert shipped.shipped_folder("configs") == tmp_path / "_shipped" / "configs"
    assert set(shipped.shipped_files("configs")) >= set(SEED_TABLE)
    assert load_model_config("imagenet").size == 256
