"""Checkpoints in diffusers' layout: ``UNet2DModel`` of the google/ddpm-*-256 family, read as our DDPM U-Net.

Only what that family uses is supported. Everything else in a ``config.json`` is refused by name, because a silently
different network still produces images, just not the right ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from diffstyle.errors import CheckpointError, ConfigError
from diffstyle.networks.architecture import IMAGE_CHANNELS, NORM_GROUPS, DDPMArchitecture

# Field -> (the values that mean our DDPM U-Net, what diffusers assumes where the field is absent).
_FIXED: dict[str, tuple[tuple[Any, ...], Any]] = {
    "_class_name": (("UNet2DModel",), None),
    "act_fn": (("silu", "swish"), "silu"),
    "add_attention": ((True,), True),
    "attn_norm_num_groups": ((None, NORM_GROUPS), None),
    "center_input_sample": ((False,), False),
    "class_embed_type": ((None,), None),
    "downsample_padding": ((0,), 1),
    "downsample_type": (("conv",), "conv"),
    "flip_sin_to_cos": ((False,), True),
    "freq_shift": ((1,), 0),
    "in_channels": ((IMAGE_CHANNELS,), 3),
    "mid_block_scale_factor": ((1,), 1),
    "mid_block_type": (("UNetMidBlock2D",), "UNetMidBlock2D"),
    "norm_eps": ((1e-6,), 1e-5),
    "norm_num_groups": ((NORM_GROUPS,), 32),
    "num_class_embeds": ((None,), None),
    "out_channels": ((IMAGE_CHANNELS,), 3),
    "resnet_time_scale_shift": (("default",), "default"),
    "time_embedding_type": (("positional",), "positional"),
    "upsample_type": (("conv",), "conv"),
}
_ATTENDED = {
    "down_block_types": {"DownBlock2D": False, "AttnDownBlock2D": True},
    "up_block_types": {"UpBlock2D": False, "AttnUpBlock2D": True},
}

# Renamings of a whole name's beginning, then of a part of a residual block or attention.
_PLACES = (
    (r"time_embedding\.linear_1\.", "temb.dense.0."),
    (r"time_embedding\.linear_2\.", "temb.dense.1."),
    (r"conv_norm_out\.", "norm_out."),
    (r"mid_block\.resnets\.0\.", "mid.block_1."),
    (r"mid_block\.resnets\.1\.", "mid.block_2."),
    (r"mid_block\.attentions\.0\.", "mid.attn_1."),
    (r"(down|up)_blocks\.(\d+)\.resnets\.", r"\1.\2.block."),
    (r"(down|up)_blocks\.(\d+)\.attentions\.", r"\1.\2.attn."),
    (r"(down|up)_blocks\.(\d+)\.(down|up)samplers\.0\.", r"\1.\2.\3sample."),
)
_PARTS = {
    "time_emb_proj": "temb_proj",
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    **{"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"},
    **{"query": "q", "key": "k", "value": "v", "proj_attn": "proj_out"},  # before diffusers 0.15
}


def is_diffusers_layout(names: Iterable[str]) -> bool:
    """Whether tensor names are those of a diffusers U-Net."""
    return any(name.startswith(("down_blocks.", "mid_block.")) for name in names)


def architecture_from_diffusers(config: Mapping[str, Any], source: str) -> DDPMArchitecture:
    """The architecture that a ``UNet2DModel``'s ``config.json`` describes.

    Absent fields have diffusers' defaults, several of which (the order of the time embedding, for one) are not DDPM's.

    Args:
        config: the parsed file.
        source: the file's name, for messages.

    Raises:
        CheckpointError: a field has a value that our DDPM U-Net does not stand for; the message names the field.
    """

    def refuse(field: str, value: object, wanted: str) -> CheckpointError:
        return CheckpointError(f"{source}: unsupported {field} {value!r}; supported: {wanted}")

    for field, (supported, default) in _FIXED.items():
        value = config.get(field, default)
        if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in supported):
            raise refuse(field, value, " or ".join(repr(one) for one in supported))

    channels = config.get("block_out_channels")
    if not (isinstance(channels, list | tuple) and channels and all(type(c) is int and c > 0 for c in channels)):
        raise refuse("block_out_channels", channels, "a list of whole numbers")
    ch = channels[0]
    if any(c % ch for c in channels):
        raise refuse("block_out_channels", channels, "multiples of the first one")

    attended = {}
    for field, kinds in _ATTENDED.items():
        value = config.get(field)
        if not (
            isinstance(value, list | tuple)
            and len(value) == len(channels)
            and all(isinstance(kind, str) and kind in kinds for kind in value)
        ):
            raise refuse(field, value, f"{len(channels)} of {' and '.join(kinds)}")
        attended[field] = [kinds[kind] for kind in value]
    if attended["up_block_types"] != attended["down_block_types"][::-1]:
        raise refuse(
            "up_block_types", config["up_block_types"], "attention at the same resolutions as down_block_types"
        )

    head_dim = config.get("attention_head_dim", 8)
    widths = {c for c, attends in zip(channels, attended["down_block_types"], strict=True) if attends} | {channels[-1]}
    if head_dim is not None and widths != {head_dim}:
        raise refuse("attention_head_dim", head_dim, "null, a single head")
    if config.get("time_embedding_dim") not in (None, 4 * ch):
        raise refuse("time_embedding_dim", config["time_embedding_dim"], f"null or {4 * ch}")

    blocks = config.get("layers_per_block", 2)
    if type(blocks) is not int or blocks < 1:
        raise refuse("layers_per_block", blocks, "a whole number of at least 1")
    size = config.get("sample_size")
    if isinstance(size, list | tuple) and len(set(size)) == 1:
        size = size[0]
    if type(size) is not int:
        raise refuse("sample_size", size, "the side of a square image")
    try:
        return DDPMArchitecture(
            image_size=size,
            ch=ch,
            ch_mult=tuple(c // ch for c in channels),
            num_res_blocks=blocks,
            attn_resolutions=tuple(size >> i for i, attends in enumerate(attended["down_block_types"]) if attends),
        )
    except ConfigError as error:
        raise CheckpointError(f"{source}: {error}") from None


def from_diffusers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under our DDPM names; an unknown name is kept, for the loader to report.

    diffusers counts its up blocks from the lowest resolution, DDPM from the highest; and its attentions are linear
    layers, (out, in), where DDPM has 1x1 convolutions, (out, in, 1, 1).
    """
    last = max((int(m[1]) for name in tensors if (m := re.match(r"up_blocks\.(\d+)\.", name))), default=0)
    renamed = {}
    for theirs, tensor in tensors.items():
        name = theirs
        for place, ours in _PLACES:
            name = re.sub(f"^{place}", ours, name)
        name = re.sub(r"^up\.(\d+)\.", lambda m: f"up.{last - int(m[1])}.", name)
        for part, ours in _PARTS.items():
            name = re.sub(rf"^((?:down|up|mid)\..*\.){re.escape(part)}\.", rf"\g<1>{ours}.", name)
        if re.search(r"\.attn(_1|\.\d+)\.(q|k|v|proj_out)\.weight$", name) and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        renamed[name] = tensor
    return renamed
