"""What a data set holds besides its pictures, counted by reason: no file, member or row is passed over in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

# Examples kept of each reason; for a person to recognise what is meant, not to list all.
_EXAMPLES = 4


class PassedOver(Counter[str]):
    """Reason -> how many things were passed over for it, with a few examples of each.

    A reason begins with the plural of what is counted: ``files of unknown suffix``, ``links to nothing``.
    """

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        super().__init__(counts or {})
        self.examples: dict[str, list[str]] = {}

    def add(self, reason: str, *examples: str, n: int = 1) -> None:
        """Count ``n`` more things; of ``examples`` (names, suffixes) the first few that differ are kept."""
        self[reason] += n
        kept = self.examples.setdefault(reason, [])
        for example in examples:
            if len(kept) < _EXAMPLES and example not in kept:
                kept.append(example)

    def include(self, other: PassedOver) -> None:
        """Add the counts and examples of another."""
        for reason, n in other.items():
            self.add(reason, *other.examples.get(reason, ()), n=n)

    def clear(self) -> None:
        super().clear()
        self.examples.clear()

    def line(self) -> str | None:
        """``passed over 12: 8 files of unknown suffix (.xmp, .db), 4 side-cars without a picture``; None for none.

        Without the total where there is one reason: ``passed over 1 side-car without a picture (notes.txt)``.
        """
        phrases = [
            f"{n} {_singular(reason) if n == 1 else reason}{_listed(self.examples.get(reason, ()))}"
            for reason, n in sorted(self.items(), key=lambda item: (-item[1], item[0]))
            if n
        ]
        total = f"{self.total()}: " if len(phrases) > 1 else ""
        return f"passed over {total}{', '.join(phrases)}" if phrases else None


def _singular(reason: str) -> str:
    noun, space, rest = reason.partition(" ")
    return noun.removesuffix("s") + space + rest


def _listed(examples: Iterable[str]) -> str:
    text = ", ".join(example if len(example) <= 60 else f"...{example[-57:]}" for example in examples)
    return f" ({text})" if text else ""
