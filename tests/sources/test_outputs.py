"""Outputs of jobs that lie in a data set are no part of it."""

from __future__ import annotations

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.data_sets import encoded, member, names, opened, tar_bytes, write
from support.s3 import s3_bucket, s3_endpoint  # noqa: F401 - fixtures

from pipeline.sources import SourceError
from pipeline.storage.place import Place

RESULTS = json.dumps({"identity": {"kind": "results"}, "about": {}}).encode()
SHARDS = json.dumps({"identity": {"kind": "shards"}, "about": {}}).encode()


def output(folder: str) -> dict[str, bytes]:
    """The files of an output that matter here."""
    return {
        f"{folder}/output.json": RESULTS,
        f"{folder}/pictures/r/x.png": encoded(9),
        f"{folder}/shards/content/description.json": SHARDS,
        f"{folder}/shards/content/data/0.tar": tar_bytes(member("x.png", encoded(9))),
    }


def test_a_folder_leaves_outputs_out(tmp_path):
    write(tmp_path, {"a.png": encoded(), "sub/b.png": encoded(1), **output("sub/out"), **output("z/run-2")})
    (tmp_path / "linked").symlink_to(tmp_path / "sub" / "out")
    source, pictures = opened(str(tmp_path))
    assert names(pictures) == ["a.png", "b.png"]
    assert source.passed_over.line() == "passed over 3 folders that a job wrote (linked, sub/out, z/run-2)"


def test_shards_and_banks_without_an_output_are_left_out_too(tmp_path):
    write(tmp_path, {"a.png": encoded(), "s/description.json": SHARDS, "s/b.png": encoded(1)})
    source, pictures = opened(str(tmp_path))
    assert names(pictures) == ["a.png"]
    assert dict(source.passed_over) == {"folders that a job wrote": 1}


@pytest.mark.parametrize("text", [b"{}", b"[1]", b"junk", b'{"identity": {"kind": "cats"}}', b'{"identity": 3}', b""])
def test_files_of_the_same_name_that_are_none_of_ours(tmp_path, text):
    write(tmp_path, {"a.png": encoded(), "d/output.json": text, "d/description.json": text, "d/b.png": encoded(1)})
    assert names(opened(str(tmp_path))[1]) == ["a.png", "b.png"]


def test_the_pictures_of_an_output_may_be_named_and_the_output_itself_may_not(tmp_path):
    write(tmp_path, output("out"))
    assert names(opened(str(tmp_path / "out" / "pictures"))[1]) == ["x.png"]
    assert names(opened(f"{tmp_path}/*/pictures/*")[1]) == ["x.png"]
    with pytest.raises(SourceError, match=r"out: this is the output of a job; give the folder of pictures in it"):
        opened(str(tmp_path / "out"))
    with pytest.raises(SourceError, match=r"no picture files .* name the folder of pictures in it"):
        opened(str(tmp_path))


def test_patterns_match_no_output(tmp_path):
    write(tmp_path, {"cats/a.png": encoded(), **output("out"), "cats/x.tar": tar_bytes(member("t.png", encoded()))})
    assert names(opened({"folder": f"{tmp_path}/*"})[1]) == ["a.png"]
    assert names(opened({"webdataset": f"{tmp_path}/**/*.tar"})[1]) == ["t.png"]


def test_tars_and_tables_below_a_folder_leave_outputs_out(tmp_path):
    write(tmp_path, {"a.tar": tar_bytes(member("t.png", encoded())), **output("out")})
    pq.write_table(pa.table({"image": [encoded(1)]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": [encoded(2)]}), tmp_path / "out" / "shards" / "content" / "b.parquet")
    for kind in ("webdataset", "parquet"):
        source, pictures = opened({kind: str(tmp_path)})
        assert len(pictures) == 1
        assert source.passed_over.line() == "passed over 1 folder that a job wrote (out)"


def test_on_an_object_store(s3_bucket):  # noqa: F811
    root = Place.parse(s3_bucket) / "set"
    for name, data in {"a.png": encoded(), "out-2/c.png": encoded(2), ".x/d.png": encoded(), "e": encoded(3)}.items():
        (root / name).write_bytes(data)
    for name, data in output("out").items():
        (root / name).write_bytes(data)
    source, pictures = opened(str(root))
    assert names(pictures) == ["a.png", "e", "c.png"]
    assert (
        source.passed_over.line() == "passed over 2: 1 file hidden by their name (.x), 1 folder that a job wrote (out)"
    )
    with pytest.raises(SourceError, match="this is the output of a job"):
        opened(str(root / "out"))


def test_names_that_are_no_utf8_and_links_in_circles_beside_tars(tmp_path):
    write(tmp_path, {"a.tar": tar_bytes(member("t.png", encoded()))})
    with open(os.fsencode(tmp_path) + b"/caf\xe9.txt", "wb") as stream:  # noqa: PTH123 - a name that Path can't print
        stream.write(b"x")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to("self")
    assert names(opened({"webdataset": str(tmp_path)})[1]) == ["t.png"]
    with pytest.raises(SourceError, match=r"no picture files, but \.tar files"):
        opened({"folder": str(tmp_path)})
    with pytest.raises(SourceError, match=r"a file's name is no UTF-8; rename it, or give the folder itself"):
        opened({"webdataset": f"{tmp_path}/**/*.tar"})
