"""YAML as people mean it: plain words and numbers, ``--set`` values, variables, and texts that ask for too much."""

from __future__ import annotations

import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from diffstyle.errors import ConfigError
from pipeline.storage.variables import AnyMapping, escape, expand
from pipeline.storage.yamlcore import dump
from pipeline.storage.yamlfile import Document, parse_yaml


def value_of(text: str):
    return parse_yaml(f"x: {text}\n", "f.yaml").value["x"]


def assigned(text: str):
    document = Document("f.yaml", {})
    document.override(f"a.b={text}")
    return document.value["a"]["b"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # As YAML 1.1 has them too.
        ("10", 10),
        ("-3", -3),
        ("0.5", 0.5),
        (".5", 0.5),
        ("1.e3", 1000.0),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        # As people mean them.
        ("010", 10),
        ("1e3", 1000.0),
        ("1E-2", 0.01),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("190:20:30", "190:20:30"),
        ("0b11", "0b11"),
        ("yes", "yes"),
        ("no", "no"),
        ("On", "On"),
        ("n", "n"),
        ("2024-01-01", "2024-01-01"),
        ("2024-01-01 10:00:00", "2024-01-01 10:00:00"),
        ("=", "="),
        ("12a", "12a"),
        ("1e", "1e"),
        ("tRUE", "tRUE"),
        ("'010'", "010"),
        ('"true"', "true"),
        ("!!str 010", "010"),
        ("!!int '7'", 7),
    ],
)
def test_plain_words_and_numbers(text, value):
    assert value_of(text) == value
    assert type(value_of(text)) is type(value) or isinstance(value, str)
    if not text.startswith("!!"):
        assert assigned(text) == value


TEXTS = st.one_of(
    st.text("\x85\u2028\u2029\n\r\t a'\"\\\x00\x1b\ufeff", max_size=6),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.from_regex(r"\A[-+.:0-9_exobnfyYNaITrueFalsso~<=]{1,8}\Z"),
)


@settings(max_examples=300, deadline=None)
@given(TEXTS | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | st.booleans() | st.none())
def test_what_is_written_reads_back(value):
    text = dump({"x": escape(value) if isinstance(value, str) else value})
    again = parse_yaml(text, "f.yaml").value["x"]
    assert again == value
    assert isinstance(again, str) == isinstance(value, str)
    if not isinstance(value, str):
        assert yaml.safe_load(text)["x"] == value
    else:  # other programs, with YAML 1.1, read a text as a text
        assert isinstance(yaml.safe_load(text)["x"], str)


# ---- variables ----


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=20) | st.text(alphabet="${}aB_1 ", max_size=12))
def test_any_text_can_be_written_so_that_no_variable_is_seen(text):
    assert expand(escape(text)) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${A}/x", "value/x"),
        ("$${A}", "${A}"),
        ("$$A", "$A"),
        ("a$", "a$"),
        ("$5 or $.", "$5 or $."),
        ("$$$A", "$$A"),
        ("${A}${A}", "valuevalue"),
        ("${unclosed", "${unclosed"),
    ],
)
def test_variables(text, expected, monkeypatch):
    monkeypatch.setenv("A", "value")
    assert expand(text) == expected
    assert expand(text).written == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$HOME/x", "x: write ${HOME} for the environment variable, or $$HOME for the text itself (in '$HOME/x')"),
        ("${NO_SUCH}", "x: the environment variable NO_SUCH is not set (in '${NO_SUCH}')"),
        ("${}", "x: the environment variable  is not set"),
        ('"${LONG}' + "${LONG}" * 80 + '"', "x: becomes longer than 65,536 characters once its variables are replaced"),
    ],
)
def test_variables_that_are_refused(text, expected, monkeypatch):
    monkeypatch.setenv("LONG", "v" * 1000)
    monkeypatch.delenv("NO_SUCH", raising=False)
    with pytest.raises(ConfigError) as caught:
        value_of(text)
    assert str(caught.value).startswith(f"f.yaml:1: {expected}")


# ---- --set ----


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("run #1", "run #1"),
        ("#1", "#1"),
        ("*.tar", "*.tar"),
        ("{0000..0009}.tar", "{0000..0009}.tar"),
        ("{0..9}", "{0..9}"),
        ("{a,b}", "{a,b}"),
        ("{a,b}/{c,d}", "{a,b}/{c,d}"),
        ("[ab][cd]", "[ab][cd]"),
        ("[ab]*.tar", "[ab]*.tar"),
        ("a: b", "a: b"),
        ("a:", "a:"),
        ("&a", "&a"),
        ("!x", "!x"),
        ("@x", "@x"),
        ("%x", "%x"),
        ("`x`", "`x`"),
        ("| x", "| x"),
        ("> x", "> x"),
        ("- x", "- x"),
        ("? x", "? x"),
        ("it's", "it's"),
        ("'a", "'a"),
        ("a, b", "a, b"),
        ("--- x", "--- x"),
        ("a\nb", "a\nb"),
        ("a=b", "a=b"),
        ("", None),
        (" 0.5 ", 0.5),
        ("'*.tar #1 '", "*.tar #1 "),
        ("'it''s'", "it's"),
        ('"a\\tb"', "a\tb"),
        ("'2024'", "2024"),
        ("[0.1, 0.2]", [0.1, 0.2]),
        ("[a, 'b']", ["a", "b"]),
        ("['[ab]']", ["[ab]"]),
        ("[]", []),
        ("{}", {}),
        ("{linear: [0, 1]}", {"linear": [0, 1]}),
        ("{list: a.csv}", {"list": "a.csv"}),
        ("{grid: null}", {"grid": None}),
    ],
)
def test_a_value_on_the_command_line(text, value):
    assert assigned(text) == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"\\q"', "--set a.b: the quotes can't be read"),
        ("'a'b'", "--set a.b: the quotes can't be read"),
        ("9" * 5000, "--set a.b: is a number of 5,000 characters"),
        ("[!!float x]", "--set a.b:1: [0]: is marked as a number (!!float), but is not written as one"),
        ("${NO_SUCH}", "--set a.b: the environment variable NO_SUCH is not set"),
        ("\udcff", "--set a.b: holds bytes or characters that are no text (not UTF-8)"),
    ],
)
def test_a_value_on_the_command_line_that_is_refused(text, expected, monkeypatch):
    monkeypatch.delenv("NO_SUCH", raising=False)
    with pytest.raises(ConfigError) as caught:
        assigned(text)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


FILE_NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20
) | st.text(alphabet="#*?[]{}:,&!@%'\"`|>-~$ ab1.\\/=\n", min_size=1, max_size=12)


@settings(max_examples=500, deadline=None)
@given(FILE_NAMES)
def test_any_text_can_be_given_in_single_quotes(name):
    assert assigned("'" + escape(name).replace("'", "''") + "'") == name


@settings(max_examples=500, deadline=None)
@given(FILE_NAMES)
def test_any_other_text_needs_no_quotes(name):
    """Needed are they for: spaces around it; a text that begins and ends as YAML in brackets or quotes does; a number
    or one of the words null, true and false; a dollar sign in front of a name."""
    odd = name != name.strip() or name[0] + name[-1] in ("[]", "{}", "''", '""') or escape(name) != name
    if odd or name.lower() in ("null", "~", "true", "false") or name.lstrip("+-.")[:1].isdigit():
        return
    if name.lower().lstrip("+-") in (".inf", ".nan"):
        return
    assert assigned(name) == name


# ---- what asks for too much ----

BOMBS = {
    "aliases": ("a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
    ), "more than 20,000 values"),
    "merges": ("a: &a {x: 1}\n" + "".join(
        f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 9)}], {new}: 1}}\n"
        for old, new in zip("abcdefghi", "bcdefghij", strict=True)
    ), "more than 20,000 values"),
    "flow nesting": ("x: " + "[" * 3000 + "]" * 3000, "nested more than 50 deep"),
    "mapping nesting": ("x: " + "{a: " * 3000 + "1" + "}" * 3000, "nested more than 50 deep"),
    "block nesting": ("".join(f"{' ' * n}a:\n" for n in range(1000)), "nested more than 50 deep"),
    "dashes": ("x:\n" + "- " * 3000 + "1", "nested more than 50 deep"),
    "nesting by aliases": ("a: &a [[[[[x]]]]]\n" + "".join(
        f"{new}: &{new} [[[[[*{old}]]]]]\n" for old, new in zip("abcdefghijk", "bcdefghijkl", strict=True)
    ), "nested more than 50 deep"),
    "digits": ("x: " + "9" * 5000, "x: is a number of 5,000 characters; at most 100 are read"),
    "hex digits": ("x: 0x" + "f" * 5000, "x: is a number of 5,002 characters"),
    "file size": ("x: a\n" * 300_000, "is larger than 1 MiB"),
    "many values": ("x:\n" + "- a\n" * 120_000, "more than 20,000 values"),
    "one long word": ("x: " + "a" * 1_000_000 + "\ny: [", "not valid YAML"),
    "many brackets": ("x: " + "[a, " * 200_000, "nested more than 50 deep"),
    "variables": ("x: \"" + "${BIG}" * 100_000 + '"', "becomes longer than 65,536 characters"),
    "itself": ("x: &a {b: *a}", "contains itself"),
    "merging itself": ("x: &a {<<: *a}", "contains itself"),
    "merging a list": ("x: {<<: [1]}", "<< takes mappings"),
    "tags": ("x: !!python/object/apply:os.system [ls]", "the tag !!python/object/apply:os.system is not known here"),
    "binary": ("x: !!binary aGk=", "the tag !!binary is not known here; omit it"),
    "surrogates": ('x: "\\ud800"', "holds bytes or characters that are no text"),
}  # fmt: skip


def _bounded() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (300, 300))


def test_texts_that_ask_for_too_much_are_refused_at_once(tmp_path):
    """All in one process with 1 GiB of memory, so that its start is paid for once."""
    for name, (text, _) in BOMBS.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    code = (
        "import sys, time\n"
        "from diffstyle.errors import ConfigError\n"
        "from pipeline.storage.yamlfile import read_yaml\n"
        "for file in sys.argv[1:]:\n"
        "    began = time.monotonic()\n"
        "    try:\n"
        "        said = f'read: {str(read_yaml(file).value)[:80]}'\n"
        "    except ConfigError as error:\n"
        "        said = str(error)\n"
        "    print(f'{time.monotonic() - began:.1f}', repr(said), flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *(str(tmp_path / f"{name}.yaml") for name in BOMBS)],
        capture_output=True, text=True, preexec_fn=_bounded, timeout=400,
        env={**os.environ, "BIG": "b" * 100_000, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(BOMBS)
    for (name, (_, expected)), line in zip(BOMBS.items(), lines, strict=True):
        seconds, _, said = line.partition(" ")
        assert expected in said, name
        assert "\\n" not in said, name
        assert float(seconds) < 30, name


def test_a_deep_assignment_is_refused():
    with pytest.raises(ConfigError, match="nested more than 50 deep"):
        Document("f.yaml", {}).override(".".join("a" * 3000) + "=1")


def test_values_of_any_kind_hold_plain_texts(monkeypatch):
    """They are pickled into checkpoints, which hold no classes of ours."""

    class Anything(BaseModel):
        model: AnyMapping
        name: str

    monkeypatch.setenv("A", "value")
    document = parse_yaml("model: {a: '${A}', b: [x, {c: '${A}'}], 1: 2}\nname: ${A}\n", "f.yaml")
    document.override("model.d=text")
    anything = document.validate(Anything)
    assert anything.model == {"a": "value", "b": ["x", {"c": "value"}], "1": 2, "d": "text"}
    texts = [anything.name, anything.model["a"], anything.model["b"][1]["c"], anything.model["d"], *anything.model]
    assert {type(text) for text in texts} == {str}
