"""Small networks as a user would bring them: files of torch.export, and the YAML beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

PLAIN_INPUT = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


class Embedding(nn.Module):
    """Mean and standard deviation of each channel, turned by a seeded matrix."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.turn = nn.Buffer(torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.mean((2, 3)), x.std((2, 3))], 1) @ self.turn


class Features(nn.Module):
    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x, nn.functional.avg_pool2d(x, 2)]


class Distance(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x - y).abs().mean((1, 2, 3))


def network_file(
    folder: Path, name: str, network: nn.Module, gives: str = "embedding", side: int = 16, **fields: Any
) -> Path:
    """Save a network and the file that describes it.

    Args:
        folder: Where to.
        name: The network's, and the files'.
        network: It.
        gives: What comes out.
        side: Of the pictures that it is exported for.
        fields: More of the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Of two inputs that are one object, an exported network reads only the first.
    examples = tuple(torch.rand(2, 3, side, side) for _ in range(2 if gives == "distance" else 1))
    free = tuple({0: torch.export.Dim.AUTO} for _ in examples)
    torch.export.save(torch.export.export(network.eval(), examples, dynamic_shapes=free), folder / f"{name}.pt2")
    values = {"name": name, "network": f"{name}.pt2", "gives": gives, "input": PLAIN_INPUT, **fields}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return folder / f"{name}.yaml"
