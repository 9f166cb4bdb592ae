"""On a cluster: how a node that does not see the driver's folders gets its arrays and files, through an actor there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cmh import files
from cmh.cluster import ray
from cmh.errors import StudyError
from cmh.interfaces import Dataset, SearchData, TestData


class Depot:
    """Runs as an actor on the driver's node.

    Only whoever has the `key` gets test queries: the confirmations, which carry it. Files are those below `roots`, the
    folders of the studies.
    """

    def __init__(self, key: str, roots: Sequence[Path]) -> None:
        self._key, self._roots = key, roots
        self._stored: dict[tuple[str, str], ray.ObjectRef[object]] = {}

    def arrays(self, dataset: Dataset, part: Literal["search", "test"], key: str) -> list[ray.ObjectRef[object]]:
        """Reference to a part of the dataset in the object store: one copy a node, mapped by its trials.

        In a list, or Ray would send what it refers to. Raises StudyError for test queries without the key.
        """
        if part != "search" and key != self._key:
            raise StudyError("the test queries are for confirmations, and the depot was asked by another")
        entry = str(dataset.folder), part
        if entry not in self._stored:
            data = dataset.search() if part == "search" else dataset.noted_test()
            self._stored[entry] = ray.put(_in_memory(data))
        return [self._stored[entry]]

    def read(self, folder: str) -> dict[str, bytes]:
        """Every file of a trial's folder, by name. Raises StudyError where the folder is in no study's."""
        return {path.name: path.read_bytes() for path in self._checked(folder).glob("[!.]*") if path.is_file()}

    def write(self, folder: str, contents: Mapping[str, bytes]) -> None:
        """Replace files of a trial's folder. Raises StudyError where the folder is in no study's."""
        self._checked(folder).mkdir(parents=True, exist_ok=True)
        for name, data in contents.items():
            files.write_atomic(self._checked(folder) / name, data)

    def _checked(self, folder: str) -> Path:
        path = Path(folder).resolve()
        if not any(path.is_relative_to(root) for root in self._roots):
            raise StudyError(f"{folder}: is in no study's folder, and the depot gives nothing else")
        return path


@dataclasses.dataclass(frozen=True)
class RemoteDepot:
    """The same from any node: asks the actor, and waits for its answer."""

    actor: Any  # a handle, whose methods Ray's types do not know

    def search(self, dataset: Dataset) -> SearchData:
        """Training and validation items, mapped from the object store."""
        found: SearchData = ray.get(ray.get(self.actor.arrays.remote(dataset, "search", ""))[0])
        return found

    def test(self, dataset: Dataset, key: str) -> TestData:
        """Test queries and database, mapped from the object store; for whoever has noted the opening.

        Raises StudyError where that is not the depot's key.
        """
        found: TestData = ray.get(ray.get(self.actor.arrays.remote(dataset, "test", key))[0])
        return found

    def read(self, folder: str) -> dict[str, bytes]:
        """Every file of a trial's folder, by name."""
        found: dict[str, bytes] = ray.get(self.actor.read.remote(folder))
        return found

    def write(self, folder: str, contents: Mapping[str, bytes]) -> None:
        """Replace files of a trial's folder."""
        ray.get(self.actor.write.remote(folder, contents))


def start(key: str, roots: Sequence[Path]) -> RemoteDepot:
    """A depot on this node; it lives as long as the session."""
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    here = strategy(ray.get_runtime_context().get_node_id(), soft=False)
    return RemoteDepot(ray.remote(Depot).options(num_cpus=0, scheduling_strategy=here).remote(key, roots))


def _in_memory(value: object) -> object:
    """Memory maps as arrays, within dataclasses: what the object store takes without pickling."""
    if isinstance(value, np.ndarray):
        return np.asarray(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _in_memory(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value
