"""Work in a process of its own, and what of a GPU the process of a search holds: nothing."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cmh import apart, cluster, training
from cmh.errors import ConfigError, StudyError
from cmh.signals import Interrupts
from cmh.study import controls, node, preflight
from tests.apart_work import breaks, dies, process_and, refuses, waits
from tests.test_address import study_of


def test_what_it_returns_and_raises(capfd: pytest.CaptureFixture[str]) -> None:
    process, value = apart.call(process_and, 1, more=2)
    assert (process != os.getpid(), value) == (True, 3)
    with pytest.raises(ConfigError) as error:
        apart.call(refuses)
    assert (error.value.problems, error.value.heading) == (("one", "two"), "both")
    with pytest.raises(StudyError, match="dies: its process died"):
        apart.call(dies)
    with pytest.raises(StudyError, match=r"breaks: its process died \(exit code 1\)"):
        apart.call(breaks)
    assert "ValueError: a fault" in capfd.readouterr().err  # its traceback is shown


def test_an_interrupt_ends_it(tmp_path: Path) -> None:
    def interrupt() -> None:
        while not any(tmp_path.iterdir()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    other = threading.Thread(target=interrupt)
    other.start()
    with Interrupts(), pytest.raises(KeyboardInterrupt):
        apart.call(waits, str(tmp_path))
    other.join()
    (pid,) = (int(path.name) for path in tmp_path.iterdir())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# Of a GPU


@pytest.fixture
def believed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A GPU that there seems to be; the devices on which this process would have computed."""
    seen: list[str] = []
    prepare = training.fitting.prepare

    def noted(run: training.Run) -> tuple[torch.device, int]:
        seen.append(run.device)
        return prepare(run)

    for module in (training, training.fitting):
        monkeypatch.setattr(module, "prepare", noted)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return seen


def test_a_search_itself_computes_on_no_gpu(
    believed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(tmp_path)
    assert study.identity(study.base).device == ""  # whoever asks for one gets a part of it
    (values,) = controls.of_studies([study])
    assert values["ridge (control)"][2] > values["chance"][2]
    assert preflight.warnings(study) == []
    preflight.try_on_its_device(study, 0)
    assert set(believed) == {"cpu"}
    sent: list[Any] = []
    monkeypatch.setattr(apart, "call", lambda work, *given: sent.append((work, given)))
    preflight.try_on_its_device(study, None)
    assert sent == [(preflight.try_one_batch, (study,))]
    assert set(believed) == {"cpu"}


def test_a_study_is_tried_apart(tmp_path: Path) -> None:
    apart.call(preflight.try_one_batch, study_of(tmp_path))


@pytest.mark.parametrize(("gpus", "device"), [(0.0, "cpu"), (0.25, "auto")])
def test_a_trial_that_was_given_no_gpu_takes_none(
    gpus: float, device: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = SimpleNamespace(required_resources={"CPU": 2.0, **({"GPU": gpus} if gpus else {})})
    context = SimpleNamespace(get_trial_resources=lambda: given)
    monkeypatch.setattr(cluster.tune, "get_context", lambda: context)
    assert (cluster.trial_cpus(), cluster.trial_gpus()) == (2, gpus)
    seen: list[Any] = []
    monkeypatch.setattr(training, "train", lambda _, values, **__: seen.append(values["device"]))
    place = node.Place("ridge", SimpleNamespace(), "", tmp_path, b"")  # type: ignore[arg-type]
    node.do_task({"study": 0, "kind": "trial", "key": "", "values": {"folder": str(tmp_path)}}, [place])
    monkeypatch.setattr(cluster, "report", lambda _: None)
    monkeypatch.setattr(node.confirm, "run", lambda _, values, **__: seen.append(values["device"]))
    with pytest.raises(TypeError):  # nothing was tested
        node.do_task({"study": 0, "kind": "confirm", "key": "", "values": {"folder": str(tmp_path)}}, [place])
    assert seen == [device, device]
