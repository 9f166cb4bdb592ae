"""What goes wrong while a study runs on real Ray: trials that break, nodes that vanish, time that runs out."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cmh import datasets, records
from cmh.errors import StudyError
from tests.faulty import spy

ROOT = Path(__file__).parent.parent
SPACE = """
method: ridge
params:
  lambda_image: {float: [1.0e-3, 1.0e+2], log: true}
  lambda_text: {choice: [1, 2, 3, 4, 5, 6, 7]}
start_from: [START]
schedule: {asha: {first_rung: 1, reduction: 3, epochs: 4}}
trials: TRIALS
"""


class Command:
    """`python -m cmh.tune` on a ridge that breaks as `tests/faulty` says."""

    def __init__(self, folder: Path, starts: list[int], trials: int, *more: str, epoch_seconds: float = 0.0) -> None:
        points = ", ".join(f"{{lambda_text: {kind}, lambda_image: {2 + at}}}" for at, kind in enumerate(starts))
        space = folder / "space.yml"
        space.write_text(SPACE.replace("START", points).replace("TRIALS", str(trials)))
        self.study = folder / "out" / "ridge-clipart-8"
        given = ["--method", "ridge", "--space", str(space), "--out", str(folder / "out"), "--bits", "8"]
        self.arguments = [sys.executable, "-m", "cmh.tune", *given, *more]
        paths = [str(ROOT / "tests" / "faulty"), *sys.path[1:]]
        own = {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), *paths])), "FAULTS": str(folder)}
        self.environment = {**os.environ, **own, "EPOCH_SECONDS": str(epoch_seconds)}

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.arguments,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self) -> tuple[int, str]:
        """(exit code, stderr)."""
        process = self.start()
        _, error = process.communicate(timeout=280)
        return process.returncode, error

    def rows(self) -> list[dict[str, str]]:
        with (self.study / "trials.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def wait_for(self, path: str, seconds: float = 120) -> None:
        until(lambda: (self.study / path).exists(), seconds, path)


def until(true, seconds: float, what: str) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.05)


@pytest.mark.ray
def test_trials_that_break_each_in_its_own_way(tmp_path: Path) -> None:
    command = Command(tmp_path, [2, 3, 4, 5, 6, 1], 6, "--no-confirm", "--max-concurrent", "2", "--trial-timeout", "8s")
    code, error = command.run()
    assert code == 0, error
    assert "Traceback" not in error
    rows = command.rows()
    assert [row["state"] for row in rows] == ["complete", "failed", "complete", "failed", "failed", "complete"]
    assert "no report for 8 s (--trial-timeout)" in rows[1]["error"]
    assert rows[3]["error"] == "RuntimeError: broke"
    assert "died 3 times" in rows[4]["error"]
    assert [row["epochs"] for row in rows] == ["4", "1", "4", "1", "0", "4"]
    log = (command.study / "trials" / "2" / "log.txt").read_text()
    assert "goes on after epoch 1" in log  # the one whose worker was killed, from its checkpoint
    assert "failed (oom): MemoryError" in (command.study / "trials" / "0" / "log.txt").read_text()


@pytest.mark.ray
@pytest.mark.timeout(600)  # five sessions of Ray, one of them 30 s long
def test_a_full_disk_stops_the_study_and_a_time_budget_ends_on_time(tmp_path: Path) -> None:
    command = Command(tmp_path, [7], 1000, "--seeds", "1", "--max-concurrent", "1")
    code, error = command.run()
    assert code == 2, error
    assert "No space left on device; make room, then the same command goes on" in error
    assert [row["state"] for row in command.rows()] == ["interrupted"]
    command.environment["EPOCH_SECONDS"] = "1"
    command.arguments += ["--time-budget", "1s"]  # over before the first epoch is
    code, error = command.run()
    assert code == 2, error
    assert "trials interrupted: 1; the same command with a longer --time-budget or --budget-passes goes on" in error
    command.arguments[-1] = "60s"  # enough for a worker that starts on a slow machine
    code, error = command.run()
    assert code == 0, error
    assert command.rows()[0]["state"] == "complete"
    assert len(command.rows()) < 60
    assert float(command.rows()[0]["seconds"]) > 0
    assert [record.identity.seed for record in records.read(command.study)[0]] == [1]
    held = command.start()
    command.wait_for(".owner")
    until(lambda: f"process {held.pid}" in (command.study / ".owner").read_text(), 60, "the first to hold the folder")
    code, error = command.run()
    assert code == 2
    assert f"is in use by process {held.pid} on" in error
    os.killpg(held.pid, signal.SIGKILL)
    held.communicate()


@pytest.mark.ray
def test_several_studies_in_one_session_and_no_trial_finds_test_queries(tmp_path: Path) -> None:
    command = Command(tmp_path, [1], 3, "--seeds", "1", "--bits", "8", "16", "--trials", "3")
    spy.hide(tmp_path, datasets.load("clipart"))
    command.environment["NODE"] = "here"
    space = command.arguments.index("--space")
    del command.arguments[space : space + 2]
    code, error = command.run()
    assert code == 0, error
    # Both workers have trained, though a trial takes less time than a worker's start.
    assert len({line.split()[2] for line in (tmp_path / "epochs").read_text().splitlines()}) == 2
    for bits in (8, 16):
        folder = command.study.parent / f"ridge-clipart-{bits}"
        assert len(records.read(folder)[0]) == 1
        assert f"ridge-clipart-{bits}  trial" in error
    assert "confirming" in error
    # In each of three trials, the control, a confirmation's training and its audit, two times: also in workers that
    # tested before.
    assert (tmp_path / "found").read_text().split("\n") == ["nothing"] * 12 + [""]


def test_the_spy_is_not_blind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = datasets.load("clipart")
    spy.hide(tmp_path, dataset)
    monkeypatch.setenv("FAULTS", str(tmp_path))
    opened = dataset.test()
    spy.look()
    found = (tmp_path / "found").read_text()
    assert {"Dataset.test()", "Dataset.noted_test()"} <= set(found.splitlines())
    assert f"an array {opened.query.image.shape} in memory" in found


def test_a_session_that_does_not_start_is_said_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    from cmh import cluster

    def timed_out(**_: object) -> None:
        raise Exception("The current node timed out during startup.")  # Ray's own words and class

    monkeypatch.setattr(cluster.ray, "init", timed_out)
    with (
        pytest.raises(StudyError, match="The current node timed out during startup"),
        cluster.session(None, on_server_death=lambda _: None),
    ):
        pass


def program(entry: Path) -> str:
    """The name of a process's program, from its folder in /proc."""
    try:
        return Path((entry / "cmdline").read_text().split("\0")[0]).name
    except OSError:
        return ""


@pytest.mark.ray
def test_a_server_of_ray_that_is_killed_ends_the_command_and_no_trial(tmp_path: Path) -> None:
    more = ["--no-confirm", "--max-concurrent", "1", "--trial-timeout", "20s"]
    command = Command(tmp_path, [1], 2, *more, epoch_seconds=0.5)
    for wanted, server in enumerate(("raylet", "gcs_server")):
        started = command.start()
        command.wait_for(f"trials/{wanted}/curve.csv")
        (pid,) = (
            int(entry.name)
            for entry in Path("/proc").glob("[0-9]*")
            if program(entry) == server and os.getsid(int(entry.name)) == started.pid
        )
        os.kill(pid, signal.SIGKILL)
        _, error = started.communicate(timeout=120)
        assert started.returncode == 2
        name = {"raylet": "raylet", "gcs_server": "GCS server"}[server]
        said = f"\nerror: Ray's {name} has died (killed, or out of memory); the same command goes on from here\n"
        assert said in error
        assert "failed" not in error  # no trial by it
    code, error = command.run()
    assert code == 0, error
    assert {row["state"] for row in command.rows()} <= {"complete", "pruned"}
    assert len(command.rows()) == 2
