"""A file that a user names is written whole or not at all, and a place that takes no files is the user's mistake."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from diffstyle.errors import ConfigError
from pipeline.storage.whole import write_whole


def test_what_was_there_stays_where_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "strip.png"
    write_whole(file, b"first")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "a hidden name")

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(Path, "replace", full)
    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_whole(file, b"second")
    assert caught.value.filename == str(file)
    assert file.read_bytes() == b"first"


@pytest.mark.parametrize("name", ["/proc/strip.png", "file/strip.png", "folder"])
def test_a_place_that_takes_no_files_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if name.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("no /proc")
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("folder").mkdir()
    with pytest.raises(ConfigError, match=rf"^{name}: can't be written \(.*\); name another file$"):
        write_whole(name, b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
