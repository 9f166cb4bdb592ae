"""Nets with several outputs for an item: codes, semantic features and predicted labels, as SSAH and GCH have them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cmh.losses import Saved

Outputs = tuple[Tensor, Tensor, Tensor]  # codes (b, bits) in (−1, 1), features (b, width), label probabilities (b, c)


class Encoder(nn.Module):
    """A body to semantic features of some width, and two heads on them: codes and labels.

    `norm` stands between the features and the heads, `code_norm` before the tanh of the codes. Labels are predicted
    `labels_from_codes`, or from the features.
    """

    def __init__(
        self,
        body: nn.Module,
        width: int,
        bits: int,
        n_labels: int,
        *,
        norm: nn.Module | None = None,
        code_norm: nn.Module | None = None,
        labels_from_codes: bool = False,
    ) -> None:
        super().__init__()
        self.body, self.norm, self.labels_from_codes = body, norm or nn.Identity(), labels_from_codes
        self.hash = nn.Sequential(nn.Linear(width, bits), code_norm or nn.Identity(), nn.Tanh())
        self.label = nn.Linear(bits if labels_from_codes else width, n_labels)

    def forward(self, x: Tensor) -> Outputs:
        """Codes `(b, bits)`, features `(b, width)`, label probabilities `(b, c)`."""
        features = self.body(x)
        normed = self.norm(features)
        codes = self.hash(normed)
        return codes, features, torch.sigmoid(self.label(codes if self.labels_from_codes else normed))


def outputs(net: nn.Module, x: Tensor, *, training: bool) -> Outputs:
    """What an encoder, or a backbone with one on it, gives in this mode."""
    found: Outputs = net.train(training)(x)
    return found


def codes(net: nn.Module, x: Tensor) -> Tensor:
    """An encoder's codes `(b, bits)` in evaluation mode."""
    return outputs(net, x, training=False)[0]


def constant_features(net: nn.Module, x: Tensor) -> Tensor:
    """An encoder's features `(b, width)` in evaluation mode, without gradient."""
    with torch.no_grad():
        return outputs(net, x, training=False)[1]


def leaky_layers(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers with batch norm and leaky ReLU: `(b, sizes[0])` to `(b, sizes[-1])`. A size of 0 is left out."""
    sizes = [size for size in sizes if size]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers)


class ResponseNorm(nn.Module):
    """Local response normalisation over the features, as TensorFlow counts it: α = 1e-4 for each of 5 neighbours.

    x / (2 + 1e-4 Σ x²)^¾ as `functional.local_response_norm` has it, which takes eight times as long.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`(b, d)` to the same."""
        normed: Tensor = _ResponseNorm.apply(x)
        return normed


class _ResponseNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Saved, x: Tensor) -> Tensor:
        base = _around(x.square()).mul_(1e-4).add_(2)
        root = base.sqrt()
        power = root.mul_(root.sqrt()).reciprocal_()  # base^(−¾)
        ctx.save_for_backward(x, base, power)
        return x * power

    @staticmethod
    @once_differentiable
    def backward(ctx: Saved, upstream: Tensor) -> Tensor:
        x, base, power = ctx.saved_tensors
        direct = upstream * power
        return direct.addcmul(_around((direct * x).div_(base)), x, value=-1.5e-4)


def _around(x: Tensor) -> Tensor:
    """Each number of a row `(b, d)` with its two neighbours on either side, added up."""
    total = x.clone()
    for step in range(1, min(3, x.shape[1])):
        total[:, step:] += x[:, :-step]
        total[:, :-step] += x[:, step:]
    return total


def response_layers(n_in: int, hidden: int, n_out: int) -> nn.Sequential:
    """Linear, ReLU, response norm, linear: `(b, n_in)` to `(b, n_out)`."""
    return nn.Sequential(nn.Linear(n_in, hidden), nn.ReLU(), ResponseNorm(), nn.Linear(hidden, n_out))
