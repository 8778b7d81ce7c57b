"""Numbers of things as people say them, everywhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.storage.counts import count, data_size

ROOT = Path(__file__).parents[2]


def test_one_and_several() -> None:
    assert [count(n, "pair") for n in (0, 1, 2, 12_345)] == ["0 pairs", "1 pair", "2 pairs", "12,345 pairs"]
    assert [count(n, "entry", "is/are") for n in (1, 2)] == ["1 entry is", "2 entries are"]
    assert count(2, "key") == "2 keys"
    assert [count(n, "", "is/are") for n in (1, 3)] == ["1 is", "3 are"]


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_999, "1.0 MB"), (3_400_000, "3.4 MB"), (2e15, "2,000.0 TB")],
)
def test_sizes(n: float, text: str) -> None:
    assert data_size(n) == text


@given(st.integers(0, 10**15))
def test_a_size_is_the_number_within_its_last_digit(n: int) -> None:
    number, unit = data_size(n).split()
    scale = 1000 ** ("B", "kB", "MB", "GB", "TB").index(unit)
    assert abs(float(number.replace(",", "")) * scale - n) <= 0.05 * scale


#: Things that are counted in what people read; errors that name a limit are no counts.
_COUNTED = "images|pictures|problems|parts|names|entries|pairs|rows|contents|styles|failures|settings|files"
#: Modules whose numbers are always large, or that may not import `count`.
_LEFT_OUT = ("pipeline/bench/", "pipeline/measures/")
#: Values that are words and no numbers, or constants.
_WORDS = re.compile(r"side|kind|suffix|part|[A-Z_]+|.*(name|pair'\])")


def test_no_message_counts_with_a_fixed_plural() -> None:
    """``f"{n} pairs"`` says "1 pairs"; :func:`count` doesn't."""
    wrong = []
    for file in sorted((ROOT / "pipeline").rglob("*.py")):
        name = file.relative_to(ROOT).as_posix()
        if name.startswith(_LEFT_OUT):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.JoinedStr):
                continue
            for value, following in zip(node.values, node.values[1:], strict=False):
                text = following.value if isinstance(following, ast.Constant) else ""
                if (
                    isinstance(value, ast.FormattedValue)
                    and isinstance(text, str)
                    and re.match(rf" ({_COUNTED})\b(?!/)", text)
                    and "count(" not in ast.unparse(value.value)
                    and not _WORDS.fullmatch(ast.unparse(value.value))
                ):
                    wrong.append(f"{name}:{node.lineno}: {ast.unparse(value.value)}{text[:20]}")
    assert wrong == []
