"""Whether a run gives what was recorded: equal where it can be, within a stated tolerance where rounding differs."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from cmh.identity import MACHINE
from cmh.records import METRICS
from cmh.study.target import Recorded

# Of the versions beside torch's, which an identity holds: what a number passes through.
VERSIONS = ("numpy", "numba", "processor")
LOWEST, ALONE = 0.005, 0.02  # tolerance: at least, and where one seed says nothing about spread
DEVIATIONS = 3.0  # on 17 methods whose features had been computed anew, the largest difference seen was 1.8
_ANY = " of any "  # in the name of what is the largest of many differences


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Lines for people, and whether everything agrees."""

    lines: tuple[str, ...]
    agrees: bool


def compare(recorded: Mapping[int, Recorded], found: Mapping[int, Recorded], asked: Iterable[int] = ()) -> Verdict:
    """What was recorded against what was found, seed by seed; of the seeds `asked` for each must be recorded.

    Data, split and settings must be the same. With the same device, threads and versions every number must be equal to
    the last digit: validation MAP (of each epoch, where it was kept), chosen epoch, test MAP and the AP of each query.
    Otherwise sums round differently, which training carries on as another seed would: each MAP must then be within
    `DEVIATIONS` standard deviations over the recorded seeds, the largest of the six MAPs' (of three numbers one may be
    small by chance), at least LOWEST; ALONE where one seed was recorded. Nothing compared, or a NaN, does not agree.
    """
    seeds = [seed for seed in recorded if seed in found]
    if not seeds:
        return Verdict((f"nothing was compared: recorded are seeds {_listed(recorded)}, run {_listed(found)}",), False)
    missing = [seed for seed in asked if seed not in recorded]
    lines = [f"seed {seed}: nothing was recorded that it could be compared with" for seed in missing]
    agrees = not missing
    most = tolerance(recorded)
    for seed in seeds:
        there, here = recorded[seed], found[seed]
        if wrong := other_run(there, here):
            lines += [f"seed {seed}: is another run: {line}" for line in wrong]
            agrees = False
            continue
        if changed := _code(there, here):
            lines.append(f"seed {seed}: {changed}")
        reasons = _rounding(there, here)
        if reasons:
            lines.append(
                f"seed {seed}: compared within a tolerance of {most:.4f}, as other sums round differently and"
                f" training carries that on like another seed ({_why(recorded)}): {'; '.join(reasons)}"
            )
        else:
            lines.append(
                f"seed {seed}: compared without tolerance: device, threads, arrays and versions are the record's"
            )
        allowed = most if reasons else 0.0
        compared = 0
        for name, old, new, binding in _numbers(there, here):
            compared += binding or not reasons
            difference = abs(new - old)
            fine = difference <= allowed if binding else (not reasons and difference == 0) or bool(reasons)
            fine = fine and math.isfinite(old) and math.isfinite(new)
            agrees = agrees and fine
            verdict = "" if fine else "  OUTSIDE"
            numbers = f"difference {difference:.2g}{verdict}"
            if _ANY not in name:  # which has no single recorded number
                numbers = f"recorded {old:.6g}, now {new:.6g}, {numbers}"
            lines.append(f"seed {seed}: {name:<22} {numbers}")
        if not compared:
            lines.append(f"seed {seed}: nothing was compared")
            agrees = False
    return Verdict(tuple(lines), agrees)


def _listed(seeds: Mapping[int, Recorded]) -> str:
    return ", ".join(map(str, sorted(seeds))) or "none"


def tolerance(recorded: Mapping[int, Recorded]) -> float:
    """How far a MAP may lie from the recorded one where sums round differently; `compare` says by which rule."""
    if len(recorded) < 2:
        return ALONE
    spreads = [LOWEST / DEVIATIONS]
    for part in ("validation", "test"):
        for key in METRICS:
            values = [getattr(one, part).get(key, math.nan) for one in recorded.values()]
            if all(map(math.isfinite, values)):
                spreads.append(statistics.stdev(values))
    return DEVIATIONS * max(spreads)


def _why(recorded: Mapping[int, Recorded]) -> str:
    n = len(recorded)
    spread = f"{DEVIATIONS:g} times what its MAPs deviate at most over {n} recorded seeds, at least {LOWEST:g}"
    return spread if n > 1 else "one seed tells no spread"


def other_run(there: Recorded, here: Recorded) -> list[str]:
    """What makes it another run, so that its numbers say nothing. The name of the data does not: their hash does."""
    if there.identity is None or here.identity is None:
        return []
    return there.identity.differences(here.identity, "code", "dataset", *MACHINE)


def _code(there: Recorded, here: Recorded) -> str:
    if there.identity is None or here.identity is None or there.identity.code == here.identity.code:
        return ""
    return (
        f"the code has changed since ({there.identity.code} there, {here.identity.code} here); equal numbers say that"
        " the change changes none"
    )


def _rounding(there: Recorded, here: Recorded) -> list[str]:
    """Why sums may round differently."""
    if there.identity is None or here.identity is None:
        return ["the record does not say on which machine it was made"]
    old = {key: getattr(there.identity, key) for key in MACHINE} | {key: there.versions.get(key) for key in VERSIONS}
    new = {key: getattr(here.identity, key) for key in MACHINE} | {key: here.versions.get(key) for key in VERSIONS}
    return [f"{key}: {_short(old[key])} there, {_short(new[key])} here" for key in old if old[key] != new[key]]


def _short(value: object) -> str:
    return str(value)[:24]


def _numbers(there: Recorded, here: Recorded) -> list[tuple[str, float, float, bool]]:
    """(name, recorded, found, whether it binds where rounding differs) of everything that both know."""
    rows: list[tuple[str, float, float, bool]] = []
    for part, old, new in (("validation", there.validation, here.validation), ("test", there.test, here.test)):
        rows += [(f"{part} {key}", old[key], new[key], True) for key in METRICS if key in old and key in new]
    if there.chosen_epoch is not None and here.chosen_epoch is not None:
        rows.append(("chosen epoch", there.chosen_epoch, here.chosen_epoch, False))
    if there.curve and here.curve:
        rows.append((f"validation{_ANY}epoch", 0.0, _worst(np.array(there.curve), np.array(here.curve)), False))
    if there.ap is not None and here.ap is not None:
        for name in ("i2t", "t2i"):
            old_ap, new_ap = getattr(there.ap, name), getattr(here.ap, name)
            rows.append((f"AP{_ANY}query, {name}", 0.0, _worst(old_ap, new_ap), False))
    return rows


def _worst(old: NDArray[np.float64], new: NDArray[np.float64]) -> float:
    """The largest difference; NaN where there are not as many numbers."""
    return float(np.abs(new - old).max()) if old.shape == new.shape else math.nan
