"""Random pairs, held against the rule that chooses them: so many styles a content, by the smallest hash of both."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.jobfile.schema import Job
from pipeline.stages.pairs import Entries, wanted_pairs


def side(names: list[str]) -> Entries:
    return Entries([{"key": name, "image": name, "source": name} for name in names])


def chosen(k: int, seed: int, contents: list[str], styles: list[str]) -> list[tuple[str, str]]:
    job = Job(model="m", output="o", content="c", style="s", pairs={"random": k, "seed": seed})
    wanted = wanted_pairs(job, side(contents), side(styles))
    return [(contents[c], styles[s]) for c, s in zip(wanted.contents.tolist(), wanted.styles.tolist(), strict=True)]


def by_the_rule(k: int, seed: int, contents: list[str], styles: list[str]) -> list[tuple[str, str]]:
    """The rule written out plainly. Another choice would add other pairs to every output that is there."""
    pairs = []
    for content in contents:
        hashes = {
            style: hashlib.blake2b(f"{seed}/{content}{style}".encode(), digest_size=8).digest() for style in styles
        }
        nearest = sorted(styles, key=hashes.__getitem__)[:k]
        pairs += [(content, style) for style in styles if style in nearest]
    return pairs


names = st.lists(st.text("abcdef0123456789", min_size=32, max_size=32), min_size=1, max_size=8, unique=True)


@given(st.integers(1, 10), st.integers(0, 5), names, names)
def test_the_choice_is_the_rules(k, seed, contents, styles):
    assert chosen(k, seed, contents, styles) == by_the_rule(k, seed, contents, styles)


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
