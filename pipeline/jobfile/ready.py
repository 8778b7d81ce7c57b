"""The ready jobs that come with the code, each with the sentence that its file begins with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.jobfile.load import load_job
from pipeline.models.config import load_model_config
from pipeline.models.weights import weights_place
from pipeline.storage.shipped import shipped_files


@dataclass(frozen=True)
class ReadyJob:
    """A job that runs by its name."""

    name: str
    file: Path
    sentence: str

    @property
    def needs(self) -> list[str]:
        """What it runs with that does not come along: pictures, weights and whether these are here; empty: nothing."""
        job = load_job(self.file)
        config = load_model_config(job.model)
        brings_pictures = "\ncontent: shipped:" in self.file.read_text(encoding="utf-8")
        if brings_pictures and weights_place(config) is not None:
            return []
        state = "here" if weights_place(config) is not None else "not here yet"
        return [*([] if brings_pictures else ["pictures"]), f"weights of {config.name} ({state})"]


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
