"""The two halves of a network as CUDA graphs: one launch each instead of some hundred kernels.

By hand, since the graphs that ``torch.compile`` makes by itself belong to the thread that recorded them, and a worker's
units come in several.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffstyle.networks.unet import Encoded

# Runs a function once for its outputs, and gives what repeats that on the inputs' memory into the outputs' memory.
Record = Callable[[Callable[[], Any]], tuple[Any, Callable[[], None]]]
Encode = Callable[[Tensor, Tensor], Encoded]
Decode = Callable[[Tensor, tuple[Tensor, ...], Tensor], Tensor]


class GraphedHalves:
    """``encode`` and ``decode``, recorded for batches of one shape; other shapes go to the ``plain`` halves.

    What ``encode`` returns lies in the graph's memory, where the next ``encode`` writes, except for h, which is a copy.
    So ``decode`` serves the newest ``encode`` only (RuntimeError for an older one); its estimate is a copy too.
    """

    def __init__(
        self, encode: Encode, decode: Decode, x: Tensor, t: Tensor, record: Record, plain: tuple[Encode, Decode]
    ) -> None:
        self._plain_encode, self._plain_decode = plain
        with torch.inference_mode(False):  # tensors that may be written to in any mode
            self._x, self._t = torch.empty_like(x), torch.empty_like(t, dtype=torch.float32)
        self._x.copy_(x)
        self._t.copy_(t)
        encoded, self._replay_encode = record(lambda: encode(self._x, self._t))
        self._encoded = Encoded(encoded[0], tuple(encoded[1]), encoded[2])
        with torch.inference_mode(False):
            self._h = torch.empty_like(self._encoded.h, dtype=torch.float32)  # a blended h is float32; any other fits
        self._h.copy_(self._encoded.h)
        self._e, self._replay_decode = record(lambda: decode(self._h, self._encoded.skips, self._encoded.emb))
        self._newest: tuple[Tensor, ...] = ()

    def encode(self, x: Tensor, t: Tensor) -> Encoded:
        """See :meth:`diffstyle.networks.unet.UNet.encode`."""
        if x.shape != self._x.shape:
            return self._plain_encode(x, t)
        self._x.copy_(x)
        self._t.copy_(t)
        self._replay_encode()
        self._newest = (*self._encoded.skips,)  # a tuple of its own, to know it by
        return Encoded(self._encoded.h.clone(), self._newest, self._encoded.emb)

    def decode(self, h: Tensor, skips: tuple[Tensor, ...], emb: Tensor) -> Tensor:
        """See :meth:`diffstyle.networks.unet.UNet.decode`."""
        if skips is not self._newest:
            if skips and skips[0] is self._encoded.skips[0]:
                raise RuntimeError("these skips were overwritten by a later encode; decode before the next one")
            return self._plain_decode(h, skips, emb)
        self._h.copy_(h.expand_as(self._h))
        self._replay_decode()
        return self._e.clone()


def cuda_recorder() -> Record:
    """Records CUDA graphs that share one pool of memory."""
    pool = torch.cuda.graph_pool_handle()

    def record(run: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        # Warmed up on a stream of its own, as recording will be: kernels are chosen and compiled there.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # The outer context brings the stream back where a recording fails. Threads that read and write may go on.
        with (
            torch.cuda.stream(torch.cuda.current_stream()),
            torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"),
        ):
            outputs = run()
        return outputs, graph.replay

    return record
