"""Optimizers and learning rates over the epochs, by the names that configurations use."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn, optim
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from cmh.config import param
from cmh.nets.bertadam import BertAdam
from cmh.nets.towers import OnBackbone


def optimizer(
    kind: str,
    *nets: nn.Module,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
) -> optim.Optimizer:
    """`adam`, `adamax` or `sgd` (the only one with `momentum`) over all parameters of the nets.

    Backbones that are trained along get their own share of `lr` (`OnBackbone.lr_share`); where they are to be trained
    by BertAdam (`OnBackbone.descent`), it takes the place of all that, for their heads, too.
    """
    descent = next((net.descent for net in nets if isinstance(net, OnBackbone)), None)
    groups: list[dict[str, object]] = []
    for net in nets:
        if isinstance(net, OnBackbone):
            groups.append({"params": list(net.backbone.parameters()), "lr": lr * net.lr_share})
            groups.append({"params": list(net.head.parameters())})
        else:
            groups.append({"params": list(net.parameters())})
    if descent is not None:
        return BertAdam(groups, lr=lr, descent=descent)
    if kind == "adam":
        return optim.Adam(groups, lr=lr, weight_decay=weight_decay, betas=betas, fused=True)
    if kind == "adamax":
        return optim.Adamax(groups, lr=lr, weight_decay=weight_decay, betas=betas)
    return optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=True)


def schedule(
    optimizer: optim.Optimizer, kind: str, epochs: int, *, end: float = 1.0, decay: float = 1.0, every: int = 1
) -> LRScheduler:
    """Learning rates as shares of the first, to be stepped once an epoch.

    `linear` and `log` reach `end` in the last of `epochs`; `exponential` multiplies by `decay` each epoch, `step`
    every `every` epochs, `early` after the first epoch and then every `every`; `constant` stays.
    """
    last = max(epochs - 1, 1)
    factors: dict[str, Callable[[int], float]] = {
        "constant": lambda epoch: 1.0,
        "linear": lambda epoch: 1 + (end - 1) * min(epoch / last, 1),
        "log": lambda epoch: float(end ** min(epoch / last, 1)),
        "exponential": lambda epoch: float(decay**epoch),
        "step": lambda epoch: float(decay ** (epoch // every)),
        "early": lambda epoch: float(decay ** ((epoch - 1) // every + 1)) if epoch else 1.0,
    }
    return LambdaLR(optimizer, factors[kind])


class Rates(Protocol):
    """What a Config says of the descent of an image and a text net."""

    @property
    def lr_image(self) -> float: ...
    @property
    def lr_text(self) -> float: ...


@dataclasses.dataclass(frozen=True)
class Falling:
    """How learning rates fall over the epochs; see `schedule`."""

    kind: str = "constant"
    end: float = 1.0
    decay: float = 1.0
    every: int = 1

    @classmethod
    def of(cls, config: object) -> Falling:
        """As the fields `schedule`, `lr_end`, `lr_decay` and `decay_every` of a Config say, where it has them."""
        names = {"kind": "schedule", "end": "lr_end", "decay": "lr_decay", "every": "decay_every"}
        return cls(**{key: getattr(config, name) for key, name in names.items() if hasattr(config, name)})

    def over(self, epochs: int, stepper: optim.Optimizer) -> LRScheduler:
        """The schedule of one optimizer; that of BertAdam is its own."""
        if isinstance(stepper, BertAdam):
            return schedule(stepper, "constant", epochs)
        return schedule(stepper, self.kind, epochs, end=self.end, decay=self.decay, every=self.every)


def schedule_param(other: str, words: str) -> str:
    """The field `schedule` of a Config: `linear`, or another kind, which is the paper's. `words` say what both do."""
    field: str = param("linear", f"how learning rates {words}", choices=["linear", other], paper=other)
    return field


def descend(loss: Tensor, *steppers: optim.Optimizer, clip: float | None = None) -> None:
    """One step of these optimizers down the loss; no other net's gradient is computed.

    `clip`: the largest norm of the whole gradient of what they train.
    """
    trained = [tensor for stepper in steppers for group in stepper.param_groups for tensor in group["params"]]
    for stepper in steppers:
        stepper.zero_grad()
    loss.backward(inputs=[tensor for tensor in trained if tensor.requires_grad])  # type: ignore[no-untyped-call]  # torch has no types here
    if clip is not None:
        nn.utils.clip_grad_norm_(trained, clip)
    for stepper in steppers:
        stepper.step()
