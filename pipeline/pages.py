"""Writing what a command measured into a page of the docs, between two markers."""

from __future__ import annotations

from pathlib import Path

from diffstyle.errors import ConfigError


def write_between(page: Path, markers: tuple[str, str], text: str) -> None:
    """Replace what stands between two markers of a page. Raises ConfigError for a page without them."""
    whole = page.read_text()
    begin, end = (whole.find(marker) for marker in markers)
    if begin < 0 or end < 0:
        raise ConfigError(f"{page}: has no lines '{markers[0]}' and '{markers[1]}' to write between")
    page.write_text(f"{whole[: begin + len(markers[0])]}\n{text}\n{whole[end:]}")
