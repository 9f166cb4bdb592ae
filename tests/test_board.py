"""The leaderboard: which runs make a row, what it says about chance, how it is written, what the command answers.

The golden files in tests/data/board are made by `python tests/test_board.py` from the repository's root. A change
there is a change of what users see: read the difference before you commit it.
"""

from __future__ import annotations

import csv
import dataclasses
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
from scipy import stats

from cmh import leaderboard, records
from cmh.board import papers, render, rows, statistics
from cmh.errors import CmhError, ConfigError, RecordError
from cmh.records import Record
from cmh.seeding import derive

DATA = Path(__file__).parent / "data" / "board"
HEADER = (
    "dataset,features,protocol,bits,rank,method,selection,n_seeds,map_i2t,map_i2t_std,map_i2t_ci95_low,"
    "map_i2t_ci95_high,map_t2i,map_t2i_std,map_t2i_ci95_low,map_t2i_ci95_high,map_mean,map_mean_std,"
    "map_mean_ci95_low,map_mean_ci95_high,p_vs_best,trials,epochs,seconds,reported_i2t,reported_t2i,"
    "reported_source,test_opened,tie_rule,split,commit,date\n"
)


def record(i2t: float = 0.4, t2i: float = 0.5, **changes: Any) -> Record:
    values: dict[str, Any] = {
        "schema": records.SCHEMA,
        "study": "study",
        "method": "dcmh",
        "dataset": "clipart",
        "dataset_sha256": "d" * 64,
        "split_sha256": "5" * 64,
        "features": "efficientnet-lite0",
        "protocol": records.PROTOCOL,
        "bits": 32,
        "seed": 0,
        "config": {"lr": 0.1},
        "selection": "validation",
        "search_trials": 24,
        "search_epochs": 300,
        "search_seconds": 60.0,
        "epochs": 30,
        "training_seconds": 5.5,
        "chosen_epoch": 12,
        "validation": {"map": 0.5, "map_i2t": 0.5, "map_t2i": 0.5},
        "test": {"map": (i2t + t2i) / 2, "map_i2t": i2t, "map_t2i": t2i},
        "tie_rule": "expected",
        "test_opened": 1,
        "versions": {"cmh": "0.1.0"},
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "host": "laptop",
        "device": "cpu",
        "date": "2025-01-01T00:00:00+00:00",
        "per_query": "",
    }
    values |= changes
    values["per_query"] = values["per_query"] or f"{values['date'][:10]}-{values['seed']}.npz"
    return Record(**values)


def add(folder: Path, *several: Record, n_queries: int = 50, shift: float = 0.0) -> None:
    """Append records with made-up per-query values around their means."""
    for one in several:
        noise = np.random.default_rng(derive(0, folder.name, one.seed)).uniform(-0.1, 0.1, (2, n_queries))
        i2t, t2i = noise - noise.mean(axis=1, keepdims=True) + [[one.test["map_i2t"] + shift], [one.test["map_t2i"]]]
        records.append(folder, one, i2t, t2i)


def board_of(*roots: Path, reported: rows.Reported | None = None) -> tuple[list[rows.Board], list[str]]:
    return rows.boards(rows.find(roots), reported or {})


def only_rows(*roots: Path) -> tuple[rows.Row, ...]:
    (board,), _ = board_of(*roots)
    return board.rows


def write_example(folder: Path) -> None:
    """The committed example: several methods, seeds, selections, datasets, and a lost per-query file."""
    tuned: dict[str, Any] = {"study": "dcmh-clipart-32", "commit": "f" * 40}
    add(folder / "studies/dcmh-clipart-32", record(0.40, 0.44, config={"lr": 9.0}, **tuned))
    later: dict[str, Any] = {"test_opened": 2, "date": "2025-02-01T10:00:00+00:00", **tuned}
    for seed, gain in enumerate((0.0, 0.011, 0.004), start=1):
        add(folder / "studies/dcmh-clipart-32", record(0.58 + gain, 0.61 - gain / 2, seed=seed, **later))
    add(folder / "studies/dcmh-clipart-16", record(0.51, 0.5, bits=16, study="dcmh-clipart-16"))
    nothing: dict[str, Any] = {"search_trials": 0, "search_epochs": 0, "search_seconds": 0.0}
    paper: dict[str, Any] = {"selection": "paper", "study": "jiang2017", "config": {"lr": 0.03}, **nothing}
    add(folder / "runs/jiang2017", record(0.21, 0.235, **paper), record(0.2, 0.24, seed=1, **paper))
    add(folder / "studies/dgcpn", record(0.579, 0.612, study="dgcpn", method="dgcpn", search_seconds=1234.5))
    fixed: dict[str, Any] = {"selection": "fixed", "study": 'a, "b" | c', "method": 'my|own, "method"', **nothing}
    add(folder / "runs/own", record(0.3, 0.25, **fixed))
    (folder / "runs/own/2025-01-01-0.npz").unlink()
    add(folder / "studies/flickr", record(0.7, 0.75, dataset="mirflickr25k", split_sha256="7" * 64, study="flickr"))
    for lock in folder.rglob(".*.lock"):
        lock.unlink()


# --- which runs make a row


def test_seeds_of_one_configuration_make_one_row(tmp_path: Path) -> None:
    add(tmp_path / "a", record(0.4, 0.5, training_seconds=1), record(0.5, 0.7, seed=1, training_seconds=2))
    (row,) = only_rows(tmp_path)
    assert (row.n_seeds, row.trials, row.epochs, row.rank, row.p_vs_best) == (2, 24, 30, 1, None)
    assert row.seconds == 60 + 1 + 2
    assert row.map_mean == pytest.approx((0.45 + 0.6) / 2)
    assert (row.split, row.commit) == ("5" * 12, "0123456789ab")


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"lr": 0.2}},
        {"epochs": 60},
        {"search_trials": 48},
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
    late = record(0.6, date="2025-03-01T00:00:00+00:00", test_opened=2, training_seconds=7.0)
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
    assert notes == [f"{tmp_path / 'a'}: 2 test runs of an earlier winner left out"]


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
    runs = rows.find([DATA / "studies", DATA / "runs"])
    expected = rows.boards(runs, {})
    shuffle.shuffle(runs)
    assert rows.boards(runs, {}) == expected


# --- finding the records


def test_find_reads_a_study_once_however_it_is_named(tmp_path: Path) -> None:
    add(tmp_path / "a" / "deep", record())
    assert len(rows.find([tmp_path, tmp_path / "a", tmp_path / "a" / "deep"])) == 1


def test_find_does_not_follow_links_nor_enter_hidden_folders(tmp_path: Path) -> None:
    add(tmp_path / "elsewhere", record())
    add(tmp_path / "root" / ".half", record())
    (tmp_path / "root" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "study").mkdir()
    (tmp_path / "root" / "study" / "records.jsonl").symlink_to(tmp_path / "elsewhere" / "records.jsonl")
    assert rows.find([tmp_path / "root"]) == []
    assert len(rows.find([tmp_path / "root" / "link"])) == 1  # a root is what the user named


def test_find_lists_every_problem_of_every_root_and_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "records.jsonl").write_text("{}\n[]\n")
    with pytest.raises(RecordError) as caught:
        rows.find([tmp_path, tmp_path / "none", tmp_path / "a" / "records.jsonl"])
    text = str(caught.value)
    assert len(caught.value.problems) == 6
    assert f"{tmp_path / 'none'}: does not exist" in text
    assert "is a file; name the folder" in text
    assert f"{tmp_path / 'b' / 'records.jsonl'}:2: not a JSON object" in text


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: str) -> Any:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refused)  # a mode would not stop root
    with pytest.raises(RecordError, match="Permission denied"):
        rows.find([tmp_path])


# --- statistics


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_intervals_are_those_of_scipy(values: list[float]) -> None:
    found = statistics.estimate(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.std == pytest.approx(np.std(values, ddof=1))
    assert found.low is not None
    assert found.high is not None
    if found.std is not None and found.std > 1e-9:
        low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
        assert [found.low, found.high] == pytest.approx([low, high])


def test_an_interval_by_hand() -> None:
    # t(0.975, 2) = 4.302653; sd of 1, 2, 3 is 1
    found = statistics.estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.std) == (2, 1)
    assert found.high == pytest.approx(2 + 4.302653 / 3**0.5, abs=1e-6)


def test_one_seed_has_no_interval() -> None:
    assert statistics.estimate([0.5]) == statistics.Estimate(0.5, None, None, None)


def test_the_p_value_is_that_of_a_paired_permutation_test() -> None:
    difference = np.random.default_rng(3).normal(0.03, 0.2, 200)
    slow = stats.permutation_test((difference,), np.mean, permutation_type="samples", n_resamples=9_999, rng=0)
    assert statistics.sign_flip_p(difference) == pytest.approx(slow.pvalue, abs=0.02)
    assert statistics.sign_flip_p(-difference) == pytest.approx(slow.pvalue, abs=0.02)


def test_the_p_value_of_few_queries_is_the_exact_one() -> None:
    # all of one sign in 1 of 2⁴ flips, on either side
    assert statistics.sign_flip_p(np.ones(4)) == pytest.approx(2 / 16, abs=0.015)


def test_the_p_value_is_small_for_a_clear_difference_and_one_for_none() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 2_000)
    begin = time.perf_counter()
    assert statistics.sign_flip_p(noise + 0.1) == pytest.approx(2 / 10_000)
    assert time.perf_counter() - begin < 2  # about 0.2 s; the bound leaves room for a busy machine
    assert statistics.sign_flip_p(noise * 0) == 1
    assert statistics.sign_flip_p(noise) == statistics.sign_flip_p(noise)


def test_p_values_stand_in_all_rows_but_the_best(tmp_path: Path) -> None:
    add(tmp_path / "a", record(0.6))
    add(tmp_path / "b", record(0.3, method="ssah"))
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    lines = (tmp_path / "c" / "records.jsonl").read_text()
    (tmp_path / "c" / "records.jsonl").write_text(lines.replace('"dcmh"', '"same"'))
    best, same, worse = only_rows(tmp_path)
    assert (best.p_vs_best, same.p_vs_best, same.rank) == (None, 1.0, 1)
    assert worse.p_vs_best is not None
    assert worse.p_vs_best < 0.001


@pytest.mark.parametrize("damage", ["missing", "cut", "foreign"])
def test_a_bad_per_query_file_costs_the_p_value_only(tmp_path: Path, damage: str) -> None:
    add(tmp_path / "a", record(0.6))
    add(tmp_path / "b", record(0.3, method="ssah"))
    path = tmp_path / "b" / "2025-01-01-0.npz"
    content = {"cut": path.read_bytes()[:-30], "foreign": b"not numpy"}
    path.unlink()
    if damage in content:
        path.write_bytes(content[damage])
    (board,), notes = board_of(tmp_path)
    assert [row.p_vs_best for row in board.rows] == [None, None]
    assert len(notes) == 1
    assert notes[0].startswith("ssah (validation, 32 bits): no p-value: ")
    assert "\n" not in notes[0]


@pytest.mark.parametrize("same_row", [True, False])
def test_different_numbers_of_queries_cost_the_p_value(tmp_path: Path, same_row: bool) -> None:
    add(tmp_path / "a", record(0.6))
    add(tmp_path / "b", record(0.3, seed=1, method="dcmh" if same_row else "ssah"), n_queries=49)
    (board,), notes = board_of(tmp_path)
    assert all(row.p_vs_best is None for row in board.rows)
    assert len(notes) == 1
    assert "queries" in notes[0]


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
    assert leaderboard.main(["--csv", str(tmp_path / "out.csv"), "--markdown", str(tmp_path / "out.md")]) == 0
    said = capsys.readouterr()
    assert (tmp_path / "out.csv").read_bytes() == (DATA / "expected.csv").read_bytes()
    assert (tmp_path / "out.md").read_bytes() == (DATA / "expected.md").read_bytes()
    assert said.out == (DATA / "expected.txt").read_text()
    assert max(map(len, said.out.splitlines())) <= 120
    assert len(list(csv.DictReader(io.StringIO((DATA / "expected.csv").read_text())))) == 6
    assert said.err.count("note: ") == 2


def test_the_committed_records_are_those_of_the_script(tmp_path: Path) -> None:
    write_example(tmp_path)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("records.jsonl"))
    assert len(made) == 6
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
    assert "a|b??[31m<b>lon…" in render.terminal(boards)


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
        rows.only([], "one")


def test_a_target_that_cannot_be_written_is_one_message(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(alone / "runs" / "a", record())
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

    monkeypatch.setattr(rows, "find", interrupted)
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
    for word in ("examples:", "columns:", "p vs best", "test opened", "--markdown FILE"):
        assert word in ended.stdout


def test_neither_board_nor_help_import_the_giants() -> None:
    program = f"""
import sys
import cmh.board.papers, cmh.board.render, cmh.board.rows, cmh.board.statistics, cmh.leaderboard
assert "scipy" not in sys.modules, "scipy comes late"
cmh.leaderboard.main([{str(DATA)!r}])
assert "scipy" in sys.modules
giants = {{"torch", "ray", "optuna", "torchvision", "tensorboard"}} & sys.modules.keys()
assert not giants, giants
"""
    subprocess.run([sys.executable, "-c", program], timeout=60, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    for name in ("studies", "runs"):
        shutil.rmtree(DATA / name, ignore_errors=True)
    write_example(DATA)
    os.chdir(DATA)
    example, _ = rows.boards(rows.find([Path("studies"), Path("runs")]), papers.reported(DATA / "experiments"))
    (DATA / "expected.csv").write_text(render.csv_text(example))
    (DATA / "expected.md").write_text(render.markdown(example))
    (DATA / "expected.txt").write_text(render.terminal(example))
