"""The one training loop: seed, build, train, validate, checkpoint, report. It knows no method.

A method's module gives `Config`, `Method` and `LABELS` (whether it may see them). `Method(config, setup)` has
`epoch(batches)`, `encode_image`, `encode_text`, `state_dict` and `load_state_dict`; it owns its epoch and calls
`batches()` once for each pass over the training items that its paper makes.

The same seed gives the same curve: weights are drawn after seeding, the order of items depends on (seed, epoch,
pass) alone, and the global generator (dropout) is seeded anew at each epoch. So a run that goes on from a
checkpoint, or in a worker that has run other trials, repeats what an uninterrupted one does.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import errno
import functools
import gc
import importlib
import io
import json
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cmh import config as configs
from cmh import datasets, files, metrics
from cmh.config import param
from cmh.datasets import Arrays, Dataset, SearchData, TestData
from cmh.errors import CheckpointError, CmhError, ConfigError, NotFiniteError, OtherRunError
from cmh.features import backbones
from cmh.identity import Identity, code_hash
from cmh.identity import differences as identity_differences
from cmh.losses import sign
from cmh.nets import augment
from cmh.nets import state as states
from cmh.nets.towers import OnBackbone
from cmh.seeding import derive

ENCODE_ROWS = 4096  # items encoded at once: bounds memory, changes no code
ENCODE_PICTURES = 64  # the same where pictures go through a whole network
CHECKPOINT_SECONDS = 15.0

# Run settings that an identity does not hold as settings, and why.
NOT_SETTINGS = {
    **dict.fromkeys(("dataset", "split", "skip_bad", "features", "weights"), "what they give is there by content"),
    **dict.fromkeys(("bits", "epochs", "seed", "device", "threads"), "fields of their own"),
    "folder": "where results go changes none",
    "checkpointing": "computing maps twice gives the same numbers, to the last digit",
}
ONLY_FINETUNE = ("lr_backbone", "rotate", "hflip", "vflip", "amp")  # without effect on frozen features


@dataclasses.dataclass(frozen=True)
class Run:
    """What a training run needs beside the method's hyperparameters."""

    dataset: str = param("clipart", "built-in dataset, or the folder of your own")
    split: str = param("torchcmh", "split of a benchmark: torchcmh's seed or file order", choices=datasets.ORDERS)
    skip_bad: bool = param(False, "go on without a dataset's bad items")
    features: str = param("efficientnet-lite0", "image network, frozen unless finetune is on")
    weights: str = param("", "file of weights for it; empty: its own")
    finetune: bool = param(False, "train the image network along, from pixels")
    lr_backbone: float = param(0.1, "its learning rate as a share of the image net's (finetune)", low=0, high=100)
    rotate: float = param(
        0.0, "probability that a training picture is turned by 90, 180 or 270° (finetune)", low=0, high=1
    )
    hflip: float = param(0.0, "probability that a training picture is mirrored (finetune)", low=0, high=1)
    vflip: float = param(0.0, "probability that a training picture is turned upside down (finetune)", low=0, high=1)
    erase: float = param(0.0, "share of the text dimensions that each training item loses", low=0, below=1)
    amp: bool = param(True, "image network in bfloat16 on GPUs (finetune)")
    checkpointing: bool = param(False, "compute its maps twice instead of keeping them (finetune): less memory")
    bits: int = param(32, "length of the codes", low=1, high=4096)
    epochs: int = param(30, "training epochs; schedules are laid out over them", low=1, high=1_000_000)
    seed: int = param(0, "seed of weights, item order and buffers", low=0, high=2**62)
    device: str = param("auto", "auto, cpu, cuda or cuda:N; auto takes a GPU where the process has one")
    threads: int = param(0, "torch threads; 0: as many as the trial's CPUs", low=0, high=1024)
    folder: str = param("", "where config, curve, log and checkpoint go; empty: nowhere")


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a method is built from, beside its Config.

    `image_net(head)` is the image net on top of which `head` (features `(n, image_dim)` in) stands: the head itself on
    frozen features, a backbone with the head on it where the backbone is trained along. `image` and `text` are the
    frozen features of all training items, `(n_train, image_dim)` and `(n_train, text_dim)`; they may be a memory map,
    so take rows and move those.
    """

    bits: int
    epochs: int
    seed: int
    device: torch.device
    n_train: int
    image_dim: int
    text_dim: int
    labels: Tensor | None  # (n_train, c) float 0/1; None where the method's module does not ask for them
    image: Tensor
    text: Tensor
    image_net: Callable[[nn.Module], nn.Module]


class Batch:
    """Training items: `index` (b,) into the training set, and what belongs to them, gathered when first asked for."""

    def __init__(
        self,
        index: Tensor,
        image: Tensor,
        text: Tensor,
        device: torch.device,
        *,
        pixels: Tensor | None = None,
        run: Run | None = None,
        names: tuple[int, ...] = (),
    ) -> None:
        self._rows, self._image, self._text, self._pixels, self._device = index, image, text, pixels, device
        self._run, self._names = run or Run(), names  # the stream of its augmentations
        self.index = index.to(device)

    @functools.cached_property
    def image(self) -> Tensor:
        """What the image net takes, on the device: `features`, or pixels where the backbone is trained along."""
        if self._pixels is None:
            return self.features
        run, pixels = self._run, self._pixels[self._rows].to(self._device)
        return augment.turn_and_flip(pixels, self._draw("image"), rotate=run.rotate, hflip=run.hflip, vflip=run.vflip)

    @functools.cached_property
    def features(self) -> Tensor:
        """Frozen image features `(b, image_dim)` on the device."""
        return self._image[self.index].to(self._device, torch.float32)

    @functools.cached_property
    def text(self) -> Tensor:
        """Text features `(b, text_dim)` on the device."""
        text = self._text[self.index].to(self._device, torch.float32)
        return augment.erase(text, self._draw("text"), share=self._run.erase) if self._run.erase else text

    def _draw(self, what: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive(self._run.seed, "augment", what, *self._names))


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

    def best(self) -> tuple[float, int, float, float]:
        """Best validation MAP so far, its epoch, and both directions there."""
        return self.val_map_best, self.best_epoch, self.best_i2t, self.best_t2i

    def metrics(self) -> dict[str, object]:
        """Flat, as Ray Tune takes it."""
        values = dataclasses.asdict(self)
        return {**values.pop("terms"), **values}


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A trained method with the weights of its best validation epoch, and how it got there."""

    method: Any
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
        return self.seconds * _cores(self.device, self.identity.threads)

    @property
    def best(self) -> Epoch:
        """The first epoch with the highest validation MAP."""
        return self.curve[self.curve[-1].best_epoch - 1]


Report = Callable[[Epoch, Callable[[], bytes] | None], None]


def split(module: ModuleType, values: Mapping[str, object]) -> tuple[Run, Any]:
    """A flat mapping as (run settings, the method's Config).

    Raises ConfigError that lists every unknown key and bad value of both.
    """
    run_table, table = configs.params(Run), configs.params(module.Config)
    problems = [configs.unknown(key, {**run_table, **table}) for key in values if key not in {**run_table, **table}]
    built: list[Any] = []
    for cls, known in ((Run, run_table), (module.Config, table)):
        try:
            built.append(configs.build(cls, {key: value for key, value in values.items() if key in known}))
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError(*problems, heading=f"settings of {module.__name__.rpartition('.')[2]}")
    return built[0], built[1]


def load(run: Run) -> datasets.Dataset:
    """The dataset of a run, prepared if need be."""
    return datasets.load(
        run.dataset,
        features=run.features,
        weights=run.weights,
        pixels=run.finetune,
        skip_bad=run.skip_bad,
        order=run.split,
    )


def train(
    module_name: str,
    values: Mapping[str, object],
    *,
    fetch: Callable[[], SearchData] | None = None,
    before_report: Callable[[], None] = lambda: None,
) -> None:
    """The body of every `trainable`: fit, and report each epoch to whoever runs it.

    Inside a Ray Tune trial epochs go to Tune. With `folder` set (the study harness, which may bring the data with
    `fetch` and take the folder's files away `before_report`), failures become a report with `failed` and `reason`,
    so that the worker lives on; without it checkpoints go to Tune and errors rise.
    Outside Ray the curve is printed to stderr.
    """
    module = importlib.import_module(module_name)
    run, config = split(module, values)
    if "ray.tune" not in sys.modules or not _cluster().in_trial():
        data = load(run).search()
        fit(module, run, config, data, report=_say, folder=Path(run.folder) if run.folder else None)
        return
    cluster = _cluster()
    run = dataclasses.replace(run, threads=run.threads or cluster.trial_cpus())
    if not run.folder:
        data = load(run).search()
        fit(module, run, config, data, report=_to_tune, resume=cluster.stored_checkpoint())
        return
    folder = Path(run.folder)
    try:
        device, threads = prepare(run)
        extra = {"device": describe(device, threads), "epochs": n_epochs(module, run)}
        cores = _cores(device, threads)
        data = fetch() if fetch is not None else load(run).search()

        def report(epoch: Epoch, _save: Callable[[], bytes] | None) -> None:
            before_report()
            cluster.report({**epoch.metrics(), **extra, "device_seconds": epoch.seconds * cores})

        fit(module, run, config, data, report=report, folder=folder)
    except Exception as error:
        # Whatever a trial dies of stays its own: the reason goes to the study, the traceback to its folder.
        kind, reason = _failure(error)
        trace = traceback.format_exc()
        with contextlib.suppress(OSError):  # the disk may be what failed
            _note(folder, f"failed ({kind}): {reason}\n{trace}")
            before_report()
        cluster.report({"failed": kind, "reason": reason})
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def build(
    module: ModuleType, run: Run, config: Any, data: SearchData, device: torch.device
) -> tuple[Any, Callable[[int], _Passes]]:
    """A method with its first weights, and what seeds its n-th epoch and gives that epoch's `batches`."""
    torch.manual_seed(derive(run.seed, "weights"))
    image, text, labels = (_tensor(array, device) for array in (data.train.image, data.train.text, data.train.labels))
    pixels = _pixels(module, data) if run.finetune else None
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

    def begin(number: int) -> _Passes:
        torch.manual_seed(derive(run.seed, "noise", number))
        return _Passes(image, text, batch_size, run.seed, number, device, pixels, run)

    return module.Method(config, setup), begin


@datasets.locked()
def fit(
    module: ModuleType,
    run: Run,
    config: Any,
    data: SearchData,
    *,
    report: Report | None = None,
    folder: Path | None = None,
    resume: bytes | None = None,
    after_epoch: Callable[[Any, torch.device], None] = lambda *_: None,
) -> Fitted:
    """Train a method and choose its epoch on the validation split.

    `report` is called after every epoch, and once more for the last one when a run goes on from a checkpoint
    (whoever listened may not have stored it). Checkpoints go to `folder`, at least every CHECKPOINT_SECONDS of
    training and at the end; without a folder the reporter may ask for one. Meanwhile the test split is locked.
    `after_epoch` is given the method as it then is.

    Raises NotFiniteError when a loss term or a code is not finite, CheckpointError when `resume` cannot be read.
    """
    device, _ = prepare(run)
    epochs = n_epochs(module, run)
    method, begin = build(module, run, config, data, device)
    validate = _Ranking(data.validation_query, data.validation_database, device, run.finetune)
    identity = identify(module, run, config, data)

    curve: list[Epoch] = []
    best_state: dict[str, Any] = {}
    if resume is None and folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        resume = _read_checkpoint(folder, identity)
    resumed = 0
    if resume is not None:
        state = _load(resume, identity)
        states.load(method.state(), _to_device(state["method"], device))
        curve = [Epoch(**epoch) for epoch in state["curve"]]
        best_state, resumed = state["best"], len(curve)
        if report is not None:
            report(curve[-1], None)
    if folder is not None:
        _start_folder(folder, module, run, config, identity, curve)

    def save() -> bytes:
        buffer = io.BytesIO()
        torch.save(
            {
                "identity": identity.without(),
                "curve": [dataclasses.asdict(epoch) for epoch in curve],
                "method": states.save(method.state()),
                "best": best_state,
            },
            buffer,
        )
        return buffer.getvalue()

    seconds, n_passes = (curve[-1].seconds, curve[-1].passes) if curve else (0.0, 0.0)
    started = saved = time.monotonic()
    for number in range(len(curve) + 1, epochs + 1):
        passes = begin(number)
        terms = method.epoch(passes)
        n_passes += passes.items / len(data.train.labels)
        if bad := [f"{name} = {value}" for name, value in terms.items() if not math.isfinite(value)]:
            raise NotFiniteError(f"epoch {number}: {', '.join(bad)}")
        i2t, t2i = (float(values.mean()) for values in validate(method))
        val_map = (i2t + t2i) / 2
        improved = not curve or val_map > curve[-1].val_map_best
        if improved:
            best_state = _to_device(states.save(method.state()), torch.device("cpu"), copy=True)
        best = (val_map, number, i2t, t2i) if improved else curve[-1].best()
        curve.append(
            Epoch(
                epoch=number,
                val_map=val_map,
                val_map_i2t=i2t,
                val_map_t2i=t2i,
                val_map_best=best[0],
                best_epoch=best[1],
                best_i2t=best[2],
                best_t2i=best[3],
                seconds=seconds + time.monotonic() - started,
                passes=n_passes,
                terms=terms,
            )
        )
        after_epoch(method, device)
        due = number == epochs or time.monotonic() - saved >= CHECKPOINT_SECONDS
        if due:
            saved = time.monotonic()
        if folder is not None:
            _append_curve(folder, curve)
            if due:
                with files.new_file(folder / "checkpoint.pt") as temporary:
                    temporary.write_bytes(save())
        if report is not None:
            report(curve[-1], save if due else None)
    states.load(method.state(), _to_device(best_state, device))
    return Fitted(method, tuple(curve), identity, device, run.finetune, resumed)


@dataclasses.dataclass(frozen=True)
class Tested:
    """What the codes of test queries and database scored: metrics, the AP of every query `(n_query,)`, and the codes
    ±1 `(n, bits)` by what they are of."""

    metrics: dict[str, float]
    i2t: NDArray[np.float64]
    t2i: NDArray[np.float64]
    codes: dict[str, NDArray[np.int8]]  # query_image, query_text, database_image, database_text


def test(fitted: Fitted, data: TestData) -> Tested:
    """Codes and metrics of the chosen epoch. Whoever calls this opens the test split and must count it."""
    return score(fitted.method, data, fitted.device, fitted.finetuned)


def score(method: Any, data: TestData, device: torch.device, from_pixels: bool) -> Tested:
    """The same of a method as it is."""
    return _Ranking(data.query, data.database, device, from_pixels).everything(method)


def threads(cpus: float) -> int:
    """Torch threads of a run that is given so many CPUs."""
    return max(1, int(cpus))


def n_epochs(module: ModuleType, run: Run) -> int:
    """How many epochs are trained: a closed-form method says how many it can use."""
    return int(min(run.epochs, getattr(module, "EPOCHS", run.epochs)))


def settings_of(run: Run) -> dict[str, configs.Value]:
    """The run settings that change a number, where nothing else in an identity says them."""
    left_out = {*NOT_SETTINGS, *(() if run.finetune else ONLY_FINETUNE)}
    return {key: value for key, value in dataclasses.asdict(run).items() if key not in left_out}


def _kind(device: torch.device) -> str:
    """A device as far as it decides how sums are rounded."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.backends.cpu.get_cpu_capability()}"


def identify(module: ModuleType, run: Run, config: Any, data: SearchData | Dataset) -> Identity:
    """What a run's numbers are of, known before it starts. Raises ConfigError where its device cannot be used."""
    device, threads = _resolve(run)
    return Identity(
        method=module.__name__.rpartition(".")[2],
        code=_code(module),
        dataset=data.name,
        dataset_sha256=data.sha256,
        split_sha256=data.split_sha256,
        arrays_sha256=data.arrays_sha256,
        features=data.features,
        bits=run.bits,
        epochs=n_epochs(module, run),
        seed=run.seed,
        config=dataclasses.asdict(config),
        settings=settings_of(run),
        threads=threads,
        device=_kind(device),
        torch=str(torch.__version__),
    )


@functools.cache
def _code(module: ModuleType) -> str:
    """Once a module: what is imported is what runs, even where the file is edited meanwhile."""
    return code_hash(Path(str(module.__file__)))


def chance(data: SearchData) -> float:
    """Validation MAP of codes that say nothing: every item at the same distance, all orders equally likely."""
    labels = [metrics.pack_labels(arrays.labels) for arrays in (data.validation_query, data.validation_database)]
    codes = [np.zeros((len(words), 1), np.uint64) for words in labels]
    return float(metrics.average_precision_packed(codes[0], codes[1], labels[0], labels[1], 1).mean())


def describe(device: torch.device, threads: int) -> str:
    """The device in words, for the list of trials."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {threads} thread{'s' * (threads > 1)}"


class _Ranking:
    """AP of queries against a database in both directions; labels are packed once."""

    def __init__(self, query: Arrays, database: Arrays, device: torch.device, from_pixels: bool) -> None:
        self.query, self.database, self.device, self.from_pixels = query, database, device, from_pixels
        self.labels = metrics.pack_labels(query.labels), metrics.pack_labels(database.labels)

    def __call__(self, method: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        i2t, t2i = (self._rank(*codes) for codes in self.codes(method).values())
        return i2t, t2i

    def codes(self, method: Any) -> dict[str, tuple[NDArray[np.int8], NDArray[np.int8]]]:
        """Codes ±1 of (queries, database) for each direction."""
        return {
            "i2t": (self._codes(method, "image", self.query), self._codes(method, "text", self.database)),
            "t2i": (self._codes(method, "text", self.query), self._codes(method, "image", self.database)),
        }

    def everything(self, method: Any) -> Tested:
        """MAP and further metrics with their usual names for both directions, the AP of every query, and the codes."""
        values: dict[str, float] = {}
        ap: dict[str, NDArray[np.float64]] = {}
        both = self.codes(method)
        for name, codes in both.items():
            ap[name] = self._rank(*codes)
            arguments = (*codes, self.query.labels, self.database.labels)
            precision, recall = metrics.precision_recall_within(*arguments, radius=2)
            values[f"map_{name}"] = float(ap[name].mean())
            values[f"map_at_50_{name}"] = metrics.mean_average_precision(*arguments, k=50)
            values[f"ndcg_at_100_{name}"] = metrics.ndcg(*arguments, k=100)
            values[f"precision_radius_2_{name}"], values[f"recall_radius_2_{name}"] = precision, recall
        (query_image, database_text), (query_text, database_image) = both["i2t"], both["t2i"]
        return Tested(
            {"map": (values["map_i2t"] + values["map_t2i"]) / 2, **values},
            ap["i2t"],
            ap["t2i"],
            {
                "query_image": query_image,
                "query_text": query_text,
                "database_image": database_image,
                "database_text": database_text,
            },
        )

    def _rank(self, query: NDArray[np.int8], database: NDArray[np.int8]) -> NDArray[np.float64]:
        packed = metrics.pack_codes(query), metrics.pack_codes(database)
        return metrics.average_precision_packed(*packed, *self.labels, query.shape[1])

    def _codes(self, method: Any, modality: str, items: Arrays) -> NDArray[np.int8]:
        encode = method.encode_image if modality == "image" else method.encode_text
        if modality == "image" and self.from_pixels:
            inputs, at_once, dtype = torch.from_numpy(items.pixels), ENCODE_PICTURES, torch.uint8
        else:
            features = items.image if modality == "image" else items.text
            inputs, at_once, dtype = torch.from_numpy(features), ENCODE_ROWS, torch.float32
        codes = []
        with torch.inference_mode():
            for rows in torch.split(inputs, at_once):
                outputs = encode(rows.to(self.device, dtype))
                if not bool(torch.isfinite(outputs).all()):
                    raise NotFiniteError(f"the {modality} codes hold NaN or infinite values")
                codes.append(sign(outputs).to("cpu", torch.int8).numpy())
        return np.concatenate(codes)


class _Passes:
    """The passes of one epoch: each call is one, every item once, in an order of (seed, epoch, pass); the last batch
    may be short. `items` counts what was given, which is how much of the data the epoch has seen."""

    def __init__(
        self,
        image: Tensor,
        text: Tensor,
        batch_size: int,
        seed: int,
        epoch: int,
        device: torch.device,
        pixels: Tensor | None = None,
        run: Run | None = None,
    ) -> None:
        self._image, self._text, self._pixels = image, text, pixels
        self._batch_size, self._seed, self._epoch, self._device, self._run = batch_size, seed, epoch, device, run
        self._count = self.items = 0

    def __call__(self) -> Iterator[Batch]:
        self._count += 1
        return self._pass(self._count)

    def _pass(self, count: int) -> Iterator[Batch]:
        draw = torch.Generator().manual_seed(derive(self._seed, "batches", self._epoch, count))
        order = torch.randperm(len(self._image), generator=draw)
        for number, index in enumerate(torch.split(order, self._batch_size)):
            self.items += len(index)
            names = (self._epoch, count, number)
            yield Batch(index, self._image, self._text, self._device, pixels=self._pixels, run=self._run, names=names)


def _pixels(module: ModuleType, data: SearchData) -> Tensor:
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


def _cores(device: torch.device, threads: int) -> int:
    """How many device seconds a second is: a GPU is one device, whatever waits for it."""
    return 1 if device.type == "cuda" else threads


def _resolve(run: Run) -> tuple[torch.device, int]:
    """Device and threads that a run would have here. Raises ConfigError where the device cannot be used."""
    wanted = ("cuda" if torch.cuda.is_available() else "cpu") if run.device == "auto" else run.device
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {run.device!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device, run.threads or torch.get_num_threads()


def prepare(run: Run) -> tuple[torch.device, int]:
    """Device and threads; every global setting that another trial in this process may have changed."""
    device, threads = _resolve(run)
    metrics.set_threads(threads)  # first: numba's own start sets torch to all cores
    torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    return device, threads


def _tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    """On a GPU a copy, on the CPU a view of the memory map, which all trials of a machine share."""
    return torch.from_numpy(array).to(device)


def _to_device(state: Any, device: torch.device, *, copy: bool = False) -> Any:
    if isinstance(state, Tensor):
        return state.detach().to(device, copy=copy)
    if isinstance(state, dict):
        return {key: _to_device(value, device, copy=copy) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(_to_device(value, device, copy=copy) for value in state)
    return state


def _read_checkpoint(folder: Path, identity: Identity) -> bytes | None:
    """The folder's checkpoint, or None; one that cannot be used is set aside, since training again is exact."""
    path = folder / "checkpoint.pt"
    if not path.exists():
        return None
    raw = path.read_bytes()
    try:
        _load(raw, identity)
    except OtherRunError as error:
        aside, reason = "checkpoint.other", str(error)
    except CheckpointError as error:
        aside, reason = "checkpoint.damaged", str(error)
    else:
        return raw
    path.replace(folder / aside)
    _note(folder, f"{reason}; set aside as {aside}, training starts at epoch 1")
    return None


def _load(raw: bytes, identity: Identity) -> dict[str, Any]:
    try:
        state = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
        found, complete = dict(state["identity"]), {"curve", "method", "best"} <= state.keys() and state["curve"]
    except Exception as error:  # torch raises many kinds for damaged bytes
        reason = (str(error).splitlines() or ["no message"])[0]
        raise CheckpointError(f"the checkpoint cannot be read ({type(error).__name__}: {reason})") from error
    if lines := identity_differences(found, identity.without()):
        raise OtherRunError(*lines, heading="the checkpoint is of another run")
    if not complete:
        raise CheckpointError("the checkpoint lacks its curve or its weights")
    return dict(state)


def _start_folder(
    folder: Path, module: ModuleType, run: Run, config: Any, identity: Identity, curve: list[Epoch]
) -> None:
    settings = {key: value for key, value in dataclasses.asdict(run).items() if key != "folder"}
    values = {"method": identity.method, **settings, "config": dataclasses.asdict(config)}
    values["identity"] = identity.without()
    files.write_atomic(folder / "config.json", json.dumps(values, indent=2) + "\n")
    if curve:
        _note(folder, f"goes on after epoch {curve[-1].epoch}")
    buffer = io.StringIO()
    if curve:
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(curve[0].metrics())
        writer.writerows(epoch.metrics().values() for epoch in curve)
    files.write_atomic(folder / "curve.csv", buffer.getvalue())


def _append_curve(folder: Path, curve: list[Epoch]) -> None:
    row = curve[-1].metrics()
    with (folder / "curve.csv").open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if len(curve) == 1:
            writer.writerow(row)
        writer.writerow(row.values())


def _note(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")


def _failure(error: Exception) -> tuple[str, str]:
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


def _say(epoch: Epoch, _save: Callable[[], bytes] | None) -> None:
    sys.stderr.write(
        f"epoch {epoch.epoch}: val_map {epoch.val_map:.4f}"
        f" (i2t {epoch.val_map_i2t:.4f}, t2i {epoch.val_map_t2i:.4f}), best {epoch.val_map_best:.4f}\n"
    )


def _to_tune(epoch: Epoch, save: Callable[[], bytes] | None) -> None:
    _cluster().report(epoch.metrics(), save() if save is not None else None)


def _cluster() -> ModuleType:
    return importlib.import_module("cmh.cluster")
