"""Settings in words."""

from __future__ import annotations

import pytest

from pipeline.results.words import name_words, setting_words, settings_order, shared_words


def test_the_edits_of_a_sweep_are_told_apart():
    rows = [
        {"gamma": 0.3, "edit": None},
        {"gamma": 0.3, "edit": '{"component":1,"directions":"/far/away/dogs.safetensors","strength":-2.0}'},
        {"gamma": 0.3, "edit": '{"against":"pug","directions":"s3://b/d.safetensors","label":"a b","strength":0.5}'},
    ]
    assert setting_words(rows) == [
        "no edit",
        "edit component 1 x -2 of dogs.safetensors",
        "edit label a b against pug x 0.5 of d.safetensors",
    ]


MASK = '{"rectangle":[0.5,0.0,1.0,1.0]}'


@pytest.mark.parametrize(
    ("varied", "each", "shared"),
    [
        ([{"mask": None}, {"mask": MASK}], ["no mask", "mask rectangle 0.5, 0, 1, 1"], "gamma 1, t_edit 80"),
        ([{"omega": 0.0}, {"omega": 0.5}], ["omega 0", "omega 0.5"], "gamma 1, t_edit 80"),
        ([{"omega": 0.5}, {"omega": 0.5, "t_edit": 90}], ["t_edit 80", "t_edit 90"], "gamma 1, omega 0.5"),
        (
            [{"gamma": 0.5, "mask": MASK}, {"mask": None}],
            ["gamma 0.5, mask rectangle 0.5, 0, 1, 1", "gamma 1, no mask"],
            "t_edit 80",
        ),
        ([{}, {}], ["gamma 1", "gamma 1"], "gamma 1, t_edit 80"),
    ],
)
def test_only_what_differs_is_said_of_each_and_the_rest_of_all_but_for_what_is_off(varied, each, shared):
    rows = [{"gamma": 1.0, "t_edit": 80, "omega": 0.0, "mask": None, "edit": None, **one} for one in varied]
    assert setting_words(rows) == each
    assert shared_words(rows) == shared
    for title, own in zip(setting_words(rows, all_of_one=True), each, strict=True):
        assert title.startswith("gamma ")
        assert ("omega 0" in title.split(", ")) == ("omega 0" in own.split(", "))
        assert ("no mask" in title) == ("no mask" in own)


@pytest.mark.parametrize(
    ("row", "said", "named"),
    [
        ({"gamma": 0.3}, "gamma 0.3", ""),
        ({"mask": '"reference"', "omega": 0.5}, "omega 0.5, mask reference", "masked-omega-0.5"),
        ({"mask": '{"rectangle":[0.5,0.0,1.0,1.0]}'}, "mask rectangle 0.5, 0, 1, 1", "masked-0.5-0-1-1"),
        ({"mask": '{"picture":"/my/masks/left half.png"}'}, "mask picture left half.png", "masked-left_half"),
        ({"mask": '{"folder":"/my/masks/"}', "seed": 4}, "mask folder masks", "masked-each-seed-4"),
        (
            {"edit": '{"directions":"/d.safetensors","label":"a/b","strength":-2.0}'},
            "edit label a/b x -2 of d.safetensors",
            "edit-a_b-minus-2",
        ),
    ],
)
def test_settings_in_words_and_in_names(row, said, named):
    row = {"gamma": 0.3, **row}
    assert said in setting_words([row], all_of_one=True)[0]
    assert name_words(row) == named


def test_settings_are_in_the_order_of_their_numbers_and_what_is_off_comes_first():
    plain = {"gamma": 1.0, "t_edit": 160, "omega": 0.0, "mask": None, "seed": None}
    ordered = [
        {**plain, "gamma": 0.6, "omega": 2.0},
        {**plain, "gamma": 0.6, "omega": 10.0},
        plain,
        {**plain, "seed": 2},
        {**plain, "seed": 10},
        {**plain, "mask": MASK},
        {**plain, "gamma": None, "gamma_schedule": '{"linear":[0,1]}'},
    ]
    jumbled = [ordered[n] for n in (5, 3, 0, 6, 4, 2, 1)]
    assert [jumbled[n] for n in settings_order(jumbled)] == ordered
