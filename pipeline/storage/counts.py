"""Numbers of things, as people say them."""

from __future__ import annotations


def count(n: int, thing: str, verbs: str = "") -> str:
    """``1 picture``, ``2 pictures``; with ``verbs`` ``"was/were"`` also ``1 picture was``, ``2 pictures were``.

    Args:
        n: How many.
        thing: One of them; a word that takes an s.
        verbs: That of one and that of several; where ``thing`` is empty, the number and the verb alone.
    """
    one, _, several = verbs.partition("/")
    words = [str(n), thing if n == 1 or not thing else f"{thing}s", one if n == 1 else several]
    return " ".join(filter(None, words))
