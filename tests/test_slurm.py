"""`docs/slurm.sh` on a real SLURM of one node, which is started here: jobs side by side, time that runs out, scancel.

`CMH_TEST_SLURM=1 python -m pytest -n 0 tests/test_slurm.py`, as root, with slurmctld, slurmd, slurm-client and munge of
Debian.
"""

from __future__ import annotations

import contextlib
import csv
import os
import platform
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest

from cmh.commands import INTERRUPTED
from tests.test_storms import ROOT, Command, until

pytestmark = [pytest.mark.slurm, pytest.mark.ray, pytest.mark.timeout(1200)]
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
SCRIPT = ROOT / "docs" / "slurm.sh"
KILL_SECONDS = 15
CONF = """
ClusterName=test
SlurmctldHost={host}
AuthType=auth/munge
AuthInfo=socket={folder}/munge
SlurmUser=root
SlurmctldPort=26817
SlurmdPort=26818
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait={wait}
MpiDefault=none
NodeName={host} CPUs=2 Boards=1 SocketsPerBoard=1 CoresPerSocket=2 ThreadsPerCore=1 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Runs a command of SLURM: its standard output."""
    if absent := [name for name in PROGRAMS if shutil.which(name) is None]:
        pytest.skip(f"no SLURM here: {', '.join(absent)} are missing")
    if os.getuid() != 0:
        pytest.skip("SLURM's daemons start jobs as root")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "key").write_bytes(secrets.token_bytes(1024))
    (folder / "key").chmod(0o400)
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=platform.node(), folder=folder, wait=KILL_SECONDS))
    own = [f"--{name}={folder}/{file}" for name, file in (("socket", "munge"), ("key-file", "key"))]
    own += [f"--{name}={folder}/munge-{name}" for name in ("log-file", "pid-file", "seed-file")]
    environment = {**os.environ, "SLURM_CONF": str(conf)}
    daemons = [["munged", "--force", "--foreground", *own], ["slurmctld", "-D"], ["slurmd", "-D"]]

    def run(*command: str, **more: str) -> str:
        done = subprocess.run(command, env={**environment, **more}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    with contextlib.ExitStack() as stack:
        for daemon in daemons:
            log = stack.enter_context((folder / f"{daemon[0]}.log").open("wb"))
            process = subprocess.Popen(daemon, env=environment, stdout=log, stderr=log)
            stack.callback(process.wait, 30)
            stack.callback(process.terminate)
            time.sleep(1)
        until(lambda: "idle" in run("sinfo", "-h", "-o", "%T"), 60, "an idle node")
        yield run


class Job:
    """`sbatch docs/slurm.sh` with one CPU, as a site might have it: nothing is exported, TMPDIR is long."""

    def __init__(self, slurm: Callable[..., str], command: Command, out: Path) -> None:
        out.mkdir(exist_ok=True)
        self.slurm, self.log = slurm, out / "log"
        long = out / ("temporary-folder-of-a-job-" + "x" * 80)
        long.mkdir(exist_ok=True)
        passed = {key: command.environment[key] for key in ("PATH", "PYTHONPATH", "FAULTS", "EPOCH_SECONDS")}
        exports = "".join(f"export {key}='{value}'\n" for key, value in {**passed, "TMPDIR": str(long)}.items())
        script = out / "script.sh"
        script.write_text(f"#!/bin/bash\n{exports}source {SCRIPT}\n")
        options = ["--nodes=1", "--ntasks-per-node=1", "--cpus-per-task=1", "--time=30", "--export=NONE"]
        options += ["--open-mode=append", f"--output={self.log}", "--parsable"]
        self.number = slurm("sbatch", *options, str(script), *command.arguments[3:])

    @property
    def state(self) -> str:
        shown = self.slurm("scontrol", "show", "job", self.number)
        return next(word.partition("=")[2] for word in shown.split() if word.startswith("JobState="))

    @property
    def code(self) -> str:
        shown = self.slurm("scontrol", "show", "job", self.number)
        return next(word.partition("=")[2] for word in shown.split() if word.startswith("ExitCode="))

    @property
    def over(self) -> bool:
        return self.state not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")

    def wait(self, seconds: float) -> None:
        until(lambda: self.over, seconds, f"job {self.number} to end")


def harmless(folder: Path, trials: int, *more: str, epoch_seconds: float = 0.0) -> Command:
    """A search whose trials all end well, whatever the sampler proposes."""
    command, space = Command(folder, [1], trials, *more, epoch_seconds=epoch_seconds), folder / "space.yml"
    with_faults = "lambda_text: {choice: [1, 2, 3, 4, 5, 6, 7]}"
    assert with_faults in space.read_text()
    space.write_text(space.read_text().replace(with_faults, "lambda_text: {float: [0.5, 1.5]}"))
    return command


def test_two_jobs_on_one_node_and_in_one_storage(slurm: Callable[..., str], tmp_path: Path) -> None:
    """An array over seeds, which people write first."""
    url, jobs = f"sqlite:///{tmp_path}/shared.db", []
    optuna.storages.RDBStorage(url)
    for seed in "12":
        folder = tmp_path / seed
        folder.mkdir()
        command = harmless(folder, 2, "--seed", seed, "--no-confirm", "--storage", url)
        jobs.append(Job(slurm, command, folder))
    until(lambda: [job.state for job in jobs] == ["RUNNING"] * 2, 60, "both to run")
    for job in jobs:
        job.wait(400)
        assert (job.state, job.code) == ("COMPLETED", "0:0"), job.log.read_text()
        assert ", 1 at once" in job.log.read_text()
    names = optuna.get_all_study_names(url)
    assert len(names) == 2
    assert {name[: len("ridge-clipart-8-")] for name in names} == {"ridge-clipart-8-"}


def test_time_that_runs_out_and_scancel(slurm: Callable[..., str], tmp_path: Path) -> None:
    """The second also ends the job's Ray, servers first, so that nobody is left to say goodbye to."""
    command = harmless(tmp_path, 40, "--no-confirm", epoch_seconds=0.5)

    def curves() -> int:
        return len(list(command.study.glob("trials/*/curve.csv")))

    for how in (["--signal=USR1", "--batch"], []):
        before, job = curves(), Job(slurm, command, tmp_path / "job")
        log = job.log
        until(lambda job=job, before=before: curves() > before + 1 or job.over, 300, "a second trial")
        assert job.state == "RUNNING", log.read_text()
        (command.study / "trials.csv").unlink(missing_ok=True)
        started = len(log.read_text())
        slurm("scancel", *how, job.number)
        until(lambda log=log, started=started: INTERRUPTED in log.read_text()[started:], KILL_SECONDS, INTERRUPTED)
        job.wait(60)
        with (command.study / "trials.csv").open(newline="") as file:
            assert len(list(csv.DictReader(file))) >= 2
    assert "going on with the study that is there" in log.read_text()
    assert "Traceback" not in log.read_text()
