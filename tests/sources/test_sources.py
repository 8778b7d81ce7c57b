from __future__ import annotations

import io
import json
import os
import pickle
import resource
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from support.s3 import s3_bucket, s3_endpoint  # noqa: F401 - fixtures

from pipeline.sources import Block, RawPicture, SourceError, SourceSpec, open_source
from pipeline.sources.addresses import braces
from pipeline.sources.base import Broken, Cut, Item, Source
from pipeline.storage.place import Place


def png(seed: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), seed % 256, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def make(root: Path | Place, *names: str) -> None:
    """Files below a root: pictures, or ``name=content``."""
    for number, name in enumerate(names):
        path, _, text = name.partition("=")
        place = Place.parse(root)
        for piece in path.split("/"):
            place = place / piece
        place.write_bytes(text.encode() if text else png(number))


def tar(path: Path, *members: str | tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for number, member in enumerate(members):
            name, data = member if isinstance(member, tuple) else (member, png(number))
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def read(spec, known=None, size=256, base=None) -> list[RawPicture]:
    """All pictures of a data set, its blocks having travelled as they do to a worker."""
    spec = SourceSpec.model_validate(spec, context={"base": base})
    blocks = [pickle.loads(pickle.dumps(block)) for block in open_source(spec, base).blocks(known or {}, size)]
    return [picture for block in blocks for picture in block.pictures()]


def known_of(pictures: list[RawPicture]) -> dict[str, str]:
    return {picture.source: picture.source_version for picture in pictures}


def blocks_of(spec, known=None, size=256) -> list[Block]:
    return list(open_source(SourceSpec.model_validate(spec)).blocks(known or {}, size))


# ---- the spec ----
def test_exactly_one_kind():
    assert SourceSpec.model_validate("photos").kind == "any"
    several = SourceSpec.model_validate(["a.tar", "b.tar"], context={"base": "/base"})
    assert several.addresses == ("/base/a.tar", "/base/b.tar")
    assert SourceSpec(folder="x", limit=3).addresses == (str(Path.cwd() / "x"),)
    for wrong in ({}, {"folder": "a", "parquet": "b"}, {"limit": 3}):
        with pytest.raises(ValidationError, match="exactly one of folder, webdataset, parquet, list, lmdb"):
            SourceSpec.model_validate(wrong)
    for wrong in ({"folder": ""}, {"folder": []}):
        with pytest.raises(ValidationError, match="empty"):
            SourceSpec.model_validate(wrong)
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        SourceSpec(folder="a", limit=0)
    with pytest.raises(ValidationError, match="Extra inputs"):
        SourceSpec.model_validate({"foldr": "a"})


# ---- folders ----
def test_a_folder_with_classes_side_cars_and_other_files(tmp_path):
    make(tmp_path, "a.JPG", "dogs/b.png", "dogs/pug/c.webp", "cats/d.tiff", "readme.md=x", ".hidden.png", "._a.jpg")
    make(tmp_path, 'dogs/b.json={"width": 3, "tags": ["x"], "score": NaN}', "dogs/b.txt= a dog \n", "cats/e.txt=lonely")
    source = open_source(str(tmp_path))
    pictures = [picture for block in source.blocks({}) for picture in block.pictures()]
    assert [Path(p.source).relative_to(tmp_path).as_posix() for p in pictures] == [
        "a.JPG",
        "cats/d.tiff",
        "dogs/b.png",
        "dogs/pug/c.webp",
    ]
    assert [p.label for p in pictures] == [None, "cats", "dogs", "pug"]
    assert pictures[2].caption == "a dog"
    assert pictures[2].meta == {"width": 3, "tags": ["x"], "score": None}
    assert pictures[0].meta is None
    assert pictures[0].name == "a.JPG"
    assert all(p.data and p.error is None for p in pictures)
    assert dict(source.passed_over) == {
        "files of unknown suffix": 1,
        "files hidden by their name": 2,
        "side-cars without a picture": 1,
    }
    assert source.count() == 4


def test_labels_and_captions_out_of_side_cars(tmp_path):
    make(tmp_path, "k/a.png", 'k/a.json={"label": "own", "text": "said", "breed": 7}')
    usual = read({"folder": str(tmp_path)})[0]
    assert (usual.label, usual.caption, usual.meta) == ("k", "said", {"label": "own", "breed": 7})
    chosen = read({"folder": str(tmp_path), "label_column": "breed", "caption_column": "label"})[0]
    assert (chosen.label, chosen.caption, chosen.meta) == ("7", "own", {"text": "said"})


def test_a_broken_side_car_says_so_and_loses_no_picture(tmp_path):
    make(tmp_path, "a.png", "a.json={nope", "b.png", "b.json=[1, 2]")
    first, second = read(str(tmp_path))
    assert "a.json: not readable as JSON" in first.meta["side_car_error"]
    assert second.meta == {"side_car": [1, 2]}


def test_versions_follow_the_files_and_known_pictures_are_left_out(tmp_path):
    make(tmp_path, "a.png", "b.png", "c.png")
    before = read(str(tmp_path))
    assert read(str(tmp_path), known_of(before)) == []
    (tmp_path / "b.png").write_bytes(png(200) + b"more")
    make(tmp_path, "aa.png")
    again = read(str(tmp_path), known_of(before))
    assert [Path(p.source).name for p in again] == ["aa.png", "b.png"]


def test_a_file_that_cannot_be_read_is_an_error_of_its_own(tmp_path):
    make(tmp_path, "a.png", "b.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop").symlink_to(tmp_path)
    pictures = read(str(tmp_path))
    assert [(p.name, p.error) for p in pictures if p.error] == [
        ("gone.png", "No such file or directory"),
        ("pipe.png", "not a regular file"),
    ]
    assert len(pictures) == 4
    (tmp_path / "b.png").chmod(0)
    if os.geteuid() != 0:
        assert "Permission denied" in [p.error for p in read(str(tmp_path))]


def test_file_names_beyond_utf8(tmp_path):
    raw = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(raw, "wb") as stream:  # noqa: PTH123 - a name that Path can't print
        stream.write(png())
    make(tmp_path, "日本 語.png")
    pictures = read(str(tmp_path))
    assert [p.name for p in pictures] == ["caf\\udce9.png", "日本 語.png"]
    assert all(p.data for p in pictures)
    pa.array([p.source for p in pictures])


def test_several_folders_and_what_is_wrong_with_folders(tmp_path):
    make(tmp_path, "one/a.png", "two/b.png", "file.png", "tars/x.tar=x", "words/x.txt=x")
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    assert [p.name for p in read({"folder": [two, one, two]})] == ["b.png", "a.png"]
    assert [p.name for p in read({"folder": "{two,one}"}, base=tmp_path)] == ["b.png", "a.png"]
    assert [p.name for p in read("tw*", base=tmp_path)] == ["b.png"]
    assert [p.name for p in read({"folder": f"{tmp_path.parent}/{tmp_path.name[:-1]}[!x]/[ot][nw]*"}, base="/")] == [
        "a.png",
        "b.png",
    ]
    for spec, message in {
        str(tmp_path / "none"): "none: no such file or folder; check the path",
        str(tmp_path / "n*"): "nothing matches; check the pattern",
        str(tmp_path / "words"): "no picture files in this folder or below it",
        str(tmp_path / "tars"): f"write `webdataset: {tmp_path / 'tars'}` instead",
    }.items():
        with pytest.raises(SourceError, match=r"^[^\n]+$") as error:
            read(spec)
        assert message in str(error.value)
    with pytest.raises(SourceError, match="this file is neither a folder nor a picture"):
        read({"folder": str(tmp_path / "tars" / "x.tar")})
    with pytest.raises(SourceError, match="name only the outer folder"):
        read({"folder": [str(tmp_path), one]})
    with pytest.raises(SourceError, match="say of which kind"):
        read(str(tmp_path / "words" / "x.txt"))


# ---- blocks ----
def test_blocks_keep_their_names_whatever_is_known(tmp_path):
    make(tmp_path, *(f"{n:02d}.png" for n in range(10)))
    whole = blocks_of(str(tmp_path), size=3)
    assert [len(block) for block in whole] == [3, 3, 3, 1]
    assert [block.name for block in whole] == sorted(block.name for block in whole)
    known = known_of([p for n in (0, 2) for p in whole[n].pictures()])
    left = blocks_of(str(tmp_path), known, size=3)
    assert [block.name for block in left] == [whole[1].name, whole[3].name]


def test_a_block_has_another_name_when_a_file_of_it_changes(tmp_path):
    make(tmp_path, "a.png", "b.png", "c.png", "d.png")
    before = [block.name for block in blocks_of(str(tmp_path), size=2)]
    os.utime(tmp_path / "a.png", ns=(1, 1))  # the same name and size, another time
    after = [block.name for block in blocks_of(str(tmp_path), size=2)]
    assert [name.partition("-")[0] for name in after] == [name.partition("-")[0] for name in before]
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_leftovers_of_blocks_are_gathered(tmp_path):
    make(tmp_path, *(f"{n:02d}.png" for n in range(12)))
    pictures = read(str(tmp_path))
    known = known_of([p for n, p in enumerate(pictures) if n % 3])  # 0, 3, 6, 9 are new
    left = blocks_of(str(tmp_path), known, size=3)
    assert [len(block) for block in left] == [3, 1]
    assert [p.name for block in left for p in block.pictures()] == ["00.png", "03.png", "06.png", "09.png"]


def test_the_limit_counts_the_first_of_the_data_set_and_not_of_the_new(tmp_path):
    make(tmp_path, *(f"{n}.png" for n in range(8)))
    spec = {"folder": str(tmp_path), "limit": 5}
    first = read(spec, size=2)
    assert [p.name for p in first] == [f"{n}.png" for n in range(5)]
    assert read(spec, known_of(first), size=2) == []
    more = read({**spec, "limit": 7}, known_of(first), size=2)
    assert sorted(p.name for p in more) == ["5.png", "6.png"]


def test_a_block_splits_down_to_single_pictures(tmp_path):
    make(tmp_path, "a.png", "b.png", "c.png")
    (block,) = blocks_of(str(tmp_path))
    first, second = block.split()
    assert (len(first), len(second)) == (1, 2)
    assert first.split() == []
    assert len({block.name, first.name, second.name}) == 3


@given(st.sets(st.integers(0, 29)), st.integers(1, 12), st.integers(1, 40))
def test_every_unknown_picture_is_in_exactly_one_block(known, size, limit):
    class Counting(Source):
        def _cuts(self, known, size):
            items = [Item(str(n), "1-1", str(n), Broken("never read")) for n in range(30)]
            for start in range(0, 30, size):
                yield Cut(items[start : start + size])

    source = Counting("numbers", None, limit)
    blocks = list(source.blocks({str(n): "1-1" for n in known}, size))
    found = [int(item.source) for block in blocks for item in block.items]
    assert sorted(found) == sorted(set(range(min(limit, 30))) - known)
    assert len({block.name for block in blocks}) == len(blocks)


# ---- WebDataset ----
def test_a_tar_with_siblings(tmp_path):
    tar(
        tmp_path / "x.tar",
        "d/a.jpg",
        ("d/a.json", b'{"n": 1, "caption": "not this"}'),
        ("d/a.txt", b"this"),
        ("d/a.cls", b"3\n"),
        "d/a.mask.png",
        "b.PNG",
        ("notes.md", b"?"),
        "photo.1.jpg",
        "photo.2.jpg",
        "./.hidden.png",
    )
    source = open_source(str(tmp_path / "x.tar"))
    pictures = [p for block in source.blocks({}) for p in block.pictures()]
    names = ["d/a.jpg", "b.PNG", "photo.1.jpg", "photo.2.jpg"]
    assert [p.source for p in pictures] == [f"{tmp_path / 'x.tar'}#{name}" for name in names]
    first = pictures[0]
    assert (first.label, first.caption, first.name) == ("3", "this", "a.jpg")
    assert first.meta == {"n": 1, "caption": "not this"}
    assert first.data == png(0)
    assert pictures[3].data == png(8)
    assert dict(source.passed_over) == {
        "members of unknown suffix": 1,
        "members hidden by their name": 1,
        "pictures that belong to another one, by WebDataset's naming": 1,
    }


def test_tars_written_by_webdataset_and_siblings_far_away(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "w.tar")) as writer:
        for n in range(5):
            writer.write({"__key__": f"k{n}", "png": png(n), "json": {"n": n}, "cls": n})
    assert [(p.data, p.label, p.meta) for p in read(str(tmp_path / "w.tar"))] == [
        (png(n), str(n), {"n": n}) for n in range(5)
    ]
    tar(tmp_path / "far.tar", "a.png", ("big.bin", bytes(3 << 20)), ("a.txt", b"far"), "b" * 120 + ".png")
    far = read(str(tmp_path / "far.tar"))
    assert (far[0].data, far[0].caption) == (png(0), "far")
    assert far[1].data == png(3)


def test_several_tars_by_braces_globs_and_folders(tmp_path):
    for n in range(12):
        tar(tmp_path / f"shard-{n:03d}.tar", f"{n}.png")
    names = [f"{n}.png" for n in range(12)]
    for address in ("shard-{000..011}.tar", "shard-*.tar", "shard-0{0{0..9},10,11}.tar", "./"):
        assert [p.name for p in read({"webdataset": str(tmp_path / address)})] == names, address
    assert [p.name for p in read({"webdataset": "**/*1[0-1].tar"}, base=tmp_path)] == names[10:]
    assert [p.name for p in read(str(tmp_path / "shard-{003..002}.tar"))] == ["3.png", "2.png"]
    with pytest.raises(SourceError, match=r"shard-012.tar: no such file"):
        read(str(tmp_path / "shard-{010..012}.tar"))


def test_known_tars_are_not_walked_again_and_limits_are_made_up_for(tmp_path, monkeypatch):
    for n in range(3):
        tar(tmp_path / f"{n}.tar", *(f"{n}-{m}.png" for m in range(5)))
    spec = {"webdataset": str(tmp_path)}
    whole = read(spec, size=2)
    assert len(whole) == 15
    seven = read({**spec, "limit": 7}, size=2)
    assert known_of(seven).items() <= known_of(whole).items()
    assert [p.name for p in read(spec, known_of(seven), size=2)] == [p.name for p in whole[7:]]
    names = [block.name for block in blocks_of(spec, size=2)]
    assert [block.name for block in blocks_of(spec, known_of(whole[:5]), size=2)] == names[3:]

    from pipeline.sources import tars

    monkeypatch.setattr(tars, "walk", None)
    assert read(spec, known_of(whole)) == []


def test_a_member_that_comes_twice_is_two_pictures(tmp_path):
    tar(tmp_path / "x.tar", "a.png", "a.png")
    pictures = read(str(tmp_path / "x.tar"))
    assert [p.source.partition("#")[2] for p in pictures] == ["a.png", "a.png (again)"]
    assert [p.data for p in pictures] == [png(0), png(1)]


@pytest.mark.parametrize("cut", [100, 512, 700, 1024, 1030, 2048])
def test_a_tar_that_breaks_off_gives_its_beginning_and_names_the_rest(tmp_path, cut):
    file = tar(tmp_path / "x.tar", "a.png", "b.png", "c.png")
    whole = file.read_bytes()
    file.write_bytes(whole[: 1024 + cut])
    pictures = read(str(file))
    good = [p for p in pictures if p.data]
    bad = [p for p in pictures if p.error]
    assert [p.data for p in good] == [png(n) for n in range(len(good))]
    assert len(good) >= 1
    assert bad
    assert "breaks off" in bad[-1].error
    assert len({p.source for p in pictures}) == len(pictures)
    assert read(str(file), known_of(pictures)) == []


def test_a_damaged_header_in_the_middle_is_no_end(tmp_path):
    file = tar(tmp_path / "x.tar", "a.png", "b.png", "c.png")
    data = bytearray(file.read_bytes())
    data[1024:1100] = b"\xff" * 76
    file.write_bytes(data)
    pictures = read(str(file))
    assert [p.name for p in pictures if p.data] == ["a.png"]
    assert "after 1 member (" in pictures[-1].error


def test_what_is_no_tar_is_one_clear_line(tmp_path):
    (tmp_path / "junk.tar").write_bytes(b"junk" * 1000)
    (tmp_path / "empty.tar").write_bytes(b"")
    (tmp_path / "packed.tar").write_bytes(b"\x1f\x8b" + b"x" * 600)
    tar(tmp_path / "none.tar", ("a.txt", b"x"))
    for name, message in {
        "junk": "not a tar file",
        "empty": "not a tar file",
        "packed": "gunzip",
        "none": "no pictures",
    }.items():
        with pytest.raises(SourceError, match=rf"{name}.tar: .*{message}"):
            read(str(tmp_path / f"{name}.tar"))


# ---- Parquet ----
def test_parquet_with_bytes_and_other_columns(tmp_path):
    file = tmp_path / "x.parquet"
    table = pa.table(
        {
            "jpg": [png(n) for n in range(5)],
            "label": [3, 4, None, 5, 6],
            "text": ["a", None, "c", "d", "e"],
            "score": [0.5, float("nan"), 1, 2, 3],
            "thumbnail": [b"x"] * 5,
        }
    )
    pq.write_table(table, file, row_group_size=2)
    pictures = read(str(file), size=2)
    assert [p.source for p in pictures] == [f"{file}#{n}" for n in range(5)]
    assert [p.data for p in pictures] == [png(n) for n in range(5)]
    assert [p.label for p in pictures] == ["3", "4", None, "5", "6"]
    assert [p.caption for p in pictures] == ["a", None, "c", "d", "e"]
    assert pictures[0].meta == {"score": 0.5}
    assert pictures[1].meta == {"score": None, "text": None}
    known = known_of([pictures[n] for n in (0, 2, 4)])
    assert [p.data for p in read(str(file), known)] == [png(1), png(3)]


def test_hugging_faces_struct_and_class_names(tmp_path):
    make(tmp_path, "beside.png")
    images = [{"bytes": png(7), "path": "x/seven.jpg"}, {"bytes": None, "path": "beside.png"}]
    images += [{"bytes": None, "path": "gone.png"}, {"bytes": None, "path": None}, None]
    table = pa.table({"picture": images, "label": [0, 1, 1, 9, None]})
    features = {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}, "picture": {"_type": "Image"}}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "x.parquet")
    pictures = read(str(tmp_path / "x.parquet"))
    assert [(p.name, p.data, p.label) for p in pictures[:2]] == [
        ("seven.jpg", png(7), "cat"),
        ("beside.png", png(0), "dog"),
    ]
    assert pictures[2].error == "gone.png: No such file or directory"
    assert "picture is null" in pictures[3].error
    assert "picture is null" in pictures[4].error


def test_one_large_row_group_is_cut_into_blocks(tmp_path):
    pq.write_table(pa.table({"image": [png(n) for n in range(100)]}), tmp_path / "x.parquet")
    blocks = blocks_of(str(tmp_path / "x.parquet"), size=30)
    assert [len(block) for block in blocks] == [30, 30, 30, 10]
    assert [p.data for p in blocks[2].pictures()] == [png(n) for n in range(60, 90)]


def test_what_is_wrong_with_parquet_is_one_clear_line(tmp_path):
    pq.write_table(pa.table({"one": [png()], "two": [png()], "n": [1]}), tmp_path / "two.parquet")
    pq.write_table(pa.table({"image": ["http://x"], "n": [1]}), tmp_path / "text.parquet")
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "empty.parquet")
    pq.write_table(pa.table({"image": [png()]}), tmp_path / "good.parquet")
    pq.write_table(pa.table({"image": [png()], "n": [1]}), tmp_path / "more.parquet")
    (tmp_path / "junk.parquet").write_bytes(b"junk" * 100)
    two = {"parquet": str(tmp_path / "two.parquet")}
    wrongs = [
        (two, r"two.parquet: no column of picture bytes \(it has one: binary, two: binary, n: int64\).*image_column"),
        ({**two, "image_column": "three"}, "no column three"),
        ({**two, "image_column": "n"}, "column n holds no picture bytes"),
        ({**two, "image_column": "one", "label_column": "breed"}, "no column breed"),
        ({"parquet": str(tmp_path / "text.parquet")}, "no column of picture bytes"),
        (str(tmp_path / "empty.parquet"), "no rows"),
        (str(tmp_path / "junk.parquet"), "not a Parquet file"),
        (
            {"parquet": [str(tmp_path / "good.parquet"), str(tmp_path / "text.parquet")]},
            "text.parquet: no column image of picture bytes",
        ),
        ({"parquet": [str(tmp_path / "more.parquet"), str(tmp_path / "good.parquet")]}, "no column n, unlike"),
    ]
    for spec, message in wrongs:
        with pytest.raises(SourceError, match=message):
            read(spec)
    assert len(read({**two, "image_column": "two"})) == 1


def test_damaged_pages_are_rejects_and_no_crash(tmp_path):
    file = tmp_path / "x.parquet"
    blobs = [np.random.default_rng(n).bytes(3000) for n in range(40)]
    pq.write_table(pa.table({"image": blobs}), file, row_group_size=10, compression="zstd")
    data = bytearray(file.read_bytes())
    data[35_000:35_200] = bytes(200)
    file.write_bytes(data)
    pictures = read(str(file))
    assert len(pictures) == 40
    assert pictures[0].data == blobs[0]
    assert pictures[39].data == blobs[39]


# ---- lists ----
def test_a_csv_of_paths(tmp_path):
    make(tmp_path, "pictures/a.png", "pictures/b.png", "lists/x=")
    text = "\ufefffile,label,year\n../pictures/a.png,dog,1999\n../pictures/b.png,,\n../pictures/gone.png,cat,1\n,x,1\n"
    text += f"{tmp_path}/pictures/a.png,again,2\n"
    (tmp_path / "lists" / "l.csv").write_text(text, encoding="utf-8")
    spec = SourceSpec(list=str(tmp_path / "lists" / "l.csv"), allow_outside=True)
    source = open_source(spec)
    pictures = [p for block in source.blocks({}) for p in block.pictures()]
    assert [p.source for p in pictures[:2]] == [str(tmp_path / "pictures" / name) for name in ("a.png", "b.png")]
    assert (pictures[0].label, pictures[0].meta) == ("dog", {"year": "1999"})
    assert (pictures[1].label, pictures[1].meta) == (None, {"label": None, "year": None})
    assert pictures[2].error == "No such file or directory"
    assert pictures[3].error == "row 4 has no file"
    assert len(pictures) == 4
    assert dict(source.passed_over) == {"rows with a picture that an earlier row has": 1}
    make(tmp_path, "pictures/gone.png")
    again = read(spec, known_of(pictures))
    assert [p.name for p in again] == ["gone.png"]


def test_a_parquet_list_and_a_tsv(tmp_path):
    make(tmp_path, "a.png", "b.png")
    pq.write_table(pa.table({"path": ["b.png", "a.png"], "n": [1, 2]}), tmp_path / "l.parquet")
    assert [(p.name, p.meta) for p in read(str(tmp_path / "l.parquet"))] == [("b.png", {"n": 1}), ("a.png", {"n": 2})]
    (tmp_path / "l.tsv").write_text("where\tcaption\na.png\tan, a\n")
    (picture,) = read({"list": str(tmp_path / "l.tsv"), "image_column": "where"})
    assert (picture.name, picture.caption) == ("a.png", "an, a")


def test_what_is_wrong_with_lists_is_one_clear_line(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "b.csv").write_text("path\n")
    (tmp_path / "c.csv").write_bytes("path\na.png\n".encode("utf-16"))
    (tmp_path / "d.csv").write_text("path,n\na.png,1\n")
    for spec, message in [
        (str(tmp_path / "a.csv"), r"no column path or .* \(it has x, y\); name it with image_column"),
        (str(tmp_path / "b.csv"), "no rows"),
        (str(tmp_path / "c.csv"), "this is UTF-16 text; save it as UTF-8"),
        ({"list": str(tmp_path / "d.csv"), "label_column": "breed"}, "no column breed"),
    ]:
        with pytest.raises(SourceError, match=message):
            read(spec)


# ---- lmdb ----
def test_an_lmdb(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path / "db"), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for n in range(7):
            transaction.put(f"key{n}".encode(), png(n))
        transaction.put(b"\xff\x00", png(9))
    for spec in (str(tmp_path / "db"), {"lmdb": str(tmp_path / "db")}):
        pictures = read(spec, size=3)
        assert [p.name for p in pictures] == [*(f"key{n}" for n in range(7)), "ff00"]
        assert [p.data for p in pictures] == [*(png(n) for n in range(7)), png(9)]
    assert pictures[0].source == f"{tmp_path / 'db'}#key0"
    assert read(spec, known_of(pictures)) == []
    make(tmp_path, "junk/data.mdb=junk")
    with pytest.raises(SourceError, match="junk: not an lmdb database"):
        read(str(tmp_path / "junk"))


def test_without_the_package_lmdb_the_mend_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    (tmp_path / "db").mkdir()
    with pytest.raises(SourceError, match=r"pip install 'diffstyle\[lmdb\]'"):
        read({"lmdb": str(tmp_path / "db")})


# ---- braces ----
@given(st.integers(0, 120), st.integers(0, 120))
def test_ranges_in_braces_count_and_keep_their_width(first, last):
    numbers = [int(text.removeprefix("a").removesuffix("b")) for text in braces(f"a{{{first:04d}..{last:04d}}}b")]
    step = 1 if last >= first else -1
    assert numbers == list(range(first, last + step, step))
    assert all(len(text) == 6 for text in braces(f"a{{{first:04d}..{last:04d}}}b"))


def test_braces_nest_and_others_stay():
    assert braces("{a,b{1,2}}x{0..1}") == ["ax0", "ax1", "b1x0", "b1x1", "b2x0", "b2x1"]
    assert braces("{9..11}") == ["9", "10", "11"]
    assert braces("x{only}y{a,b}") == ["x{only}ya", "x{only}yb"]
    assert braces("x{y") == ["x{y"]


def test_names_with_brackets_that_exist_are_no_patterns(tmp_path):
    tar(tmp_path / "a[1]{2}.tar", "x.png")
    assert len(read(str(tmp_path / "a[1]{2}.tar"))) == 1


# ---- S3 ----
def test_every_kind_on_s3(s3_bucket, tmp_path):  # noqa: F811
    bucket = Place.parse(s3_bucket)
    make(bucket / "folder", "cats/a.png", "cats/a.txt=miau", "b.png", "note=x")
    pictures = read(f"{s3_bucket}/folder")
    assert [p.source.removeprefix(s3_bucket) for p in pictures] == ["/folder/b.png", "/folder/cats/a.png"]
    assert (pictures[1].label, pictures[1].caption, pictures[1].data) == ("cats", "miau", png(0))
    assert read(f"{s3_bucket}/folder", known_of(pictures)) == []

    for n in range(7):
        (bucket / f"tars/{n}.tar").write_bytes(tar(tmp_path / "x.tar", f"{n}.png", (f"{n}.txt", b"t")).read_bytes())
    assert [(p.name, p.caption) for p in read(f"{s3_bucket}/tars/{{0..6}}.tar")] == [
        (f"{n}.png", "t") for n in range(7)
    ]
    assert len(read({"webdataset": f"{s3_bucket}/tars/*.tar", "limit": 2})) == 2

    pq.write_table(pa.table({"image": [png(1), png(2)]}), tmp_path / "x.parquet")
    (bucket / "x.parquet").write_bytes((tmp_path / "x.parquet").read_bytes())
    assert [p.data for p in read(f"{s3_bucket}/x.parquet")] == [png(1), png(2)]

    (bucket / "lists/l.csv").write_bytes(b"path,n\n../folder/b.png,1\n../gone.png,2\n")
    listed = read({"list": f"{s3_bucket}/lists/l.csv", "allow_outside": True})
    assert [p.source.removeprefix(s3_bucket) for p in listed] == ["/folder/b.png", "/gone.png"]
    assert listed[1].error == "no such object"

    with pytest.raises(SourceError, match="no such file or folder"):
        read(f"{s3_bucket}/nothing")
    with pytest.raises(SourceError, match="s3://no-such-bucket-here"):
        read("s3://no-such-bucket-here/x")


@pytest.mark.parametrize(
    "pattern",
    [
        "{0..999999999}.tar",
        "{a,b}" * 40,
        "{0..9}" * 9,
        "{0..99999999999999999}{0..99999999999999999}",
        "{1..1}" * 3000 + "{0..200000}",
        "x" * 60_000 + "{0..99999}",
    ],
)
def test_braces_that_stand_for_too_many_files_are_refused_at_once(pattern):
    began, (soft, hard) = time.monotonic(), resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (512 << 20), hard))
    try:
        with pytest.raises(SourceError, match=r"the braces stand for too many files \(at most 100,000\)") as caught:
            open_source(f"/none/{pattern}")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert len(str(caught.value)) < 200
    assert time.monotonic() - began < 10


def test_braces_of_many_kinds():
    assert braces("{1..1}" * 500) == ["1" * 500]
    assert braces("{08..11}{a,{b,c}}") == [f"{n}{x}" for n in ("08", "09", "10", "11") for x in "abc"]
    assert braces("{3..1}") == ["3", "2", "1"]
    assert braces("{a}{b,c}{") == ["{a}b{", "{a}c{"]
    assert braces("{" + "9" * 5000 + "..1}") == ["{" + "9" * 5000 + "..1}"]
