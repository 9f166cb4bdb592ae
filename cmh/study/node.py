"""What a worker does with a piece of work; how it finds the study's files and arrays on its node, or gets them."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

from cmh import cache, cluster, files, methods, training
from cmh.config import Value
from cmh.interfaces import Dataset, SearchData, TestData
from cmh.study import aside, confirm, depot
from cmh.study.depot import RemoteDepot

if TYPE_CHECKING:
    from cmh.study.work import Work


class Task(TypedDict):
    """A piece of work as it travels to a worker."""

    study: int  # its place among the studies of the command
    kind: Literal["trial", "validate", "confirm"]  # of a search, beside it, or of its confirmation
    key: str  # to the test queries, for confirmations
    values: dict[str, Value]  # hyperparameters and run settings, the folder among them


@dataclasses.dataclass(frozen=True)
class Place:
    """What a worker must know to find a study's files and arrays, or to get them from the driver's node.

    A node sees the driver's folders if it has the same `study_file` at the same path.
    """

    method: str
    dataset: Dataset
    entry: str  # of the dataset's arrays within a cache
    study_file: Path
    its_bytes: bytes
    depot: RemoteDepot | None = None  # None in a session of one machine

    def search(self) -> SearchData:
        """Training and validation items: mapped from this node's disk, else from the object store."""
        here = self._on_this_node()
        return here.search() if here is not None else self._asked().search(self.dataset)

    def test(self, key: str) -> TestData:
        """Test queries and database, for a confirmation: from the same places."""
        here = self._on_this_node()
        return here.noted_test() if here is not None else self._asked().test(self.dataset, key)

    def _on_this_node(self) -> Dataset | None:
        """The dataset as its arrays lie on this node's disk; None where they do not."""
        if self.depot is None:
            return self.dataset
        pixels = self.dataset.pixel_folder
        for folder in (self.dataset.folder, cache.root() / self.entry):
            if (pixels is None or pixels.is_dir()) and self._are_the_drivers(folder):
                return self.dataset.in_folder(folder)
        return None

    def _are_the_drivers(self, folder: Path) -> bool:
        """Whether the arrays there are the driver's to the last digit: a node may have computed features of its own."""
        entries = [folder, *filter(None, [self.dataset.pixel_folder])]
        try:
            return cache.arrays_sha256(*entries) == self.dataset.arrays_sha256
        except (OSError, ValueError, KeyError):
            return False

    def _asked(self) -> RemoteDepot:
        assert self.depot is not None
        # Nobody writes to its arrays; torch would say so at every tensor.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        return self.depot

    @contextlib.contextmanager
    def folder(self, wanted: str) -> Iterator[tuple[str, Callable[[], None]]]:
        """The trial's folder, and what takes its files to the driver's node if this node does not see that folder."""
        if self.depot is None or (self.study_file.is_file() and self.study_file.read_bytes() == self.its_bytes):
            yield wanted, lambda: None
            return
        remote = self.depot
        with files.passing_folder("cmh-trial-") as local:
            sent = dict[str, tuple[int, int]]()
            for path, data in remote.read(wanted).items():
                files.write_atomic(local / path, data)

            def send() -> None:
                changed = {}
                for path in local.glob("[!.]*"):
                    state = path.stat().st_mtime_ns, path.stat().st_size
                    if sent.get(path.name) != state:
                        sent[path.name], changed[path.name] = state, path.read_bytes()
                if changed:
                    remote.write(wanted, changed)

            yield str(local), send


def places(works: Sequence[Work], joined: bool, key: str) -> list[Place]:
    """Those of all studies; on a cluster with a depot on this node, which gives test queries for the `key` alone."""
    roots = [work.folder.resolve() for work in works]
    remote = depot.start(key, roots) if joined else None
    found = []
    for work, root in zip(works, roots, strict=True):
        arrays, study_file = work.dataset.folder, root / "study.yml"
        entry = str(arrays.relative_to(cache.root())) if arrays.is_relative_to(cache.root()) else ""
        its_bytes = study_file.read_bytes() if remote is not None else b""
        found.append(Place(methods.spec(work.store.space.method), work.dataset, entry, study_file, its_bytes, remote))
    return found


def do_task(task: Task, places: Sequence[Place]) -> None:
    """What a worker does with a piece of work."""
    training.release()  # of the trial before: at its own end, where it is stopped, its epoch still holds everything
    place, wanted = places[task["study"]], str(task["values"]["folder"])
    with place.folder(wanted) as (folder, send):
        values = {**task["values"], "folder": folder, "device": "auto" if cluster.trial_gpus() else "cpu"}
        if task["kind"] == "trial":
            module = methods.get(place.method).__name__
            training.train(module, values, fetch=place.search, before_report=send)
            return
        if task["kind"] == "validate":
            try:
                found = aside.run(place.method, values, lambda _: send(), place.search)
                send()
            except Exception as error:  # it must not take the worker with it
                kind, reason = training.failure(error)
                cluster.report({"failed": kind, "reason": reason})
            else:
                cluster.report({"validated": found})
            return
        try:
            tested = confirm.run(
                place.method,
                values,
                report=lambda _: send(),
                dataset=place.dataset,
                search=place.search,
                test=lambda: place.test(task["key"]),
            )
            send()  # its codes
        except Exception as error:  # it must not take the worker with it
            cluster.report({"failed": "error", "reason": f"{type(error).__name__}: {error}"})
        else:
            cluster.report({"tested": dataclasses.replace(tested, folder=wanted)})
