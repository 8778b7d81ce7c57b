"""Settings in words."""

from __future__ import annotations

from pipeline.results.words import setting_words


def test_the_edits_of_a_sweep_are_told_apart():
    rows = [
        {"gamma": 0.3, "edit": None},
        {"gamma": 0.3, "edit": '{"component":1,"directions":"/far/away/dogs.safetensors","strength":-2.0}'},
        {"gamma": 0.3, "edit": '{"against":"pug","directions":"s3://b/d.safetensors","label":"a b","strength":0.5}'},
    ]
    assert setting_words(rows) == [
        "gamma 0.3",
        "gamma 0.3, edit component 1 x -2 of dogs.safetensors",
        "gamma 0.3, edit label a b against pug x 0.5 of d.safetensors",
    ]
