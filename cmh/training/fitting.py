"""Training a method, epoch by epoch, and choosing its epoch on the validation split."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from cmh import datasets, files
from cmh.errors import ConfigError, NotFiniteError
from cmh.features import backbones
from cmh.identity import Identity
from cmh.interfaces import Config, Method, MethodModule, SearchData, Setup, TestData
from cmh.nets import state as states
from cmh.nets.towers import OnBackbone
from cmh.seeding import derive
from cmh.training import checkpoint, run_folder
from cmh.training.batches import Augmentation, Items, Passes
from cmh.training.checkpoint import Checkpoint
from cmh.training.device import cores, prepare
from cmh.training.evaluation import ENCODE_ROWS, Ranking, Tested, score
from cmh.training.identify import identify
from cmh.training.run import Run, n_epochs

CHECKPOINT_SECONDS = 15.0


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One epoch as it is reported. MAP is tie-expected, over the whole validation database."""

    epoch: int  # 1-based
    val_map: float
    val_map_i2t: float
    val_map_t2i: float
    val_map_best: float  # of val_map so far
    best_epoch: int
    best_i2t: float  # at the best epoch
    best_t2i: float
    seconds: float
    passes: float  # over the training items so far; a paper's epoch may make several
    terms: dict[str, float]

    def metrics(self) -> dict[str, object]:
        """Flat, as Ray Tune takes it."""
        values = dataclasses.asdict(self)
        return {**values.pop("terms"), **values}


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A trained method with the weights of its best validation epoch, and how it got there."""

    method: Method
    curve: tuple[Epoch, ...]
    identity: Identity
    device: torch.device
    finetuned: bool
    resumed: int = 0  # epochs that a checkpoint brought

    @property
    def seconds(self) -> float:
        """Of training and validation, over all starts."""
        return self.curve[-1].seconds

    @property
    def device_seconds(self) -> float:
        """The same, of one GPU or of one core."""
        return self.seconds * cores(self.device, self.identity.threads)

    @property
    def best(self) -> Epoch:
        """The first epoch with the highest validation MAP."""
        return self.curve[self.curve[-1].best_epoch - 1]


Report = Callable[[Epoch, Callable[[], bytes] | None], None]  # an epoch, and what makes a checkpoint where one is due


def build(
    module: MethodModule, run: Run, config: Config, data: SearchData, device: torch.device
) -> tuple[Method, Callable[[int], Passes]]:
    """A method with its first weights, and what seeds its n-th epoch and gives that epoch's `batches`.

    Raises ConfigError where the backbone is to be trained along, but cannot be.
    """
    torch.manual_seed(derive(run.seed, "weights"))
    # On a GPU copies, on the CPU views of the memory map, which all trials of a machine share.
    image, text, labels = (
        torch.from_numpy(array).to(device) for array in (data.train.image, data.train.text, data.train.labels)
    )
    augmentation = Augmentation(run.seed, run.rotate, run.hflip, run.vflip, run.erase)
    items = Items(image, text, device, _pixels(module, data) if run.finetune else None, augmentation)
    setup = Setup(
        bits=run.bits,
        epochs=n_epochs(module, run),
        seed=run.seed,
        device=device,
        n_train=len(labels),
        image_dim=image.shape[1],
        text_dim=text.shape[1],
        labels=labels.to(device, torch.float32) if module.LABELS else None,
        image=image,
        text=text,
        image_net=functools.partial(_on_backbone, run) if run.finetune else lambda head: head,
    )
    batch_size = getattr(config, "batch_size", ENCODE_ROWS)

    def begin(number: int) -> Passes:
        torch.manual_seed(derive(run.seed, "noise", number))
        return Passes(items, batch_size, run.seed, number)

    return module.Method(config, setup), begin


def _pixels(module: MethodModule, data: SearchData) -> Tensor:
    """The training pictures; they stay on the CPU, and batches of them go to the device as bytes."""
    if module.KIND == "shallow":
        name = module.__name__.rpartition(".")[2]
        raise ConfigError(f"finetune is true, but {name} has a closed form on frozen features: nothing to train along")
    if data.train.pixels is None:
        raise ConfigError("finetune is true, but the dataset was loaded without pixels")
    return torch.from_numpy(data.train.pixels)


def _on_backbone(run: Run, head: nn.Module) -> nn.Module:
    network = backbones.build(run.features, run.weights)
    return OnBackbone(network, head, lr_share=run.lr_backbone, amp=run.amp, checkpointing=run.checkpointing)


@datasets.locked()
def fit(
    module: MethodModule,
    run: Run,
    config: Config,
    data: SearchData,
    *,
    report: Report | None = None,
    folder: Path | None = None,
    resume: bytes | None = None,
    after_epoch: Callable[[Method, torch.device], None] = lambda *_: None,
) -> Fitted:
    """Train a method and choose its epoch on the validation split.

    `report` is called after every epoch, and once more for the last one when a run goes on from a checkpoint
    (whoever listened may not have stored it). Checkpoints go to `folder`, at least every CHECKPOINT_SECONDS of
    training and at the end; without a folder the reporter may ask for one. Meanwhile the test split is locked.
    `after_epoch` is given the method as it then is.

    Raises NotFiniteError when a loss term or a code is not finite, CheckpointError when `resume` cannot be read,
    ConfigError when the device cannot be used.
    """
    device, _ = prepare(run)
    fitting = _Fitting(module, run, config, data, device)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        resume = resume if resume is not None else checkpoint.read(folder, fitting.identity)
    resumed = fitting.go_on(resume) if resume is not None else 0
    if resumed and report is not None:
        report(fitting.curve[-1], None)
    if folder is not None:
        curve = [epoch.metrics() for epoch in fitting.curve]
        run_folder.begin(folder, run, config, fitting.identity, curve)
    saved = time.monotonic()
    for number in range(resumed + 1, fitting.n_epochs + 1):
        epoch = fitting.train(number)
        after_epoch(fitting.method, device)
        due = number == fitting.n_epochs or time.monotonic() - saved >= CHECKPOINT_SECONDS
        if due:
            saved = time.monotonic()
        if folder is not None:
            run_folder.append(folder, epoch.metrics(), first=number == 1)
            if due:
                with files.new_file(folder / checkpoint.NAME) as temporary:
                    temporary.write_bytes(fitting.checkpoint())
        if report is not None:
            report(epoch, fitting.checkpoint if due else None)
    states.load(fitting.method.state(), checkpoint.on(fitting.best_state, device))
    return Fitted(fitting.method, tuple(fitting.curve), fitting.identity, device, run.finetune, resumed)


class _Fitting:
    """A run while it trains: its method, its curve, and the state of its best epoch."""

    def __init__(self, module: MethodModule, run: Run, config: Config, data: SearchData, device: torch.device) -> None:
        self.n_epochs = n_epochs(module, run)
        self.method, self._begin = build(module, run, config, data, device)
        self._ranking = Ranking(data.validation_query, data.validation_database, device, run.finetune)
        self.identity = identify(module, run, config, data)
        self._device, self._n_train = device, len(data.train.labels)
        self.curve: list[Epoch] = []
        self.best_state: dict[str, object] = {}
        self._started, self._seconds_before = time.monotonic(), 0.0

    def go_on(self, raw: bytes) -> int:
        """From a checkpoint; the number of epochs that it brought."""
        found = checkpoint.from_bytes(raw, self.identity)
        states.load(self.method.state(), checkpoint.on(found.method, self._device))
        self.curve, self.best_state = [_epoch(values) for values in found.curve], found.best
        self._started, self._seconds_before = time.monotonic(), self.curve[-1].seconds
        return len(self.curve)

    def checkpoint(self) -> bytes:
        """All that the next epoch depends on."""
        curve = [dataclasses.asdict(epoch) for epoch in self.curve]
        return Checkpoint(curve, states.save(self.method.state()), self.best_state).to_bytes(self.identity)

    def train(self, number: int) -> Epoch:
        """The n-th epoch and its validation. Raises NotFiniteError."""
        passes = self._begin(number)
        terms = self.method.epoch(passes)
        if bad := [f"{name} = {value}" for name, value in terms.items() if not math.isfinite(value)]:
            raise NotFiniteError(f"epoch {number}: {', '.join(bad)}")
        i2t, t2i = (float(values.mean()) for values in self._ranking.average_precision(self.method))
        last = self.curve[-1] if self.curve else None
        val_map = (i2t + t2i) / 2
        best = (val_map, number, i2t, t2i)
        if last is None or val_map > last.val_map_best:
            self.best_state = checkpoint.on(states.save(self.method.state()), torch.device("cpu"), copy=True)
        else:
            best = (last.val_map_best, last.best_epoch, last.best_i2t, last.best_t2i)
        epoch = Epoch(
            epoch=number,
            val_map=val_map,
            val_map_i2t=i2t,
            val_map_t2i=t2i,
            val_map_best=best[0],
            best_epoch=best[1],
            best_i2t=best[2],
            best_t2i=best[3],
            seconds=self._seconds_before + time.monotonic() - self._started,
            passes=(last.passes if last is not None else 0.0) + passes.n_seen / self._n_train,
            terms=terms,
        )
        self.curve.append(epoch)
        return epoch


def _epoch(values: Mapping[str, object]) -> Epoch:
    """As a checkpoint has it: written by this module, read without pickles."""
    return Epoch(**values)  # type: ignore[arg-type]


def test(fitted: Fitted, data: TestData) -> Tested:
    """Codes and metrics of the chosen epoch. Whoever calls this opens the test split and must count it."""
    return score(fitted.method, data, fitted.device, fitted.finetuned)
