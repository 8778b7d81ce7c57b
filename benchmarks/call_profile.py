"""Where the time of a network call goes, by torch.profiler: shares of convolutions, norms, copies and the rest."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

#: Kind -> a pattern for names of PyTorch's operations (CPU) or kernels (GPU); the first that fits. A kernel that the
#: compiler wrote is called after the operations that it joins, of which long names hold the first ten.
OPERATIONS = {
    "convolutions": r"conv",
    "matrix products, attention": r"::(addmm|mm|bmm|baddbmm|linear)$|attention|softmax|matmul",
    "norms": r"norm",
    "copies and layout": r"copy|clone|contiguous|::cat$|pad|upsample|_to\b|empty|fill|zero_|resize|stack|repeat",
    "pointwise": r"::(add|sub|mul|div|silu|sigmoid|addcmul|sin|cos|exp|rsqrt|pow|clamp|neg)",
}
KERNELS = {
    "norms": r"^_(moments|join|apply)\b|triton_(red|per)_|triton_\w*(mean|rsqrt)|group_?norm|Moments|MeanOps",
    "pointwise": r"^_add\b",
    "copies and layout": r"triton_poi_fused_(_to_copy|_unsafe_index|arange|cat|clone|constant_pad_nd|convolution|copy"
    r"|empty|mul|slice_scatter|view|_)+(_\d+)?$|nchwTo|nhwcTo|convertTensor|Memcpy|Memset|copy_kernel|CatArray|upsample",
    "fused pointwise": r"triton_poi",
    "matrix products, attention": r"flash|fmha|attention|softmax|nvjet|cublas",
    "convolutions": r"conv|fprop|dgrad|winograd|cudnn|xmma|implicit",
    "more matrix products": r"gemm|cutlass|splitK",
    "pointwise of PyTorch": r"elementwise|reduce_kernel",
}
#: Kinds that are only told apart to try their patterns in order.
JOINED = {
    "fused pointwise": "pointwise",
    "pointwise of PyTorch": "pointwise",
    "more matrix products": "matrix products, attention",
}
KINDS = (*OPERATIONS, "rest")


def kind_of(name: str, device: str) -> str:
    """The kind of an operation (``cpu``) or of a kernel (``cuda``)."""
    for kind, pattern in (KERNELS if device == "cuda" else OPERATIONS).items():
        if re.search(pattern, name):
            return JOINED.get(kind, kind)
    return "rest"


def times_by_name(call: Callable[[], Any], device: str, calls: int = 3) -> Counter[str]:
    """Milliseconds of a call by the name of an operation (CPU) or of a kernel (GPU), means of some calls."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    call()
    with profile(activities=activities) as profiled:
        for _ in range(calls):
            call()
        if device == "cuda":
            torch.cuda.synchronize()
    times: Counter[str] = Counter()
    if device == "cuda":
        for event in profiled.events():
            # A range that the compiler's code marks is shown on the GPU too, over the kernels that it holds.
            marked = event.is_user_annotation or re.search(r"##|Torch-Compiled|Compiled", event.name)
            if event.device_type == DeviceType.CUDA and not marked:
                times[event.name] += event.time_range.elapsed_us() / 1e3 / calls
    else:
        for row in profiled.key_averages():
            times[row.key] += row.self_cpu_time_total / 1e3 / calls
    return times


def by_kind(times: Counter[str], device: str) -> Counter[str]:
    """Milliseconds of each kind."""
    kinds: Counter[str] = Counter()
    for name, ms in times.items():
        kinds[kind_of(name, device)] += ms
    return kinds


def table(profiles: dict[str, Counter[str]], device: str) -> list[str]:
    """A column of milliseconds and one of shares for each way to call.

    Args:
        profiles: words for the column -> milliseconds by name.
        device: ``cpu`` or ``cuda``.
    """
    header = " | ".join(f"{words}, ms | share" for words in profiles)
    lines = [f"| kind | {header} |", "| --- " * (1 + 2 * len(profiles)) + "|"]
    kinds = {words: by_kind(times, device) for words, times in profiles.items()}
    for kind in KINDS:
        cells = [f"{ms[kind]:.2f} | {ms[kind] / (ms.total() or 1):.1%}" for ms in kinds.values()]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return [*lines, "| all | " + " | ".join(f"{ms.total():.2f} | " for ms in kinds.values()) + "|"]


def longest(times: Counter[str], device: str, most: int) -> list[str]:
    """The names that take longest, with their kinds, so that a wrong kind can be seen."""
    return [f"{ms:9.3f} ms  {kind_of(name, device):26}  {name[:120]}" for name, ms in times.most_common(most)]
