"""Studies on clusters of several nodes on this machine: nodes that die and join, with and without shared folders."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cmh import cache, cluster, datasets, records
from cmh.audits import part
from cmh.errors import DatasetError, StudyError
from cmh.study.depot import Depot
from cmh.study.node import Place
from tests.faulty import spy
from tests.test_storms import ROOT, Command, program, until

QUICK = {  # a dead node is found out in a second or two; with Ray's own values it takes longer
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_USAGE_STATS_ENABLED": "0",
}
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "5" * 64}
RAY = str(Path(sys.executable).with_name("ray"))
TRIALS, EPOCHS = 8, 4
WAIT = 200.0  # seconds; each of these steps takes some, on an idle machine


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a short path: Ray puts sockets below it, whose paths may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="cmh-") as name:
        yield Path(name)


def trained(command: Command, node: str = "") -> list[int]:
    """The trial of every epoch that a node (or any) has trained, in order; trials by their place in start_from."""
    path = Path(command.environment["FAULTS"], "epochs")
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [int(point) - 2 for name, point, _ in lines if name.startswith(node)]


def check(command: Command, *lost: int) -> None:
    """Every trial ran to its end once; those that were lost with their node went on from their checkpoints."""
    rows = command.rows()
    assert [(row["number"], row["state"], row["epochs"]) for row in rows] == [
        (str(number), "complete", str(EPOCHS)) for number in range(TRIALS)
    ]
    for number in range(TRIALS):
        curve = (command.study / "trials" / str(number) / "curve.csv").read_text().splitlines()
        assert [line.split(",")[curve[0].split(",").index("epoch")] for line in curve[1:]] == ["1", "2", "3", "4"]
    for number in lost:
        assert "goes on after epoch 1\n" in (command.study / "trials" / str(number) / "log.txt").read_text()
    # Only the epoch that was lost is trained twice; the confirmation trains trial 0, the winner, again, and audits it.
    again = EPOCHS + part.EPOCHS
    expected = {number: EPOCHS + (number in lost) + again * (number == 0) for number in range(TRIALS)}
    assert {number: trained(command).count(number) for number in range(TRIALS)} == expected
    ((record,), _) = records.read(command.study)
    assert record.test_opened == 1


class AskedError(Exception):
    """The depot was asked for something."""


class NoDepot:
    """Stands for the depot's handle where it must not be asked, and says so where it is."""

    def __getattr__(self, name: str) -> Any:
        raise AskedError(name)


def place(folder: Path) -> Place:
    """What a worker on another node is told of a study in `folder`."""
    study = folder / "study.yml"
    study.write_text("id: 1")
    return Place("ridge", datasets.load("clipart"), "entry", study, study.read_bytes(), NoDepot())  # type: ignore[arg-type]


def test_a_shared_folder_is_used_where_it_is_the_same(tmp_path: Path) -> None:
    shared = place(tmp_path)
    assert len(shared.search().train.labels) > 1000
    with shared.folder(str(tmp_path / "trials" / "0")) as (folder, send):
        send()
        assert folder == str(tmp_path / "trials" / "0")
    (tmp_path / "study.yml").write_text("id: 2")  # another study, at the same path of another machine
    with pytest.raises(AskedError, match="read"), shared.folder(str(tmp_path / "trials" / "0")):
        pass


def test_arrays_are_mapped_from_a_nodes_own_cache_if_all_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = place(tmp_path)
    shutil.copytree(there.dataset.folder, tmp_path / "entry")
    monkeypatch.setenv("CMH_CACHE", str(tmp_path))
    elsewhere = dataclasses.replace(there, dataset=dataclasses.replace(there.dataset, folder=Path("/nowhere")))
    assert len(elsewhere.search().train.labels) > 1000
    meta = tmp_path / "entry" / "meta.json"
    ours = json.loads(meta.read_text())
    name = next(iter(ours))
    meta.write_text(json.dumps(ours | {name: ours[name] | {"sha256": "0" * 64}}))  # features computed there, in part
    with pytest.raises(AskedError, match="search"):
        elsewhere.search()
    meta.write_text(json.dumps(ours))
    pixels = dataclasses.replace(elsewhere.dataset, pixel_folder=Path("/nowhere"))
    with pytest.raises(AskedError, match="search"):
        dataclasses.replace(elsewhere, dataset=pixels).search()


def test_the_depot_gives_what_is_asked_for_rightly(tmp_path: Path) -> None:
    dataset, study = datasets.load("clipart"), tmp_path / "study"
    depot = Depot("key", [study])
    with pytest.raises(StudyError, match="for confirmations"):
        depot.arrays(dataset, "test", "")
    depot.write(str(study / "trials" / "0"), {"log.txt": b"x"})
    assert depot.read(str(study / "trials" / "0")) == {"log.txt": b"x"}
    for outside in (dataset.folder / "test", study / ".." / "x"):
        with pytest.raises(StudyError, match="in no study's folder"):
            depot.read(str(outside))
        with pytest.raises(StudyError, match="in no study's folder"):
            depot.write(str(outside), {"a": b""})
    with datasets.locked(), pytest.raises(DatasetError, match="the test split is locked"):
        dataset.test()
    assert len(dataset.test().query.labels) > 100


def test_a_cluster_that_asks_for_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise cluster.ray.exceptions.AuthenticationError("no token was found")

    monkeypatch.setattr(cluster.ray, "init", refuse)
    with pytest.raises(StudyError, match=r"--address auto.*no token was found.*RAY_AUTH_MODE=token"):
        cluster.session("auto", on_server_death=lambda _: None).__enter__()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1"])
def test_an_address_where_no_cluster_is(address: str) -> None:
    with pytest.raises(StudyError, match=f"--address {address}.*Is the cluster up"):
        cluster.session(address, on_server_death=lambda _: None).__enter__()


def test_the_documents_scripts_are_sound() -> None:
    scripts = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "cluster.md").read_text(), re.DOTALL)
    assert len(scripts) == 3
    for script in (*scripts, (ROOT / "docs" / "slurm.sh").read_text()):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)  # noqa: S607


def test_a_server_that_dies_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    node = SimpleNamespace(dead_processes=lambda: [("log_monitor", None), ("gcs_server", None)])
    monkeypatch.setattr(cluster.ray._private.worker, "_global_node", node)
    said: list[str] = []
    cluster._watch_servers(threading.Event(), said.append)
    assert said == ["Ray's GCS server has died (killed, or out of memory); the same command goes on from here"]


def answering(said: list[bool]) -> Callable[[str], bool]:
    """Stands for a server that answers as it is `said`, and then for good as the last time."""
    return lambda _: said.pop(0) if len(said) > 1 else said[0]


def test_a_cluster_that_ends_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "SERVER_SECONDS", 0.0)
    monkeypatch.setattr(cluster, "_answers", answering([True, False, True, *[False] * cluster.GCS_LOOKS]))
    said: list[str] = []
    cluster._watch_gcs(threading.Event(), "head:6379", said.append)
    assert len(said) == 1
    assert said[0].startswith("the Ray cluster at head:6379 has ended")
    over = threading.Event()
    over.set()
    cluster._watch_gcs(over, "head:6379", said.append)
    assert len(said) == 1


def test_who_listens_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert cluster._answers(address)
    assert not cluster._answers(address)


def nodes(*addresses: str, alive: bool = True) -> list[dict[str, object]]:
    return [
        {
            "NodeID": address,
            "Alive": alive,
            "NodeManagerAddress": address,
            "NodeManagerPort": 7000,
            "NodeManagerHostname": f"host-{address}",
        }
        for address in addresses
    ]


UNREACHABLE = {
    "one machine": (nodes("127.0.0.1"), []),
    "several nodes on it": ([*nodes("127.0.0.1"), *nodes("127.0.0.1")], []),
    "all reach all": (nodes("10.0.0.1", "10.0.0.2"), []),
    "its own name is 127": (nodes("10.0.0.2", "127.0.1.1"), ["127.0.1.1"]),
    "a firewall": (nodes("10.0.0.1", "10.0.0.9"), ["host-10.0.0.9"]),
    "one that is dead": ([*nodes("10.0.0.1"), *nodes("127.0.1.1", "10.0.0.9", alive=False)], []),
}


@pytest.mark.parametrize("name", UNREACHABLE)
def test_nodes_that_cannot_be_reached_are_named(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    listed, wanted = UNREACHABLE[name]
    monkeypatch.setattr(cluster.ray, "nodes", lambda: listed)
    monkeypatch.setattr(cluster, "_answers", lambda address: address != "10.0.0.9:7000")
    seen: set[str] = set()
    lines = cluster._unreachable(seen)
    assert [next(word for word in wanted if word in line) for line in lines] == wanted
    assert all("--node-ip-address" in line for line in lines)
    assert cluster._unreachable(seen) == []  # once
    if name == "one machine":  # where another joins, its address is a wrong one
        listed = [*listed, *nodes("10.0.0.2")]
        assert len(cluster._unreachable(seen)) == 1


def test_every_node_is_looked_at(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Those that join later, too; while the cluster ends, Ray raises all kinds."""
    over, looks = threading.Event(), [nodes("10.0.0.1"), nodes("10.0.0.1", "127.0.1.1")]

    def listed() -> list[dict[str, object]]:
        if not looks:
            over.set()
            raise RuntimeError("the cluster has ended")
        return looks.pop(0)

    monkeypatch.setattr(cluster.ray, "nodes", listed)
    monkeypatch.setattr(cluster, "_answers", lambda _: True)
    monkeypatch.setattr(cluster, "NODES_SECONDS", 0.01)
    cluster._watch_nodes(over)
    assert caplog.text.count("a node of the cluster is known as 127.0.1.1") == 1


def test_a_cluster_that_ends_while_the_session_is_left_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's shutdown waits a minute for it: longer than batch systems wait."""
    ended, waited = threading.Event(), list[bool]()
    monkeypatch.setattr(cluster, "SERVER_SECONDS", 0.01)
    monkeypatch.setattr(cluster, "_init", lambda *_: None)
    monkeypatch.setattr(cluster, "_answers", lambda _: False)
    monkeypatch.setattr(cluster.ray, "nodes", list)
    monkeypatch.setattr(cluster.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="head:6379"))
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: waited.append(ended.wait(20)))
    with cluster.session("head:6379", on_server_death=lambda _: ended.set()):
        pass
    assert waited == [True]


KILLED = """
import os, signal
from pathlib import Path
from cmh.study.node import Place

class Remote:
    def read(self, folder):
        return {"config.json": b"{}"}

with Place("ridge", None, "", Path("nowhere", "study.yml"), b"", Remote()).folder("trials/0") as (folder, send):
    print(folder, os.listdir(folder), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_that_is_killed_leaves_nothing_on_a_node_without_the_folders(tmp_path: Path) -> None:
    command, environment = [sys.executable, "-c", KILLED], {**os.environ, "TMPDIR": str(tmp_path)}
    killed = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert killed.stdout.startswith(f"{tmp_path}/cmh-trial-")
    assert killed.stdout.endswith(" ['config.json']\n")
    until(lambda: not list(tmp_path.glob("cmh-*")), 60, "the end of its folder")


class Machine:
    """For the processes in it, a computer of its own: its address on a network, its processes, its shared memory, and
    folders of its own. Made of Linux namespaces, which need no root where the system allows them."""

    def __init__(self, number: int, first: Machine | None, own: list[Path]) -> None:
        self.address = f"10.77.0.{number}"
        command = ["unshare", *(["-r"] if first is None else []), "-mnpf", "--kill-child", "--mount-proc"]
        ready = " && ".join(["ip link set lo up", *(f"mount -t tmpfs none {path}" for path in own), "echo ready"])
        self.process = subprocess.Popen(
            [*(first.inside if first is not None else []), *command, "sh", "-c", f"{ready} && exec sleep 1000"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        if (line := self.process.stdout.readline()) != "ready\n":
            pytest.skip(f"a second machine cannot be made here: {line.strip()}")
        self.pid = self.process.pid
        while below := Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            self.pid = int(below[0])
        enter = ["nsenter", "-t", str(self.pid), "-U", "--preserve-credentials", "-n"]
        self.inside = [*enter, "-m", "-p"]
        if first is None:
            self.wired, port = enter, "net"
            self.run("ip link add net type bridge")
        else:
            port = "eth0"  # not as self.run does it: there the number of the machine's process would be another
            wire = f"ip link add wire{number} type veth peer name {port} netns {self.pid}"
            subprocess.run([*first.wired, *wire.split()], check=True)
            first.run(f"ip link set wire{number} master net up")
        self.run(f"ip addr add {self.address}/24 dev {port}; ip link set {port} up; ip route add default dev {port}")

    def run(self, command: str) -> str:
        """Standard output of a shell command on the machine."""
        done = subprocess.run([*self.inside, "sh", "-ec", command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def kill(self) -> None:
        """Everything on it is gone at once."""
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.process.wait()


def hold(command: Command, node: str) -> Path:
    """While this file exists, trials on the node stay in their second epoch."""
    path = Path(command.environment["FAULTS"], f"hold-{node}")
    path.touch()
    return path


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_machines_that_share_no_folder(folder: Path) -> None:
    """`ray start` on each; arrays, checkpoints and logs travel through Ray."""
    command = Command(folder, [1] * TRIALS, TRIALS, "--seeds", "1", "--address", "10.77.0.1:6379")
    out, own_cache, temporary = hidden = [folder / "out", folder / "cache", folder / "ray"]
    for path in hidden:
        path.mkdir()
    spy.hide(folder, datasets.load("clipart"))
    prepared = datasets.load("clipart").folder
    shutil.copytree(prepared, own_cache / prepared.relative_to(cache.root()))
    command.environment |= {**QUICK, **TOKEN, "CMH_CACHE": str(own_cache), "RAY_TMPDIR": str(temporary)}
    with contextlib.ExitStack() as stack:

        def machine(number: int, first: Machine | None = None) -> Machine:
            try:
                made = Machine(number, first, [Path("/dev/shm"), *(hidden if first is not None else [])])  # noqa: S108
            except (AssertionError, OSError, subprocess.CalledProcessError) as error:
                pytest.skip(f"a machine with its own network cannot be made here: {error}")
            stack.callback(made.kill)
            return made

        def start(made: Machine, *how: str) -> subprocess.Popen[bytes]:
            given = [f"--node-ip-address={made.address}", "--object-store-memory=100000000", *how]
            node = {**command.environment, "NODE": made.address}
            return subprocess.Popen([*made.inside, RAY, "start", *given], env=node, stdout=subprocess.DEVNULL)

        def join(*made: Machine) -> None:
            for process in [start(one, f"--address={first.address}:6379", "--num-cpus=1") for one in made]:
                assert process.wait(WAIT) == 0

        first = machine(1)
        assert start(first, "--head", "--port=6379", "--num-cpus=0", "--include-dashboard=false").wait(WAIT) == 0
        second, third = machine(2, first), machine(3, first)
        join(second, third)
        command.arguments[:0] = first.inside
        hold(command, second.address)
        held = hold(command, third.address)
        process = command.start()
        until(lambda: len(trained(command, second.address)) == 2, WAIT, "two epochs on the second machine")
        until(lambda: len(trained(command, third.address)) == 2, WAIT, "two epochs on the third machine")
        second.kill()
        fourth = machine(4, first)
        join(fourth)
        until(lambda: bool(trained(command, fourth.address)), WAIT, "the fourth machine to get a trial")
        held.unlink()
        _, error = process.communicate(timeout=WAIT)
        assert process.returncode == 0, error
        for one in (third, fourth):
            assert one.run(f"find {out} {own_cache} -type f") == ""  # it has seen nothing of the first machine's
    check(command, trained(command, second.address)[-1])
    assert set((folder / "found").read_text().split()) == {"nothing"}


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_nodes_that_share_the_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both nodes die at once, so that for a while there is none at all."""
    from ray.cluster_utils import Cluster

    command = Command(folder, [1] * TRIALS, TRIALS, "--seeds", "1", "--address", "ADDRESS")
    for name, value in {**command.environment, **QUICK, "RAY_TMPDIR": str(folder / "ray")}.items():
        monkeypatch.setenv(name, value)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        command.arguments[-1] = cluster.address
        holds = {name: hold(command, name) for name in ("a", "b")}
        nodes = [cluster.add_node(num_cpus=1, env_vars={"NODE": name}) for name in holds]
        process = command.start()
        for name in holds:
            until(lambda name=name: len(trained(command, name)) == 2, WAIT, f"two epochs on node {name}")
        for node in nodes:
            cluster.remove_node(node, allow_graceful=False)  # SIGKILL
        for name in "cd":
            cluster.add_node(num_cpus=1, env_vars={"NODE": name})
        _, error = process.communicate(timeout=WAIT)
    finally:
        cluster.shutdown()
    assert process.returncode == 0, error
    lost = {trained(command, name)[-1] for name in holds}
    assert len(lost) == 2
    assert sum(len(trained(command, name)) for name in holds) == 4
    check(command, *lost)


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_cluster_that_ends_together_with_the_search(folder: Path) -> None:
    """As where a batch system signals all of a job at one moment."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    more = ["--no-confirm", "--address", f"127.0.0.1:{port}"]
    command = Command(folder, [1], 40, *more, epoch_seconds=0.5)
    command.environment |= {**TOKEN, "RAY_TMPDIR": str(folder / "ray"), "RAY_USAGE_STATS_ENABLED": "0"}
    given = ["--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=1", "--include-dashboard=false"]
    with (folder / "head.log").open("wb") as log:
        head = subprocess.Popen(
            [RAY, "start", "--block", *given], env=command.environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        until(lambda: cluster._answers(f"127.0.0.1:{port}"), WAIT, "the head of the cluster")
        process = command.start()
        command.wait_for("trials/1/curve.csv", WAIT)
        (command.study / "trials.csv").unlink(missing_ok=True)
        servers = [pid for pid in sessions(head.pid) if program(Path("/proc", str(pid))) in ("gcs_server", "raylet")]
        assert len(servers) == 2
        for pid in (*servers, process.pid):
            os.kill(pid, signal.SIGTERM)
        _, error = process.communicate(timeout=30)
    finally:
        for pid in sessions(head.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        head.wait()
    assert process.returncode == 130, error
    assert "interrupted; the same command goes on from here" in error
    assert len(command.rows()) >= 2


def sessions(leader: int) -> list[int]:
    """The processes of a session."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(int(entry.name)) == leader:
                found.append(int(entry.name))
    return found
