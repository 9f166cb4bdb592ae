"""The one door to Ray: start or join a cluster quietly, and speak from inside a trial.

Everything else takes Ray's names from here, so that Ray is imported after the settings that it reads then. Importing
this module imports Ray (seconds): do it late.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
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
    "trial_gpus",
    "tune",
]

SETTINGS = {  # read by Ray when it is imported or when a RunConfig is made, so they must stand before the import
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a worker that is given no GPU sees none
    # Below `uv run` Ray would pack the current folder, with all data in it, for its workers, and start each through uv.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
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
# Read by glibc in the processes that Ray starts: each trial has a thread of its own there, and what it frees would stay
# with one of eight arenas a core. (`training.release` gives back what is left.)
os.environ.setdefault("MALLOC_ARENA_MAX", "2")

import ray  # noqa: E402
from ray import tune  # noqa: E402
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402
from ray.tune.stopper import Stopper  # noqa: E402

from cmh import machine  # noqa: E402
from cmh.errors import StudyError  # noqa: E402
from cmh.signals import signals_kept  # noqa: E402

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
SERVERS = {"raylet": "raylet", "gcs_server": "GCS server"}  # as Ray's node names them, and in words
SERVER_SECONDS = 0.5  # between two looks at them
GCS_LOOKS = 4  # in a row at which a cluster's GCS server must not answer to be dead
NODES_SECONDS = 2.0  # between two looks at a cluster's nodes
CLUSTER_CURE = (
    "Is the cluster up? Try `ray status`. A cluster that asks for a token takes RAY_AUTH_MODE=token and its"
    " ~/.ray/auth_token."
)
GONE = "the same command goes on from here"


@contextlib.contextmanager
def session(
    address: str | None, n_cpus: int | None = None, *, on_server_death: Callable[[str], None]
) -> Iterator[None]:
    """A Ray session: joined where `address` is given, else started here and stopped at the end.

    Its own has `n_cpus` CPUs, by default those that this process may use. Where a server of it dies (in a cluster: the
    GCS server), `on_server_death` is called in another thread with one sentence that says so. It should end the
    process: Ray itself would wait a minute, in which trials time out that did nothing wrong, and then hang in its
    shutdown. A node of the cluster that cannot be reached is logged. Raises StudyError where the session cannot be had.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what becomes of a trial is in the storage
    closing, closed, watches = threading.Event(), threading.Event(), list[threading.Thread]()

    def watch(work: Callable[..., None], *given: object) -> None:
        watches.append(threading.Thread(target=work, args=given, daemon=True))
        watches[-1].start()

    if address is None:
        watch(_watch_servers, closing, on_server_death)
    try:
        _init(address, n_cpus)
        if address is not None:
            watch(_watch_nodes, closing)
            # To the very end: the cluster may end with this process, and the shutdown would wait for it.
            threading.Thread(
                target=_watch_gcs, args=(closed, ray.get_runtime_context().gcs_address, on_server_death), daemon=True
            ).start()
        yield
    finally:
        closing.set()
        for thread in watches:
            thread.join(2 * CONNECT_SECONDS)  # or it would see what the shutdown ends
        ray.shutdown()
        closed.set()


def _init(address: str | None, n_cpus: int | None) -> None:
    place = _settle_local() if address is None else ""
    try:
        if address and address != "auto":  # where nobody listens, Ray tries for many minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        with signals_kept(ray._private):
            ray.init(
                address=address or "local",
                num_cpus=None if address else n_cpus or machine.cpus(),
                include_dashboard=None if address else False,
                object_store_memory=None if address else 128 * 2**20,  # arrays are memory-mapped, not sent
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
    except Exception as error:  # Ray raises all kinds, Exception itself among them
        where = f"--address {address}" if address else "a local session"
        cure = CLUSTER_CURE if address else _cure(str(error), place)
        raise StudyError(f"Ray did not start ({where}): {str(error).rstrip('.')}. {cure}") from error


def _settle_local() -> str:
    """The folder of a session of its own, noted for Ray; and its token, where the user has none to give.

    (Ray itself would leave one in the home, which may not be there, for all to read.) Raises StudyError where no folder
    serves.
    """
    place = machine.socket_folder()
    wanted = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or place
    if not place:
        raise StudyError(
            f"Ray finds no folder for its sockets: {wanted or 'the usual one'} is longer than {machine.SOCKET_ROOM}"
            " characters or cannot be written, and so are the others; set RAY_TMPDIR to a short path that can"
        )
    if place != wanted:
        log.info("Ray's files are in %s/ray: %s is too long for its sockets, or cannot be written", place, wanted)
    os.environ["RAY_TMPDIR"] = place
    if os.environ.get("RAY_AUTH_MODE", "token").lower() == "token" and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex())
    return place


def _cure(error: str, place: str) -> str:
    """What helps where a session of its own does not start."""
    if "timed out" in error:
        return "The same command tries again."
    return (
        f"Ray writes to {place}/ray (RAY_TMPDIR names another folder) and to /dev/shm: is there room, and may you write"
        f" there? Its logs are in {place}/ray/session_latest/logs"
    )


def _watch_servers(over: threading.Event, on_death: Callable[[str], None]) -> None:
    """Say once when the raylet or the GCS server of the own session dies."""
    while not over.wait(SERVER_SECONDS):
        node = ray._private.worker._global_node
        dead: set[str] = set() if node is None else {kind for kind, _ in node.dead_processes()}
        name = next((SERVERS[kind] for kind in SERVERS if kind in dead), "")
        if name and not over.is_set():
            on_death(f"Ray's {name} has died (killed, or out of memory); {GONE}")
            return


def _watch_gcs(over: threading.Event, address: str, on_death: Callable[[str], None]) -> None:
    """Say once when the GCS server of a cluster does not answer any more, as where it ends with the job."""
    silent = 0
    while silent < GCS_LOOKS:
        if over.wait(SERVER_SECONDS):
            return
        silent = 0 if _answers(address) else silent + 1
    if not over.is_set():
        on_death(f"the Ray cluster at {address} has ended: its GCS server does not answer; {GONE}")


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS / 2).close()
    except OSError:
        return False
    return True


def _watch_nodes(over: threading.Event) -> None:
    """Say of each node, those that join later too, where it cannot be reached."""
    seen: set[str] = set()
    while True:
        with contextlib.suppress(Exception):  # of Ray, where the cluster is about to end
            for line in _unreachable(seen):
                log.warning("warning: %s", line)
        if over.wait(NODES_SECONDS):
            return


def _unreachable(seen: set[str]) -> list[str]:
    """A line for each living node that was not `seen` before, and that cannot be reached: its trials would hang."""
    listed = ray.nodes()  # type: ignore[no-untyped-call]  # Ray has no types there
    nodes = {node["NodeID"]: node for node in listed if node["Alive"]}
    several, lines = len({node["NodeManagerAddress"] for node in nodes.values()}) > 1, list[str]()
    for number, node in nodes.items():
        where, port = node["NodeManagerAddress"], node["NodeManagerPort"]
        local = several and where.startswith("127.")
        if number in seen:
            continue
        if local:
            lines.append(
                f"a node of the cluster is known as {where}, where the others do not find it, so that trials would"
                " hang; start Ray on it with --node-ip-address=ADDRESS (its name stands for 127.… in its /etc/hosts)"
            )
        elif not _answers(f"{where}:{port}"):
            lines.append(
                f"the node {node['NodeManagerHostname']} of the cluster does not answer at {where}:{port}, so that"
                " trials on it would hang; is there a firewall, or another network that --node-ip-address should name?"
            )
        if several or not where.startswith("127."):
            seen.add(number)
    return lines


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
    return max(1, int(_given("CPU", 1)))


def trial_gpus() -> float:
    """GPUs that this trial was given, perhaps a part of one."""
    return _given("GPU", 0)


def _given(kind: str, default: float) -> float:
    return float(tune.get_context().get_trial_resources().required_resources.get(kind, default))


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
