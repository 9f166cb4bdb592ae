"""A method driven without the trainer, which would give back its best epoch in the place of its last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from cmh import methods, training
from cmh.datasets import Arrays
from cmh.training.batches import Items, Passes
from tests.test_methods import small
from tests.test_training import tiny


def built(
    name: str, *, bits: int = 8, epochs: int = 4, items: Arrays | None = None, **values: Any
) -> tuple[Any, Callable[[int], dict[str, float]]]:
    """The method on `items` (all of the tiny dataset), hidden layers narrow, and what trains its n-th epoch."""
    module, items = methods.get(name), items or tiny().train
    run, config = training.parse(
        module, {**small(name), "batch_size": 32, "bits": bits, "epochs": epochs, "threads": 1, **values}
    )
    image, text, labels = (torch.from_numpy(array) for array in (items.image, items.text, items.labels))
    device = torch.device("cpu")
    torch.manual_seed(run.seed)
    setup = training.Setup(
        bits=run.bits,
        epochs=run.epochs,
        seed=run.seed,
        device=device,
        n_train=len(labels),
        image_dim=image.shape[1],
        text_dim=text.shape[1],
        labels=labels.float() if module.LABELS else None,
        image=image,
        text=text,
        image_net=lambda head: head,
    )
    method = module.Method(config, setup)

    def epoch(number: int) -> dict[str, float]:
        torch.manual_seed(number)
        terms: dict[str, float] = method.epoch(Passes(Items(image, text, device), config.batch_size, run.seed, number))
        return terms

    return method, epoch
