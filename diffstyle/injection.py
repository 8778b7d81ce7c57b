"""The steps of injection: what happens at which timestep, on the paper's grid or on a short one that meets events."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, log2, sqrt

from diffstyle.plan import T_0, Plan, Step, downwards
from diffstyle.schedule import N_TIMESTEPS, nearest, sigma_at, timesteps

# Half of the width of a gap between 50 events, in timesteps.
_HALF_GAP = N_TIMESTEPS / 98
# So many timesteps below the first injection measured jumps are spread over: down to t_edit, as it is by itself.
_SPREAD = 600


@dataclass(frozen=True)
class Injection:
    """The knobs of content injection that decide what happens at which timestep (METHOD: arXiv 2303.15403, section 4).

    Attributes:
        events: Timesteps at which the method acts, ascending; see :func:`event_timesteps`.
        t_edit: Content is injected at events at or above it.
        t_start: Content is injected at events at or below it. The paper's start at the top; lower is beyond it.
        t_boost: Events at or below it draw noise (eta = 1); 0: none.
        dt_lambda: Scale of the direction term at events at or above ``dt_end``.
        dt_end: See ``dt_lambda``.
        calibrate: Style calibration at injections (omega != 0); it replaces dt_lambda.
    """

    events: tuple[int, ...]
    t_edit: int = 400
    t_boost: int = 0
    dt_lambda: float = 1.0
    dt_end: int = 950
    calibrate: bool = False
    t_start: int = T_0

    def injects_at(self, t: int) -> bool:
        """Whether an event injects content.

        Args:
            t: the event's timestep, 0 to 999.
        """
        return self.t_edit <= t <= self.t_start

    def calibrates_at(self, t: int) -> bool:
        """Whether an event calibrates the style and, no noise being drawn there, makes a plain step.

        Args:
            t: the event's timestep, 0 to 999.
        """
        return self.calibrate and self.injects_at(t) and t > self.t_boost

    def draws_at(self, t: int) -> bool:
        """Whether an event draws noise.

        Args:
            t: the event's timestep, 0 to 999.
        """
        return 0 < t <= self.t_boost

    def scales_at(self, t: int) -> bool:
        """Whether an event scales the direction term by another value than 1.

        Args:
            t: the event's timestep, 0 to 999.
        """
        return self.dt_lambda != 1 and t >= self.dt_end and not self.calibrate

    def acts_at(self, t: int) -> bool:
        """Whether an event differs from a plain DDIM step.

        Args:
            t: the event's timestep, 0 to 999.
        """
        boosted = self.t_boost > 0 and t <= self.t_boost
        return self.injects_at(t) or boosted or self.scales_at(t)


def event_timesteps(n_events: int = 50, t_0: int = T_0) -> tuple[int, ...]:
    """The injection events: seq(n_events), the reference's ``content_replace_step``.

    Args:
        n_events: how many, 2 to 1000.
        t_0: the noisiest timestep, 1 to 999.

    Returns:
        Their timesteps, ascending.
    """
    return timesteps(n_events, t_0)


def grid_plan(injection: Injection, kept: Sequence[int], n_steps: int = 1000, t_0: int = T_0) -> Plan:
    """The reference's walk over seq(n_steps), with every event in it.

    In the reference an event fires only where the grid happens to contain it; here the grid is joined with the events.

    Args:
        injection: What happens at which timestep.
        kept: The timesteps whose h the content's inversion kept; each injection reads the nearest.
        n_steps: Timesteps of the grid, 2 to t_0 + 1.
        t_0: The timestep of x_T, 999 at most.

    Raises:
        ValueError: ``kept`` is empty, or there are not so many steps.
    """
    return _marked(sorted(set(timesteps(n_steps, t_0)) | set(injection.events)), injection, kept)


def aligned_plan(
    injection: Injection,
    kept: Sequence[int],
    between: int = 2,
    tail: int = 20,
    t_0: int = T_0,
    *,
    order: int = 2,
    measured: int | None = None,
    doubled: int = 0,
) -> Plan:
    """The event-aligned short grid: near the 1000-step result in a tenth of the calls or less.

    What an event does to the picture does not depend on its step's length, so each event that acts stays a step of
    length 1, as on the 1000-step grid, and only the plain steps grow longer. Those below the last injection are spaced
    quadratically (Song et al. 2020, arXiv 2010.02502, appendix D.2), since sigma changes fastest near the picture;
    docs/speed.md has what that is worth. A calibrated event calls the network once more after its change, so its own
    step is a plain one already and counts as the first of those over its gap.

    Where events above the first injection do nothing (``t_start``), plain steps over the first hundred timesteps, where
    e is least even, are as long as between 50 events. Then sigma falls by one factor over each, and halves over three
    times ``between`` of them. The first step has no slope yet, and is corrected.

    An event makes e jump, by nearly as much as the event before. With ``measured`` the network is called after so many
    of the injections only, and the jump is carried over the others (``trend.CarryingTrend``). Two kinds of events are
    measured always, since their jumps are their own: those that draw noise and those that scale the direction.

    Args:
        injection: What happens at which timestep.
        kept: The timesteps whose h the content's inversion kept; each injection reads the nearest.
        between: Plain steps over each gap between injections, and a third of those over a halving of sigma above them.
        tail: Plain steps, about so many, from the last injection down to the picture.
        t_0: The timestep of x_T, 999 at most.
        order: Of the plain steps: 1 is DDIM, 2 follows the trend of e as well.
        measured: After how many injections the network is called again, 2 or more; None: after each.
        doubled: Over how many of the first gaps, where sigma changes fastest, two steps are taken in place of
            ``between``, both corrected. All of these are measured, and so are the next; the jumps carried are the mean
            of the last two. It counts gaps as wide as those of 50 events: with 100 events, one step is taken over each
            of twice as many, and so many more are measured.

    Raises:
        ValueError: ``kept`` is empty, jumps are to be carried or steps doubled by steps of order 1, or ``measured`` is
            not at least three more than ``doubled``.
    """
    if measured is not None and (order < 2 or measured < 2):
        raise ValueError(
            f"measured is {measured} with order {order}: jumps are carried by order 2, from 2 measured ones"
        )
    if doubled and (measured is None or measured < doubled + 3):
        raise ValueError(f"measured is {measured} with doubled {doubled}: it takes at least {doubled + 3}")
    acting = [t for t in sorted(injection.events, reverse=True) if injection.acts_at(t)]
    alike = [t for t in acting if injection.injects_at(t) and not injection.draws_at(t) and not injection.scales_at(t)]
    dense = _dense(alike, doubled)
    carried = _carried(acting, alike, injection, measured and measured - doubled, len(dense))
    corrected = set()
    # A call at 0 is worth nothing where calls are counted: sigma is 0.01 there.
    visited = {t_0} if carried else {t_0, 0}
    last_injection = min((t for t in acting if injection.injects_at(t)), default=t_0 + 1)
    tail_density = tail / sqrt(last_injection + 1)  # steps for a unit of sqrt(t + 1)
    # The stretches of plain steps: from just below one acting event (or the top) to the next acting event (or -1).
    starts = ([] if acting and acting[0] == t_0 else [t_0]) + [t - (not injection.calibrates_at(t)) for t in acting]
    ends = ([acting[0]] if acting and acting[0] != t_0 else []) + acting[1:] + [-1]
    for start, end in zip(starts, ends, strict=True):
        gap = start - end
        if gap <= 0:
            continue
        if end >= last_injection and any(end < t <= start and not injection.acts_at(t) for t in injection.events):
            visited |= _lead(start, end, between)
            if start == t_0 and order > 1:
                corrected.add(t_0)
        elif end >= last_injection:
            event = start + (not injection.calibrates_at(start))
            n = min(dense.get(event, between), gap)
            steps = [start - round(gap * k / n) for k in range(int(start + 1 in carried), n)]
            visited.update(steps)
            corrected.update(steps if event in dense else ())
        else:
            above, below = sqrt(start + 1), sqrt(end + 1)
            n = max(1, round(tail_density * (above - below)))
            visited |= {max(end + 1, round((above + (below - above) * k / n) ** 2 - 1)) for k in range(n)}
    return _marked(sorted(visited | set(acting)), injection, kept, order, carried, corrected, 2 if doubled else 1)


def _lead(start: int, end: int, between: int) -> set[int]:
    """Timesteps of the plain steps from ``start`` down to above ``end``, where events do nothing."""
    middle = max(end, start - round(10 * _HALF_GAP))
    upper = {round(start - 2 * _HALF_GAP * k / between) for k in range(5 * between)}
    levels = {t: log2(sigma_at(t)) for t in range(end, middle + 1)}
    fall = levels[middle] - levels[end]
    n = ceil(3 * between * fall)
    lower = {min(levels, key=lambda t: abs(levels[t] - levels[middle] + fall * k / n)) for k in range(n)}
    return {t for t in upper if t > middle} | lower - {end}


def _dense(alike: Sequence[int], doubled: int) -> dict[int, int]:
    """Injection -> how many steps are taken over the gap below it, for the first gaps: ``doubled`` of 50 events' width.

    ``alike``: the injections whose jumps are alike, descending.
    """
    return {
        t: max(1, min(2 * doubled, round((t - following) / _HALF_GAP)))
        for t, following in pairwise(alike)
        if alike[0] - t < (2 * doubled - 0.5) * _HALF_GAP
    }


def _carried(
    acting: Sequence[int], alike: Sequence[int], injection: Injection, measured: int | None, n_dense: int
) -> set[int]:
    """The injections after which the network is not called, of the acting events, descending, and those alike.

    Those measured lie quadratically, the first and the last among them: sigma changes fastest at the noisiest. However
    far down content is injected, all but the last lie in the first 600 timesteps. Behind ``n_dense`` gaps that are
    measured besides they lie less steeply, and the last two among them.
    """
    if measured is None:
        return set()
    spread = sum(alike[0] - t <= _SPREAD for t in alike) - 1
    kept = {len(alike) - 1, *(round(spread * (k / (measured - 1)) ** 2) for k in range(measured - 1))}
    if n_dense:
        between = measured - 2  # intervals from the first after the dense gaps to the last but one
        width = max(0, len(alike) - 2 - n_dense)
        spaced = {n_dense + round(width * (k / between) ** 1.5) for k in range(between + 1)}
        kept = {*range(n_dense), *spaced, len(alike) - 1}
    following = dict(pairwise(acting))
    return {
        t
        for n, t in enumerate(alike)
        # An event that is followed at once by another has no call between them that could be left out.
        if n not in kept and (injection.calibrate or t - following[t] > 1)
    }


def _marked(
    grid: Sequence[int],
    injection: Injection,
    kept: Sequence[int],
    order: int = 1,
    carried: Collection[int] = (),
    corrected: Collection[int] = (),
    mean_of: int = 1,
) -> Plan:
    """Write into each step of a walk what the injection does there.

    ``order``: of the steps that do not jump. ``carried``: the injections whose jump is carried, as the mean of
    ``mean_of``; these lead further. ``corrected``: where steps begin that the next call corrects.
    """
    events = set(injection.events)
    if not kept:
        raise ValueError("no kept timesteps: the content bank holds no h")
    steps = []
    for t, t_next in downwards(grid):
        event = t in events
        injects = event and injection.injects_at(t)
        step = Step(
            t,
            t_next,
            content_t=nearest(t, kept) if injects else None,
            noise=event and injection.draws_at(t),
            calibrate=injects and injection.calibrate,
            direction=injection.dt_lambda if event and injection.scales_at(t) else 1.0,
            carry=t in carried,
            mean_of=mean_of if t in carried else 1,
            correct=t in corrected,
        )
        steps.append(replace(step, order=order) if step.carry or not step.jumps else step)
    return Plan(tuple(steps))
