"""Each protocol against a slow implementation, one ranking at a time; the command's table, file and errors."""

from __future__ import annotations

import csv
import dataclasses
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmh import codes, curves, evaluate, metrics, protocols, records, scores
from cmh.codes import Codes
from cmh.identity import Identity
from cmh.metrics.ranked import Ranked
from cmh.records import Cost, Record
from tests.test_codes import saved, signs
from tests.test_metrics import Case, distances_and_relevance, make_case, precisions, stable_ranking

FIRST = 128 + 7  # more queries than a batch of UCMFH's, so that its last ones fall


def make_codes(
    seed: int, *, n_query: int = FIRST, n_database: int = 170, bits: int = 5, density: float = 0.15
) -> Codes:
    """Few bits, so that most items are tied; some queries without relevant items."""
    first = make_case(seed, n_query=n_query, n_database=n_database, bits=5, density=density)
    second = make_case(seed + 1, n_query=n_query, n_database=n_database, bits=5)
    first[3][:, 0] = 0  # a label that no item of the database has
    return Codes(first[0], second[0], second[1], first[1], first[2], first[3])


def case_of(found: Codes, query: str, database: str) -> Case:
    """One direction as ±1 matrices."""
    query_signs, database_signs = (
        np.unpackbits(getattr(found, name), axis=-1, bitorder="little")[:, : found.bits].astype(int) * 2 - 1
        for name in (query, database)
    )
    return query_signs, database_signs, found.query_labels, found.database_labels


def sides(found: Codes) -> tuple[Case, Case]:
    return case_of(found, "query_image", "database_text"), case_of(found, "query_text", "database_image")


# The second implementation of what is computed with ties in database order.


Pairs = list[tuple[list[int], list[bool]]]  # distances and relevance of the database, for each query


def averaged(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def by_hits(rankings: list[list[bool]], k: int) -> float | None:
    inside = [[p for rank, p in precisions(one) if rank <= k] for one in rankings]
    return averaged([sum(p) / len(p) if p else 0.0 for p in inside])


def without_empty(rankings: list[list[bool]], k: int) -> float | None:
    inside = [[p for rank, p in precisions(one) if rank <= k] for one in rankings]
    return averaged([sum(p) / len(p) for p in inside if p])


def first_relevant(rankings: list[list[bool]], k: int) -> float | None:
    inside = [[p for _, p in precisions(one)][:k] for one in rankings]
    return averaged([sum(p) / len(p) if p else 0.0 for p in inside])


def by_all(rankings: list[list[bool]], k: int) -> float | None:
    sums = [sum(p for rank, p in precisions(one) if rank <= k) for one in rankings]
    return averaged([total / max(sum(one), 1) for total, one in zip(sums, rankings, strict=True)])


def full_batches(pairs: Pairs) -> float | None:
    n, m = len(pairs) - len(pairs) % 128, len(pairs[0][0]) - len(pairs[0][0]) % 128
    return by_hits([stable_ranking(distances[:m], relevant[:m]) for distances, relevant in pairs[:n]], 50)


def nan_if_empty(rankings: list[list[bool]]) -> float | None:
    return first_relevant(rankings, 10**6) if all(any(one) for one in rankings) else math.nan


def within(pairs: Pairs, radius: int) -> list[tuple[int, int, int]]:
    """For each query: items found, relevant items found, relevant items."""
    return [
        (
            sum(d <= radius for d in distances),
            sum(r for d, r in zip(distances, relevant, strict=True) if d <= radius),
            sum(relevant),
        )
        for distances, relevant in pairs
    ]


def precision_in(pairs: Pairs, radius: int, *, drop: bool) -> float:
    return averaged([r / max(n, 1) for n, r, _ in within(pairs, radius) if n or not drop]) or 0.0


def slow(case: Case) -> dict[str, float | None]:
    """Every protocol's number by its name."""
    pairs = list(distances_and_relevance(case))
    rankings = [stable_ranking(*pair) for pair in pairs]
    values: dict[str, float | None] = {
        f"MAP@all, {name}": metrics.mean_average_precision(*case, ties=ties)
        for name, ties in {
            "ties: mean over all orders": "expected",
            "ties: best order": "optimistic",
            "ties: worst order": "pessimistic",
        }.items()
    }
    values["MAP@all, ties: database order"] = first_relevant(rankings, 10**6)
    values["MAP@all, who has no relevant items dropped"] = without_empty(rankings, 10**6)
    values["MAP@all, who has no relevant items: NaN"] = nan_if_empty(rankings)
    for k in (50, 100, 500, 1000, 5000):
        values[f"MAP@{k} by min(k, R)"] = metrics.mean_average_precision(*case, k=k)
        values[f"MAP@{k} by hits"] = by_hits(rankings, k)
        values[f"MAP@{k} over the first k relevant"] = first_relevant(rankings, k)
        values[f"MAP@{k} by hits, who has none dropped"] = without_empty(rankings, k)
        values[f"MAP@{k} by R"] = by_all(rankings, k)
    values["MAP@50 by hits, last items beyond 128s left out"] = full_batches(pairs)
    values["MAP@5 by hits"] = by_hits(rankings, 5)
    for k in (1, 10, 50, 100, 500, 1000):
        values[f"P@{k}"] = metrics.precision_at(*case, k)
    values |= {f"NDCG@{k}": metrics.ndcg(*case, k=k) for k in (10, 100, 1000)} | {"NDCG@all": metrics.ndcg(*case)}
    for radius in range(4):
        kept, dropped = (precision_in(pairs, radius, drop=drop) for drop in (False, True))
        values[f"precision within {radius}, finding nothing counts 0"] = kept
        values[f"precision within {radius}, finding nothing dropped"] = dropped
        recalls = [r / max(all_, 1) for _, r, all_ in within(pairs, radius)]
        values[f"recall within {radius}, finding nothing counts 0"] = averaged(recalls)
    return values


@settings(max_examples=5)
@given(seed=st.integers(0, 2**20), density=st.sampled_from([0.05, 0.2, 0.9]))
def test_each_protocol_is_its_slow_implementation(seed: int, density: float) -> None:
    found = make_codes(seed, density=density)
    lines = {line.protocol: line for line in scores.table(found) if line.group != "curves"}
    for direction, case in zip(("i2t", "t2i"), sides(found), strict=True):
        wanted = slow(case)
        assert lines.keys() == wanted.keys() | {f"area, {curve.name}" for curve in curves.CURVES}
        for name, value in wanted.items():
            assert getattr(lines[name], direction) == pytest.approx(value, abs=1e-12, nan_ok=True), (direction, name)
    for line in lines.values():
        if line.mean is not None:
            assert line.mean == pytest.approx((line.i2t + line.t2i) / 2, nan_ok=True)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**20), n_query=st.integers(1, 5), n_database=st.integers(1, 40))
def test_the_rules_for_ties_are_in_order(seed: int, n_query: int, n_database: int) -> None:
    found = make_codes(seed, n_query=n_query, n_database=n_database)
    lines = {line.protocol: line for line in scores.table(found)}
    best, middle, index, worst = (
        lines[f"MAP@all, ties: {rule}"]
        for rule in ("best order", "mean over all orders", "database order", "worst order")
    )
    for direction in ("i2t", "t2i", "mean"):
        values = [getattr(line, direction) for line in (worst, middle, best)]
        assert values[0] <= values[1] + 1e-12 <= values[2] + 2e-12
        assert values[0] - 1e-12 <= getattr(index, direction) <= values[2] + 1e-12
    assert lines["MAP@50 by hits, last items beyond 128s left out"].mean is None  # no batch is full


def test_nothing_relevant_anywhere_is_shown_as_nothing() -> None:
    found = make_codes(3, n_query=4, density=0.0)
    lines = {line.protocol: line for line in scores.table(found)}
    assert lines["MAP@all, who has no relevant items dropped"].mean is None
    assert math.isnan(lines["MAP@all, who has no relevant items: NaN"].i2t or 0.0)
    text = evaluate.terminal("x", found, list(lines.values()))
    assert "NaN" in text
    assert "–" in text
    assert "4 queries (4 without relevant items)" in text


def pair(case: Case) -> Ranked:
    return Ranked(*map(metrics.pack_codes, case[:2]), *map(metrics.pack_labels, case[2:]), case[0].shape[1])


@settings(max_examples=10)
@given(seed=st.integers(0, 2**20))
def test_curves_are_means_over_those_that_are_kept(seed: int) -> None:
    case = sides(make_codes(seed, n_query=9, n_database=30))[0]
    kept: dict[str, Callable[[int, int], bool]] = {
        "by radius, who finds nothing counts 0": lambda n, r: True,
        "by radius, who finds nothing dropped": lambda n, r: n > 0,
        "by radius, who has no hit dropped": lambda n, r: r > 0,
    }
    by_name = {curve.name: curve.points(pair(case)) for curve in curves.CURVES}
    for radius in range(6):
        found = within(list(distances_and_relevance(case)), radius)
        for name, keep in kept.items():
            inside = [(r / max(n, 1), r / max(t, 1)) for n, r, t in found if keep(n, r)] or [(0.0, 0.0)]
            at, precision, recall = by_name[name]
            assert at[radius] == radius
            assert (precision[radius], recall[radius]) == pytest.approx(tuple(np.mean(inside, axis=0)))
        n, r, t = (sum(column) for column in zip(*found, strict=True))
        _, precision, recall = by_name["by radius, all queries pooled"]
        assert (precision[radius], recall[radius]) == pytest.approx((r / max(n, 1), r / max(t, 1)))
    has = [sum(relevant) for _, relevant in distances_and_relevance(case)]
    for name in ("counts 0", "dropped"):
        ranks, precision, recall = by_name[f"by rank, who has no relevant items {name}"]
        assert ranks.tolist() == [1, 2, 5, 10, 20, 30]
        share = np.mean([total > 0 for total in has]) if name == "dropped" else 1.0
        for k, p in zip(ranks.tolist(), precision, strict=True):
            assert p * share == pytest.approx(metrics.precision_at(*case, k))
        assert recall[-1] == pytest.approx(1.0 if name == "dropped" else np.mean([total > 0 for total in has]))


def test_the_area_is_that_of_trapezia() -> None:
    points = np.arange(3), np.array([1.0, 0.5, 0.25]), np.array([0.0, 0.5, 1.0])
    curve = curves.Curve("by hand", "", lambda ranked: points)
    assert curves.area(curve, pair(make_case(0))) == pytest.approx(0.5 * 0.75 + 0.5 * 0.375)


# Epochs.


def test_rules_for_epochs_by_hand() -> None:
    i2t, t2i = np.array([0.1, 0.5, 0.4, 0.2]), np.array([0.1, 0.2, 0.6, 0.7])
    chosen = {rule.name: rule.choose(i2t, t2i, 3) for rule in scores.EPOCHS}
    assert chosen == {
        "chosen on validation": (3, 3),
        "the last": (3, 3),
        "best on test, each direction's own": (1, 3),
        "best on test, of the sum": (2, 2),
        "best on test, if both improve": (1, 1),
    }
    assert scores.EPOCHS[0].choose(i2t, t2i, None) is None


@pytest.mark.parametrize("chosen", [2, None])
def test_all_else_is_of_the_chosen_epoch_or_the_last(chosen: int | None) -> None:
    found = Codes(**signs(epochs=3), chosen_epoch=chosen)
    lines = scores.table(found)
    rules = [line for line in lines if line.group == "epoch"]
    assert len(rules) == (5 if chosen else 4)
    assert lines[len(rules) :] == scores.table(found.after(chosen or 3))
    maps = [[metrics.mean_average_precision(*case) for case in sides(found.after(n))] for n in (1, 2, 3)]
    best = next(line for line in rules if "each direction's own" in line.protocol)
    assert (best.i2t, best.t2i) == pytest.approx(tuple(np.max(maps, axis=0)))
    assert all(line.mean <= best.mean for line in rules if line.mean is not None and best.mean is not None)
    where = "epoch 2, chosen on validation, of 3" if chosen else "epoch 3, the last, of 3"
    assert where in evaluate.terminal("x", found, lines)


# The command.


def test_every_name_is_once_in_the_table() -> None:
    names = [way.name for way in protocols.PROTOCOLS] + [curve.name for curve in curves.CURVES]
    assert len(names) == len(set(names)) > 50


def test_the_csv_file_is_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, table = saved(tmp_path / "c.npz", **signs()), tmp_path / "all.csv"
    assert evaluate.main([str(path), "--csv", str(table)]) == 0
    out, err = capsys.readouterr()
    assert err == f"wrote {table}\n"
    with table.open() as file:
        rows = list(csv.DictReader(file))
    lines = scores.table(codes.read(path))
    assert len(rows) == 3 * len(lines)
    for line, three in zip(lines, zip(*[iter(rows)] * 3, strict=True), strict=True):
        for row, name in zip(three, ("i2t", "t2i", "mean"), strict=True):
            assert (row["protocol"], row["used_by"], row["direction"]) == (line.protocol, line.used_by, name)
            assert row["k"] == ("" if line.k is None else str(line.k))
            value = getattr(line, name)
            assert row["value"] == "" if value is None else float(row["value"]) == pytest.approx(value, nan_ok=True)
    shown = [line for line in lines if line.shown]
    assert all(line.protocol in out for line in shown)
    printed = [line.mean for line in shown if line.printed and line.mean is not None]
    assert f"from {min(printed):.4f}" in out
    assert f"to   {max(printed):.4f}" in out


@pytest.mark.parametrize(
    "arguments", [["no.npz"], ["c.npz", "--seed", "1"], ["c.npz", "--csv", "no/all.csv"], ["empty"]]
)
def test_errors_are_one_message(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "c.npz", **signs())
    (tmp_path / "empty").mkdir()
    assert evaluate.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert arguments[-1] in err
    assert err.count("\n") == 1


def test_a_file_of_codes_needs_neither_torch_nor_ray_nor_optuna(tmp_path: Path) -> None:
    path = saved(tmp_path / "c.npz", **signs())
    code = (
        "import sys\nfrom cmh import evaluate\nassert evaluate.main(sys.argv[1:]) == 0\n"
        "loaded = {'ray', 'optuna', 'torch'} & set(sys.modules)\nassert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# A study.


def identity(**changes: Any) -> Identity:
    values: dict[str, Any] = {
        **{name: name for name in ("method", "code", "dataset", "features", "device", "torch")},
        **dict.fromkeys(("dataset_sha256", "split_sha256", "arrays_sha256"), "0" * 64),
        **{"bits": 5, "epochs": 3, "seed": 1, "config": {"lr": 0.1}, "settings": {}, "threads": 1},
    }
    return Identity(**{**values, **changes})


def add(
    folder: Path, found: Codes, seed: int, *, minute: int = 0, label: str = "", keep: bool = True, **other: Any
) -> Record:
    """A record whose numbers are those of the codes."""
    i2t, t2i = (metrics.average_precision(*case) for case in sides(found))
    test = {"map": float(i2t.mean() + t2i.mean()) / 2, "map_i2t": float(i2t.mean()), "map_t2i": float(t2i.mean())}
    of = identity(seed=seed, **other)
    record = Record(
        **{"schema": records.SCHEMA, "study": folder.name, "identity": of, "protocol": "cmh-1", "label": label},
        **{"selection": "validation", "search": Cost(), "training": Cost(1, 3, 3.0, 1.0, 1.0), "chosen_epoch": 2},
        **{"validation": test, "test": test, "tie_rule": "expected", "test_opened": 1, "split_opened": 1},
        **{"audits": {"leak": [], "dead": []}, "versions": {}, "provenance": {}, "commit": "", "host": "here"},
        **{"date": f"2026-01-01T00:{minute:02}:00+00:00", "per_query": f"per-query-{of.digest()}-{minute}.npz"},
        codes=f"codes-{of.digest()}-{minute}.npz" if keep else "",
        prior="",
    )  # fmt: skip
    records.append(folder, record, records.PerQuery(i2t, t2i, np.arange(len(i2t))))
    if keep:
        codes.write(folder / record.codes, found)
    return record


def small(seed: int) -> Codes:
    return make_codes(seed, n_query=6, n_database=20)


def test_a_study_is_the_mean_over_the_seeds_of_its_winner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(tmp_path, small(9), 1, config={"lr": 0.5})  # an earlier winner
    add(tmp_path, small(8), 2, minute=1)  # trained again below
    add(tmp_path, small(1), 1, minute=2)
    add(tmp_path, small(2), 2, minute=3)
    add(tmp_path, small(7), 1, minute=4, label="lr=3", config={"lr": 3.0})  # an ablation
    table = tmp_path / "all.csv"
    assert evaluate.main([str(tmp_path), "--csv", str(table)]) == 0
    out = capsys.readouterr().out
    assert "method on dataset, seeds 1, 2 (mean)" in out
    one, two = (scores.table(small(seed)) for seed in (1, 2))
    with table.open() as file:
        rows = {
            (row["seed"], row["protocol"], row["k"], row["direction"]): row["value"] for row in csv.DictReader(file)
        }
    assert {key[0] for key in rows} == {"1", "2", "mean"}
    for first, second in zip(one, two, strict=True):
        key = (first.protocol, "" if first.k is None else str(first.k))
        for direction in ("i2t", "t2i", "mean"):
            values = [getattr(line, direction) for line in (first, second)]
            found = [rows[seed, *key, direction] for seed in ("1", "2", "mean")]
            wanted = [*values, None if None in values else sum(values) / 2]
            assert [float(cell) if cell else None for cell in found] == pytest.approx(wanted, nan_ok=True)
    assert evaluate.main([str(tmp_path), "--seed", "2"]) == 0
    assert capsys.readouterr().out == evaluate.terminal(f"{tmp_path}: method on dataset, seed 2", small(2), two)


def test_what_can_be_wrong_with_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*arguments: str) -> str:
        assert evaluate.main([str(tmp_path), *arguments]) == 2
        return capsys.readouterr().err

    add(tmp_path, small(1), 1, keep=False)
    assert "the codes of seed 1 were not kept" in refused()
    record = add(tmp_path, small(1), 1, minute=1)
    assert "--seed 5: the winner" in refused("--seed", "5")
    codes.write(tmp_path / record.codes, small(2))
    assert "belongs to another run" in refused()
    codes.write(tmp_path / record.codes, Codes(**signs(epochs=2)))
    assert "has an axis of epochs" in refused()
    (tmp_path / record.codes).unlink()
    assert "there is no such file" in refused()
    (tmp_path / record.codes).symlink_to(tmp_path / "elsewhere.npz")
    assert "must lie in the folder of its record" in refused()
    with (tmp_path / "records.jsonl").open("a") as file:
        file.write("{broken\n")
    assert "note: " in refused()


def test_a_line_that_one_seed_lacks_has_no_mean() -> None:
    line = scores.table(small(1))[0]
    lacking = dataclasses.replace(line, i2t=None)
    assert scores.averaged([[line], [lacking]])[0] == dataclasses.replace(line, i2t=None)
