"""The short twin of experiments/benchmarks/fuzz.py: forty bad datasets and files, the same each time."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from cmh.errors import CmhError

SCRIPT = Path(__file__).parents[1] / "experiments" / "benchmarks" / "fuzz.py"


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz"] = module  # its dataclasses look for it there
    spec.loader.exec_module(module)
    return module


def test_no_bad_file_ends_in_a_traceback(fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cases").mkdir()
    kinds, codes = set(), []
    for case in fuzz.cases(tmp_path / "cases", 28, 12, seed=7):
        kinds.add(case.kind)
        for code, message, broken in fuzz.outcomes(case):
            assert not broken, f"{broken}\n{message}"
            codes.append(code)
    assert len(kinds) == 9  # every kind of table and of arrays, spaces and experiments
    assert codes.count(2) > 20
    assert codes.count(0) > 5


def test_what_is_broken_is_seen(fuzz: ModuleType) -> None:
    """The fuzzer itself: each thing that it asks of a command, not kept."""

    def says(*lines: str) -> object:
        def run() -> int:
            raise CmhError(*lines)

        return run

    def breaks() -> int:
        raise KeyError("a bug")

    def talks() -> int:
        sys.stdout.write("x\n" * 99)
        return 0

    runs = [says("a.yml: must be 3"), says("must be 3"), says("a.yml is bad"), says("a.yml must " + "x" * 1000), breaks]
    runs += [lambda: 0, lambda: 1, talks]
    found = [
        (code, [line.split(":")[0] for line in broken])
        for code, _, broken in fuzz.outcomes(fuzz.Case("made", runs, ("a.yml",)))
    ]
    assert found == [
        (2, []),
        (2, ["names no file"]),
        (2, ["no rule or cure"]),
        (2, ["a line of 1,011 signs"]),
        (1, ["traceback"]),
        (0, []),
        (1, ["exit code 1"]),
        (0, ["99 lines"]),
    ]
