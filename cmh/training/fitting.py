"""Training a method, epoch by epoch, and choosing its epoch on the validation split."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from cmh import datasets
from cmh.datasets import labelled
from cmh.errors import ConfigError, NotFiniteError
from cmh.identity import Identity
from cmh.interfaces import Config, Method, MethodModule, SearchData, Setup, TestData
from cmh.nets import bags
from cmh.nets import state as states
from cmh.nets.bertadam import Clock
from cmh.seeding import derive
from cmh.training import along, checkpoint, parts, run_folder, scaling
from cmh.training.batches import Augmentation, Items, Passes
from cmh.training.checkpoint import Checkpoint
from cmh.training.device import cores, moved, prepare
from cmh.training.evaluation import Ranking, Tested, sample, score
from cmh.training.identify import identify
from cmh.training.run import Run, n_epochs

CHECKPOINT_SECONDS = 15.0  # 0: after every validation
CHECKPOINT_SHARE = 50  # a checkpoint may take a fiftieth of the time
CLOSED_FORM_ROWS = 4096  # items of a batch for methods that have no batch size


@dataclasses.dataclass(frozen=True)
class Epoch:
    """An epoch with a validation, as it is reported. MAP is tie-expected, over the validation database or the run's
    sample of it; loss terms are those of the epoch."""

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
        return next(epoch for epoch in self.curve if epoch.epoch == self.curve[-1].best_epoch)


Report = Callable[[Epoch, Callable[[], bytes] | None], None]  # an epoch, and what makes a checkpoint where one is due


def trained_on(module: MethodModule, data: SearchData) -> SearchData:
    """The data without training items that the method cannot use: those without labels, if it learns from labels.

    Raises ConfigError where none is left.
    """
    train = data.train.labelled() if module.LABELS else data.train
    if train is data.train:
        return data
    name, n_without = module.__name__.rpartition(".")[2], len(data.train.labels) - len(train.labels)
    if not len(train.labels):
        raise ConfigError(f"{name} learns from labels, but no training item of {data.name} has one")
    labelled.say(f"{name} learns from labels: {n_without:,} training items of {data.name} without any are left out")
    return dataclasses.replace(data, train=train)


def build(
    module: MethodModule, run: Run, config: Config, data: SearchData, device: torch.device
) -> tuple[Method, Callable[[int], Passes]]:
    """A method with its first weights, and what seeds its n-th epoch and gives that epoch's `batches`.

    Raises ConfigError where backbones are to be trained along, but cannot be.
    """
    torch.manual_seed(derive(run.seed, "weights"))
    # On a GPU copies, on the CPU views of the memory map, which all trials of a machine share.
    image, labels = (torch.from_numpy(array).to(device) for array in (data.train.image, data.train.labels))
    text = bags.tensor(data.train.text).to(device)
    several, drawn = max(image.ndim, text.ndim) > 2, data.train.captions
    texts = text if drawn is None else bags.tensor(drawn.text).to(device)  # what batches are of: a row a caption
    image, text, texts = parts.given(module, run, image, text, texts)
    scalings = None if run.scale == "none" else (scaling.fitted(run.scale, image), scaling.fitted(run.scale, texts))
    if scalings is not None:
        image, text = scalings[0](image), scalings[1](text)
        texts = text if drawn is None else scalings[1](texts)
    augmentation = Augmentation(run.seed, run.rotate, run.hflip, run.vflip, run.erase)
    pixels, tokens = along.inputs(module, run, data) if run.finetune else (None, None)
    items, clock = Items(image, texts, device, pixels, augmentation, tokens, drawn), Clock()
    epochs = n_epochs(module, run)
    setup = Setup(
        bits=run.bits,
        epochs=epochs,
        seed=run.seed,
        device=device,
        n_train=len(labels),
        image_dim=image.shape[-1],
        text_dim=text.shape[-1],
        labels=labels.to(device, torch.float32) if module.LABELS else None,
        image=image,
        text=text,
        **along.nets(run, clock),
    )

    def begin(number: int) -> Passes:
        torch.manual_seed(derive(run.seed, "noise", number))

        def at(share: float) -> None:
            clock.share = (number - 1 + share) / epochs

        return Passes(items, getattr(config, "batch_size", CLOSED_FORM_ROWS), run.seed, number, at)

    method = module.Method(config, setup)
    method = method if scalings is None else scaling.Scaled(method, *scalings)
    return parts.Whole(method) if several and not parts.taken(module) else method, begin


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

    `report` is called after every validation (`validate_every`), and once more for the last one when a run goes on from
    a checkpoint (whoever listened may not have stored it). Checkpoints go to `folder`, at the end and whenever
    CHECKPOINT_SECONDS have gone by, or CHECKPOINT_SHARE times what one takes; without a folder the reporter may ask for
    one. Meanwhile the test split is locked.
    `after_epoch` is given the method as it then is.

    Raises NotFiniteError where a loss term or a code is not finite, CheckpointError where `resume` cannot be read,
    OtherRunError where it is of another run, ConfigError where the device cannot be used or the backbone cannot be
    trained along.
    """
    device, _ = prepare(run)
    fitting = _Fitting(module, run, config, trained_on(module, data), device)
    found = checkpoint.from_bytes(resume, fitting.identity) if resume is not None else None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        found = found or checkpoint.read(folder, fitting.identity)
    if found is not None:
        fitting.go_on(found)
        if report is not None:
            report(fitting.curve[-1], None)
    if folder is not None:
        run_folder.begin(folder, run, config, fitting.identity, [epoch.metrics() for epoch in fitting.curve])
    resumed, saved, wait = fitting.done, time.monotonic(), CHECKPOINT_SECONDS
    for epoch in fitting.epochs():
        after_epoch(fitting.method, device)
        due = epoch.epoch == fitting.n_epochs or time.monotonic() - saved >= wait
        if due:
            saved = time.monotonic()
        if folder is not None:
            run_folder.append(folder, epoch.metrics(), first=epoch is fitting.curve[0])
            if due:
                checkpoint.write(folder, fitting.checkpoint())
                if CHECKPOINT_SECONDS:
                    wait = max(CHECKPOINT_SECONDS, CHECKPOINT_SHARE * (time.monotonic() - saved))
        if report is not None:
            report(epoch, fitting.checkpoint if due else None)
    fitting.choose()
    return Fitted(fitting.method, tuple(fitting.curve), fitting.identity, device, run.finetune, resumed)


class _Fitting:
    """A run while it trains: its method, its curve, and the state of its best epoch."""

    def __init__(self, module: MethodModule, run: Run, config: Config, data: SearchData, device: torch.device) -> None:
        self.n_epochs, self._every = n_epochs(module, run), run.validate_every
        self.method, self._begin = build(module, run, config, data, device)
        database = sample(data.validation_database, run.validation_database)
        self._ranking = Ranking(data.validation_query, database, device, run.finetune)
        self.identity = identify(module, run, config, data)
        self._device, self._n_train = device, len(data.train.labels)
        self.curve: list[Epoch] = []
        self._best_state: dict[str, object] = {}

    @property
    def done(self) -> int:
        """Epochs that are trained and validated."""
        return self.curve[-1].epoch if self.curve else 0

    def go_on(self, found: Checkpoint) -> None:
        """From where a checkpoint is."""
        if found.method:
            states.load(self.method.state(), moved(found.method, self._device))
        # They are as `checkpoint` wrote them: one of another run, or a damaged one, has been refused.
        self.curve = [Epoch(**epoch) for epoch in found.curve]  # type: ignore[arg-type]
        self._best_state = found.best

    def checkpoint(self) -> bytes:
        """All that the next epoch depends on; after the last one the best epoch alone."""
        curve = [dataclasses.asdict(epoch) for epoch in self.curve]
        state = states.save(self.method.state()) if self.done < self.n_epochs else {}
        return Checkpoint(curve, state, self._best_state).to_bytes(self.identity)

    def epochs(self) -> Iterator[Epoch]:
        """Train and validate the epochs that are left, each when it is asked for. Raises NotFiniteError."""
        before, passes = (self.curve[-1].seconds, self.curve[-1].passes) if self.curve else (0.0, 0.0)
        started = time.monotonic()
        for number in range(self.done + 1, self.n_epochs + 1):
            terms, more = self._train(number)
            passes += more
            if number % self._every and number < self.n_epochs:
                continue
            i2t, t2i = (float(values.mean()) for values in self._ranking.average_precision(self.method))
            best = self._best(number, i2t, t2i)
            self.curve.append(
                Epoch(
                    epoch=number,
                    val_map=(i2t + t2i) / 2,
                    val_map_i2t=i2t,
                    val_map_t2i=t2i,
                    val_map_best=best[0],
                    best_epoch=best[1],
                    best_i2t=best[2],
                    best_t2i=best[3],
                    seconds=before + time.monotonic() - started,
                    passes=passes,
                    terms=terms,
                )
            )
            yield self.curve[-1]

    def _train(self, number: int) -> tuple[dict[str, float], float]:
        """The loss terms of the n-th epoch, and its passes over the training items."""
        passes = self._begin(number)
        terms = self.method.epoch(passes)
        if bad := [f"{name} = {value}" for name, value in terms.items() if not math.isfinite(value)]:
            raise NotFiniteError(f"epoch {number}: {', '.join(bad)}")
        return terms, passes.n_seen / self._n_train

    def _best(self, number: int, i2t: float, t2i: float) -> tuple[float, int, float, float]:
        """MAP, number and both directions of the best epoch with this one, whose state is kept if it is that."""
        val_map, last = (i2t + t2i) / 2, self.curve[-1] if self.curve else None
        if last is not None and not val_map > last.val_map_best:
            return last.val_map_best, last.best_epoch, last.best_i2t, last.best_t2i
        state = states.save(self.method.state(), optimizers=False)
        self._best_state = moved(state, torch.device("cpu"), copy=True)
        return val_map, number, i2t, t2i

    def choose(self) -> None:
        """Give the method the weights of its best epoch; its optimizers stay where they are."""
        states.load(self.method.state(), moved(self._best_state, self._device), optimizers=False)


def test(fitted: Fitted, data: TestData) -> Tested:
    """Codes and metrics of the chosen epoch. Whoever calls this opens the test split and must count it."""
    return score(fitted.method, data, fitted.device, fitted.finetuned)
