"""A study on disk as a search leaves it, made without Ray, data or training: for the tests of views."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cmh import config, methods, records, training
from cmh.config import Value
from cmh.study import aside, controls, folder
from cmh.study.aside import Aside
from cmh.study.space import Asha, Range, Space
from cmh.study.storage import Proposal, Store
from cmh.training import Epoch, run_folder
from tests.test_identity import identity
from tests.test_records import queries, record

EPOCHS, SEED, BITS = 4, 0, 16
BASE = config.defaults(methods.get("dcmh").Config)
SPACE = Space(
    "dcmh",
    (
        Range("lr_image", "float", 1e-4, 5e-2, log=True),
        Range("optimizer", "choice", choices=("adam", "sgd")),
        Range("momentum", "float", 0.0, 0.9, when=(("optimizer", "sgd"),)),
    ),
    (
        ("default", tuple(BASE.items())),
        ("point 1", tuple({**BASE, "lr_image": 0.01, "optimizer": "sgd", "momentum": 0.5}.items())),
    ),
    "random",
    Asha(1, 2),
    EPOCHS,
    9,
)

ABOUT = {"dataset": "clipart", "storage": "sqlite:///study.db"}


def row(epoch: int, val_map: float, best: tuple[float, int]) -> dict[str, Any]:
    """An epoch as a trial's curve file has it."""
    one = Epoch(epoch, val_map, val_map - 0.1, val_map + 0.1, *best, best[0] - 0.1, best[0] + 0.1, 2.0 * epoch, 2.0, {})
    return {"image_loss": 1.0 / epoch, "text_loss": 2.0 / epoch, **one.metrics()}


class MadeStudy:
    """The study in `place`; a second one on the same place goes on with it. `view` makes who watches."""

    def __init__(self, place: Path, view: Callable[[Store], Any] | None = None) -> None:
        self.place = place
        if not (place / "study.yml").is_file():
            place.mkdir(parents=True, exist_ok=True)
            run = identity(bits=BITS, epochs=EPOCHS, seed=SEED)
            folder.write_or_check(place, folder.identity(SPACE, run, {}), ABOUT | {"name": place.name})
        self.store = Store(f"sqlite:///{place}/study.db", place.name, SPACE, BASE, SEED)
        controls.keep(self.store, {"chance": (0.1, 0.1, 0.1), "ridge (control)": (0.4, 0.5, 0.45)})
        self.view = view(self.store) if view is not None else None

    def begin(self) -> Proposal:
        proposal = self.store.propose(100)
        assert proposal is not None
        if self.view is not None:
            self.view.started(proposal)
        rows: list[dict[str, Any]] = []
        for epoch, value in sorted(proposal.curve.items()):
            rows.append(row(epoch, value, (value, epoch)))
        self.files(self.place / "trials" / str(proposal.number), proposal.config, rows)
        return proposal

    def files(self, home: Path, values: dict[str, Value], rows: list[dict[str, Any]], seed: int = SEED) -> None:
        home.mkdir(parents=True, exist_ok=True)
        run, built = training.parse(methods.get("dcmh"), {**values, "bits": BITS, "epochs": EPOCHS, "seed": seed})
        run_folder.begin(home, run, built, identity(bits=BITS, epochs=EPOCHS, seed=seed, config=values), rows)

    def epochs(self, proposal: Proposal, *values: float) -> None:
        """Further epochs of a trial, each with its MAP."""
        home, known = self.place / "trials" / str(proposal.number), dict(self.store.curve(proposal.number))
        for value in values:
            epoch = len(known) + 1
            known[epoch] = value
            best = max(known, key=lambda number: known[number])
            run_folder.append(home, row(epoch, value, (known[best], best)), first=epoch == 1)
            if self.store.report(proposal.number, epoch, value) and self.view is not None:
                self.view.reported(proposal.number, epoch, value)

    def end(self, proposal: Proposal, state: str = "complete", **more: Any) -> None:
        number, result = proposal.number, {"seconds": 8.0, "device": "cpu", "best_i2t": 0.4, "best_t2i": 0.6}
        if state == "complete":
            self.store.complete(number, result)
        elif state == "pruned":
            self.store.prune(number, more["rung"], result)
        else:
            self.store.fail(number, more["kind"], more["reason"], result)
        if self.view is not None:
            self.view.ended(number)

    def beside(self, name: str, trial: int | None, seed: int, *values: float, ended: bool = True) -> Aside | None:
        """A run beside the search that has come so far; what came out of it where it has ended (without values: it
        failed)."""
        home = self.place / (aside.CONTROLS if trial is None else aside.FINALS) / name
        best = max(values, default=0.0)
        rows = [row(epoch, value, (value, epoch)) for epoch, value in enumerate(values, start=1)]
        self.files(home, BASE, rows, seed)
        if not ended:
            return None
        one = aside.failed(name, trial, seed, "loss = nan")
        if values:
            scores = {"val_map": best, "val_map_i2t": best, "val_map_t2i": best, "best_epoch": EPOCHS, "error": ""}
            one = dataclasses.replace(one, **scores)  # type: ignore[arg-type]
        aside.keep(self.store.study, one)
        if self.view is not None:
            self.view.validated(one)
        return one

    def confirm(self, number: int, values: dict[str, Value], *seeds: int) -> None:
        """The winner with fresh seeds, tested."""
        for seed in seeds:
            rows = [row(epoch, 0.1 * epoch, (0.1 * epoch, epoch)) for epoch in range(1, EPOCHS + 1)]
            self.files(self.place / "confirm" / f"{number}-{seed}", values, rows, seed)
            made = record(bits=BITS, epochs=EPOCHS, seed=seed, config=values, chosen_epoch=EPOCHS)
            named = dataclasses.replace(made, per_query=f"per-query-{made.identity.digest()}.npz")
            records.append(self.place, named, queries())


def whole(place: Path, view: Callable[[Store], Any] | None = None) -> MadeStudy:
    """A study with a complete, a pruned, two failed, another complete and an interrupted trial, and confirmed."""
    study = MadeStudy(place, view)
    first = study.begin()
    study.epochs(first, 0.3, 0.5, 0.6, 0.4)
    study.end(first)
    second = study.begin()
    study.epochs(second, 0.2)
    study.end(second, "pruned", rung=1)
    third = study.begin()
    study.epochs(third, 0.25)
    study.end(third, "failed", kind="nan", reason="epoch 2: image_loss = nan")
    study.end(study.begin(), "failed", kind="oom", reason="out of memory")
    fifth = study.begin()
    study.epochs(fifth, 0.4, 0.5, 0.65, 0.7)
    study.end(fifth)
    study.epochs(study.begin(), 0.3, 0.35)
    study.confirm(fifth.number, fifth.config, 1, 2)
    return study
