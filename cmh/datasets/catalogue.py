"""The built-in datasets by name, and what else may stand where a dataset is named."""

from __future__ import annotations

from pathlib import Path

from cmh.datasets.facts import FACTS

NAMES = ("clipart", *FACTS)
ORDERS = ("torchcmh", "file", "dchmt", "mith", "dsph")  # splits of a benchmark: by seed, in file order, of a release
CAPTIONS = {
    "all": "all of them are one text",
    "first": "the first alone",
    "draw": "one is drawn for each epoch of training; to be ranked, the net's outputs on all of them are averaged",
}  # of an item that has several
GIVEN = "given"  # of captions: what the dataset says


def names() -> list[str]:
    """Built-in datasets."""
    return list(NAMES)


def is_folder(name: str) -> bool:
    """Whether a dataset is named by the path of its folder."""
    return name not in NAMES and (Path(name).is_dir() or "/" in name)
