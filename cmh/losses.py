"""Loss terms that two or more papers share, as plain functions of codes and labels."""

from __future__ import annotations

import torch
from torch import Tensor
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


def reconstruction(codes: Tensor, others: Tensor, S: Tensor) -> Tensor:
    """Mean over all pairs of (cos(codes_i, others_j) − S_ij)²."""
    return (cosines(codes, others) - S).square().mean()
