"""Networks that a user brings to judge pictures: loaded from a file, each picture prepared as they were trained.

What comes out of one is an embedding, feature maps, or the distance of two pictures; ``models/network_spec.py`` reads
the file that says which.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from diffstyle.errors import CheckpointError, ConfigError, one_line
from pipeline.measures.features import content_correlation, cosine, gram_distance
from pipeline.measures.lpips import LPIPS
from pipeline.measures.preparation import EXPORTED, Gives, Preparation

_TRANSFORMERS = "networks of this kind need the package transformers: pip install 'diffstyle[scores]'"


class ScoringNetwork:
    """A network that is loaded, and what it says of pictures.

    Args:
        network: Takes pictures as ``preparation`` makes them.
        gives: What comes out of it.
        preparation: What it wants.
        name: Of its file, for messages.
    """

    def __init__(self, network: Callable[..., Any], gives: Gives, preparation: Preparation, name: str) -> None:
        self._network, self.gives, self._preparation, self._name = network, gives, preparation, name

    @property
    def small(self) -> bool:
        """Whether what :meth:`look` returns is small enough to be kept for many pictures."""
        return self.gives == "embedding"

    @torch.inference_mode()
    def look(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the network sees in each of some pictures.

        Args:
            x: (N, 3, H, W) in [-1, 1], on the network's device.

        Returns:
            Tensors with N rows: an embedding, feature maps, or the prepared pictures where it takes two at once.

        Raises:
            CheckpointError: What comes out is none of this.
        """
        prepared = self._preparation(x.float())
        if self.gives == "distance":
            return (prepared,)
        out = self._run(prepared)
        maps = tuple(out) if isinstance(out, list | tuple) else (out,)
        wanted = (2,) if self.gives == "embedding" else (4,)
        right = all(isinstance(one, Tensor) and one.ndim in wanted and len(one) == len(x) for one in maps)
        if not right or (self.gives == "embedding" and len(maps) != 1):
            form = "a tensor (N, D)" if self.gives == "embedding" else "a list of tensors (N, C, h, w)"
            raise CheckpointError(f"{self._name}: gives {_outline(out)} for a batch of {len(x)}; wanted is {form}")
        return tuple(one.float() for one in maps)

    @torch.inference_mode()
    def compare(self, x: Sequence[Tensor], y: Sequence[Tensor], side: str) -> Tensor:
        """How near results are to their sources, (N,); ``better`` says which end is near.

        Args:
            x: As :meth:`look` gives them, of N results.
            y: The same of N sources.
            side: ``content`` or ``style``: of feature maps, the content is compared place by place, the style by
                Gram matrices.
        """
        if self.gives == "embedding":
            return cosine(x[0], y[0])
        if self.gives == "features":
            return content_correlation(x, y) if side == "content" else gram_distance(x, y)
        out = LPIPS.distance(x, y) if self.gives == "lpips" else self._run(x[0], y[0])
        if not isinstance(out, Tensor) or out.numel() != len(x[0]):
            raise CheckpointError(
                f"{self._name}: gives {_outline(out)}; wanted is a distance for each pair of a batch of {len(x[0])}"
            )
        return out.flatten().float()

    def _run(self, *pictures: Tensor) -> Any:
        try:
            return self._network(*pictures)
        except torch.OutOfMemoryError:
            raise
        except (
            RuntimeError,
            AssertionError,
            TypeError,
        ) as error:  # what a network does with a size or count it can't take
            shape = "x".join(map(str, pictures[0].shape))
            raise CheckpointError(
                f"{self._name}: does not take {len(pictures)} batch(es) of {shape} ({one_line(error, most=160)}); "
                "see input.size, and export it for any number of pictures"
            ) from error


def load_network(path: Path, device: str) -> Callable[..., Any]:
    """A network with its code from a file or folder.

    Args:
        path: ``.pt2`` of ``torch.export``, TorchScript, or a folder of transformers.
        device: Where it computes.

    Raises:
        CheckpointError: It can't be read as what it is called.
        ConfigError: It needs a package that is not installed.
    """
    if path.is_dir():
        return _transformer(path, device)
    try:
        if path.suffix in EXPORTED:
            logger = logging.getLogger("torch.export")
            level = logger.level
            logger.setLevel(logging.CRITICAL)  # else a foreign file is a page of traceback before our line
            try:
                program = torch.export.load(path)
                program = program if device == "cpu" else move_to_device_pass(program, device)
                return program.module()
            finally:
                logger.setLevel(level)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # for those who export; these files stay readable
                return torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-any-return]
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except Exception as error:
        if isinstance(error, MemoryError | OSError):
            raise
        kind = "a network of torch.export" if path.suffix in EXPORTED else "TorchScript"
        raise CheckpointError(f"{path}: not readable as {kind} ({one_line(error, most=160)})") from error


class _Embedding(nn.Module):
    """One vector of what a transformer gives: its image embedding, else its pooled output, else the first token."""

    def __init__(self, model: Any, pooled: bool) -> None:
        super().__init__()
        self.model, self.pooled = model, pooled

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self.model, "get_image_features"):  # of CLIP and its kind, which also read text
            out = self.model.get_image_features(pixel_values=x)
        else:
            out = self.model(pixel_values=x)
        if isinstance(out, Tensor):
            return out
        for name in ("image_embeds", *(["pooler_output"] if self.pooled else [])):
            if getattr(out, name, None) is not None:
                return getattr(out, name).flatten(1)  # type: ignore[no-any-return]
        return out.last_hidden_state[:, 0]  # type: ignore[no-any-return]


def _transformer(folder: Path, device: str) -> nn.Module:
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise ConfigError(f"{folder}: {_TRANSFORMERS}") from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        named = (config.architectures or [""])[0]
        kind = getattr(transformers, named, None) if named.endswith("WithProjection") else None
        model, report = (kind or transformers.AutoModel).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, LookupError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: transformers can't load it ({one_line(error, most=200)})") from error
    # What a file lacks would be drawn at random. A pooler that was never trained is common, and not needed.
    missing = [name for name in report["missing_keys"] if not name.startswith("pooler.")]
    if missing:
        raise CheckpointError(f"{folder}: lacks {len(missing)} of the network's tensors, as {sorted(missing)[0]}")
    return _Embedding(model.eval(), pooled=not report["missing_keys"]).to(device)


def _outline(out: Any) -> str:
    if isinstance(out, Tensor):
        return f"a tensor {tuple(out.shape)}"
    if isinstance(out, list | tuple):
        return f"{len(out)} values ({', '.join(_outline(one) for one in out[:3])})"
    return f"a {type(out).__name__}"
