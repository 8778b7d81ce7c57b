"""Tars that other tools wrote: what is in them is read or counted, in little memory."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.data_sets import encoded, member, names, opened, tar_bytes, write

from pipeline.sources import SourceError
from pipeline.sources.tar_headers import walk_headers


def tar_file(folder: Path, data: bytes, name: str = "x.tar") -> str:
    folder.joinpath(name).write_bytes(data)
    return str(folder / name)


def reader(data: bytes):
    return lambda offset, count: data[offset : offset + count]


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=150).filter(
    lambda name: not name.startswith(".")
)


@given(
    st.lists(st.tuples(NAMES, st.binary(max_size=1500)), max_size=6),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_members_lie_where_tarfile_says(given_members, form):
    data = tar_bytes(*(member(name, content) for name, content in given_members), form=form)
    walked = walk_headers(reader(data), len(data))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        expected = [(info.name, info.offset_data, info.size) for info in archive]
    assert [(one.name, one.offset, one.size) for one in walked.members] == expected
    assert (walked.broken, dict(walked.passed_over)) == (None, {})


@given(st.binary(max_size=600), st.integers(0, 5000), st.integers(0, 5000))
def test_no_damage_is_more_than_a_reason(junk, at, cut):
    data = bytearray(tar_bytes(member("a.png", encoded()), member("b" * 150, b"x" * 600), form=tarfile.PAX_FORMAT))
    data[at : at + len(junk)] = junk
    data = bytes(data[: len(data) - cut])
    walk_headers(reader(data), len(data))


def test_links_give_the_member_that_they_lead_to(tmp_path):
    file = tar_file(
        tmp_path,
        tar_bytes(
            member("later.png", kind=tarfile.SYMTYPE, link="d/b.png"),
            member("a.png", encoded(1)),
            member("hard.png", kind=tarfile.LNKTYPE, link="a.png"),
            member("d/b.png", encoded(2)),
            member("d/soft.png", kind=tarfile.SYMTYPE, link="../a.png"),
            member("nowhere.png", kind=tarfile.SYMTYPE, link="/etc/passwd"),
            member("d", kind=tarfile.DIRTYPE),
            member("pipe", kind=tarfile.FIFOTYPE),
        ),
    )
    source, pictures = opened(file)
    assert names(pictures) == ["later.png", "a.png", "hard.png", "b.png", "soft.png"]
    assert [p.data for p in pictures] == [encoded(n) for n in (2, 1, 1, 2, 1)]
    assert dict(source.passed_over) == {
        "links to what is not in the tar": 1,
        "members of another type (devices, pipes)": 1,
    }


def test_tars_joined_to_one_are_read_to_the_last(tmp_path):
    joined = b"".join(tar_bytes(member(f"{n}.png", encoded(n))) for n in range(3))
    source, pictures = opened(tar_file(tmp_path, joined))
    assert [p.data for p in pictures] == [encoded(n) for n in range(3)]
    assert not source.passed_over


def test_bytes_behind_the_end_that_are_no_tar_are_told(tmp_path):
    source, pictures = opened(tar_file(tmp_path, tar_bytes(member("a.png", encoded())) + b"signature" * 100))
    assert names(pictures) == ["a.png"]
    assert dict(source.passed_over) == {"tars with bytes behind their end mark": 1}


@pytest.mark.parametrize("form", ["gnu", "posix"])
@pytest.mark.parametrize("order", [("plain.png", "hole.png"), ("hole.png", "plain.png")])
def test_sparse_members_are_told_and_break_nothing(tmp_path, form, order):
    with (tmp_path / "hole.png").open("wb") as stream:
        stream.truncate(2 << 20)
        stream.seek(1 << 20)
        stream.write(encoded(1))
    (tmp_path / "plain.png").write_bytes(encoded(2))
    subprocess.run(["tar", f"--format={form}", "-S", "-cf", "x.tar", *order], cwd=tmp_path, check=True)
    source, pictures = opened(str(tmp_path / "x.tar"))
    assert [(p.name, p.data) for p in pictures] == [("plain.png", encoded(2))]
    assert dict(source.passed_over) == {"members with holes (sparse)": 1}


def test_keys_with_dots_keep_their_side_cars_apart(tmp_path):
    file = tar_file(
        tmp_path,
        tar_bytes(
            member("photo.v1.jpg", encoded(1)),
            member("photo.v1.txt", b"a cat"),
            member("photo.v1.json", b'{"label": "cat"}'),
            member("photo.v2.jpg", encoded(2)),
            member("photo.v2.TXT", b"a dog"),
            member("photo.cls", b"7"),
            member("photo.v3.txt", b"nobody"),
        ),
    )
    source, pictures = opened(file)
    assert [(p.caption, p.label) for p in pictures] == [("a cat", "7"), ("a dog", "7")]
    assert pictures[0].meta == {"label": "cat"}
    assert dict(source.passed_over) == {"side-cars without a picture": 1}


def test_upper_case_everywhere(tmp_path):
    data = tar_bytes(member("A.JPG", encoded()), member("A.JSON", b'{"n": 1}'), member("A.TXT", b"said"))
    tar_file(tmp_path, data, "UPPER.TAR")
    for spec in (str(tmp_path / "UPPER.TAR"), {"webdataset": str(tmp_path)}):
        _, (picture,) = opened(spec)
        assert (picture.name, picture.caption, picture.meta) == ("A.JPG", "said", {"n": 1})


def test_image_column_names_the_extension(tmp_path):
    file = tar_file(
        tmp_path,
        tar_bytes(member("a.jpg", encoded(1)), member("a.mask.png", encoded(2)), member("a.txt", b"said")),
    )
    _, (usual,) = opened(file)
    assert usual.name == "a.jpg"
    for extension in ("mask.png", ".MASK.png"):
        source, (chosen,) = opened({"webdataset": file, "image_column": extension})
        assert (chosen.name, chosen.caption) == ("a.mask.png", "said")
        assert source.passed_over.total() == 1
    with pytest.raises(SourceError, match=r"no pictures with the extension webp .*\.jpg, \.mask\.png"):
        opened({"webdataset": file, "image_column": "webp"})


def _raw(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def test_a_member_that_declares_more_than_there_is_costs_its_tar_alone(tmp_path):
    good = tar_bytes(member("good.png", encoded(3)))
    tar_file(tmp_path, tar_bytes(member("a.png", encoded()))[:1024] + _raw("huge.png", 1 << 50) + bytes(2048), "a.tar")
    tar_file(tmp_path, good, "b.tar")
    _, pictures = opened({"webdataset": str(tmp_path)})
    assert [p.name for p in pictures if p.data] == ["a.png", "good.png"]
    assert [p.error.partition(",")[0] for p in pictures if p.error] == [
        "the member is over 1",
        "the tar breaks off after 2 members (a size of 1",
    ]


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_headers_of_any_size_take_no_memory(tmp_path, kind):
    size = 100 << 20
    file = tmp_path / "x.tar"
    with file.open("wb") as stream:
        stream.write(_raw("header", size, kind))
        stream.seek(size, os.SEEK_CUR)  # a hole: 100 MB that take no room
        stream.write(tar_bytes(member("a.png", encoded(1)), member("b.png", encoded(2))))
    tracemalloc.start()
    try:
        _, pictures = opened(str(file))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
    assert pictures[-1].data == encoded(2)
    first = (None, encoded(1)) if kind == tarfile.XGLTYPE else ("its header is over 1,048,576 bytes", None)
    assert (pictures[0].error, pictures[0].data) == first


def test_a_pax_header_of_many_records_takes_no_time(tmp_path):
    record = b"9 k=abcd\n"
    data = record * (1_000_000 // len(record))
    file = tar_file(tmp_path, _raw("x", len(data), tarfile.XHDTYPE) + data + bytes(-len(data) % 512))
    with Path(file).open("ab") as stream:
        stream.write(tar_bytes(member("a.png", encoded())))
    _, (picture,) = opened(file)
    assert picture.data == encoded()


def test_a_damaged_pax_header_costs_its_own_member(tmp_path):
    data = _raw("x", 20, tarfile.XHDTYPE) + b"99999 path=b.png\n".ljust(512, b"\0")
    data += tar_bytes(member("a.png", encoded(1)), member("b.png", encoded(2)))
    _, pictures = opened(tar_file(tmp_path, data))
    assert [(p.name, p.error) for p in pictures] == [("a.png", "its PAX header is damaged"), ("b.png", None)]


def test_one_file_that_is_no_tar_costs_the_others_nothing(tmp_path):
    write(
        tmp_path, {"a.tar": b"junk" * 300, "b.tar": tar_bytes(member("b.png", encoded())), "c.tar": b"\x1f\x8bpacked"}
    )
    _, pictures = opened({"webdataset": str(tmp_path)})
    assert [(p.name, p.error and p.error[:15]) for p in pictures] == [
        ("(the tar)", "not a tar file "),
        ("b.png", None),
        ("(the tar)", "a compressed ta"),
    ]


def test_a_huge_side_car_is_a_note(tmp_path):
    file = tar_file(tmp_path, tar_bytes(member("a.png", encoded()), member("a.json", b"[" * (5 << 20))))
    _, (picture,) = opened(file)
    assert picture.meta == {"side_car_error": "a.json: over 4,194,304 bytes"}
