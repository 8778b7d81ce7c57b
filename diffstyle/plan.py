"""The steps of a walk, as data. A planner makes the list; ``sampling.py`` executes it.

A walk goes up (inversion: picture -> x_T) or down (generation: x_T -> picture) the noise levels. What happens at each
timestep is written into its :class:`Step`, so that a plan can be printed, counted, hashed and compared without a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from diffstyle.schedule import N_TIMESTEPS, timesteps

T_0 = N_TIMESTEPS - 1
# Where a second-order inversion calls the network inside its first interval, in parts of it: evenly in sigma, nearly.
_EARLY = (0.1, 0.25, 0.45, 0.7)


@dataclass(frozen=True)
class Step:
    """One step of a walk: the network is called at ``t`` and the state moves to ``t_next`` (-1: the picture)."""

    t: int
    t_next: int
    keep: bool = False  # keep the bottleneck h of this call
    content_t: int | None = None  # inject the content's h of this timestep; None: no injection here
    noise: bool = False  # eta = 1: an ancestral step (quality boosting)
    calibrate: bool = False  # style calibration: correct x, then call the network once more
    direction: float = 1.0  # dt_lambda: scale of the direction pointing to x_t
    order: int = 1  # 2: follow the trend of e as well (Adams-Bashforth, see ``trend.py``); 1: DDIM
    carry: bool = False  # no call after the event's change: e there is carried over from other events
    mean_of: int = 1  # where it carries: the mean of so many last jumps
    correct: bool = False  # the call at the end of the step, which tells the slope over it, corrects its state

    @property
    def jumps(self) -> bool:
        """Whether the step moves the picture off its trajectory. A calibration does so before the step's last call."""
        return self.noise or self.direction != 1 or (self.content_t is not None and not self.calibrate)


@dataclass(frozen=True)
class Plan:
    """A walk's steps in the order they are taken."""

    steps: tuple[Step, ...]

    @property
    def kept(self) -> tuple[int, ...]:
        """The timesteps whose h is kept, in the order of the walk."""
        return tuple(step.t for step in self.steps if step.keep)

    @property
    def content_timesteps(self) -> tuple[int, ...]:
        """The timesteps at which a content's h is read, ascending and distinct: what a content bank must hold."""
        return tuple(sorted({step.content_t for step in self.steps if step.content_t is not None}))

    @property
    def injections(self) -> tuple[int, ...]:
        """The timesteps at which content is injected, descending. A gamma schedule has one value for each."""
        return tuple(step.t for step in self.steps if step.content_t is not None)

    @property
    def noise_timesteps(self) -> tuple[int, ...]:
        """The timesteps at which noise is drawn."""
        return tuple(step.t for step in self.steps if step.noise)

    @property
    def encodes(self) -> int:
        """How often the U-Net's encoder runs: the number of network calls."""
        return len(self.steps) + sum(step.calibrate and not step.carry for step in self.steps)

    @property
    def decodes(self) -> int:
        """How often the U-Net's decoder runs: once more than the encoder at each injection."""
        return self.encodes + len(self.injections)

    @property
    def order(self) -> int:
        """The highest order among the steps: 1 is plain DDIM throughout."""
        return max((step.order for step in self.steps), default=1)

    @property
    def carried(self) -> tuple[int, ...]:
        """The injections after which the network is not called: how e jumps there is carried over from others."""
        return tuple(step.t for step in self.steps if step.carry)

    @property
    def carries_what_it_measured(self) -> bool:
        """Whether each carried jump comes after a measured one, with no other kind of event between them."""
        known = False
        for step in self.steps:
            if step.carry and not known:
                return False
            if step.noise or step.direction != 1:
                known = False
            elif step.content_t is not None:
                known = True
        return True

    @property
    def looks_back(self) -> bool:
        """Whether a walk must know more than the last two calls: it carries jumps, or corrects steps."""
        return any(step.carry or step.correct for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; equal plans give equal dicts. The last three of a step are in it only where they are not as in
        older plans, which keep theirs."""
        usual = {"carry": False, "mean_of": 1, "correct": False}
        steps = [asdict(step) for step in self.steps]
        return {"steps": [{k: v for k, v in step.items() if k not in usual or v != usual[k]} for step in steps]}


def inversion_plan(n_steps: int = 50, t_0: int = T_0, keep: Iterable[int] | None = None, *, order: int = 1) -> Plan:
    """The steps of an inversion, picture -> x_T, over seq(n_steps): n_steps - 1 network calls, none at ``t_0``.

    Args:
        n_steps: Timesteps of the walk, 2 to t_0 + 1.
        t_0: The timestep of x_T, 999 at most.
        keep: The timesteps of seq(n_steps) whose h is wanted; None keeps all.
        order: 1 is the reference's DDIM. 2 follows the trend of e as well and makes up to four calls more inside the
            first interval, where sigma grows tenfold: measured, five times nearer to the 1000-step
            x_T (docs/notes/speed.md).

    Raises:
        ValueError: A timestep of ``keep`` is not visited, or there are not so many steps.
    """
    grid = timesteps(n_steps, t_0)
    wanted = set(grid[:-1]) if keep is None else set(keep)
    missed = wanted - set(grid[:-1])
    if missed:
        raise ValueError(f"an inversion in {n_steps} steps does not visit timesteps {sorted(missed)}")
    early = {int(grid[1] * part) for part in _EARLY} if order > 1 else set()
    walk = sorted({*grid, *early})
    return Plan(tuple(Step(t, t_next, keep=t in wanted, order=order) for t, t_next in pairwise(walk)))


def sampling_plan(n_steps: int = 50, t_0: int = T_0, keep: Iterable[int] = (), *, order: int = 1) -> Plan:
    """The steps of plain sampling, x_T -> picture, over seq(n_steps): n_steps network calls.

    Args:
        n_steps: Timesteps of the walk, 2 to t_0 + 1.
        t_0: The timestep of x_T, 999 at most.
        keep: The timesteps of seq(n_steps) whose h is wanted.
        order: 1 is DDIM; 2 follows the trend of e as well.

    Raises:
        ValueError: A timestep of ``keep`` is not visited, or there are not so many steps.
    """
    grid = timesteps(n_steps, t_0)
    wanted = set(keep)
    if wanted - set(grid):
        raise ValueError(f"sampling in {n_steps} steps does not visit timesteps {sorted(wanted - set(grid))}")
    return Plan(tuple(Step(t, t_next, keep=t in wanted, order=order) for t, t_next in downwards(grid)))


def downwards(ascending: Sequence[int]) -> list[tuple[int, int]]:
    """(t, t_next) of each step of a walk from the last of some timesteps down to the picture, -1."""
    down = sorted(ascending, reverse=True)
    return list(zip(down, [*down[1:], -1], strict=True))
