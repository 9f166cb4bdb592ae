"""The one door to Ray: start or join a cluster quietly, and speak from inside a trial.

Importing this module imports Ray (seconds): do it late.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import socket
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

# Read by Ray when it is imported or when a RunConfig is made, so they must stand before the import.
__all__ = ["depot", "in_trial", "ray", "report", "session", "stored_checkpoint", "trial_cpus", "tune"]

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial reports its reason and no metric
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # A pruned trial's thread ends with its epoch; Ray would wait 2 s and then lose the worker.
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "3600",
    # How many run at once is what the searcher hands out. By default Tune starts one worker at a time, and its trial is
    # taken from it by any worker that becomes free meanwhile: with short trials only one would ever work.
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "10",  # a worker that does not stop is killed
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Ray's own snapshots are never read: the storage is the truth
}
for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402
from ray import tune  # noqa: E402

from cmh import files  # noqa: E402
from cmh.errors import StudyError  # noqa: E402

CONNECT_SECONDS = 10.0
SERVERS = {"raylet": "raylet", "gcs_server": "GCS server"}  # as Ray's node names them, and in words
SERVER_SECONDS = 0.5  # between two looks at them
CLUSTER_CURE = (
    "Is the cluster up? Try `ray status`. A cluster that asks for a token takes RAY_AUTH_MODE=token and its"
    " ~/.ray/auth_token."
)


@contextlib.contextmanager
def session(
    address: str | None, n_cpus: int | None = None, *, on_server_death: Callable[[str], None]
) -> Iterator[None]:
    """A Ray session: joined where `address` is given, else started here and stopped at the end.

    Raises StudyError where the cluster cannot be reached. Where a server of its own session dies, `on_server_death` is
    called in a thread of its own, with a text for people; it should end the process.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what becomes of a trial is in the storage
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(over, on_server_death), daemon=True)
    if address is None:
        watch.start()
    try:
        _init(address, n_cpus)
        yield
    finally:
        over.set()
        if watch.is_alive():
            watch.join()  # or it would see what the shutdown ends
        ray.shutdown()


def _init(address: str | None, n_cpus: int | None) -> None:
    try:
        if address and address != "auto":  # where nobody listens, Ray tries for many minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        ray.init(
            address=address or "local",
            num_cpus=None if address else n_cpus,
            include_dashboard=None if address else False,
            object_store_memory=None if address else 128 * 2**20,  # arrays are memory-mapped, not sent
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except Exception as error:  # Ray raises all kinds, Exception itself among them
        where = f"--address {address}" if address else "a local session"
        cure = CLUSTER_CURE if address else "The same command tries again."
        raise StudyError(f"Ray did not start ({where}): {str(error).rstrip('.')}. {cure}") from error


def _watch(over: threading.Event, on_server_death: Callable[[str], None]) -> None:
    """Tell when the raylet or the GCS server of its own session dies.

    Ray itself would wait a minute for either, in which trials time out that did nothing wrong, and then hang in its
    shutdown.
    """
    while not over.wait(SERVER_SECONDS):
        node = ray._private.worker._global_node
        dead: set[str] = set() if node is None else {kind for kind, _ in node.dead_processes()}
        name = next((SERVERS[kind] for kind in SERVERS if kind in dead), "")
        if name and not over.is_set():
            on_server_death(
                f"\nerror: Ray's {name} has died (killed, or out of memory); the same command goes on from here\n"
            )


def in_trial() -> bool:
    """Whether this process runs a Ray Tune trial."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ray.is_initialized() and tune.get_context().get_trial_id() is not None


def trial_cpus() -> int:
    """CPUs that this trial was given, at least 1."""
    given = tune.get_context().get_trial_resources()
    return max(1, int(given.required_resources.get("CPU", 1)))


def report(metrics: dict[str, object], checkpoint: bytes | None = None) -> None:
    """Hand an epoch to Ray Tune; blocks until the driver has taken it."""
    if checkpoint is None:
        tune.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "checkpoint.pt").write_bytes(checkpoint)
        tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


def stored_checkpoint() -> bytes | None:
    """What `report` stored last for this trial, where Ray keeps the checkpoints."""
    stored = tune.get_checkpoint()
    if stored is None:
        return None
    with stored.as_directory() as folder:
        return Path(folder, "checkpoint.pt").read_bytes()


class Depot:
    """An actor on the driver's node: hands its arrays and files to nodes that do not see the driver's folders.

    Only whoever has the `key` gets test queries: the confirmations, which carry it. Files are those below `roots`, the
    folders of the studies.
    """

    def __init__(self, key: str, roots: list[Path]) -> None:
        self._key, self._roots = key, roots
        self._kept: dict[tuple[str, str], Any] = {}

    def arrays(self, dataset: Any, part: str, key: str) -> list[Any]:
        """Reference to `dataset.search()` or `.test()` in the object store: one copy a node, mapped by its trials."""
        if part != "search" and key != self._key:
            raise StudyError("the test queries are for confirmations, and the depot was asked by another")
        entry = str(dataset.folder), part
        if entry not in self._kept:
            self._kept[entry] = ray.put(_plain(dataset.search() if part == "search" else dataset.noted_test()))
        return [self._kept[entry]]

    def read(self, folder: str) -> dict[str, bytes]:
        """Every file of a trial's folder."""
        return {path.name: path.read_bytes() for path in self._own(folder).glob("[!.]*") if path.is_file()}

    def write(self, folder: str, contents: dict[str, bytes]) -> None:
        """Replace files of a trial's folder."""
        self._own(folder).mkdir(parents=True, exist_ok=True)
        for name, data in contents.items():
            files.write_atomic(self._own(folder) / name, data)

    def _own(self, folder: str) -> Path:
        path = Path(folder).resolve()
        if not any(path.is_relative_to(root) for root in self._roots):
            raise StudyError(f"{folder}: is in no study's folder, and the depot gives nothing else")
        return path


def depot(key: str, roots: list[Path]) -> Any:
    """A depot on this node; it lives as long as the session."""
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    here = strategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Depot).options(num_cpus=0, scheduling_strategy=here).remote(key, roots)


def _plain(value: Any) -> Any:
    """Memory maps as arrays, within dataclasses: what the object store takes without pickling."""
    if isinstance(value, np.ndarray):
        return np.asarray(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value
