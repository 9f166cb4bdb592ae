"""Studies under SIGKILL: random parts of a running search are killed until there were enough kills; nothing is lost.

    python experiments/benchmarks/soak.py --out FOLDER        # FOLDER must not exist; took 40 minutes; Linux

Each study runs `cmh.tune` on `soak_method.py`. At a random moment (start-up included) a fault drawn by the seed hits
the command: SIGKILL to the driver, its process group, a worker, the raylet or the GCS server, or SIGINT, SIGTERM or
SIGUSR1 to the driver. The same command is started again until the study ends by itself. Its first trials break by
themselves: NaN, out of memory, an exception, a hang, a worker that dies at every try.

Then the storage, `trials.csv` and the trials' folders are audited: trials lost or duplicated, left running, curves in
which an epoch is missing or differs between storage and folder. Studies with one trial at a time must also equal one
that was never disturbed, every trial and every epoch. Expected: all of these 0, and no process left over.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import csv
import itertools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from cmh import study

KILLS = ("driver", "process group", "worker", "raylet", "GCS server")
SIGNALS = {"SIGINT": signal.SIGINT, "SIGTERM": signal.SIGTERM, "SIGUSR1": signal.SIGUSR1}
SIGNAL_SHARE = 0.1  # of all faults
PATIENCE = 150.0  # seconds in which a command that was hit must have ended
BROKEN = ("nan", "memory", "exception", "death", "hang")
SPACE = """\
method: soak_method
params:
  step: {float: [1.0e-2, 10], log: true}
start_from: [FAULTS]
schedule: {asha: {first_rung: 1, reduction: 2, epochs: 8}}
"""
TRIALS = 60
RUNNING = 20.0  # half of the faults come during the start, half in so many seconds after it
PROGRESS = 5  # epochs between two kills of workers: three deaths at one epoch rightly fail a trial


class Soak:
    """One study, disturbed until it ends."""

    def __init__(self, folder: Path, concurrent: int, draw: random.Random) -> None:
        self.folder, self.draw, self.starts = folder, draw, 0
        self.study = folder / "soak_method-clipart-8"
        self.broken = BROKEN[: 3 + concurrent]  # a trial that hangs leaves no time to one at a time
        folder.mkdir(parents=True)
        space = folder / "space.yml"
        space.write_text(SPACE.replace("FAULTS", ", ".join(f"{{fault: {name}}}" for name in self.broken)))
        method = Path(__file__).with_name("soak_method.py")
        command = [sys.executable, "-m", "cmh.tune", "--method", method, "--space", space, "--out", folder]
        command += ["--bits", "8", "--trials", str(TRIALS), "--max-concurrent", str(concurrent)]
        self.command = [str(part) for part in [*command, "--trial-timeout", "60s", "--no-confirm"]]
        self.faults: list[tuple[str, float]] = []  # each with the seconds that the command took to end
        self.ready = 20.0  # seconds from the start of the command to its first report
        self.killed_at = -PROGRESS  # epochs stored when a worker was killed last
        self.sessions: list[int] = []

    def run(self, faults: int) -> None:
        """Start the command again and again; after so many faults it is left alone."""
        while True:
            self.starts += 1
            with (self.folder / f"{self.starts}.log").open("w") as log:
                command = subprocess.Popen(self.command, stdout=log, stderr=log, start_new_session=True)
            self.sessions.append(command.pid)
            if self._disturb(command, faults):
                return

    def _disturb(self, command: subprocess.Popen[bytes], faults: int) -> bool:
        """Hit the command until it ends; true if it did so because the study was over."""
        began, before, reported = time.monotonic(), self._epochs(), False
        starting = self.draw.random() < 0.5
        due = began + (self.draw.uniform(0, self.ready) if starting else self.ready + self.draw.uniform(0, RUNNING))
        kind = self._kind()
        while command.poll() is None:
            if not reported and self._epochs() > before:
                reported, self.ready = True, time.monotonic() - began
            target = self._target(kind, command.pid) if time.monotonic() >= due and len(self.faults) < faults else 0
            if not target:
                time.sleep(0.1)
                continue
            hit = time.monotonic()
            number = SIGNALS.get(kind, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if kind == "process group" else os.kill)(target, number)
            if kind == "worker":
                took, due, self.killed_at = 0.0, hit + self.draw.uniform(0, RUNNING), self._epochs()
            else:
                command.wait(PATIENCE)  # raises if it hangs
                took = time.monotonic() - hit
            self.faults.append((kind, took))
            self.ready *= 1.0 if reported else 1.2  # or a busy machine would never get there
            phase = "running" if reported else "starting"
            print(f"{self.study.parent.name} {len(self.faults):>3}: {kind:<14} {hit - began:5.1f} s after the start")
            print(
                f"       ({phase}), {self._epochs()} epochs stored, exit {command.returncode} after {took:.1f} s",
                flush=True,
            )
            kind = self._kind()
        return command.returncode == 0

    def _kind(self) -> str:
        return self.draw.choice(list(SIGNALS) if self.draw.random() < SIGNAL_SHARE else KILLS)

    def _target(self, kind: str, driver: int) -> int:
        """The process to hit, 0 while there is none. All processes of a start share the driver's session."""
        if kind == "worker" and self._epochs() < self.killed_at + PROGRESS:
            return 0
        if kind not in ("worker", "raylet", "GCS server"):
            return driver
        marks = {"worker": "ray::ImplicitFunc", "raylet": "/raylet/raylet ", "GCS server": "/gcs/gcs_server "}
        found = [pid for pid, line in processes({driver}) if marks[kind] in line]
        return self.draw.choice(found) if found else 0

    def _epochs(self) -> int:
        """Epochs in the storage, read beside its writer."""
        with (
            contextlib.suppress(sqlite3.OperationalError),  # not made yet
            contextlib.closing(sqlite3.connect(f"file:{self.study}/study.db?mode=ro", uri=True)) as storage,
        ):
            return int(storage.execute("SELECT count(*) FROM trial_intermediate_values").fetchone()[0])
        return 0

    def audit(self) -> dict[str, int]:
        """What is wrong, by kind."""
        trials = study.open(self.study).get_trials(deepcopy=False)
        with (self.study / "trials.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        listed = collections.Counter(int(row["number"]) for row in rows)
        points = collections.Counter(
            (trial.user_attrs.get("origin"), *trial.params.items())
            for trial in trials
            if "copied_from" not in trial.user_attrs.get("result", {})
        )
        wrong = dict.fromkeys(("lost", "duplicated", "left running", "wrong curves", "wrongly failed"), 0)
        wrong["lost"] = len(set(range(TRIALS)) - {trial.number for trial in trials if trial.state.is_finished()})
        wrong["lost"] += len(set(range(TRIALS)) - set(listed))
        wrong["duplicated"] = sum(count - 1 for count in (*listed.values(), *points.values())) + len(trials) - TRIALS
        wrong["left running"] = sum(not trial.state.is_finished() for trial in trials)
        for trial, row in zip(trials, rows, strict=False):
            stored, result = trial.intermediate_values, trial.user_attrs.get("result", {})
            expected = 8 if row["state"] == "complete" else result.get("rung", 1)
            broken = trial.number < len(self.broken)
            wrong["wrongly failed"] += broken != (row["state"] == "failed")
            if "copied_from" not in result:
                with (self.study / "trials" / row["number"] / "curve.csv").open(newline="") as file:
                    curve = [(int(line["epoch"]), float(line["val_map"])) for line in csv.DictReader(file)]
                right = sorted(stored.items()) == curve and [epoch for epoch, _ in curve] == [*range(1, expected + 1)]
                wrong["wrong curves"] += not right
        return wrong

    def outcome(self) -> list[Any]:
        """What of the study does not depend on the clock."""
        return [
            (trial.number, trial.state, trial.params, trial.intermediate_values, trial.values)
            for trial in study.open(self.study).get_trials(deepcopy=False)
        ]


def processes(sessions: set[int]) -> list[tuple[int, str]]:
    """(id, command line) of what lives in these sessions."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) in sessions and fields[0] != "Z":
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append((int(entry.name), line))
    return found


def main() -> int:
    """Soak studies, audit them, print the table of faults survived."""
    parser = argparse.ArgumentParser(description="Kill parts of running studies at random; audit what they leave.")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the studies")
    parser.add_argument("--kills", type=int, default=50, help="SIGKILLs at least (default: 50)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw, began = random.Random(given.seed), time.monotonic()  # noqa: S311 - no secret
    faults: list[tuple[str, float]] = []
    sessions: set[int] = set()
    wrong, broken = collections.Counter[str](), collections.Counter[str]()
    n_studies = n_starts = 0
    for concurrent in itertools.cycle((2, 1)):
        left = given.kills - sum(kind in KILLS for kind, _ in faults)
        if left <= 0 and n_studies > 1:
            break
        n_studies += 1
        soak = Soak(given.out / str(n_studies), concurrent, draw)
        soak.run(-(-given.kills // 2) + 3 if n_studies == 1 else left + 3)
        faults += soak.faults
        broken.update(soak.broken)
        wrong.update(soak.audit())
        if concurrent == 1:
            calm = Soak(given.out / f"{n_studies}-undisturbed", 1, draw)
            calm.run(0)
            wrong["unlike undisturbed"] += sum(a != b for a, b in zip(soak.outcome(), calm.outcome(), strict=True))
            sessions.update(calm.sessions)
        sessions.update(soak.sessions)
        n_starts += soak.starts
        print(f"study {n_studies}, {concurrent} at once: {soak.starts} starts, {dict(wrong)}", flush=True)
    deadline = time.monotonic() + 60
    while (remaining := processes(sessions)) and time.monotonic() < deadline:
        time.sleep(1)
    print(f"\n{n_studies} studies of {TRIALS} trials, {n_starts} starts, {time.monotonic() - began:.0f} s")
    print(f"{'fault':<38} times   longest until the command had ended")
    for kind in (*KILLS, *SIGNALS):
        took = [seconds for name, seconds in faults if name == kind]
        name = kind if kind in SIGNALS else f"SIGKILL of the {kind}"
        ended = "goes on" if kind == "worker" else f"{max(took, default=0):.0f} s"
        print(f"{name:<38} {len(took):>5}   {ended}")
    for name, count in broken.items():
        print(f"{'trial: ' + name:<38} {count:>5}   goes on")
    print(f"SIGKILLs: {sum(kind in KILLS for kind, _ in faults)}")
    for name, count in {**wrong, "processes left": len(remaining)}.items():
        print(f"{name}: {count}")
    return int(any(wrong.values()) or bool(remaining))


if __name__ == "__main__":
    raise SystemExit(main())
