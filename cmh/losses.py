"""Loss terms that two or more papers share, as plain functions of codes and labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import normalize, softplus


def similar(labels: Tensor, others: Tensor) -> Tensor:
    """S: 1 where two items share a label, else 0; `(n, c)` and `(m, c)` give `(n, m)`, in their dtype.

    Computed for the rows that are needed; the N × N matrix is never stored.
    """
    return (labels @ others.T > 0).to(labels.dtype)


def pairwise_nll(theta: Tensor, similar: Tensor) -> Tensor:
    """log(1 + e^θ) − S·θ for each pair, in the form that does not overflow."""
    return softplus(theta) - similar * theta


def squared_nll(theta: Tensor, similar: Tensor) -> Tensor:
    """The square of each pair's log(1 + e^θ) − S·θ, as SSAH's and GCH's released codes have it."""
    return pairwise_nll(theta, similar).square()


def cosines(rows: Tensor, others: Tensor) -> Tensor:
    """Cosine of each pair of rows, `(n, d)` and `(m, d)` to `(n, m)`; 0 where a row is all zero."""
    return normalize(rows) @ normalize(others).T


def sign(values: Tensor) -> Tensor:
    """±1 with sign(0) = +1, in the dtype of `values`."""
    return torch.where(values >= 0, 1, -1).to(values.dtype)


def mean_nll(codes: Tensor, others: Tensor, similar: Tensor, scale: float) -> Tensor:
    """Mean of log(1 + e^θ) − S·θ over all pairs, θ = scale · codes othersᵀ, where `others` `(N, K)` are constants.

    Several sets of codes for the same items, `(M, b, K)`, share S `(b, N)`; the mean is over them, too.

    The gradient, scale · (σ(θ) − S) others / numel, is computed at once, so that no `(b, N)` block waits for the
    backward pass.
    """
    value: Tensor = _MeanNll.apply(codes, others.detach(), similar, scale)
    return value


class _MeanNll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, codes: Tensor, others: Tensor, similar: Tensor, scale: float) -> Tensor:
        theta = scale * codes @ others.T  # ([M,] b, N)
        ctx.save_for_backward((torch.sigmoid(theta) - similar) @ others * (scale / theta.numel()))
        return pairwise_nll(theta, similar).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None, None
