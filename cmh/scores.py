"""All protocols on one set of codes, and the rules by which releases choose the epoch that they report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cmh import codes as code_files
from cmh import curves, protocols
from cmh.codes import Codes
from cmh.errors import RecordError
from cmh.metrics import counted
from cmh.metrics.counted import Floats
from cmh.protocols import Direction
from cmh.records import MEAN_DIGITS, Record


@dataclasses.dataclass(frozen=True)
class Line:
    """A protocol's numbers."""

    group: str
    protocol: str
    used_by: str
    k: int | None
    i2t: float | None
    t2i: float | None
    shown: bool
    printed: bool

    @property
    def mean(self) -> float | None:
        """Of both directions."""
        return None if self.i2t is None or self.t2i is None else (self.i2t + self.t2i) / 2


@dataclasses.dataclass(frozen=True)
class EpochRule:
    """Which epoch is reported for each direction, from the MAP of all epochs on test and the one that validation chose
    (an index, or None); None where the rule cannot be followed.
    """

    name: str
    used_by: str
    choose: Callable[[Floats, Floats, int | None], tuple[int, int] | None]


def codes_of(folder: Path, record: Record) -> Codes:
    """The codes of a record. Raises RecordError as `ranked_of` does."""
    return ranked_of(folder, record)[0]


def ranked_of(folder: Path, record: Record) -> tuple[Codes, tuple[Direction, Direction]]:
    """The codes of a record, and both directions of search in them. Raises RecordError where they are another run's:
    MAP must be the record's number."""
    path = folder / record.codes
    if record.codes != path.name or path.is_symlink():
        raise RecordError(f"{folder}: the file {record.codes!r} must lie in the folder of its record")
    found = code_files.read(path)
    if found.epochs:
        raise RecordError(f"{path}: has an axis of epochs, but a record is of one epoch; it belongs to something else")
    sides = protocols.directions(found)
    for name, side in zip(("map_i2t", "map_t2i"), sides, strict=True):
        value = counted.mean(side.ranked.average_precision())
        if abs(value - record.test[name]) > MEAN_DIGITS:
            numbers = f"its {name} is {value:.6f}, but the record says {record.test[name]:.6f}"
            raise RecordError(f"{path}: {numbers}: it belongs to another run, or one of the two was edited")
    return found, sides


def table(codes: Codes) -> list[Line]:
    """Every protocol on one set of codes; of codes with epochs, on the chosen one or else the last, and the rules by
    which releases pick an epoch.
    """
    lines = epoch_lines(codes) if codes.epochs else []
    one = codes.after(codes.chosen_epoch or codes.epochs) if codes.epochs else codes
    sides = protocols.directions(one)
    for way in protocols.PROTOCOLS:
        i2t, t2i = (way.compute(side, way.k) for side in sides)
        lines.append(Line(way.group, way.name, way.used_by, way.k, i2t, t2i, way.shown, way.printed))
    for curve in curves.CURVES:
        (at, *first), (_, *second) = (curve.points(side.ranked) for side in sides)
        for what, one_way, other_way in zip(("precision", "recall"), first, second, strict=True):
            name = f"PR curve {curve.name}: {what}"
            lines += [
                Line("curves", name, curve.used_by, int(k), float(x), float(y), False, False)
                for k, x, y in zip(at, one_way, other_way, strict=True)
            ]
    return lines


def epoch_lines(codes: Codes) -> list[Line]:
    """What each rule for choosing an epoch reports as MAP, ties as expected."""
    maps = np.array(
        [
            [counted.mean(side.ranked.average_precision()) for side in protocols.directions(codes.after(epoch))]
            for epoch in range(1, codes.epochs + 1)
        ]
    )
    lines = []
    chosen = None if codes.chosen_epoch is None else codes.chosen_epoch - 1
    for rule in EPOCHS:
        found = rule.choose(maps[:, 0], maps[:, 1], chosen)
        if found is not None:
            first, second = found
            where = f"epoch {first + 1}" if first == second else f"epochs {first + 1} and {second + 1}"
            values = float(maps[first, 0]), float(maps[second, 1])
            lines.append(Line("epoch", f"MAP@all, {rule.name} ({where})", rule.used_by, None, *values, True, True))
    return lines


def _improving(i2t: Floats, t2i: Floats) -> int:
    """The last epoch at which neither direction was below that of the last such epoch."""
    best = 0
    for epoch in range(1, len(i2t)):
        if i2t[epoch] >= i2t[best] and t2i[epoch] >= t2i[best]:
            best = epoch
    return best


def _same(epoch: int | np.integer) -> tuple[int, int]:
    return int(epoch), int(epoch)


EPOCHS: tuple[EpochRule, ...] = (
    EpochRule(
        "chosen on validation",
        "cmh; DGCPN; UCCH, on training items",
        lambda i2t, t2i, chosen: None if chosen is None else _same(chosen),
    ),
    EpochRule("the last", "DCMH, DJSRH, DCHUC, UCMFH", lambda i2t, t2i, chosen: _same(len(i2t) - 1)),
    EpochRule(
        "best on test, each direction's own",
        "DCHMT, DSPH, DNPH, DHaPH, DNpH, DCGH, TwDH",
        lambda i2t, t2i, chosen: (int(i2t.argmax()), int(t2i.argmax())),
    ),
    EpochRule(
        "best on test, of the sum",
        "MITH, torchcmh, JDSH, DSAH, DADH",
        lambda i2t, t2i, chosen: _same((i2t + t2i).argmax()),
    ),
    EpochRule(
        "best on test, if both improve", "WendellGul's DCMH", lambda i2t, t2i, chosen: _same(_improving(i2t, t2i))
    ),
)


def averaged(tables: Sequence[Sequence[Line]]) -> list[Line]:
    """The mean of each line over several sets of codes, as of the seeds of one configuration; all tables have the same
    lines, and a number that one of them is without is missing from the mean too.
    """

    def mean(values: Sequence[float | None]) -> float | None:
        present = [value for value in values if value is not None]
        return sum(present) / len(present) if len(present) == len(values) else None

    return [
        dataclasses.replace(same[0], i2t=mean([line.i2t for line in same]), t2i=mean([line.t2i for line in same]))
        for same in zip(*tables, strict=True)
    ]
