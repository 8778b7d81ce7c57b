"""Showing what a command measured, and writing it into a page of the docs, between two markers."""

from __future__ import annotations

from pathlib import Path

from diffstyle.errors import ConfigError


def publish(lines: list[str], page: Path | None, markers: tuple[str, str]) -> None:
    """Print the lines and, where a page is given, :func:`write_between` its markers."""
    text = "\n".join(lines)
    print(text)
    if page:
        write_between(page, markers, text)


def write_between(page: Path, markers: tuple[str, str], text: str) -> None:
    """Replace what stands between two markers of a page. Raises ConfigError for a page without them."""
    whole = page.read_text()
    begin = whole.find(markers[0])
    end = whole.find(markers[1], max(begin, 0))
    if begin < 0 or end < 0:
        raise ConfigError(f"{page}: has no lines '{markers[0]}' and '{markers[1]}' to write between")
    page.write_text(f"{whole[: begin + len(markers[0])]}\n{text}\n{whole[end:]}")
