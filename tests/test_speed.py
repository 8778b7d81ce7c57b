"""What is done for speed may not change the picture; the benchmark's own parts. Numbers are in docs/speed.md."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from diffstyle.architecture import ADMArchitecture, DDPMArchitecture
from diffstyle.plan import Injection, event_timesteps, grid_plan, inversion_plan
from diffstyle.sampling import ddim_invert, inject
from pipeline import speed
from pipeline.commands.bench import bench
from pipeline.context import compile_halves, tuned
from pipeline.models import random_unet
from pipeline.pages import write_between

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    DDPMArchitecture(16, 32, (1, 2), 1, (8,)),
    ADMArchitecture(16, 32, (1, 2), 1, (8,), 16, learn_sigma=True),
]


@pytest.fixture(params=SMALL, ids=["ddpm", "adm"])
def unet(request):
    return random_unet(request.param)


@torch.inference_mode()
def test_channels_last_changes_a_call_by_rounding_only(unet):
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([10, 900])
    fingerprint, h, out = unet.fingerprint, unet.encode(x, t).h, unet(x, t)
    fast = tuned(unet, "cpu")
    assert next(p for p in fast.parameters() if p.ndim == 4).is_contiguous(memory_format=torch.channels_last)
    assert fast.fingerprint == fingerprint
    for got, wanted in ((fast(x, t), out), (fast.encode(x, t).h, h)):
        assert (got - wanted).norm() / wanted.norm() < 1e-5


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
    norm_error = (unet(x, t) - wanted).norm() / wanted.norm()
    assert norm_error < 0.1


def test_compile_is_declined_with_a_line_where_there_is_no_gpu(unet, caplog):
    caplog.set_level(logging.INFO)
    assert not compile_halves(unet, "cpu")
    assert "not used on cpu" in caplog.text
    assert "encode" not in vars(unet)


def test_a_compiler_that_fails_is_declined_and_the_eager_network_stays(unet, caplog, monkeypatch):
    def broken(function, **options):
        def call(*args):
            raise RuntimeError("no Triton")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(torch, "full", lambda *args, device, full=torch.full: full(*args))
    monkeypatch.setattr(torch, "randn", lambda *args, device="cpu", randn=torch.randn: randn(*args))
    assert not compile_halves(unet, "cuda")
    assert "declined" in caplog.text
    assert "no Triton" in caplog.text
    assert "encode" not in vars(unet)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device")
def test_compiled_halves_agree_with_eager_ones_and_survive_later_calls(unet):
    unet = unet.cuda()
    x, t = torch.randn(2, 3, 16, 16, device="cuda"), torch.tensor([10, 900], device="cuda")
    with torch.inference_mode():
        wanted = unet(x, t)
        if not compile_halves(unet, "cuda"):
            pytest.skip("no compiler here")
        first = unet.decode(*unet.encode(x, t))
        unet.decode(*unet.encode(x * 2, t))
        assert (first - wanted[:, :3]).norm() / wanted[:, :3].norm() < 1e-2


def test_the_benchmarks_reference_loop_is_the_method(unet):
    pictures = torch.randn(2, 3, 16, 16).clamp(-1, 1)
    walk = inversion_plan(10)
    x_T, h = ddim_invert(unet, pictures, walk)
    plan = grid_plan(Injection(event_timesteps(5)), walk.kept, 10)
    with torch.inference_mode():
        looped = speed.reference_loop(unet, x_T[:1], h[1:], walk.kept, plan, 0.3)
    wanted = inject(unet, x_T[:1], h[1:], walk.kept, plan, 0.3)
    assert (looped - wanted).norm() / wanted.norm() < 1e-4


@pytest.mark.parametrize(("preset", "calls"), [("reference", 1000), ("balanced", 109), ("fast", 68)])
def test_the_presets_calls_are_those_of_the_page(preset, calls):
    plan = speed.preset_plan(preset, inversion_plan(50).kept)
    assert plan.encodes == calls
    assert len(plan.injections) == 30
    assert f"| `{preset}` | {calls} " in (ROOT / "docs/speed.md").read_text()


def test_flops_are_those_of_the_network():
    # 497 GFLOP: counted by hand for the CelebA-HQ network when the work was planned.
    assert speed.call_flops("celebahq", 256) == pytest.approx(497e9, rel=0.02)


def test_a_page_keeps_all_but_what_stands_between_its_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{speed.MARKERS[0]}\nold\n{speed.MARKERS[1]}\nafter\n")
    write_between(page, speed.MARKERS, "new")
    assert page.read_text() == f"before\n{speed.MARKERS[0]}\nnew\n{speed.MARKERS[1]}\nafter\n"
    assert all(marker in (ROOT / "docs/speed.md").read_text() for marker in speed.MARKERS)


def test_bench_refuses_a_device_that_is_not_there():
    assert "--quick" in CliRunner().invoke(bench, ["--help"]).output
    if not torch.cuda.is_available():
        result = CliRunner().invoke(bench, ["--device", "cuda"])
        assert "no CUDA device" in str(result.exception)
