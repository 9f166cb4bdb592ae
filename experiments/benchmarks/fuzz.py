"""Bad datasets, search spaces and experiment files by the hundred: no traceback, and messages that name file and cure.

    python experiments/benchmarks/fuzz.py [--datasets 500] [--files 300] [--seed 0] [--show]

Each dataset is a sound one with some things wrong: items as .jsonl, .csv or .tsv, arrays as .npz, .npy or .mat (of both
kinds), options of dataset.yml; some with bytes changed or cut off. `cmh.datasets check` looks at it without and with
`--skip-bad`. Search spaces and experiment files are changed built-in ones, read as `tune` and `reproduce` read them.
Whatever comes out must be 0 or 2; after a 2 the message must name the folder or file, be short, and each of its lines
must hold a rule or a cure. What breaks that is printed (`--show`: all messages are, too). Expected: nothing broken.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import csv
import dataclasses
import io
import json
import os
import random
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_matrix

from cmh import commands, methods
from cmh.datasets import __main__ as datasets_command
from cmh.study import space, target

ROOT = Path(__file__).resolve().parents[2]
N = 12  # items of a dataset
MOST_LINES, LONGEST = 60, 700  # of a message
JUNK: list[Any] = [
    *(None, "", 0, -1, 3.5, True, [], {}, "x" * 300, "a\nb", "\0", "../x", "/", float("nan"), float("inf"), 10**30),
    *(["a"], [1, 2], [[1]], {"a": 1}, "é", "test", "val", "Train", "dev", ["sea", "sea"], "a,b;c|d", "['a', 'b']"),
    *(1e308, -0.0, "=1+1", "1e-3", "none", "0", "-", [None], {"": ""}, {1: 2}, "sea ", [[]], "\u202e", 2**63),
]
FIELDS = ("image", "text", "tags", "labels", "group", "split", "lables", "id", "x")
OPTIONS = (
    "name",
    "licence",
    "images",
    "links",
    "columns",
    "label_separator",
    "labels",
    "split",
    "text",
    "items",
    "zzz",
)
VALUES: list[Any] = [
    *("follow", "pics", ";", ",", "data.npz", "items.jsonl", ["sea", "city", "tree"], {"text": "caption"}),
    *({"query": 3, "val": 2}, {"query": 3, "validation": 2, "by": "item"}, {"query": 99, "validation": 1}),
    *({"kind": "matrix", "file": "x.npy"}, {"kind": "sentences"}, {"size": 0}, {"stop_words": 3}, {"kind": "wrods"}),
]
# A rule or a cure in a line of a message: what is allowed, asked for, meant, to be done.
CURE = re.compile(
    r"\bmust\b|did you mean|known: |; |\bneeds?\b|\blacks\b|\bremove\b|: write |cannot hold|belong together|goes? with"
    r"|stands twice|no such|--skip-bad|… and|^note: |would do$|--method asks|has no text and no tags|holds NaN"
    r"|File name too|not valid YAML|^no item is left"
)


@dataclasses.dataclass(frozen=True)
class Case:
    """One bad thing; `runs` are the calls that look at it, `names` what a message about it must name one of."""

    kind: str
    runs: list[Callable[[], int]]
    names: tuple[str, ...]


class Maker:
    """Draws cases into folders below `root`."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.draw = root, random.Random(seed)  # noqa: S311 - no secrets
        (root / "pics").mkdir()
        for number in range(N):
            Image.fromarray(np.full((6, 8, 3), number * 9, np.uint8)).save(root / "pics" / f"{number}.png")

    def some(self, share: float) -> bool:
        return self.draw.random() < share

    def dataset(self, number: int) -> Case:
        """A folder with dataset.yml."""
        kind = self.draw.choice(["jsonl", "csv", "tsv", "npz", "npy", "mat", "mat 7.3"])
        folder = self.root / f"d{number}"
        shutil.copytree(self.root / "pics", folder / "pics")
        about: dict[str, Any] = {"name": "fuzz", "split": {"query": 3, "validation": 2}}
        if kind in ("jsonl", "csv", "tsv"):
            about["items"] = f"items.{kind}"
            file = folder / f"items.{kind}"
            file.write_bytes(self._lines() if kind == "jsonl" else self._table())
        else:
            about["features"], file = self._arrays(folder, kind)
        for _ in range(self.draw.choice([0, 0, 1, 2])):
            about[self.draw.choice([*OPTIONS, "features"])] = self.draw.choice(JUNK + VALUES)
        (folder / "dataset.yml").write_bytes(self._yaml(about))
        if self.some(0.15):
            self._spoil(file)
        runs = [["check", str(folder)], ["check", str(folder), "--skip-bad"]]
        return Case(
            kind, [lambda args=args: datasets_command.main(args) for args in runs], (str(folder), "dataset.yml")
        )

    def space(self, number: int) -> Case:
        """A search space, changed in some places."""
        source = self.draw.choice(sorted((ROOT / "search_spaces").glob("*.yml")))
        file = self._changed(source, self.root / f"s{number}.yml")
        return Case("space", [lambda: bool(space.load(file, method=source.stem)) - 1], (str(file),))

    def experiment(self, number: int) -> Case:
        """An experiment file, changed in some places."""
        source = self.draw.choice(sorted((ROOT / "experiments").glob("*.yml")))
        file = self._changed(source, self.root / f"e{number}.yml")
        return Case("experiment", [lambda: bool(target.of_file(file)) - 1], (str(file),))

    def _changed(self, source: Path, file: Path) -> Path:
        document = yaml.safe_load(source.read_text())
        for _ in range(self.draw.randint(1, 3)):
            place, key = document, self.draw.choice(list(document))
            while isinstance(place[key], dict | list) and place[key] and self.some(0.75):
                place = place[key]
                key = self.draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
            what = self.draw.choice(["value", "value", "value", "key", "gone"])
            if what == "gone" and isinstance(place, dict) and len(place) > 1:
                del place[key]
            elif what == "key" and isinstance(place, dict):
                place[self.draw.choice([f"{key}s", 3, None, "zzz", True])] = self.draw.choice(JUNK)
            else:
                place[key] = self.draw.choice(JUNK)
        file.write_bytes(self._yaml(document))
        if self.some(0.1):
            self._spoil(file)
        return file

    def _yaml(self, document: object) -> bytes:
        return yaml.safe_dump(document, allow_unicode=True).encode()

    def _spoil(self, file: Path) -> None:
        """Some bytes changed, perhaps the end cut off."""
        raw = bytearray(file.read_bytes())
        for _ in range(4):
            raw[self.draw.randrange(len(raw))] = self.draw.randrange(256)
        file.write_bytes(raw[: self.draw.choice([len(raw), len(raw), len(raw) // 2])])

    def _rows(self) -> list[dict[str, Any]]:
        names = ("sea", "city", "tree")
        rows: list[dict[str, Any]] = [
            {"image": f"pics/{row}.png", "text": f"a {names[row % 3]} boat", "labels": [names[row % 3]]}
            for row in range(N)
        ]
        for _ in range(self.draw.randint(0, 6)):
            row, key = self.draw.choice(rows), self.draw.choice(FIELDS)
            if self.some(0.3):
                row.pop(key, None)
            else:
                row[key] = self.draw.choice(JUNK)
        if self.some(0.3):
            key, value = self.draw.choice(FIELDS[:6]), self.draw.choice(JUNK)
            for row in rows:
                row[key] = value
        return rows + [dict(row) for row in rows] * self.some(0.2)

    def _lines(self) -> bytes:
        odd = [
            ["[1, 2]", "3", "null", "{", '{"image": 1, "image": 2}', "[" * 5000][self.draw.randrange(6)]
        ] * self.some(0.1)
        return "\n".join([*map(json.dumps, self._rows()), *odd]).encode()

    def _table(self) -> bytes:
        rows, out = self._rows(), io.StringIO()
        keys = list(dict.fromkeys(key for row in rows for key in row))
        self.draw.shuffle(keys)
        keys = [""] * self.some(0.2) + keys
        table = csv.writer(out, delimiter=self.draw.choice(",;\t|"), escapechar="\\")
        table.writerow([self.draw.choice([key, key.upper(), f"{key} "]) for key in keys])
        between = self.draw.choice(";,|")
        for row in rows:
            cells = [row.get(key, "") for key in keys]
            table.writerow([between.join(map(str, cell)) if isinstance(cell, list) else cell for cell in cells])
        return out.getvalue().encode(self.draw.choice(["utf-8", "utf-16", "utf-8-sig", "utf-16-le"]), "replace")

    def _matrix(self) -> np.ndarray[Any, Any]:
        values = np.random.default_rng(self.draw.randrange(9)).random((N, 5))
        holed = np.where(values > 0.9, np.nan, values)
        strange = [values.T, holed, values[:, 0], values > 0.5, values[:7], values.astype("f2"), values[:, :0]]
        strange += [values[None], values * 1j, values.astype(str), np.zeros((0, 5)), np.array(3.0), values[..., None]]
        return self.draw.choice(strange) if self.some(0.2) else values

    def _labels(self) -> np.ndarray[Any, Any]:
        numbers = np.arange(N) % 3
        good = np.eye(3, dtype=np.uint8)[numbers]
        strange = [
            good * 2.0 - 1,
            numbers,
            numbers[:, None],
            numbers[None],
            good.T,
            good * 255,
            good * np.nan,
            numbers - 5,
        ]
        strange += [np.zeros((N, 3)), np.array(["sea", "x", "y"] * 4), good.astype(bool), numbers * 10**6, numbers / 7]
        return self.draw.choice(strange) if self.some(0.5) else good

    def _arrays(self, folder: Path, kind: str) -> tuple[Any, Path]:
        """What stands under `features`, and a file that was written."""
        arrays = {"image": self._matrix(), "text": self._matrix(), "labels": self._labels()}
        if self.some(0.3):
            sides = ["query"] * 3 + ["val" if self.some(0.3) else "validation"] * 2 + ["train"] * 7
            arrays["split"] = self.draw.choice([np.array(sides), np.arange(N), np.array(["x"] * 11)])
        if self.some(0.15):
            arrays.pop(self.draw.choice(list(arrays)))
        if kind == "npy":
            for name, array in arrays.items():
                np.save(folder / f"{name}.npy", array)
            return {name: f"{name}.npy" for name in arrays}, folder / f"{next(iter(arrays))}.npy"
        file = folder / ("data.npz" if kind == "npz" else "data.mat")
        if kind == "npz":
            (np.savez if self.some(0.5) else np.savez_compressed)(file, **arrays)
        elif kind == "mat":
            sparse = {
                name: self.some(0.2) and array.ndim == 2 and array.dtype.kind in "ub" for name, array in arrays.items()
            }
            savemat(file, {name: csc_matrix(one) if sparse[name] else one for name, one in arrays.items()})
        else:
            self._mat73(file, arrays)
        return file.name, file

    def _mat73(self, file: Path, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
        with h5py.File(file, "w", userblock_size=512) as out:
            for name, array in arrays.items():
                if array.dtype.kind == "U":
                    array = np.array(
                        [[ord(sign) for sign in text.ljust(10, "\0")[:10]] for text in array.ravel()], "u2"
                    )
                data = out.create_dataset(name, data=array.T if self.some(0.7) else array)
                if self.some(0.7):
                    said = self.draw.choice(
                        ["char", "logical", "string", "cell", "struct"] if self.some(0.2) else ["double"]
                    )
                    data.attrs["MATLAB_class"] = np.bytes_(said)


def cases(root: Path, n_datasets: int, n_files: int, seed: int) -> Iterator[Case]:
    """Datasets first, then search spaces and experiment files in turn."""
    maker = Maker(root, seed)
    for number in range(n_datasets):
        yield maker.dataset(number)
    for number in range(n_files):
        yield maker.experiment(number) if number % 3 == 2 else maker.space(number)


def outcomes(case: Case) -> Iterator[tuple[int, str, list[str]]]:
    """Exit code, message, and what is broken about it, of each run of a case."""
    for run in case.runs:
        out, err = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = commands.guarded(run)
        except BaseException:  # a test of exactly that
            yield 1, traceback.format_exc(limit=-4), ["traceback"]
            continue
        message, broken = err.getvalue(), []
        lines = [line.removeprefix("error: ").strip().removeprefix("- ") for line in message.splitlines()]
        if code not in (0, 2):
            broken.append(f"exit code {code}")
        if code == 2:
            if not any(name in message for name in case.names):
                broken.append("names no file")
            listed = [line for line in lines if line and not line.endswith(":")]
            broken += [f"no rule or cure: {line}" for line in listed if not CURE.search(line)]
        broken += [f"a line of {len(line):,} signs: {line[:200]}" for line in lines if len(line) > LONGEST]
        if (n := len(lines) + len(out.getvalue().splitlines())) > MOST_LINES:
            broken.append(f"{n} lines")
        yield code, message, broken


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--datasets", type=int, default=500)
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="show every message")
    arguments = parser.parse_args()
    found, n_broken = collections.Counter[tuple[str, int]](), 0
    methods.get("dcmh")
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["CMH_CACHE"] = f"{temporary}/cache"
        root = Path(temporary, "cases")
        root.mkdir()
        for number, case in enumerate(cases(root, arguments.datasets, arguments.files, arguments.seed)):
            for code, message, broken in outcomes(case):
                found[case.kind, code] += 1
                n_broken += bool(broken)
                if broken or arguments.show:
                    print(f"--- case {number}, {case.kind}, exit {code}", *broken, message, sep="\n")
            for folder in root.glob("d*"):
                shutil.rmtree(folder)
    for (kind, code), times in sorted(found.items()):
        print(f"{kind:<11} exit {code}  {times:5}")
    print(f"{sum(found.values())} runs, {n_broken} broken")
    return min(1, n_broken)


if __name__ == "__main__":
    sys.exit(main())
