"""A file's name may hold escape sequences and line ends: none of them reaches the terminal."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from support.whole_jobs import SIX_PAIRS, job_file, paint

from pipeline.cli.main import main
from pipeline.storage.masking import masked_output, unescaped
from pipeline.storage.visible import on_one_line, visible

ROOT = Path(__file__).parents[2]
EVIL = "\x1b]0;title\x07\x1b[31mred\nok: all is done\u202egnp.png"


@given(st.text(st.characters(codec=None, categories=None)))
def test_any_text_can_be_shown(text):
    """Also names that are no UTF-8: they come as lone surrogates, which no stream takes."""
    line = on_one_line(text)
    line.encode()
    visible(text).encode()
    assert len(line.splitlines()) <= 1
    assert "\x1b" not in visible(text)
    if text.isprintable():
        assert line == text


def test_what_may_give_orders_to_a_terminal_still_may():
    stream = io.StringIO()
    with contextlib.redirect_stderr(stream), masked_output():
        print("\x1b[31mname", file=sys.stderr)
        print("\x1b[31mcolour", file=unescaped(sys.stderr))
    assert stream.getvalue() == "\\x1b[31mname\n\x1b[31mcolour\n"


@pytest.fixture
def evil_job(tmp_path) -> Path:
    """A job in whose data set a broken file has such a name."""
    paint(tmp_path / "c" / "good.png", 1)
    try:
        (tmp_path / "c" / EVIL).write_bytes(b"no picture")
        (tmp_path / "c" / os.fsdecode(b"\xff\x1b[2J.png")).write_bytes(b"no picture")
    except OSError:
        pytest.skip("this file system has no such names")
    return job_file(tmp_path, **SIX_PAIRS | {"content": str(tmp_path / "c")})


def test_no_command_shows_them_raw(evil_job):
    out = evil_job.parent / "out"
    for words in (
        ("plan", evil_job),
        ("run", evil_job, "--local"),
        ("status", out),
        ("failures", out),
        ("verify", out),
        ("run", evil_job.parent / "c" / EVIL),
    ):
        if words[-1] == "--local":  # with streams of its own, to which libraries may write as they like
            command = [sys.executable, "-m", "pipeline", *map(str, words)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=300)
            code, text = done.returncode, (done.stdout + done.stderr).decode()
        else:
            result = CliRunner().invoke(main, list(map(str, words)))
            code, text = result.exit_code, result.output
        assert code in (0, 2, 3), text
        assert "\x1b" not in text, words
        assert "\x07" not in text, words
        assert "\nok: all is done" not in text, words
        if words[0] == "failures":
            assert len(text.splitlines()) == 3
            assert r"\x1b[31mred\nok: all is done\u202egnp.png: " in text


def test_one_is_one_line_in_the_command_line_too(evil_job):
    result = CliRunner().invoke(main, ["run", str(evil_job.parent / "none\x1b[2J\n.yaml")])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "\x1b" not in result.stderr
