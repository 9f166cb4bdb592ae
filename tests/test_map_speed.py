"""The benchmark of MAP, run tiny; nothing is timed."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

SCRIPT = Path(__file__).parent.parent / "experiments" / "benchmarks" / "map_speed.py"

# Stands in for torchcmh's file: MAP of each query's ranking by a stable sort.
LOOP = """
import torch
def calc_map_k(qB, rB, query_L, retrieval_L, k=None):
    total = 0
    for code, labels in zip(qB, query_L):
        order = torch.sort(-(rB @ code), stable=True).indices
        ranks = torch.nonzero((retrieval_L @ labels > 0)[order]).flatten() + 1
        total += (torch.arange(1, len(ranks) + 1) / ranks).mean()
    return total / len(qB)
"""


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_table_is_made(tmp_path: Path) -> None:
    file = tmp_path / "torchcmh" / "utils" / "calc_utils.py"
    file.parent.mkdir(parents=True)
    file.write_text(LOOP)
    labels = tmp_path / "labels.mat"
    savemat(labels, {"LAll": np.eye(4, dtype=np.uint8)[np.arange(400) % 4]})
    out = tmp_path / "out.json"
    given = ["--labels", labels, "--torchcmh", tmp_path, "--repeats", 1, "--threads", 1, "--bits", 8, 72, "--out", out]
    done = run(*given)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(out.read_text())
    assert [row["bits"] for row in rows] == [8, 72]
    for row in rows:
        assert (row["queries"], row["items"], row["labels"]) == (200, 200, 4)
        assert {"packed", "arrays", "histograms", "bare", "torchcmh"} <= row["seconds"].keys()
        assert row["map"]["some, torchcmh"] == pytest.approx(row["map"]["some"], abs=0.05)  # ties in database order
        assert row["ratios"]["torchcmh / packed"] == row["seconds"]["torchcmh"] / row["seconds"]["packed"]
        assert row["megabytes"] >= 0
    assert done.stdout.count("labels  ") == 2


def test_the_growth_is_measured_and_drawn(tmp_path: Path) -> None:
    out = tmp_path / "growth.json"
    done = run("--growth", "--scale", 0.001, "--repeats", 1, "--threads", 1, "--most", 2, "--out", out)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert {axis: [point[axis] for point in points] for axis, points in found.items()} == {
        "items": [100, 100],
        "bits": [8, 16],
        "labels": [8, 16],
    }
    drawn = ElementTree.parse(out.with_suffix(".svg")).getroot()  # noqa: S314  # our own file
    assert len(drawn.findall("{*}circle")) == 12
    assert {"MAP: seconds against items", "MB above the inputs"} <= {text.text for text in drawn.findall("{*}text")}


def test_files_that_are_wrong(tmp_path: Path) -> None:
    labels = tmp_path / "labels.mat"
    for given, said in (
        (("--torchcmh", tmp_path), "give --torchcmh the folder of a checkout"),
        (("--labels", labels), "does not exist"),
    ):
        done = run("--scale", 0.001, "--repeats", 1, *given)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    savemat(labels, {"YAll": np.eye(2)})
    done = run("--labels", labels)
    assert (done.returncode, "holds no variable LAll" in done.stderr) == (2, True)
