"""What is done for speed may not change the picture; numbers are in docs/speed.md."""

from __future__ import annotations

import pytest
import torch

from diffstyle.architecture import ADMArchitecture, DDPMArchitecture
from diffstyle.plan import Injection, aligned_plan, event_timesteps, inversion_plan
from diffstyle.sampling import ddim_invert, inject
from diffstyle.unet import GroupNorm
from pipeline.models import random_unet
from pipeline.tuning import compile_halves, compiles, tuned

SMALL = [
    DDPMArchitecture(16, 32, (1, 2), 1, (8,)),
    ADMArchitecture(16, 32, (1, 2), 1, (8,), 16, learn_sigma=True),
]


@pytest.fixture(params=SMALL, ids=["ddpm", "adm"])
def unet(request):
    return random_unet(request.param)


@pytest.fixture
def cuda():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    allowed = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield "cuda"
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = allowed


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.cpu() - b.cpu()).norm() / b.cpu().norm())


@torch.inference_mode()
def test_channels_last_changes_a_call_by_rounding_only(unet):
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([10, 900])
    fingerprint, h, out = unet.fingerprint, unet.encode(x, t).h, unet(x, t)
    fast = tuned(unet, "cpu")
    assert next(p for p in fast.parameters() if p.ndim == 4).is_contiguous(memory_format=torch.channels_last)
    assert fast.fingerprint == fingerprint
    for got, wanted in ((fast(x, t), out), (fast.encode(x, t).h, h)):
        assert relative(got, wanted) < 1e-5


@torch.inference_mode()
def test_bfloat16_norms_are_computed_in_float32(unet):
    x, t = torch.randn(1, 3, 16, 16), torch.tensor([500])
    wanted = unet(x, t)
    norm = next(module for module in unet.modules() if isinstance(module, torch.nn.GroupNorm))
    y = (torch.randn(2, norm.num_channels, 8, 8) + 100).bfloat16()  # a variance that bfloat16 sums would lose
    exact = torch.nn.functional.group_norm(y.float(), norm.num_groups, eps=norm.eps)
    unet.cast(torch.bfloat16)
    norm.weight.data.fill_(1)
    norm.bias.data.fill_(0)
    for answer in (norm(y), norm.written_out(y)):  # the CPU's kernel, and the formula that a GPU gets
        assert answer.dtype == torch.bfloat16
        assert (answer.float() - exact).abs().max() < 0.05
    assert relative(unet(x, t), wanted) < 0.1


@torch.inference_mode()
def test_the_norm_written_out_is_the_norm_and_keeps_the_layout(unet):
    norm = next(module for module in unet.modules() if isinstance(module, torch.nn.GroupNorm))
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    y = (3 * torch.randn(2, norm.num_channels, 8, 8) + 20).contiguous(memory_format=torch.channels_last)
    answer = norm.written_out(y)
    assert answer.is_contiguous(memory_format=torch.channels_last)
    assert relative(answer, norm(y)) < 1e-5


@torch.inference_mode()
def test_a_network_with_the_norms_written_out_is_the_same(unet, monkeypatch):
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([10, 900])
    wanted = unet(x, t)
    monkeypatch.setattr(GroupNorm, "forward", GroupNorm.written_out)
    assert relative(unet(x, t), wanted) < 1e-5


@torch.inference_mode()
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_the_ends_of_the_network_stay_float32(unet, precision):
    """At low noise the picture hides the noise: an input rounded to bfloat16 would lose a tenth of it."""
    unet.cast(precision)
    assert unet.dtype == precision
    ends = {p.dtype for end in unet.ends() for p in end.parameters()}
    assert ends == {torch.float32}
    assert unet(torch.randn(1, 3, 16, 16), torch.tensor([5])).dtype == torch.float32
    assert unet.cast(torch.float32).dtype == torch.float32


@pytest.mark.parametrize(
    ("choice", "device", "size", "wanted"),
    [
        ("auto", "cuda", 256, True),
        ("auto", "cuda", 64, False),  # a job of such pictures is over before it is compiled
        ("auto", "cpu", 256, False),
        (True, "cuda", 32, True),
        (False, "cuda", 256, False),
    ],
)
def test_when_the_network_is_compiled(choice, device, size, wanted):
    assert compiles(choice, device, size) is wanted


def test_compile_is_declined_with_a_line_where_there_is_no_gpu(unet):
    assert compile_halves(unet, "cpu", 1) == "torch.compile: not used on cpu"
    assert "encode" not in vars(unet)


def test_a_compiler_that_fails_is_declined_and_the_eager_network_stays(unet, monkeypatch):
    def broken(function, **options):
        def call(*args):
            raise RuntimeError("no Triton")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(torch, "full", lambda *args, device, full=torch.full: full(*args))
    monkeypatch.setattr(torch, "randn", lambda *args, device="cpu", randn=torch.randn: randn(*args))
    assert compile_halves(unet, "cuda", 2) == "torch.compile declined, going on without: no Triton"
    assert "encode" not in vars(unet)


@pytest.mark.cuda
def test_compiled_halves_make_the_pictures_of_the_eager_ones(unet, cuda):
    """A whole injection with calibration, whose outputs must outlive later calls: a graph reuses its memory."""
    unet = unet.to(cuda)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    pictures = torch.randn(2, 3, 16, 16).clamp(-1, 1).to(cuda)
    walk = inversion_plan(10)
    plan = aligned_plan(Injection(event_timesteps(5), 300, 0, 1.0, 0, calibrate=True), walk.kept, 1, 4, order=2)

    def made() -> torch.Tensor:
        x_T, h = ddim_invert(unet, pictures, walk)
        return inject(unet, x_T, h.flip(0), walk.kept, plan, 0.5, omega=0.3)

    wanted = made()
    note = compile_halves(unet, cuda, 2)
    assert note.startswith("torch.compile: used"), note
    assert relative(made(), wanted) < 1e-3


@pytest.mark.cuda
@torch.inference_mode()
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
def test_a_gpu_gives_the_cpus_estimate(unet, cuda, precision):
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([10, 900])
    wanted = unet(x, t)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    answer = unet.cast(precision).to(cuda)(x.to(cuda), t.to(cuda))
    assert relative(answer, wanted) < {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}[precision]
