"""Every opening of a test split is written down, once for what it shows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cmh import datasets, ledger
from cmh.errors import LedgerError
from tests.test_identity import identity

SPLIT = "5" * 64


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CMH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def opened(folder: Path | None = None, seeds: tuple[int, ...] = (1,), **changes: Any) -> tuple[int, int]:
    return ledger.open_test("clipart", SPLIT, "a test", identity=identity(**changes), seeds=list(seeds), folder=folder)


def test_each_other_configuration_is_a_further_opening(tmp_path: Path) -> None:
    study, other = tmp_path / "study", tmp_path / "other"
    assert opened(study) == (1, 1)
    assert opened(study, epochs=2) == (2, 2)
    assert opened(study, settings={"erase": 0.2}) == (3, 3)
    assert opened(study, settings={"erase": 0.8}) == (4, 4)
    assert opened(study, bits=16) == (5, 5)
    assert opened(study, code="d" * 16) == (6, 6)
    assert opened(study, features="resnet50") == (7, 7)
    assert opened(study, dataset_sha256="e" * 64) == (8, 8)
    assert opened(other, config={"lr": 0.3, "hidden": 64}) == (1, 9)
    assert opened(None, config={"lr": 0.4, "hidden": 64}) == (10, 10)
    assert len(ledger.openings(ledger.path("clipart", SPLIT))) == 10
    assert ledger.open_test("clipart", "6" * 64, "another split") == (1, 1)


def test_a_study_s_count_is_of_one_split(tmp_path: Path) -> None:
    assert opened(tmp_path) == (1, 1)
    assert opened(tmp_path, dataset="other")[0] == 1
    assert opened(tmp_path, split_sha256="6" * 64)[0] == 1
    assert opened(tmp_path, epochs=2)[0] == 2
    assert len(ledger.openings(tmp_path / ledger.OWN)) == 4
    assert len(ledger.openings(tmp_path / ledger.OWN, ("clipart", SPLIT))) == 2


def test_the_same_again_is_none_whatever_seed_or_machine_shows_it(tmp_path: Path) -> None:
    assert opened(tmp_path, seeds=(1, 2, 3)) == (1, 1)
    assert opened(tmp_path, seeds=(2,)) == (1, 1)
    assert opened(tmp_path, seeds=(1, 2, 3), threads=2, device="cuda", torch="3", arrays_sha256="b" * 64) == (1, 1)
    assert opened(tmp_path, seeds=(3, 4)) == (2, 2)  # seed 4 shows something new
    assert opened(tmp_path, seeds=(1, 4)) == (2, 2)


def test_python_counts_too(home: Path) -> None:
    dataset = datasets.load("clipart")
    before = len(ledger.openings(ledger.path("clipart", dataset.split_sha256)))
    dataset.test()
    dataset.test()
    lines = ledger.openings(ledger.path("clipart", dataset.split_sha256))
    assert [line["purpose"] for line in lines[before:]] == ["dataset.test()"] * 2
    dataset.noted_test()  # for those who have noted it
    assert len(ledger.openings(ledger.path("clipart", dataset.split_sha256))) == before + 2


def test_a_ledger_that_cannot_be_written_opens_nothing(home: Path) -> None:
    home.parent.mkdir(exist_ok=True)
    home.write_text("a file, where the folder should be")
    with pytest.raises(LedgerError, match="not opened uncounted; set CMH_DATA"):
        opened()
    with pytest.raises(LedgerError, match="CMH_DATA"):
        datasets.load("clipart").test()


def test_a_ledger_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "openings.jsonl").mkdir()
    with pytest.raises(LedgerError, match=r"openings\.jsonl"):
        ledger.openings(tmp_path / "openings.jsonl")


def test_without_a_home_the_cache_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("CMH_DATA")
    monkeypatch.setattr(Path, "home", nobody)
    monkeypatch.setenv("CMH_CACHE", str(tmp_path / "cache"))
    assert ledger.path("clipart", SPLIT).is_relative_to(tmp_path / "cache")
    monkeypatch.delenv("CMH_CACHE")
    with pytest.raises(LedgerError, match="set CMH_DATA"):
        ledger.path("clipart", SPLIT)


@pytest.mark.parametrize("damage", ["{", "[1]", '{"seeds": 3}', "\x00"])
def test_a_line_that_cannot_be_read_counts(tmp_path: Path, damage: str) -> None:
    opened(tmp_path)
    with (tmp_path / "openings.jsonl").open("a") as file:
        file.write(damage)  # and no end of the line: a writer was killed
    assert opened(tmp_path) == (2, 1)
    assert opened(tmp_path, bits=8) == (3, 2)
    assert json.loads((tmp_path / "openings.jsonl").read_text().splitlines()[-1])["identity"]["bits"] == 8


def test_processes_that_open_at_once_lose_no_line(home: Path) -> None:
    program = (
        "import sys; from cmh import ledger\n"
        "for _ in range(20):\n"
        "    ledger.open_test('clipart', '5' * 64, sys.argv[1])"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(number)]) for number in (1, 2)]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    assert len(ledger.openings(ledger.path("clipart", SPLIT))) == 40
