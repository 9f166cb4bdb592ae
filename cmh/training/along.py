"""Backbones that are trained along with a method: what they take, and how they come under the method's heads."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypedDict

import torch
from torch import Tensor, nn

from cmh.errors import ConfigError
from cmh.features import backbones
from cmh.interfaces import MethodModule, SearchData
from cmh.nets.bertadam import Clock, Descent
from cmh.nets.towers import OnBackbone
from cmh.training.run import Run, context_length

UnderHead = Callable[[nn.Module], nn.Module]


class Nets(TypedDict):
    """How heads become nets, as `Setup` has it."""

    image_net: UnderHead
    text_net: UnderHead


def inputs(module: MethodModule, run: Run, data: SearchData) -> tuple[Tensor, Tensor | None]:
    """Pixels `(n, 3, side, side)` and tokens `(n, context_length)` of the training items, these where a text tower is
    trained along. They stay on the CPU, and batches of them go to the device.

    Raises ConfigError where there is nothing to train along, or from.
    """
    if module.KIND == "shallow":
        name = module.__name__.rpartition(".")[2]
        raise ConfigError(f"finetune is true, but {name} has a closed form on frozen features: nothing to train along")
    length, tokens = context_length(run), data.train.tokens
    here = 0 if tokens is None else tokens.shape[1]
    problems = []
    if data.train.pixels is None:
        problems.append("finetune is true, but the dataset was loaded without pixels")
    if here != length:
        problems.append(f"context_length is {length}, but the dataset was loaded with {here} tokens a text")
    if length and run.erase:
        problems.append(f"erase is {run.erase:g}, but tokens have no dimensions to lose; it must be 0")
    if problems:
        raise ConfigError(*problems)
    assert data.train.pixels is not None
    return torch.from_numpy(data.train.pixels), None if tokens is None else torch.from_numpy(tokens)


def nets(run: Run, clock: Clock) -> Nets:
    """What puts backbones under a method's heads; the heads alone where none is trained along."""
    descent = Descent(clock, run.warmup_backbone, run.decay_backbone) if run.optimizer_backbone == "bertadam" else None
    how = functools.partial(
        OnBackbone,
        lr_share=run.lr_backbone,
        amp=run.amp,
        checkpointing=run.checkpointing,
        micro_batch=run.micro_batch,
        descent=descent,
    )
    return under_heads(run.finetune, run.features, run.weights, context_length(run), how)


def under_heads(
    finetuned: bool,
    network: str,
    weights: str,
    length: int,
    under: Callable[[nn.Module, nn.Module], nn.Module],
    *,
    drawn: bool = False,
) -> Nets:
    """`under(backbone, head)` for images, and for texts of `length` tokens, where these are trained along. `drawn`:
    what they were trained to is still to come, so that CLIP's first weights need not be there."""

    def image_net(head: nn.Module) -> nn.Module:
        return under(backbones.build(network, weights, drawn=drawn), head)

    def text_net(head: nn.Module) -> nn.Module:
        return under(backbones.build_text(network, weights, length, drawn=drawn), head)

    return {"image_net": image_net if finetuned else _alone, "text_net": text_net if length else _alone}


def _alone(head: nn.Module) -> nn.Module:
    return head
