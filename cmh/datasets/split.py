"""Who asks and who answers: index lists of a dataset, fixed by a seed."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cmh.seeding import derive

Index = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Split:
    """Rows of a dataset. `other`: in the database, but neither trained on nor asked with."""

    query: Index
    validation: Index
    train: Index
    other: Index

    def sha256(self) -> str:
        """Of the four ordered lists."""
        digest = hashlib.sha256()
        for rows in (self.query, self.validation, self.train, self.other):
            digest.update(len(rows).to_bytes(8, "little"))
            digest.update(np.ascontiguousarray(rows, dtype="<i8").tobytes())
        return digest.hexdigest()


def by_groups(groups: Sequence[str], n_query: int, n_validation: int, seed: int = 0) -> Split:
    """Whole groups in random order: first to the queries while they fit, then to validation, the rest to train."""
    members: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    order = np.random.default_rng(derive(seed, "split")).permutation(len(members))
    keys = list(members)
    room = {"query": n_query, "validation": n_validation}
    parts: dict[str, list[int]] = {"query": [], "validation": [], "train": []}
    for number in order:
        rows = members[keys[number]]
        side = next((name for name, free in room.items() if len(rows) <= free), "train")
        parts[side] += rows
        if side in room:
            room[side] -= len(rows)
    query, validation, train = (np.array(sorted(parts[name]), np.int64) for name in ("query", "validation", "train"))
    return Split(query, validation, train, np.array([], np.int64))


def published(n: int, *, seed: int, n_query: int, n_train: int, n_validation: int) -> Split:
    """torchcmh's split: NumPy's legacy permutation, queries first, then training items; the rest is database.

    The validation queries come from the rest, so the published test protocol stays untouched.
    """
    order = np.random.RandomState(seed).permutation(n)
    train, rest = order[n_query : n_query + n_train], order[n_query + n_train :]
    return Split(order[:n_query], rest[:n_validation], train, rest[n_validation:])
