"""What the first bytes of a checkpoint file say, read without torch: whether it is one, and its architecture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from diffstyle.errors import CheckpointError, cut, one_line

#: Where a ``.safetensors`` file of ``save_unet`` states its architecture, as JSON.
METADATA_KEY = "diffstyle.architecture"


def stated_architecture(path: Path) -> dict[str, Any] | None:
    """The architecture that a ``.safetensors`` file states, as plain values not checked yet; None where it has none.

    Raises:
        CheckpointError: the file is missing, cut off or something else, or what it states is no JSON mapping.
    """
    refuse_impostors(path)
    try:
        with safe_open(path, framework="np") as file:
            stated = (file.metadata() or {}).get(METADATA_KEY)
    except (OSError, SafetensorError) as error:
        reason = cut(one_line(error), most=160)
        raise CheckpointError(f"{path} is not a whole .safetensors file ({reason}); get it again") from error
    if stated is None:
        return None
    try:
        values = json.loads(stated)
    except ValueError as error:
        raise CheckpointError(f"{path}: its metadata '{METADATA_KEY}' is not readable ({one_line(error)})") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: its metadata '{METADATA_KEY}' is not readable (no mapping of fields)")
    return values


def refuse_impostors(path: Path) -> bytes:
    """The first bytes of a file, unless it is missing or what often lies under a checkpoint's name instead of one."""
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; check the path, or download the checkpoint first") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from error
    if not head:
        raise CheckpointError(f"{path} is empty; download or copy it again")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise CheckpointError(
            f"{path} is a web page, not a checkpoint; download the file itself, not the page about it"
        )
    if text.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the checkpoint; fetch it with `git lfs pull`")
    return head
