"""Other ways to transfer style, on cases whose answers are known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pipeline.bench.batches import over_batches
from pipeline.bench.peers import linear_transport, sliced_transport, statistics_transfer
from pipeline.measures.features import unit_feature_distance
from pipeline.measures.pixels import colour_distance


def pictures(seed: int, mix: torch.Tensor | None = None) -> torch.Tensor:
    """Colours about (0.1, -0.2, 0), correlated by ``mix``, far from the ends of the range."""
    values = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 0.1
    if mix is not None:
        values = torch.einsum("ij,njhw->nihw", mix, values)
    return values + torch.tensor([0.1, -0.2, 0.0]).view(1, 3, 1, 1)


MIX = torch.tensor([[1.0, 0.8, 0.0], [0.0, 0.6, -0.5], [0.3, 0.0, 1.2]])


def moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    flat = x.double().flatten(2)
    return flat.mean(2), torch.stack([torch.cov(colours, correction=0) for colours in flat])


@pytest.mark.parametrize("transfer", [sliced_transport, linear_transport])
def test_the_same_colours_stay(transfer):
    x = pictures(0, MIX)
    torch.testing.assert_close(transfer(x, x), x, atol=1e-4, rtol=0)


def test_linear_transport_gives_mean_and_covariance():
    x, y = pictures(0), pictures(1, MIX)
    torch.testing.assert_close(moments(linear_transport(x, y)), moments(y), atol=1e-5, rtol=1e-3)
    # Of Gaussians that differ by a scale alone, the least move is that scale, without any turn.
    mean = x.mean((2, 3), keepdim=True)
    torch.testing.assert_close(linear_transport(x, mean + 2 * (x - mean)), mean + 2 * (x - mean), atol=1e-4, rtol=0)
    # Of all linear maps between two covariances only the one that moves least is symmetric.
    other = pictures(2, torch.diag(torch.tensor([0.3, 1.0, 2.0])))
    flat, moved = ((z - z.mean((2, 3), keepdim=True))[0].flatten(1) for z in (other, linear_transport(other, y)))
    map_found = torch.linalg.lstsq(flat.T, moved.T).solution
    torch.testing.assert_close(map_found, map_found.T, atol=1e-3, rtol=0)
    grey = torch.zeros(1, 3, 8, 8)
    assert linear_transport(grey, y[:1, :, :8, :8]).isfinite().all()


def test_sliced_transport_gives_the_joint_colours():
    x, y = pictures(0), pictures(1, MIX)
    moved = sliced_transport(x, y, 60)
    torch.testing.assert_close(moments(moved), moments(y), atol=1e-3, rtol=0.05)
    assert (colour_distance(moved, y, 16) < colour_distance(sliced_transport(x, y, 1), y, 16)).all()
    # The pixels of y in another order have only one way to be y's colours, and stay where they are.
    mixed = y.flatten(2)[:, :, torch.randperm(256, generator=torch.Generator().manual_seed(0))].reshape(y.shape)
    torch.testing.assert_close(sliced_transport(mixed, y), mixed, atol=1e-4, rtol=0)


class TwoLayers:
    """In place of the VGG network: the picture itself and its means over 2 x 2, made positive."""

    def maps(self, x: torch.Tensor, side: int) -> list[torch.Tensor]:
        return [x + 2, F.avg_pool2d(x + 2, 2)]


def test_statistics_transfer_brings_the_styles_statistics():
    x, y = pictures(0), pictures(1, MIX) + 0.3
    moved = statistics_transfer(TwoLayers(), x, y)
    assert (moved.mean((2, 3)) - y.mean((2, 3))).abs().max() < 0.05
    own = statistics_transfer(TwoLayers(), x, x, steps=20)
    torch.testing.assert_close(own, x, atol=0.05, rtol=0)  # nothing to change
    # A picture's result does not depend on those beside it.
    torch.testing.assert_close(statistics_transfer(TwoLayers(), x[:1], y[:1]), moved[:1], atol=1e-4, rtol=0)


def test_distance_of_unit_features():
    x = [torch.rand(2, 4, 5, 5) + 0.1, torch.rand(2, 8, 2, 2) + 0.1]
    torch.testing.assert_close(unit_feature_distance(x, [3 * z for z in x]), torch.zeros(2), atol=1e-6, rtol=0)
    one, other = torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)
    one[:, 0], other[:, 1] = 5, 1
    assert unit_feature_distance([one], [other]).item() == pytest.approx(2)
    assert unit_feature_distance([one, one], [other, one]).item() == pytest.approx(1)


def test_batches_are_of_one_size_and_of_an_even_number():
    """Two cores end together, and a last small batch doesn't take a turn of its own."""
    for count, batch, sizes in (
        (104, 16, [13] * 8),
        (20, 16, [10, 10]),
        (3, 16, [2, 1]),
        (1, 16, [1]),
        (33, 16, [9, 8, 8, 8]),
    ):
        assert [len(i) for i in over_batches(lambda i: i, count, batch)] == sizes


def test_batches_keep_their_order_and_torchs_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert torch.cat(over_batches(lambda i: i * 2, 37, 5)).tolist() == list(range(0, 74, 2))
        assert torch.get_num_threads() == 3
        with pytest.raises(ZeroDivisionError):
            over_batches(lambda i: 1 // 0, 3)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
