"""What follows from a search: findings in plain words, each with a next step. Every rule is a function below, and its
docstring says when it speaks.

Nothing is said of a search that has not ended, and next to nothing below `FEWEST` trials: of few trials the best lie
somewhere by chance. (Of 24 trials under no influence at all, `edges` names one of 12 ends of ranges in about 1 of 100
studies.)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from statistics import stdev

from cmh import config as configs
from cmh import files, methods
from cmh.config import Value
from cmh.errors import collected
from cmh.study import aside, finals
from cmh.study.figures import FEWEST, BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from cmh.study.trial_row import TrialRow
from cmh.views import worth as worths
from cmh.views.again import command
from cmh.views.report import trials
from cmh.views.worth import NEAR_CHANCE, Worth

STEP = 0.005  # MAP: what another seed changes on the clip art; a smaller gain is none
EDGE, TOP, AT_EDGE = 0.1, 0.25, 0.6  # outer part of a range; share of trials that are the best; share of these there
COLLAPSED = 0.25  # of the way from chance to the winner, which a point that collapses does not make
FAILING = 0.2  # share of trials whose failures are worth a word
FINALISTS = 4


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that follows, and a command or change that goes on from there; empty where there is none."""

    name: str
    text: str
    step: str = ""


def findings(worth: Worth) -> list[Finding]:
    """All that follows from a search, the most important first; at least one."""
    for gate in (_unfinished, _too_few, _nothing_learned):
        if found := list(gate(worth)):
            return found
    found = [one for rule in RULES for one in rule(worth)]
    return found or [Finding("settled", *_settled(worth))]


def _settled(worth: Worth) -> tuple[str, str]:
    best = worth.story.best
    value = "" if best is None else f" ({best.best_val_map:.4f}, trial {best.number})"
    text = f"the search has settled{value}: no rule finds that more trials or another range would change much"
    return text, f"python -m cmh.leaderboard {files.quoted(worth.story.folder)}"


def _unfinished(worth: Worth) -> Iterator[Finding]:
    """Speaks where trials are left, of what was asked for."""
    asked = worth.story.kept.get("asked")
    ended = sum(row.state != "interrupted" and row.failure != "moved" for row in worth.rows)
    if not isinstance(asked, int):
        asked = len(worth.rows)
    if ended < asked or any(row.state == "interrupted" for row in worth.rows):
        step = command(worth.story, max(asked, ended) + _finals(worth))
        yield Finding("unfinished", f"{ended} of {asked} trials have ended, so there is no verdict yet", step)


def _too_few(worth: Worth) -> Iterator[Finding]:
    """Speaks below `FEWEST` trials that say something."""
    tried = len(worth.tried)
    if tried < FEWEST:
        more = len(worth.rows) + FEWEST - tried + _finals(worth)
        text = f"{tried} trials are too few for a verdict, which begins at {FEWEST}: the best of few lie by chance"
        yield Finding("too few", text, command(worth.story, more))


def _nothing_learned(worth: Worth) -> Iterator[Finding]:
    """Speaks where no trial came further above chance than `NEAR_CHANCE`."""
    best = _best(worth)
    if worth.chance and best <= worth.chance + NEAR_CHANCE:
        text = f"no trial learns: the best has {best:.4f}, chance {worth.chance:.4f}; look at labels and split"
        yield Finding("nothing learned", text, f"python -m cmh.datasets check {worth.story.dataset}")


def below_control(worth: Worth) -> Iterator[Finding]:
    """Speaks where the winner is not above the linear control of its kind: ridge with labels, CCA-ITQ without."""
    controls = worth.story.controls
    name = next((one for one in ("cca_itq (control)", "ridge (control)") if one in controls), None)
    value = controls[name][2] if name else None
    if name and value is not None and worth.story.method not in name and _best(worth) <= value:
        text = f"the winner ({_best(worth):.4f}) is not above {name}, {value:.4f}: its network has earned nothing"
        yield Finding("below the control", text, command(worth.story, _twice(worth)))


def below_default(worth: Worth) -> Iterator[Finding]:
    """Speaks where the library's default, a control, is above what the search found by more than `STEP`."""
    value = worth.story.controls.get("library default", (None, None, None))[2]
    if aside.CONTROL in aside.kept(worth.story.kept) and value is not None and value > _best(worth) + STEP:
        text = (
            f"the search found {_best(worth):.4f}, less than the library's default has, {value:.4f}: give it more"
            " trials, or the default as a prior in a study elsewhere (--warm-start defaults --out DIR)"
        )
        yield Finding("below the default", text, command(worth.story, _twice(worth)))


def improving(worth: Worth) -> Iterator[Finding]:
    """Speaks where the last third of the trials raised the best completed value by more than `STEP`."""
    done = [row for row in worth.tried if row.completed]
    first = len(worth.tried) - len(worth.tried) // 3
    early = {row.number for row in worth.tried[:first]}
    before = max((_value(row) for row in done if row.number in early), default=None)
    if before is not None and _best(worth) > before + STEP:
        last = len(worth.tried) - first
        text = (
            f"still improving at the end: the last {last} of {len(worth.tried)} trials raised the best from"
            f" {before:.4f} to {_best(worth):.4f}; give it {len(worth.rows)} more"
        )
        yield Finding("still improving", text, command(worth.story, _twice(worth)))


def edges(worth: Worth) -> Iterator[Finding]:
    """Speaks of each numeric range in whose outer tenth lie the winner and `AT_EDGE` of the best quarter of the trials
    that have it, at least four, unless that end is the hyperparameter's legal limit."""
    best = worth.story.best
    for name, item in worth.ranges.items():
        having = sorted((one for one in worth.compared if name in one[0].config), key=lambda one: -one[1])
        top = having[: max(4, math.ceil(TOP * len(having)))]
        won = worths.position(item, best.settings[name]) if best is not None and name in best.settings else None
        if won is None or len(having) < FEWEST:
            continue
        places = [worths.position(item, row.config[name]) or 0.0 for row, _ in top]
        for end, at in (("lower", [1 - place for place in places]), ("upper", places)):
            inside = sum(place > 1 - EDGE for place in at)
            won_there = (1 - won if end == "lower" else won) > 1 - EDGE
            if won_there and inside >= AT_EDGE * len(top) and (wider := _wider(item, end, _limits(worth, name))):
                range_ = trials.searched_in(worth.story).get(name, "its range")
                text = (
                    f"{name} is at the {end} end of its range: the winner and {inside} of the best {len(top)} trials"
                    f" lie in the last tenth of {range_}"
                )
                yield Finding("edge", text, f"search {name} in {wider}, as another study (--out)")


def _limits(worth: Worth, name: str) -> configs.Param | None:
    """A hyperparameter with its legal limits, as its method has it (which loads torch); None where that is not here."""
    module = collected(lambda: methods.get(worth.story.method), [])
    return configs.params(module.Config).get(name) if module is not None else None


def _wider(item: BaseDistribution, end: str, param: configs.Param | None) -> str:
    """The range with that end further out: a factor of ten on a log scale, half of its width else; empty where the
    legal values end there."""
    assert isinstance(item, (FloatDistribution, IntDistribution))
    low, high = float(item.low), float(item.high)
    step = (high - low) / 2
    if end == "lower":
        low = low / 10 if item.log else low - step
    else:
        high = high * 10 if item.log else high + step
    if param is not None:
        limits = (param.low, param.above), (param.high, param.below)
        least = max((one for one in limits[0] if one is not None), default=-math.inf)
        most = min((one for one in limits[1] if one is not None), default=math.inf)
        if (end == "lower" and item.low <= least) or (end == "upper" and item.high >= most):
            return ""
        # Where a limit is not legal itself, half of the way to it.
        low = (item.low + least) / 2 if param.above is not None and low <= param.above else max(low, least)
        high = (item.high + most) / 2 if param.below is not None and high >= param.below else min(high, most)
    kind = "int" if isinstance(item, IntDistribution) else "float"
    ends = [round(one) for one in (low, high)] if kind == "int" else [low, high]
    return f"{{{kind}: [{ends[0]:g}, {ends[1]:g}]{', log: true' * item.log}}}"


def paper_collapses(worth: Worth) -> Iterator[Finding]:
    """Speaks where the paper's point, trained to its end, came no further than `COLLAPSED` of the way from chance to
    the winner. Which of its settings does it, one run cannot tell: those farthest from the winner's are named."""
    best = worth.story.best
    paper = next((one for one in worth.story.trials if one.origin == "paper" and one.completed), None)
    if best is None or paper is None or paper.number == best.number or paper.best_val_map is None:
        return
    if paper.best_val_map - worth.chance >= COLLAPSED * (_best(worth) - worth.chance):
        return
    searched = trials.searched_in(worth.story)
    apart = [
        (name in searched, -_apart(value, best.settings[name]), name, value)
        for name, value in paper.settings.items()
        if name in best.settings and value != best.settings[name]
    ]
    if not apart:
        return
    apart.sort(key=lambda one: one[:3])
    told = [f"{name} = {trials.value(value)} ({trials.value(best.settings[name])})" for *_, name, value in apart[:3]]
    text = (
        f"the paper's point collapses ({paper.best_val_map:.4f}, chance {worth.chance:.4f}); of its settings those are"
        f" farthest from the winner's: {', '.join(told)}. One of them in the winner shows whether it is that one"
    )
    *_, name, value = apart[0]
    step = f"python -m cmh.reproduce {files.quoted(worth.story.folder)} --set {name}={value}"
    yield Finding("paper collapses", text, step)


def _apart(one: Value, other: Value) -> float:
    """How far two values of a hyperparameter are from each other: decades of numbers, 1 of choices."""
    if isinstance(one, (str, bool)) or isinstance(other, (str, bool)):
        return 1.0
    if one > 0 and other > 0:
        return abs(math.log10(one / other))
    return 1.0


def noise(worth: Worth) -> Iterator[Finding]:
    """Speaks where completed trials lie within two standard deviations (over the winner's fresh seeds, at least two) of
    it, and no further seeds were asked for."""
    best, fresh = worth.story.best, [one.validation["map"] for one in worth.story.confirmations if one.validation]
    if best is None or len(fresh) < 2 or aside.finalists_of(worth.story.kept) > 1:
        return
    spread = stdev(fresh)
    done = [row for row in worth.tried if row.completed and row.number != best.number]
    near = [row for row in done if _value(row) > _best(worth) - 2 * spread]
    if near and spread:
        more = finals.runs(FINALISTS)
        text = (
            f"{len(near)} other trial{'s' * (len(near) > 1)} ({worths.numbers(near)}) cannot be told from the winner: a"
            f" seed changes {spread:.4f} (standard deviation of {len(fresh)})"
        )
        yield Finding("noise", text, f"{command(worth.story, len(worth.rows) + more)} --finalists {FINALISTS}")


def failures(worth: Worth) -> Iterator[Finding]:
    """Speaks where `FAILING` of the trials or more failed or diverged; and of the range, if there is one, in whose same
    third all of these lie, but not half of the others."""
    bad = [row for row in worth.tried if row.failure or row.state == "diverged"]
    if len(bad) < FAILING * len(worth.tried):
        return
    good = [row for row in worth.tried if row not in bad]
    kinds = [row.failure or row.state for row in bad]
    counts = ", ".join(f"{kind} {kinds.count(kind)}" for kind in dict.fromkeys(kinds))
    where = next(_shared_thirds(worth, bad, good), "")
    text = f"{len(bad)} of {len(worth.tried)} trials came to nothing ({counts}){': ' + where if where else ''}"
    step = "take that part out of the range, as another study (--out)"
    yield Finding("failures", text, step if where else f"see {files.quoted(worth.story.folder / 'trials.csv')}")


def _shared_thirds(worth: Worth, bad: Sequence[TrialRow], good: Sequence[TrialRow]) -> Iterator[str]:
    for name, item in worth.ranges.items():
        if isinstance(item, CategoricalDistribution) or any(name not in row.config for row in bad):
            continue
        thirds = {worths.part_of(item, row.config[name]) for row in bad}
        inside = [row for row in good if name in row.config and worths.part_of(item, row.config[name]) in thirds]
        if len(thirds) == 1 and len(inside) < len(good) / 2:
            yield f"all of them have {name} in the {thirds.pop()} of its range"


RULES: tuple[Callable[[Worth], Iterator[Finding]], ...] = (
    *(below_control, below_default, improving, edges),
    *(paper_collapses, noise, failures),
)


def _value(row: TrialRow) -> float:
    return row.val_map_best if row.val_map_best is not None else -math.inf


def _best(worth: Worth) -> float:
    """The winner's value; where there is none, the best that any trial reached."""
    best = worth.story.best
    if best is not None and best.best_val_map is not None:
        return best.best_val_map
    return max(map(_value, worth.tried), default=-math.inf)


def _finals(worth: Worth) -> int:
    return finals.runs(aside.finalists_of(worth.story.kept))


def _twice(worth: Worth) -> int:
    """As many trials again, and the finals."""
    return 2 * len(worth.rows) + _finals(worth)
