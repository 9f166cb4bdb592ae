"""Every method's default point on datasets of different kinds and sizes of features, against a shallow control.

    nice -n 15 python experiments/benchmarks/scales.py clipart FOLDER… --jobs 2     # hours; the same command goes on
    python experiments/benchmarks/scales.py --table                                 # what is there, nothing trained

FOLDER: a dataset (`dataset.yml`). The clip art comes with copies: colour histograms of its pictures in place of image
features, sentences' embeddings in place of bags of words, image features shifted by five of their deviations, and all
features × 0.01 and × 100 (`--copies` takes some of them). Of larger sets `--items` training items are drawn once; where
the validation database is the training items, it is these, too. 32 bits, frozen features, one thread.

Each run is a row of `--csv`: validation MAP of the best epoch of one seed. A row whose method's code has changed since
is trained again. Its table, a `.md` beside it, has the mean (lowest to highest) of the seeds, with ridge (CCA-ITQ for
unsupervised methods) and chance; `!` is below the control, `!!` within .01 of chance.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import functools
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import processes

from cmh import datasets, files, methods, training
from cmh.errors import CmhError, NotFiniteError
from cmh.features import text
from cmh.identity import code_hash
from cmh.interfaces import Arrays, SearchData

COPIES = ("as it is", "colours", "sentences", "+5", "×0.01", "×100")  # of the clip art
CONTROLS = {"supervised": "ridge", "unsupervised": "cca_itq", "shallow": "ridge"}
CHANCE = "chance"  # stands where a method's name does


class Row(NamedTuple):
    """A run. `val_map` is that of its best epoch, 0 where it died of NaN."""

    dataset: str
    method: str
    scale: str
    epochs: int
    seed: int
    code: str  # of the method
    val_map: float

    @property
    def key(self) -> tuple[object, ...]:
        """What no two rows share."""
        return self[:-1]


@dataclasses.dataclass(frozen=True)
class Task:
    """A run to come, or what chance gives on the data."""

    of: str
    copy: str
    items: int
    row: Row


def changed(
    data: SearchData, name: str, image: Callable[[Arrays], object], text: Callable[[Arrays], object]
) -> SearchData:
    """The data under another name, with other features of each role."""

    def one(arrays: Arrays) -> Arrays:
        return dataclasses.replace(arrays, image=np.asarray(image(arrays), np.float32), text=text(arrays))  # type: ignore[arg-type]

    roles = {role: one(getattr(data, role)) for role in ("train", "validation_query", "validation_database")}
    return dataclasses.replace(data, name=name, arrays_sha256=name, **roles)


def histograms(arrays: Arrays) -> np.ndarray:
    """4 × 4 × 4 colours of each picture `(n, 64)`, their shares."""
    assert arrays.pixels is not None
    bins = (arrays.pixels // 64).astype(np.int64)
    colours = (bins[:, 0] * 16 + bins[:, 1] * 4 + bins[:, 2]).reshape(len(bins), -1)
    return np.stack([np.bincount(row, minlength=64) / len(row) for row in colours])


def copied(of: str, copy: str) -> SearchData:
    """The dataset, or a copy of it."""
    if copy == "as it is":
        return datasets.load(of, skip_bad=True).search()
    name = f"{of} {copy}"
    if copy == "sentences":
        source = datasets.read(of)
        assert source.words is not None
        texts = [" ".join(one) for one in source.words()]  # those that give no label away
        source = dataclasses.replace(
            source,
            sha256=f"{source.sha256} {copy}",
            pictures_sha256=source.picture_digest,
            text=lambda: text.embeddings(texts, name),
            text_kind=copy,
        )
        return dataclasses.replace(datasets.load(of, source=source).search(), name=name)
    if copy == "colours":
        pixels = datasets.load(of, features="conv4", pixels=True).search()
        return dataclasses.replace(changed(pixels, name, histograms, lambda one: one.text), features="colours")
    data = datasets.load(of).search()
    if copy == "+5":
        shift = 5 * np.asarray(data.train.image, np.float64).std()
        return changed(data, name, lambda one: one.image + shift, lambda one: one.text)
    factor = float(copy[1:])
    return changed(data, name, lambda one: one.image * factor, lambda one: (one.text * factor).astype(np.float32))


@functools.lru_cache(maxsize=2)
def data_of(of: str, copy: str, items: int) -> SearchData:
    """What is trained on: of more than `items` training items a part, drawn once and for all."""
    data = copied(of, copy)
    n = len(data.train.labels)
    if not 0 < items < n:
        return data
    some = np.sort(np.random.default_rng(0).choice(n, items, replace=False))
    parts = {"train": data.train.rows(some)}
    if len(data.validation_database.labels) == n and np.array_equal(data.validation_database.labels, data.train.labels):
        parts["validation_database"] = data.validation_database.rows(some)
    return dataclasses.replace(data, arrays_sha256=f"{data.arrays_sha256} {items}", **parts)


def train(task: Task) -> Row:
    """Train a method with a seed."""
    data, row = data_of(task.of, task.copy, task.items), task.row
    if row.method == CHANCE:
        return row._replace(val_map=training.chance(data))
    module = methods.get(row.method)
    values = {"bits": 32, "epochs": row.epochs, "seed": row.seed, "threads": 1, "scale": row.scale, "device": "cpu"}
    with contextlib.suppress(NotFiniteError):
        return row._replace(val_map=training.fit(module, *training.parse(module, values), data).best.val_map)
    return row


def tasks(given: argparse.Namespace) -> Iterator[Task]:
    """All runs that are asked for, the controls first."""
    names = [*dict.fromkeys([*CONTROLS.values(), *given.methods])]
    for of in given.datasets:
        for copy in given.copies if of == "clipart" else COPIES[:1]:
            name = Path(of).resolve().name if Path(of).is_dir() else of
            name = name if copy == COPIES[0] else f"{name} {copy}"
            blank = Row(name, CHANCE, "none", 0, 0, "", 0.0)
            yield Task(of, copy, given.items, blank)
            for seed in range(1, given.seeds + 1):
                for method in names:
                    shallow = methods.get(method).KIND == "shallow"
                    if shallow and method != "random" and seed > 1:
                        continue  # a closed form
                    code = code_hash(Path(str(methods.get(method).__file__)))
                    for scale in ("standard",) if method in CONTROLS.values() else given.scales:
                        yield Task(
                            of,
                            copy,
                            given.items,
                            Row(name, method, scale, 1 if shallow else given.epochs, seed, code, 0.0),
                        )


def read(path: Path) -> list[Row]:
    """The rows of a table that there is."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = [Row(**each) for each in csv.DictReader(file)]  # type: ignore[arg-type]
    return [row._replace(epochs=int(row.epochs), seed=int(row.seed), val_map=float(row.val_map)) for row in rows]


def table(rows: list[Row]) -> Iterable[str]:
    """Method by dataset, in Markdown; of several versions of a method the newest."""
    newest = {(row.dataset, row.method, row.scale): (row.code, row.epochs) for row in rows}
    rows = [row for row in rows if newest[row.dataset, row.method, row.scale] == (row.code, row.epochs)]
    sets = list(dict.fromkeys(row.dataset for row in rows))
    of: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        of.setdefault((row.method, row.scale), {}).setdefault(row.dataset, []).append(row.val_map)
    chance = of.get((CHANCE, "none"), {})
    yield f"| method | scale | {' | '.join(sets)} | above the control |\n|---|---|{'---|' * (len(sets) + 1)}"
    order = [*dict.fromkeys([CHANCE, *CONTROLS.values(), *sorted(name for name, _ in of)])]
    for (method, scale), by_set in sorted(of.items(), key=lambda one: (order.index(one[0][0]), one[0][1])):
        control = {} if method == CHANCE else of.get((CONTROLS[methods.get(method).KIND], "standard"), {})
        cells, above = [], 0
        deep = method != CHANCE and methods.get(method).KIND != "shallow"
        for name in sets:
            values = by_set.get(name, [])
            if not values:
                cells.append("")
                continue
            mean = statistics.mean(values)
            below = deep and name in control and mean < control[name][0]
            lost = name in chance and mean < chance[name][0] + 0.01
            above += not below
            spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
            cells.append(f"{mean:.3f}{spread}" + (" !!" if lost else " !" if below else "") * (method != CHANCE))
        share = f"{above} of {len(by_set)}" if deep else ""
        yield f"| {method} | {scale} | {' | '.join(cells)} | {share} |"


def main(arguments: list[str] | None = None) -> int:
    """Write a row as soon as it is known, and the table at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="*", metavar="DATASET")
    parser.add_argument("--methods", nargs="+", default=[name for name in methods.names() if name != "random"])
    parser.add_argument("--scales", nargs="+", default=["standard"])
    parser.add_argument("--copies", nargs="+", choices=COPIES, default=COPIES, help="of the clip art (default: all)")
    parser.add_argument("--items", type=int, default=2600, help="training items at most, 0: all (default: 2600)")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"))
    parser.add_argument("--table", action="store_true", help="train nothing, show the table")
    given = parser.parse_args(arguments)
    if min(given.seeds, given.jobs, given.epochs) < 1:
        parser.error("--seeds, --jobs and --epochs must be at least 1")
    try:
        rows = read(given.csv)
        there = {row.key for row in rows}
        waiting = [] if given.table else [task for task in tasks(given) if task.row.key not in there]
        if waiting:
            print(f"{len(waiting)} runs", flush=True)
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(given.csv.open("a", newline="")) if waiting else sys.stdout
            writer = csv.writer(file)
            if waiting and not rows:
                writer.writerow(Row._fields)
            for number, row in enumerate(processes.as_they_come(train, waiting, given.jobs), start=1):
                rows.append(row._replace(val_map=round(row.val_map, 4)))  # as it is read again
                writer.writerow((*row[:-1], f"{row.val_map:.4f}"))
                file.flush()
                print(
                    f"{number}/{len(waiting)} {row.dataset} {row.method} seed {row.seed}: {row.val_map:.4f}", flush=True
                )
    except CmhError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    shown = "\n".join(table(rows)) + "\n"
    files.write_atomic(given.csv.with_suffix(".md"), shown)
    print(shown, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
