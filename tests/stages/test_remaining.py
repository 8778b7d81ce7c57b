"""Which pairs are left to do: those wanted, less those done, less those that failed, each once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.jobfile.schema import Job, Pictures
from pipeline.results.manifest import KnownPairs
from pipeline.stages import inject
from pipeline.stages.inject import PairPlan, all_remaining, remaining, units
from pipeline.stages.masks import Masks
from pipeline.stages.pairs import Entries, wanted_pairs
from pipeline.stages.recipe import Recipe, make_recipe
from pipeline.stages.walk import Walk
from pipeline.storage.identity import digest, pair_id
from pipeline.storage.pair_ids import PairIds
from pipeline.storage.place import Place


def job(**changes) -> Job:
    return Job(model="m", output="o", content="c", style="s", **changes)


def side(prefix: str, n: int) -> Entries:
    rows = [{"key": f"{prefix}{i}", "image": f"{prefix}{i:031}", "source": f"{prefix}{i}.png"} for i in range(n)]
    return Entries(rows)


def recipe(gamma: float = 0.3, masks: Masks | None = None) -> Recipe:
    (settings,) = job(injection={"gamma": gamma, "plan": {"grid": 50}}).settings()
    walk = Walk(50)
    return make_recipe(settings, walk, walk.grid, {}, masks or Masks())


def plan(*recipes: Recipe, n_contents: int = 3, n_styles: int = 2) -> PairPlan:
    contents, styles = side("c", n_contents), side("s", n_styles)
    return PairPlan(list(recipes), contents, styles, wanted_pairs(job(), contents, styles))


ONE = recipe()


def texts(wanted: PairPlan, of: Recipe) -> list[str]:
    return [f"{high:016x}{low:016x}" for ids in wanted.ids(of) for high, low in ids.tolist()]


def known(done, failed=()) -> KnownPairs:
    return KnownPairs(PairIds.of(done), PairIds.of(failed))


def test_ids_are_those_of_the_pairs_in_their_order():
    wanted = plan(ONE)
    expected = [
        pair_id(wanted.contents.images[c], wanted.styles.images[s], ONE.digest) for c in range(3) for s in range(2)
    ]
    assert texts(wanted, ONE) == expected
    assert len(wanted) == 6
    assert len(plan(ONE, recipe(0.4))) == 12


@given(st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5)), st.booleans())
def test_what_is_wanted_less_what_is_known(done, failed, retry):
    failed = failed - done
    wanted = plan(ONE)
    ids = texts(wanted, ONE)
    left = remaining(wanted, ONE, known([*(ids[n] for n in done), "another"], [ids[n] for n in failed]), retry)
    expected = [n for n in range(6) if n not in done and (retry or n not in failed)]
    assert list(zip(left.contents.tolist(), left.styles.tolist(), strict=True)) == [(n // 2, n % 2) for n in expected]
    assert left.n_done == len(done)
    assert left.n_failed == (0 if retry else len(failed))
    assert set(left.again) == ({ids[n] for n in failed} if retry else set())
    assert left.n_twice == 0


@given(st.sets(st.integers(0, 11), max_size=11), st.integers(1, 5))
def test_tiles_hold_the_pairs_that_are_left_and_no_others(done, size):
    wanted = plan(ONE, n_contents=3, n_styles=4)
    ids = texts(wanted, ONE)
    left = remaining(wanted, ONE, known(ids[n] for n in done))
    places = {name: Place.parse(f"/nowhere/{name}") for name in ("output", "content_bank", "style_bank")}
    tiles = list(units(left, wanted, {}, pictures=Pictures(), size=lambda left: size, **places))
    pairs = [pair for tile in tiles for pair in tile.pairs]
    assert sorted(pair.id for pair in pairs) == sorted(ids[n] for n in range(12) if n not in done)
    for pair in pairs:
        assert pair.id == pair_id(pair.content["image"], pair.style["image"], ONE.digest)
    for tile in tiles:
        halves = tile.split()
        assert [pair for half in halves for pair in half.pairs] == (list(tile.pairs) if len(tile.pairs) > 1 else [])
        assert len({tile.name, *(half.name for half in halves)}) == 1 + len(halves)


def test_a_tile_carries_the_masks_of_its_contents():
    masks = own_masks(0.1, 0.2, 0.3)
    one = recipe(masks=masks)
    wanted = plan(one)
    (left,) = all_remaining(wanted, known([]))
    places = {name: Place.parse(f"/nowhere/{name}") for name in ("output", "content_bank", "style_bank")}
    for tile in units(left, wanted, {}, pictures=Pictures(), size=lambda left: 1, **places):
        (pair,) = tile.pairs
        image = pair.content["image"]
        assert tile.recipe.masks.own.keys() == {image}
        assert pair.mask == masks.own_hash(image) != ""
        assert pair.id == pair_id(image, pair.style["image"], one.digest, pair.mask)


def own_masks(*values: float) -> Masks:
    return Masks(own={f"c{n:031}": np.full((1, 8, 8), value, np.float32) for n, value in enumerate(values)})


def test_a_pair_is_told_apart_by_its_contents_own_mask():
    one, other = recipe(masks=own_masks(0.1, 0.2, 0.3)), recipe(masks=own_masks(0.1, 0.2, 0.4))
    assert one.digest == other.digest  # the recipe says that each has its own
    wanted = plan(one, other)
    first, second = (texts(wanted, each) for each in (one, other))
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, True, True, True, False, False]
    assert first[0] == pair_id(
        wanted.contents.images[0], wanted.styles.images[0], one.digest, digest(one.masks.own[f"c{0:031}"].tobytes())
    )


def test_a_pair_of_two_mask_folders_is_planned_once():
    masks = own_masks(0.1, 0.2, 0.3), own_masks(0.1, 0.2, 0.4)
    one, other = (recipe(masks=each) for each in masks)
    wanted = plan(one, other)
    first, second = all_remaining(wanted, known([]))
    assert (len(first.contents), first.n_twice) == (6, 0)
    assert list(zip(second.contents.tolist(), second.styles.tolist(), strict=True)) == [(2, 0), (2, 1)]
    assert second.n_twice == 4
    # What is done counts for the recipe that asks first.
    done = texts(wanted, one)[:2]
    first, second = all_remaining(wanted, known(done))
    assert (first.n_done, len(first.contents), second.n_done, len(second.contents)) == (2, 4, 0, 2)


@pytest.mark.parametrize("retry", [False, True])
def test_recipes_without_masks_share_nothing(retry):
    wanted = plan(ONE, recipe(0.4))
    ids = texts(wanted, ONE)
    first, second = all_remaining(wanted, known(ids[:1], ids[1:3]), retry)
    assert (len(first.contents), first.n_done, first.n_failed) == ((5, 1, 0) if retry else (3, 1, 2))
    assert (len(second.contents), second.n_done, second.n_failed) == (6, 0, 0)


@pytest.mark.parametrize("at_once", [1, 2, 5, 100])
def test_ids_come_in_pieces_that_cut_contents_anywhere(monkeypatch, at_once):
    wanted = plan(recipe(masks=own_masks(0.1, 0.2, 0.3)), n_contents=3, n_styles=4)
    (one,) = wanted.recipes
    whole = texts(wanted, one)
    monkeypatch.setattr(inject, "_IDS_AT_ONCE", at_once)
    assert texts(wanted, one) == whole
    left = remaining(wanted, one, known(whole[5:7], whole[11:]))
    assert list(zip(left.contents.tolist(), left.styles.tolist(), strict=True)) == [
        (n // 4, n % 4) for n in range(12) if n not in (5, 6, 11)
    ]
