"""What methods for CLIP share: one head a modality, and a table with a learnt vector for each class."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from cmh.interfaces import Setup
from cmh.nets.draws import normals
from cmh.nets.optimizers import Falling, Rates, optimizer
from cmh.nets.pair import Pair
from cmh.nets.towers import mlp


class _Heads(Rates, Protocol):
    """What a Config says of the two heads."""

    @property
    def hidden_image(self) -> int: ...
    @property
    def hidden_text(self) -> int: ...
    @property
    def dropout(self) -> float: ...


class _Proxies(Protocol):
    """What a Config says of its proxies."""

    @property
    def lr_proxies(self) -> float: ...
    @property
    def momentum(self) -> float: ...
    @property
    def decay_proxies(self) -> float: ...


def head(n_in: int, hidden: int, bits: int, *, dropout: float) -> nn.Sequential:
    """Linear → dropout → tanh: features `(n, n_in)` to outputs `(n, bits)` in (−1, 1).

    The dropout stands behind the last linear layer: it sets bits to 0. A hidden layer with ReLU stands before, unless
    `hidden` is 0.
    """
    return nn.Sequential(mlp(n_in, hidden, bits), nn.Dropout(dropout), nn.Tanh())


def pair_of_heads(setup: Setup, config: _Heads) -> Pair:
    """A head for images and one for texts, trained by Adam with rates that fall straight to a hundredth."""
    image = head(setup.image_dim, config.hidden_image, setup.bits, dropout=config.dropout)
    text = head(setup.text_dim, config.hidden_text, setup.bits, dropout=config.dropout)
    return Pair(setup, config, image, text, falling=Falling("linear", end=0.01))


class Proxies(nn.Module):
    """A table of proxies `(c, bits)`, one row a class."""

    def __init__(self, first: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(first)


def first_proxies(setup: Setup) -> Tensor:
    """Proxies `(c, bits)` from N(0, 2/c), as `kaiming_normal_(mode="fan_out")` draws a table of this shape."""
    (normal,) = normals(setup, "proxies", (setup.known_labels.shape[1], setup.bits))
    first: Tensor = normal * (2 / len(normal)) ** 0.5
    return first


def add_proxies(pair: Pair, setup: Setup, config: _Proxies, *, squashed: bool = False) -> Tensor:
    """Proxies that each step of the pair trains, too, by an SGD of their own with a constant rate.

    They start from `first_proxies`, or from the tanh of those (`squashed`). Gives the table, which is also part of the
    pair's state.
    """
    first = first_proxies(setup)
    net = Proxies(torch.tanh(first) if squashed else first).to(setup.device)
    pair.team.nets["proxies"] = net
    momentum, decay = config.momentum, config.decay_proxies
    pair.team.add("proxies", optimizer("sgd", net, lr=config.lr_proxies, momentum=momentum, weight_decay=decay))
    return net.table
