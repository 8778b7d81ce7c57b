"""The ready jobs that come with the code, each with the sentence that its file begins with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.storage.shipped import shipped_files


@dataclass(frozen=True)
class ReadyJob:
    """A job that runs by its name."""

    name: str
    file: Path
    sentence: str

    @property
    def brings_its_own(self) -> bool:
        """Whether model and pictures come along, so that it runs as it is."""
        return "\ncontent: shipped:" in self.file.read_text(encoding="utf-8")


def ready_jobs() -> list[ReadyJob]:
    """All of them, by name."""
    return [ReadyJob(name, file, _sentence(file)) for name, file in shipped_files("jobs").items()]


def _sentence(file: Path) -> str:
    """The comment at the head of a file, up to its first full stop."""
    words: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        words += line[2:].split()
    return " ".join(words).partition(". ")[0].removesuffix(".") + "."
