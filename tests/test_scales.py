"""The table of every method's defaults on other data: rows are trained once, and the table is what they say."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from cmh import training
from tests.test_own_data import write_arrays

FOLDER = Path(__file__).parents[1] / "experiments" / "benchmarks"
sys.path.insert(0, str(FOLDER))
scales: Any = importlib.import_module("scales")


def row(dataset: str, method: str, val_map: float, *, seed: int = 1, code: str = "now") -> Any:
    return scales.Row(dataset, method, "none" if method == "chance" else "standard", 30, seed, code, val_map)


def test_rows_are_trained_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, csv = write_arrays(tmp_path / "arrays"), tmp_path / "scales.csv"
    asked = [str(folder), "--methods", "dcmh", "--epochs", "2", "--seeds", "2", "--csv", str(csv)]
    assert scales.main(asked) == 0
    assert "5 runs" in capsys.readouterr().out  # chance, two controls in closed form, two seeds
    first, rows = csv.read_bytes(), scales.read(csv)
    assert [(one.method, one.seed) for one in rows] == [
        ("chance", 0),
        ("ridge", 1),
        ("cca_itq", 1),
        ("dcmh", 1),
        ("dcmh", 2),
    ]
    data = scales.data_of(str(folder), scales.COPIES[0], 0)
    assert rows[0].val_map == pytest.approx(training.chance(data), abs=1e-4)
    assert all(0 < one.val_map <= 1 and one.dataset == "arrays" for one in rows)
    shown = csv.with_suffix(".md").read_text()
    assert scales.main([*asked, "--table"]) == scales.main(asked) == 0
    assert capsys.readouterr().out == 2 * shown
    assert csv.read_bytes() == first


def test_of_many_items_a_part_is_trained_on(tmp_path: Path) -> None:
    folder = write_arrays(tmp_path / "arrays")
    whole, part = (scales.data_of(str(folder), scales.COPIES[0], items) for items in (0, 4))
    assert len(part.train.labels) == 4 < len(whole.train.labels)
    assert len(part.validation_query.labels) == len(whole.validation_query.labels)


def test_the_table_marks_what_is_below_its_control_or_at_chance() -> None:
    rows = [
        *(row(of, "chance", 0.1, seed=0, code="") for of in ("a", "b")),
        *(row(of, "ridge", 0.4) for of in ("a", "b")),
        *(row(of, "cca_itq", 0.2) for of in ("a", "b")),
        row("a", "dcmh", 0.9, code="before"),
        *(row("a", "dcmh", value, seed=seed) for seed, value in ((1, 0.5), (2, 0.6))),
        row("b", "dcmh", 0.3),
        row("a", "djsrh", 0.3),
        row("b", "djsrh", 0.105),
    ]
    assert list(scales.table(rows))[1:] == [
        "| chance | none | 0.100 | 0.100 |  |",
        "| ridge | standard | 0.400 | 0.400 |  |",
        "| cca_itq | standard | 0.200 | 0.200 |  |",
        "| dcmh | standard | 0.550 (0.500 to 0.600) | 0.300 ! | 1 of 2 |",
        "| djsrh | standard | 0.300 | 0.105 !! | 1 of 2 |",
    ]


def test_bad_input_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        scales.main(["clipart", "--jobs", "0"])
    assert "must be at least 1" in capsys.readouterr().err
    assert scales.main([str(tmp_path), "--csv", str(tmp_path / "scales.csv")]) == 2
    assert "dataset.yml" in capsys.readouterr().err


def test_the_table_that_comes_with_cmh_is_of_its_rows() -> None:
    shown = "\n".join(scales.table(scales.read(FOLDER / "scales.csv"))) + "\n"
    assert (FOLDER / "scales.md").read_text() == shown
