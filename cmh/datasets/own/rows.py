"""What both kinds of own dataset share: which rows are good, how they are split, their groups and labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from cmh.config import shown
from cmh.datasets.own.settings import FILE, Draw
from cmh.datasets.problems import Problems
from cmh.datasets.split import SIDES, Split, by_groups, stratified

VERSION = 2  # of how texts and arrays are made
LISTED = 5  # labels without items in a note


@dataclasses.dataclass(frozen=True)
class Rows:
    """All rows of a dataset, before the bad ones are left out."""

    names: Sequence[str]  # for messages
    labels: NDArray[np.uint8]  # (n, c)
    label_names: Sequence[str]
    groups: Sequence[str]  # "" where an item has none
    sides: Sequence[str]  # "" where an item carries none
    absorbed: Collection[int] = frozenset()  # rows that are part of an earlier item, and none of their own


@dataclasses.dataclass(frozen=True)
class Good:
    """The rows without a problem, numbered anew."""

    kept: NDArray[np.int64]  # (n_kept,): their numbers among all rows
    split: Split
    labels: NDArray[np.uint8]  # (n_kept, c_used): labels that occur
    label_names: list[str]  # of these
    groups: tuple[str, ...]  # of each; empty where no item has one


def good(rows: Rows, draw: Draw | None, problems: Problems) -> Good | None:
    """What is left of `rows` without those that `problems` names; None where nothing can be made of it.

    Adds what is wrong with split, groups and labels.
    """
    left_out = problems.rows.union(rows.absorbed)
    carried = [bool(side) for side in rows.sides]
    if any(carried):
        if draw is not None:
            problems.add("split", f"{FILE}: split draws, but the items carry their own split: remove one of the two")
        for row in (row for row, has in enumerate(carried) if not has and row not in left_out):
            problems.item(row, "split", f"{rows.names[row]}: has no split, but other items have")
        _check_groups(rows, problems)
    elif draw is None and not problems.fatal:
        problems.add(
            "split",
            f"there is no split: give items a split, or write split: {{query: N, validation: N}} in {FILE}",
        )
    _check_labels(rows, draw, problems)
    left_out = problems.rows.union(rows.absorbed)
    kept = np.array([row for row in range(len(rows.labels)) if row not in left_out], np.int64)
    labels = rows.labels[kept]
    used: NDArray[np.bool_] = np.asarray(labels.any(0))
    # A label that no item has; one that only bad items have is said by those.
    if empty := [shown(rows.label_names[column]) for column in np.flatnonzero(~used & ~rows.labels.any(0)).tolist()]:
        more = f" and {len(empty) - LISTED:,} more" if len(empty) > LISTED else ""
        problems.note(f"labels without an item are left out ({len(empty):,}): {', '.join(empty[:LISTED])}{more}")
    if not len(kept):
        problems.add("items", "no item is left without a problem")
    if problems.fatal:
        return None
    split = _carried(rows, kept, problems) if draw is None else _drawn(rows, draw, kept, problems)
    if split is None:
        return None
    if len(gone := _beside_queries(rows, kept, split)):
        problems.note(f"items without labels in the groups of queries are left out: {len(gone):,}")
        rest = np.setdiff1d(np.arange(len(kept)), gone)
        kept, labels, split = kept[rest], labels[rest], split.only(rest)
    if n_without := int((~labels.any(1)).sum()):
        problems.note(
            f"{n_without:,} items have no label: unsupervised methods train on those among the training items;"
            " evaluation leaves them out"
        )
    names = [name for name, has in zip(rows.label_names, used, strict=True) if has]
    groups = tuple(rows.groups[row] for row in kept)
    return Good(kept, split, np.ascontiguousarray(labels[:, used]), names, groups if any(groups) else ())


def _check_labels(rows: Rows, draw: Draw | None, problems: Problems) -> None:
    """Queries need labels. Other items do not, but are as bad as they ever were where bad items are left out."""
    without = [row for row in np.flatnonzero(~rows.labels.any(1)).tolist() if row not in rows.absorbed]
    without = [row for row in without if row not in problems.rows]
    if len(without) == len(rows.labels) - len(problems.rows.union(rows.absorbed)):
        if without:
            problems.add("no label", "no item has a label, but queries and the items that answer them need labels")
        return
    for row in without:
        side = rows.sides[row] if draw is None else ""
        if side in SIDES[:2]:
            problems.item(row, "no label", f"{rows.names[row]}: has no label, but is a {side} item")
        elif problems.skip_bad:
            problems.item(row, "no label", f"{rows.names[row]}: has no label; without --skip-bad it is trained on")


def _check_groups(rows: Rows, problems: Problems) -> None:
    """A group has one side: query, validation, or the database with the training items in it."""
    sides: dict[str, str] = {}
    for row, (group, side) in enumerate(zip(rows.groups, rows.sides, strict=True)):
        side = "database" if side == "train" else side
        if group and side and sides.setdefault(group, side) != side:
            first = sides[group]
            problems.item(row, "group", f"{rows.names[row]}: group {shown(group)} is in {first} and in {side}")


def _carried(rows: Rows, kept: NDArray[np.int64], problems: Problems) -> Split | None:
    """The split that the items `kept` `(n_kept,)` carry themselves; None where a side is empty."""
    sides = np.array([rows.sides[row] for row in kept])
    split = Split(*(np.flatnonzero(sides == side) for side in SIDES))
    return _without_empty_sides(split, "no item has this split", problems)


def _drawn(rows: Rows, draw: Draw, kept: NDArray[np.int64], problems: Problems) -> Split | None:
    """A split of the items `kept` `(n_kept,)` as dataset.yml asks for it; None where it cannot be drawn."""
    labelled = np.flatnonzero(rows.labels[kept].any(1))
    if draw.query + draw.validation + max(draw.train, 1) > len(labelled):
        problems.add(
            "split",
            f"{FILE}: split asks for {draw.query + draw.validation + draw.train:,} items and at least one to train"
            f" on, but there are {len(labelled):,}{' with a label' * (len(labelled) < len(kept))}; ask for fewer",
        )
        return None
    if draw.by == "item" and any(rows.groups):
        problems.add("split", f"{FILE}: split: by item tears groups apart, but the items have groups; write by: group")
        return None
    some = kept[labelled]
    names = [rows.groups[row] or f"\0{row}" for row in some]  # an item without a group is one of its own
    numbers = draw.query, draw.validation, draw.seed, draw.train or None
    split = stratified(names, rows.labels[some], *numbers) if draw.stratify else by_groups(names, *numbers)
    query, validation, train, other = (labelled[part] for part in split.parts())
    others = np.setdiff1d(np.arange(len(kept)), labelled)
    if not len(others):
        pass
    elif draw.train:  # the number of training items is given: all others are only searched
        other = np.sort(np.concatenate([other, others]))
    else:
        train = np.sort(np.concatenate([train, others]))
    whole = Split(query, validation, train, other)
    return _without_empty_sides(whole, "smaller groups or a larger number would do", problems)


def _beside_queries(rows: Rows, kept: NDArray[np.int64], split: Split) -> NDArray[np.int64]:
    """Which of the rows `kept` `(n_kept,)` have no label, but the group of a query: searched, they would answer it."""
    asked = {rows.groups[kept[row]] for part in split.parts()[:2] for row in part.tolist()} - {""}
    without = np.flatnonzero(~rows.labels[kept].any(1)).tolist()
    return np.array([row for row in without if rows.groups[kept[row]] in asked], np.int64)


def _without_empty_sides(split: Split, cure: str, problems: Problems) -> Split | None:
    for side, part in zip(SIDES[:3], split.parts()[:3], strict=True):
        if not len(part):
            problems.add("split", f"no {side} items: {cure}")
    return None if problems.fatal else split
