"""Networks of the user's: preparing pictures, the kinds of files, and what comes out."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from diffstyle.errors import CheckpointError, ConfigError
from pipeline.measures.networks import ScoringNetwork, load_network
from pipeline.measures.preparation import Preparation, stated_preparation


class Mean(nn.Module):
    """A small embedding that tells sizes, channels and places apart."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.mean((2, 3)), x[:, :, 0, 0], x.std((2, 3))], 1)


def exported(path, network: nn.Module, *examples: torch.Tensor):
    free = tuple({0: torch.export.Dim.AUTO} for _ in examples)
    torch.export.save(torch.export.export(network.eval(), examples, dynamic_shapes=free), path)
    return path


def pictures(n: int, side: int = 16) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(n)) * 2 - 1


def test_preparation():
    x = pictures(2)
    assert torch.allclose(Preparation()(x), x, atol=1e-6)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    expected = ((x + 1) / 2 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    assert torch.allclose(Preparation(mean=mean, std=std)(x), expected)
    flipped = ((x.flip(1) + 1) / 2 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    assert torch.allclose(Preparation(mean=mean, std=std, colours="bgr")(x), flipped)
    assert torch.allclose(Preparation(crop=(0.25, 0, 0.75, 0.5))(x), x[:, :, 4:12, :8], atol=1e-6)
    small = F.interpolate(x, size=(8, 8), mode="bilinear", antialias=True)
    assert torch.allclose(Preparation(size=8, resize="bilinear")(x), small, atol=1e-6)


@pytest.mark.parametrize("kind", ["pt2", "ts"])
def test_both_kinds_of_files_give_what_the_network_gives(kind, tmp_path):
    file = tmp_path / f"net.{kind}"
    if kind == "pt2":
        exported(file, Mean(), pictures(2))
    else:
        torch.jit.trace(Mean(), pictures(2)).save(str(file))
    network = ScoringNetwork(load_network(file, "cpu"), "embedding", Preparation(), str(file))
    for n in (1, 2, 5):
        assert torch.allclose(network.look(pictures(n))[0], Mean()(pictures(n)), atol=1e-5)


@pytest.mark.parametrize("name", ["net.pt2", "net.ts"])
@pytest.mark.parametrize("content", [None, b"", b"hello", b"PK\x03\x04 and no more"])
def test_a_file_that_is_none_is_one_line(name, content, tmp_path, caplog):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_network(tmp_path / name, "cpu")
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(caught.value)
    assert not caplog.text


@pytest.mark.parametrize(
    ("gives", "network", "words"),
    [
        ("embedding", lambda x: x, "wanted is a tensor (N, D)"),
        ("embedding", lambda x: [x.mean((2, 3)), x.mean((2, 3))], "gives 2 values"),
        ("embedding", lambda x: {"a": x}, "gives a dict"),
        ("features", lambda x: x.mean((2, 3)), "wanted is a list of tensors (N, C, h, w)"),
        ("embedding", lambda x: x.mean((2, 3))[:1], "for a batch of 2"),
        ("embedding", lambda x: x @ torch.zeros(3, 3), "does not take"),
    ],
)
def test_something_else_that_comes_out_is_one_line(gives, network, words):
    with pytest.raises(CheckpointError) as caught:
        ScoringNetwork(network, gives, Preparation(), "net.pt2").look(pictures(2))
    assert words in str(caught.value)
    assert str(caught.value).startswith("net.pt2: ")


def test_a_number_of_pictures_that_is_fixed_is_said(tmp_path):
    program = torch.export.export(Mean().eval(), (pictures(1),))
    torch.export.save(program, tmp_path / "one.pt2")
    network = ScoringNetwork(load_network(tmp_path / "one.pt2", "cpu"), "embedding", Preparation(), "one.pt2")
    with pytest.raises(CheckpointError, match=r"export it for any number of pictures"):
        network.look(pictures(3))


def test_distances_and_features():
    x, y = pictures(3), pictures(3).flip(0)
    apart = ScoringNetwork(lambda a, b: (a - b).abs().mean((1, 2, 3)), "distance", Preparation(), "net")
    assert torch.allclose(
        apart.compare(apart.look(x), apart.look(y), "style"), (x - y).abs().mean((1, 2, 3)), atol=1e-6
    )
    maps = ScoringNetwork(lambda a: [a, F.avg_pool2d(a, 2)], "features", Preparation(), "net")
    assert torch.allclose(maps.compare(maps.look(x), maps.look(x), "content"), torch.tensor(1.0))
    assert torch.allclose(maps.compare(maps.look(x), maps.look(x), "style"), torch.tensor(0.0))
    assert (maps.compare(maps.look(x), maps.look(y), "style")[[0, 2]] > 0.001).all()
    wrong = ScoringNetwork(lambda a, b: a, "distance", Preparation(), "net")
    with pytest.raises(CheckpointError, match="wanted is a distance for each pair of a batch of 3"):
        wrong.compare(wrong.look(x), wrong.look(y), "style")


@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_numbers_of_any_size_are_compared(size):
    """The squares of 1e30 are infinite in float32, and those of 1e-30 are 0."""
    x, y = pictures(3), pictures(3).flip(0)
    for gives, forward in (("embedding", lambda a: a.flatten(1)), ("features", lambda a: [a, F.avg_pool2d(a, 2)])):
        plain = ScoringNetwork(forward, gives, Preparation(), "net")
        seen, others = plain.look(x), plain.look(y)
        sides = ("content", "style") if gives == "embedding" else ("content",)
        for side in sides:
            wanted = plain.compare(seen, others, side)
            sized = plain.compare([z * size for z in seen], [z * size for z in others], side)
            assert torch.allclose(sized, wanted, atol=1e-5), (gives, side)


# ---- folders of transformers ----


def test_what_a_folder_says_of_its_pictures(tmp_path):
    assert stated_preparation(tmp_path) is None
    said = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True}
    said |= {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    edge = 16 / 256
    crop = (edge, edge, 1 - edge, 1 - edge)
    assert stated_preparation(tmp_path) == Preparation(224, crop, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 224}))
    with pytest.raises(ConfigError, match="give them as `input`"):
        stated_preparation(tmp_path)


def test_folders_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    clip = transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(**sizes, intermediate_size=16, projection_dim=6)
    )
    dino = transformers.Dinov2Model(transformers.Dinov2Config(**sizes))
    bare = transformers.ViTModel(transformers.ViTConfig(**sizes), add_pooling_layer=False)
    x = pictures(3)
    with torch.inference_mode():
        wanted = {
            clip: clip.eval()(pixel_values=x).image_embeds,
            dino: dino.eval()(pixel_values=x).pooler_output,
            bare: bare.eval()(pixel_values=x).last_hidden_state[:, 0],  # and no pooler drawn at random
        }
    for n, (model, embedding) in enumerate(wanted.items()):
        folder = tmp_path / str(n)
        model.save_pretrained(folder)
        network = ScoringNetwork(load_network(folder, "cpu"), "embedding", Preparation(), str(folder))
        assert torch.allclose(network.look(x)[0], embedding, atol=1e-5)


def test_a_folder_that_lacks_weights_is_refused_and_not_filled_at_random(tmp_path):
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import load_file, save_file

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    transformers.Dinov2Model(transformers.Dinov2Config(**sizes)).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors.pop(next(name for name in tensors if "query.weight" in name))
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="lacks 1 of the network's tensors"):
        load_network(tmp_path, "cpu")
    file.write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="transformers can't load it"):
        load_network(tmp_path, "cpu")


def test_without_the_package_the_line_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'diffstyle\[scores\]'"):
        load_network(tmp_path, "cpu")
