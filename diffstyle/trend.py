"""How the noise estimate e changes along a walk: what a second-order step knows beyond the e of its own call.

In sigma = sqrt(1 - a) / sqrt(a), DDIM is Euler's method for d(x / sqrt(a)) / d sigma = e (arXiv 2010.02502, eq. 14).
The next order takes e as a straight line in sigma (Adams-Bashforth with variable steps; used so in Zhang & Chen 2022,
arXiv 2204.13902). The line's slope comes from two calls with only plain steps between them. An event makes e jump,
but its slope before and after are nearly the same, so a jump forgets the point to measure from and keeps the slope:
measured, that is worth 10 dB over starting again after each event (docs/notes/speed.md).
"""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

from torch import Tensor

from diffstyle.schedule import a_at, sigma_at


class Trend:
    """The slope of e, kept over events."""

    def __init__(self) -> None:
        self._slope: Tensor | None = None
        self._last: tuple[float, Tensor] | None = None

    def measure(self, x: Tensor, t: int, e: Tensor) -> Tensor:
        """A call at ``t`` gave ``e``, (B, 3, H, W). Returns the state ``x`` that the step there starts from."""
        sigma = sigma_at(t)
        if self._last is not None:
            last_sigma, last_e = self._last
            self._slope = (e - last_e) / (sigma - last_sigma)
        self._last = sigma, e
        return x

    def jumped(self, alike: bool = True) -> None:
        """The step after the last call changed the picture: e before and after are not on one line.

        Args:
            alike: Whether other events change it in the same way; see :class:`CarryingTrend`.
        """
        self._last = None

    def followed(self, x: Tensor, t: int, t_next: int, correct: bool = False) -> Tensor:
        """x, moved by a first-order step from ``t`` to ``t_next``, with the second-order term added.

        ``correct``: the next call corrects it by the slope that it tells; only :class:`CarryingTrend` does.
        """
        if self._slope is None:
            return x
        return _with_slope(x, t, t_next, self._slope)


class _Point(NamedTuple):
    """What a call gave: e (B, 3, H, W) at sigma."""

    sigma: float
    e: Tensor


class _Slope(NamedTuple):
    """The slope of e between two calls, (B, 3, H, W), which it has half-way between their sigmas."""

    sigma: float
    slope: Tensor


class CarryingTrend(Trend):
    """The same for a plan that carries jumps: it also knows by how much an event makes e jump.

    The jump is nearly the same from event to event. Where the network is called before and after an event, it is
    measured. Elsewhere it is taken to be the last known one (``jump``), and the next call tells what it was: e there is
    e before, plus the jump, plus slope times the change of sigma. A wrong slope would be taken for a jump, so the slope
    is carried along as a straight line through the last two measured ones. A first step that was taken before any slope
    was known is corrected at the call that tells it, and so are others where the plan says so. A stretch whose steps
    are all corrected gives one slope, that from its first call to its last: a line through two that lie close together
    goes astray over a wider gap.
    """

    def __init__(self) -> None:
        super().__init__()
        self._slopes: list[_Slope] = []
        self._before: _Point | None = None  # the last event's own call, until a call tells its jump
        self._jumps: list[Tensor] = []
        self._late: tuple[int, Tensor | None] | None = None  # where a step began that is to be corrected; its slope
        # The first call of a stretch without events, while all of its steps are corrected; the slope known before it.
        self._first: tuple[float, Tensor] | None = None
        self._known: list[_Slope] = []

    def measure(self, x: Tensor, t: int, e: Tensor) -> Tensor:
        """A call at ``t`` gave ``e``, (B, 3, H, W). Returns the state ``x`` that the step there starts from."""
        sigma = sigma_at(t)
        if self._before is not None:
            before = self._before
            change = self._slope_at((sigma + before.sigma) / 2)
            jump = e - before.e if change is None else e - before.e - change * (sigma - before.sigma)
            self._jumps = [*self._jumps[-1:], jump]
            self._before = None
        if self._last is not None:
            last_sigma, last_e = self._last
            slope = (e - last_e) / (sigma - last_sigma)
            self._slopes = [*self._slopes[-1:], _Slope((sigma + last_sigma) / 2, slope)]
            if self._late is not None:
                began, taken = self._late
                x = _with_slope(x, began, t, slope if taken is None else slope - taken)
        self._late = None
        begins = self._last is None
        self._last = sigma, e
        if begins:
            self._first, self._known = self._last, self._slopes[-1:]
        return x

    def jumped(self, alike: bool = True) -> None:
        """The step after the last call changed the picture: e before and after are not on one line.

        Args:
            alike: Whether other events change it in the same way; if not, its jump tells nothing of theirs.
        """
        self._before = _Point(*self._last) if alike and self._last is not None else None
        if not alike:
            self._jumps = []
        if self._first is not None and self._last is not None and self._first is not self._last:
            (first_sigma, first_e), (sigma, e) = self._first, self._last
            slope = (e - first_e) / (sigma - first_sigma)
            self._slopes = [*self._known, _Slope((sigma + first_sigma) / 2, slope)]
        self._first = self._last = None

    def jump(self, t: int, t_after: int, mean_of: int = 1) -> Tensor:
        """By how much e changes at an event, (B, 3, H, W): its jump, and its change from ``t`` to ``t_after``.

        The jump is the mean of the last ``mean_of``, 1 or 2, that are known.
        """
        known = self._jumps[-mean_of:]
        assert known  # a plan measures a jump before it carries one
        jump = known[0] if len(known) == 1 else (known[0] + known[1]) / 2
        slope = self._slope_at((sigma_at(t) + sigma_at(t_after)) / 2)
        return jump if slope is None else jump + slope * (sigma_at(t_after) - sigma_at(t))

    def followed(self, x: Tensor, t: int, t_next: int, correct: bool = False) -> Tensor:
        """x, moved by a first-order step from ``t`` to ``t_next``, with the second-order term added."""
        start, end = sigma_at(t), sigma_at(t_next)
        # A slope that changes evenly adds as much as the one it has after a third of the way.
        slope = self._slope_at(start + (end - start) / 3)
        if slope is None or correct:
            self._late = t, slope
        if not correct:
            self._first = None
        return x if slope is None else _with_slope(x, t, t_next, slope)

    def _slope_at(self, sigma: float) -> Tensor | None:
        if len(self._slopes) < 2:
            return self._slopes[0].slope if self._slopes else None
        one, other = self._slopes
        return other.slope + (other.slope - one.slope) * ((sigma - other.sigma) / (other.sigma - one.sigma))


def _with_slope(x: Tensor, t: int, t_next: int, slope: Tensor) -> Tensor:
    return x + sqrt(a_at(t_next)) * (sigma_at(t_next) - sigma_at(t)) ** 2 / 2 * slope
