"""What `cmh.tune --plan` shows of a study: its rungs, its first points, and about how long it will take."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from cmh import methods, training
from cmh.config import Value
from cmh.study import finals, preflight
from cmh.study.request import StudyRequest
from cmh.study.space import Space
from cmh.study.storage import Store

POINTS = 5  # that are shown


def text(study: StudyRequest) -> str:
    """The plan of a study as text. Two epochs are trained, so that the estimate is measured.

    Raises ConfigError where the method fails on its first batch.
    """
    space = study.space
    preflight.try_one_batch(study)
    lines = [
        f"{study.folder}: {space.method} on {study.dataset.name}, {study.bits} bits,"
        f" {study.limit} trials of {space.epochs} epochs",
        f"rungs: {', '.join(map(str, study.rungs)) or 'none'}; sampler: {space.sampler}",
        "first points:",
        *_first_points(study),
        *_beside(study),
        *preflight.warnings(study),
        _estimate(study),
    ]
    return "\n".join(lines) + "\n"


def _first_points(study: StudyRequest) -> list[str]:
    """A line for each of the first trials, as the sampler would draw them if none had ended yet."""
    store, lines = Store(None, "plan", study.space, study.base, study.seed), list[str]()
    for _ in range(min(POINTS, study.limit)):
        proposal = store.propose(study.limit)
        if proposal is None:
            break
        searched = " ".join(f"{item.name}={_short(proposal.config[item.name])}" for item in study.space.ranges)
        lines.append(f"  {proposal.number} ({proposal.origin}): {searched}")
    return lines


def _beside(study: StudyRequest) -> list[str]:
    """What is trained beside the search."""
    known = study.space.starts_from("default")
    lines = [] if known else ["beside it: the library's default, a control that the search does not know"]
    if further := finals.runs(study.space.finalists):
        lines.append(f"then: the best {study.space.finalists} with further seeds, {further} trainings")
    return lines


def _short(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _estimate(study: StudyRequest) -> str:
    space, module = study.space, methods.get(study.space.method)
    run, config = training.parse(module, {**study.base, **study.run, "epochs": 2, "threads": 1})
    epochs = training.n_epochs(module, dataclasses.replace(run, epochs=space.epochs))
    seconds = _warm_seconds(lambda: training.fit(module, run, config, study.dataset.search()))
    more = finals.runs(study.space.finalists) + (not space.starts_from("default"))  # to their ends
    likely = likely_epochs(space, study.limit) * epochs / space.epochs + more * epochs
    return (
        f"estimate: about {likely:.0f} epochs (at most {(study.limit + more) * epochs}); one epoch of the default point"
        f" took {seconds:.2f} s here on one thread, so about {likely * seconds / 60:.1f} CPU minutes"
    )


def _warm_seconds(fit: Callable[[], training.Fitted]) -> float:
    """Seconds of an epoch that is not the first of this process, which compiles and loads what the others find."""
    curve = fit().curve
    if len(curve) > 1:
        return curve[1].seconds - curve[0].seconds
    only = fit().curve[0]  # a closed form makes one epoch; others may be validated at their last one alone
    return only.seconds / only.epoch


def likely_epochs(space: Space, trials: int) -> float:
    """Epochs of a search if every rung lets exactly 1/reduction through; the start points run to the end."""
    protected = min(len(space.start_from), trials)
    left, done, total = float(trials - protected), 0, float(protected * space.epochs)
    if space.asha is not None:
        for rung in space.asha.rungs(space.epochs):
            total += left * (rung - done)
            left, done = left / space.asha.reduction, rung
    return total + left * (space.epochs - done)
