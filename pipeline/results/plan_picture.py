"""A picture of the steps of a walk: what happens at which timestep, from the noise on the left to the picture."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from diffstyle.plan import Plan, Step

_WIDTH, _LEFT, _RIGHT, _LANE = 1100, 40, 30, 104
_INK, _SOFT, _LINE, _MARK = (20, 22, 26), (90, 95, 105), (205, 208, 214), (220, 38, 38)
#: What a step may be -> its colour and height in pixels. A step that is several is drawn as the first of them.
KINDS = {
    "injects content": ((37, 99, 235), 46),
    "draws noise": ((234, 88, 12), 32),
    "weakens the direction": ((147, 51, 234), 32),
    "plain, second order": ((75, 85, 99), 14),
    "plain": ((150, 156, 166), 14),
}


def kind_of_step(step: Step) -> str:
    """Which of ``KINDS`` a step is."""
    if step.content_t is not None:
        return "injects content"
    if step.noise:
        return "draws noise"
    if step.direction != 1:
        return "weakens the direction"
    return "plain, second order" if step.order > 1 else "plain"


def plan_picture(lanes: Sequence[tuple[str, Plan]], marks: Sequence[tuple[str, int]] = ()) -> Image.Image:
    """Draw one lane for each plan, over t from 999 to 0.

    Args:
        lanes: Titles with their plans.
        marks: Names with timesteps, drawn as lines across: ``t_edit``.
    """
    font, small = ImageFont.load_default(15), ImageFont.load_default(13)
    height = 12 + _LANE * len(lanes) + 64
    drawn = Image.new("RGB", (_WIDTH, height), (255, 255, 255))
    pen = ImageDraw.Draw(drawn)
    for row, (title, plan) in enumerate(lanes):
        top = 12 + row * _LANE
        base = top + _LANE - 22
        pen.text((_LEFT, top), title, _INK, font)
        pen.line((_LEFT, base, _WIDTH - _RIGHT, base), _LINE)
        for number, (name, t) in enumerate(marks):  # the first on the left of its line, so that two don't meet
            text, column = f"{name} {t}", place(t)
            wide = int(small.getlength(text))
            pen.line((column, top + 24, column, base), _MARK)
            x = max(_LEFT, column - wide - 4) if number == 0 else min(column + 4, _WIDTH - wide)
            pen.text((x, top + 18), text, _MARK, small)
        # The low ones first, so that the tall ones are not hidden.
        for step in sorted(plan.steps, key=lambda step: KINDS[kind_of_step(step)][1]):
            colour, tall = KINDS[kind_of_step(step)]
            pen.line((place(step.t), base - tall, place(step.t), base - 1), colour, 2)
        for t in (999, 800, 600, 400, 200, 0):
            pen.text((place(t) - 4 * len(str(t)), base + 3), str(t), _SOFT, small)
    y, x = 12 + _LANE * len(lanes) + 12, _LEFT
    pen.text((x, y), "timestep: noise on the left, the picture on the right", _SOFT, small)
    present = {kind_of_step(step) for _, plan in lanes for step in plan.steps}
    for name, (colour, tall) in KINDS.items():
        if name in present:
            pen.line((x + 1, y + 40 - min(tall, 16), x + 1, y + 40), colour, 3)
            pen.text((x + 10, y + 24), name, _INK, small)
            x += 30 + int(small.getlength(name))
    return drawn


def place(t: int) -> int:
    """The pixel column of a timestep."""
    return round(_LEFT + (999 - t) / 999 * (_WIDTH - _LEFT - _RIGHT))
