from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffstyle.errors import ConfigError
from pipeline.storage.errors import BugError, Stopped, fatal
from pipeline.workers.actor import Worker
from pipeline.workers.unit import Failure, halves


@dataclass(frozen=True)
class Raises:
    """A unit that fails in one of its phases."""

    error: Exception
    phase: str
    name: str = "unit"

    def load(self) -> None:
        self._perhaps("load")

    def compute(self, context: Any, loaded: None) -> None:
        self._perhaps("compute")

    def save(self, computed: None) -> None:
        self._perhaps("save")

    def split(self) -> list[Any]:
        return []

    def _perhaps(self, phase: str) -> None:
        if phase == self.phase:
            raise self.error


@pytest.mark.parametrize("phase", ["load", "compute", "save"])
@pytest.mark.parametrize("kind", [TypeError, AttributeError, NameError, ImportError, AssertionError])
def test_a_mistake_of_ours_ends_the_run_and_is_no_failed_item(kind, phase):
    failure, _ = Worker(None, 1).run(Raises(kind("oops"), phase))
    assert isinstance(failure.stop, BugError)
    assert f"{kind.__name__}: oops" in str(failure.stop)
    assert "in _perhaps" in str(failure.stop), "the worker's traceback is in it"


@pytest.mark.parametrize("error", [ValueError("odd"), RuntimeError("odd"), MemoryError(), FileNotFoundError(2, "gone")])
def test_other_errors_concern_the_item_alone(error):
    failure, _ = Worker(None, 1).run(Raises(error, "load"))
    assert failure.stop is None
    assert fatal(error) is None


def test_errors_for_users_end_the_run_as_they_are():
    failure, _ = Worker(None, 1).run(Raises(ConfigError("a: is wrong"), "compute"))
    assert type(failure.stop) is ConfigError
    assert Failure.of(OSError(28, "No space left on device")).stop.exit_code == Stopped.exit_code == 4


@given(st.lists(st.integers()))
def test_halves_cover_all_and_end(items):
    parts = halves(tuple(items))
    assert [item for part in parts for item in part] == (items if len(items) > 1 else [])
    assert all(0 < len(part) < len(items) for part in parts)
