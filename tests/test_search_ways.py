"""Tables of curves and the comparison of ways to search on them, on tiny made-up tables."""

from __future__ import annotations

import collections
import csv
import dataclasses
import functools
import gzip
import importlib
import itertools
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmh import config, methods, training
from cmh.study import space as spaces
from cmh.study.ranges import Range, Space
from cmh.study.storage import Store
from tests.test_own_data import write_arrays

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments" / "benchmarks"))
curve_tables: Any = importlib.import_module("curve_tables")
curves: Any = importlib.import_module("curves")
landscape: Any = importlib.import_module("landscape")
samplers: Any = importlib.import_module("samplers")
search_ways: Any = importlib.import_module("search_ways")
Row = curve_tables.Row
EPOCHS = 5
RANGES = (
    Range("lr", "float", 1e-4, 1, log=True),
    Range("kind", "choice", choices=("a", "b", "c")),
    Range("units", "int", 2, 10),
    Range("momentum", "float", 0, 1, when=(("kind", "a"),)),
)


def drawn(rng: np.random.Generator) -> dict[str, Any]:
    """A point of RANGES."""
    point: dict[str, Any] = {"lr": float(10 ** rng.uniform(-4, 0)), "kind": str(rng.choice(["a", "b", "c"]))}
    point["units"] = int(rng.integers(2, 11))
    return point | ({"momentum": float(rng.random())} if point["kind"] == "a" else {})


def rows(n: int, seed: int = 0) -> list[Any]:
    """Of random points, whose curves rise to what the learning rate alone decides."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(n):
        point = drawn(rng)
        top = math.exp(-((math.log10(point["lr"]) + 2) ** 2))
        found.append(Row("search", point, [round(top * (1 - 0.5**e), 4) for e in range(1, EPOCHS + 1)], 1.0))
    return found


# Tables


def made(method: str, n: int, epochs: int = EPOCHS, **changes: Any) -> Any:
    """A table as `curves.py` makes it, but of made-up curves that the first hyperparameter decides."""
    space = spaces.load(spaces.find(method), method=method)
    code = curve_tables.code_hash(Path(str(methods.get(method).__file__)))
    identity = {"code": code, "bits": 32, "epochs": epochs, **changes}
    about = curve_tables.About(method, identity, curve_tables.ranges(space.ranges), [{"torch": "1"}])
    base = config.defaults(methods.get(method).Config)
    store = Store(None, method, dataclasses.replace(space, sampler="random", asha=None, start_from=()), base, 3)
    found = []
    for origin in ("default", "paper", *["search"] * (n - 2)):
        proposal = store.propose(n)
        assert proposal is not None
        values = {item.name: proposal.config[item.name] for item in space.ranges if item.active(proposal.config)}
        top = {"default": 0.6, "paper": 0.2}.get(origin) or 0.7 - abs(landscape.place(space.ranges[0], values) - 0.4)
        curve = [round(top * (1 - 0.6**e), 4) for e in range(1, epochs + 1)]
        found.append(Row(origin, values, curve, 1.0))
    found[-1] = dataclasses.replace(found[-1], curve=found[-1].curve[:1], failed="nan: loss = nan")
    return curve_tables.Table(about, found)


def test_a_table_is_read_as_it_was_written_and_equal_ones_are_equal_bytes(tmp_path: Path) -> None:
    table = made("dcmh", 12)
    paths = [curve_tables.path_of(name, tmp_path) for name in ("dcmh", "again")]
    for path in paths:
        curve_tables.write(path, table)
    assert curve_tables.read(paths[0]) == table
    assert paths[0].read_bytes() == paths[1].read_bytes()
    space = spaces.load(spaces.find("dcmh"), method="dcmh")
    assert curve_tables.as_ranges(table.about.ranges) == space.ranges
    assert curve_tables.as_ranges(json.loads(json.dumps(curve_tables.ranges(RANGES)))) == RANGES


def test_a_row_is_added_once_whoever_adds_it_and_another_machine_is_noted(tmp_path: Path) -> None:
    path, table = tmp_path / "t.jsonl.gz", made("dcmh", 5)
    for row in (*table.rows, *table.rows):
        curve_tables.add(path, table.about, row)
    other = dataclasses.replace(table.about, machines=[{"torch": "2"}])
    assert curve_tables.add(path, other, table.rows[0]).rows == table.rows
    assert curve_tables.read(path).about.machines == [{"torch": "1"}, {"torch": "2"}]


def test_tables_that_cannot_be_used_are_one_message_with_the_cure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*names: str) -> str:
        assert samplers.main([*names, "--tables", str(tmp_path)]) == 2
        return capsys.readouterr().err

    assert "has no tables" in said()
    curve_tables.write(curve_tables.path_of("dcmh", tmp_path), made("dcmh", 12, code="0" * 16))
    curve_tables.write(curve_tables.path_of("dsph", tmp_path), made("dsph", 9))
    curve_tables.write(curve_tables.path_of("djsrh", tmp_path), made("djsrh", 12, epochs=3))
    other = made("dcgh", 12)
    other.about.ranges["alpha"]["high"] = 11.0
    curve_tables.write(curve_tables.path_of("dcgh", tmp_path), other)
    good = curve_tables.path_of("cmhh", tmp_path)
    about = {"method": "cmhh", "identity": {"epochs": 30}, "ranges": {"beta": {}}, "machines": []}
    broken_files = [b"none", *map(gzip.compress, (b'{"method": 1}', b"[]", json.dumps(about).encode()))]
    for number, broken in enumerate(broken_files):
        good.with_name(f"{number}.jsonl.gz").write_bytes(broken)
    text = said("dcmh", "dsph", "djsrh", "dcgh", "cmhh", "0", "1", "2", "3")
    for part in (
        "dcmh.jsonl.gz: is a table of another version of dcmh; `curves.py --fresh` makes it again",
        "code: 0000000000000000 there",
        "dsph.jsonl.gz: has 9 curves, but 40 are the fewest",
        "djsrh.jsonl.gz: has curves of 3 epochs, too few for a rung at epoch 3",
        "dcgh.jsonl.gz: is a table of another version of dcgh",
        "alpha: float [0.05, 11.0] log there, float [0.05, 10.0] log here",
        "cmhh.jsonl.gz: there is no table of cmhh; `python experiments/benchmarks/curves.py cmhh` makes it",
        *(f"{number}.jsonl.gz: is no table of curves" for number in range(4)),
    ):
        assert part in text, text
    with pytest.raises(SystemExit):
        samplers.main(["--budgets", "0", "--tables", str(tmp_path)])
    assert "at least 1 (a budget of 1 is one full training)" in capsys.readouterr().err


# Curves


def test_curves_are_those_of_trials_and_go_on_where_they_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CMH_CACHE", str(tmp_path / "cache"))
    data = write_arrays(tmp_path / "data")

    def make(*more: str, epochs: int = 2) -> int:
        asked = ["dcmh", "djsrh", "--dataset", str(data), "--epochs", str(epochs)]
        return int(curves.main([*asked, "--out", str(tmp_path / "out"), *more]))

    def table(method: str) -> Any:
        return curve_tables.read(curve_tables.path_of(method, tmp_path / "out"))

    trained: list[str] = []
    train = curves.train

    def stopping(task: Any) -> Any:
        if len(trained) == 5:
            raise KeyboardInterrupt
        trained.append(task[0].space.method)
        return train(task)

    monkeypatch.setattr(curves, "train", stopping)
    assert make("--points", "1") == 130
    assert trained == ["dcmh", "djsrh"] * 2 + ["dcmh"]  # they take turns
    before = table("djsrh").rows
    monkeypatch.setattr(curves, "train", train)
    assert make("--points", "2") == 0
    found = table("djsrh")
    assert found.rows[: len(before)] == before
    assert [row.origin for row in found.rows] == ["default", "paper", "search", "search"]
    assert "3 curves to train" in capsys.readouterr().out

    # a slow second way to a curve: its values over the method's defaults, and the paper's point over the paper's
    for row in (table("dcmh").rows[1], table("dcmh").rows[3]):
        module = methods.get("dcmh")
        base = config.paper(module.Config) if row.origin == "paper" else config.defaults(module.Config)
        scale = "none" if row.origin == "paper" else "standard"
        values = {**base, **row.values, "scale": scale, "bits": 32, "epochs": 2, "seed": 0, "threads": 1}
        run, settings = training.parse(module, values)
        dataset = training.load(dataclasses.replace(run, dataset=str(data)))
        fitted = training.fit(module, run, settings, dataset.search())
        assert [round(epoch.val_map, 4) for epoch in fitted.curve] == row.curve

    with pytest.raises(SystemExit):
        make("--jobs", "0")
    assert "--jobs at least 1" in capsys.readouterr().err
    assert make(epochs=3) == 2
    assert "epochs: 2 there, 3 here" in capsys.readouterr().err
    assert len(table("dcmh").rows) == 4
    assert make("--points", "0", "--fresh", epochs=3) == 0
    assert [len(row.curve) for row in table("dcmh").rows] == [3, 3]


def test_a_run_that_is_not_finite_is_a_row_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(*_: Any, report: Callable[..., None], **__: Any) -> None:
        report(type("Epoch", (), {"val_map": 0.123456}), None)
        raise curves.NotFiniteError("epoch 2: loss = nan")

    monkeypatch.setattr(curves.training, "fit", fit)
    (study,) = curves.studies(["dcmh"], "clipart", 2)
    _, row = curves.train((study, curves.points(study, 1)[-1]))
    assert (row.origin, row.curve, row.failed) == ("search", [0.1235], "nan: epoch 2: loss = nan")


# What training gives at a point


@functools.cache
def ground() -> Any:
    return landscape.Landscape(RANGES, rows(60))


@given(st.integers(0, 2**32))
def test_chances_of_donors_are_those_of_a_slow_second_way(seed: int) -> None:
    point, place = drawn(np.random.default_rng(seed)), ground()
    heights = []
    for row in place.rows:
        square = 0.0
        for item, width in zip(RANGES, place.widths, strict=True):
            here, there = point.get(item.name), row.values.get(item.name)
            if here is None or there is None:
                gap = float((here is None) != (there is None))
            elif item.kind == "choice":
                gap = float(here != there)
            elif item.log:
                gap = math.log(here / there) / math.log(item.high / item.low)
            else:
                gap = (here - there) / (item.high - item.low)
            square += (gap / width) ** 2
        heights.append(math.exp(-square / 2))
    assert place.chances(point) == pytest.approx(np.array(heights) / sum(heights), abs=1e-12)


def test_widths_know_what_matters_and_draws_follow_the_chances() -> None:
    place = ground()
    assert place.widths[0] < 0.2 < min(place.widths[1:])  # the learning rate alone decides
    assert place.explained > 0.8
    point = rows(1, seed=5)[0].values
    assert place.row(point, 1) is place.row(dict(point), 1)
    counts = collections.Counter(id(place.row(point, repetition)) for repetition in range(3000))
    shares = np.array([counts[id(row)] / 3000 for row in place.rows])
    assert shares == pytest.approx(place.chances(point), abs=0.04)


def test_error_of_widths_is_that_of_a_slow_second_way() -> None:
    place = ground()
    widths = np.array([0.3, 0.5, 1.0, 2.0])
    kept, error = place.widths, 0.0
    place.widths = widths
    for number, row in enumerate(place.rows):
        chances = place.chances(row.values)
        chances[number] = 0
        expected = (chances / chances.sum()) @ np.array([one.curve for one in place.rows])
        error += float(np.square(expected - row.curve).mean()) / len(place.rows)
    place.widths = kept
    assert place.error(np.log(widths)) == pytest.approx(error)


def test_a_place_in_a_range_leads_back_to_its_value() -> None:
    for point in (row.values for row in rows(50)):
        for item in (RANGES[0], RANGES[2]):
            assert item.at(landscape.place(item, point)) == pytest.approx(point[item.name])
    assert RANGES[2].at(1.0) == 10


# Ways to search


def test_an_extrapolated_end_is_that_of_a_slow_second_way() -> None:
    rng, stopper = np.random.default_rng(0), search_ways.Extrapolation(30)
    for length in range(4, 12):
        values = np.sort(rng.random(length))
        fits = []
        for power in stopper.POWERS:
            epochs = np.arange(1.0, length + 1)
            weights = np.sqrt(epochs / epochs.sum())
            design = np.stack([np.ones(length), -(epochs**-power)], 1)
            (a, b), *_ = np.linalg.lstsq(design * weights[:, None], values * weights, rcond=None)
            error = np.square(weights * (design @ [a, b] - values)).sum()
            fits.append((error, a - b * 30**-power))
        least = min(error for error, _ in fits)
        hoped = max(end + math.sqrt(error) for error, end in fits if error <= 2 * least + 1e-8)
        assert stopper.hoped(list(values)) == pytest.approx(hoped)


@pytest.mark.parametrize(
    ("curve", "stops"),
    [
        ([0.2, 0.2, 0.2], False),  # too early to say
        ([0.2, 0.2, 0.2, 0.2], True),  # flat below the best
        ([0.1, 0.2, 0.3, 0.4], False),  # it may get there
        ([0.2, 0.3, 0.2, 0.61], False),  # it is the best
        ([0.4, 0.3, 0.2, 0.1], True),
    ],
)
def test_a_trial_ends_whose_hoped_end_is_below_the_best(curve: list[float], stops: bool) -> None:
    stopper = search_ways.Extrapolation(30)
    assert not stopper.stops(0, 1, {1: 0.6})
    assert stopper.stops(1, len(curve), dict(enumerate(curve, start=1))) is stops


def test_brackets_are_as_many_as_hyperband_has_and_strict() -> None:
    brackets = search_ways.Brackets(30)
    assert collections.Counter(map(brackets.of, range(49))) == {0: 27, 1: 12, 2: 6, 3: 4}  # of the paper, for R = 27
    assert brackets.of(49) == 0
    assert [brackets.stops(number, 1, {1: (number + 1) / 10}) for number in range(3)] == [True, True, False]
    assert not brackets.stops(27, 1, {1: 0.0})  # its first rung is at 3
    assert brackets.stops(27, 3, {3: 0.9})
    assert [brackets.asha(number).first_rung for number in (0, 27, 39, 45)] == [1, 3, 9, 27]


def test_priorband_of_its_paper_knows_the_bracket_of_each_trial() -> None:
    """1 of 1 + first rung is uniform: far from a prior at one end, only those are found."""
    low: dict[str, Any] = {"lr": 1e-4, "kind": "b", "units": 2}
    space = Space("dcmh", RANGES, (("paper", tuple(low.items())),), "priorband", None, 30, 400)
    store = Store(None, "s", space, {}, 0)
    way = next(way for way in search_ways.ways() if way.name == "priorband hyperband")
    brackets = way.prepare(store, 0)
    for _ in range(147):
        store.propose(400)
    first = {one: brackets.asha(one).first_rung for one in range(147)}
    assert collections.Counter(first.values()) == {1: 81, 3: 36, 9: 18, 27: 12}
    far = {rung: [] for rung in (1, 27)}  # type: dict[int, list[bool]]
    for trial in store.study.trials[1:]:
        if first[trial.number] in far:
            far[first[trial.number]].append(trial.params["lr"] > 1e-4 * 1000**0.7)
    assert np.mean(far[1]) > 0.08  # half are uniform, of which .3 are there, and of the prior's .005
    assert sum(far[27]) <= 1


# Searches


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = curve_tables.path_of("dcmh", tmp_path_factory.mktemp("tables"))
    curve_tables.write(path, made("dcmh", 20))
    return samplers.arena(path)


def test_random_search_is_that_of_a_slow_second_way(arena: Any) -> None:
    """One trial after another; two at a time end in the same order, as all are equally long but those that fail."""
    way = search_ways.Way("random", "random")
    steps = samplers.search(arena, way, 4, 8 * EPOCHS)
    space = dataclasses.replace(arena.space, sampler="random", asha=None, start_from=())
    store = Store(None, "s", space, config.defaults(methods.get("dcmh").Config), 4)
    curves_of = [arena.of("paper").curve]
    store.propose(100)  # in whose place the paper's point is
    while sum(map(len, curves_of)) < 20 * EPOCHS:
        proposal = store.propose(100)
        assert proposal is not None
        row = arena.landscape.row(proposal.config, 4)
        curves_of.append([*row.curve, *[math.nan] * bool(row.failed)])  # the epoch that failed was trained, too
    begun, best = 0, [(0.0, 0)]
    workers: list[tuple[list[float], list[float]]] = [([], []), ([], [])]  # what is to come, and the whole curve
    while len(best) <= len(steps):
        for left, whole in workers:
            if not left:
                whole[:] = curves_of.pop(0)
                left += whole
                begun += 1
            left.pop(0)
            won = 0.0 if left or math.isnan(whole[-1]) else max(whole)
            best.append((max(won, best[-1][0]), begun))
    best.pop(0)
    assert steps == best[: len(steps)]


@pytest.mark.parametrize("name", [way.name for way in search_ways.ways()])
def test_every_way_spends_its_budget_and_finds_what_it_has_seen(name: str, arena: Any) -> None:
    way = next(way for way in search_ways.ways() if way.name == name)
    n = 4 if way.sampler == "gp" else 12  # it is slow once it has learned; tests/test_samplers.py does that
    steps = samplers.search(arena, way, 1, n * EPOCHS)
    assert len(steps) == n * EPOCHS
    best = [value for value, _ in steps]
    begun = [number for _, number in steps]
    assert begun[0] == 1
    assert n <= begun[-1] <= n * EPOCHS
    assert {late - early for early, late in itertools.pairwise(begun)} <= {0, 1}
    assert best == sorted(best)
    ends = {max(row.curve) for row in [*arena.landscape.rows, arena.of("paper")] if not row.failed}
    assert set(best) <= {0, *ends}
    assert best[0] == 0 < best[-1]
    again = samplers.search(arena, way, 1, (n - 2) * EPOCHS)
    assert steps[: len(again)] == again  # nothing is left to chance, and a budget is the start of a larger one


def test_a_space_of_few_choices_ends_a_search(arena: Any) -> None:
    ranges = (Range("batch_size", "choice", choices=(64, 128, 256)),)
    few = dataclasses.replace(arena.space, ranges=ranges)
    ground = landscape.Landscape(ranges, arena.landscape.rows)
    steps = samplers.search(samplers.Arena(arena.table, few, ground), search_ways.Way("random", "random"), 1, 60)
    assert len(steps) == 60
    assert steps[30] == steps[-1]
    assert steps[-1][1] == 1 + 3  # the paper's point and each choice once


def test_intervals_are_those_of_students_t() -> None:
    mean, half = samplers.interval([1.0, 2.0, 3.0, 6.0])
    assert (mean, half) == (3.0, pytest.approx(3.182446 * math.sqrt(14 / 3) / 2))
    assert samplers.interval([2.0]) == (2.0, math.inf)


def test_gains_are_of_equal_repetitions() -> None:
    found = [
        samplers.Found(method, way, number, (regret + number / 10,), (8,), 3.0)
        for method in ("dcmh", "dsph")
        for way, regret in ((samplers.BASELINE, 0.5), ("random", 0.4 if method == "dcmh" else 0.52))
        for number in (1, 2, 3)
    ]
    lines = list(samplers.report(found, (6,), [samplers.BASELINE, "random"]))
    assert "| random | +0.0400 ± 0.0000 * | 1 of 2 | 3, 3 | 3, 3 |" in "\n".join(lines)
    assert lines[-1] == f"Better than {samplers.BASELINE} at every budget, beyond the interval: random."
    assert list(samplers.report(found, (6,), ["random", samplers.BASELINE]))[-3:] == lines[-3:]
    assert f"| {samplers.BASELINE} | 0.7000 ± 0.2484 | 8 | 3 of 3 | 3 |" in lines


def test_the_comparison_prints_tables_and_writes_csv_and_a_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for method in ("dcmh", "dsph"):
        curve_tables.write(curve_tables.path_of(method, tmp_path), made(method, 40))
    out = tmp_path / "out"
    asked = [
        "--tables",
        str(tmp_path),
        "--ways",
        samplers.BASELINE,
        "random",
        "--budgets",
        "2",
        "4",
        "--repetitions",
        "3",
    ]
    assert samplers.main([*asked, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "dcmh: 40 curves; best 0." in text
    assert "| dsph | regret at 2 | regret at 4 | trials | ≥ default | epochs |" in text
    assert "| random | " in text
    table = list(csv.DictReader((out / "samplers.csv").open()))
    assert len(table) == 2 * 2 * 3 * 2
    assert {row["method"] for row in table} == {"dcmh", "dsph"}
    first = [float(row["regret"]) for row in table if row["budget"] == "2"]
    last = [float(row["regret"]) for row in table if row["budget"] == "4"]
    assert all(0 <= late <= early for early, late in zip(first, last, strict=True))
    pytest.importorskip("matplotlib")
    assert "<svg" in (out / "samplers.svg").read_text()[:1000]
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert samplers.main([*asked, "--out", str(out)]) == 0
    assert 'no plot: it needs matplotlib, pip install -e ".[report]"' in capsys.readouterr().err


def test_tables_that_come_with_cmh_are_small_and_whole() -> None:
    found = sorted(curve_tables.FOLDER.glob("*"))
    tables = [curve_tables.read(path) for path in found if path.suffix == ".gz"]
    if not tables:
        pytest.skip("no tables of today's code are shipped: experiments/benchmarks/curves.py makes them")
    assert sum(path.stat().st_size for path in found) < 3e6
    for table in tables:
        assert len({row.key for row in table.rows}) == len(table.rows)
        assert all(len(row.curve) == table.about.epochs or row.failed for row in table.rows)
        assert all(0 <= value <= 1 for row in table.rows for value in row.curve)
