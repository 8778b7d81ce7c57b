"""Recipes: plans, what a bank must keep, masks, identities."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from support.picture_bytes import grey_profile

from diffstyle.errors import ConfigError
from pipeline.jobfile.schema import Job
from pipeline.results.pictures import recipe_slug
from pipeline.stages.masks import load_masks, mask_path
from pipeline.stages.recipe import injection_plan, make_recipe, needed_h
from pipeline.stages.walk import Walk
from pipeline.storage.identity import source_text

WALK = Walk(50)


def job(**changes) -> Job:
    return Job(model="m", output="o", content="c", style="s", **changes)


def recipe(shared=None, h=None, walk=WALK, masks=None, seed=0, **injection):
    (settings,) = job(seed=seed, injection={"plan": "reference", **injection}).settings()
    h = walk.grid if h is None else h
    return make_recipe(settings, walk, h, shared or {}, masks or load_masks(settings, {}, 32, (8, 8)))


def test_the_kept_grid_of_inversion_and_sampling():
    assert Walk(4).grid == (0, 333, 666)
    assert Walk(4, sample_seed=0).grid == (0, 333, 666, 999)


def test_a_bank_keeps_what_the_sweep_needs():
    assert len(needed_h(job(), WALK)) == 29  # events from 400 up; the one at 999 reads the one below
    assert needed_h(job(injection={"t_edit": 900}), WALK) == (917, 937, 958, 978)
    assert needed_h(job(injection={"t_start": 450}), WALK) == (407, 428, 448)
    assert needed_h(job(bank={"keep": "all"}), WALK) == WALK.grid
    wanted = needed_h(job(injection={"gamma": [0.1, 0.2], "omega": [0, 1]}), WALK)
    assert wanted == needed_h(job(), WALK)


def test_a_bank_that_lacks_an_h_is_refused():
    with pytest.raises(ConfigError, match=r"needs h at 29 timesteps \(407, 428 \.\.\. 978\), which"):
        recipe(h=(999,))


def test_every_event_needs_a_grid():
    with pytest.raises(ConfigError, match="events: every needs a grid plan"):
        job(injection={"events": "every", "plan": {"aligned": {}}})
    (settings,) = job(injection={"events": "every", "plan": {"grid": 20}}).settings()
    assert len(injection_plan(settings, WALK).steps) == 20


def test_gamma_at_each_injection():
    assert recipe(gamma=0.4).gammas == (0.4,) * 30
    linear = recipe(gamma={"linear": [0.9, 0.1]}).gammas
    assert linear[0] == pytest.approx(0.9)
    assert linear[-1] == pytest.approx(0.1)
    assert sorted(linear, reverse=True) == list(linear)


def test_names_of_folders():
    assert recipe_slug(0.3, "0123456789abcdef") == "gamma-0.3-01234567"
    assert recipe_slug(1.0, "0123456789abcdef") == "gamma-1-01234567"
    assert recipe_slug("cosine", "0123456789abcdef") == "gamma-cosine-01234567"
    assert recipe(gamma=0.25).slug.startswith("gamma-0.25-")


def test_what_identifies_results():
    """Equal however written, and different wherever a pixel may differ."""
    same = [recipe(), recipe(gamma=0.30, plan={"grid": 1000}), recipe(omega=[0], events=50), recipe(seed=3)]
    same.append(recipe(t_start=999))
    assert len({one.digest for one in same}) == 1
    others = [
        recipe(gamma=0.31),
        recipe(t_edit=401),
        recipe(t_start=500),
        recipe(t_start=600),
        recipe(t_boost=10),
        recipe(omega=0.1),
        recipe(omega=0.2),  # two positive ones, whose plans are the same
        recipe(mask="reference"),
        recipe(dt_lambda=0.99),
        recipe(dt_lambda=0.98),
        recipe(dt_lambda=0.99, dt_end=900),
        recipe(t_boost=10, seed=1),
        recipe(t_boost=10, seed=2),
        recipe(gamma={"linear": [0.3, 0.2]}),
        recipe(gamma={"cosine": [0.3, 0.2]}),
        recipe(gamma={"values": [0.3, 0.2]}),
        recipe(events=40),
        recipe(events="every"),
        recipe(mask={"rectangle": [0, 0, 1, 0.5]}),
        recipe(plan={"grid": 50}),
        recipe(start_from_content=0.2),
        recipe(start_from_content=0.3),
        recipe(match_colours="histogram"),
        recipe(shared={"model": "another"}),
        recipe(walk=Walk(60)),
    ]
    assert len({one.digest for one in [*same, *others]}) == 1 + len(others)


def test_what_later_releases_added_leaves_identities_alone():
    """Pinned as they were before there were extensions beyond the paper."""
    assert recipe(start_from_content=0, match_colours=None).digest == "a5d4143cee5fea3ba061afa69e2f04df"
    many = recipe(gamma=1, t_edit=80, mask="reference", omega=0.5, t_boost=100)
    assert many.digest == "4b6c875bdd90cf08f4a3f97644b7b1a4"
    assert many.slug == "gamma-1-masked-omega-0.5-seed-0-4b6c875b"


# ---- masks ----


def masks(mask, contents=None):
    (settings,) = job(injection={"mask": mask}).settings()
    return load_masks(settings, contents or {}, 32, (8, 8))


def test_no_mask():
    assert masks(None).of("any") is None


def test_the_references_mask():
    grid = masks("reference").of("any")[0]
    assert grid.shape == (8, 8)
    assert np.argwhere(grid).tolist() == [[y, x] for y in (4, 5, 6) for x in (3, 4)]


def test_a_rectangle_and_its_picture_are_one_mask(tmp_path):
    pixels = np.zeros((32, 48), np.uint8)  # wider than high: cropped as the contents are
    pixels[8:24, 8:24] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    rectangle = masks({"rectangle": [0.25, 0, 0.75, 0.5]}).of("any")
    picture = masks({"picture": str(tmp_path / "mask.png")}).of("any")
    np.testing.assert_allclose(picture, rectangle, atol=1e-6)
    assert rectangle.sum() == 4 * 4


def test_a_masks_values_are_no_colours(tmp_path):
    half = Image.new("L", (32, 32), 128)
    half.save(tmp_path / "mask.png", icc_profile=grey_profile(1.0))
    assert masks({"picture": str(tmp_path / "mask.png")}).of("any").max() == pytest.approx(128 / 255, abs=1e-4)


def test_a_folder_of_masks_by_name(tmp_path):
    for name, value in (("a", 255), ("b", 0)):
        Image.new("L", (32, 32), value).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.json").write_text("{}")  # a side-car is no mask
    found = masks({"folder": str(tmp_path)}, {"1": "/photos/a.jpg", "2": "set.tar#deep/b.jpg"})
    assert (found.of("1").min(), found.of("2").max()) == (1, 0)
    assert found.own_hash("1") != found.own_hash("2")
    with pytest.raises(ConfigError, match=r"has no mask for 1 of 2 contents \(e.g. c.png\)"):
        masks({"folder": str(tmp_path)}, {"1": "/photos/a.jpg", "3": "/photos/c.jpg"})


def test_a_mask_lies_in_the_folder_of_its_content(tmp_path):
    white, black = tmp_path / "cats", tmp_path
    white.mkdir()
    Image.new("L", (32, 32), 255).save(white / "1.png")
    Image.new("L", (32, 32), 0).save(black / "1.png")
    Image.new("L", (32, 32), 0).save(black / "a#1.png")
    sources = {"cat": "/photos/cats/1.jpg", "dog": "/photos/dogs/1.jpg", "hash": source_text("/photos/a#1.jpg")}
    found = masks({"folder": str(tmp_path)}, {image: mask_path(source) for image, source in sources.items()})
    assert {image: float(found.of(image).mean()) for image in sources} == {"cat": 1, "dog": 0, "hash": 0}
    in_tars = {"cat": source_text("/x/cats.tar", "1.jpg"), "dog": source_text("/x/dogs.tar", "1.jpg")}
    found = masks({"folder": str(tmp_path)}, {image: mask_path(source) for image, source in in_tars.items()})
    assert {image: float(found.of(image).mean()) for image in in_tars} == {"cat": 1, "dog": 0}


def test_a_mask_that_fits_two_contents_or_is_there_twice_is_refused(tmp_path):
    Image.new("L", (32, 32), 255).save(tmp_path / "1.png")
    with pytest.raises(
        ConfigError, match=r"1.png may be the mask of /p/cats/1.jpg and of /p/dogs/1.jpg; put the masks"
    ):
        masks({"folder": str(tmp_path)}, {"cat": "/p/cats/1.jpg", "dog": "/p/dogs/1.jpg"})
    Image.new("L", (32, 32), 0).save(tmp_path / "1.bmp")
    with pytest.raises(ConfigError, match=r"1.bmp and .*1.png are masks of the same name; keep one"):
        masks({"folder": str(tmp_path)}, {"cat": "/p/cats/1.jpg"})


def test_masks_that_cannot_be_read(tmp_path):
    (tmp_path / "mask.png").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"mask.png is not readable as a picture: not an image"):
        masks({"picture": str(tmp_path / "mask.png")})
    with pytest.raises(ConfigError, match=r"gone.png does not exist"):
        masks({"picture": str(tmp_path / "gone.png")})
