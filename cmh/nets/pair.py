"""What most methods have: an image net and a text net, each with its optimizer and its falling learning rate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Protocol

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cmh.interfaces import Batch, Batches, Setup, State
from cmh.losses import Means
from cmh.nets.optimizers import descend, optimizer, schedule
from cmh.nets.towers import encode

BatchLoss = Callable[[Batch, Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]  # see `Pair.one_pass`


class _Rates(Protocol):
    """What a Config says of the descent of both nets."""

    @property
    def lr_image(self) -> float: ...
    @property
    def lr_text(self) -> float: ...


@dataclasses.dataclass(frozen=True)
class Falling:
    """How learning rates fall over the epochs; see `cmh.nets.optimizers.schedule`."""

    kind: str = "constant"
    end: float = 1.0
    decay: float = 1.0
    every: int = 1

    @classmethod
    def of(cls, config: object) -> Falling:
        """As the fields `schedule`, `lr_end`, `lr_decay` and `decay_every` of a Config say, where it has them."""
        names = {"kind": "schedule", "end": "lr_end", "decay": "lr_decay", "every": "decay_every"}
        return cls(**{key: getattr(config, name) for key, name in names.items() if hasattr(config, name)})

    def over(self, epochs: int, stepper: Optimizer) -> LRScheduler:
        """The schedule of one optimizer."""
        return schedule(stepper, self.kind, epochs, end=self.end, decay=self.decay, every=self.every)


class Pair:
    """Both nets, trained together or in turn. `image` and `text` are what stands on the features.

    The optimizer is the one that the fields `optimizer`, `momentum` and `weight_decay` of the Config say (Adam where
    it has none), with `lr_image` and `lr_text`; they fall as its `schedule` says, or as `falling`.
    """

    def __init__(
        self, setup: Setup, config: _Rates, image: nn.Module, text: nn.Module, *, falling: Falling | None = None
    ) -> None:
        self.nets = {"image": setup.image_net(image).to(setup.device), "text": text.to(setup.device)}
        kind = getattr(config, "optimizer", "adam")
        how = {name: getattr(config, name) for name in ("momentum", "weight_decay") if hasattr(config, name)}
        rates = {"image": config.lr_image, "text": config.lr_text}
        self.optimizers = {name: optimizer(kind, net, lr=rates[name], **how) for name, net in self.nets.items()}
        falling = falling or Falling.of(config)
        self.schedules = {name: falling.over(setup.epochs, stepper) for name, stepper in self.optimizers.items()}

    @property
    def n_epochs(self) -> int:
        """How many epochs have ended."""
        return self.schedules["image"].last_epoch

    def one_pass(self, batches: Batches, loss: BatchLoss) -> dict[str, float]:
        """An epoch of one pass with one step of both nets a batch. Returns the means of the loss and its terms.

        `loss(batch, image, text)` is given what both nets say of the batch, `(b, bits)` each, and gives its loss and
        the terms of it that are worth reporting.
        """
        means = Means()
        for batch, image, text in self.outputs(batches()):
            total, terms = loss(batch, image, text)
            self.step(total)
            means.add({"loss": total, **terms})
        self.end_epoch()
        return means.values()

    def outputs(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, Tensor, Tensor]]:
        """Each batch of a pass with what both nets give for it in training mode, `(b, bits)`."""
        for batch in batches:
            yield batch, *self.both(batch)

    def outputs_of(self, name: str, batches: Iterator[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
        """Each batch's `index` `(b,)` with what one net gives for it in training mode, `(b, bits)`."""
        for batch in batches:
            yield batch.index, self.nets[name].train()(batch.image if name == "image" else batch.text)

    def both(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What both nets give for a batch in training mode, `(b, bits)`."""
        return self.nets["image"].train()(batch.image), self.nets["text"].train()(batch.text)

    def step(self, loss: Tensor, *names: str, clip: float | None = None) -> None:
        """One step of the named optimizers (all) down the loss; `clip`: largest norm of the nets' whole gradient."""
        steppers = [self.optimizers[name] for name in names or self.optimizers]
        descend(loss, *steppers, clip=clip)

    def end_epoch(self) -> None:
        """Let the learning rates fall."""
        for rate in self.schedules.values():
            rate.step()

    def encode_image(self, features: Tensor) -> Tensor:
        """Real-valued outputs `(n, bits)` of the image net in evaluation mode; their signs are the codes."""
        return encode(self.nets["image"], features)

    def encode_text(self, features: Tensor) -> Tensor:
        """The same of the text net."""
        return encode(self.nets["text"], features)

    def state(self) -> State:
        """Nets, optimizers, schedules."""
        return {"nets": self.nets, "optimizers": self.optimizers, "schedules": self.schedules}
