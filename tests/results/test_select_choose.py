"""Which pairs `diffstyle select` chooses: each rule by itself, and what it says of those it left out."""

from __future__ import annotations

import csv
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.synthetic_runs import meta, pair_row, synthetic_run

from diffstyle.errors import ConfigError
from pipeline.results.manifest import Manifest
from pipeline.results.scores import Scores, score_rows
from pipeline.results.select.choose import Choice, Rules, choose
from pipeline.results.select.licences import allowed_list
from pipeline.results.select.pairs import RunPairs, columns_of
from pipeline.results.select.splits import parse_splits
from pipeline.storage.parts import PartStore

SIX = [pair_row(c, s, content_kept=i / 10, style_gram=i / 10) for i, (c, s) in enumerate(product("abc", "xy"))]


def names(choice: Choice) -> list[str]:
    pairs = zip(choice.table["content_key"].to_pylist(), choice.table["style_key"].to_pylist(), strict=True)
    return sorted("".join(pair) for pair in pairs)


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    return synthetic_run(tmp_path_factory.mktemp("six"), SIX)


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ("content_kept > 0.25", ["by", "cx", "cy"]),
        ("style_key = 'x' -- a comment", ["ax", "bx", "cx"]),
        ("content_kept >= (SELECT max(content_kept) FROM pairs)", ["cy"]),
        ("pair IN (SELECT pair FROM pairs QUALIFY row_number() OVER (ORDER BY edges, content_kept) = 1)", ["ax"]),
        ("edges > 0", []),  # null in all rows
    ],
)
def test_a_condition_is_sql_over_manifest_and_scores(six, where, wanted):
    choice = choose(six, Rules(where=where))
    assert names(choice) == wanted
    assert choice.lines()[0] == (f"{6 - len(wanted)} left out by --where" if len(wanted) < 6 else "6 of 6 pairs chosen")


def test_a_run_that_loses_pairs_meanwhile_is_one_line(tmp_path, monkeypatch):
    run = synthetic_run(tmp_path, SIX)
    table = RunPairs.table

    def and_one_is_dropped(self, names=None, only=None):
        rows = table(self, names, only)
        return rows if only is None else rows.slice(1)

    monkeypatch.setattr(RunPairs, "table", and_one_is_dropped)
    with pytest.raises(ConfigError, match=r"pairs were dropped from it meanwhile .*; choose again"):
        choose(run, Rules(limit=5))


def test_pairs_that_a_condition_leaves_out_for_want_of_scores_are_counted(tmp_path):
    """As where a run made more pictures after it was scored."""
    rows = [{**row, "content_kept": None} if row["content_key"] == "a" else row for row in SIX]
    run = synthetic_run(tmp_path, rows)
    lacking = "--where: 2 pairs have no content_kept, 6 pairs have no edges to fulfil it; "
    said = f"{lacking}`diffstyle score RUN` scores what is new"
    assert choose(run, Rules(where="content_kept > 0 OR EDGES > 0")).notes == (said,)
    assert choose(run, Rules(where="content_key = 'b'")).notes == ()


@pytest.mark.parametrize(
    "where",
    [
        "exists(SELECT * FROM read_csv('{file}'))",
        "exists(SELECT * FROM read_text('{file}'))",
        "exists(SELECT * FROM '{file}')",
        "exists(SELECT * FROM glob('{file}*'))",
        'exists(SELECT * FROM "table")',  # a variable of the code that asks
        "true); ATTACH '{file}.db' AS other; SELECT (true",
        "true) UNION ALL SELECT pair FROM pairs WHERE (true",
        "content_kep > 0.5",
        "content_kept >",
        "content_key",
        "",
    ],
)
def test_a_condition_that_is_wrong_or_reaches_out_is_one_line(six, tmp_path, where):
    file = tmp_path / "secret.csv"
    file.write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError) as caught:
        choose(six, Rules(where=where.replace("{file}", str(file))))
    assert str(caught.value).startswith("--where: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500, "a line to read, not the list of all columns"
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("content_kep > 0.5", "--where: unknown column 'content_kep'; did you mean 'content_kept'?"),
        ("gama = 1", "--where: unknown column 'gama'; did you mean 'gamma'?"),
    ],
)
def test_a_condition_on_an_unknown_column_says_the_nearest(six, where, message):
    with pytest.raises(ConfigError) as caught:
        choose(six, Rules(where=where))
    assert str(caught.value) == message


NAMES = ["pair", "content_key", "style_key", "content_kept", "style_gram", "edges", "gamma", "seed"]


@pytest.mark.parametrize(
    ("condition", "wanted"),
    [
        ("content_kept > 0.5 AND Style_Gram*2 < edges * 3", {"content_kept", "style_gram", "edges"}),
        ('"content_kept" BETWEEN 0 AND (gamma)*2', {"content_kept", "gamma"}),
        ("edges > (SELECT median(content_kept) FROM pairs)", {"edges", "content_kept"}),
        ("edges > (SELECT avg(edges) FROM pairs WHERE gamma > 0.5)", {"edges", "gamma"}),
        ("content_kept IS NOT NULL -- edges", {"content_kept", "edges"}),
        ("true", set()),
        *[
            (condition, set(NAMES))
            for condition in (
                "COLUMNS('.*kept') > 0.5",
                "COLUMNS(*) IS NOT NULL",
                "#4 > 0.5",
                "(SELECT count(*) FROM pairs) > 3",
                "exists(SELECT * FROM pairs)",
                "exists(SELECT pairs.* FROM pairs)",
                "exists(FROM pairs)",
                "exists(TABLE pairs)",
                "pairs IS NOT NULL",
                "(SELECT max(p) FROM pairs p) IS NOT NULL",
                "(SELECT max(p) FROM pairs AS p) IS NOT NULL",
                "exists(SELECT 1 FROM pairs NATURAL JOIN (SELECT 0.5 AS gamma))",
                "exists(SUMMARIZE pairs)",
            )
        ],
    ],
)
def test_the_columns_that_a_condition_may_read(condition, wanted):
    assert columns_of(condition, NAMES) == wanted


@pytest.mark.parametrize("condition", ["COLUMNS('.*_kept') > 0.25", "(SELECT count(*) FROM pairs) = 6", "#1 > ''"])
def test_a_condition_that_names_no_column(six, condition):
    wanted = ["by", "cx", "cy"] if "kept" in condition else ["ax", "ay", "bx", "by", "cx", "cy"]
    assert names(choose(six, Rules(where=condition))) == wanted


def test_only_the_columns_that_the_rules_look_at_are_read(six, monkeypatch):
    read = []
    rows = PartStore.part_rows

    def noted(store, part, schema, columns=None):
        read.extend(schema.names if columns is None else columns)
        return rows(store, part, schema, columns)

    monkeypatch.setattr(PartStore, "part_rows", noted)
    rules = Rules(where="content_kept > 0.1 AND style_key = 'x'", best="edges", per_style=1)
    narrow = choose(six, rules, whole=False)
    needed = {"pair", "status", "content_kept", "style_key", "edges", "content_image", "style_image"}
    assert set(read) == needed | {"error", "created"}  # of several rows of a pair, the newest without an error
    sizes = []
    tables = Manifest.table
    monkeypatch.setattr(Manifest, "table", lambda *asked: sizes.append(len(tables(*asked))) or tables(*asked))
    whole = choose(six, rules)
    assert sizes == [6, len(whole.table)]  # all columns are read of the chosen rows alone
    assert narrow.lines() == whole.lines()
    assert narrow.table["pair"] == whole.table["pair"]
    assert set(whole.table.column_names) > {"picture", "style_gram", "content_licence", "phash"}


def test_only_a_condition_needs_duckdb(six, monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    assert len(choose(six, Rules(best="content_kept", per_style=1)).table) == 2
    with pytest.raises(ConfigError, match=r"--where needs the package duckdb: pip install 'diffstyle\[select\]'"):
        choose(six, Rules(where="true"))


def test_without_scores_the_line_says_how_to_make_them(tmp_path):
    run = synthetic_run(tmp_path, SIX, scored=False)
    assert names(choose(run, Rules(where="gamma = 0.5"))) == ["ax", "ay", "bx", "by", "cx", "cy"]
    for rules in (Rules(where="edges > 0"), Rules(best="edges", limit=1), Rules(duplicates=0)):
        with pytest.raises(ConfigError, match="diffstyle score RUN"):
            choose(run, rules)


def test_a_picture_that_was_scored_at_the_second_try(tmp_path):
    run = synthetic_run(tmp_path, [{**row, "content_kept": None} for row in SIX], scored=False)
    scores = Scores(run)
    scores.open({"of": "nothing"})
    scores.commit("a", score_rows([{"pair": SIX[0]["pair"], "error": "missing"}, *SIX[1:]]))
    scores.commit("b", score_rows([{"pair": SIX[0]["pair"], "content_kept": 0.9}]))
    assert names(choose(run, Rules(best="content_kept", limit=1))) == ["ax"]


def test_failed_pairs_are_no_pictures(tmp_path):
    run = synthetic_run(tmp_path, [*SIX, pair_row("d", "x", status="failed", error="no")])
    assert choose(run, Rules()).made == 6


@pytest.mark.parametrize(
    ("best", "wanted"),
    [
        ("content_kept", ["cx", "cy"]),
        ("-content_kept", ["ax", "ay"]),
        ("style_gram", ["ax", "ay"]),  # less is better
        ("-style_gram", ["cx", "cy"]),
        ("+t_edit", ["bx", "cy"]),
    ],
)
def test_the_best_are_by_the_direction_of_the_score(tmp_path, best, wanted):
    rows = [{**row, "t_edit": {"bx": 9, "cy": 8}.get(row["content_key"] + row["style_key"])} for row in SIX]
    assert names(choose(synthetic_run(tmp_path, rows), Rules(best=best, limit=2))) == wanted


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (Rules(best="psnr_style", limit=1), r"neither end is good by itself; write \+psnr_style"),
        (Rules(best="content_kep", limit=1), "--best: unknown column 'content_kep'; did you mean 'content_kept'.$"),
        (Rules(best="zzz", limit=1), "--best: unknown column 'zzz'; allowed: algorithm, clipped, content_cosine, "),
        (Rules(best="style_key", limit=1), "which is no number"),
        (Rules(best="edges"), "all are taken; add --limit"),
    ],
)
def test_a_best_that_says_nothing(six, rules, message):
    with pytest.raises(ConfigError, match=message):
        choose(six, rules)


def test_pairs_without_the_score_come_last_and_are_told(tmp_path):
    rows = [{**row, "content_kept": None if row["content_key"] == "c" else row["content_kept"]} for row in SIX]
    choice = choose(synthetic_run(tmp_path, rows), Rules(best="content_kept", limit=5))
    assert [name for name in names(choice) if name[0] != "c"] == ["ax", "ay", "bx", "by"]
    (note,) = choice.notes
    assert note.startswith("1 of the chosen pairs has no content_kept; it came last: the prepared pictures of")


@settings(max_examples=30)
@given(
    scores=st.lists(st.integers(0, 9), min_size=20, max_size=20),
    per_style=st.one_of(st.none(), st.integers(1, 4)),
    per_content=st.one_of(st.none(), st.integers(1, 4)),
)
def test_quotas(tmp_path_factory, scores, per_style, per_content):
    """None is exceeded, and what is left out would exceed one with pairs that are as good or better."""
    rows = [pair_row(c, s, content_kept=n) for (c, s), n in zip(product("abcde", "wxyz"), scores, strict=True)]
    run = synthetic_run(tmp_path_factory.mktemp("quotas"), rows)
    rules = Rules(best="content_kept", per_style=per_style, per_content=per_content)
    if per_style is per_content is None:
        return
    chosen = names(choose(run, rules))
    score = {row["content_key"] + row["style_key"]: row["content_kept"] for row in rows}
    limits = [(1, per_style or 99), (0, per_content or 99)]
    for at, limit in limits:
        assert all(sum(one[at] == value for one in chosen) <= limit for value in {one[at] for one in chosen})
    for lost in set(score) - set(chosen):
        assert any(
            sum(one[at] == lost[at] and score[one] >= score[lost] for one in chosen) == limit for at, limit in limits
        )


@settings(max_examples=30)
@given(
    hashes=st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 255), min_size=1, max_size=20), bits=st.integers(0, 8)
)
def test_near_duplicates(tmp_path_factory, hashes, bits):
    """What stays differs by more than so many bits; what goes has a better one among them that is as near."""
    rows = [pair_row(str(i), "x", phash=h.to_bytes(8), content_kept=i) for i, h in enumerate(hashes)]
    run = synthetic_run(tmp_path_factory.mktemp("duplicates"), rows)
    chosen = choose(run, Rules(best="content_kept", duplicates=bits)).table["content_key"].to_pylist()
    kept = sorted(int(key) for key in chosen)
    far = [(hashes[one] ^ hashes[other]).bit_count() for one in kept for other in kept if one < other]
    assert all(distance > bits for distance in far)
    for lost in set(range(len(hashes))) - set(kept):
        assert any(one > lost and (hashes[one] ^ hashes[lost]).bit_count() <= bits for one in kept)


def test_a_list_of_decisions(six, tmp_path):
    ids = {row["content_key"] + row["style_key"]: row["pair"] for row in SIX}
    file = tmp_path / "decisions.csv"
    file.write_text(f"pair,name,decision\n{ids['ax']},,reject\n{ids['ay']},,\nunknown,,reject\n")
    choice = choose(six, Rules(keep=file))
    assert names(choice) == ["ay", "bx", "by", "cx", "cy"]
    assert choice.notes == (f"1 pair of {file} is not in this run",)
    for delimiter in ",;\t":
        rows = f"decision,pair\nreject,{ids['ax']}\nKeep,{ids['by']}\n"
        file.write_text(rows.replace(",", delimiter))
        choice = choose(six, Rules(keep=file))
        assert names(choice) == ["by"]
    assert str(choice.left_out[0]) == "5 left out by --keep (the list does not keep them)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("pair,verdict\na,keep\n", "its columns are pair, verdict; it needs the columns pair and decision"),
        ("", "its columns are none"),
        ('{"pair": "a", "decision": "keep", ' + '"x": 1, ' * 999 + "}", r"its columns are .{,205}\.\.\.; it needs"),
        ("pair,decision\n" + "a" * 200_000 + ",keep\n", "not readable as CSV .field larger than"),
        ("pair,decision\na,maybe\n", "line 2: decision is 'maybe'"),
        ("pair,decision\na,keep\na,reject\n", "line 3: pair a is both kept and rejected"),
        (b"pair,decision\n\xff,keep\n", "not readable as UTF-8"),
    ],
)
def test_a_wrong_list_is_one_line(six, tmp_path, text, message, request):
    # Python's own limit: a list of pictures that was read before in this process may have raised it.
    before = csv.field_size_limit(131_072)
    request.addfinalizer(lambda: csv.field_size_limit(before))
    file = tmp_path / "list.csv"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=message):
        choose(six, Rules(keep=file))


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("cc0", True),
        ("CC0 1.0", True),
        ("CC0 1.0 Universal", True),
        ("https://creativecommons.org/publicdomain/zero/1.0/", True),
        ("CC-BY-4.0", True),
        ("cc_by", True),
        ("CC BY 4.0", True),
        ("Creative Commons Attribution 4.0 International", True),
        ("http://creativecommons.org/licenses/by/3.0/deed.en", True),
        ("CC BY-NC 4.0", False),
        ("cc-by-sa-4.0", False),
        ("Creative Commons Attribution-NonCommercial 4.0 International", False),
        ("https://creativecommons.org/licenses/by-nd/4.0/", False),
        (["https://creativecommons.org/licenses/by/4.0/", "https://creativecommons.org/licenses/by-nc/4.0/"], False),
        (["https://creativecommons.org/licenses/by/4.0/", "https://creativecommons.org/publicdomain/zero/1.0/"], True),
        ("all rights reserved", False),
        ("", False),
        (None, False),
    ],
)
def test_both_sources_must_allow_it(tmp_path, licence, allowed):
    good = {"style_meta": meta(License="CC0 1.0", creator="Ada")}
    rows = [pair_row("a", "x", content_meta=meta(license=licence), **good), pair_row("b", "x", **good)]
    choice = choose(synthetic_run(tmp_path, rows), Rules(licences=allowed_list("CC0, cc-by")))
    assert names(choice) == (["ax"] if allowed else [])
    assert "no licence stated: " in str(choice.left_out[0])
    assert choice.table["style_attribution"].to_pylist() == ["Ada"] * allowed


IMAGES = st.lists(st.integers(0, 40), min_size=2, max_size=14, unique=True)


@settings(max_examples=30)
@given(
    contents=IMAGES,
    styles=IMAGES,
    seed=st.integers(0, 5),
    grown=st.integers(1, 6),
    by=st.sampled_from(["both", "content", "style"]),
)
def test_splits_never_leak_and_stay_when_the_run_grows(tmp_path_factory, contents, styles, seed, grown, by):
    shares = parse_splits("train=0.5,validation=0.2,test=0.3")
    rows = [pair_row(str(c), str(s)) for c in contents for s in styles]
    more = [pair_row(str(c), str(s)) for c in [*contents, *range(50, 50 + grown)] for s in styles]
    folder = tmp_path_factory.mktemp("splits")
    splits = []
    for number, some in enumerate((rows, more)):
        choice = choose(synthetic_run(folder / str(number), some), Rules(splits=shares, seed=seed, splits_by=by))
        table = choice.table
        sides = {side: table[f"{side}_image"].to_pylist() for side in ("content", "style")}
        split = table["split"].to_pylist()
        assert sum(choice.splits.values()) == len(table)
        assert len(table) + choice.left_out[0].pairs == len(some)
        # Of the sides that are held out, also a picture that is a content here and a style there.
        held = [
            (image, name)
            for side in sides
            if by in ("both", side)
            for image, name in zip(sides[side], split, strict=True)
        ]
        assert len(dict(held)) == len(set(held))
        if by != "both":
            assert len(table) == len(some)
        splits.append(dict(zip(table["pair"].to_pylist(), split, strict=True)))
    assert splits[0].items() <= splits[1].items()


def test_splits_have_their_shares_and_follow_the_seed(tmp_path):
    run = synthetic_run(tmp_path, [pair_row(str(i), "x") for i in range(2000)])
    rules = {"splits": parse_splits("train=0.8,test=0.2"), "splits_by": "content"}
    first, second = (choose(run, Rules(**rules, seed=seed)) for seed in (0, 1))
    assert first.splits["train"] == pytest.approx(1600, abs=60)
    assert list(first.splits) == ["train", "test"]
    assert first.table["split"].to_pylist() != second.table["split"].to_pylist()
    assert np.mean(np.array(first.table["split"]) == np.array(second.table["split"])) == pytest.approx(0.68, abs=0.06)


def test_shares_that_the_pairs_do_not_meet_are_told_with_the_numbers(tmp_path):
    """What is held out are pictures: of few, a share of the pairs can only be met roughly."""
    run = synthetic_run(tmp_path, [pair_row(c, s) for c, s in product("abcdefghij", "xyz")])
    shares = parse_splits("train=0.8,test=0.2")
    choice = choose(run, Rules(splits=shares, splits_by="content", seed=7))
    assert choice.splits == {"train": 21, "test": 9}
    assert choice.notes == (
        "the shares of --splits are of contents, each placed by its hash, not of pairs: train has 7 contents, 70% of "
        "the pairs; test has 3 contents, 30% of the pairs",
    )
    (note,) = choose(run, Rules(splits=shares, seed=1)).notes
    assert "of contents and styles, each" in note
    assert "train has 8 contents and 1 style, 67% of the pairs" in note
    assert choose(run, Rules(splits=shares, splits_by="content", seed=1)).notes == ()  # 24 and 6, as was asked


def test_an_empty_split_is_told(tmp_path):
    choice = choose(synthetic_run(tmp_path, SIX), Rules(splits=parse_splits("train=0.999999,test=0.000001")))
    assert choice.splits == {"train": 6}
    assert choice.notes == ("no pair is in test: too few pictures for so small a share, or another --seed",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train=0.8,test=0.1", "the shares make up 0.9 and not 1"),
        ("train", "'train' is no name with a share"),
        ("train=0.5,Train=0.5", "Train is given twice"),
        ("all=0.5,test=0.5", "keeps the name all for all splits together"),
        ("train=1.5,test=-0.5", "'train=1.5' is no name"),
        ("../x=1", "'../x=1' is no name"),
        ("train=0.5,train=0.5", "train is given twice"),
        ("train=nan,test=1", "'train=nan'"),
    ],
)
def test_wrong_splits(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_splits(text)


def test_a_folder_without_results(tmp_path: Path):
    from pipeline.storage.place import Place

    with pytest.raises(ConfigError, match="no results here; give the output folder"):
        choose(Place.parse(tmp_path), Rules())
