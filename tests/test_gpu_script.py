"""`experiments/benchmarks/gpu.py`, tiny and on the CPU: all of it runs, and a section that fails costs no other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "experiments" / "benchmarks"
NEED_CUDA = {"tests", "waits", "graph", "memory", "fractions"}


def run(folder: Path, *arguments: str, before: str = "") -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    code = f"import sys\nsys.path.insert(0, {str(BENCHMARKS)!r})\nimport gpu\n{before}\nsys.exit(gpu.main())"
    command = [sys.executable, "-c", code, "--device", "cpu", "--tiny", "--json", str(folder / "gpu.json"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    return done, json.loads((folder / "gpu.json").read_text())["sections"]


@pytest.mark.slow
def test_all_sections_run_on_a_cpu_or_say_why_not(tmp_path: Path) -> None:
    done, sections = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    skipped = {name for name, found in sections.items() if found["status"] == "skipped"}
    assert skipped == NEED_CUDA
    assert all(sections[name]["problems"] == ["no CUDA device"] for name in skipped)
    assert set(sections) - skipped == {"determinism", "exact_map", "trials", "finetuning", "extraction"}
    for name in set(sections) - skipped:
        assert sections[name]["status"] == "passed", sections[name]
        assert f"{name} " in done.stdout
    assert sections["determinism"]["figures"]["runs"] == 3
    assert sections["finetuning"]["figures"]["cmh pictures/s"] > 0


def test_sections_run_on_a_cpu_or_say_why_not(tmp_path: Path) -> None:
    done, sections = run(tmp_path, "--only", "exact_map", "graph")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (sections["graph"]["status"], sections["graph"]["problems"]) == ("skipped", ["no CUDA device"])
    assert sections["exact_map"]["status"] == "passed", sections["exact_map"]
    assert "exact_map " in done.stdout


def test_a_section_that_hangs_dies_or_has_no_time_costs_the_others_nothing(tmp_path: Path) -> None:
    """What a section is, is looked up in the process that it runs in: there three of them are others."""
    (tmp_path / "gpu_checks.py").write_text(
        "import os, signal, time\n"
        "def determinism(place): time.sleep(100)\n"
        "def waits(place): os.kill(os.getpid(), signal.SIGKILL)\n"
        "def graph(place): raise ValueError('no good')\n"
        "def memory(place): return {'figure': 1.0}, ['a finding']\n"
        "def fractions(place): return {'figure': 1.0}, []\n"
    )
    (tmp_path / "gpu_measures.py").write_text("")
    (tmp_path / "gpu_place.py").write_text(
        "import types\nclass SkippedError(Exception): pass\n"
        "def Place(device, *_): return types.SimpleNamespace(device=device)\n"
    )
    before = f"gpu.HERE = {str(tmp_path)!r}; gpu.LIMITS.update(determinism=6, trials=1)"
    names = ["determinism", "waits", "graph", "memory", "trials", "fractions"]
    done, sections = run(tmp_path, "--only", *names, before=before)
    assert done.returncode == 1, done.stdout + done.stderr
    assert {name: (found["status"], found["problems"]) for name, found in sections.items()} == {
        "determinism": ("broke", ["its time was over"]),
        "waits": ("broke", ["its process died"]),
        "graph": ("broke", ["ValueError: no good"]),
        "memory": ("failed", ["a finding"]),
        "trials": ("skipped", ["no time left"]),
        "fractions": ("passed", []),
    }
    assert "in graph" in sections["graph"]["trace"]
