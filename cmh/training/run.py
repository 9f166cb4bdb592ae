"""What a training run needs beside the method's hyperparameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from cmh import config as configs
from cmh import datasets
from cmh.config import param
from cmh.datasets import CachedDataset, Source
from cmh.errors import ConfigError
from cmh.features import backbones
from cmh.features.tokens import PLACES
from cmh.interfaces import Config, MethodModule
from cmh.training.scaling import KINDS

# Run settings that an identity does not hold as settings, and why.
NOT_SETTINGS = {
    **dict.fromkeys(
        ("dataset", "split", "captions", "skip_bad", "features", "weights"), "what they give is there by content"
    ),
    **dict.fromkeys(("bits", "epochs", "seed", "device", "threads"), "fields of their own"),
    "folder": "where results go changes none",
    "checkpointing": "computing maps twice gives the same numbers, to the last digit",
}
ONLY_FINETUNE = (  # without effect on frozen features
    *("lr_backbone", "rotate", "hflip", "vflip", "amp"),
    *("context_length", "optimizer_backbone", "warmup_backbone", "decay_backbone", "micro_batch"),
)


@dataclasses.dataclass(frozen=True)
class Run:
    """What a training run needs beside the method's hyperparameters."""

    dataset: str = param("clipart", "built-in dataset, or the folder of your own")
    split: str = param("torchcmh", "split of a benchmark: torchcmh's seed or file order", choices=datasets.ORDERS)
    captions: str = param(
        datasets.GIVEN,
        "of items with several: all as one text, the first, or one drawn in each epoch; given: as dataset.yml says",
        choices=(datasets.GIVEN, *datasets.CAPTIONS),
    )
    skip_bad: bool = param(False, "go on without a dataset's bad items")
    features: str = param("efficientnet-lite0", "image network, frozen unless finetune is on")
    weights: str = param("", "file of weights for it; empty: its own")
    finetune: bool = param(False, "train the image network along, from pixels; of CLIP both towers")
    lr_backbone: float = param(0.1, "a tower's learning rate as a share of its head's (finetune)", low=0, high=100)
    context_length: int = param(
        32, "tokens of a text for CLIP's text tower (finetune); 0: train its image tower alone", low=0, high=PLACES
    )
    optimizer_backbone: str = param(
        "method",
        "optimizer of towers and their heads (finetune): the method's, or BertAdam, as the papers on CLIP have it",
        choices=("method", "bertadam"),
    )
    warmup_backbone: float = param(0.1, "share of the run in which BertAdam's rates rise (finetune)", low=0, below=1)
    decay_backbone: float = param(0.2, "BertAdam's weight decay (finetune)", low=0, high=10)
    micro_batch: int = param(
        0,
        "items of a batch that go through a tower at once (finetune), 0: all; fewer take less memory, computed twice",
        low=0,
        high=65536,
    )
    rotate: float = param(
        0.0, "probability that a training picture is turned by 90, 180 or 270° (finetune)", low=0, high=1
    )
    hflip: float = param(0.0, "probability that a training picture is mirrored (finetune)", low=0, high=1)
    vflip: float = param(0.0, "probability that a training picture is turned upside down (finetune)", low=0, high=1)
    scale: str = param(
        "standard",
        "features before any net: each dimension to mean 0 and deviation 1, each row to norm 1, or as they are",
        paper="none",
        choices=KINDS,
    )
    erase: float = param(0.0, "share of the text dimensions that each training item loses", low=0, below=1)
    amp: bool = param(True, "towers in bfloat16 on GPUs (finetune)")
    checkpointing: bool = param(False, "compute their maps twice instead of keeping them (finetune): less memory")
    validate_every: int = param(1, "epochs from one validation to the next; the last one always is", low=1, high=1000)
    validation_database: int = param(
        0, "items of the validation database that are ranked, drawn once; 0: all", low=0, high=1_000_000_000
    )
    bits: int = param(32, "length of the codes", low=1, high=4096)
    epochs: int = param(30, "training epochs; schedules are laid out over them", low=1, high=1_000_000)
    seed: int = param(0, "seed of weights, item order and buffers", low=0, high=2**62)
    device: str = param("auto", "auto, cpu, cuda or cuda:N; auto takes a GPU where the process has one")
    threads: int = param(0, "torch threads; 0: as many as the trial's CPUs", low=0, high=1024)
    folder: str = param("", "where config, curve, log and checkpoint go; empty: nowhere")


def parse(module: MethodModule, values: Mapping[str, object]) -> tuple[Run, Config]:
    """A flat mapping as (run settings, the method's Config).

    Raises ConfigError that lists every unknown key and bad value of both.
    """
    run_table, table = configs.params(Run), configs.params(module.Config)
    problems = [configs.unknown(key, {**run_table, **table}) for key in values if key not in {**run_table, **table}]

    def built(cls: type[configs.Config], known: Mapping[str, object]) -> configs.Config | None:
        try:
            return configs.build(cls, {key: value for key, value in values.items() if key in known})
        except ConfigError as error:
            problems.extend(error.problems)
            return None

    run, config = built(Run, run_table), built(module.Config, table)
    if run is None or config is None or problems:
        raise ConfigError(*problems, heading=f"settings of {module.__name__.rpartition('.')[2]}")
    return run, config


def read(run: Run, *, progress: bool = False) -> Source:
    """The dataset of a run as its reader sees it. Raises DatasetError that names everything that is wrong with it."""
    return datasets.read(run.dataset, skip_bad=run.skip_bad, order=run.split, captions=run.captions, progress=progress)


def load(run: Run, source: Source | None = None) -> CachedDataset:
    """The dataset of a run, prepared if need be; `source` is what `read` gave, where it is read already.

    Raises DatasetError where the dataset is unknown, missing or broken.
    """
    return datasets.load(
        run.dataset,
        features=run.features,
        weights=run.weights,
        pixels=run.finetune,
        context_length=context_length(run),
        skip_bad=run.skip_bad,
        order=run.split,
        captions=run.captions,
        source=source,
    )


def context_length(run: Run) -> int:
    """Tokens of a text where a text tower is trained along, else 0."""
    return run.context_length if run.finetune and backbones.reads_texts(run.features) else 0


def n_epochs(module: MethodModule, run: Run) -> int:
    """How many epochs are trained: a closed-form method says how many it can use."""
    return int(min(run.epochs, getattr(module, "EPOCHS", run.epochs)))


def settings_of(run: Run) -> dict[str, configs.Value]:
    """The run settings that change a number, where nothing else in an identity says them."""
    left_out = {*NOT_SETTINGS, *(() if run.finetune else ONLY_FINETUNE)}
    if run.optimizer_backbone != "bertadam":
        left_out |= {"warmup_backbone", "decay_backbone"}
    values = {**dataclasses.asdict(run), "context_length": context_length(run)}
    return {key: value for key, value in values.items() if key not in left_out}
