"""What `cmh.tune` does beside searching: options of ablations and curves, their rounds, and what is shown of them."""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from cmh.errors import collected

if TYPE_CHECKING:
    from cmh.config import Value
    from cmh.study.outcome import Outcome
    from cmh.study.request import Asked, Request, StudyRequest
    from cmh.study.sweep import Curve


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those of `cmh.tune`."""
    one = parser.add_mutually_exclusive_group()
    one.add_argument(
        "--ablate",
        nargs="+",
        metavar="KEY[=VALUE]",
        help="also search the method without each component: KEY off (0, false, none; else as in the paper),"
        " KEY=VALUE, KEY=paper, KEY,KEY together; a table with differences from the whole",
    )
    one.add_argument(
        "--sweep",
        nargs="+",
        metavar="KEY=LOW:HIGH:N",
        help="no search: a curve of validation MAP over a hyperparameter, spaced as the space's range is (or"
        " KEY=LOW:HIGH:N:log, or KEY=VALUE,VALUE), with --seeds seeds, all else at the default or at --from",
    )
    parser.add_argument("--test", action="store_true", help="with --ablate or --sweep: on the test split, too")


class Plan:
    """What is to be done for a command's `--ablate` and `--sweep`; nothing of it where neither is given.

    `asked` are the requests of its datasets; `problems`, everything that is wrong with the two options.
    """

    def __init__(self, asked: Sequence[Asked], arguments: argparse.Namespace) -> None:
        from cmh.study import ablation, sweep

        self.test = bool(arguments.test)
        self.ablates, self.sweeps = bool(arguments.ablate), bool(arguments.sweep)
        self.asked, self.problems = list(asked), list[str]()
        self.curves: list[Curve] = []
        self.values: dict[str, Value] = {}
        if self.test and not self.ablates and not self.sweeps:
            self.problems.append("--test is for --ablate and --sweep; a search tests its winner unless --no-confirm")
        elif arguments.no_confirm and (self.ablates or self.sweeps):
            option = "--ablate" if self.ablates else "--sweep"
            self.problems.append(f"--no-confirm: {option} leaves the test split closed unless --test opens it")
        if self.ablates:
            for each in asked:
                variants = functools.partial(ablation.variants, each, arguments.ablate)
                self.asked += (collected(variants, self.problems) or [each])[1:]
        elif self.sweeps:
            found = collected(lambda: sweep.curves(asked[0], arguments.sweep), self.problems)
            self.curves, self.values = found or ([], {})

    def first(self, request: Request) -> Request:
        """What is done first: the searches, or the curves."""
        from cmh.study import sweep

        if self.sweeps:
            return sweep.studies(request, self.curves, self.values, test=self.test)
        self.request = request
        return dataclasses.replace(request, seeds=()) if self.ablates and not self.test else request

    def second(self, ended: Sequence[Outcome]) -> Request | None:
        """The winners of an ablation with fresh seeds on validation, where they are not tested."""
        from cmh.study import points

        if not self.ablates or self.test or not ended:
            return None
        studies = []
        for outcome in ended:
            study, best = outcome.study, outcome.best
            run = {**study.run, **study.space.run_of(best.origin)}
            place = study.folder / "seeds" / f"{study.folder.name}-trial-{best.number}"
            studies.append(
                points.study(dataclasses.replace(study, run=run), place, best.config, [{}], self.request.seeds)
            )
        return dataclasses.replace(self.request, studies=tuple(studies), seeds=())

    def texts(self, ended: Sequence[Outcome], fresh: Sequence[Outcome]) -> Iterator[str]:
        """What is shown at the end, and written to files: a table for each curve, or for each whole method with what
        it is without its components. `fresh` are the winners of `ended` with fresh seeds."""
        from cmh.views import ablation, sweep

        if self.sweeps:
            for outcome in ended:
                changed = outcome.study.folder.name.rpartition("-sweep-")[2]
                log = any(curve.log for curve in self.curves if curve.key == changed)
                yield sweep.table(outcome, sweep.write(outcome, log_axis=log))
        if self.ablates:
            order = [study.folder for study in self.request.studies]
            ended = sorted(ended, key=lambda one: order.index(one.study.folder))
            seeds = {str(one.study.folder.parent.parent): one for one in fresh}
            for whole in ended:
                if not whole.study.label:
                    found = [whole, *(one for one in ended if one.study.label and _alike(one.study, whole.study))]
                    rows = ablation.rows(found, seeds)
                    ablation.write(rows)
                    yield ablation.table(rows)


def _alike(one: StudyRequest, other: StudyRequest) -> bool:
    """Whether two studies differ in hyperparameters alone."""
    return one.space.method == other.space.method and (one.dataset.name, one.bits) == (other.dataset.name, other.bits)
