"""The arrays that both trees of `against.py` train on: folders with a `dataset.yml`, written once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import yaml
from numpy.lib.format import open_memmap

AT_ONCE = 10_000  # items that are drawn in one block


@dataclasses.dataclass(frozen=True)
class Made:
    """Sizes of a made-up dataset. The validation database is what is trained on and `other`."""

    n_train: int
    other: int = 0
    n_validation: int = 500
    image_dim: int = 1280
    text_dim: int = 849
    n_words: int = 3  # of an item's text
    n_labels: int = 24


def clipart(folder: Path) -> Path:
    """The built-in clip art, as this tree reads it: frozen features, bags of words, labels, split.

    The test split stays closed: a dataset must have queries, and these are its first validation items again.
    """
    import scipy.sparse

    from cmh import datasets

    data = datasets.load("clipart").search()
    n_train, n_database = len(data.train.labels), len(data.validation_database.labels)
    sides = {
        "train": data.train,
        "database": data.validation_database.rows(slice(n_train, n_database)),
        "validation": data.validation_query,
        "query": data.validation_query.rows(slice(10)),
    }
    folder.mkdir(parents=True)
    arrays = {
        "image": [side.image for side in sides.values()],
        "text": [s.text.toarray() if scipy.sparse.issparse(s.text) else s.text for s in sides.values()],
        "labels": [side.labels for side in sides.values()],
        "split": [np.full(len(side.labels), name) for name, side in sides.items()],
    }
    for name, parts in arrays.items():
        np.save(folder / f"{name}.npy", np.concatenate(parts))
    return _described(folder)


def made(folder: Path, size: Made, seed: int = 0) -> Path:
    """A made-up dataset: each item has one to three labels, which its features and its words come from, with noise."""
    parts = {"train": size.n_train, "database": size.other, "validation": size.n_validation, "query": 100}
    n_items = sum(parts.values())
    folder.mkdir(parents=True)
    np.save(folder / "split.npy", np.repeat(list(parts), list(parts.values())))
    shapes = {
        "image": (size.image_dim, np.float32),
        "text": (size.text_dim, np.float32),
        "labels": (size.n_labels, "u1"),
    }
    image, text, labels = (
        open_memmap(folder / f"{name}.npy", "w+", dtype, (n_items, columns))
        for name, (columns, dtype) in shapes.items()
    )
    draw = np.random.default_rng(seed)
    directions = draw.standard_normal((size.n_labels, size.image_dim), np.float32)
    for start in range(0, n_items, AT_ONCE):
        rows = np.arange(start, min(n_items, start + AT_ONCE))
        chosen = draw.integers(size.n_labels, size=(len(rows), 3))
        labels[rows[:, None], chosen] = 1
        noise = draw.standard_normal((len(rows), size.image_dim), np.float32)
        image[rows] = directions[chosen].mean(1) + noise
        # Half of the words stand for one of the item's labels, each label having words of its own.
        own = chosen[:, draw.integers(3, size=size.n_words)] + size.n_labels * draw.integers(
            max(1, size.text_dim // size.n_labels), size=(len(rows), size.n_words)
        )
        other = draw.integers(size.text_dim, size=(len(rows), size.n_words))
        words = np.where(draw.random((len(rows), size.n_words)) < 0.5, own % size.text_dim, other)
        text[rows[:, None], words] = 1
    return _described(folder)


def pictures(folder: Path, side: int, n_items: int = 40) -> Path:
    """Made-up pictures with a word and a label each."""
    from PIL import Image

    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    parts = np.repeat(["train", "validation", "query"], [n_items - 16, 8, 8])
    lines = []
    for number, part in enumerate(parts):
        pixels = draw.integers(256, size=(side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        label = "ab"[number % 2]
        lines.append({"image": f"{number}.png", "text": f"word{label} thing", "labels": [label], "split": str(part)})
    (folder / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "dataset.yml").write_text(yaml.safe_dump({"name": folder.name, "items": "items.jsonl"}))
    return folder


def resnet18(path: Path) -> Path:
    """A file of weights for ResNet-18 that were drawn at random: sizes and times do not depend on them."""
    import torch
    import torchvision

    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    return path


def _described(folder: Path) -> Path:
    files = {name: f"{name}.npy" for name in ("image", "text", "labels", "split")}
    (folder / "dataset.yml").write_text(yaml.safe_dump({"name": folder.name, "features": files}))
    return folder
