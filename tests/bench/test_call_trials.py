"""The trials of faster network calls: what they swap computes the same, and their command runs in its small form."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from diffstyle.networks.architecture import ADMArchitecture, DDPMArchitecture
from pipeline.models.cuda_graphs import GraphedHalves
from pipeline.models.load import random_unet

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
TINY = str(ROOT / "demo" / "tiny" / "tiny-model.yaml")

sys.path.append(str(BENCHMARKS))
import call_profile  # noqa: E402
import call_swaps  # noqa: E402
import call_trials  # noqa: E402

KINDS = tuple(f"| {kind} |" for kind in call_profile.KINDS)
NETWORKS = {
    "ddpm": DDPMArchitecture(16, 32, (1, 2), 1, (8,)),
    "ddpm without convolutions": DDPMArchitecture(16, 32, (1, 2), 1, (8,), resamp_with_conv=False),
    "adm": ADMArchitecture(16, 32, (1, 2), 1, (8,), 16, learn_sigma=True),
    "adm, no scales and shifts": ADMArchitecture(
        16, 32, (1, 2), 1, (8,), 16, learn_sigma=False, use_scale_shift_norm=False, resblock_updown=False
    ),
}


@pytest.mark.parametrize("folded", [call_swaps.FoldedTransposed, call_swaps.FoldedPhases])
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**31))
def test_folded_upsampling_is_upsampling_and_a_convolution(folded, height, width, channels, outputs, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        conv = torch.nn.Conv2d(channels, outputs, 3, padding=1).double().requires_grad_(False)
        x = torch.randn(2, channels, height, width, dtype=torch.float64)
    u = F.interpolate(x, scale_factor=2.0, mode="nearest")
    torch.testing.assert_close(folded(conv)(x), conv(u), rtol=0, atol=1e-12)
    torch.testing.assert_close(folded(conv).plain(x), F.conv2d(u, conv.weight, padding=1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("network", NETWORKS)
@torch.inference_mode()
def test_every_swap_keeps_what_the_network_computes(network):
    unet = random_unet(NETWORKS[network])
    untouched = copy.deepcopy(unet.state_dict())
    errors = call_trials.float64_errors(unet, list(call_swaps.SWAPS), 16)
    assert errors.keys() == call_swaps.SWAPS.keys()
    assert max(errors.values()) < call_trials.EXACT
    assert all(torch.equal(value, untouched[name]) for name, value in unet.state_dict().items())


@pytest.mark.parametrize("network", NETWORKS)
@torch.inference_mode()
def test_swapped_networks_can_decode_twice_and_say_the_same(network):
    """An injection does: a part that wrote over a skip would be noticed at the second."""
    unet = random_unet(NETWORKS[network])
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([20, 500])
    wanted = unet.decode(*unet.encode(x, t))
    for _, swap in call_swaps.SWAPS.values():
        other = call_swaps.swapped(unet, swap)
        encoded = other.encode(x, t)
        first, second = other.decode(*encoded), other.decode(*encoded)
        assert torch.equal(first, second)
        torch.testing.assert_close(first, wanted, rtol=0, atol=1e-5)


def test_a_swap_of_no_upsampling_is_seen_in_the_network():
    """Else a trial would time a network against itself."""
    for architecture in (NETWORKS["ddpm"], NETWORKS["adm"], NETWORKS["adm, no scales and shifts"]):
        other = call_swaps.swapped(random_unet(architecture), call_swaps.SWAPS["fold"][1])
        assert [module for module in other.modules() if isinstance(module, call_swaps.FoldedTransposed)]
    other = call_swaps.swapped(random_unet(NETWORKS["ddpm"]), call_swaps.SWAPS["norm"][1])
    assert len([module for module in other.modules() if isinstance(module, call_swaps.DDPMBlock)]) == 8


def test_the_command_writes_its_tables_into_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(call_trials, "matmul_peak", lambda dtype, device: 1e11)
    page = tmp_path / "page.md"
    begin, end = call_trials.markers("cpu")
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    call_trials.main(["--model", TINY, "--pairs", "2", "--threads", "1", "--write", str(page)])
    text = page.read_text()
    assert text.startswith(f"before\n{begin}\n")
    assert text.endswith(f"\n{end}\nafter\n")
    assert "\nold\n" not in text
    assert "what takes longest" in capsys.readouterr().out
    for precision in ("float32", "bfloat16"):
        section = text.split(f", {precision}, 32 px, batch of 1\n")[1].split("####")[0]
        kinds = [line.split(" | ") for line in section.splitlines() if line.startswith(KINDS)]
        assert len(kinds) == len(KINDS)
        assert sum(float(row[2].strip("% |")) for row in kinds) == pytest.approx(100, abs=0.5)
        rows = [[cell.strip() for cell in line.split("|")] for line in section.splitlines() if "| eager |" in line]
        assert [row[2] for row in rows] == [words for words, _ in call_swaps.SWAPS.values()]
        assert all(float(row[3]) < 1e-10 for row in rows)
        assert [row[2] for row in rows if row[8]] == [call_trials.WORDS[name] for name in call_trials.ON_A_CPU]
    assert "**" not in text  # nothing wrong, nothing too far


def test_the_page_of_the_notes_has_its_place_for_both_devices():
    text = (ROOT / "docs/notes/speed.md").read_text()
    assert all(marker in text for device in ("cpu", "cuda") for marker in call_trials.markers(device))


def test_what_differs_is_marked():
    row = call_trials.Row("eager", "broken", [], 1e-3, 30.0, (62.0, 29.0))
    assert "| 1e-03, **wrong** | 30.0, **too far** | 62.0, 29.0 |" in row.line(1.0, 1.0, 60.0)
    row = call_trials.Row("eager", "right", [(0.2, 0.1), (0.4, 0.2), (0.2, 0.1)], 1e-15, 70.0, (62.0, 62.0))
    line = row.line(1e9, 1e10, 60.0)
    assert "**" not in line
    assert "| 200.00 | 100.00 | 50.0 % (50.0 to 50.0) | 50.0% | 100.0% |" in line


def test_no_trial_begins_after_the_time_that_is_allowed(monkeypatch, capsys):
    monkeypatch.setattr(call_trials, "matmul_peak", lambda dtype, device: 1e11)
    call_trials.main(["--model", TINY, "--precision", "float32", "--seconds", "0"])
    out = capsys.readouterr().out
    assert "What is missing was not begun: 0 s were allowed." in out
    assert "| eager |" not in out


def test_decibels_are_of_the_range():
    wanted = torch.tensor([0.0, 4.0, 2.0, 2.0])
    assert call_trials.decibels(wanted + 0.04, wanted) == pytest.approx(40, abs=0.01)
    assert call_trials.decibels(wanted, wanted) == float("inf")


@torch.inference_mode()
def test_a_call_without_copies_is_the_graphs_alone():
    unet = random_unet(NETWORKS["ddpm"])
    x, t = torch.randn(1, 3, 16, 16), torch.full((1,), 500)
    replays = []

    def record(run):
        return run(), lambda: replays.append(run)

    graphed = GraphedHalves(unet.encode, unet.decode, x, t, record, (unet.encode, unet.decode))
    call_trials.without_copies(graphed)()
    assert len(replays) == 2
    assert replays[0] is not replays[1]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("_moments", "norms"),
        ("_apply", "norms"),
        ("_add", "pointwise"),
        ("triton_red_fused_add_mean_mul_sub_7", "norms"),
        ("triton_poi_fused__to_copy_add_addcmul_clamp_min_mean_mul_rsqrt_silu_12", "norms"),
        ("triton_poi_fused_add_convolution_3", "pointwise"),
        ("triton_poi_fused_cat_9", "copies and layout"),
        ("sm90_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc_tilesize128x128x64", "convolutions"),
        ("void cutlass__5x_cudnn::Kernel<cutlass_tensorop_f16_s16816fprop_optimized_f16>", "convolutions"),
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_NNT", "matrix products, attention"),
        ("pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128>>", "matrix products, attention"),
        ("void cudnn::ops::nchwToNhwcKernel<__half, __half, float>", "copies and layout"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::silu_kernel>", "pointwise"),
        ("void at::native::elementwise_kernel<128, at::native::direct_copy_kernel_cuda>", "copies and layout"),
        ("Memcpy DtoD (Device -> Device)", "copies and layout"),
        ("something else", "rest"),
    ],
)
def test_kernels_are_sorted_by_their_names(name, kind):
    assert call_profile.kind_of(name, "cuda") == kind


def test_it_needs_little_beside_torch():
    """A machine with a GPU that is lent for minutes has PyTorch, and not what the pipeline needs."""
    code = "import sys, call_trials; print(sorted({'pydantic', 'ray', 'pyarrow', 'click', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], **in_benchmarks())
    assert done.stdout.strip() == "[]", done.stderr


def in_benchmarks(**environment: str) -> dict:
    """How a process is run as the commands of that folder are."""
    path = os.pathsep.join([str(BENCHMARKS), str(ROOT)])
    return {
        "env": {**os.environ, "PYTHONPATH": path, **environment},
        "capture_output": True,
        "text": True,
        "timeout": 300,
    }


@pytest.mark.slow
def test_the_triton_kernels_are_right_in_its_interpreter():
    pytest.importorskip("triton")
    done = subprocess.run([sys.executable, "norm_kernels.py"], cwd=BENCHMARKS, **in_benchmarks(TRITON_INTERPRET="1"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": ") == 40


WHOLE_NETWORK = """
import copy
import torch, call_swaps, call_trials
from test_call_trials import NETWORKS
assert call_swaps.INTERPRETED
with torch.inference_mode():
    for name, dtype, least in (("ddpm", torch.float32, 100), ("adm", torch.float16, 60)):
        unet = call_trials.random_network(NETWORKS[name])
        untouched = call_trials.estimates(copy.deepcopy(unet).cast(dtype), 1, 8, "cpu")
        other = call_swaps.swapped(unet, call_swaps.SWAPS["all"][1]).cast(dtype)
        near = call_trials.decibels(call_trials.estimates(other, 1, 8, "cpu"), untouched)
        print(name, dtype, near)
        assert least < near < float("inf")
"""


@pytest.mark.slow
def test_a_network_with_the_triton_kernels_says_what_the_untouched_one_says():
    pytest.importorskip("triton")
    options = in_benchmarks(TRITON_INTERPRET="1")
    options["env"]["PYTHONPATH"] += os.pathsep + str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", WHOLE_NETWORK], **options)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.cuda
@pytest.mark.slow
def test_the_trials_on_a_gpu(monkeypatch, capsys):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    call_trials.main(["--device", "cuda", "--model", TINY, "--batch", "4", "--pairs", "3"])
    out = capsys.readouterr().out
    assert "Triton kernels, each by itself: all right." in out
    assert "**" not in out
    assert out.count("| compiled |") == len(call_trials.WORDS)
    assert out.count("| eager |") == len(call_swaps.SWAPS)
