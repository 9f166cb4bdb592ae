"""A small part of the training data, a method on it, and its parameters by name: what the audits train on."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from cmh import training
from cmh.interfaces import Arrays, Config, Floats, Method, MethodModule, SearchData
from cmh.nets import bags
from cmh.training import Run
from cmh.training.within import Within

if TYPE_CHECKING:
    from scipy.sparse import csr_array

EPOCHS = 3  # so that schedules and what follows a first epoch show


class Trial:
    """A method on `n` training items in batches of `batch_size` (all at once), trained epoch by epoch as `training.fit`
    does.

    Raises ConfigError where the device cannot be used or the backbone cannot be trained along.
    """

    def __init__(
        self, module: MethodModule, run: Run, config: Config, data: SearchData, *, n: int, batch_size: int | None = None
    ) -> None:
        self.items = few(training.trained_on(module, data).train, n)
        if hasattr(config, "batch_size"):
            config = dataclasses.replace(config, batch_size=batch_size or len(self.items.labels))
        if hasattr(config, "warmup"):  # epochs before a part of the method is used: it must be within these
            config = dataclasses.replace(config, warmup=min(config.warmup, 1))
        # Runs are compared bit for bit, which a CPU is good for, and fast enough for so few features.
        run = dataclasses.replace(run, epochs=EPOCHS, folder="", device=run.device if run.finetune else "cpu")
        self.device, _ = training.prepare(run)
        self.from_pixels = run.finetune
        data = dataclasses.replace(data, train=self.items)
        self.method, self.begin = training.build(module, run, config, data, self.device)
        self.epochs = training.n_epochs(module, run)

    def epoch(self, number: int) -> dict[str, float]:
        """Train the n-th epoch, from 1 on; its loss terms by name."""
        return self.method.epoch(self.begin(number))

    def outputs(self) -> tuple[Tensor, Tensor]:
        """What the codes of all items are the signs of: images, texts; `(n, bits)` each."""
        with torch.no_grad():
            images = self._features(self.items.image)
            if self.from_pixels:
                assert self.items.pixels is not None  # training.build has read them
                images = torch.from_numpy(self.items.pixels).to(self.device)
            tokens = self.items.tokens
            texts = self._features(self.items.text) if tokens is None else torch.from_numpy(tokens).to(self.device)
            return self.method.encode_image(images).clone(), self.method.encode_text(texts).clone()

    def _features(self, features: Floats | csr_array) -> Tensor:
        return bags.tensor(features).to(self.device, torch.float32)


def few(items: Arrays, n: int) -> Arrays:
    """At most n items, the first ones of every label as far as they go, in their order."""
    labels = np.asarray(items.labels)
    each = max(1, n // labels.shape[1])
    chosen: dict[int, None] = {}
    for column in labels.T:
        chosen.update(dict.fromkeys(np.flatnonzero(column)[:each].tolist()))
    chosen.update(dict.fromkeys(range(min(len(labels), 2 * n))))
    rows = np.sort(np.array(list(chosen)[:n]))
    return items.rows(rows)


def trainable(method: Method) -> dict[str, Tensor]:
    """Tensors with `requires_grad` that can be reached from a method's attributes, by their path, each once."""
    return {path: tensor for path, (_, tensor) in _found(method).items()}


def owners(method: Method) -> dict[str, str]:
    """By the same paths, the path of the net, or of the attribute, that each tensor belongs to."""
    return {path: owner for path, (owner, _) in _found(method).items()}


def _found(method: Method) -> dict[str, tuple[str, Tensor]]:
    found: dict[int, tuple[str, str, Tensor]] = {}
    inner: object = method
    while isinstance(inner, Within):  # paths are the method's own
        inner = inner.method
    for path, owner, tensor in _walk(inner, "", set()):
        found.setdefault(id(tensor), (path, owner, tensor))
    return {path: (owner, tensor) for path, owner, tensor in found.values()}


def _walk(value: object, path: str, seen: set[int]) -> Iterator[tuple[str, str, Tensor]]:
    """(path, path of its owner, tensor) of all in a value, which may lead to itself."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        if value.requires_grad and value.is_leaf:
            yield path, path.rpartition(".")[0] or path, value
    elif isinstance(value, nn.Module):
        yield from ((_inside(path, name), path, one) for name, one in value.named_parameters() if one.requires_grad)
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _walk(part, _inside(path, name), seen)
    elif isinstance(value, (list, tuple, set)):
        for number, part in enumerate(value):
            yield from _walk(part, _inside(path, number), seen)
    elif hasattr(value, "__dict__") and not isinstance(value, (type, types.ModuleType)) and not _of_torch(value):
        yield from _walk(vars(value), path, seen)


def _inside(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)


def _of_torch(value: object) -> bool:
    return type(value).__module__.partition(".")[0] == "torch"  # optimizers and schedules hold what nets hold
