"""The errors that a user can mend. Each carries one clear line: what is wrong, where, and the mend."""

from __future__ import annotations


class DiffStyleError(Exception):
    """Base of every error that a user can mend. ``str(error)`` is one line; the CLI prints it without a traceback."""

    exit_code = 2


class CheckpointError(DiffStyleError):
    """A checkpoint that cannot be read, or does not fit its architecture."""


class ConfigError(DiffStyleError):
    """A model config, job file or option with a wrong value; the message names the field."""
