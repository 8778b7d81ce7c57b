"""``injection.edit`` in whole jobs: what it changes, what it must not change, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from support.small_jobs import job, model_file, picture, run

from diffstyle.errors import ConfigError
from diffstyle.images import to_uint8
from diffstyle.sampling import inject
from pipeline.banks.directions import Directions, find_directions
from pipeline.banks.reader import LatentBank
from pipeline.jobfile.load import load_job
from pipeline.jobfile.schema import Job
from pipeline.models.config import load_model_config
from pipeline.models.load import load_model
from pipeline.runner import api
from pipeline.stages.recipe import injection_plan
from pipeline.stages.walk import Walk


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with the banks of a small job, and directions of its contents."""
    folder = tmp_path_factory.mktemp("edit")
    for number in range(4):
        picture(folder / "content" / f"{'ab'[number % 2]}/{number}.png", number)
    picture(folder / "style" / "s.png", 9)
    run(job(folder))
    bank = LatentBank.open(folder / "out/banks/content")
    find_directions(bank, 2, "label").save(folder / "directions.safetensors")
    return folder


def edited(folder: Path, output: str, edit, gamma=0.5, **changes) -> Job:
    banks = {
        "content": {"bank": str(folder / "out/banks/content")},
        "style": {"bank": str(folder / "out/banks/style")},
        "output": str(folder / output),
    }
    return job(folder, **{**banks, **changes}, injection={"gamma": gamma, "edit": edit})


def rows(output: str | Path) -> pd.DataFrame:
    frame = pd.read_parquet(f"{output}/manifest").sort_values(["content_key", "settings"])
    frame["bytes"] = [(Path(output) / name).read_bytes() for name in frame.picture]
    return frame


def test_strength_0_is_no_edit_and_others_are_what_they_say(made):
    file = str(made / "directions.safetensors")
    run(edited(made, "plain", None), "inject")
    plain = rows(made / "plain").set_index("pair")
    wanted = edited(made, "swept", {"directions": file, "component": 1, "strength": [-2, 0, 2]})
    assert len(wanted.settings()) == 3
    run(wanted, "inject")
    swept = rows(made / "swept").set_index("pair")
    assert len(swept) == 3 * len(plain) == 12
    assert swept.bytes[plain.index].tolist() == plain.bytes.tolist()
    assert plain.edit.isna().all()
    assert swept.edit[plain.index].isna().all()
    others = swept.drop(plain.index)
    assert not set(others.bytes) & set(plain.bytes)
    said = {json.loads(text)["strength"] for text in others.edit}
    assert said == {-2.0, 2.0}
    assert json.loads(others.edit.iloc[0])["component"] == 1
    # And one of them by hand.
    (up,) = others[(others.edit.str.contains('"strength":2')) & others.content_source.str.endswith("0.png")].to_dict(
        "records"
    )
    content, style = (LatentBank.open(made / "out/banks" / side) for side in ("content", "style"))
    settings = wanted.settings()[2]
    plan = injection_plan(settings, Walk.of_bank(content.description))
    kept = content.description.h_timesteps
    added = Directions.open(file).component(1) * 2
    result = inject(
        load_model(load_model_config(wanted.model)),
        torch.from_numpy(style[up["style_image"]].x_t)[None],
        torch.from_numpy(content[up["content_image"]].h.astype(np.float32))[None],
        kept,
        plan,
        0.5,
        edit=torch.from_numpy(added),
    )
    pixels = np.asarray(Image.open(made / "swept" / up["picture"]))
    assert np.abs(pixels.astype(int) - to_uint8(result[0]).astype(int)).max() <= 1


def test_an_edit_alone_shows_nothing_of_the_content(made):
    run(edited(made, "alone", {"directions": str(made / "directions.safetensors"), "label": "a"}, 0), "inject")
    pictures = rows(made / "alone")
    assert len(pictures) == 4
    assert pictures.bytes.nunique() == 1
    assert json.loads(pictures.edit.iloc[0]) == {
        "directions": str(made / "directions.safetensors"),
        "label": "a",
        "strength": 1.0,
    }


def test_an_edit_is_known_by_what_it_adds(made, tmp_path):
    """Not by the name of its file; a label against the only other one is that label against all others."""
    moved = tmp_path / "elsewhere.safetensors"
    moved.write_bytes((made / "directions.safetensors").read_bytes())
    run(edited(made, "known", {"directions": str(made / "directions.safetensors"), "label": "a"}), "inject")
    again = edited(made, "known", {"directions": str(moved), "label": "a", "against": "b"})
    assert run(again, "inject").counts.pairs_made == 0
    assert run(edited(made, "known", {"directions": str(moved), "label": "b"}), "inject").counts.pairs_made == 4
    assert run(edited(made, "known", {"directions": str(moved), "component": 0}), "inject").counts.pairs_made == 4


def test_the_preview_says_what_is_added_and_refuses_what_the_run_would(made):
    file = str(made / "directions.safetensors")
    text = str(api.preview(edited(made, "p", {"directions": file, "component": 1, "strength": [0, -1.5]})))
    assert "x 2 settings" in text
    assert "edit component 1 x -1.5 of directions.safetensors: 4 steps" in text
    assert "no edit: 4 steps" in text
    assert api.preview(edited(made, "p", {"directions": file, "component": 1})).obstacles == ()
    with pytest.raises(ConfigError, match=r"injection.edit.component: in .* there is no component 2; there are 2"):
        api.preview(edited(made, "p", {"directions": file, "component": 2}))
    with pytest.raises(ConfigError, match=r"injection.edit.label: in .* there is no label 'c'; there are a, b"):
        api.preview(edited(made, "p", {"directions": file, "label": "c"}))


def test_directions_of_another_model_or_other_timesteps_are_refused(made, tmp_path):
    right = Directions.open(made / "directions.safetensors")
    file = tmp_path / "d.safetensors"
    edit = {"directions": str(file), "component": 0}
    Directions({**right.about, "model_fingerprint": "0" * 32}, *arrays(right)).save(file)
    with pytest.raises(ConfigError, match=r"injection.edit.directions: .*d.safetensors was made with another model"):
        run(edited(made, "w", edit), "inject")
    Directions({**right.about, "h_timesteps": [1, 2]}, *arrays(right)).save(file)
    with pytest.raises(ConfigError, match=r"has no directions at timesteps \[666\], where this job injects"):
        run(edited(made, "w", edit), "inject")
    file.unlink()
    with pytest.raises(ConfigError, match=r"injection.edit.directions: .*d.safetensors: no such file"):
        run(edited(made, "w", edit), "inject")
    assert not (made / "w/manifest").exists()


def arrays(directions: Directions) -> tuple[np.ndarray, ...]:
    return directions.components, directions.spreads, directions.label_means


def test_what_a_job_may_say_of_edits(tmp_path):
    (tmp_path / "d").touch()
    one = {"directions": "d", "component": 0, "strength": [-1, 0, 1]}
    file = tmp_path / "job.yaml"

    def load(edit):
        values = {"model": str(model_file(tmp_path)), "output": "o", "content": ".", "style": "."}
        file.write_text(yaml.safe_dump({**values, "injection": {"edit": edit}}))
        return load_job(file, check_inputs=True)

    loaded = load([one, None, {"directions": "d", "label": "a", "against": "b"}])
    points = [settings.edit for settings in loaded.settings()]
    assert [point and point.strength for point in points] == [-1, None, 1, 1]
    # Identities of results from before there were edits.
    assert "edit" not in loaded.settings()[1].to_dict()
    assert points[0].directions == str(tmp_path / "d")
    (tmp_path / "again.yaml").write_text(loaded.to_yaml())
    assert load_job(tmp_path / "again.yaml") == loaded
    for edit, said in (
        ({"directions": "d"}, "give exactly one of component, label"),
        ({"directions": "d", "component": 0, "label": "a"}, "give exactly one of component, label"),
        ({"directions": "d", "component": 0, "against": "a"}, "against goes with label"),
        ({"directions": "d", "component": -1}, "injection.edit.component"),
        ({"directions": "gone", "component": 0}, "no such file"),
        ({"directions": "d", "component": 0, "strengths": 1}, "did you mean 'strength'"),
        ("d", "injection.edit"),
    ):
        with pytest.raises(ConfigError, match=said):
            load(edit)
