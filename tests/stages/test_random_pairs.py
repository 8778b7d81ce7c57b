"""Random pairs, held against the rule that chooses them: so many styles a content, by the throws that hit them."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.jobfile.schema import Job
from pipeline.stages import random_pairs
from pipeline.stages.pairs import Entries, wanted_pairs


def side(names: list[str]) -> Entries:
    return Entries([{"key": name, "image": name, "source": name} for name in names])


def chosen(k: int, seed: int, contents: list[str], styles: list[str]) -> list[tuple[str, str]]:
    job = Job(model="m", output="o", content="c", style="s", pairs={"random": k, "seed": seed})
    wanted = wanted_pairs(job, side(contents), side(styles))
    return [(contents[c], styles[s]) for c, s in zip(wanted.contents.tolist(), wanted.styles.tolist(), strict=True)]


CIRCLE, MASK = 2**62, 2**64 - 1


def number(seed: int, image: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{image}".encode(), digest_size=8).digest(), "little")


def throw(start: int, n: int) -> int:
    z = (start + n * 0x9E3779B97F4A7C15) & MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return (z ^ (z >> 31)) >> 2


def by_the_rule(k: int, seed: int, contents: list[str], styles: list[str]) -> list[tuple[str, str]]:
    """The rule written out plainly. Another choice would add other pairs to every output that is there."""
    pairs = []
    for content in contents:
        start, order = number(seed, content), []
        n, width = 1, CIRCLE >> 24
        while len(order) < min(k, len(styles)):
            behind = {style: (throw(start, n) - (number(seed, style) >> 2)) % CIRCLE for style in styles}
            hit = [style for style in styles if behind[style] < width and style not in order]
            order += sorted(hit, key=behind.__getitem__)
            n, width = n + 1, min(width + (width >> 7), CIRCLE)
        pairs += [(content, style) for style in styles if style in order[:k]]
    return pairs


names = st.lists(st.text("abcdef0123456789", min_size=32, max_size=32), min_size=1, max_size=8, unique=True)


few = st.lists(st.text("abcdef0123456789", min_size=32, max_size=32), min_size=1, max_size=3, unique=True)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 10), st.integers(0, 5), few, names)
def test_the_choice_is_the_rules(k, seed, contents, styles):
    assert chosen(k, seed, contents, styles) == by_the_rule(k, seed, contents, styles)


@settings(deadline=None)
@given(st.integers(1, 10), names, names)
def test_contents_choose_apart_from_one_another(k, contents, styles):
    alone = [pair for content in contents for pair in chosen(k, 0, [content], styles)]
    assert chosen(k, 0, contents, styles) == alone


def test_contents_and_seeds_choose_differently():
    styles = [f"s{n:031}" for n in range(20)]
    choices = {
        tuple(style for _, style in chosen(3, seed, [f"c{n:031}"], styles)) for n in range(10) for seed in range(2)
    }
    assert len(choices) > 15


@pytest.mark.parametrize("n", [1, 3])
def test_more_than_there_are_is_all(n):
    styles = [f"s{i}" for i in range(n)]
    assert chosen(99, 0, ["a", "b"], styles) == [(content, style) for content in "ab" for style in styles]


def images(kind: str, n: int) -> list[str]:
    return [hashlib.blake2b(f"{kind}{i}".encode(), digest_size=16).hexdigest() for i in range(n)]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(0, 99), st.integers(0, 39))
def test_a_style_that_comes_takes_one_place_and_one_that_goes_leaves_one(k, seed, n):
    contents, styles = images("c", 6), images("s", 40)
    less = [style for style in styles if style != styles[n]]
    before, after = (set(chosen(k, seed, contents, some)) for some in (less, styles))
    for content in contents:
        gone = {pair for pair in before - after if pair[0] == content}
        assert len(gone) == ((content, styles[n]) in after)


def test_all_styles_are_equally_likely():
    n = 4000
    counts = Counter(style for _, style in chosen(5, 0, images("c", n), images("s", 50)))
    mean, spread = n * 5 / 50, (n * 0.1 * 0.9) ** 0.5
    assert len(counts) == 50
    assert all(abs(count - mean) < 5 * spread for count in counts.values())


@pytest.mark.parametrize("n", [100, 1000, 10_000])
def test_what_a_choice_takes_does_not_grow_with_the_styles(monkeypatch, n):
    """Neither a hash of each content with each style, nor more throws at more styles."""
    hashed, thrown = [], []
    hashes, throws = random_pairs._hashes, random_pairs.throws
    monkeypatch.setattr(random_pairs, "_hashes", lambda seed, some: hashed.append(len(some)) or hashes(seed, some))
    monkeypatch.setattr(random_pairs, "throws", lambda some, n: thrown.append(len(some) * n) or throws(some, n))
    assert len(chosen(10, 0, images("c", 300), images("s", n))) == 3000
    assert sum(hashed) == 300 + n
    assert sum(thrown) < 300 * 1500
