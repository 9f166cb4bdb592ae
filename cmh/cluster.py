"""The one door to Ray: start or join a cluster quietly, and speak from inside a trial.

Everything else takes Ray's names from here, so that Ray is imported after the settings that it reads then. Importing
this module imports Ray (seconds): do it late.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = [
    "ASHAScheduler",
    "FIFOScheduler",
    "Searcher",
    "Stopper",
    "TrialScheduler",
    "all_resources",
    "in_trial",
    "ray",
    "report",
    "session",
    "stored_checkpoint",
    "trial_cpus",
    "tune",
]

SETTINGS = {  # read by Ray when it is imported or when a RunConfig is made, so they must stand before the import
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",  # it takes SIGTERM, too, and aborts
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
for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402
from ray import tune  # noqa: E402
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402
from ray.tune.stopper import Stopper  # noqa: E402

from cmh.errors import StudyError  # noqa: E402
from cmh.signals import signals_kept  # noqa: E402

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

    Where a server of its own session dies, `on_server_death` is called in another thread with one sentence that says
    so. It should end the process: Ray itself would wait a minute, in which trials time out that did nothing wrong, and
    then hang in its shutdown. Raises StudyError where the cluster cannot be reached.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what becomes of a trial is in the storage
    over = threading.Event()
    watch = threading.Thread(target=_watch_servers, args=(over, on_server_death), daemon=True)
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
        with signals_kept(ray._private):
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


def _watch_servers(over: threading.Event, on_death: Callable[[str], None]) -> None:
    """Say once when the raylet or the GCS server of the own session dies."""
    while not over.wait(SERVER_SECONDS):
        node = ray._private.worker._global_node
        dead: set[str] = set() if node is None else {kind for kind, _ in node.dead_processes()}
        name = next((SERVERS[kind] for kind in SERVERS if kind in dead), "")
        if name and not over.is_set():
            on_death(f"Ray's {name} has died (killed, or out of memory); the same command goes on from here")
            return


def all_resources() -> dict[str, float]:
    """What all nodes of the session have together, by Ray's names: CPU, GPU, …"""
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray has no types there
    return found


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
