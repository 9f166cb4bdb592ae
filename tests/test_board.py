"""The leaderboard: which runs make a row, what it says about chance, how it is written, what the command answers.

The golden files in tests/data/board are made by `python tests/test_board.py` from the repository's root. A change
there is a change of what users see: read the difference before you commit it.
"""

from __future__ import annotations

import csv
import dataclasses
import gc
import io
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmh import leaderboard, records
from cmh.board import current, find, papers, render, rows
from cmh.board.tables import Reported, Row
from cmh.errors import CmhError, ConfigError, RecordError
from cmh.identity import Identity, code_hash
from cmh.records import Cost, PerQuery, Record
from cmh.seeding import derive
from tests.test_identity import identity

DATA = Path(__file__).parent / "data" / "board"
HEADER = (
    "dataset,features,protocol,bits,rank,method,selection,n_seeds,map_i2t,map_i2t_std,map_i2t_ci95_low,"
    "map_i2t_ci95_high,map_t2i,map_t2i_std,map_t2i_ci95_low,map_t2i_ci95_high,map_mean,map_mean_std,"
    "map_mean_ci95_low,map_mean_ci95_high,p_vs_best,trials,epochs,seconds,reported_i2t,reported_t2i,"
    "reported_source,test_opened,tie_rule,split,commit,date,label,rank_low,rank_high,letters,passes,"
    "search_device_seconds,training_device_seconds,split_opened,leak,dead,aged,queries_to_next,prior\n"
)


def record(i2t: float = 0.4, t2i: float = 0.5, **changes: Any) -> Record:
    """A record; what is a field of its identity changes that."""
    fields = {field.name for field in dataclasses.fields(Identity)}
    own = {key: changes.pop(key) for key in fields & changes.keys()}
    made = identity(**({"config": {"lr": 0.1}} | own))
    values: dict[str, Any] = {
        "schema": records.SCHEMA,
        "study": "study",
        "identity": made,
        "protocol": records.PROTOCOL,
        "selection": "validation",
        "label": "",
        "prior": "",
        "search": Cost(24, 300, 310.0, 60.0, 240.0),
        "training": Cost(1, 30, 30.0, 5.5, 5.5),
        "chosen_epoch": 12,
        "validation": {"map": 0.5, "map_i2t": 0.5, "map_t2i": 0.5},
        "test": {"map": (i2t + t2i) / 2, "map_i2t": i2t, "map_t2i": t2i},
        "tie_rule": "expected",
        "test_opened": 1,
        "split_opened": 4,
        "audits": {"leak": [], "dead": []},
        "versions": {"cmh": "0.1.0"},
        "provenance": {},
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "host": "laptop",
        "date": "2025-01-01T00:00:00+00:00",
        "per_query": "",
        "codes": "",
    }
    values |= changes
    values["per_query"] = values["per_query"] or f"{values['date'][:10]}-{made.seed}.npz"
    return Record(**values)


def add(folder: Path, *several: Record, n_queries: int = 50, of_a_group: int = 1) -> None:
    """Append records with made-up per-query values around their means."""
    for one in several:
        noise = np.random.default_rng(derive(0, folder.name, one.identity.seed)).uniform(-0.1, 0.1, (2, n_queries))
        i2t, t2i = noise - noise.mean(axis=1, keepdims=True) + [[one.test["map_i2t"]], [one.test["map_t2i"]]]
        records.append(folder, one, PerQuery(i2t, t2i, np.arange(n_queries) // of_a_group))


def board_of(*roots: Path, reported: Reported | None = None) -> tuple[list[rows.Board], list[str]]:
    return rows.boards(find.find(roots)[0], reported or {})


def only_rows(*roots: Path) -> tuple[Row, ...]:
    (board,), _ = board_of(*roots)
    return board.rows


def write_example(folder: Path) -> None:
    """The committed example: methods, seeds, selections, datasets, an ablation, marks, a lost per-query file."""
    queries = {"n_queries": 60, "of_a_group": 2}
    tuned: dict[str, Any] = {"study": "dcmh-clipart-32", "commit": "f" * 40}
    add(folder / "studies/dcmh-clipart-32", record(0.40, 0.44, config={"lr": 9.0}, **tuned), **queries)
    later: dict[str, Any] = {"test_opened": 2, "split_opened": 11, "date": "2025-02-01T10:00:00+00:00", **tuned}
    for seed, gain in enumerate((0.0, 0.011, 0.004), start=1):
        add(folder / "studies/dcmh-clipart-32", record(0.58 + gain, 0.61 - gain / 2, seed=seed, **later), **queries)
    add(folder / "studies/dcmh-clipart-16", record(0.51, 0.5, bits=16, study="dcmh-clipart-16"), **queries)
    nothing: dict[str, Any] = {"search": Cost()}
    paper: dict[str, Any] = {"selection": "paper", "study": "jiang2017", "config": {"lr": 0.03}, **nothing}
    add(folder / "runs/jiang2017", record(0.21, 0.235, **paper), record(0.2, 0.24, seed=1, **paper), **queries)
    changed: dict[str, Any] = {"selection": "fixed", "label": "gamma=0.5", "config": {"lr": 0.1, "gamma": 0.5}}
    for seed, gain in enumerate((0.0, 0.008)):
        add(folder / "runs/dcmh-gamma", record(0.5 + gain, 0.53, seed=seed, **changed, **nothing), **queries)
    dgcpn: dict[str, Any] = {"study": "dgcpn", "method": "dgcpn", "search": Cost(24, 400, 1600.0, 1234.5, 4938.0)}
    leaking = {"leak": ["codes of texts change with their batch mates"], "dead": []}
    add(folder / "studies/dgcpn", record(0.579, 0.612, audits=leaking, **dgcpn), **queries)
    fixed: dict[str, Any] = {"selection": "fixed", "study": 'a, "b" | c', "method": 'my|own, "method"', **nothing}
    add(folder / "runs/own", record(0.3, 0.25, **fixed), **queries)
    (folder / "runs/own/2025-01-01-0.npz").unlink()
    flickr: dict[str, Any] = {"dataset": "mirflickr25k", "split_sha256": "7" * 64, "study": "flickr"}
    add(folder / "studies/flickr", record(0.7, 0.75, **flickr), record(0.71, 0.75, seed=1, **flickr), **queries)
    for lock in folder.rglob(".*.lock"):
        lock.unlink()


# --- which runs make a row


def test_seeds_of_one_configuration_make_one_row(tmp_path: Path) -> None:
    add(tmp_path / "a", record(0.4, 0.5), record(0.5, 0.7, seed=1, training=Cost(1, 30, 30.0, 2.0, 1.5)))
    (row,) = only_rows(tmp_path)
    assert (row.n_seeds, row.trials, row.epochs, row.rank, row.p_vs_best) == (2, 24, 30, 1, None)
    assert row.seconds == 60 + 5.5 + 2
    assert (row.passes, row.search_device_seconds, row.training_device_seconds) == (310, 240, 5.5 + 1.5)
    assert (row.test_opened, row.split_opened) == (1, 4)
    assert row.map_mean == pytest.approx((0.45 + 0.6) / 2)
    assert (row.split, row.commit) == ("5" * 12, "0123456789ab")


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"lr": 0.2}},
        {"epochs": 60},
        {"search": Cost(48)},
        {"label": "gamma=0.5"},
        {"settings": {"erase": 0.2}},
        {"code": "x" * 16},
        {"torch": "3.0"},
        {"threads": 2},
        {"device": "H100"},
        {"arrays_sha256": "b" * 64},
        {"selection": "validation"},
        {"method": "ssah"},
        {"bits": 64},
    ],
)
def test_what_makes_another_row_on_the_same_board(tmp_path: Path, change: dict[str, Any]) -> None:
    other: dict[str, Any] = {"selection": "fixed", "seed": 1} | change
    add(tmp_path / "a", record(selection="fixed"), record(**other))
    assert [row.n_seeds for row in only_rows(tmp_path)] == [1, 1]


@pytest.mark.parametrize("name", ["dataset", "dataset_sha256", "split_sha256", "features", "protocol", "tie_rule"])
def test_what_makes_another_board(tmp_path: Path, name: str) -> None:
    change: dict[str, Any] = {name: "other"}
    add(tmp_path / "a", record(0.1), record(0.2, seed=1, **change))
    boards, _ = board_of(tmp_path)
    assert [[row.rank for row in board.rows] for board in boards] == [[1], [1]]


def test_the_latest_run_of_a_seed_counts(tmp_path: Path) -> None:
    late = record(0.6, date="2025-03-01T00:00:00+00:00", test_opened=2, training=Cost(1, 30, 30.0, 7.0, 7.0))
    # a comparison of texts would take this one, which is an hour earlier, for the later
    early = record(0.2, date="2025-03-01T01:00:00+02:00", test_opened=3, per_query="early.npz")
    add(tmp_path / "a", late, early)
    (row,) = only_rows(tmp_path)
    assert (row.n_seeds, row.map_i2t, row.date, row.test_opened, row.seconds) == (1, 0.6, late.date, 3, 67.0)


def test_only_the_latest_winner_of_a_study_counts(tmp_path: Path) -> None:
    later: dict[str, Any] = {"date": "2025-02-01T00:00:00+00:00", "config": {"lr": 0.7}, "test_opened": 2}
    add(tmp_path / "a", record(0.9), record(0.9, seed=1), record(0.3, **later))
    boards, notes = board_of(tmp_path)
    assert [row.map_i2t for row in boards[0].rows] == [0.3]
    assert notes[0] == f"{tmp_path / 'a'}: 2 test runs of an earlier winner left out"


def test_an_earlier_winner_goes_however_much_longer_the_search_went_on(tmp_path: Path) -> None:
    later: dict[str, Any] = {"date": "2025-02-01T00:00:00+00:00", "config": {"lr": 0.7}, "search": Cost(48)}
    add(tmp_path / "a", record(0.9), record(0.3, **later))
    boards, notes = board_of(tmp_path)
    assert [(row.map_i2t, row.trials) for row in boards[0].rows] == [(0.3, 48)]
    assert notes[0] == f"{tmp_path / 'a'}: 1 test run of an earlier winner left out"


def test_an_earlier_winner_goes_from_where_it_was_trained_again_too(tmp_path: Path) -> None:
    later: dict[str, Any] = {"date": "2025-02-01T00:00:00+00:00", "config": {"lr": 0.7}, "search": Cost(48)}
    add(tmp_path / "studies" / "a", record(0.9), record(0.3, **later))
    again = {"study": "study-0123456789ab"}
    add(tmp_path / "runs" / "old", record(0.9, **again))
    add(tmp_path / "runs" / "new", record(0.3, **(later | again | {"search": Cost(24)})))
    boards, notes = board_of(tmp_path)
    assert [(row.map_i2t, row.trials, row.n_seeds) for row in boards[0].rows] == [(0.3, 48, 1)]
    assert f"{tmp_path / 'runs' / 'old'}: 1 test run of an earlier winner left out" in notes
    boards, notes = board_of(tmp_path / "runs")  # without the study nobody knows what came later
    assert [row.map_i2t for row in boards[0].rows] == [0.9, 0.3]
    assert not any("earlier winner" in note for note in notes)


def test_a_winner_that_stays_has_the_costs_of_the_whole_search(tmp_path: Path) -> None:
    later: dict[str, Any] = {"date": "2025-02-01T00:00:00+00:00", "search": Cost(48, 500, 510.0, 90.0, 300.0)}
    add(tmp_path / "a", record(0.9), record(0.8, seed=1, **later))
    (row,) = only_rows(tmp_path)
    assert (row.n_seeds, row.trials, row.passes, row.seconds) == (2, 48, 510, 90 + 2 * 5.5)


def test_what_was_changed_of_a_winner_does_not_hide_it(tmp_path: Path) -> None:
    later: dict[str, Any] = {"date": "2025-02-01T00:00:00+00:00", "config": {"lr": 0.7}, "label": "lr=0.7"}
    add(tmp_path / "a", record(0.9), record(0.3, **later))
    assert [row.label for row in only_rows(tmp_path)] == ["", "lr=0.7"]
    assert "dcmh (lr=0.7)" in render.terminal(board_of(tmp_path)[0])


def test_winners_of_other_studies_and_untuned_configs_stay(tmp_path: Path) -> None:
    add(tmp_path / "a", record(0.9))
    add(tmp_path / "b", record(0.8, config={"lr": 0.7}, date="2025-02-01T00:00:00+00:00"))
    for lr in (1.0, 2.0):
        add(tmp_path / "c", record(0.5, selection="paper", config={"lr": lr}, per_query=f"{lr}.npz"))
    assert [row.map_i2t for row in only_rows(tmp_path)] == [0.9, 0.8, 0.5, 0.5]


def test_ties_have_the_same_rank(tmp_path: Path) -> None:
    for n, score in enumerate((0.5, 0.6, 0.6 + 1e-9, 0.4)):
        add(tmp_path / str(n), record(score, score, method=f"m{n}"))
    assert [(row.rank, row.method) for row in only_rows(tmp_path)] == [(1, "m1"), (1, "m2"), (3, "m0"), (4, "m3")]


def test_each_number_of_bits_ranks_by_itself(tmp_path: Path) -> None:
    add(tmp_path / "a", record(0.1, bits=128), record(0.5, bits=16, seed=1), record(0.6, bits=64, seed=2))
    assert [(row.bits, row.rank) for row in only_rows(tmp_path)] == [(16, 1), (64, 1), (128, 1)]


@given(st.randoms(use_true_random=False))
def test_boards_do_not_depend_on_the_order_of_files(shuffle: random.Random) -> None:
    runs, _ = find.find([DATA / "studies", DATA / "runs"])
    expected = rows.boards(runs, {})
    shuffle.shuffle(runs)
    assert rows.boards(runs, {}) == expected


# --- finding the records


def test_find_reads_a_study_once_however_it_is_named(tmp_path: Path) -> None:
    add(tmp_path / "a" / "deep", record())
    assert len(find.find([tmp_path, tmp_path / "a", tmp_path / "a" / "deep"])[0]) == 1


def test_find_does_not_follow_links_nor_enter_hidden_folders(tmp_path: Path) -> None:
    add(tmp_path / "elsewhere", record())
    add(tmp_path / "root" / ".half", record())
    (tmp_path / "root" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "study").mkdir()
    (tmp_path / "root" / "study" / "records.jsonl").symlink_to(tmp_path / "elsewhere" / "records.jsonl")
    assert find.find([tmp_path / "root"]) == ([], [])
    assert len(find.find([tmp_path / "root" / "link"])[0]) == 1  # a root is what the user named


def test_find_lists_every_bad_root(tmp_path: Path) -> None:
    add(tmp_path / "a", record())
    with pytest.raises(RecordError) as caught:
        find.find([tmp_path, tmp_path / "none", tmp_path / "a" / "records.jsonl"])
    assert len(caught.value.problems) == 2
    assert f"{tmp_path / 'none'}: does not exist" in str(caught.value)
    assert "is a file; name the folder" in str(caught.value)


def test_a_line_that_cannot_be_read_costs_that_line(tmp_path: Path) -> None:
    add(tmp_path / "a", record(), record(seed=1))
    lines = tmp_path / "a" / "records.jsonl"
    newer = lines.read_text().splitlines()[0].replace('"schema": 2', '"schema": 3')
    lines.write_text(f"[]\n{lines.read_text()}{newer}\n" + '{"schema": 1}\n' * 2)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "records.jsonl").mkdir()
    runs, problems = find.find([tmp_path])
    assert len(runs) == 2
    assert len(problems) == 3 + ("b/records.jsonl" in str(problems))
    assert problems[0].startswith(f"{lines}:1: left out: not a JSON object")
    assert f"{lines}:4: left out: is of schema 3, but this version of cmh reads 2" in problems[1]
    assert f"{lines}: 2 records of schema 1 left out" in problems[2]


def test_a_records_file_that_cannot_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(tmp_path / "a", record())
    add(tmp_path / "b", record())
    read = Path.read_bytes

    def refused(path: Path) -> bytes:
        if path == tmp_path / "a" / "records.jsonl":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refused)  # a mode would not stop root
    runs, problems = find.find([tmp_path])
    assert [run.folder.name for run in runs] == ["b"]
    assert problems == [f"{tmp_path / 'a' / 'records.jsonl'}: cannot be read (Permission denied)"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: str) -> Any:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refused)  # a mode would not stop root
    assert find.find([tmp_path]) == ([], [f"{tmp_path}: left out: cannot be read (Permission denied)"])


# --- what rows say about chance


def several(folder: Path, *means: float, n_queries: int = 50, **changes: Any) -> None:
    """Three seeds each of methods m0, m1 … with these means."""
    for row, mean in enumerate(means):
        for seed, shift in enumerate((-0.002, 0.0, 0.002)):
            one = record(mean + shift, mean + shift, **({"method": f"m{row}", "seed": seed} | changes))
            add(folder / f"m{row}", one, n_queries=n_queries)


def test_clear_differences_have_letters_ranks_and_p_values(tmp_path: Path) -> None:
    several(tmp_path, 0.6, 0.6, 0.3)
    best, same, worse = only_rows(tmp_path)
    assert (best.p_vs_best, same.p_vs_best, same.rank) == (None, 1.0, 1)
    assert worse.p_vs_best is not None
    assert worse.p_vs_best <= 0.001
    assert [row.letters for row in (best, same, worse)] == ["a", "a", "b"]
    assert [(row.rank_low, row.rank_high) for row in (best, same, worse)] == [(1, 2), (1, 2), (3, 3)]
    assert (best.queries_to_next, worse.queries_to_next) == ("more seeds", None)
    assert isinstance(same.queries_to_next, int)
    assert same.queries_to_next < 50
    for row in (best, same, worse):
        assert row.map_mean_ci95_low is not None
        assert row.map_mean_ci95_high is not None
        assert row.map_mean - row.map_mean_ci95_low == pytest.approx(row.map_mean_ci95_high - row.map_mean)
        assert row.map_i2t_ci95_low is not None
        assert row.map_t2i_ci95_low is not None


def test_one_seed_everywhere_compares_nothing_and_says_so(tmp_path: Path) -> None:
    add(tmp_path / "a", record(0.6), record(0.3, method="ssah", per_query="b.npz"))
    (board,), notes = board_of(tmp_path)
    for row in board.rows:
        assert (row.p_vs_best, row.letters, row.rank_low, row.map_mean_ci95_low) == (None, "", None, None)
    assert len(notes) == 1
    assert notes[0].startswith("clipart, efficientnet-lite0, 32 bits: no row has two seeds, so that nothing is known")
    assert "--seeds 3" in notes[0]


def test_a_row_with_one_seed_borrows_what_is_known_of_seeds(tmp_path: Path) -> None:
    several(tmp_path, 0.6, 0.3)
    add(tmp_path / "one", record(0.45, 0.45, method="one"))
    assert [(row.method, row.letters) for row in only_rows(tmp_path)] == [("m0", "a"), ("one", "b"), ("m1", "c")]


def test_a_table_of_one_row_has_its_interval_and_no_comparison(tmp_path: Path) -> None:
    several(tmp_path, 0.6)
    (board,), notes = board_of(tmp_path)
    assert notes == []
    assert board.rows[0].map_mean_ci95_low is not None
    assert (board.rows[0].letters, board.rows[0].rank_low) == ("", None)


def test_large_tables_say_that_not_all_pairs_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmh.board.comparison.ALL_PAIRS", 2)
    several(tmp_path, 0.6, 0.5, 0.3)
    (board,), notes = board_of(tmp_path)
    assert [row.letters for row in board.rows] == ["", "", ""]
    assert all(row.p_vs_best is not None for row in board.rows[1:])
    assert all(row.queries_to_next is not None for row in board.rows[:2])
    assert len(notes) == 1
    assert "3 rows are more than 2: only neighbours" in notes[0]


@pytest.mark.parametrize("damage", ["missing", "cut", "foreign"])
def test_a_bad_per_query_file_costs_the_comparison_of_its_row_only(tmp_path: Path, damage: str) -> None:
    several(tmp_path, 0.6, 0.3, 0.4)
    path = tmp_path / "m1" / "2025-01-01-0.npz"
    content = {"cut": path.read_bytes()[:-300], "foreign": b"not numpy"}
    path.unlink()
    if damage in content:
        path.write_bytes(content[damage])
    (board,), notes = board_of(tmp_path)
    assert [(row.method, row.letters) for row in board.rows] == [("m0", "a"), ("m2", "b"), ("m1", "")]
    assert [(row.rank_low, row.rank_high) for row in board.rows] == [(1, 2), (2, 3), (None, None)]
    assert board.rows[2].map_mean_ci95_low is None
    assert board.rows[2].map_mean_std is not None
    assert len(notes) == 1
    assert notes[0].startswith("m1 (validation, 32 bits): not compared: ")
    assert "\n" not in notes[0]


@pytest.mark.parametrize("damage", ["another run's file", "edited record"])
@pytest.mark.parametrize("seeds", [1, 2])
def test_a_run_that_its_file_contradicts_is_left_out(tmp_path: Path, damage: str, seeds: int) -> None:
    several(tmp_path, 0.6, 0.4)
    add(tmp_path / "m1b", *(record(0.9, seed=seed, method="edited") for seed in range(seeds)))
    path = tmp_path / "m1b" / "2025-01-01-0.npz"
    if damage == "edited record":
        lines = tmp_path / "m1b" / "records.jsonl"
        lines.write_text(lines.read_text().replace('"map_i2t": 0.9', '"map_i2t": 0.95', 1))
    else:
        shutil.copy(tmp_path / "m1" / path.name, path)
    (board,), notes = board_of(tmp_path)
    methods = ["edited"] * (seeds - 1) + ["m0", "m1"]
    assert [row.method for row in board.rows] == methods
    assert [row.n_seeds for row in board.rows][: seeds - 1] == [1] * (seeds - 1)
    assert all(row.letters for row in board.rows)
    assert len(notes) == 1
    assert notes[0].startswith("edited (validation, 32 bits): seed 0 left out: ")
    assert "belongs to another run, or one of the two was edited" in notes[0]


@pytest.mark.parametrize("same_row", [True, False])
def test_other_queries_are_not_compared(tmp_path: Path, same_row: bool) -> None:
    several(tmp_path, 0.6)
    add(tmp_path / "b", record(0.3, seed=9, method="m0" if same_row else "ssah"), n_queries=49)
    (board,), notes = board_of(tmp_path)
    assert all(row.p_vs_best is None for row in board.rows)
    assert len(notes) == 1
    assert "queries" in notes[0]


# --- what is no longer as it was


def test_rows_that_stay_apart_say_in_what_they_differ(tmp_path: Path) -> None:
    add(tmp_path / "a", record(0.5), record(0.5, seed=1), record(0.45, seed=2, torch="3.0", code="x" * 16))
    _, notes = board_of(tmp_path)
    assert notes[0] == (
        "dcmh (validation, 32 bits): rows 1 and 2 stay apart: code: cccccccccccccccc there, xxxxxxxxxxxxxxxx here;"
        " torch: 2.14.1 there, 3.0 here (there: row 1, here: row 2)"
    )
    assert len(notes) == 1


def test_aged_rows_are_marked_and_the_note_names_the_cure(tmp_path: Path) -> None:
    add(tmp_path / "a", record(0.5), record(0.4, seed=1, method="ssah", selection="fixed"))
    add(tmp_path / "b", record(0.3, seed=1, method="dgcpn", per_query="b.npz"))
    (tmp_path / "b" / "best.yml").touch()
    old = {"ssah": ("code", "data"), "dgcpn": ("data",)}
    (board,), notes = rows.boards(find.find([tmp_path])[0], {}, lambda run: old.get(run.record.identity.method, ()))
    assert [(row.method, row.aged) for row in board.rows] == [("dcmh", ""), ("ssah", "code data"), ("dgcpn", "data")]
    told = [note for note in notes if "aged" in note]
    assert told[0].startswith("ssah (fixed, 32 bits): row 2 has aged: its code and its data changed since; ")
    assert f"{tmp_path / 'a'} has no best.yml or run.yml" in told[0]
    assert told[1].endswith(
        f"row 3 has aged: its data changed since; `python -m cmh.reproduce {tmp_path / 'b'}` makes it again"
    )
    assert "aged" in render.terminal([board])
    assert "aged: code or data" in render.markdown([board])


def test_today_s_code_and_data_are_not_aged(tmp_path: Path) -> None:
    from cmh import methods
    from cmh.datasets import clipart

    source = clipart.read()
    code = code_hash(Path(str(methods.__file__)).parent / "ridge.py")
    today = {"dataset_sha256": source.sha256, "split_sha256": source.split.sha256(), "code": code, "method": "ridge"}

    def of(**changes: Any) -> tuple[str, ...]:
        return current.aged(find.Run(tmp_path, record(**(today | changes))))

    assert of() == ()
    assert of(code="c" * 16) == ("code",)
    assert of(split_sha256="5" * 64) == ("data",)
    assert of(dataset_sha256="d" * 64, code="c" * 16) == ("code", "data")
    assert of(dataset="holiday", dataset_sha256="d" * 64) == ()  # it may lie anywhere
    assert of(method="mine", code="c" * 16) == ()
    assert of(method="../dcmh", code="c" * 16) == ()


def test_audits_are_marks_and_columns(tmp_path: Path) -> None:
    found = {"leak": ["texts alone"], "dead": ["gamma", "beta"]}
    add(tmp_path / "a", record(audits=found), record(seed=1, audits={"leak": ["texts alone"], "dead": []}))
    (board,), _ = board_of(tmp_path)
    assert (board.rows[0].leak, board.rows[0].dead) == ("texts alone", "gamma; beta")
    for text in (render.terminal([board]), render.markdown([board])):
        assert "leak dead" in text
        assert "marks: leak: a code depended on other items" in text
        assert "1/4" in text or "1 / 4" in text


# --- reported numbers


def write_experiment(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)


def test_reported_numbers_come_from_experiment_files(tmp_path: Path) -> None:
    body = "method: dcmh\ndataset: clipart\nseed: 3\nreported:\n  source: Jiang\n  protocol: MAP@all\n  results: "
    write_experiment(tmp_path, "a.yml", body + "{16: {i2t: .5, t2i: .6}, 32: {i2t: .7}}")
    write_experiment(tmp_path, "b.yaml", body.replace("Jiang", "Other") + "{16: {i2t: .1}, 64: {t2i: 1}}")
    write_experiment(tmp_path, "c.yml", "method: ssah\n")
    assert papers.reported(tmp_path) == {
        ("dcmh", "clipart", 16): (0.5, 0.6, "Jiang; MAP@all"),
        ("dcmh", "clipart", 32): (0.7, None, "Jiang; MAP@all"),
        ("dcmh", "clipart", 64): (None, 1, "Other; MAP@all"),
    }
    assert papers.reported(tmp_path / "none") == {}


def test_reported_numbers_neither_rank_nor_enter_our_columns(tmp_path: Path) -> None:
    add(tmp_path / "a", record(0.1, method="low"), record(0.2, seed=1))
    plain = board_of(tmp_path)[0][0].rows
    with_papers = board_of(tmp_path, reported={("low", "clipart", 32): (0.9, 0.8, "Paper")})[0][0].rows
    assert with_papers[1].reported_source == "Paper"
    nothing = {"reported_i2t": None, "reported_t2i": None, "reported_source": None}
    assert tuple(dataclasses.replace(row, **nothing) for row in with_papers) == plain  # type: ignore[arg-type]


HEAD = "method: dcmh\ndataset: clipart\n"
BAD_EXPERIMENTS = {
    "method: [\n": r"bad\.yml:2: not valid YAML",
    "when: 2001-99-99\n": r"bad\.yml: not valid YAML: ValueError: month must be",
    "\x01": r"bad\.yml: not valid YAML",
    "method: dcmh\nmethod: ssah\n": r"bad\.yml:2: .*'method' stands twice",
    "? [a]\n: 1\n": r"bad\.yml:1: not valid YAML",
    "[" * 20_000: r"bad\.yml: not valid YAML: RecursionError: maximum recursion",
    "- 1\n": "must be a mapping with the keys method",
    HEAD + "reported: 3\n": "reported is 3, but must be a mapping",
    HEAD + "reported: {sorce: x}\n": "did you mean 'source'",
    "reported: {results: {16: {i2t: 0.5}}}\n": "(?s)method is None.*dataset is None",
    HEAD + "reported: {results: [16]}\n": r"reported results are \[16\]",
    HEAD + "reported: {results: {x: {i2t: 0.5}}}\n": "number of bits must be an integer",
    HEAD + "reported: {results: {16: 0.5}}\n": "results of 16 bits are 0.5, but must be a mapping",
    HEAD + "reported: {results: {16: {i2i: 0.5}}}\n": "'i2i' is not known; did you mean",
    HEAD + "reported: {results: {16: {i2t: 74.1}}}\n": "i2t is 74.1, but must be a number from 0 to 1",
}


@pytest.mark.parametrize(("text", "message"), BAD_EXPERIMENTS.items(), ids=range(len(BAD_EXPERIMENTS)))
def test_each_kind_of_bad_experiment_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    write_experiment(tmp_path, "bad.yml", text)
    (tmp_path / "folder.yml").mkdir()
    with pytest.raises(ConfigError, match=message) as caught:
        papers.reported(tmp_path)
    assert "folder.yml: cannot be read" in str(caught.value)


def test_experiments_lie_in_the_package_or_beside_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "cmh"
    (tmp_path / "experiments").mkdir()
    monkeypatch.setattr("cmh.__file__", str(package / "__init__.py"))
    assert papers.experiments() == package / "experiments"  # the other is some stranger's
    (tmp_path / "pyproject.toml").touch()
    assert papers.experiments() == tmp_path / "experiments"
    (package / "experiments").mkdir(parents=True)
    assert papers.experiments() == package / "experiments"


# --- how it is written


def test_the_example_gives_the_committed_files_byte_for_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(DATA)
    monkeypatch.setattr(papers, "experiments", lambda: DATA / "experiments")
    monkeypatch.setattr(current, "aged", lambda run: ())  # the example's code and data never were
    assert leaderboard.main(["--csv", str(tmp_path / "out.csv"), "--markdown", str(tmp_path / "out.md")]) == 0
    said = capsys.readouterr()
    assert (tmp_path / "out.csv").read_bytes() == (DATA / "expected.csv").read_bytes()
    assert (tmp_path / "out.md").read_bytes() == (DATA / "expected.md").read_bytes()
    assert said.out == (DATA / "expected.txt").read_text()
    assert max(map(len, said.out.splitlines())) <= 120
    assert len(list(csv.DictReader(io.StringIO((DATA / "expected.csv").read_text())))) == 7
    assert said.err.count("note: ") == 3


def test_the_committed_records_are_those_of_the_script(tmp_path: Path) -> None:
    write_example(tmp_path)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("records.jsonl"))
    assert len(made) == 7
    assert all((tmp_path / path).read_text() == (DATA / path).read_text() for path in made)


def test_the_csv_columns_are_the_documented_ones() -> None:
    assert render.csv_text([]) == HEADER


def test_the_csv_has_six_decimals_and_empty_cells(tmp_path: Path) -> None:
    add(tmp_path / "a", record(1 / 3, 0.5, method='a,"b"\n=1'))
    (line,) = csv.DictReader(io.StringIO(render.csv_text(board_of(tmp_path)[0])))
    assert line["method"] == 'a,"b"\n=1'
    assert (line["map_i2t"], line["map_i2t_std"], line["p_vs_best"]) == ("0.333333", "", "")


def test_names_from_files_break_no_table(tmp_path: Path) -> None:
    add(tmp_path / "a", record(method="a|b\n\x1b[31m<b>" + "long" * 20, dataset="x\ny"))
    boards, _ = board_of(tmp_path)
    for text in (render.markdown(boards), render.terminal(boards)):
        assert "\x1b" not in text
        assert "x?y, efficientnet-lite0" in text
        assert max(map(len, text.splitlines())) < 400
    assert "a\\|b??\\[31m\\<b>" in render.markdown(boards)
    assert "a|b??[31m<b>longlongl…" in render.terminal(boards)


# --- the command


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(papers, "experiments", lambda: tmp_path / "experiments")
    return tmp_path


def test_without_records_the_command_says_what_makes_them(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert leaderboard.main([]) == 2
    said = capsys.readouterr().err
    assert f"no records in studies, runs (there are no such folders in {alone})" in said
    assert "python -m cmh.tune --method dcmh --space spaces/dcmh.yml" in said
    (alone / "runs").mkdir()
    assert leaderboard.main([]) == 2
    assert "no records in runs;" in capsys.readouterr().err


def test_an_unknown_dataset_lists_those_with_records(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(alone / "runs" / "a", record(dataset="one"), record(seed=1, dataset="two"))
    assert leaderboard.main(["--dataset", "three"]) == 2
    assert "no records of dataset 'three'; there are records of: one, two" in capsys.readouterr().err
    assert leaderboard.main(["--dataset", "two"]) == 0
    said = capsys.readouterr().out
    assert "two, efficientnet-lite0" in said
    assert "one, " not in said
    with pytest.raises(CmhError):
        find.only([], "one")


def test_a_record_that_cannot_be_read_is_a_note_and_no_board_is_an_error(
    alone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(alone / "runs" / "a", record())
    lines = alone / "runs" / "a" / "records.jsonl"
    good = lines.read_text()
    lines.write_text(good + "[]\n")
    assert leaderboard.main([]) == 0
    said = capsys.readouterr()
    assert f"note: {Path('runs/a/records.jsonl')}:2: left out: not a JSON object" in said.err
    assert "0.4500" in said.out
    lines.write_text("[]\n" + '{"schema": 3}\n')
    assert leaderboard.main([]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("no record can be read:\n")
    assert "runs/a/records.jsonl:2: left out: is of schema 3" in said.err
    lines.write_text(good)
    assert gc.isenabled()


def test_a_study_that_was_moved_is_the_same_board(tmp_path: Path) -> None:
    several(tmp_path / "here", 0.6, 0.3)
    before = only_rows(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert only_rows(tmp_path / "there") == before


def test_a_target_that_cannot_be_written_is_one_message(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(alone / "runs" / "a", record())
    assert leaderboard.main(["--csv", "new/folder/board.csv"]) == 0
    assert (alone / "new" / "folder" / "board.csv").is_file()
    (alone / "none").write_text("a file")
    assert leaderboard.main(["--csv", "none/board.csv", "--markdown", "none/board.md"]) == 2
    said = capsys.readouterr().err
    assert "none/board.csv: cannot be written" in said
    assert "none/board.md: cannot be written" in said
    assert leaderboard.main(["--csv", "board", "--markdown", "board"]) == 2
    assert "--csv and --markdown both name board" in capsys.readouterr().err
    assert leaderboard.main(["--csv", "board", "--markdown", "runs/../board"]) == 2
    assert not (alone / "board").exists()


@pytest.mark.parametrize(
    ("name", "said"), [("none", "none: does not exist"), ("a\x1b" * 300, "cannot be read (File name too long)")]
)
def test_a_bad_root_is_one_message(alone: Path, capsys: pytest.CaptureFixture[str], name: str, said: str) -> None:
    assert leaderboard.main([name]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "\x1b" not in err


def test_an_interrupt_is_exit_130(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(roots: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(find, "find", interrupted)
    assert leaderboard.main([]) == 130


def test_a_reader_that_stops_early_is_no_error(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "cmh.leaderboard", str(DATA), "--csv", str(tmp_path / "board.csv")]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writing)
    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr
    assert "Broken" not in ended.stderr
    assert (tmp_path / "board.csv").exists()


def test_help_teaches_and_works_on_a_plain_terminal() -> None:
    command = [sys.executable, "-m", "cmh.leaderboard", "--help"]
    plain = {**os.environ, "PYTHONIOENCODING": "ascii"}
    seconds = []
    for _ in range(3):  # the fastest of three: the machine may be busy
        begin = time.perf_counter()
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=plain)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 1.5
    for word in ("examples:", "columns (", "p vs best", "test opened", "--markdown FILE"):
        assert word in ended.stdout


def test_neither_board_nor_help_import_the_giants() -> None:
    program = f"""
import sys
import cmh.board.papers, cmh.board.render, cmh.board.rows, cmh.board.comparison, cmh.leaderboard
assert "scipy" not in sys.modules, "scipy comes late"
cmh.leaderboard.main([{str(DATA)!r}])
assert "cmh.datasets.clipart" in sys.modules
assert "scipy.stats" not in sys.modules
giants = {{"torch", "ray", "optuna", "torchvision", "tensorboard", "matplotlib", "jinja2", "numba"}}
assert not giants & sys.modules.keys(), giants & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program], timeout=60, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    for name in ("studies", "runs"):
        shutil.rmtree(DATA / name, ignore_errors=True)
    write_example(DATA)
    os.chdir(DATA)
    example, _ = rows.boards(find.find([Path("studies"), Path("runs")])[0], papers.reported(DATA / "experiments"))
    (DATA / "expected.csv").write_text(render.csv_text(example))
    (DATA / "expected.md").write_text(render.markdown(example))
    (DATA / "expected.txt").write_text(render.terminal(example))


def test_rows_of_one_name_that_were_not_trained_alike_are_named(tmp_path: Path) -> None:
    change: dict[str, Any] = {"selection": "fixed", "label": "gamma=0.5"}
    add(tmp_path / "a", record(0.5, config={"lr": 0.1, "gamma": 0.5}, **change))
    add(tmp_path / "b", record(0.4, config={"lr": 0.9, "gamma": 0.5}, **change))
    add(tmp_path / "c", record(0.3, method="other"))
    (board,), notes = board_of(tmp_path)
    assert len(board.rows) == 3
    (note,) = (note for note in notes if "have this name" in note)
    assert note.startswith(f"{board.rows[0].method} (gamma=0.5, fixed, 32 bits): 2 rows have this name (rank 1, 2)")
    assert "lr: 0.1 there, 0.9 here" in note
    assert f"(there: {tmp_path / 'a'}, here: {tmp_path / 'b'})" in note
