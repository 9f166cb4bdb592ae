"""BertAdam, which the papers on fine-tuned CLIP train with, on torch's fused AdamW."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn, optim

BETAS, EPS, CLIP = (0.9, 0.98), 1e-6, 1.0


@dataclasses.dataclass
class Clock:
    """How far a run is, for rates that change with every step. The trainer sets it before each batch.

    Of an epoch it is as much as of the pass: a net that is trained in one pass of several an epoch has the rates of its
    own steps.
    """

    share: float = 0.0  # of the run that is behind it, 0 to 1


@dataclasses.dataclass(frozen=True)
class Descent:
    """How towers and their heads are trained by BertAdam."""

    clock: Clock
    warmup: float = 0.1
    decay: float = 0.2


def rate(share: float, warmup: float) -> float:
    """What a learning rate is multiplied by when `share` of the run is over: it rises straight to 1 over the first
    `warmup` of it, and is (1 + cos(π share)) / 2 afterwards, which begins below 1.

    >>> [round(rate(share, 0.1), 3) for share in (0, 0.05, 0.1, 0.5, 1)]
    [0.0, 0.5, 0.976, 0.5, 0.0]
    """
    return share / warmup if share < warmup else (1 + math.cos(math.pi * share)) / 2


class BertAdam(optim.AdamW):
    """With m and v the moving averages of a tensor's gradient and of its square, w ← w − lr·r·(m / (√v + ε) + λ w).

    The gradient of each tensor is first brought to norm 1 where it is longer; m and v are not corrected for beginning
    at 0, r is `rate`, and λ is on every tensor. AdamW corrects, so each step is given the rate, ε and λ under which its
    formula is this one. A tensor that some steps leave without gradient is corrected as if it had had one in each.
    """

    def __init__(self, groups: Iterable[dict[str, object]], *, lr: float, descent: Descent) -> None:
        super().__init__(groups, lr=lr, betas=BETAS, eps=EPS, weight_decay=descent.decay, fused=True)
        self.descent = descent
        for group in self.param_groups:
            group["taken"] = 0  # steps

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]  # nobody here has a closure
        """One step by the gradients that are there."""
        share = rate(self.descent.clock.share, self.descent.warmup)
        kept: list[dict[str, Any]] = []
        for group in self.param_groups:
            kept.append({name: group[name] for name in ("lr", "eps", "weight_decay")})
            for tensor in group["params"]:
                nn.utils.clip_grad_norm_(tensor, CLIP)
            group["taken"] += 1
            first, second = (1 - beta ** group["taken"] for beta in BETAS)
            corrected = first / math.sqrt(second)
            group["lr"] *= share * corrected
            group["eps"] /= math.sqrt(second)
            group["weight_decay"] /= corrected
        super().step()
        for group, values in zip(self.param_groups, kept, strict=True):
            group.update(values)
