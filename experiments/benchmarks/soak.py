"""Studies under faults: random parts of a running search are killed until there were enough faults; nothing is lost.

    python experiments/benchmarks/soak.py --out FOLDER        # FOLDER must not exist; an hour at most; Linux

Each study runs `cmh.tune` on `soak_method.py`. At a random moment (start-up included) a fault drawn by the seed hits
the command: SIGKILL to the driver, its process group, a worker, the raylet or the GCS server; a worker killed by Ray's
own memory monitor; SIGINT, SIGTERM or SIGUSR1 to the driver, SIGTERM to its process group, which must end it with 130.
The same command is started again until the study ends by itself. Its first trials break by themselves: NaN, out of
memory, an exception, a hang, a worker that dies at every try.

Then the storage, `trials.csv` and the trials' folders are audited: trials lost or duplicated, left running, curves in
which an epoch is missing or differs between storage and folder. Studies with one trial at a time must also equal one
that was never disturbed, every trial and every epoch. Expected: all of these 0, no process and no temporary folder left
over. Progress goes to FOLDER/soak.log, too; the table at the end is Markdown.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import soak_audit
from soak_memory import Memory

KILLS = ("driver", "process group", "worker", "raylet", "GCS server")
MONITOR = "a worker killed by Ray's memory monitor"
SIGNALS = {"SIGINT": signal.SIGINT, "SIGTERM": signal.SIGTERM, "SIGUSR1": signal.SIGUSR1}
GROUP = "SIGTERM to the process group"
WEIGHTS = {**dict.fromkeys(KILLS, 2), "worker": 4, MONITOR: 5, **dict.fromkeys(SIGNALS, 1), GROUP: 3}
INTERRUPTED = 130
PATIENCE = 150.0  # seconds in which a command that was hit must have ended
CALM = 1 / 6  # of the minutes, for what comes after the last fault: the end of a study, one undisturbed, the audit
BROKEN = ("nan", "memory", "exception", "death", "hang")
SPACE = """\
method: soak_method
params:
  step: {float: [1.0e-2, 10], log: true}
start_from: [FAULTS]
schedule: {asha: {first_rung: 1, reduction: 2, epochs: 8}}
"""
SHORT_OF_MEMORY = """\
SELECT count(*) FROM trials JOIN trial_user_attributes USING (trial_id) WHERE state = 'RUNNING' AND key = 'memory'
"""
RUNNING = 10.0  # half of the faults come during the start, half in so many seconds after it
PROGRESS = 5  # epochs between two kills of workers: three deaths at one epoch rightly fail a trial


class Soak:
    """One study, disturbed until it ends."""

    def __init__(
        self, folder: Path, concurrent: int, trials: int, draw: random.Random, memory: Memory, end: float
    ) -> None:
        self.folder, self.draw, self.memory, self.starts, self.end = folder, draw, memory, 0, end
        self.study, self.trials = folder / "soak_method-clipart-8", trials
        self.broken = BROKEN[: 3 + concurrent]  # a trial that hangs leaves no time to one at a time
        folder.mkdir(parents=True)
        space = folder / "space.yml"
        space.write_text(SPACE.replace("FAULTS", ", ".join(f"{{fault: {name}}}" for name in self.broken)))
        method = Path(__file__).with_name("soak_method.py")
        command = [*memory.inside, sys.executable, "-m", "cmh.tune", "--method", method, "--space", space]
        command += ["--out", folder, "--bits", "8", "--trials", trials, "--max-concurrent", concurrent]
        self.command = [str(part) for part in [*command, "--trial-timeout", "60s", "--no-confirm"]]
        self.environment = {**os.environ, **memory.settings, "TMPDIR": str(folder.parent / "tmp")}
        self.environment["RAY_TMPDIR"] = os.environ.get(
            "RAY_TMPDIR", tempfile.gettempdir()
        )  # its sockets: a short path
        self.faults: list[tuple[str, float]] = []  # each with the seconds that the command took to end
        self.ready = 20.0  # seconds from the start of the command to its first report
        self.killed_at = -PROGRESS  # epochs stored when a worker was killed last
        self.sessions: list[int] = []
        self.wrong_exits = 0

    def run(self, faults: int, until: float) -> None:
        """Start the command again and again; after so many faults, or when the time has come, it is left alone.

        Raises TimeoutError where the study has not ended by then.
        """
        while True:
            self.starts += 1
            with (self.folder / f"{self.starts}.log").open("w") as log:
                command = subprocess.Popen(
                    self.command, stdout=log, stderr=log, start_new_session=True, env=self.environment
                )
            self.sessions.append(command.pid)
            if self._disturb(command, faults, until):
                return

    def _disturb(self, command: subprocess.Popen[bytes], faults: int, until: float) -> bool:
        """Hit the command until it ends; true if it did so because the study was over."""
        began, before, reported = time.monotonic(), self._epochs(), False
        starting = self.draw.random() < 0.5
        due = began + (self.draw.uniform(0, self.ready) if starting else self.ready + self.draw.uniform(0, RUNNING))
        kind, goes_on = self._kind(), True
        while command.poll() is None:
            if not reported and self._epochs() > before:
                reported, self.ready = True, time.monotonic() - began
            now = time.monotonic()
            if now > self.end:
                os.killpg(command.pid, signal.SIGKILL)
                raise TimeoutError
            target = self._target(kind, command.pid) if due <= now < until and len(self.faults) < faults else 0
            if not target:
                time.sleep(0.1)
                continue
            taken = (self.study / ".owner").is_file() and f" {command.pid} " in (self.study / ".owner").read_text()
            hit = time.monotonic()
            self._hit(kind, target)
            if kind in ("worker", MONITOR):
                took, due, self.killed_at = 0.0, hit + self.draw.uniform(0, RUNNING), self._epochs()
            else:
                command.wait(PATIENCE)  # raises if it hangs
                took, goes_on = time.monotonic() - hit, False
            self.faults.append((kind, took))
            self.ready *= 1.0 if reported else 1.2  # or a busy machine would never get there
            if (kind in SIGNALS or kind == GROUP) and taken and command.returncode not in (0, INTERRUPTED):
                self.wrong_exits += 1
            say(
                f"{self.study.parent.name} {len(self.faults):>3}: {kind:<42} {hit - began:5.1f} s after the start"
                f" ({'running' if reported else 'starting'}), {self._epochs()} epochs stored,"
                f" exit {command.returncode} after {took:.1f} s"
            )
            kind = self._kind()
        if goes_on and command.returncode:
            self.wrong_exits += 1
            say(f"       ended by itself, exit {command.returncode}: see {self.folder / f'{self.starts}.log'}")
            if self.wrong_exits > 2:
                raise SystemExit("three starts ended by themselves, or not as they should")
        return command.returncode == 0

    def _kind(self) -> str:
        return self.draw.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]

    def _target(self, kind: str, driver: int) -> int:
        """The process to hit, 0 while there is none. All processes of a start share the driver's session."""
        if kind in ("worker", MONITOR) and self._epochs() < self.killed_at + PROGRESS:
            return 0
        if kind == MONITOR and self._one(SHORT_OF_MEMORY):
            return 0  # a trial that it kills twice rightly fails
        marks = {"worker": "ray::ImplicitFunc", MONITOR: "ray::ImplicitFunc.train"}
        marks |= {"raylet": "/raylet/raylet ", "GCS server": "/gcs/gcs_server "}
        if kind not in marks:
            return driver
        found = [pid for pid, line in processes({driver}) if marks[kind] in line]
        return self.draw.choice(found) if found else 0

    def _hit(self, kind: str, target: int) -> None:
        if kind == MONITOR:
            self.memory.run_out(lambda: {pid for pid, line in processes({os.getsid(target)}) if "ray::Impl" in line})
            return
        with contextlib.suppress(ProcessLookupError):
            if kind in ("process group", GROUP):
                os.killpg(target, signal.SIGTERM if kind == GROUP else signal.SIGKILL)
            else:
                os.kill(target, SIGNALS.get(kind, signal.SIGKILL))

    def _epochs(self) -> int:
        return self._one("SELECT count(*) FROM trial_intermediate_values")

    def _one(self, query: str) -> int:
        """A number of the storage, read beside its writer."""
        with (
            contextlib.suppress(sqlite3.OperationalError),  # not made yet
            contextlib.closing(sqlite3.connect(f"file:{self.study}/study.db?mode=ro", uri=True)) as storage,
        ):
            return int(storage.execute(query).fetchone()[0])
        return 0


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


def say(text: str) -> None:
    """A line on the screen and in the log."""
    print(text, flush=True)
    with (OUT / "soak.log").open("a") as log:
        log.write(text + "\n")


OUT = Path()


def main() -> int:
    """Soak studies, audit them, print the table of faults survived."""
    global OUT
    parser = argparse.ArgumentParser(description="Hit parts of running studies at random; audit what they leave.")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the studies")
    parser.add_argument("--faults", type=int, default=100, help="faults (default: 100)")
    parser.add_argument("--minutes", type=float, default=60, help="none hits in the last sixth (default: 60)")
    parser.add_argument("--trials", type=int, default=60, help="of each study (default: 60)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    OUT = given.out.resolve()
    (OUT / "tmp").mkdir(parents=True)
    draw, began = random.Random(given.seed), time.monotonic()  # noqa: S311 - no secret
    end = began + 60 * given.minutes
    until, memory = end - 60 * given.minutes * CALM, Memory(OUT / "meminfo")
    faults: list[tuple[str, float]] = []
    sessions: set[int] = set()
    wrong, broken = collections.Counter[str](), collections.Counter[str]()
    n_studies = n_starts = 0
    for concurrent in itertools.cycle((2, 1)):
        left = given.faults - len(faults)
        if n_studies > 1 and (left <= 0 or time.monotonic() > until):
            break
        n_studies += 1
        soak = Soak(OUT / str(n_studies), concurrent, given.trials, draw, memory, end)
        calm = Soak(OUT / f"{n_studies}-undisturbed", 1, given.trials, draw, memory, end)
        try:
            soak.run(left - left // 2, (began + until) / 2) if n_studies == 1 else soak.run(left, until)
            wrong.update(soak_audit.wrong(soak.study, soak.trials, len(soak.broken)))
            if concurrent == 1:
                calm.run(0, until)
                pairs = zip(soak_audit.outcome(soak.study), soak_audit.outcome(calm.study), strict=True)
                wrong["unlike undisturbed"] += sum(a != b for a, b in pairs)
        except TimeoutError:
            wrong["studies not ended in time"] += 1
        wrong["exit codes"] += soak.wrong_exits + calm.wrong_exits
        faults += soak.faults
        broken.update(soak.broken)
        sessions.update(soak.sessions + calm.sessions)
        n_starts += soak.starts
        say(f"study {n_studies}, {concurrent} at once: {soak.starts} starts, {dict(wrong)}")
        if time.monotonic() > end:
            break
    deadline = time.monotonic() + 60
    while (left_over := processes(sessions)) and time.monotonic() < deadline:
        time.sleep(1)
    wrong["processes left"] = len(left_over)
    wrong["temporary folders left"] = len(list((OUT / "tmp").glob("cmh-*")))
    say(f"\n{len(faults)} faults in {n_studies} studies of {given.trials} trials, {n_starts} starts,")
    say(f"{time.monotonic() - began:.0f} s, seed {given.seed}:\n")
    say(table(faults, broken))
    say(", ".join(f"{name}: {count}" for name, count in wrong.items()))
    return int(any(wrong.values()))


def table(faults: list[tuple[str, float]], broken: collections.Counter[str]) -> str:
    """Each kind of fault, how often it came, and how long the command then took to end at most; in Markdown."""
    lines = ["| fault | times | longest until the command had ended |", "|---|---|---|"]
    for kind in WEIGHTS:
        took = [seconds for name, seconds in faults if name == kind]
        name = f"SIGKILL of the {kind}" if kind in KILLS else kind
        ended = "goes on" if kind in ("worker", MONITOR) else f"{max(took, default=0):.0f} s"
        lines.append(f"| {name} | {len(took)} | {ended} |")
    lines += [f"| trial: {name} | {count} | goes on |" for name, count in broken.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
