"""The sections of `gpu.py` that check: each takes a `Place` and gives figures by name, and what was wrong."""

from __future__ import annotations

import multiprocessing
import os
import re
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from gpu_place import ROOT, Found, Place, SkippedError, command, curve, fit, made

from cmh import methods, training
from cmh.interfaces import SearchData
from cmh.training import fitting, trainable

HOG = Path(__file__).with_name("gpu_method.py")
DEEP = [name for name in methods.names() if methods.get(name).KIND != "shallow"]


def tests(place: Place) -> Found:
    """The tests marked `cuda`."""
    place.need_cuda()
    files = [path for path in sorted((ROOT / "tests").glob("test_*.py")) if "pytest.mark.cuda" in path.read_text()]
    text = command(place, "-m", "pytest", "-n", "0", "-q", "-m", "cuda", "-p", "no:cacheprovider", *files)
    return {"pytest": text.strip().splitlines()[-1]}, [] if "skipped" not in text else ["tests were skipped"]


def determinism(place: Place) -> Found:
    """Same seed twice, with another run between (a reused worker); resumed; in another process; pixels, too."""
    fitting.CHECKPOINT_SECONDS = 0.0
    data = made(150) if place.tiny else made(1000, 512, 1000, 21, queries=200)
    pixels, towers = made(64, 512, side=64), made(64, 32, 32, side=32, tokens=8)
    runs: list[tuple[str, str, SearchData, dict[str, Any]]] = [
        (
            "dcmh, conv4 from pixels",
            "dcmh",
            pixels,
            {"features": "conv4", "finetune": True, "hflip": 0.5, "erase": 0.2},
        ),
        (
            "dsph, both towers of a small CLIP by BertAdam",
            "dsph",
            towers,
            {
                **{"features": "clip-tiny", "finetune": True, "context_length": 8, "optimizer_backbone": "bertadam"},
                **{"micro_batch": 48, "checkpointing": True},
            },
        ),
        *((name, name, data, {}) for name in (["dcmh"] if place.tiny else DEEP)),
    ]
    problems, done = [], 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for what, name, rows, more in runs:
            if place.left() < 15:
                problems.append(f"{what} and what follows: no time left")
                break
            first = curve(name, place, rows, **more)
            curve("dcmh", place, data, seed=5, epochs=1)
            if curve(name, place, rows, **more) != first:
                problems.append(f"{what}: the same seed in the same process gives another curve")
            if _resumed(name, place, rows, more) != first:
                problems.append(f"{what}: resumed after its first epoch it gives another curve")
            done += 1
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        if pool.submit(curve, "dcmh", place, data).result(max(1.0, place.left())) != curve("dcmh", place, data):
            problems.append("dcmh: another process gives another curve")
    warned = sorted({str(one.message).split(" ")[0] for one in caught if "deterministic" in str(one.message)})
    return {"runs": done, "operations without a deterministic algorithm": ", ".join(warned) or "none"}, problems


def _resumed(name: str, place: Place, data: SearchData, more: dict[str, Any]) -> list[list[float]]:
    def stop(epoch: training.Epoch, _: object) -> None:
        if epoch.epoch == 1:
            raise InterruptedError

    with tempfile.TemporaryDirectory() as folder:
        try:
            curve(name, place, data, report=stop, folder=Path(folder), **more)
        except InterruptedError:
            return curve(name, place, data, folder=Path(folder), **more)
    raise AssertionError("nothing was reported")


def waits(place: Place) -> Found:
    """How often an epoch waits for the GPU: a few times at its end, not once a step."""
    place.need_cuda()
    figures: dict[str, object] = {}
    data, steps = made(2048, 512, 1000, 21), 16
    for name in DEEP:
        module = methods.get(name)
        run, config = training.parse(module, {"bits": 32, "device": place.device, "threads": 1, "batch_size": 128})
        device, _ = training.prepare(run)
        method, begin = training.build(module, run, config, data, device)
        method.epoch(begin(1))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            method.epoch(begin(2))
            torch.cuda.set_sync_debug_mode("default")
        where = [f"{Path(one.filename).name}:{one.lineno}" for one in caught if "synchronizing" in str(one.message)]
        often = {line: where.count(line) for line in sorted(set(where)) if where.count(line) >= steps}
        figures[name] = f"{len(where)}" + "".join(f", {line} {count}×" for line, count in often.items())
    return figures, [f"{name} waits in its steps: {text}" for name, text in figures.items() if "×" in str(text)]


def memory(place: Place) -> Found:
    """A trial that does not fit leaves its process sound; one that does not fit beside another has a second try."""
    place.need_cuda()
    data, problems = made(256), []
    before = curve(str(HOG), place, data)
    try:
        fit(str(HOG), place, data, share=2.0)
        problems.append("twice the card's memory was given")
    except torch.OutOfMemoryError as error:
        if trainable._failure(error)[0] != "oom":
            problems.append(f"not known as out of memory: {error}")
    torch.cuda.empty_cache()
    if curve(str(HOG), place, data) != before:
        problems.append("after it, the same seed gives another curve")
    space = place.folder / "space.yml"
    space.write_text(
        "method: gpu_method\nparams:\n  lr_image: {float: [1.0e-4, 1.0e-2], log: true}\nstart_from: [default]\n"
        "schedule: {asha: {first_rung: 1, reduction: 2, epochs: 2}}\n"
    )
    study = _tune(
        place, HOG, "--space", space, "--gpus-per-trial", 0.5, "--trials", 3, "--set", "share=0.6", "seconds=4"
    )
    from cmh.study import open as opened

    trials = opened(place.folder / "studies" / "gpu_method-clipart-32").trials
    again = [trial.number for trial in trials if "memory" in trial.user_attrs]
    failed = [trial.number for trial in trials if trial.state.name == "FAIL"]
    problems += [f"trials {failed} failed"] * bool(failed)
    problems += [] if again else ["no trial ran out of memory: were two beside each other?"]
    return {"trials": len(trials), "tried a second time": str(again), "at once": _at_once(study)}, problems


def fractions(place: Place) -> Found:
    """How `cmh.tune` divides a card: by a fraction, and by what an epoch was measured to need."""
    place.need_cuda()
    quarter = _at_once(_tune(place, "dcmh", "--gpus-per-trial", 0.25, "--trials", 4, "--epochs", 4))
    text = _tune(place, "dcmh", "--bits", 16, "--gpus-per-trial", "auto", "--trials", 4, "--epochs", 4)
    why = re.search(r"--gpus-per-trial auto: (.*)", text)
    problems = [] if why else ["auto did not say what it measured"]
    problems += [f"a quarter of a card each, but {quarter} at once"] * (quarter != min(4, os.cpu_count() or 1))
    return {"at once by 0.25": quarter, "by auto": _at_once(text), "auto": why[1] if why else ""}, problems


def _tune(place: Place, method: object, *more: object) -> str:
    """What a small search on the clip art prints; it needs no weights. Raises SkippedError without Ray."""
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise SkippedError(str(error)) from error
    return command(
        *(place, "-m", "cmh.tune", "--method", method, "--features", "conv4", "--no-confirm"),
        *("--out", place.folder / "studies", *more),
    )


def _at_once(text: str) -> int:
    found = re.search(r"(\d+) at once", text)
    return int(found[1]) if found else 0
