"""Methods made for the audits' tests, from the template that comes with cmh."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from cmh import methods, training
from cmh.config import param
from cmh.interfaces import Batches, State
from cmh.losses import pairwise_nll, similar
from cmh.methods import _template
from cmh.nets.optimizers import optimizer
from cmh.training import Run, Setup
from tests.test_methods import small

CPU = torch.device("cpu")


RUN = Run(bits=8, threads=1, scale="none")


def module(method: type, config: type = _template.Config) -> Any:
    return SimpleNamespace(__name__="made_up", KIND="supervised", LABELS=True, Config=config, Method=method)


def config(cls: type = _template.Config, **values: Any) -> Any:
    return cls(**{"hidden_image": 16, "hidden_text": 16, **values})


class Sound(_template.Method):
    """The template's method, which can be overridden where the template gives its pair's methods as they are."""

    def __init__(self, config: Any, setup: Setup) -> None:
        super().__init__(config, setup)
        for name in ("encode_image", "encode_text", "state"):
            vars(self).pop(name, None)

    def encode_image(self, features: Tensor) -> Tensor:
        return self.pair.encode_image(features)

    def encode_text(self, features: Tensor) -> Tensor:
        return self.pair.encode_text(features)

    def state(self) -> State:
        return self.pair.state()


@dataclasses.dataclass(frozen=True)
class Weights(_template.Config):
    """With a weight that is multiplied by nothing, and one that is used by one kind alone."""

    idle: float = param(1.0, "nothing", low=0, high=10)
    kind: str = param("plain", "which", choices=["plain", "cubed"])
    cubic: float = param(1.0, "weight (cubed)", low=0, high=10)
    proxies: float = param(1.0, "weight of the proxies", low=0, high=10)


class Made(_template.Method):
    """The template with one more term, which `second` gives, and one step a batch."""

    def __init__(self, config: Any, setup: Setup) -> None:
        super().__init__(config, setup)
        self.proxies = nn.Linear(setup.bits, 3)
        self.optimizers = dict(self.pair.optimizers)
        self.more(config)

    def more(self, config: Any) -> None:
        self.optimizers["proxies"] = optimizer("adam", self.proxies, lr=1e-2)

    def epoch(self, batches: Batches) -> dict[str, float]:
        sums: dict[str, Tensor] = {}
        for n_steps, batch in enumerate(batches(), start=1):  # noqa: B007
            labels = self.labels[batch.index]
            f, g = self.pair.nets["image"](batch.image), self.pair.nets["text"](batch.text)
            pairs = pairwise_nll(0.5 * f @ g.T, similar(labels, labels)).mean()
            extra = self.second(f, g, labels)
            self.step(pairs + 0.5 * extra)
            for term, value in {"pairs": pairs, "extra": extra}.items():
                sums[term] = sums.get(term, torch.zeros(())) + value.detach()
        return {term: float(value) / n_steps for term, value in sums.items()}

    def step(self, loss: Tensor) -> None:
        for stepper in self.optimizers.values():
            stepper.zero_grad()
        loss.backward()
        for stepper in self.optimizers.values():
            stepper.step()

    def second(self, f: Tensor, g: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.mse_loss(self.proxies(f), labels)


def point(name: str) -> Any:
    """Wide enough that a critic's few units are not all off."""
    return training.parse(methods.get(name), {**small(name, 64), "bits": 8, "threads": 1})
