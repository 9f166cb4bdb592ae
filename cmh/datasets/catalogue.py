"""The built-in datasets by name, and what else may stand where a dataset is named."""

from __future__ import annotations

from pathlib import Path

from cmh.datasets.facts import FACTS

NAMES = ("clipart", *FACTS)
ORDERS = ("torchcmh", "file")  # of a benchmark's items, which decides its split


def names() -> list[str]:
    """Built-in datasets."""
    return list(NAMES)


def is_folder(name: str) -> bool:
    """Whether a dataset is named by the path of its folder."""
    return name not in NAMES and (Path(name).is_dir() or "/" in name)
