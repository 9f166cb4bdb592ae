"""Files in which hashing papers pass datasets on, made into a folder with `dataset.yml`.

Two layouts are known, whatever the version of the `.mat` files:

* `index`, `caption` and `label` (or `category`) in one or several files: paths of pictures, a text or several an item,
  and labels 0/1, as the repositories on CLIP have them (`toolbox`). They become `items.jsonl`.
* `I_tr, T_tr, L_tr, I_te, T_te, L_te`, perhaps `I_db …`, in a `.mat` or `.npz` file (`XTrain, YTrain, LTrain …`, too):
  features and labels of training items, which are searched as well, and of queries. They become `data.npz`.

Neither has validation queries: they are drawn, in the second layout from the training items.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cmh import files
from cmh.config import shown
from cmh.datasets import arrays, toolbox
from cmh.datasets.catalogue import NAMES
from cmh.errors import DatasetError
from cmh.seeding import derive

ARRAYS = {"image": ("i", "x", "image", "img"), "text": ("t", "y", "text", "txt"), "labels": ("l", "label", "labels")}
SIDES = {"train": ("tr", "train"), "query": ("te", "test", "query"), "database": ("db", "database", "retrieval")}
LOOKED_AT = 50  # pictures whose places decide where all of them lie
QUERIES, PART = 2000, 10  # drawn: at most so many, and at most one in so many items

_NAME = re.compile(
    "({})_?({})".format(*("|".join(name for some in one.values() for name in some) for one in (ARRAYS, SIDES))),
    re.IGNORECASE,
)


def known_as(names: Sequence[str]) -> str:
    """What to do with a file that holds these variables; empty where they are of no known layout."""
    held = [name for names_of in toolbox.VARIABLES.values() for name in names_of if name in names]
    held = held if len(held) > 1 else sorted(split_variables(names).values())
    return f"; {', '.join(held)} can be made into a dataset: python -m cmh.datasets convert" if held else ""


def split_variables(names: Sequence[str]) -> dict[tuple[str, str], str]:
    """(array, side) → name, of the variables that are named like `I_tr`."""
    found = {}
    for name in names:
        if match := _NAME.fullmatch(name):
            key = tuple(
                next(kind for kind, some in table.items() if part.lower() in some)
                for table, part in zip((ARRAYS, SIDES), match.groups(), strict=True)
            )
            found[key[0], key[1]] = name
    return found


def convert(
    source: Path, folder: Path, *, name: str = "", images: Path | None = None, query: int = 0, validation: int = 0
) -> str:
    """Write a dataset into a new folder, and say in a line what it has.

    `name`: by default made of the folder's. `images`: where the pictures lie, if not where the paths say. `query`,
    `validation`: queries to draw (0: a tenth of the items, at most 2,000).

    Raises DatasetError for what is neither layout, or not whole.
    """
    if folder.exists():
        raise DatasetError(f"{folder}: exists already; give the name of a new folder")
    some = sorted(source.glob("*.mat")) if source.is_dir() else [source]
    if not some or not all(path.is_file() for path in some):
        raise DatasetError(f"{source}: must be a .mat or .npz file, or a folder with .mat files")
    name = name or _name_of(folder)
    places: dict[str, Path] = {}
    for path in some:
        for variable in arrays.names(path):
            if variable not in places or path.stem == variable:  # caption.mat, not caption_one_hot.mat
                places[variable] = path
    roles = {
        role: (places[variable], variable)
        for role, known in toolbox.VARIABLES.items()
        for variable in reversed(known)
        if variable in places
    }
    if (lines := source / "caption.txt").is_file():
        roles.setdefault("texts", (lines, ""))
    sides = split_variables(list(places))
    try:
        with files.new_folder(folder) as new:
            if len(roles) == len(toolbox.VARIABLES):
                root, rows = _items(toolbox.read(roles), images or (source if source.is_dir() else source.parent))
                listed = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
                files.write_atomic(new / "items.jsonl", "".join(listed))
                drawn = {"query": query or _tenth(len(rows)), "validation": validation or _tenth(len(rows))}
                document: dict[str, object] = {"name": name, "items": "items.jsonl", "images": root, "split": drawn}
                said = f"{len(rows):,} items; pictures in {root}"
            elif sides:
                table = _features(sides, places, validation)
                np.savez(new / "data.npz", allow_pickle=False, **table)
                document = {"name": name, "features": "data.npz"}
                different, counts = np.unique(table["split"], return_counts=True)
                said = ", ".join(f"{side} {n:,}" for side, n in zip(different, counts, strict=True))
            else:
                known = (
                    f"{', '.join(one[0] for one in toolbox.VARIABLES.values())} or I_tr, T_tr, L_tr, I_te, T_te, L_te"
                )
                raise DatasetError(f"{source}: must hold {known}; found {', '.join(sorted(places)) or 'nothing'}")
            files.write_atomic(new / "dataset.yml", "".join(f"{key}: {json.dumps(v)}\n" for key, v in document.items()))
    except OSError as error:
        raise DatasetError(f"{error.filename or folder}: cannot be written ({error.strerror or error})") from error
    return f"{folder}: {said}"


def _name_of(folder: Path) -> str:
    name = re.sub(r"[^a-z0-9._-]+", "-", folder.name.lower()).lstrip("._-")[:60] or "dataset"
    return f"{name}-own" if name in NAMES else name


def _tenth(n: int) -> int:
    return max(1, min(QUERIES, n // PART))


# Pictures, texts, labels


def _items(lists: toolbox.Lists, root: Path) -> tuple[str, list[dict[str, str | list[str]]]]:
    """The pictures' folder, and a row an item."""
    where, short = _root(lists.pictures, root)
    return str(where), [
        {
            "image": image,
            "text": list(some),
            "labels": [f"label {column + 1}" for column in np.flatnonzero(row).tolist()],
        }
        for image, some, row in zip(short, lists.texts, lists.labels, strict=True)
    ]


def _root(names: Sequence[str], root: Path) -> tuple[Path, list[str]]:
    """The folder in which the pictures lie, and their paths in it: those of others' machines lose their beginning."""
    parts = [[part for part in name.split("/") if part not in ("", ".")] for name in names]
    some = names[:LOOKED_AT]
    if all(name.startswith("/") and Path(name).is_file() for name in some):
        common = os.path.commonpath([name.rpartition("/")[0] or "/" for name in names])
        return Path(common), [os.path.relpath(name, common) for name in names]
    for dropped in range(min(len(one) for one in parts)):
        if all((root / "/".join(one[dropped:])).is_file() for one in parts[:LOOKED_AT]):
            return root.resolve(), ["/".join(one[dropped:]) for one in parts]
    raise DatasetError(
        f"the pictures are not in {root}: the first is {shown(names[0])}; --images FOLDER says where they are"
    )


# Features of training items and queries


def _features(
    sides: Mapping[tuple[str, str], str], places: Mapping[str, Path], validation: int
) -> dict[str, NDArray[np.generic]]:
    """image, text, labels and split, the sides one after another."""
    problems = []
    parts: dict[str, list[NDArray[np.generic]]] = {kind: [] for kind in ARRAYS}
    split: list[str] = []
    present = [side for side in SIDES if any(one == side for _, one in sides)]
    for side in dict.fromkeys(("train", "query", *present)):
        absent = [kind for kind in ARRAYS if (kind, side) not in sides]
        if absent:
            problems.append(f"{side}: has no {' and no '.join(absent)}; found {', '.join(sides.values())}")
            continue
        given = {kind: arrays.numbers(places[sides[kind, side]], sides[kind, side]).whole() for kind in ARRAYS}
        if 1 in given["labels"].shape:  # class numbers
            given["labels"] = given["labels"].ravel()
        rows = {sides[kind, side]: len(one) for kind, one in given.items()}
        if len(set(rows.values())) > 1:
            shapes = ", ".join(f"{sides[kind, side]} {one.shape}" for kind, one in given.items())
            problems.append(f"the numbers of rows disagree: {shapes}; transposed? A row must be an item")
            continue
        if side == "database":
            given = _not_among(given, parts)
        for kind, one in given.items():
            parts[kind].append(one.astype(np.float32) if one.dtype == np.float64 and kind != "labels" else one)
        split += [side] * len(given["image"])
    for kind, some in parts.items():
        if len({one.shape[1:] for one in some}) > 1:
            problems.append(f"{kind}: the numbers of columns disagree: {', '.join(str(one.shape) for one in some)}")
    if problems:
        raise DatasetError(*problems)
    train = [row for row, side in enumerate(split) if side == "train"]
    n_validation = validation or min(split.count("query"), _tenth(len(train)))
    if n_validation >= len(train):
        raise DatasetError(f"--validation {n_validation:,}: there are only {len(train):,} training items to draw from")
    for number in np.random.default_rng(derive(0, "validation")).permutation(len(train))[:n_validation].tolist():
        split[train[number]] = "validation"
    return {**{kind: np.concatenate(some) for kind, some in parts.items()}, "split": np.array(split)}


def _not_among(
    given: Mapping[str, NDArray[np.generic]], parts: Mapping[str, Sequence[NDArray[np.generic]]]
) -> dict[str, NDArray[np.generic]]:
    """Rows of a database without those that are training items: many files have these in both."""
    kinds = ("image", "text")
    known = {
        b"".join(np.asarray(parts[kind][0][row], np.float32).tobytes() for kind in kinds)
        for row in range(len(parts["image"][0]) if parts["image"] else 0)
    }
    kept = [
        row
        for row in range(len(given["image"]))
        if b"".join(np.asarray(given[kind][row], np.float32).tobytes() for kind in kinds) not in known
    ]
    return {kind: one[kept] for kind, one in given.items()}
