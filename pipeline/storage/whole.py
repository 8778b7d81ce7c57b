"""A file that a user names on a command line, written whole or not at all."""

from __future__ import annotations

import errno
import os

from diffstyle.errors import ConfigError
from pipeline.storage.errors import reason_of
from pipeline.storage.place import Place

#: The folder is none that takes files (as /proc), or the name can't be one.
_NO_SUCH_FILE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ENXIO, errno.ENOTSUP}


def write_whole(file: str | os.PathLike[str], data: bytes) -> None:
    """Write a file on a local disk; what was there stays where that fails, as on a full disk.

    Raises:
        ConfigError: No file can be written there.
        OSError: The disk is full or takes no files of this user's, with the file's own name.
    """
    try:
        Place("file", os.path.abspath(file)).write_bytes(data)  # noqa: PTH100 - resolves no links
    except OSError as error:
        if error.errno in _NO_SUCH_FILE:
            raise ConfigError(f"{os.fspath(file)}: can't be written ({reason_of(error)}); name another file") from error
        error.filename = os.fspath(file)  # and not the name that it has until it is whole
        raise
