"""Directions in h as a picture: a row for each of some pictures and directions, a column for each strength.

    python benchmarks/directions_sheet.py JOB.yaml DIRECTIONS --pictures FILE FILE --edit 0 1 2 --write SHEET.png

The job says model, t_edit and plan; the pictures take the place of its contents and styles, and no content is injected
(gamma 0). An edit is the number of a component, or a label.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.jobfile.load import load_job
from pipeline.jobfile.schema import Job
from pipeline.runner.api import run
from pipeline.workers.local import LocalWorkers

GAP, TITLE, LEFT = 4, 20, 150


def edits(directions: str, names: list[str], strengths: list[float]) -> list[dict]:
    """The field ``injection.edit`` of the job."""
    shared = {"directions": directions, "strength": strengths}
    return [{**shared, **({"component": int(name)} if name.isdigit() else {"label": name})} for name in names]


def make(job: Job) -> dict[tuple[str, str, float], Image.Image]:
    """(style's key, component or label, strength) -> the result; "" and 0 without an edit."""
    result = run(job, workers=LocalWorkers(), quiet=True)
    pictures = {}
    for row in result.manifest.table(["style_key", "picture", "edit"]).to_pylist():
        edit = {"component": "", "strength": 0.0} if row["edit"] is None else json.loads(row["edit"])
        name = str(edit["label"] if "label" in edit else edit["component"])
        data = (result.output / row["picture"]).read_bytes()
        pictures[row["style_key"], name, edit["strength"]] = Image.open(io.BytesIO(data)).convert("RGB")
    return pictures


def sheet(pictures: dict, names: list[str], strengths: list[float], side: int) -> Image.Image:
    """The pictures in a table, enlarged to ``side`` px."""
    styles = sorted({style for style, _, _ in pictures})
    font = ImageFont.load_default(13)
    height = TITLE + len(names) * (len(styles) * (side + GAP) + GAP)
    page = Image.new("RGB", (LEFT + len(strengths) * (side + GAP), height), "white")
    draw = ImageDraw.Draw(page)
    for column, strength in enumerate(strengths):
        middle = LEFT + column * (side + GAP) + side // 2
        draw.text((middle, TITLE // 2), f"{strength:+g}" if strength else "0", "black", font, anchor="mm")
    y = TITLE
    for name in names:
        title = f"component {name}" if name.isdigit() else f"label {name}"
        draw.text((6, y + len(styles) * (side + GAP) // 2), title, "black", font, anchor="lm")
        for style in styles:
            for column, strength in enumerate(strengths):
                picture = pictures[style, name, strength] if strength else pictures[style, "", 0.0]
                enlarged = picture.resize((side, side), Image.Resampling.NEAREST)
                page.paste(enlarged, (LEFT + column * (side + GAP), y))
            y += side + GAP
        y += GAP
    return page


def tell(pictures: dict, names: list[str], strengths: list[float]) -> None:
    """How far each edit moves the pixels: the root mean square over all pictures, in steps of 255."""
    plain = {style: np.asarray(one, np.float64) for (style, name, _), one in pictures.items() if not name}
    for name in names:
        for strength in filter(None, strengths):
            squares = [np.square(np.asarray(pictures[style, name, strength]) - one) for style, one in plain.items()]
            print(f"{name} {strength:+g}: {np.sqrt(np.mean(squares)):.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job")
    parser.add_argument("directions")
    parser.add_argument("--pictures", type=Path, nargs="+", required=True)
    parser.add_argument("--write", type=Path, required=True)
    parser.add_argument("--edit", nargs="+", default=["0", "1", "2"])
    parser.add_argument("--strengths", nargs="+", type=float, default=[-3, -2, -1, 0, 1, 2, 3])
    parser.add_argument("--side", type=int, default=96)
    given = parser.parse_args()
    job = load_job(given.job)
    with tempfile.TemporaryDirectory() as folder:
        values = job.model_dump(mode="json", by_alias=True, exclude_none=True)
        pictures_folder = Path(folder) / "pictures"
        pictures_folder.mkdir()
        for file in given.pictures:
            shutil.copy(file, pictures_folder)
        values |= {"style": {"folder": str(pictures_folder)}, "content": {"folder": str(pictures_folder), "limit": 1}}
        values["output"] = f"{folder}/out"
        file = str(Path(given.directions).resolve())
        values["injection"] |= {"gamma": 0, "edit": edits(file, given.edit, given.strengths)}
        pictures = make(Job.model_validate(values))
    tell(pictures, given.edit, given.strengths)
    sheet(pictures, given.edit, given.strengths, given.side).save(given.write, optimize=True)


if __name__ == "__main__":
    main()
