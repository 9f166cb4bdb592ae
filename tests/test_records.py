"""Records: what is written comes back, what is broken is named, nothing is half written."""

from __future__ import annotations

import dataclasses
import json
import re
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
from cmh.identity import Identity
from cmh.records import Cost, PerQuery, Record
from tests.test_identity import identity

AP = np.array([0.5, 0.25, 1.0])


def queries(i2t: Any = AP, t2i: Any = AP, groups: Any = (0, 1, 1)) -> PerQuery:
    return PerQuery(np.asarray(i2t), np.asarray(t2i), np.asarray(groups))


def record(**changes: Any) -> Record:
    """A record; what is a field of its identity changes that. Its test numbers are the means of AP."""
    fields = {field.name for field in dataclasses.fields(Identity)}
    values: dict[str, Any] = {
        "schema": records.SCHEMA,
        "study": "dcmh-clipart-32",
        "identity": identity(**{key: changes.pop(key) for key in fields & changes.keys()}),
        "protocol": records.PROTOCOL,
        "selection": "validation",
        "label": "",
        "prior": "",
        "search": Cost(24, 300, 600.0, 60.0, 120.0),
        "training": Cost(1, 30, 60.0, 5.5, 5.5),
        "chosen_epoch": 12,
        "validation": {"map": 0.5, "map_i2t": 0.5, "map_t2i": 0.5},
        "test": {"map": float(AP.mean()), "map_i2t": float(AP.mean()), "map_t2i": float(AP.mean())},
        "tie_rule": "expected",
        "test_opened": 1,
        "split_opened": 3,
        "audits": {"leak": [], "dead": []},
        "versions": {"cmh": "0.1.0"},
        "provenance": {"network": "efficientnet-lite0"},
        "commit": "c" * 40,
        "host": "laptop",
        "date": "2025-01-01T00:00:00+00:00",
        "per_query": "seed-0.npz",
        "codes": "",
    }
    return Record(**(values | changes))


def line(**changes: Any) -> str:
    """A record as JSON, changed whatever the rules; `identity_bits=…` changes a field inside."""
    values = dataclasses.asdict(record())
    for key, value in changes.items():
        outer, _, inner = key.partition("_")
        if outer in ("identity", "search", "training") and inner:
            values[outer][inner] = value
        else:
            values[key] = value
    return json.dumps(values)


def test_a_record_and_its_queries_come_back(tmp_path: Path) -> None:
    folder = tmp_path / "studies" / "new"
    half, quarter = record().test["map"] / 2, record().test["map"] / 4
    first = record(test={"map": 0.4, "map_i2t": record().test["map"], "map_t2i": half})
    second = record(
        seed=1,
        per_query="seed-1.npz",
        dataset="Ökologie",
        test={"map": 0.4, "map_i2t": quarter, "map_t2i": record().test["map"]},
    )
    records.append(folder, first, queries(AP, AP / 2))
    records.append(folder, second, queries(AP / 4, AP))
    assert records.read(folder) == ([first, second], [])
    found = records.per_query(folder, second)
    assert found.i2t.tolist() == (AP / 4).tolist()
    assert found.t2i.tolist() == AP.tolist()
    assert found.groups.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("changes", "ap"),
    [
        ({"per_query": "../outside.npz"}, queries()),
        ({"per_query": ""}, queries()),
        ({"codes": "../codes.npz"}, queries()),
        ({"search": Cost(seconds=float("nan"))}, queries()),
        ({"test": {"map": 0.5}}, queries()),
        ({"date": "today"}, queries()),
        ({"audits": {"leak": []}}, queries()),
        ({}, queries(AP * np.nan)),
        ({}, queries(AP[:2])),
        ({}, queries(groups=[0, 1])),
        ({}, queries(AP / 2)),
    ],
)
def test_what_could_not_be_read_is_not_written(tmp_path: Path, changes: dict[str, Any], ap: PerQuery) -> None:
    with pytest.raises(RecordError):
        records.append(tmp_path / "study", record(**changes), ap)
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_no_records(tmp_path: Path) -> None:
    assert records.read(tmp_path) == ([], [])
    (tmp_path / "records.jsonl").write_text("")
    assert records.read(tmp_path) == ([], [])


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
    line(schema=3): "is of schema 3, but this version of cmh reads 2: a newer cmh wrote it",
    "{}": "schema is None",
    line(schema=True): "schema is True",
    json.dumps({"schema": 2, "selection": "paper"}): "without audits, chosen_epoch, .*versions",
    line(extra=1, other=2): "unknown 'extra', 'other'",
    line(identity_bits="32"): "identity bits is '32', but must be an integer",
    line(identity=3): "identity is 3, but must be a mapping",
    line(identity={}): "identity without arrays_sha256, bits",
    line(search_extra=1): "search unknown 'extra'",
    line(audits={"leak": [], "dead": [1]}): r"audits is .*must be a mapping of lists of texts",
    line(audits={"leak": []}): "audits are without dead",
    line(**{"\x1b[31m": 1}): r"unknown '\\x1b\[31m'",
    line(identity_bits=0): "identity bits is 0, but must be >= 1",
    line(search_seconds=-1.5): "search seconds is -1.5, but must be >= 0",
    line(identity_bits=True): "identity bits is True",
    line(identity_bits=32.0): "identity bits is 32.0",
    line(identity_method=7): "identity method is 7, but must be a text",
    line(search_seconds="long"): "search seconds is 'long', but must be a finite number",
    line(search_seconds=float("nan")): "NaN is not a JSON number",
    line(search_seconds=0).replace('"seconds": 0,', '"seconds": 1e999,'): "search seconds is inf",
    line(search_seconds=10**400): "search seconds is 1000.*, but must be a finite number",
    line(identity_config=[1]): r"identity config is \[1\], but must be a mapping of plain values",
    line(identity_config={"layers": [1]}): "must be a mapping of plain values",
    line(identity_config={"lr": None}): "must be a mapping of plain values",
    line(validation={"map": "0.5"}): "must be a mapping of numbers",
    line(test={"map": 0.5, "map_i2t": 0.5}): "test map_t2i is None, but must be a number from 0 to 1",
    line(test={"map": 0.5, "map_i2t": 1.5, "map_t2i": 0.5}): "test map_i2t is 1.5",
    line(selection="luck"): "selection is 'luck', but must be one of validation, paper, fixed",
    line(date="yesterday"): "Invalid isoformat",
    line(identity_method="\ud800"): "surrogates",
}


@pytest.mark.parametrize(("text", "message"), BAD.items(), ids=range(len(BAD)))
def test_each_kind_of_bad_line_is_named_with_its_place_and_costs_that_line(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "records.jsonl").write_text(f"{line()}\n{text}\n{line(identity_seed=1)}\n")
    found, problems = records.read(tmp_path)
    assert [one.identity.seed for one in found] == [0, 1]
    assert len(problems) == 1
    assert re.search(f"(?s)records.jsonl:2: left out: .*{message}", problems[0])


def test_all_bad_lines_are_named(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_bytes(b"\xff\xfe garbage\n" + line().encode() + b"\n{}\n" + line().encode()[:50])
    found, problems = records.read(tmp_path)
    assert found == [record()]
    assert [problem.split(":")[1] for problem in problems] == ["1", "3", "4"]


@pytest.mark.parametrize("study", [True, False])
def test_records_of_schema_1_are_refused_in_one_line_that_names_the_command(tmp_path: Path, study: bool) -> None:
    if study:
        (tmp_path / "best.yml").write_text("")
    old = json.dumps({"schema": 1, "method": "dcmh"})
    (tmp_path / "records.jsonl").write_text(f"{old}\n{old}\n{line()}\n{old}\n")
    found, problems = records.read(tmp_path)
    assert found == [record()]
    assert len(problems) == 1
    assert "3 records of schema 1 left out" in problems[0]
    assert ("`python -m cmh.reproduce " if study else "run the command") in problems[0]


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
    found, problems = records.read(folder)
    assert len(found) + len(problems) >= bool(text)
    for one in found:
        json.dumps(dataclasses.asdict(one), allow_nan=False)
        records.moment(one)


def test_two_processes_append_without_losing_a_line(tmp_path: Path) -> None:
    program = """
import sys, dataclasses, numpy as np
from pathlib import Path
from cmh import records
folder, writer = Path(sys.argv[1]), int(sys.argv[2])
first = records.read(folder)[0][0]
ap = records.per_query(folder, first)
for seed in range(20):
    identity = dataclasses.replace(first.identity, seed=100 * writer + seed)
    one = dataclasses.replace(first, identity=identity, per_query=f"{writer}-{seed}.npz")
    records.append(folder, one, ap)
"""
    records.append(tmp_path, record(), queries())
    writers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(n)]) for n in (1, 2)]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    found, problems = records.read(tmp_path)
    assert problems == []
    assert sorted(one.identity.seed for one in found) == [0, *range(100, 120), *range(200, 220)]
    assert all(records.per_query(tmp_path, one).i2t.size == 3 for one in found)


def test_a_winner_that_stays_has_the_budget_of_the_search_that_went_on(tmp_path: Path) -> None:
    from cmh.board import find, rows
    from cmh.study import confirm

    first = record(search=Cost(2, 60, 120.0, 6.0, 6.0), per_query="seed-0.npz")
    records.append(tmp_path, first, queries())
    newer = confirm.with_search(tmp_path, first, Cost(6, 90, 180.0, 9.0, 9.0))
    assert confirm.with_search(tmp_path, newer, newer.search) == newer  # the same command again writes nothing
    assert [one.search.trials for one in records.read(tmp_path)[0]] == [2, 6]
    runs, problems = find.find([tmp_path])
    ((board,), notes) = rows.boards(runs, {})
    (row,) = board.rows
    assert (row.trials, row.passes, row.n_seeds) == (6, 180.0, 1)
    assert problems == []
    assert not any("earlier winner" in note for note in notes)


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
        np.savez(place / "seed-0.npz", i2t=AP, t2i=AP, groups=[0, 1, 2])
    with pytest.raises(RecordError, match=r"must lie in the folder|cannot be read"):
        records.per_query(folder, record(per_query=name))


def test_a_per_query_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "elsewhere.npz", i2t=AP, t2i=AP, groups=[0, 1, 2])
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "seed-0.npz").symlink_to(tmp_path / "elsewhere.npz")
    with pytest.raises(RecordError, match="must lie in the folder"):
        records.per_query(tmp_path / "study", record())


def test_a_missing_per_query_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"seed-0\.npz: .*cannot be read"):
        records.per_query(tmp_path, record())
    with pytest.raises(RecordError, match=r"cannot be read|must lie"):
        records.per_query(tmp_path, record(per_query="nul\0.npz"))


GROUPS = np.array([0, 1, 1])


@pytest.mark.parametrize(
    "arrays",
    [
        {"i2t": AP, "t2i": AP[:2], "groups": GROUPS},
        {"i2t": AP[:0], "t2i": AP[:0], "groups": GROUPS[:0]},
        {"i2t": AP[None], "t2i": AP[None], "groups": GROUPS[None]},
        {"i2t": AP, "t2i": AP * np.nan, "groups": GROUPS},
        {"i2t": AP, "t2i": AP},
        {"i2t": AP, "t2i": AP, "groups": GROUPS[:2]},
        {"i2t": AP, "groups": GROUPS},
        {"i2t": AP, "t2i": np.array(["a", "b", "c"]), "groups": GROUPS},
        {"i2t": AP, "t2i": np.array([None, None, None]), "groups": GROUPS},
    ],
)
def test_a_per_query_file_with_wrong_arrays_is_refused(tmp_path: Path, arrays: dict[str, Any]) -> None:
    np.savez(tmp_path / "seed-0.npz", **arrays)
    with pytest.raises(RecordError, match=r"seed-0\.npz"):
        records.per_query(tmp_path, record())


@given(st.floats(-1, 1), st.integers(0, 2), st.sampled_from(["i2t", "t2i"]))
def test_a_per_query_file_whose_mean_is_not_the_record_s_number_is_refused(
    tmp_path_factory: pytest.TempPathFactory, change: float, row: int, direction: str
) -> None:
    folder = tmp_path_factory.mktemp("edited")
    ap = {"i2t": AP.copy(), "t2i": AP.copy()}
    ap[direction][row] += change
    np.savez(folder / "seed-0.npz", **ap, groups=GROUPS)
    if abs(change) / 3 <= records.MEAN_DIGITS * 0.99:
        records.per_query(folder, record())
    elif abs(change) / 3 > records.MEAN_DIGITS * 1.01:
        with pytest.raises(RecordError, match=f"its mean map_{direction} is .* belongs to another run"):
            records.per_query(folder, record())


@given(st.data())
def test_a_damaged_per_query_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / "seed-0.npz"
    np.savez(path, i2t=AP, t2i=AP, groups=GROUPS)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        ap = records.per_query(folder, record())
    except RecordError:
        return
    assert ap.i2t.shape == ap.t2i.shape == ap.groups.shape


def test_an_identity_that_was_edited_is_not_that_of_its_file(tmp_path: Path) -> None:
    made = record()
    folder = tmp_path / "study"
    whole = dataclasses.replace(made, per_query=f"per-query-{made.identity.digest()}.npz")
    records.append(folder, whole, queries())
    path = folder / "records.jsonl"
    assert records.read(folder) == ([whole], [])
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 4'))
    found, (problem,) = records.read(folder)
    assert not found
    assert "records.jsonl:1: left out: its identity (" in problem
    assert "the record was edited" in problem
