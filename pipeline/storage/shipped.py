"""What travels with the code: model configs, ready jobs, the demo; in a source tree or inside an installed wheel."""

from __future__ import annotations

from pathlib import Path

from diffstyle.errors import ConfigError

#: How an address of something that travels with the code begins: ``shipped:demo/contents``.
SHIPPED = "shipped:"

#: The folders that may be named so.
FOLDERS = ("configs", "demo", "jobs")

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped_folder(kind: str) -> Path:
    """The folder ``configs``, ``demo`` or ``jobs``: where a wheel put it, in the package, else in the source tree."""
    packed = _PACKAGE / "_shipped"
    return (packed if packed.is_dir() else _PACKAGE.parent) / kind


def shipped_files(kind: str) -> dict[str, Path]:
    """Name (without ``.yaml``) -> file of all shipped ``configs`` or ``jobs``, sorted by name."""
    return {file.stem: file for file in sorted(shipped_folder(kind).glob("*.yaml"))}


def is_shipped_job(file: Path) -> bool:
    """Whether ``file`` is one of the ready jobs themselves, and no copy of one."""
    return file.suffix == ".yaml" and file.resolve().parent == shipped_folder("jobs").resolve()


def shipped_path(address: str) -> str:
    """The absolute path that an address like ``shipped:demo/contents`` stands for.

    Raises:
        ConfigError: it does not begin with one of the folders that travel with the code, or leads out of it, or this
            build carries no such folder.
    """
    folder, *below = address.removeprefix(SHIPPED).split("/")
    if folder not in FOLDERS or ".." in below:
        raise ConfigError(f"{address}: no folder that comes with DiffStyle; after {SHIPPED} write {_one_of(FOLDERS)}")
    root = shipped_folder(folder)
    if not root.is_dir():
        raise ConfigError(
            f"{address}: this build of DiffStyle carries no folder '{folder}'; install it from its source tree or give "
            "a path"
        )
    return str(root.joinpath(*below))


def _one_of(names: tuple[str, ...]) -> str:
    return f"{', '.join(f'{name}/...' for name in names[:-1])} or {names[-1]}/..."
