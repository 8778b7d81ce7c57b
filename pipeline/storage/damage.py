"""What checking finds: a line for each thing that is not as it was written."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.storage.place import Place
from pipeline.storage.tables import DamagedError
from pipeline.storage.tar import TarWriter


@dataclass(frozen=True)
class Damage:
    """One thing that is wrong with the file or folder at ``place``."""

    place: Place
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {' '.join(self.message.split())}"


def tar_members(place: Place) -> Iterator[tuple[str, int, bytes]]:
    """(name, offset, content) of each member of a tar of this project, one in memory at a time.

    Raises DamagedError, at the latest after the last member, unless the tar is byte for byte what ``TarWriter`` makes
    of its members; FileNotFoundError where there is none.
    """
    actual, expected = hashlib.sha256(), _Hashing()
    with place.open() as stream:
        while piece := stream.read(8 << 20):
            actual.update(piece)
    writer = TarWriter(expected)  # type: ignore[arg-type]
    try:
        with place.open() as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                content = tar.extractfile(member)
                data = content.read() if content else b""
                if len(data) != member.size:
                    raise DamagedError(f"{place}: ends inside {member.name}")
                writer.add(member.name, data)
                yield member.name, member.offset_data, data
    except (tarfile.TarError, EOFError, ValueError, UnicodeError) as error:
        raise DamagedError(f"{place}: no tar any more ({error})") from error
    writer.end()
    if expected.state.digest() != actual.digest():
        raise DamagedError(f"{place}: bytes have changed since it was written")


class _Hashing:
    def __init__(self) -> None:
        self.state = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.state.update(data)
        return memoryview(data).nbytes
