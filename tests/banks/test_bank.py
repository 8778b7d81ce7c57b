"""The bank's reader and writer, in both formats: what goes in comes out, under every way of asking."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.bank_samples import FORMATS, OTHER_TENSORS, describe, fill, latents

from pipeline.banks.description import BankDescription, UnknownKeyError, part_name
from pipeline.banks.payload import payload_bytes
from pipeline.banks.reader import LatentBank
from pipeline.banks.tensors import BankError, TensorSpec
from pipeline.banks.writer import BankWriter
from pipeline.storage.stored_description import DescriptionError


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture(params=FORMATS)
def bank(request: pytest.FixtureRequest, tmp_path: Path) -> LatentBank:
    fill(tmp_path / "bank", describe(request.param), range(10))
    return LatentBank.open(tmp_path / "bank")


def test_the_bytes_of_a_tar_of_latents_stay_as_they_are(tmp_path: Path) -> None:
    """Banks that exist are merged and checked byte for byte: another writer of tars must write the same."""
    description = describe("webdataset")
    items = []
    for number in range(2):
        tensors = {one.name: np.full(one.stored_shape, number / 4, np.float32) for one in description.tensors}
        items.append(replace(latents(number, description), tensors=tensors))
    rows = BankWriter.write_payload(tmp_path / "bank", description, "part", items)
    (file,) = (tmp_path / "bank" / "data").iterdir()
    assert (
        hashlib.sha256(file.read_bytes()).hexdigest()
        == "a592466ac5452d11b12a034c58d5ee919312c5cb1cc411ef54c750e11cb9207f"
    )
    assert rows["data_size"].to_pylist() == [file.stat().st_size] * 2


def assert_same(got, wanted, description):
    assert (got.key, got.image, got.h_timesteps) == (wanted.key, wanted.image, description.h_timesteps)
    assert got.tensors.keys() == wanted.tensors.keys() == set(description.names)
    for one in description.tensors:
        a, b = got.tensors[one.name], wanted.tensors[one.name]
        assert a.dtype == one.dtype
        assert a.flags.writeable
        np.testing.assert_array_equal(a, b.astype(one.dtype))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("role", ["content", "style", "both"])
@pytest.mark.parametrize("dtypes", [("float16", "float32"), ("float32", "float16")])
def test_round_trip(tmp_path, format, role, dtypes):
    description = describe(format, role, h_dtype=dtypes[0], x_t_dtype=dtypes[1])
    fill(tmp_path, description, range(5), part_size=2)
    bank = LatentBank.open(tmp_path)
    assert bank.description == description
    assert bank.about == {"made_by": "test"}
    assert len(bank) == 5
    for number in range(5):
        wanted = latents(number, description)
        got = bank[wanted.key]
        assert_same(got, wanted, description)
        assert (got.x_t is None, got.h is None) == (role == "content", role == "style")
        assert {name: got.row[name] for name in wanted.row} == wanted.row


def test_ways_of_asking(bank):
    keys = bank.keys()
    assert keys == sorted(keys)
    third = bank[keys[3]]
    for way in (third.image, 3, -7, np.int64(3)):
        np.testing.assert_array_equal(bank[way].x_t, third.x_t)
    assert [entry.key for entry in bank[2:8:2]] == keys[2:8:2]
    assert keys[0] in bank
    assert third.image in bank
    assert "nobody" not in bank
    assert [entry.key for entry in bank] == keys
    with pytest.raises(IndexError, match="10 entries"):
        bank[10]


def test_get_many_keeps_order_and_repeats(bank):
    keys = bank.keys()
    wanted = [keys[7], keys[0], keys[7], keys[3]]
    assert [entry.key for entry in bank.get_many(wanted)] == wanted
    only_h = bank.get_many(wanted, tensors=("h",))
    assert all(entry.tensors.keys() == {"h"} for entry in only_h)
    with pytest.raises(BankError, match="no tensor 'x_T' in this bank; it keeps h and x_t"):
        bank.get_many(keys, tensors=("x_T",))


def test_get_many_reads_only_what_is_asked(bank, monkeypatch):
    reads = []
    files = type(bank.payloads._files)
    original = files.read

    def read(self, place, offset, size, file_size):
        reads.append((place.name, offset, size))
        return original(self, place, offset, size, file_size)

    monkeypatch.setattr(files, "read", read)
    bank.get_many(bank.keys()[:6] * 2)
    assert len(reads) == 12  # two tensors each, and not again for the repeats
    names = [name for name, _, _ in reads]
    assert names == sorted(names)  # a file's reads together: it is opened once
    assert sum(size for _, _, size in reads) < 6 * (bank.description.bytes_per_image + 300)


def test_unknown_key_names_close_ones(bank):
    key = bank.keys()[4]
    with pytest.raises(UnknownKeyError) as caught:
        bank[key[:-1] + "x"]
    assert key in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, KeyError)


def test_batches(bank):
    keys = bank.keys()
    assert [[entry.key for entry in batch] for batch in bank.batches(4)] == [keys[:4], keys[4:8], keys[8:]]
    shuffled = [entry.key for batch in bank.batches(4, shuffle=3) for entry in batch]
    assert shuffled != keys
    assert sorted(shuffled) == keys
    assert shuffled == [entry.key for batch in bank.batches(3, shuffle=3) for entry in batch]
    assert shuffled != [entry.key for batch in bank.batches(4, shuffle=0) for entry in batch]
    assert sorted(entry.key for batch in bank.batches(4, shuffle=True) for entry in batch) == keys
    with pytest.raises(ValueError, match="at least one"):
        next(bank.batches(0))


def test_to_pandas_and_pickle(bank):
    frame = bank.to_pandas()
    assert list(frame["key"]) == bank.keys()
    assert {"source", "label", "created"} <= set(frame)
    bank[0]  # open files do not hinder
    again = pickle.loads(pickle.dumps(bank))
    np.testing.assert_array_equal(again[2].h, bank[2].h)


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_entries_make_the_same_bytes(tmp_path, format):
    description = describe(format)
    items = [latents(n, description) for n in range(3)]
    part = part_name([item.image for item in items])
    for name in ("a", "b"):
        BankWriter.write_payload(str(tmp_path / name), description, part, items)
    (a,) = (tmp_path / "a" / "data").iterdir()
    (b,) = (tmp_path / "b" / "data").iterdir()
    assert a.name == b.name
    assert a.read_bytes() == b.read_bytes()
    assert part_name([item.image for item in items[::-1]]) != part


@pytest.mark.parametrize("format", FORMATS)
def test_growing_and_uncommitted(tmp_path, format):
    description = describe(format)
    fill(tmp_path, description, range(4))
    bank = LatentBank.open(tmp_path)
    items = [latents(n, description) for n in (4, 5)]
    rows = BankWriter.write_payload(str(tmp_path), description, "part-new", items)
    writer = BankWriter.create_or_open(tmp_path, description, {})
    assert len(LatentBank.open(tmp_path)) == 4
    assert items[0].image not in writer.known_images()
    writer.commit("part-new", rows)
    assert items[0].image in writer.known_images()
    assert len(bank) == 4
    bank.refresh()
    assert len(bank) == 6
    BankWriter.write_payload(str(tmp_path), description, "part-left", [latents(9, description)])
    assert [name.partition(".")[0] for name in writer.remove_uncommitted()] == ["part-left"]
    assert len(LatentBank.open(tmp_path)) == 6


def test_other_settings_do_not_mix(tmp_path):
    description = describe()
    fill(tmp_path, description, range(2))
    other = describe(inversion={"steps": 40, "t_0": 999, "plan": "grid"}, x_t_dtype="float16")
    with pytest.raises(DescriptionError, match=r"inversion.steps is 50 there, 40 asked; tensors.x_t.dtype") as caught:
        BankWriter.create_or_open(tmp_path, other, {})
    assert "another output folder" in str(caught.value)


def test_aliases_and_clashing_keys(tmp_path):
    description = describe()
    writer = fill(tmp_path, description, range(3))
    item = latents(1, description)
    alias = {"key": "other-name", "image": item.image, "source": "elsewhere/1.png"}
    assert writer.commit_aliases([alias, alias]) == 1
    assert writer.commit_aliases([alias]) == 0
    assert ("other-name", item.image) in writer.known_names()
    # the same key for another image: nothing is lost, and nothing hidden
    clash = replace(latents(7, description), key=item.key)
    rows = writer.write_payload(str(tmp_path), description, "part-clash", [clash])
    writer.commit("part-clash", rows)
    bank = LatentBank.open(tmp_path)
    assert len(bank) == 5
    np.testing.assert_array_equal(bank["other-name"].x_t, item.x_t)
    assert bank["other-name"].row["source"] == "elsewhere/1.png"
    longer = f"{item.key}-{max(item.image, clash.image)}"
    assert {bank[item.key].image, bank[longer].image} == {item.image, clash.image}
    np.testing.assert_array_equal(bank[clash.image].x_t, clash.x_t)
    with pytest.raises(BankError, match="not in"):
        writer.commit_aliases([{"key": "nobody", "image": "0" * 32}])


def test_failures_give_way_to_success(tmp_path):
    description = describe()
    writer = fill(tmp_path, description, range(2))
    bad = latents(8, description)
    for error in ("first", "out of memory"):
        writer.commit_failures([{"key": bad.key, "image": bad.image, "error": error}])
    assert writer.failed_images() == {bad.image: "out of memory"}
    bank = LatentBank.open(tmp_path)
    assert bad.key not in bank
    assert bank.failed() == {bad.key: "out of memory"}
    with pytest.raises(UnknownKeyError, match="out of memory"):
        bank[bad.key]
    part = part_name([bad.image])
    writer.commit(part, writer.write_payload(str(tmp_path), description, part, [bad]))
    assert writer.failed_images() == {}
    bank.refresh()
    assert bank.failed() == {}
    assert_same(bank[bad.key], bad, description)
    with pytest.raises(BankError, match="without an error"):
        writer.commit_failures([{"key": "a", "image": "b"}])


@pytest.mark.parametrize("format", FORMATS)
def test_tensors_that_do_not_fit_are_refused(tmp_path, format):
    description = describe(format)
    good = latents(0, description)
    huge = good.h.copy()
    huge[0, 0, 0, 0] = 1e6
    for item, message in (
        (replace(good, tensors={"h": good.h}), "x_t is missing"),
        (replace(good, tensors={**good.tensors, "x_t": good.x_t[:, :4]}), r"x_t has shape \(3, 4, 8\)"),
        (replace(good, timesteps={"h": (1, 2)}), "h is for timesteps \\[1, 2\\], the bank keeps \\[400, 999\\]"),
        (replace(good, timesteps={}), "h is for timesteps none"),
        (replace(good, tensors={**good.tensors, "x_t": good.x_t * np.nan}), "x_t has values that are not finite"),
        (replace(good, tensors={**good.tensors, "h": huge}), "h has values that are beyond the range of float16"),
    ):
        with pytest.raises(BankError, match=message):
            BankWriter.write_payload(str(tmp_path), description, "part-a", [item])
    assert list((tmp_path / "data").iterdir()) == []
    with pytest.raises(BankError, match="same image twice"):
        BankWriter.write_payload(str(tmp_path), description, "part-a", [good, good])
    with pytest.raises(BankError, match="without entries"):
        BankWriter.write_payload(str(tmp_path), description, "part-a", [])


def test_commit_without_payload_is_refused(tmp_path):
    description = describe()
    rows = BankWriter.write_payload(str(tmp_path / "elsewhere"), description, "part-a", [latents(0, description)])
    writer = BankWriter.create_or_open(tmp_path / "here", description, {})
    with pytest.raises(BankError, match="do all machines of the job share this folder"):
        writer.commit("part-a", rows)
    with pytest.raises(BankError, match="not of this part"):
        writer.commit("part-b", rows)


def test_what_cannot_be_opened_says_so(tmp_path):
    with pytest.raises(DescriptionError, match="right folder"):
        LatentBank.open(tmp_path)
    (tmp_path / "description.json").write_text('{"identity": {"kind": "shards"}}')
    with pytest.raises(BankError, match="not a latent bank"):
        LatentBank.open(tmp_path)
    for version in (2, 0, None, "1"):
        with pytest.raises(BankError, match="install the diffstyle that wrote it"):
            BankDescription.from_dict({**describe().to_dict(), "format_version": version})
    with pytest.raises(BankError, match="unknown fields"):
        BankDescription.from_dict({**describe().to_dict(), "flavour": 1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"role": "all"}, "role is 'all'"),
        ({"format": "hdf5"}, "format is 'hdf5'"),
        ({"h_dtype": "bfloat16"}, "'h': dtype is 'bfloat16'"),
        ({"h_timesteps": ()}, "'h': timesteps is"),
        ({"h_timesteps": (1, 1)}, "'h': timesteps has a duplicate"),
        ({"h_shape": ()}, "'h': shape is"),
        ({"h_shape": (0, 2)}, "'h': shape is"),
        ({"h_shape": (2**16, 2**16, 2)}, "less than 2 GiB"),
    ],
)
def test_descriptions_that_are_not_possible(changes, message):
    with pytest.raises(BankError, match=message):
        describe(**changes)


@pytest.mark.parametrize(
    "names", [("../x",), ("Z",), ("",), ("key",), ("data",), ("a", "a"), ("a", "a_size"), ("status",), ("a.b",)]
)
def test_names_of_tensors_that_are_not_possible(names):
    """They name columns and members of tars: each must be a word of its own."""
    with pytest.raises(BankError, match="bank description: tensor"):
        describe(tensors=tuple(TensorSpec(name, "float32", (2,)) for name in names))


# ---- tensors of other methods ----
@pytest.mark.parametrize("format", FORMATS)
def test_tensors_of_any_name_go_in_and_out(tmp_path, format):
    description = describe(format, tensors=OTHER_TENSORS)
    fill(tmp_path, description, range(6))
    bank = LatentBank.open(tmp_path)
    assert bank.description == description
    assert bank.description.names == ("codes", "features", "z")
    for number in range(6):
        wanted = latents(number, description)
        assert_same(bank[wanted.key], wanted, description)
    assert bank[0].timesteps == {"features": (10, 500, 999)}
    assert (bank[0].x_t, bank[0].h, bank[0].h_timesteps) == (None, None, ())
    (entry,) = bank.get_many([bank.keys()[2]], tensors=("z",))
    assert entry.tensors.keys() == {"z"}
    size = sum(file.stat().st_size for file in (tmp_path / "data").iterdir())
    assert payload_bytes(description, 6, 4) == pytest.approx(size, rel=0.1)
    assert set(bank.to_pandas()) >= {"z_offset", "z_size", "features_offset", "codes_size"}


@pytest.mark.parametrize("format", FORMATS)
def test_whole_numbers_are_kept_exactly_or_refused(tmp_path, format):
    description = describe(format, tensors=(TensorSpec("codes", "uint8", (2,)),))
    good = latents(0, description)
    for values, message in (([1, 300], "not values of uint8"), ([0.5, 1], "not values"), ([np.nan, 1], "not finite")):
        with pytest.raises(BankError, match=message):
            BankWriter.write_payload(tmp_path, description, "p", [replace(good, tensors={"codes": np.array(values)})])
    rows = BankWriter.write_payload(
        tmp_path, description, "p", [replace(good, tensors={"codes": np.array([3.0, 255])})]
    )
    BankWriter.create_or_open(tmp_path, description).commit("p", rows)
    assert LatentBank.open(tmp_path)[0].tensors["codes"].tolist() == [3, 255]


@pytest.mark.parametrize("format", FORMATS)
def test_a_broken_payload_is_an_error_not_other_numbers(tmp_path, format):
    fill(tmp_path, describe(format), range(4))
    (payload,) = (tmp_path / "data").iterdir()
    whole = payload.read_bytes()
    payload.write_bytes(whole[:-700])
    with pytest.raises(BankError, match="bank repair"):
        LatentBank.open(tmp_path)[0]
    payload.unlink()
    with pytest.raises(BankError, match="missing"):
        LatentBank.open(tmp_path)[0]
    payload.write_bytes(b"x" * len(whole))  # the right length, other content
    with pytest.raises(BankError, match="bank repair"):
        LatentBank.open(tmp_path)[0]
    (index,) = (tmp_path / "index").iterdir()
    index.write_bytes(b"")
    with pytest.raises(BankError, match="bank repair"):
        LatentBank.open(tmp_path)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("role", ["content", "style", "both"])
@pytest.mark.parametrize(("count", "part_size"), [(6, 6), (7, 3), (1, 4)])
def test_the_size_is_known_beforehand(tmp_path, format, role, count, part_size):
    timesteps = () if role == "style" else tuple(range(10))
    description = describe(format, role, image_size=64, h_shape=(128, 4, 4), h_timesteps=timesteps)
    fill(tmp_path, description, range(count), part_size)
    size = sum(file.stat().st_size for file in (tmp_path / "data").iterdir())
    assert payload_bytes(description, count, part_size) == pytest.approx(size, rel=0.05)
    assert payload_bytes(description, 0, part_size) == 0
