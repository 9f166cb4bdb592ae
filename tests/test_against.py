"""The benchmark beside an older checkout, run tiny, this tree being the older one, too; nothing is timed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "experiments" / "benchmarks" / "against.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_equal_trees_have_equal_curves_and_checkpoints(tmp_path: Path) -> None:
    out = tmp_path / "against.json"
    done = run(
        ROOT, "--tiny", "--only", "dcmh", "checkpoint", "--repeats", 1, "--out", out, "--work", tmp_path / "work"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert found["broken"] == {}
    assert found["commits"]["old"] == found["commits"]["new"]
    epochs, *checkpoints = found["rows"]
    assert epochs["differs"] == 0
    assert epochs["MAP"]["old"] == epochs["MAP"]["new"] > 0
    for tree in ("old", "new"):
        assert [len(one["cpu"]) for one in epochs["runs"][tree]] == [8]
        assert epochs[tree]["least"] > 0
        assert epochs["peak_mib"][tree] > 0
    sizes = [one for one in checkpoints if one["unit"] == "MiB"]
    assert len(checkpoints) == 4
    assert [one["ratio"]["median"] for one in sizes] == [1.0, 1.0]
    for one in found["rows"]:
        assert one["what"] in done.stdout


def test_a_tree_with_other_defaults_trains_at_this_ones(tmp_path: Path) -> None:
    """As PRDH, whose batch was halved: the time of twice as many steps was taken for that of slower ones."""
    shutil.copytree(ROOT / "cmh", tmp_path / "old" / "cmh")
    file = tmp_path / "old" / "cmh" / "methods" / "dcmh.py"
    code = re.sub(r"batch_size: int = param\(\d+", "batch_size: int = param(7", file.read_text())
    code = code.replace("weight_std: float", "older_name: float").replace("config.weight_std", "config.older_name")
    file.write_text(code)
    assert "param(7" in code
    assert "config.older_name" in code
    out = tmp_path / "against.json"
    done = run(tmp_path / "old", "--tiny", "--only", "dcmh", "--epochs", 2, "--repeats", 1, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads(out.read_text())["rows"]
    assert found["config"]["batch_size"] > 7
    assert found["differs"] == 0


def test_a_tree_that_cannot_be_measured_is_told(tmp_path: Path) -> None:
    (tmp_path / "cmh").mkdir()
    (tmp_path / "cmh" / "__init__.py").write_text("raise RuntimeError('no good')\n")
    out = tmp_path / "against.json"
    done = run(tmp_path, "--tiny", "--only", "dcmh", "--repeats", 1, "--out", out)
    assert done.returncode == 1
    broken = json.loads(out.read_text())["broken"]["dcmh"]
    assert broken.startswith("old tree: ")
    assert broken.endswith("ended with 1: RuntimeError: no good")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "torchcmh"], "the row torchcmh needs --torchcmh DIR"),
        (["--torchcmh", "nowhere"], "nowhere holds no torchcmh/training/DCMH.py"),
        (["--repeats", "0"], "must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused(arguments: list[str], message: str) -> None:
    done = run(ROOT, *arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_an_old_checkout_must_be_one(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 2
    assert "OLD_CHECKOUT must be a checkout of cmh" in done.stderr
