"""Nets by name, and which optimizer trains which of them: what methods of any number of nets have."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cmh.interfaces import Setup, State
from cmh.nets.bags import Bags, by_words
from cmh.nets.optimizers import Falling, descend
from cmh.nets.towers import encode

MODALITIES = ("image", "text")


class Team:
    """Nets that are trained in turn or against each other, each by the optimizers that `add` is given."""

    def __init__(self, setup: Setup, nets: Mapping[str, nn.Module]) -> None:
        self.nets = {name: net.to(setup.device) for name, net in nets.items()}
        if isinstance(setup.text, Bags):
            for net in self.nets.values():
                by_words(net, setup.text_dim)
        self.optimizers: dict[str, Optimizer] = {}
        self.schedules: dict[str, LRScheduler] = {}
        self._epochs = setup.epochs

    def add(self, name: str, stepper: Optimizer, falling: Falling | None = None) -> None:
        """An optimizer of some of the nets, which `step` knows by its name; without `falling` its rate stays."""
        self.optimizers[name] = stepper
        if falling is not None:
            self.schedules[name] = falling.over(self._epochs, stepper)

    def train(self, training: bool = True) -> None:
        """Put all nets into training mode, or into evaluation mode."""
        for net in self.nets.values():
            net.train(training)

    def step(self, loss: Tensor, *names: str, clip: float | None = None) -> None:
        """One step of the named optimizers (all) down the loss; `clip`: largest norm of their nets' whole gradient."""
        descend(loss, *(self.optimizers[name] for name in names or self.optimizers), clip=clip)

    def end_epoch(self) -> None:
        """Let the learning rates fall."""
        for rate in self.schedules.values():
            rate.step()

    def encode(self, features: Tensor, *names: str) -> Tensor:
        """What the named nets make of features, one after another, in evaluation mode."""
        for name in names:
            features = encode(self.nets[name], features)
        return features

    def state(self) -> State:
        """Nets, optimizers, schedules."""
        return {"nets": self.nets, "optimizers": self.optimizers, "schedules": self.schedules}
