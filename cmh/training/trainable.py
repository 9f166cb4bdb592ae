"""The body of every `trainable`: a run alone, under one's own Ray Tune, or as a trial of a study."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib
import logging
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from cmh.errors import CmhError, NotFiniteError
from cmh.interfaces import Config, MethodModule, SearchData
from cmh.training import run_folder
from cmh.training.device import cores, describe, prepare
from cmh.training.fitting import Epoch, fit
from cmh.training.run import Run, load, n_epochs, parse

if TYPE_CHECKING:
    import types

log = logging.getLogger(__name__)


def train(
    module_name: str,
    values: Mapping[str, object],
    *,
    fetch: Callable[[], SearchData] | None = None,
    before_report: Callable[[], None] = lambda: None,
) -> None:
    """Fit, and report each epoch to whoever runs it.

    Inside a Ray Tune trial epochs go to Tune. With `folder` set (the study harness, which may bring the data with
    `fetch` and take the folder's files away `before_report`), failures become a report with `failed` and `reason`,
    so that the worker lives on; without it checkpoints go to Tune and errors rise. Outside Ray the curve is logged.

    Raises ConfigError that lists every unknown key and bad value, and without a study what `fit` raises.
    """
    module = cast(MethodModule, importlib.import_module(module_name))  # the one that called
    run, config = parse(module, values)
    if "ray.tune" not in sys.modules or not _cluster().in_trial():
        fit(module, run, config, load(run).search(), report=_log, folder=Path(run.folder) if run.folder else None)
        return
    run = dataclasses.replace(run, threads=run.threads or _cluster().trial_cpus())
    if run.folder:
        _as_trial(module, run, config, fetch or (lambda: load(run).search()), before_report)
    else:
        fit(module, run, config, load(run).search(), report=_to_tune, resume=_cluster().stored_checkpoint())


def _as_trial(
    module: MethodModule,
    run: Run,
    config: Config,
    fetch: Callable[[], SearchData],
    before_report: Callable[[], None],
) -> None:
    folder = Path(run.folder)
    try:
        device, threads = prepare(run)
        about = {"device": describe(device, threads), "epochs": n_epochs(module, run)}

        def report(epoch: Epoch, _save: Callable[[], bytes] | None) -> None:
            before_report()
            device_seconds = epoch.seconds * cores(device, threads)
            _cluster().report({**epoch.metrics(), **about, "device_seconds": device_seconds})

        fit(module, run, config, fetch(), report=report, folder=folder)
    except Exception as error:
        # Whatever a trial dies of stays its own: the reason goes to the study, the traceback to its folder.
        kind, reason = failure(error)
        trace = traceback.format_exc()
        with contextlib.suppress(OSError):  # the disk may be what failed
            run_folder.note(folder, f"failed ({kind}): {reason}\n{trace}")
            before_report()
        _cluster().report({"failed": kind, "reason": reason})


def failure(error: Exception) -> tuple[str, str]:
    """(kind, one line) of what a trial died of; kinds: nan, oom, error, and disk, which is not the trial's fault."""
    text = str(error) if isinstance(error, CmhError) else f"{type(error).__name__}: {error}"
    line = " ".join(text.split())[:500]
    if isinstance(error, NotFiniteError):
        return "nan", line
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in line:
        return "oom", line
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return "disk", line
    return "error", line


def _log(epoch: Epoch, _save: Callable[[], bytes] | None) -> None:
    log.info(
        "epoch %d: val_map %.4f (i2t %.4f, t2i %.4f), best %.4f",
        *(epoch.epoch, epoch.val_map, epoch.val_map_i2t, epoch.val_map_t2i, epoch.val_map_best),
    )


def _to_tune(epoch: Epoch, save: Callable[[], bytes] | None) -> None:
    _cluster().report(epoch.metrics(), save() if save is not None else None)


def _cluster() -> types.ModuleType:
    """Ray, only where it is in use."""
    return importlib.import_module("cmh.cluster")
