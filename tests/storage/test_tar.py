from __future__ import annotations

import io
import tarfile

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.storage.tar import TarWriter

names = st.text(st.characters(exclude_categories=["C"], exclude_characters="/"), min_size=1, max_size=150)


def written(members: dict[str, bytes]) -> tuple[bytes, dict[str, tuple[int, int]]]:
    stream = io.BytesIO()
    tar = TarWriter(stream)
    places = {name: tar.add(name, data) for name, data in members.items()}
    tar.end()
    return stream.getvalue(), places


@given(st.dictionaries(names, st.binary(max_size=2000), max_size=6))
def test_any_reader_finds_what_was_written_and_the_places_are_right(members):
    data, places = written(members)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert {member.name: tar.extractfile(member).read() for member in tar} == members
    for name, (offset, size) in places.items():
        assert data[offset : offset + size] == members[name]
    assert len(data) % tarfile.RECORDSIZE == 0
    assert written(members)[0] == data, "the same members, the same bytes"


def test_pieces_are_one_member():
    stream, array = io.BytesIO(), np.arange(6, dtype=np.float32)
    tar = TarWriter(stream)
    assert tar.add("a", b"head", array.data) == (512, 4 + array.nbytes)
    assert stream.getvalue()[512 : 512 + 28] == b"head" + array.tobytes()


def test_it_is_what_tarfile_writes():
    members = {"a.png": b"x" * 700, "b.json": b"{}"}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert written(members)[0] == stream.getvalue()
