"""Sensitivity curves: which values, what is refused, and what is written."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cmh import records
from cmh.errors import ConfigError
from cmh.study import sweep
from cmh.study.request import Asked
from cmh.study.sweep import Curve
from cmh.study.trial_row import from_stored
from cmh.views import sweep as shown
from tests.test_address import asked
from tests.test_reproduce import here  # noqa: F401

MAPS = "map", "map_i2t", "map_t2i"
SPACE = """
method: dcmh
params:
  gamma: {float: [1.0e-2, 10], log: true}
  weight_decay: {float: [0, 1.0e-3]}
  hidden_text: {int: [1, 2048], log: true}
  optimizer: {choice: [adam, sgd]}
  momentum: {float: [0, 0.9], when: {optimizer: sgd}}
start_from: [default]
"""


def of(**changes: Any) -> Asked:
    Path("space.yml").write_text(SPACE)
    return dataclasses.replace(asked(Path("studies")), methods=("dcmh",), spaces=("space.yml",), **changes)


def curves(*texts: str, **changes: Any) -> list[Curve]:
    return sweep.curves(of(**changes), texts)[0]


def test_values_are_spaced_as_the_spaces_range_is() -> None:
    found = curves(
        "gamma=0.01:1:3",
        "weight_decay=0:1e-3:5",
        "hidden_text=1:64:4",
        "eta=1e-4:1:3:log",
        "lr_image=0.1:0.3:3:linear",
        "batch_size=256,64,128",
        "optimizer=sgd,adam",
    )
    assert found == [
        Curve("gamma", (0.01, 0.1, 1.0), True),
        Curve("weight_decay", (0.0, 0.00025, 0.0005, 0.00075, 0.001), False),
        Curve("hidden_text", (1, 4, 16, 64), True),
        Curve("eta", (0.0001, 0.01, 1.0), True),
        Curve("lr_image", (0.1, 0.2, 0.3), False),
        Curve("batch_size", (64, 128, 256), False),
        Curve("optimizer", ("sgd", "adam"), False),
    ]
    assert curves("eta=0,1e-5,1") == [Curve("eta", (0.0, 1e-5, 1.0), False)]  # nought is on no log scale
    assert curves("eta=1e-5,1") == [Curve("eta", (1e-5, 1.0), True)]
    assert curves("momentum=0:0.9:2", settings=("optimizer=sgd",)) == [Curve("momentum", (0.0, 0.9), False)]


@settings(max_examples=40)
@given(st.floats(1e-6, 1e3), st.floats(1.001, 1e6), st.integers(2, 30), st.booleans())
def test_both_ends_are_there_and_values_rise(low: float, factor: float, n: int, log: bool) -> None:
    high = min(low * factor, 1e4)
    (found,) = curves(f"gamma={low!r}:{high!r}:{n}:{'log' if log else 'linear'}")
    values = [float(value) for value in found.values]
    assert len(values) == n
    assert values[0] == pytest.approx(low, rel=1e-5)
    assert values[-1] == pytest.approx(high, rel=1e-5)
    assert values == sorted(values)
    steps = [b / a if log else b - a for a, b in itertools.pairwise(values)]
    if log:
        assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-4)


REFUSED = {
    "gama=1:2:3": ["'gama' is not known; did you mean 'gamma'?"],
    "gamma": ["must be KEY=LOW:HIGH:N or KEY=VALUE,VALUE…"],
    "gamma=2:1:1": ["N is '1', but must be an integer >= 2", "LOW is 2 and HIGH 1, but LOW must be < HIGH"],
    "lr_image=0:20:x": [
        "lr_image is '0', but must be a number > 0 and <= 10",
        "lr_image is '20', but must be a number > 0 and <= 10",
        "N is 'x', but must be an integer >= 2",
        "the space does not search lr_image, which it leaves at 0.0005, so it says no scale",
    ],
    "momentum=0:0.5:3": ["momentum has an effect only where optimizer = sgd; add --set optimizer=sgd"],
    "eta=1e-6:1:3": ["the space does not search eta, which it leaves at 1e-06, so it says no scale"],
    "weight_std=0.1:0.2": ["0.1:0.2 must be LOW:HIGH:N, or LOW:HIGH:N:log or LOW:HIGH:N:linear"],
    "weight_decay=0:1:3:log": ["LOW is 0, but a log scale needs LOW > 0; 0:1:3:linear has equal steps"],
    "hidden_text=1:3:7": ["N is 7, but so spaced there are only 3 integers from 1 to 3"],
    "batch_size=64,64": ["64,64 must list two values or more, each once"],
    "optimizer=a:b:3": ["optimizer is one of adam, sgd, which has no LOW:HIGH; list its values: optimizer=A,B"],
    "schedule=linear": ["linear must list two values or more, each once"],
    "lr_end=0.1,2": ["lr_end is '2', but must be a number > 0 and <= 1"],
}


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        curves(*REFUSED)
    expected = [(text, words) for text, lines in REFUSED.items() for words in lines]
    assert len(error.value.problems) == len(expected)
    for problem, (text, words) in zip(error.value.problems, expected, strict=True):
        assert problem.startswith(f"--sweep {text}: ")
        assert words in problem


def test_what_the_command_fixes_is_no_curve() -> None:
    with pytest.raises(ConfigError, match="gamma is fixed by --set; leave it out there"):
        curves("gamma=1:2:3", settings=("gamma=2",))
    with pytest.raises(ConfigError, match="gamma stands twice"):
        curves("gamma=1:2:3", "gamma=3,4")


def test_all_else_is_the_winners_or_the_librarys() -> None:
    Path("won").mkdir()
    Path("won/best.yml").write_text(yaml.safe_dump({"method": "dcmh", "config": {"gamma": 3.0, "eta": 0.5}}))
    _, values = sweep.curves(of(base=Path("won"), settings=("eta=0.25",)), ["gamma=1,2"])
    assert (values["gamma"], values["eta"], values["batch_size"]) == (3.0, 0.25, 128)
    assert sweep.curves(of(), ["gamma=1,2"])[1]["gamma"] == 1.0


# What is written


def outcome(folder: Path, values: list[Any], key: str = "gamma") -> Any:
    changes = {f"{key}={value}, seed {seed}": {key: value, "seed": seed} for seed in (1, 2) for value in values}
    rows = []
    for at, (name, change) in enumerate(changes.items()):
        result = {"best_i2t": 0.2, "best_t2i": 0.4, "failure": "nan"}
        state = "FAIL" if (at, change["seed"]) == (2 * len(values) - 1, 2) else "COMPLETE"
        curve = {1: 0.1 * change["seed"] + 0.01 * values.index(change[key])}
        rows.append(from_stored(at, state, curve, {"origin": name, "result": result}, {key: change[key]}))
    study = SimpleNamespace(
        space=SimpleNamespace(method="dcmh", epochs=3),
        dataset=SimpleNamespace(name="made"),
        bits=8,
        base={key: values[0]},
        folder=folder,
        notes={"points": changes},
    )
    return SimpleNamespace(study=study, rows=rows)


@pytest.mark.parametrize(("key", "values"), [("gamma", [10.0, 0.1]), ("optimizer", ["sgd", "adam"])])
def test_the_curve_as_csv_picture_and_text(key: str, values: list[Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    one = outcome(tmp_path, values, key)
    paths = shown.write(one, log_axis=True)
    assert [path.name for path in paths] == ["sweep.csv", "sweep.pdf", "sweep.png"]
    assert paths[1].read_bytes().startswith(b"%PDF")
    with paths[0].open(newline="") as file:
        rows = {row["value"]: row for row in csv.DictReader(file)}
    first, second = map(str, values)
    assert list(rows) == ([second, first] if key == "gamma" else [first, second])  # choices as they were asked for
    assert (rows[first]["n_seeds"], rows[first]["failed"]) == ("2", "0")
    assert float(rows[first]["val_map"]) == pytest.approx(0.15)
    assert float(rows[first]["val_map_std"]) == pytest.approx(0.1 / 2**0.5)
    assert float(rows[first]["val_map_i2t"]) == pytest.approx(0.2)
    assert (rows[second]["n_seeds"], rows[second]["failed"], rows[second]["val_map_std"]) == ("1", "1", "")
    assert rows[first]["test_map"] == ""
    text = shown.table(one, paths)
    assert "1 failed" in text
    assert "test MAP" not in text
    assert "0.1500 ± 0.6353" in text  # t of one degree of freedom


def test_without_matplotlib_there_is_the_csv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert [path.name for path in shown.write(outcome(tmp_path, [0.1, 1.0]), log_axis=False)] == ["sweep.csv"]
    assert "matplotlib, of the extra [report]" in caplog.text


def test_test_maps_are_those_of_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        SimpleNamespace(
            label="gamma=0.1", identity=SimpleNamespace(seed=seed), test={"map": value, "map_i2t": 0.1, "map_t2i": 0.3}
        )
        for seed, value in ((1, 0.9), (1, 0.2), (2, 0.4))
    ]
    monkeypatch.setattr(records, "read", lambda _: (found, []))
    key, points = shown.read(outcome(tmp_path, [0.1, 1.0]))
    assert key == "gamma"
    assert points[0].found["test_map"] == [0.2, 0.4]  # the newest of each seed
    assert points[1].estimate("test_map") is None
    assert "test MAP" in shown.table(outcome(tmp_path, [0.1, 1.0]), [])
