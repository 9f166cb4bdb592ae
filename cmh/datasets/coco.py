"""MS COCO as its site distributes it: `annotations/{instances,captions}_{train,val}YEAR.json` and folders of photos.

Photos with at least one object, train before val, in the order of the files (of some splits by number). Labels are the
80 categories; the text is the captions as a bag of words whose vocabulary (2,000 words, each in two items) knows the
training items only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypedDict, TypeVar

import numpy as np

from cmh.datasets import scan
from cmh.datasets.facts import Facts
from cmh.datasets.official import Parts
from cmh.datasets.problems import EXAMPLES
from cmh.datasets.releases import BY_NUMBER
from cmh.errors import DatasetError

PARTS = ("train", "val")

Notes = Mapping[
    str, list[Mapping[str, str | int]]
]  # a file as it should be: whatever is otherwise fails when it is read
Found = TypeVar("Found")


class Instances(TypedDict):
    """What is needed of an instances file; numbers of categories and photos as texts, as JSON has keys."""

    categories: dict[str, str]  # number → name
    images: list[tuple[int, str]]  # number, file
    objects: dict[str, list[int]]  # photo → different categories


def missing(root: Path, facts: Facts) -> list[str]:
    """What is not there of this distribution."""
    year = facts.name[-4:]
    files = [f"annotations/{kind}_{part}{year}.json" for part in PARTS for kind in ("instances", "captions")]
    absent = [str(root / file) for file in files if not (root / file).is_file()]
    return absent + [f"{root / f'{part}{year}'}/ (photos)" for part in PARTS if not (root / f"{part}{year}").is_dir()]


def read(root: Path, facts: Facts) -> Parts:
    """Photos, captions and labels. Raises DatasetError."""
    year = facts.name[-4:]
    categories: dict[int, str] = {}
    pictures: list[str] = []
    captions: list[list[str]] = []
    objects: list[list[int]] = []
    problems: list[str] = []
    n_all = 0
    for part in PARTS:
        try:
            about = _read(root / "annotations" / f"instances_{part}{year}.json", "instances", _instances)
            said = _read(root / "annotations" / f"captions_{part}{year}.json", "captions", _captions)
        except DatasetError as error:
            problems += error.problems
            continue
        categories |= {int(key): name for key, name in about["categories"].items()}
        n_all += len(about["images"])
        images = sorted(about["images"]) if facts.order == BY_NUMBER else about["images"]
        seen = [(number, name) for number, name in images if str(number) in about["objects"]]
        if mute := [name for number, name in seen if str(number) not in said["captions"]]:
            problems.append(
                f"{root}/annotations/captions_{part}{year}.json: {len(mute):,} photos with objects have no caption:"
                f" {', '.join(mute[:EXAMPLES])}{' …' * (len(mute) > EXAMPLES)}; is the file whole?"
            )
        for number, name in seen:
            pictures.append(f"{part}{year}/{name}")
            captions.append(said["captions"].get(str(number), []))
            objects.append(about["objects"][str(number)])
    columns = {number: column for column, number in enumerate(sorted(categories))}
    if stray := sorted({number for shown in objects for number in shown} - columns.keys()):
        problems.append(f"{root}/annotations: objects are of category {stray[0]}, which is not among the categories")
    if problems:
        raise DatasetError(*problems, heading=f"{facts.title} in {root} cannot be used")
    labels = np.zeros((len(pictures), len(columns)), np.uint8)
    for row, shown in enumerate(objects):
        labels[row, [columns[number] for number in shown]] = 1

    return Parts(
        n_all=n_all,
        pictures=pictures,
        labels=labels,
        label_names=[categories[number] for number in columns],
        n_tags=None,
        digest=hashlib.sha256(json.dumps(captions).encode()).hexdigest(),
        captions=captions,
    )


def _read(path: Path, kind: str, needed: Callable[[Notes], Found]) -> Found:
    """What is needed of a file, remembered: the whole has hundreds of megabytes."""

    def compute() -> Found:
        try:
            # Each annotation shrinks as soon as it is read: outlines would take gigabytes.
            with path.open(encoding="utf-8") as file:
                document = json.load(file, object_hook=_shrink)
            return needed(document)
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{path}: is no JSON ({error})") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f"{path}: is no {kind} file of COCO ({type(error).__name__}: {error})") from error

    return scan.remembered(path, f"coco {kind}", compute)


def _shrink(value: dict[str, object]) -> dict[str, object]:
    wanted = ("id", "image_id", "category_id", "caption", "file_name", "name", "images", "annotations", "categories")
    return {key: value[key] for key in wanted if key in value}


def _instances(document: Notes) -> Instances:
    objects: dict[str, list[int]] = {}
    for note in document["annotations"]:
        some = objects.setdefault(str(int(note["image_id"])), [])
        if int(note["category_id"]) not in some:
            some.append(int(note["category_id"]))
    return {
        "categories": {str(int(one["id"])): str(one["name"]) for one in document["categories"]},
        "images": [(int(one["id"]), str(one["file_name"])) for one in document["images"]],
        "objects": objects,
    }


def _captions(document: Notes) -> dict[str, dict[str, list[str]]]:
    """Under `captions`: photo → its captions."""
    captions: dict[str, list[str]] = {}
    for note in document["annotations"]:
        captions.setdefault(str(int(note["image_id"])), []).append(str(note["caption"]))
    return {"captions": captions}
