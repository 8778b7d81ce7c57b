"""Banks that were damaged or come from a stranger: one line and a cure, never other numbers, never another's files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support.bank_samples import FORMATS, describe, fill, latents

from diffstyle.errors import DiffStyleError
from pipeline.banks.columns import read_columns, write_column
from pipeline.banks.copy import export, merge
from pipeline.banks.drop import prune
from pipeline.banks.index import BankIndex
from pipeline.banks.payload import PAYLOADS
from pipeline.banks.reader import LatentBank
from pipeline.banks.tensors import BankError
from pipeline.banks.verify import repair, verify
from pipeline.banks.writer import BankWriter
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place
from pipeline.storage.tables import write_table


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)


def rewritten(root: Path, **changes: object) -> None:
    """The bank's one index part with these values in its first row, as a stranger may have written it."""
    store = PartStore(Place.parse(root))
    (part,) = store.parts()
    index = BankIndex(store, describe())
    rows = index.part(part).to_pylist()
    rows[0].update(changes)
    with (store.index_folder / f"{part}.parquet").writer() as stream:
        write_table(stream, pa.Table.from_pylist(rows, describe().index_schema))


HOSTILE = {
    "data up": {"data": "../../other/data/part-1"},
    "data absolute": {"data": "/etc/passwd"},
    "data empty": {"data": ""},
    "key up": {"key": "../../evil"},
    "key absolute": {"key": "/tmp/evil"},
    "key hidden": {"key": ".ssh"},
    "key with a NUL": {"key": "a\0b"},
    "image up": {"image": "../../../0123456789abcdef01234567"},
    "image short": {"image": "0"},
}


@pytest.mark.parametrize("changes", HOSTILE.values(), ids=HOSTILE)
def test_names_that_lead_out_of_the_bank_are_refused_by_every_reader(tmp_path, changes):
    root = tmp_path / "bank"
    fill(root, describe(), range(3))
    rewritten(root, **changes)
    writer = BankWriter.create_or_open(root, describe())
    readers = (
        lambda: LatentBank.open(root),
        lambda: export(root, tmp_path / "copy"),
        lambda: merge(tmp_path / "merged", [root]),
        lambda: prune(root, []),
        lambda: writer.known_images() and writer.known_names() and writer.commit_aliases([{"key": "a", "image": "b"}]),
    )
    for read in readers:
        with pytest.raises(BankError, match="which is no name that this project gives") as caught:
            read()
        assert "\n" not in str(caught.value)
        assert ".parquet" in str(caught.value)
    assert [problem.kind for problem in verify(root).problems] == ["index"]
    repair(root)
    assert verify(root).ok


@pytest.mark.parametrize("format", FORMATS)
def test_a_row_is_not_read_from_another_folder(tmp_path, format):
    """Even where the index was not checked: a row handed in by hand."""
    fill(tmp_path / "secret", describe(format), range(3))
    fill(tmp_path / "bank", describe(format), range(3))
    bank = LatentBank.open(tmp_path / "bank")
    row = {**bank[0].row, "data": f"../../secret/data/{bank[0].row['data']}"}
    with pytest.raises(DiffStyleError, match="no name of a part"):
        bank.read_rows([row])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "changes",
    [{"h_offset": -5}, {"h_offset": 2**60}, {"h_offset": None}, {"h_size": 2**40}, {"h_size": -1}, {"data_size": None}],
    ids=str,
)
def test_places_that_can_not_be_are_one_line(tmp_path, format, changes):
    fill(tmp_path, describe(format), range(3))
    bank = LatentBank.open(tmp_path)
    with pytest.raises(BankError, match="bank repair"):
        bank.read_rows([{**bank[0].row, **changes}])


def test_names_that_lead_elsewhere_are_not_written(tmp_path):
    writer = fill(tmp_path, describe(), range(2))
    image = latents(0, describe()).image
    with pytest.raises(BankError, match="no name that this project gives"):
        writer.commit_aliases([{"key": "a/b", "image": image}])
    with pytest.raises(BankError, match="no name that this project gives"):
        writer.commit_failures([{"key": "a", "image": "../b", "error": "dark"}])
    assert len(LatentBank.open(tmp_path)) == 2


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :]


def test_a_flipped_bit_in_the_index_is_one_line(tmp_path):
    fill(tmp_path, describe(), range(4))
    (file,) = (tmp_path / "index").iterdir()
    whole = file.read_bytes()
    for at in range(0, len(whole), 31):
        file.write_bytes(flipped(whole, at))
        with pytest.raises(BankError) as caught:
            LatentBank.open(tmp_path)
        assert str(caught.value).startswith(f"{file}: ")
        assert "bank repair" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_flipped_bit_in_the_description_is_one_line_or_harmless(tmp_path):
    fill(tmp_path, describe(), range(2))
    wanted = LatentBank.open(tmp_path).description
    file = tmp_path / "description.json"
    whole = file.read_bytes()
    lines = []
    for at in range(0, len(whole), 3):
        file.write_bytes(flipped(whole, at))
        try:
            assert LatentBank.open(tmp_path).description == wanted, at
        except DiffStyleError as error:
            lines.append(str(error))
    assert len(lines) > len(whole) / 6
    assert all(str(tmp_path) in line and "\n" not in line for line in lines)


def test_a_flipped_bit_in_a_column_is_one_line_and_repaired(tmp_path):
    fill(tmp_path, describe(), range(4))
    values = {latents(number, describe()).image: float(number) for number in range(4)}
    write_column(tmp_path, "psnr", values)
    file = tmp_path / "columns" / "psnr.parquet"
    whole = file.read_bytes()
    assert read_columns(tmp_path) == {"psnr": values}
    for at in range(0, len(whole), 11):
        file.write_bytes(flipped(whole, at))
        with pytest.raises(BankError, match=r"psnr\.parquet: not readable"):
            read_columns(tmp_path)
    report = verify(tmp_path)
    assert [problem.kind for problem in report.problems] == ["column"]
    assert repair(tmp_path, report) == ["columns/psnr.parquet: dropped, it can be made again"]
    assert verify(tmp_path).ok


def test_pages_of_a_payload_carry_checksums(tmp_path):
    """A flipped bit in a tensor is seen by a plain reader of Parquet, without the hash of the whole file."""
    fill(tmp_path, describe(), range(2))
    row = LatentBank.open(tmp_path)[0].row
    (file,) = (tmp_path / "data").iterdir()
    read_all = PAYLOADS["parquet"].read_all
    assert len(list(read_all(Place.parse(file)))) == 2
    for name in ("x_t", "h"):
        whole = file.read_bytes()
        file.write_bytes(flipped(whole, row[f"{name}_offset"] + 7))
        with pytest.raises(BankError, match="CRC"):
            list(read_all(Place.parse(file)))
        file.write_bytes(whole)


@pytest.mark.parametrize("format", FORMATS)
def test_a_flipped_bit_in_a_tensor_is_no_other_number(tmp_path, format):
    """Reading one tensor of one entry notices it; nothing else of the file need be read."""
    fill(tmp_path, describe(format), range(3))
    row = LatentBank.open(tmp_path)[0].row
    (file,) = (tmp_path / "data").iterdir()
    whole = file.read_bytes()
    for name, other in (("x_t", "h"), ("h", "x_t")):
        file.write_bytes(flipped(whole, row[f"{name}_offset"] + row[f"{name}_size"] - 5))
        bank = LatentBank.open(tmp_path)
        for read in (lambda: bank.get_many([0], [name]), lambda: bank[0], lambda: list(bank.batches(2))):  # noqa: B023
            with pytest.raises(
                BankError, match=f"{name} of .*: these are not the values .*; run `diffstyle bank repair`"
            ):
                read()
        with pytest.raises(BankError, match="not the values that were written"):
            export(tmp_path, tmp_path / f"copy-{name}", format=next(one for one in FORMATS if one != format))
        assert bank.get_many([0], [other])
        assert bank[1]


def test_a_bank_of_before_its_tensors_had_checksums_reads_and_grows(tmp_path):
    fill(tmp_path, describe(), range(2))
    store = PartStore(Place.parse(tmp_path))
    (part,) = store.parts()
    table = BankIndex(store, describe()).part(part)
    before = table.drop_columns([name for name in table.column_names if name.endswith("_crc")])
    assert len(before.column_names) == len(table.column_names) - 2
    with (store.index_folder / f"{part}.parquet").writer() as stream:
        write_table(stream, before)
    fill(tmp_path, describe(), range(2, 4))
    assert verify(tmp_path).ok
    assert [entry.row["h_crc"] is None for entry in sorted(LatentBank.open(tmp_path), key=lambda one: one.key)] == [
        *(True, True),
        *(False, False),
    ]


@pytest.mark.parametrize("format", FORMATS)
def test_a_flipped_bit_anywhere_in_a_payload_is_found(tmp_path, format):
    fill(tmp_path, describe(format), range(2))
    (file,) = (tmp_path / "data").iterdir()
    whole = file.read_bytes()
    for at in np.random.default_rng(0).integers(0, len(whole), 40).tolist():
        file.write_bytes(flipped(whole, at))
        report = verify(tmp_path)
        assert {problem.kind for problem in report.problems} == {"part"}
        assert all("\n" not in str(problem) for problem in report.problems)
