"""Bits as choices between two: a net gives two logits a bit, and their softmax is (p₀, p₁). DCHMT's and TwDH's."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Select(nn.Module):
    """Two logits a bit `(n, 2K)`, bit by bit, to p₁ − p₀ of their softmaxes `(n, K)`."""

    def forward(self, logits: Tensor) -> Tensor:
        p: Tensor = logits.reshape(len(logits), -1, 2).softmax(2)
        return p[..., 1] - p[..., 0]


def two_way(outputs: Tensor) -> Tensor:
    """p₀ and p₁ of each bit, end to end `(b, 2K)`, from p₁ − p₀ `(b, K)`."""
    return torch.stack([1 - outputs, 1 + outputs], 2).flatten(1) / 2
