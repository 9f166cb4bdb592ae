"""The shipped boards: their tables are what their records give, and one command writes them."""

from __future__ import annotations

import importlib
import itertools
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from cmh import methods
from cmh.board import find

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "experiments" / "benchmarks"))
boards: Any = importlib.import_module("boards")


def test_the_shipped_tables_say_what_the_records_say(capsys: pytest.CaptureFixture[str]) -> None:
    code = boards.main(["--check"])
    assert code == 0, capsys.readouterr().out


def test_every_method_has_three_seeds_at_every_length_that_is_there() -> None:
    runs, problems = find.find([boards.FOLDER])
    assert not problems
    found = {(run.record.identity.method, run.record.identity.bits, run.record.identity.seed) for run in runs}
    lengths = {bits for _, bits, _ in found}
    assert boards.SHOWN in lengths
    assert lengths <= set(boards.BITS)
    assert found == set(itertools.product(methods.names(), lengths, (1, 2, 3)))


def test_a_wrong_number_is_seen_and_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some = sorted((boards.FOLDER / "32").glob("dcmh-*")) + sorted((boards.FOLDER / "32").glob("ridge-*"))
    for run in some:
        shutil.copytree(run, tmp_path / "boards" / "32" / run.name)
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{boards.BEGIN}\n{boards.END}\nafter\n")
    given = ["--out", str(tmp_path / "boards"), "--readme", str(readme)]
    assert boards.main([*given, "--check"]) == 1
    assert "--tables` writes them" in capsys.readouterr().out
    assert boards.main([*given, "--tables"]) == 0
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert all(f"| `{name}` |" in text for name in ("dcmh", "ridge"))
    assert boards.main([*given, "--check"]) == 0
    for path in (readme, *(tmp_path / "boards" / name for name in boards.NAMES.values())):
        right = path.read_text()
        path.write_text(right.replace("dcmh", "dcmx"))
        assert boards.main([*given, "--check"]) == 1, path
        assert path.name in capsys.readouterr().out
        path.write_text(right)
