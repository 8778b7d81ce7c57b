"""DiffStyle: training-free style transfer by content injection in h-space (arXiv 2303.15403), in pure torch.

:func:`load_unet` loads a frozen U-Net. :func:`ddim_invert` gives a picture's x_T and its bottleneck h along an
:func:`inversion_plan`; :func:`inject` generates from one picture's x_T with another's h, along an :func:`aligned_plan`
or a :func:`grid_plan`. What happens in the bottleneck is the function ``blend`` of the module ``diffstyle.blend``.
Names are imported when they are first asked for, so that ``import diffstyle`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffstyle.blend import slerp
    from diffstyle.checkpoint import load_unet, save_unet
    from diffstyle.errors import CheckpointError, ConfigError, DiffStyleError
    from diffstyle.gamma import GammaSchedule
    from diffstyle.images import prepare, to_tensor, to_uint8
    from diffstyle.injection import Injection, aligned_plan, event_timesteps, grid_plan
    from diffstyle.masks import rectangle_mask, reference_mask, to_h_grid
    from diffstyle.networks.architecture import ADMArchitecture, DDPMArchitecture
    from diffstyle.networks.unet import UNet
    from diffstyle.noise import seeded_noise
    from diffstyle.plan import Plan, Step, inversion_plan, sampling_plan
    from diffstyle.sampling import ddim_invert, ddim_sample, inject

__version__ = "0.1.0"

#: Public name -> the module that holds it; it is imported when the name is first asked for.
_WHERE = {
    "ADMArchitecture": "diffstyle.networks.architecture",
    "CheckpointError": "diffstyle.errors",
    "ConfigError": "diffstyle.errors",
    "DDPMArchitecture": "diffstyle.networks.architecture",
    "DiffStyleError": "diffstyle.errors",
    "GammaSchedule": "diffstyle.gamma",
    "Injection": "diffstyle.injection",
    "Plan": "diffstyle.plan",
    "Step": "diffstyle.plan",
    "UNet": "diffstyle.networks.unet",
    "aligned_plan": "diffstyle.injection",
    "ddim_invert": "diffstyle.sampling",
    "ddim_sample": "diffstyle.sampling",
    "event_timesteps": "diffstyle.injection",
    "grid_plan": "diffstyle.injection",
    "inject": "diffstyle.sampling",
    "inversion_plan": "diffstyle.plan",
    "load_unet": "diffstyle.checkpoint",
    "prepare": "diffstyle.images",
    "rectangle_mask": "diffstyle.masks",
    "reference_mask": "diffstyle.masks",
    "sampling_plan": "diffstyle.plan",
    "save_unet": "diffstyle.checkpoint",
    "seeded_noise": "diffstyle.noise",
    "slerp": "diffstyle.blend",
    "to_h_grid": "diffstyle.masks",
    "to_tensor": "diffstyle.images",
    "to_uint8": "diffstyle.images",
}

__all__ = [
    "ADMArchitecture",
    "CheckpointError",
    "ConfigError",
    "DDPMArchitecture",
    "DiffStyleError",
    "GammaSchedule",
    "Injection",
    "Plan",
    "Step",
    "UNet",
    "aligned_plan",
    "ddim_invert",
    "ddim_sample",
    "event_timesteps",
    "grid_plan",
    "inject",
    "inversion_plan",
    "load_unet",
    "prepare",
    "rectangle_mask",
    "reference_mask",
    "sampling_plan",
    "save_unet",
    "seeded_noise",
    "slerp",
    "to_h_grid",
    "to_tensor",
    "to_uint8",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
