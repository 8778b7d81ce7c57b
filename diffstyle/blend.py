"""What injection does in the bottleneck: normalise the content's h, then blend it in along the sphere."""

from __future__ import annotations

import torch
from torch import Tensor


def blend(h: Tensor, h_content: Tensor, gamma: Tensor, mask: Tensor | None = None) -> Tensor:
    """The blended bottleneck, float32 (B, C, h, w); the paper's f(h, h_content, gamma), section 4.2.

    Without a mask the content is first given h's norm, which keeps the decoder in its trained range. With a mask the
    reference does not renormalise, and neither does this.

    Args:
        h: The style image's own bottleneck, (B, C, h, w).
        h_content: The content image's, (B, C, h, w).
        gamma: (B,): 0 keeps h, 1 takes the content's direction.
        mask: (B or 1, 1, h, w) in [0, 1]: where content goes; None: everywhere.
    """
    h, h_content = h.float(), h_content.float()
    if mask is None:
        scale = _norm(h) / _norm(h_content).clamp_min(torch.finfo(torch.float32).tiny)
        return slerp(gamma, h, h_content * scale)
    return slerp(gamma, mask * h, mask * h_content) + (1 - mask) * h


def slerp(gamma: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Spherical interpolation from u (gamma = 0) to v (gamma = 1), per image: (B, C, h, w) (Shoemake 1985).

    The angle is taken from the half-chords (``2 atan2(|û - v̂|, |û + v̂|)``), which is exact where arccos is not: near 0.
    Where the sphere gives no direction (parallel, opposite or zero vectors) it is a plain lerp.

    Args:
        gamma: In [0, 1]: (B,), or of as many axes as ``u``, each 1 or that of ``u``: another share at each place, along
            the one arc between u and v.
        u: Any shape (B, ...), floating.
        v: The shape of ``u``.
    """
    gamma = (gamma if gamma.ndim == u.ndim else gamma.reshape(-1, *[1] * (u.ndim - 1))).to(u)
    tiny = torch.finfo(u.dtype).tiny
    norm_u, norm_v = _norm(u), _norm(v)
    u_hat, v_hat = u / norm_u.clamp_min(tiny), v / norm_v.clamp_min(tiny)
    angle = 2 * torch.atan2(_norm(u_hat - v_hat), _norm(u_hat + v_hat))
    sine = angle.sin()
    degenerate = (sine < 1e-6) | (norm_u == 0) | (norm_v == 0)
    sine = torch.where(degenerate, torch.ones_like(sine), sine)
    weight_u = torch.where(degenerate, 1 - gamma, ((1 - gamma) * angle).sin() / sine)
    weight_v = torch.where(degenerate, gamma, (gamma * angle).sin() / sine)
    return weight_u * u + weight_v * v


def _norm(x: Tensor) -> Tensor:
    """The L2 norm per image over all other axes, kept broadcastable."""
    return torch.linalg.vector_norm(x, dim=tuple(range(1, x.ndim)), keepdim=True)
