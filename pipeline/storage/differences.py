"""In which fields two descriptions of a store differ, as phrases for people."""

from __future__ import annotations

import json
from typing import Any


def differences(stored: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> list[str]:
    """One phrase for each field in which two nested mappings differ: ``inversion.steps is 50 there, 40 asked``."""
    phrases: list[str] = []
    for name in sorted(set(stored) | set(wanted)):
        a, b = stored.get(name), wanted.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            phrases += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            phrases.append(f"{prefix}{name} {_unlike(a, b)}")
    return phrases


def _unlike(stored: Any, asked: Any) -> str:
    """How two values differ; of long lists only what one of them lacks is said."""
    if isinstance(stored, list) and isinstance(asked, list) and max(len(stored), len(asked)) > 4:
        surplus = [("only there", [value for value in stored if value not in asked])]
        surplus += [("only asked", [value for value in asked if value not in stored])]
        only = [f"{', '.join(map(json.dumps, v[:4]))}{' ...' if len(v) > 4 else ''} {side}" for side, v in surplus if v]
        return f"has {len(stored)} values there, {len(asked)} asked: {' and '.join(only) or 'in another order'}"
    return f"is {json.dumps(stored)} there, {json.dumps(asked)} asked"
