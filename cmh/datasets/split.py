"""Who asks and who answers: index lists of a dataset, fixed by a seed."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cmh.seeding import derive

Index = NDArray[np.int64]

SIDES = ("query", "validation", "train", "database")  # what an item may be; training items are searched, too
MEANT = {
    **dict.fromkeys(("test", "testing", "queries"), "query"),
    **dict.fromkeys(("val", "valid", "dev", "development", "eval"), "validation"),
    **dict.fromkeys(("training", "trainset"), "train"),
    **dict.fromkeys(("db", "gallery", "retrieval", "base"), "database"),
}  # what others call these sides: for messages alone


@dataclasses.dataclass(frozen=True)
class Split:
    """Rows of a dataset, each side `(n_side,)`. `other`: in the database, but neither trained on nor asked with."""

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

    def only(self, kept: Index) -> Split:
        """The same split of the rows `kept` `(n_kept,)` (ascending) alone, numbered anew."""
        place = np.full(max((int(rows.max(initial=-1)) for rows in self.parts()), default=-1) + 1, -1, np.int64)
        inside = kept[kept < len(place)]
        place[inside] = np.arange(len(inside))
        return Split(*(place[rows][place[rows] >= 0] for rows in self.parts()))

    def parts(self) -> tuple[Index, Index, Index, Index]:
        """The four sides, `(n_side,)` each."""
        return self.query, self.validation, self.train, self.other


def meant(name: str) -> str:
    """The side that a name of others stands for (`val`, `test`, `Train` …); empty where none is known."""
    lower = name.strip().lower()
    return lower if lower in SIDES else MEANT.get(lower, "")


def by_groups(
    groups: Sequence[str], n_query: int, n_validation: int, seed: int = 0, n_train: int | None = None
) -> Split:
    """Whole groups in random order: first to the queries while they fit, then to validation, the rest to train.

    With `n_train` no more than that are trained on, and what is left is database only.
    """
    members: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    order = np.random.default_rng(derive(seed, "split")).permutation(len(members))
    keys = list(members)
    room = {"query": n_query, "validation": n_validation}
    if n_train is not None:
        room["train"] = n_train
    parts: dict[str, list[int]] = {"query": [], "validation": [], "train": [], "other": []}
    for number in order:
        rows = members[keys[number]]
        left = "train" if n_train is None else "other"
        side = next((name for name, free in room.items() if len(rows) <= free), left)
        parts[side] += rows
        if side in room:
            room[side] -= len(rows)
    return Split(*(np.array(sorted(parts[name]), np.int64) for name in parts))


def stratified(
    groups: Sequence[str],
    labels: NDArray[np.uint8],
    n_query: int,
    n_validation: int,
    seed: int = 0,
    n_train: int | None = None,
) -> Split:
    """Whole groups dealt out so that every side has nearly the same shares of labels `(n, c)` and of group sizes.

    The largest groups first, equal ones in random order: each goes, among the sides with room for it, to the one
    where it lowers Σ (there − wanted)² / wanted most. The sum is over the items of each label, the items in each class
    of group sizes (1, 2, 3–4, 5–8 …), and the sum of squared sizes, which makes the mean size of an item's group
    agree although the largest group lies on one side; every side wants its part of the whole. This is the idea of
    Sechidis, Tsoumakas and Vlahavas (On the stratification of multi-label data, ECML PKDD 2011), who deal out single
    items, rarest label first. Groups of one item come last, so with enough of those the numbers are met exactly; a
    group that fits nowhere goes to the rest (train, or with `n_train` the database).
    """
    members: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    sizes = np.array([len(rows) for rows in members.values()], np.int64)
    of_size = np.ceil(np.log2(sizes)).astype(np.int64)
    # What a group brings of each label, of its class of sizes, and of the squared sizes.
    brings = np.zeros((len(members), labels.shape[1] + int(of_size.max(initial=0)) + 2))
    for number, rows in enumerate(members.values()):
        brings[number, : labels.shape[1]] = labels[rows].sum(0, dtype=np.int64)
        brings[number, labels.shape[1] + of_size[number]] = len(rows)
    brings[:, -1] = sizes**2
    room = np.array([n_query, n_validation, len(groups) if n_train is None else n_train, 0])
    room[2] = max(0, min(room[2], len(groups) - room[:2].sum()))
    room[3] = max(0, len(groups) - room.sum())
    wanted = np.outer(room / max(1, len(groups)), brings.sum(0)) + 1e-9  # side × label or class; never 0
    there = np.zeros_like(wanted)
    rest = 2 if n_train is None else 3
    parts: list[list[int]] = [[], [], [], []]
    order = np.random.default_rng(derive(seed, "stratified split")).permutation(len(members))
    names = list(members)
    for number in order[np.argsort(-sizes[order], kind="stable")].tolist():
        more = brings[number]
        change = (more * (more + 2 * (there - wanted)) / wanted).sum(1)
        fits = np.flatnonzero(room >= sizes[number])
        side = int(fits[np.argmin(change[fits])]) if len(fits) else rest
        parts[side] += members[names[number]]
        there[side] += more
        room[side] -= sizes[number]
    return Split(*(np.array(sorted(rows), np.int64) for rows in parts))


def published(n: int, *, n_query: int, n_train: int, n_validation: int, seed: int | None) -> Split:
    """A published split: queries first, then training items; the rest is database.

    With a seed the order is torchcmh's (NumPy's legacy permutation), without one the file's (the DCMH release's).
    The validation queries come from the rest, so the published test protocol stays untouched; where the rest is too
    short, from the end of the training items.
    """
    order = np.arange(n) if seed is None else np.random.RandomState(seed).permutation(n)
    train, rest = order[n_query : n_query + n_train], order[n_query + n_train :]
    short = max(0, n_validation - len(rest))
    train, borrowed = train[: len(train) - short], train[len(train) - short :]
    validation = np.concatenate([rest[:n_validation], borrowed])
    return Split(order[:n_query], validation, train, rest[n_validation:])
