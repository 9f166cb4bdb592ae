"""Ablations, curves and many studies at once, on real Ray: one session for all tests."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmh import cluster, ledger, records, tune
from tests.test_reproduce import make_data

pytestmark = pytest.mark.ray

SPACE = """
method: dcmh
params:
  lr_image: {float: [1.0e-4, 5.0e-2], log: true}
  gamma: {float: [1.0e-2, 10], log: true}
start_from: [default]
schedule: none
trials: 2
"""
SMALL = ["--bits", "8", "--epochs", "1", "--set", "hidden_image=4", "hidden_text=4"]
DCMH = [
    "--method",
    "dcmh",
    "--space",
    "space.yml",
    "--dataset",
    "a",
    *SMALL,
    "--seeds",
    "2",
    "--no-tensorboard",
    "--max-concurrent",
    "1",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with two datasets, `a` and `b`, and a session of Ray that each command finds."""
    folder = tmp_path_factory.mktemp("campaigns")
    with pytest.MonkeyPatch.context() as patch, cluster.session(None, on_server_death=lambda reason: None):
        patch.chdir(folder)
        patch.setenv("CMH_CACHE", str(folder / "cache"))
        patch.setenv("CMH_DATA", str(folder / "ledgers"))
        patch.setattr(cluster, "session", lambda *_, **__: contextlib.nullcontext())
        patch.setattr("cmh.views.report.write_softly", lambda _: None)  # tests of its own
        for name in ("a", "b"):
            make_data(Path(name), changed=name == "b")
            Path(name, "dataset.yml").write_text(f"name: {name}\nfeatures: data.npz\n")
        Path("space.yml").write_text(SPACE)
        yield folder


def table(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def openings() -> int:
    return sum(len(ledger.openings(path)) for path in Path("ledgers").rglob("*.jsonl"))


def test_an_ablation_stays_on_validation(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune.main([*DCMH, "--ablate", "gamma", "--out", "ablated"]) == 0
    said = capsys.readouterr()
    assert "without its components; validation MAP, each searched with 2 trials of 1 epochs" in said.out
    assert "the test split stayed closed" in said.out
    rows = table("ablated/dcmh-a-8/ablation.csv")
    assert [row["without"] for row in rows] == ["", "gamma=0"]
    assert {row["n_seeds"] for row in rows} == {"2"}
    assert all(row["val_map_difference_ci95"] for row in rows[1:])
    assert openings() == 0
    assert {row["gamma"] for row in table("ablated/dcmh-a-8-gamma=0/trials.csv")} == {"0.0"}


def test_a_curve_is_tested_when_it_is_asked(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune.main([*DCMH, "--sweep", "gamma=0.1:1:2", "--out", "swept", "--test"]) == 0
    assert "test MAP" in capsys.readouterr().out
    study = Path("swept/dcmh-a-8-sweep-gamma")
    rows = table(f"{study}/sweep.csv")
    assert [(row["value"], row["n_seeds"]) for row in rows] == [("0.1", "2"), ("1.0", "2")]
    assert all(row["test_map"] for row in rows)
    assert openings() == 2  # of two configurations, with two seeds each
    assert [row["origin"] for row in table(f"{study}/trials.csv")] == [
        f"gamma={value}, seed {seed}" for seed in (1, 2) for value in (0.1, 1.0)
    ]
    assert {one.label for one in records.read(study)[0]} == {"gamma=0.1", "gamma=1.0"}


def test_all_methods_of_a_kind_on_two_datasets_make_one_board(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("many").mkdir()
    Path("many/cca_itq-b-8").write_text("")  # no folder can be there
    more = [
        "--max-concurrent",
        "1",
        "--bits",
        "8",
        "--trials",
        "1",
        "--seeds",
        "1",
        "--no-tensorboard",
        "--out",
        "many",
    ]
    assert tune.main(["--method", "shallow", "--dataset", "a", "b", *more]) == 2
    said = capsys.readouterr()
    assert "error: many/cca_itq-b-8: cannot be written" in said.err
    assert said.err.count("left out: ") == 1
    assert said.out.count("tuned (trial 0)") == 3
    rows = table("many/board.csv")
    assert len(rows) == 3
    assert sorted((row["dataset"], row["method"]) for row in rows) == [("a", "cca_itq"), ("a", "ridge"), ("b", "ridge")]
    assert "ridge" in said.out.rpartition("tuned (trial 0)")[2]  # the board comes last
