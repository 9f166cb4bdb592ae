"""What `against.py` runs in one tree, in a process of its own: a task (JSON) in, what came out (JSON) to a file.

    PYTHONPATH=TREE python against_worker.py TREE TASK RESULT

Works in older trees, too: from cmh it uses only what commit 8bee503 has, with another name where one has moved.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

BATCH = 128  # of torchcmh's loop; cmh's DCMH has the same


def epochs(task: dict[str, Any]) -> dict[str, Any]:
    """CPU and wall seconds of each epoch, validation included, with its MAP, and the peak memory of training."""
    from cmh import training

    module, run, config = _parsed(task)
    data = training.load(run).search()
    Path("/proc/self/clear_refs").write_text("5")  # the peak from now on, without that of preparing the arrays
    cpu, wall, maps = [time.process_time()], [time.perf_counter()], []

    def report(epoch: Any, _save: object) -> None:
        cpu.append(time.process_time())
        wall.append(time.perf_counter())
        maps.append(epoch.val_map)

    train, epoch_of = [], module.Method.epoch

    def epoch(method: Any, batches: Any) -> Any:
        start = time.process_time()
        terms = epoch_of(method, batches)
        train.append(time.process_time() - start)
        return terms

    module.Method.epoch = epoch
    training.fit(module, run, config, data, report=report)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "cpu": np.diff(cpu).tolist(),
        "train": train,  # CPU seconds of it without validation
        "wall": np.diff(wall).tolist(),
        "map": maps,
        "peak_mib": int(status["VmHWM"].split()[0]) / 1024,
    }


def checkpoint(task: dict[str, Any]) -> dict[str, Any]:
    """MiB of the checkpoint file, and seconds to make and write one: within training and at its end."""
    from cmh import training

    places = [one for name, one in list(sys.modules.items()) if name.startswith("cmh.training")]
    for place in places:
        if hasattr(place, "CHECKPOINT_SECONDS"):
            vars(place)["CHECKPOINT_SECONDS"] = 0.0  # one an epoch
    module, run, config = _parsed(task)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, again = Path(name, "run"), Path(name, "again")

        def report(epoch: Any, save: Any) -> None:
            if save is None:
                return
            size = sum(path.stat().st_size for path in folder.glob("*.pt")) / 2**20
            start = time.perf_counter()
            again.write_bytes(save())
            seconds = time.perf_counter() - start
            found["end" if epoch.epoch == run.epochs else "within"] = {"mib": size, "seconds": seconds}

        training.fit(module, run, config, training.load(run).search(), report=report, folder=folder)
    return found


def prepare(task: dict[str, Any]) -> dict[str, Any]:
    """Fill the cache for a run, so that another process finds it warm."""
    from cmh import training

    _, run, _ = _parsed(task)
    training.load(run).search()
    return {}


def methods(_task: dict[str, Any]) -> dict[str, Any]:
    """The methods that are trained epoch by epoch."""
    from cmh import methods as registry

    return {"names": [name for name in registry.names() if registry.get(name).KIND != "shallow"]}


def point(task: dict[str, Any]) -> dict[str, Any]:
    """The hyperparameters of a method's default or paper point, as this tree has it."""
    from cmh import config as configs
    from cmh import methods as registry

    of = configs.paper if task["point"] == "paper" else configs.defaults
    return of(registry.get(task["method"]).Config)


def torchcmh(task: dict[str, Any]) -> dict[str, Any]:
    """CPU seconds of an epoch of torchcmh's own DCMH, training alone: its `train` and loss, its batches, its buffers.

    Items come from arrays in place of picture files, the image net is a hash layer on them (as cmh's paper point), the
    text net is torchcmh's own. Three things are not run: the N × N matrix `Sim`, which its loop never reads (40 GB at
    100,000 items), validation and plotting. With `steps` only so many are run a pass, and their time is scaled to all.
    """
    if importlib.util.find_spec("visdom") is None:  # imported at its start, for plots that are not asked for
        sys.modules["visdom"] = types.ModuleType("visdom")
        vars(sys.modules["visdom"])["Visdom"] = None
    sys.path.insert(0, str(Path(task["checkout"]).resolve()))
    DCMH = importlib.import_module("torchcmh.training.DCMH").DCMH
    Base = importlib.import_module("torchcmh.training.base").TrainBase
    Single = importlib.import_module("torchcmh.dataset.base.single").CrossModalSingleTrain
    MLP = importlib.import_module("torchcmh.models.MLP").MLP

    torch.manual_seed(0)
    torch.set_num_threads(task["threads"])
    folder = Path(task["dataset"])
    rows = np.load(folder / "split.npy") == "train"
    image, text, labels = (np.load(folder / f"{name}.npy", mmap_mode="r")[rows] for name in ("image", "text", "labels"))
    n_items, bits = len(labels), 32
    all_steps = n_items // BATCH
    steps = min(task["steps"] or all_steps, all_steps)

    class Items(Single):  # type: ignore[misc, valid-type]
        drawing = 0.0  # CPU seconds, the same however many steps are run

        def read_img(self, item: int) -> torch.Tensor:
            return torch.from_numpy(image[item])

        def re_random_item(self) -> None:
            start = time.process_time()
            super().re_random_item()
            self.drawing += time.process_time() - start

        def __len__(self) -> int:
            return steps * BATCH

    class Loop(DCMH):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            Base.__init__(self, "DCMH", "arrays", bits, BATCH, visdom=False, cuda=False)
            self.train_data = Items(".", np.arange(n_items).astype(str), text, labels, BATCH)
            self.loss_store = ["log loss", "quantization loss", "balance loss", "loss"]
            self.parameters, self.lr = {"gamma": 1, "eta": 1}, {"img": 10**-1.5, "txt": 10**-1.5}
            self.lr_decay, self.max_epoch = (1e-6 / 10**-1.5) ** (1 / 500), task["epochs"]
            self.num_train, self.train_L = n_items, self.train_data.get_all_label()
            self.img_model, self.txt_model = torch.nn.Linear(image.shape[1], bits), MLP(text.shape[1], bits)
            self.img_model.module_name = "hash layer"
            self.F_buffer, self.G_buffer = torch.randn(n_items, bits), torch.randn(n_items, bits)
            self.ones, self.ones_ = torch.ones(BATCH, 1), torch.ones(n_items - BATCH, 1)
            self.B = torch.sign(self.F_buffer + self.G_buffer)
            nets = ((self.img_model, "img"), (self.txt_model, "txt"))
            self.optimizers = [torch.optim.SGD(net.parameters(), lr=self.lr[name]) for net, name in nets]
            self.plotter = types.SimpleNamespace(plot=lambda *_: None, next_epoch=lambda: None)
            self._init()
            self.seconds: list[float] = []
            self.begin()

        def begin(self) -> None:
            self.train_data.drawing, self.start = 0.0, time.process_time()

        def valid(self, epoch: int) -> None:
            rest = time.process_time() - self.start - self.train_data.drawing
            self.seconds.append(self.train_data.drawing + rest * all_steps / steps)
            self.begin()

    loop = Loop()
    loop.train(num_works=0)
    if not torch.isfinite(loop.F_buffer).all() or not torch.isfinite(loop.G_buffer).all():
        raise FloatingPointError("torchcmh's outputs are not finite: its time means nothing")
    return {"train": loop.seconds, "steps": [steps, all_steps]}


def _parsed(task: dict[str, Any]) -> tuple[Any, Any, Any]:
    """(module, run, config) of a task's method, dataset and point."""
    from cmh import config as configs
    from cmh import methods as registry
    from cmh import training

    module = registry.get(task["method"])
    values: dict[str, Any] = {"dataset": task["dataset"], "bits": 32, "device": "cpu", **task["values"]}
    config = task.get("config") or point(task)
    known = configs.params(module.Config)
    values |= {name: value for name, value in config.items() if name in known}
    if task["tiny"]:
        values |= {name: min(int(values[name]), 16) for name in values if name.startswith("hidden")}
    parse = getattr(training, "parse", None) or training.split
    run, config = parse(module, values)
    return module, run, config


def main() -> int:
    """Run the task, write what came out."""
    tree, task, result = Path(sys.argv[1]).resolve(), json.loads(sys.argv[2]), Path(sys.argv[3])
    if task["task"] != "torchcmh":
        import cmh

        if not Path(cmh.__file__).resolve().is_relative_to(tree):
            raise RuntimeError(f"cmh was imported from {cmh.__file__}, but {tree} is to be measured: set PYTHONPATH")
    tasks = {
        "epochs": epochs,
        "checkpoint": checkpoint,
        "prepare": prepare,
        "methods": methods,
        "point": point,
        "torchcmh": torchcmh,
    }
    result.write_text(json.dumps(tasks[task["task"]](task)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
