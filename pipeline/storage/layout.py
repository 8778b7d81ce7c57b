"""The names of the files and folders of an output."""

from __future__ import annotations

PLAN = "plan.json"
