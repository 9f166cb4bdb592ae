"""Features brought to one scale before any net sees them; what that takes is learned from the training rows alone.

A method's default point holds for inputs of one size, and features come in any: rows of SIFT histograms have a norm of
.2, CLIP's of 1, pooled ones of 15. `standard` gives every dimension mean 0 and deviation 1; texts of few
words, which are stored by words, stay so: they are multiplied by one number, after which the mean square of all their
entries is 1, as it is of standardised ones. `unit` divides each row by its norm, and `none` changes nothing.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from cmh.interfaces import Method, State
from cmh.nets.bags import Bags
from cmh.training.within import Within

KINDS = ("none", "standard", "unit")
ROWS = 4096  # looked at in one go
FLAT = 1e-6  # a dimension that deviates by a smaller share of the largest deviation is constant but for rounding
SMALLEST = torch.finfo(torch.float32).tiny


class Scaling(Protocol):
    """Of one modality: rows `(n, d)` of any float type to `(n, d)` float32; `Bags` stay such, tokens as they are."""

    def __call__(self, rows: Tensor, /) -> Tensor: ...

    def state(self) -> State:
        """What was learned from the training rows."""


class Unit:
    """Each row divided by its Euclidean norm; a row of zeros stays one."""

    def __call__(self, rows: Tensor, /) -> Tensor:
        """Rows of norm 1."""
        if isinstance(rows, Bags):
            of = rows.row_numbers()
            lengths = rows.entries.new_zeros(len(rows)).index_add_(0, of, rows.entries.square()).sqrt()
            return rows.with_entries(rows.entries / lengths.clamp_min(SMALLEST)[of])
        if rows.ndim > 2:
            return rows
        rows = rows.to(torch.float32)
        norms: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        return rows / norms.clamp_min(SMALLEST)

    def state(self) -> State:
        """Nothing was."""
        return {}


class Affine:
    """x → (x - shift) · factor, both `(d,)`; of few words x · factor, with one factor for all."""

    def __init__(self, train: Tensor) -> None:
        if isinstance(train, Bags):
            square = train.entries.double().square().sum() / train.numel()
            self.shift = train.entries.new_zeros(train.shape[1])
            self.factor = square.clamp_min(SMALLEST).rsqrt().float().repeat(train.shape[1])
            return
        if train.ndim > 2:
            self.shift, self.factor = (make(train.shape[-1], device=train.device) for make in (torch.zeros, torch.ones))
            return
        mean, square = (torch.zeros(train.shape[1], dtype=torch.float64, device=train.device) for _ in range(2))
        for block in torch.split(train, ROWS):
            mean += block.double().sum(0) / len(train)
        for block in torch.split(train, ROWS):  # a second look: the square of the mean may dwarf the deviation
            square += (block.double() - mean).square().sum(0) / len(train)
        deviation = square.sqrt()
        varies = deviation > FLAT * deviation.max()
        self.shift = mean.float()
        self.factor = torch.where(varies, 1 / deviation.clamp_min(SMALLEST), 0).float()

    def __call__(self, rows: Tensor, /) -> Tensor:
        """Mean 0 and deviation 1 over the training rows in each dimension; 0 where it was constant."""
        if isinstance(rows, Bags):
            return rows.with_entries(rows.entries * self.factor[rows.columns])
        if rows.ndim > 2:
            return rows
        return (rows.to(torch.float32) - self.shift) * self.factor

    def state(self) -> State:
        """Both vectors."""
        return {"shift": self.shift, "factor": self.factor}


def fitted(kind: str, train: Tensor) -> Scaling:
    """Of features like the training rows `(n, d)`. `kind` is `standard` or `unit`."""
    return Unit() if kind == "unit" else Affine(train)


class Scaled(Within):
    """A method for features as they are: it is trained on scaled ones, and whatever it encodes is scaled first.

    Pixels and tokens, where backbones are trained along, have no scale and stay as they are, and so do items and their
    parts `(n, 1 + L, d)`.
    """

    def __init__(self, method: Method, image: Scaling, text: Scaling) -> None:
        super().__init__(method)
        self.image, self.text = image, text

    def image_input(self, features: Tensor) -> Tensor:
        """Scaled features, or pixels."""
        return features if features.ndim > 2 else self.image(features)

    def text_input(self, features: Tensor) -> Tensor:
        """Scaled features, or tokens."""
        return self.text(features) if features.is_floating_point() else features

    def state(self) -> State:
        """The method's, and what its inputs are scaled by."""
        return {**super().state(), "scale": {"image": self.image.state(), "text": self.text.state()}}
