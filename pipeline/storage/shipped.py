"""The files that travel with the code: model configs and ready jobs, in a source tree or inside an installed wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped_folder(kind: str) -> Path:
    """The folder ``configs`` or ``jobs``: where a wheel put it, in the package, else at the top of the source tree."""
    packed = _PACKAGE / "_shipped" / kind
    return packed if packed.is_dir() else _PACKAGE.parent / kind


def shipped_files(kind: str) -> dict[str, Path]:
    """Name (without ``.yaml``) -> file of all shipped ``configs`` or ``jobs``, sorted by name."""
    return {file.stem: file for file in sorted(shipped_folder(kind).glob("*.yaml"))}
