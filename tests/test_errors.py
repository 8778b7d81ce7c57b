"""The drawing of all errors in `diffstyle.errors` is the tree of classes that exist."""

from __future__ import annotations

import builtins
import importlib
import inspect
import re

from test_imports import MODULES

import diffstyle.errors
from diffstyle.errors import DiffStyleError
from pipeline.storage.errors import EXIT_BUG, BugError

LINE = re.compile(r"^(?P<indent> {4,})(?P<name>[A-Z]\w+) +(?:(?P<code>\d) +)?(?P<phrase>\S.*)$")


def drawn() -> dict[str, tuple[str | None, int | None]]:
    """Name -> (name of its base in the drawing, exit code)."""
    tree: dict[str, tuple[str | None, int | None]] = {}
    branch: list[tuple[int, str]] = []
    for line in str(diffstyle.errors.__doc__).splitlines():
        if match := LINE.match(line):
            indent, name = len(match["indent"]), match["name"]
            while branch and branch[-1][0] >= indent:
                branch.pop()
            assert name not in tree, f"{name} is drawn twice"
            tree[name] = (branch[-1][1] if branch else None, int(match["code"]) if match["code"] else None)
            branch.append((indent, name))
    return tree


def exceptions() -> dict[str, type[BaseException]]:
    """Name -> class of every public exception that a module of the two packages defines."""
    classes: dict[str, type[BaseException]] = {}
    for module_name in MODULES:
        if module_name.endswith("__main__"):  # importing it runs the command line
            continue
        for name, value in vars(importlib.import_module(module_name)).items():
            if not inspect.isclass(value) or not issubclass(value, BaseException) or name.startswith("_"):
                continue
            if value.__module__ == module_name:
                assert name not in classes, f"{name} is defined by {classes[name].__module__} and {module_name}"
                classes[name] = value
    return classes


def test_every_error_is_drawn_under_its_base_with_its_exit_code() -> None:
    actual: dict[str, tuple[str | None, int | None]] = {}
    for name, kind in exceptions().items():
        base = next((one.__name__ for one in kind.__mro__[1:] if one.__name__ in drawn()), None)
        code = kind.exit_code if issubclass(kind, DiffStyleError) else EXIT_BUG if kind is BugError else None
        actual[name] = (base, code)
    assert drawn() == actual


def test_every_error_is_explained() -> None:
    assert [name for name, kind in exceptions().items() if not kind.__doc__] == []


def test_no_error_hides_one_of_the_language() -> None:
    assert [name for name in exceptions() if hasattr(builtins, name)] == []
