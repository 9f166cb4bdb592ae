"""Several lines about one picture, as caption lists have them: one item with several texts."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Sequence

from cmh.config import shown
from cmh.datasets.own.item_list import Item
from cmh.datasets.problems import Problems

SAME = ("labels", "group", "split")  # of all lines of a picture, where they say it


def together(found: Sequence[Item], problems: Problems, *, join: bool) -> tuple[list[Item], set[int]]:
    """The items, each with the texts and tags of all its lines; and the rows that became part of an earlier one.

    Lines that contradict each other are a problem, and without `join` all further ones are. Rows with a problem stay
    as they are.
    """
    first: dict[str, int] = {}
    further: dict[int, list[int]] = {}
    for row, item in enumerate(found):
        name = os.path.normpath(item.image) if item.image else ""
        if not name or row in problems.rows or first.setdefault(name, row) == row:
            continue
        base = found[first[name]]
        reason = "text: kind: matrix has a row for each line" if not join else _contradiction(base, item)
        if not reason:
            further.setdefault(first[name], []).append(row)
            continue
        where = base.where.rpartition(":")[2]
        said = f"{item.where}: image {shown(item.image)} stands in line {where} already; {reason}"
        problems.item(row, "duplicate", said, optional=False)
    items = list(found)
    for row, others in further.items():
        lines = [found[number] for number in (row, *others)]
        items[row] = dataclasses.replace(
            items[row],
            text=tuple(dict.fromkeys(part for line in lines for part in line.text)),
            tags=tuple(dict.fromkeys(part for line in lines for part in line.tags)),
        )
    absorbed = {row for others in further.values() for row in others}
    if absorbed:
        n = len(absorbed) + len(further)
        problems.note(f"{len(further):,} pictures stand in {n:,} lines: the lines of a picture are texts of one item")
    return items, absorbed


def taken(found: Sequence[Item], absorbed: Collection[int], how: str, problems: Problems) -> list[Item]:
    """The items with the captions that are used of them; that one has none is a problem, unless all are one text."""
    if how == "all":
        return list(found)
    for row, item in enumerate(found):
        if not item.text and row not in problems.rows and row not in absorbed:
            line = f"{item.where}: has no text, but captions: {how} takes one of each item's; captions: all does not"
            problems.item(row, "no caption", line)
    return [dataclasses.replace(item, text=item.text[:1]) for item in found] if how == "first" else list(found)


def each(items: Sequence[Item]) -> list[Item]:
    """An item for each caption, in order; an item's tags go with all of its captions."""
    return [dataclasses.replace(item, text=(caption,)) for item in items for caption in item.text]


def _contradiction(base: Item, item: Item) -> str:
    """Why two lines are not of one item; empty where they may be."""
    for part in SAME:
        one, other = getattr(base, part), getattr(item, part)
        if other and sorted(one) != sorted(other):
            return (
                f"lines of one picture are texts of one item where {', '.join(SAME)} agree, but {part} differs:"
                f" {shown(one)} and {shown(other)}; join them in one line"
            )
    return ""
