"""Numbers of things, as people say them."""

from __future__ import annotations


def count(n: int, thing: str, verbs: str = "") -> str:
    """``1 picture``, ``2,000 pictures``; with ``verbs`` ``"was/were"`` also ``1 picture was``, ``2 pictures were``.

    Args:
        n: How many.
        thing: One of them; a word that takes an s, or ends in a consonant and y.
        verbs: That of one and that of several; where ``thing`` is empty, the number and the verb alone.
    """
    one, _, several = verbs.partition("/")
    many = f"{thing[:-1]}ies" if thing.endswith("y") and thing[-2:-1] not in "aeiou" else f"{thing}s"
    words = [f"{n:,}", thing if n == 1 or not thing else many, one if n == 1 else several]
    return " ".join(filter(None, words))


def data_size(n: float) -> str:
    """Bytes: ``12 B``, ``3.4 MB``; 1 kB is 1000 B.

    Args:
        n: How many bytes.
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n < 999.95 or unit == "TB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:,.1f} {unit}"
        n /= 1000
    raise AssertionError
