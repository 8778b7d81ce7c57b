"""Cutting pairs into tiles, and how large tiles are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stages.tiles import Sizer, Tile, most_pairs, plan_tiles


def grid(n_contents: int, n_styles: int) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat(np.arange(n_contents), n_styles), np.tile(np.arange(n_styles), n_contents)


def pairs_of(tiles: list[Tile]) -> list[tuple[int, int]]:
    return [pair for tile in tiles for pair in zip(tile.contents.tolist(), tile.styles.tolist(), strict=True)]


@given(st.sets(st.tuples(st.integers(0, 30), st.integers(0, 20))), st.lists(st.integers(1, 40), min_size=1))
def test_every_pair_is_in_exactly_one_tile_of_the_size_asked_for(pairs, sizes):
    array = np.array(list(pairs), np.int64).reshape(-1, 2)
    asked = []

    def size(left: int) -> int:
        asked.append(sizes[len(asked) % len(sizes)])
        return asked[-1]

    tiles = list(plan_tiles(array[:, 0], array[:, 1], size))
    got = pairs_of(tiles)
    assert len(got) == len(pairs)
    assert set(got) == pairs
    assert [len(tile) for tile in tiles[:-1]] == asked[: len(tiles) - 1]


@pytest.mark.parametrize("size", [16, 100, 256, 1000])
def test_tiles_of_a_grid_are_about_square(size):
    for tile in plan_tiles(*grid(200, 150), size):
        entries = len(set(tile.contents.tolist())) + len(set(tile.styles.tolist()))
        assert entries <= 4.5 * size**0.5 + 4  # 2 sqrt(n) is the least


def test_what_is_missing_of_an_extended_grid_is_cut_too():
    c, s = grid(25, 25)
    new = (c >= 20) | (s >= 20)
    tiles = list(plan_tiles(c[new], s[new], 16))
    assert sorted(pairs_of(tiles)) == sorted(zip(c[new].tolist(), s[new].tolist(), strict=True))
    assert len(tiles) == 15


def test_zipped_pairs_are_runs():
    tiles = list(plan_tiles(np.arange(100), np.arange(100), 8))
    assert [len(tile) for tile in tiles] == [8] * 12 + [4]


def test_a_size_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one pair"):
        list(plan_tiles(*grid(2, 2), 0))


def test_no_pairs_no_tiles():
    assert list(plan_tiles(*grid(0, 5), 4)) == []


# ---- how large ----


def sizes(sizer: Sizer, calls: int, pairs: int, per_call: float | None = None) -> list[int]:
    """All tiles of a run in which every network call takes ``per_call`` seconds."""
    found = []
    while pairs:
        found.append(sizer.next(calls, pairs))
        pairs -= found[-1]
        if per_call is not None:
            sizer.measured(found[-1], calls, found[-1] * calls * per_call)
    return found


def test_tiles_take_the_target_time_in_whole_batches():
    found = sizes(Sizer(10_000, 16, 2, seconds=120, most=5000, per_call=0.01), 50, 10_000)
    assert found[0] == 240  # 240 x 50 x 0.01 s = 120 s
    assert all(n % 16 == 0 for n in found)
    assert sum(found) == 10_000


def test_the_first_tile_is_a_batch_until_the_speed_is_known():
    found = sizes(Sizer(10_000, 4, 1, seconds=10, most=5000), 10, 10_000, per_call=0.01)
    assert found[0] == 4
    assert found[1] == 100


def test_a_new_speed_is_taken_up():
    sizer = Sizer(10**6, 1, 1, seconds=10, most=10**6, per_call=1.0)
    assert sizer.next(10, 10**6) == 1
    for _ in range(20):
        sizer.measured(100, 10, 100 * 10 * 0.001)
    assert 990 <= sizer.next(10, 10**6) <= 1000


def test_memory_bounds_a_tile():
    assert max(sizes(Sizer(10_000, 8, 1, seconds=1e9, most=100, per_call=1e-9), 1, 10_000)) == 96


def test_a_batch_goes_through_even_if_slow_or_large():
    assert sizes(Sizer(8, 4, 1, seconds=0.001, most=1, per_call=100.0), 50, 8) == [4, 4]


def test_tiles_shrink_so_that_workers_end_together():
    found = sizes(Sizer(4000, 4, 4, seconds=1e9, most=10**6, per_call=0.001), 10, 4000)
    assert found == sorted(found, reverse=True)
    assert found[0] <= 4000 / 4 / 4 + 4
    assert found[-4:] == [4] * 4


def test_tiles_of_a_sweep_take_their_number_of_calls_into_account():
    sizer = Sizer(10**6, 1, 1, seconds=100, most=10**6, per_call=0.01)
    assert (sizer.next(10, 10**6), sizer.next(100, 10**6)) == (1000, 100)


@given(st.floats(1e6, 1e11), st.integers(1, 10**7), st.integers(1, 10**6), st.integers(1, 10**6))
def test_a_square_tile_fits_in_memory(memory, h, x_T, picture):
    n = most_pairs(memory, h, x_T, picture)
    assert n == 1 or n * picture + 2 * n**0.5 * (h + x_T) <= memory * 1.001
