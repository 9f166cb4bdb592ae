"""Records: what is written comes back, what is broken is named, nothing is half written."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmh import records
from cmh.errors import RecordError
from cmh.records import Record

AP = np.array([0.5, 0.25, 1.0])


def record(**changes: Any) -> Record:
    values: dict[str, Any] = {
        "schema": records.SCHEMA,
        "study": "dcmh-clipart-32",
        "method": "dcmh",
        "dataset": "clipart",
        "dataset_sha256": "d" * 64,
        "split_sha256": "5" * 64,
        "features": "efficientnet-lite0",
        "protocol": records.PROTOCOL,
        "bits": 32,
        "seed": 0,
        "config": {"lr": 0.1, "hidden": 64, "bias": True, "optimizer": "sgd"},
        "selection": "validation",
        "search_trials": 24,
        "search_epochs": 300,
        "search_seconds": 60.0,
        "epochs": 30,
        "training_seconds": 5.5,
        "chosen_epoch": 12,
        "validation": {"map": 0.5, "map_i2t": 0.5, "map_t2i": 0.5},
        "test": {"map": 0.45, "map_i2t": 0.4, "map_t2i": 0.5},
        "tie_rule": "expected",
        "test_opened": 1,
        "versions": {"cmh": "0.1.0"},
        "commit": "c" * 40,
        "host": "laptop",
        "device": "cpu",
        "date": "2025-01-01T00:00:00+00:00",
        "per_query": "seed-0.npz",
    }
    return Record(**(values | changes))


def line(**changes: Any) -> str:
    return json.dumps(dataclasses.asdict(record()) | changes)


def test_a_record_and_its_queries_come_back(tmp_path: Path) -> None:
    folder = tmp_path / "studies" / "new"
    first, second = record(), record(seed=1, per_query="seed-1.npz", dataset="Ökologie")
    records.append(folder, first, AP, AP / 2)
    records.append(folder, second, AP / 4, AP)
    assert records.read(folder) == [first, second]
    i2t, t2i = records.per_query(folder, second)
    assert i2t.tolist() == (AP / 4).tolist()
    assert t2i.tolist() == AP.tolist()


@pytest.mark.parametrize(
    ("changes", "i2t"),
    [
        ({"per_query": "../outside.npz"}, AP),
        ({"per_query": ""}, AP),
        ({"search_seconds": float("nan")}, AP),
        ({"test": {"map": 0.5}}, AP),
        ({"date": "today"}, AP),
        ({}, AP * np.nan),
        ({}, AP[:2]),
    ],
)
def test_what_could_not_be_read_is_not_written(tmp_path: Path, changes: dict[str, Any], i2t: Any) -> None:
    with pytest.raises(RecordError):
        records.append(tmp_path / "study", record(**changes), i2t, AP)
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_no_records(tmp_path: Path) -> None:
    assert records.read(tmp_path) == []
    (tmp_path / "records.jsonl").write_text("")
    assert records.read(tmp_path) == []


def test_a_file_that_cannot_be_opened_is_a_record_error(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").mkdir()
    with pytest.raises(RecordError, match="cannot be read"):
        records.read(tmp_path)


BAD = {
    "": "Expecting value",
    "{": "Expecting property name",
    line()[:-30]: "Unterminated string|Expecting",
    line() + line(): "Extra data",
    "[1]": "not a JSON object",
    "null": "not a JSON object",
    "[" * 100_000: "recursion",
    line(schema=2): "schema is 2, but this version reads 1",
    "{}": "schema is None",
    line(schema=True): "schema is True, but must be an integer",
    json.dumps({"schema": 1, "method": "dcmh"}): "without bits, chosen_epoch, .*versions",
    line(extra=1, other=2): "unknown 'extra', 'other'",
    line(bits="32"): "bits is '32', but must be an integer",
    line(**{"\x1b[31m": 1}): r"unknown '\\x1b\[31m'",
    line(bits=0): "bits is 0, but must be >= 1",
    line(search_seconds=-1.5): "search_seconds is -1.5, but must be >= 0",
    line(bits=True): "bits is True",
    line(bits=32.0): "bits is 32.0",
    line(method=7): "method is 7, but must be a text",
    line(search_seconds="long"): "search_seconds is 'long', but must be a finite number",
    line(search_seconds=float("nan")): "NaN is not a JSON number",
    line(search_seconds=0).replace('"search_seconds": 0', '"search_seconds": 1e999'): "search_seconds is inf",
    line(search_seconds=10**400): "search_seconds is 1000.*, but must be a finite number",
    line(config=[1]): r"config is \[1\], but must be a mapping of plain values",
    line(config={"layers": [1]}): "must be a mapping of plain values",
    line(config={"lr": None}): "must be a mapping of plain values",
    line(validation={"map": "0.5"}): "must be a mapping of numbers",
    line(test={"map": 0.5, "map_i2t": 0.5}): "test map_t2i is None, but must be a number from 0 to 1",
    line(test={"map": 0.5, "map_i2t": 1.5, "map_t2i": 0.5}): "test map_i2t is 1.5",
    line(selection="luck"): "selection is 'luck', but must be one of validation, paper, fixed",
    line(date="yesterday"): "Invalid isoformat",
    line(method="\ud800"): "surrogates",
}


@pytest.mark.parametrize(("text", "message"), BAD.items(), ids=range(len(BAD)))
def test_each_kind_of_bad_line_is_named_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "records.jsonl").write_text(f"{line()}\n{text}\n")
    with pytest.raises(RecordError, match=f"(?s)records.jsonl:2: .*{message}"):
        records.read(tmp_path)


def test_all_bad_lines_are_in_one_error(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_bytes(b"\xff\xfe garbage\n" + line().encode() + b"\n{}\n" + line().encode()[:50])
    with pytest.raises(RecordError) as caught:
        records.read(tmp_path)
    assert [problem.split(":")[1] for problem in caught.value.problems] == ["1", "3", "4"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = [field.name for field in dataclasses.fields(Record)]


@given(st.dictionaries(st.sampled_from(FIELDS), json_values, min_size=1, max_size=3))
def test_any_value_in_any_field_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, changes: Any) -> None:
    _read_or_refuse(tmp_path_factory, line(**changes).encode())


@given(json_values.map(lambda value: json.dumps(value).encode()) | st.binary())
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    _read_or_refuse(tmp_path_factory, text)


def _read_or_refuse(factory: pytest.TempPathFactory, text: bytes) -> None:
    folder = factory.mktemp("fuzz")
    (folder / "records.jsonl").write_bytes(text)
    try:
        found = records.read(folder)
    except RecordError:
        return
    for one in found:
        json.dumps(dataclasses.asdict(one), allow_nan=False)
        records.moment(one)


def test_two_processes_append_without_losing_a_line(tmp_path: Path) -> None:
    program = """
import sys, dataclasses, numpy as np
from pathlib import Path
from cmh import records
folder, writer = Path(sys.argv[1]), int(sys.argv[2])
first = records.read(folder)[0]
for seed in range(20):
    one = dataclasses.replace(first, seed=100 * writer + seed, per_query=f"{writer}-{seed}.npz")
    records.append(folder, one, np.ones(3), np.ones(3))
"""
    records.append(tmp_path, record(), AP, AP)
    writers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(n)]) for n in (1, 2)]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    found = records.read(tmp_path)
    assert sorted(one.seed for one in found) == [0, *range(100, 120), *range(200, 220)]
    assert all(records.per_query(tmp_path, one)[0].size == 3 for one in found)


def test_dates_compare_across_zones_and_without_one() -> None:
    dates = ["2025-01-01T01:00:00+02:00", "2025-01-01T00:00:00", "2025-01-01T00:00:01Z"]
    moments = [records.moment(record(date=date)) for date in dates]
    assert moments == sorted(moments)
    assert len(set(moments)) == 3


@pytest.mark.parametrize("name", ["../seed-0.npz", "/etc/hostname", "inner/seed-0.npz", "", "..", "."])
def test_a_per_query_file_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "study"
    (folder / "inner").mkdir(parents=True)
    for place in (tmp_path, folder, folder / "inner"):
        np.savez(place / "seed-0.npz", i2t=AP, t2i=AP)
    with pytest.raises(RecordError, match=r"must lie in the folder|cannot be read"):
        records.per_query(folder, record(per_query=name))


def test_a_per_query_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "elsewhere.npz", i2t=AP, t2i=AP)
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "seed-0.npz").symlink_to(tmp_path / "elsewhere.npz")
    with pytest.raises(RecordError, match="must lie in the folder"):
        records.per_query(tmp_path / "study", record())


def test_a_missing_per_query_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"seed-0\.npz: .*cannot be read"):
        records.per_query(tmp_path, record())
    with pytest.raises(RecordError, match=r"cannot be read|must lie"):
        records.per_query(tmp_path, record(per_query="nul\0.npz"))


@pytest.mark.parametrize(
    "arrays",
    [
        {"i2t": AP, "t2i": AP[:2]},
        {"i2t": AP[:0], "t2i": AP[:0]},
        {"i2t": AP[None], "t2i": AP[None]},
        {"i2t": AP, "t2i": AP * np.nan},
        {"i2t": AP},
        {"i2t": AP, "t2i": np.array(["a", "b", "c"])},
        {"i2t": AP, "t2i": np.array([None, None, None])},
    ],
)
def test_a_per_query_file_with_wrong_arrays_is_refused(tmp_path: Path, arrays: dict[str, Any]) -> None:
    np.savez(tmp_path / "seed-0.npz", **arrays)
    with pytest.raises(RecordError, match=r"seed-0\.npz"):
        records.per_query(tmp_path, record())


@given(st.data())
def test_a_damaged_per_query_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / "seed-0.npz"
    np.savez_compressed(path, i2t=AP, t2i=AP)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        i2t, t2i = records.per_query(folder, record())
    except RecordError:
        return
    assert i2t.shape == t2i.shape
