"""Studies that search nothing: given points, each trained with each of some seeds, on validation.

A sensitivity curve is one, and so are the winner's fresh seeds in an ablation. Its trials are those of any study, so it
goes on after a kill, and what it lacks is added: the same study may be given further points and seeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from cmh import ledger, records
from cmh.config import Value
from cmh.study import address, confirm, folder, weights
from cmh.study.confirm import Confirmed
from cmh.study.life import Life
from cmh.study.outcome import cost, no_winner
from cmh.study.request import StudyRequest
from cmh.study.space import Space
from cmh.study.trial_row import TrialRow


def study(
    of: StudyRequest,
    place: Path,
    values: Mapping[str, Value],
    changes: Sequence[Mapping[str, Value]],
    seeds: Sequence[int],
    *,
    weights: bool = False,
) -> StudyRequest:
    """A study in `place` with the data and the run settings of another: the hyperparameters `values`, changed in each
    way of `changes`, with each seed. Points that the folder has already stay part of it. `weights`: all are kept.

    Validation MAP is of the whole validation database, as it is of winners that are confirmed.
    """
    wanted = {origin(change, seed): {**change, "seed": seed} for seed in seeds for change in changes}
    every = {**folder.points_of(place), **wanted}
    space = Space(
        method=of.space.method,
        ranges=(),
        start_from=tuple((name, tuple({**values, **_without_seed(point)}.items())) for name, point in every.items()),
        sampler="random",
        asha=None,
        epochs=of.space.epochs,
        trials=len(every),
        validate_every=of.space.validate_every,
        runs=tuple((name, (("seed", point["seed"]),)) for name, point in every.items()),
    )
    own = address.file_of(of.url) == of.folder.resolve() / "study.db"
    return dataclasses.replace(
        of,
        space=space,
        folder=place,
        run={**of.run, "validation_database": 0},
        fixed=dict(values),
        limit=len(every),
        url=folder.storage_for(place, None if own else of.url),
        notes={folder.POINTS: every},
        keep="all" if weights else "winner",
    )


def is_one(study: StudyRequest) -> bool:
    """Whether a study searches nothing."""
    return folder.POINTS in study.notes


def origin(change: Mapping[str, Value], seed: int) -> str:
    """What a trial is called."""
    return ", ".join([*(f"{key}={value}" for key, value in change.items()), f"seed {seed}"])


def _without_seed(point: Mapping[str, Value]) -> dict[str, Value]:
    return {key: value for key, value in point.items() if key != "seed"}


class Points(Life):
    """The life of a study of points: no winner; where it has seeds to confirm with, each trial is tested."""

    def ended(self) -> list[dict[str, Value]]:
        """All trials have ended: those that are to be tested. Raises StudyError where none was completed."""
        self.close()
        self.tell_spent_budget()
        self.best = weights.winner(self.rows)
        if self.best is None:
            raise no_winner(self.study, self.rows)
        waiting = [row for row in self.rows if row.completed and row.number not in self._tested()] if self.seeds else []
        shown: dict[str, list[TrialRow]] = {}  # of each configuration, which is an opening with all its seeds
        for row in waiting:
            shown.setdefault(repr(row.config), []).append(row)
        for rows in shown.values():
            self.opened = ledger.open_test(
                self.study.dataset.name,
                self.study.dataset.split_sha256,
                "cmh.tune",
                identity=self.study.identity(rows[0].config, rows[0].origin),
                seeds=[int(self._run(row)["seed"]) for row in rows],
                folder=self.study.folder,
            )
        if waiting:
            self.tell(f"testing {len(waiting)} runs: this study has opened the test split {self.opened[0]}×")
        else:
            self.finish()
        self.waiting = len(waiting)
        return [self._run(row) for row in waiting]

    def tested(self, tested: Confirmed) -> None:
        """A point was tested."""
        changes = self.study.notes[folder.POINTS]
        assert isinstance(changes, dict)
        number = int(Path(tested.folder).name)
        point = changes[next(row.origin for row in self.rows if row.number == number)]
        confirm.write_record(
            self.study.folder,
            tested,
            selection="fixed",
            search=cost([], self.store),
            opened=self.opened,
            label=", ".join(f"{key}={value}" for key, value in point.items() if key != "seed"),
            dataset=self.study.dataset,
        )
        self.waiting -= 1
        if not self.waiting:
            self.finish()

    def _run(self, row: TrialRow) -> dict[str, Value]:
        """A trial's run again, which goes on from its weights: nothing is trained where they are there."""
        place = weights.place(self.study.folder, row).resolve()
        own = self.study.space.run_of(row.origin)
        return {**row.config, **self.study.noted_run, **own, "folder": str(place)}

    def _tested(self) -> set[int]:
        """Numbers of the trials that have a record."""
        found = records.read(self.study.folder)[0]
        wanted = {row.number: self.study.identity(row.config, row.origin) for row in self.rows}
        return {number for number, identity in wanted.items() if identity.seed in confirm.of_identity(found, identity)}
