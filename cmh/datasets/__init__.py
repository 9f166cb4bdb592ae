"""Datasets: items with a picture, a text and labels, split once; arrays that a trial maps into memory.

`load` gives a dataset with its arrays; `read` what its reader sees, before any feature is computed. The readers stand
in `clipart`, `benchmarks` (with a module for each official distribution) and `own`.
"""

from __future__ import annotations

from cmh.datasets.cached import CachedDataset, locked
from cmh.datasets.catalogue import CAPTIONS, GIVEN, NAMES, ORDERS, is_folder, names
from cmh.datasets.loading import DEFAULT_FEATURES, load, read
from cmh.datasets.source import Source
from cmh.interfaces import Arrays, Dataset, SearchData, TestData

__all__ = [
    "CAPTIONS",
    "DEFAULT_FEATURES",
    "GIVEN",
    "NAMES",
    "ORDERS",
    "Arrays",
    "CachedDataset",
    "Dataset",
    "SearchData",
    "Source",
    "TestData",
    "is_folder",
    "load",
    "locked",
    "names",
    "read",
]
