"""MIRFlickr-25K as DCMH and its followers use it: 20,015 photos with 1,386 tags and 24 labels.

Huiskes and Lew, "The MIR Flickr retrieval evaluation", MIR 2008, DOI 10.1145/1460096.1460104. Split as torchcmh draws
it (seed 6: 2,000 queries, 10,000 training items); 1,000 validation queries from the rest of the database.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cmh.datasets import Source
from cmh.datasets.split import published
from cmh.errors import DatasetError

FACTS = {"items": 20015, "tags": 1386, "labels": 24}
SPLIT = {"seed": 6, "n_query": 2000, "n_train": 10000, "n_validation": 1000}
MATRICES = {  # variable → file names: the DCMH release's, torchcmh's
    "FAll": ("mirflickr25k-fall.mat", "imgList.mat"),
    "YAll": ("mirflickr25k-yall.mat", "tagList.mat"),
    "LAll": ("mirflickr25k-lall.mat", "labelList.mat"),
}
MEANING = {"FAll": "picture names", "YAll": "tags, 20015 × 1386", "LAll": "labels, 20015 × 24"}


def folder() -> Path:
    """`$CMH_DATA/mirflickr25k`; CMH_DATA defaults to `~/cmh-data`."""
    return Path(os.environ.get("CMH_DATA") or Path.home() / "cmh-data") / "mirflickr25k"


def read() -> Source:
    """Tags, labels and split; photos when they are asked for. Raises DatasetError that says what is missing."""
    root = folder()
    paths = {
        name: next((root / file for file in some if (root / file).is_file()), None) for name, some in MATRICES.items()
    }
    missing = [f"{root / MATRICES[name][0]} ({MEANING[name]})" for name, path in paths.items() if path is None]
    if not (root / "images").is_dir():
        missing.append(f"{root / 'images'}/ (the photos im1.jpg … im25000.jpg)")
    if missing:
        raise DatasetError(
            *missing,
            "get the photos from the MIRFlickr-25K site (press.liacs.nl/mirflickr, mirflickr25k.zip) and the .mat files"
            " from the DCMH release (jiangqy/DCMH-CVPR2017) or torchcmh (imgList, tagList, labelList); CMH_DATA moves"
            " the folder",
            heading="MIRFlickr-25K is not complete here; missing",
        )
    values = {name: _matrix(path, name) for name, path in paths.items() if path is not None}
    image_names = [str(np.ravel(cell)[0]).strip() for cell in np.ravel(values["FAll"])]
    tags, labels = np.asarray(values["YAll"]), np.asarray(values["LAll"])
    problems = []
    for variable, array, wanted in (("YAll", tags, "tags"), ("LAll", labels, "labels")):
        if array.shape != (FACTS["items"], FACTS[wanted]):
            problems.append(f"{variable} is {array.shape}, but must be ({FACTS['items']}, {FACTS[wanted]})")
    if len(image_names) != FACTS["items"]:
        problems.append(f"FAll names {len(image_names)} pictures, but must name {FACTS['items']}")
    if outside := [name for name in image_names if Path(name).name != name]:
        problems.append(f"FAll holds {outside[0]!r}; a picture must lie directly in {root / 'images'}")
    elif absent := [name for name in image_names if not (root / "images" / name).is_file()]:
        problems.append(f"{len(absent)} pictures are not in {root / 'images'}, the first is {absent[0]}")
    if problems:
        raise DatasetError(*problems, heading=f"MIRFlickr-25K in {root} cannot be used")
    digest = hashlib.sha256("\n".join(image_names).encode())
    for name in image_names:  # a photo that changes must not meet its old features
        digest.update(str((root / "images" / name).stat().st_size).encode())
    digest.update(np.ascontiguousarray(tags, np.uint8).tobytes() + np.ascontiguousarray(labels, np.uint8).tobytes())

    def pictures() -> Iterator[bytes]:
        for name in image_names:
            yield (root / "images" / name).read_bytes()

    return Source(
        name="mirflickr25k",
        sha256=digest.hexdigest(),
        label_names=tuple(f"label {number}" for number in range(1, FACTS["labels"] + 1)),
        split=published(FACTS["items"], **SPLIT),
        labels=labels.astype(np.uint8),
        text=lambda: tags.astype(np.float32),
        pictures=pictures,
    )


def _matrix(path: Path, name: str) -> Any:
    from scipy.io import loadmat

    try:
        content = loadmat(path)
    except Exception as error:  # scipy raises many kinds for files that are no MATLAB files
        raise DatasetError(f"{path}: cannot be read as a MATLAB file ({error})") from error
    if name not in content:
        found = sorted(key for key in content if not key.startswith("__"))
        raise DatasetError(f"{path}: has no variable {name}; found {', '.join(found) or 'none'}")
    return content[name]
