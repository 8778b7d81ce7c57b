"""What is done for speed may not change the picture; numbers are in docs/notes/speed.md."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from diffstyle.errors import ConfigError
from diffstyle.injection import Injection, aligned_plan, event_timesteps
from diffstyle.networks.unet import GroupNorm
from diffstyle.plan import inversion_plan
from diffstyle.sampling import ddim_invert, inject
from pipeline.models.accelerate import compiles, speed_up_halves, tuned
from pipeline.models.cuda_graphs import GraphedHalves


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
    exact = torch.nn.GroupNorm(norm.num_groups, norm.num_channels, norm.eps).double()
    exact.load_state_dict({name: value.double() for name, value in norm.state_dict().items()})
    for mean in (0, 20, 1000):
        y = (3 * torch.randn(2, norm.num_channels, 8, 8) + mean).contiguous(memory_format=torch.channels_last)
        answer = norm.written_out(y)
        assert answer.is_contiguous(memory_format=torch.channels_last)
        assert relative(answer, exact(y.double())) < 1e-4


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


def recompute(run):
    """A recorder for machines without graphs: a replay computes again and writes over the first outputs."""

    def flat(value):
        return [value] if isinstance(value, torch.Tensor) else [part for piece in value for part in flat(piece)]

    outputs = run()

    @torch.inference_mode()  # a graph asks for no mode
    def replay() -> None:
        for old, new in zip(flat(outputs), flat(run()), strict=True):
            old.copy_(new)

    return outputs, replay


def whole_injection(unet, device: str, pictures: torch.Tensor) -> torch.Tensor:
    """With calibration and events, so that outputs must outlive later calls: a graph reuses its memory."""
    walk = inversion_plan(10)
    plan = aligned_plan(Injection(event_timesteps(5), 300, 0, 1.0, 0, calibrate=True), walk.kept, 1, 4, order=2)
    x_T, h = ddim_invert(unet, pictures.to(device), walk)
    return inject(unet, x_T, h.flip(0), walk.kept, plan, 0.5, omega=0.3)


def test_graphed_halves_make_the_pictures_of_the_plain_ones(unet):
    pictures = torch.randn(2, 3, 16, 16).clamp(-1, 1)
    wanted = whole_injection(unet, "cpu", pictures)
    encode, decode = unet.encode, unet.decode
    with torch.inference_mode():
        x, t = torch.zeros(2, 3, 16, 16), torch.zeros(2, dtype=torch.int64)
        graphed = GraphedHalves(encode, decode, x, t, recompute, (encode, decode))
    unet.encode, unet.decode = graphed.encode, graphed.decode
    assert torch.equal(whole_injection(unet, "cpu", pictures), wanted)
    three = torch.randn(3, 3, 16, 16)  # another batch is computed as before
    with torch.inference_mode():
        assert torch.equal(
            unet.decode(*unet.encode(three, torch.full((3,), 7))), decode(*encode(three, torch.full((3,), 7)))
        )


def test_graphed_halves_take_what_the_plain_ones_take(unet):
    encode, decode = unet.encode, unet.decode
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([10.7, 900.0])  # fractional timesteps
    with torch.inference_mode():
        graphed = GraphedHalves(encode, decode, x, torch.zeros(2, dtype=torch.int64), recompute, (encode, decode))
    with torch.no_grad():  # not the mode that it was recorded in
        assert relative(graphed.encode(x, t).emb, encode(x, t).emb) < 1e-6
        old = graphed.encode(x, t)
        new = graphed.encode(2 * x, t)
        with pytest.raises(RuntimeError, match="overwritten by a later encode"):
            graphed.decode(*old)
        assert torch.equal(graphed.decode(new.h, new.skips, new.emb), decode(*encode(2 * x, t)))


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_compiling_is_for_gpus(device):
    with pytest.raises(ConfigError, match=rf"compute\.compile is true, but the device is {device}; say auto or false"):
        compiles(True, device, 256)


def test_what_cannot_be_recorded_or_compiled_is_declined_and_the_eager_network_stays(unet):
    note = speed_up_halves(unet, "cpu", 1, compiled=False)  # no CUDA here, so no graphs
    assert note.startswith("CUDA graphs declined: ")
    assert note.endswith("; going on with the eager network")
    assert "encode" not in vars(unet)


def test_a_compiler_that_fails_leaves_graphs_of_the_eager_network(unet, monkeypatch):
    def broken(function, **options):
        def call(*args):
            raise RuntimeError("no Triton")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr("pipeline.models.cuda_graphs.cuda_recorder", lambda: recompute)
    note = speed_up_halves(unet, "cpu", 2, compiled=True)
    assert note.startswith("compiled CUDA graphs declined: no Triton; CUDA graphs of batches of 2: ready in ")
    assert "encode" in vars(unet)


@pytest.mark.parametrize(("factor", "said"), [(1.1, "0.100"), (float("nan"), "nan")])
def test_a_compiler_that_is_wrong_is_declined(unet, monkeypatch, factor, said):
    monkeypatch.setattr(torch, "compile", lambda function, **options: lambda *args: spoilt(function(*args)))
    monkeypatch.setattr("pipeline.models.cuda_graphs.cuda_recorder", lambda: recompute)

    def spoilt(out):
        return out * factor if isinstance(out, torch.Tensor) else out

    assert f"compiled CUDA graphs declined: its result is off by {said}" in speed_up_halves(unet, "cpu", 1, True)


def test_a_batch_too_large_to_record_is_told_to_the_caller(unet, monkeypatch):
    def no_room(run):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr("pipeline.models.cuda_graphs.cuda_recorder", lambda: no_room)
    with pytest.raises(torch.OutOfMemoryError):
        speed_up_halves(unet, "cpu", 1, compiled=False)
    assert "encode" not in vars(unet)


@pytest.mark.cuda
@pytest.mark.parametrize("compiled", [False, True])
def test_cuda_graphs_make_the_pictures_of_the_eager_network_from_any_thread(unet, cuda, compiled):
    unet = unet.to(cuda)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    pictures = torch.randn(2, 3, 16, 16).clamp(-1, 1)
    wanted = whole_injection(unet, cuda, pictures)
    note = speed_up_halves(unet, cuda, 2, compiled)
    assert "declined" not in note, note
    assert relative(whole_injection(unet, cuda, pictures), wanted) < 1e-3
    for _ in range(2):  # a worker's units come in several threads
        with ThreadPoolExecutor(1) as thread:
            assert relative(thread.submit(whole_injection, unet, cuda, pictures).result(), wanted) < 1e-3


@pytest.mark.cuda
@torch.inference_mode()
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
def test_a_gpu_gives_the_cpus_estimate(unet, cuda, precision):
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([10, 900])
    wanted = unet(x, t)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    answer = unet.cast(precision).to(cuda)(x.to(cuda), t.to(cuda))
    assert relative(answer, wanted) < {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}[precision]
