"""What a search was worth: what mattered, where the good values lie, what a smaller budget would have found, and which
trials told nothing. `verdict.py` says what follows from it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from statistics import mean

from cmh.config import Value
from cmh.study import figures
from cmh.study.expected import expected_best
from cmh.study.figures import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from cmh.study.samplers import OUTSIDE
from cmh.study.trial_row import TrialRow
from cmh.views.report import trials
from cmh.views.report.parts import Table
from cmh.views.story import Story

PARTS = ("low third", "middle third", "high third")
NEAR_CHANCE = 0.02  # MAP above chance below which a trial has learned next to nothing


@dataclasses.dataclass(frozen=True)
class Worth:
    """What is known of a search; `rows` are its trials, by number, with the searched hyperparameters alone."""

    story: Story
    rows: Sequence[TrialRow]
    compared: Sequence[tuple[TrialRow, float]]  # with the value that is compared: at the first rung, else the best
    rung: int | None
    ranges: Mapping[str, BaseDistribution]
    importance: Mapping[str, float]

    @property
    def tried(self) -> list[TrialRow]:
        """The trials that say something: ended, and neither a copy nor trained anew as another."""
        return [row for row in self.rows if row.state != "interrupted" and not _repeats(row)]

    @property
    def chance(self) -> float:
        """Validation MAP of random order; 0 where nobody measured it."""
        return self.story.controls.get("chance", (None, None, None))[2] or 0.0


def read(story: Story) -> Worth:
    """What the search of a study was worth, as far as its storage can be read."""
    stored, rung = story.stored, figures.first_rung(story.identity)
    inside = [trial for trial in stored if OUTSIDE not in trial.user_attrs]
    ranges = {name: one for trial in inside for name, one in trial.distributions.items()}
    compared = figures.valued(stored, rung)
    return Worth(story, trials.as_rows(story), compared, rung, ranges, figures.importances(stored, rung))


def position(item: BaseDistribution, value: Value) -> float | None:
    """Where a number lies in its range, from 0 to 1 on its own scale; None for a choice."""
    if not isinstance(item, (FloatDistribution, IntDistribution)) or isinstance(value, (str, bool)):
        return None
    scale = math.log if item.log else float
    low, high = scale(item.low), scale(item.high)
    return (scale(value) - low) / (high - low) if high > low else 0.5


def about_compared(worth: Worth) -> str:
    """Which trials are compared, and by what."""
    at = "their best validation MAP" if worth.rung is None else f"their best up to the first rung, epoch {worth.rung}"
    return f"{len(worth.compared)} of {len(worth.rows)} trials by {at}"


def importance_table(worth: Worth) -> Table | None:
    """The importance of each hyperparameter; None where none can be given."""
    if not worth.importance:
        return None
    rows = [[name, f"{share:.0%}"] for name, share in worth.importance.items()]
    caption = (
        f"how much each decides whether a trial is among the best {figures.BEST_SHARE:.0%} (PED-ANOVA; Watanabe et al.,"
        f" IJCAI 2023): {about_compared(worth)}. A short curve may favour what learns fast; one that exists under a"
        f" condition is weighed by the trials that have it, and left out below {figures.FEWEST}; effects that only two"
        " together have are not seen, and a sampler that has moved on leaves the rest of a range thin"
    )
    return Table(["hyperparameter", "importance"], rows, caption)


def slices_table(worth: Worth) -> Table | None:
    """What trials scored in each part of each range, a row a part; None where no trial is compared."""
    if not worth.compared:
        return None
    rows = [row for name, item in worth.ranges.items() for row in _slice(worth, name, item)]
    caption = (
        f"validation MAP in each part of a range: {about_compared(worth)}; they differ in the rest, too, so that a part"
        " of few trials says little"
    )
    return Table(["hyperparameter", "part", "mean", "best", "trials", "winner"], rows, caption)


def _slice(worth: Worth, name: str, item: BaseDistribution) -> list[list[str]]:
    parts = list(map(str, item.choices)) if isinstance(item, CategoricalDistribution) else PARTS
    scored: dict[str, list[float]] = {part: [] for part in parts}
    for row, value in worth.compared:
        if name in row.config:
            scored[part_of(item, row.config[name])].append(value)
    best = worth.story.best
    won = None if best is None else best.settings.get(name)
    winners = part_of(item, won) if won is not None else ""
    return [
        [
            f"{name} {trials.searched_in(worth.story).get(name, '')}" if part == parts[0] else "",
            part,
            f"{mean(values):.3f}" if values else "",
            f"{max(values):.3f}" if values else "",
            str(len(values)),
            trials.value(won) if part == winners else "",
        ]
        for part, values in scored.items()
    ]


def part_of(item: BaseDistribution, value: Value) -> str:
    """The part of a range that a value lies in: a third of a range of numbers, the value itself of choices."""
    at = position(item, value)
    return str(value) if at is None else PARTS[min(max(int(3 * at), 0), 2)]


def expected_table(worth: Worth) -> Table | None:
    """The expected best of n trials, for n = 1, 2, 4 … and all; None below two trials with a value."""
    drawn = [row for row in worth.tried if row.origin == "search"]
    values = [row.val_map_best for row in drawn if row.val_map_best is not None and math.isfinite(row.val_map_best)]
    if len(values) < 2:
        return None
    values += [min(values)] * (len(drawn) - len(values))  # died before its first epoch
    sizes = [2**power for power in range(len(values).bit_length()) if 2**power < len(values)] + [len(values)]
    rows = [[str(n), f"{expected_best(values, n):.4f}"] for n in sizes]
    caption = (
        "the expected best validation MAP of n of the drawn trials in random order (Dodge et al., EMNLP 2019; without"
        " replacement, so unbiased). A pruned trial counts with the best of its short curve, and a sampler that learns"
        " has its good trials late: of such a search the first n were likely worse"
    )
    return Table(["trials", "expected best"], rows, caption)


def silent(worth: Worth) -> list[str]:
    """Trials that told nothing, by kind, a line each."""
    kinds: dict[str, list[TrialRow]] = {}
    for row in worth.rows:
        if row.copied_from is not None:
            kinds.setdefault("had the configuration of an earlier one and were not trained", []).append(row)
        elif row.failure == "moved":
            kinds.setdefault("were trained anew as another, on another device", []).append(row)
        elif row.failure:
            kinds.setdefault(f"failed ({row.failure})", []).append(row)
        elif row.completed and row.val_map_best is not None and row.val_map_best <= worth.chance + NEAR_CHANCE:
            kinds.setdefault("were trained to the end and stayed near chance", []).append(row)
    return [
        f"{len(found)} of {len(worth.rows)} {kind}: trial{'s' * (len(found) > 1)} {numbers(found)}"
        for kind, found in kinds.items()
    ]


def numbers(rows: Sequence[TrialRow], most: int = 8) -> str:
    """The numbers of trials, shortened."""
    shown = ", ".join(str(row.number) for row in rows[:most])
    return shown + (f" and {len(rows) - most} more" if len(rows) > most else "")


def _repeats(row: TrialRow) -> bool:
    return row.copied_from is not None or row.failure == "moved"
