"""Run the blocks of a tutorial one after the other, as a reader would: ``python docs/run_page.py PAGE FOLDER``.

A YAML block whose first line is a comment with a file's name is written to that file. Lines of ``sh`` blocks run in the
folder; those that call ``diffstyle`` run in this process, which saves the seconds that importing torch takes. Python
blocks run as they stand. A line ``<!-- picture: PATTERN -> NAME -->`` says which file of the folder a picture of the
page is: with ``--pictures`` it is copied to where the page shows it.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from pipeline.cli.main import main as diffstyle

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PICTURE = re.compile(r"<!-- picture: (\S+) -> (\S+) -->")


def run_page(page: Path, folder: Path) -> None:
    """Run all blocks of a page in a folder.

    Raises:
        RuntimeError: A command failed, or a block of YAML names no file.
    """
    text = page.read_text(encoding="utf-8")
    with contextlib.chdir(folder):
        for kind, block in _BLOCK.findall(text):
            if kind == "yaml":
                name = re.match(r"# ([\w.-]+\.yaml)\n", block)
                if not name:
                    raise RuntimeError(f"{page}: a block of YAML begins with a comment that names its file")
                Path(name[1]).write_text(block, encoding="utf-8")
            elif kind == "sh":
                for line in _lines(block):
                    _run(line, page)
            elif kind == "python":
                exec(compile(block, str(page), "exec"), {})


def pictures(page: Path, folder: Path) -> Iterator[tuple[Path, Path]]:
    """Each picture of a page: the file that running it made, and the file that the page shows.

    Raises:
        RuntimeError: The pattern fits no file, or several.
    """
    for pattern, shown in _PICTURE.findall(page.read_text(encoding="utf-8")):
        files = sorted(folder.glob(pattern))
        if len(files) != 1:
            raise RuntimeError(f"{page}: {pattern} fits {len(files)} files: {[str(file) for file in files]}")
        yield files[0], page.parent / shown


def _lines(block: str) -> Iterator[str]:
    for line in block.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            yield line


def _run(line: str, page: Path) -> None:
    words = shlex.split(line, comments=True)
    if words[0] == "diffstyle":
        try:
            code = diffstyle.main(words[1:], "diffstyle", standalone_mode=False)
        except click.exceptions.Exit as leaving:
            code = leaving.exit_code
    else:
        code = subprocess.run(line, shell=True, check=False).returncode
    if code:
        raise RuntimeError(f"{page}: `{line}` ended with {code}")


def main(arguments: list[str]) -> None:
    """What the command line does."""
    copy = "--pictures" in arguments
    page, folder = (Path(argument).absolute() for argument in arguments if not argument.startswith("-"))
    folder.mkdir(parents=True, exist_ok=True)
    run_page(page, folder)
    for made, shown in pictures(page, folder):
        print(f"{shown.name}: {made.stat().st_size} bytes")
        if copy:
            shutil.copyfile(made, shown)


if __name__ == "__main__":
    main(sys.argv[1:])
