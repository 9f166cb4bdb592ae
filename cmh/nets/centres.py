"""Hash centres: a fixed code for each class, far from the others, and the codes that items with several classes get."""

from __future__ import annotations

import torch
from scipy.linalg import hadamard
from torch import Tensor

from cmh.interfaces import Setup
from cmh.nets.draws import normals

RIDGE = 10.0  # of codes ±1: what ten items weigh


def centres(setup: Setup, bits: int, stream: str) -> Tensor:
    """A code ±1 a class, `(c, bits)`, as Central Similarity Quantization has them (Yuan et al., CVPR 2020,
    arXiv:1908.00347): rows, drawn without order, of a Hadamard matrix and of its negative, any two of which differ in
    half of the bits or in all. Where there is no such matrix, or too few rows: random ones with as many +1 as −1.
    """
    n = setup.known_labels.shape[1]
    if bits & (bits - 1) == 0 and n <= 2 * bits - 2:
        rows = torch.from_numpy(hadamard(bits)[1:]).to(setup.device, torch.float32)  # the first is +1 throughout
        (order,) = normals(setup, stream, (2 * len(rows),))
        return torch.cat([rows, -rows])[order.argsort()[:n]]
    (scores,) = normals(setup, stream, (n, bits))
    return torch.where(scores.argsort(1).argsort(1) < bits // 2, -1.0, 1.0)


def votes(labels: Tensor, centres: Tensor, ties: Tensor) -> Tensor:
    """The code ±1 `(b, bits)` that most centres of an item's classes have; where they are even, that of `ties`.

    Labels are 0/1 `(b, c)`, centres `(c, bits)`, `ties` `(bits,)` ±1.
    """
    sums = labels @ centres
    return torch.where(sums == 0, ties, sums.sign())


def shortening(long: Tensor, short: Tensor, *, steep: float) -> Tensor:
    """The matrix T `(2M, 2K)` from two-way probabilities of long codes to two-way logits of short ones.

    By ridge regression over codes ±1 `(n, M)` and `(n, K)` of the same items. `steep`: difference of the two logits
    where the regression gives 1.
    """
    gram = long.T @ long + RIDGE * torch.eye(long.shape[1], device=long.device)
    d = steep / 2 * torch.linalg.solve(gram, long.T @ short)
    columns = torch.stack([-d, d], 2).flatten(1)  # (M, 2K)
    return torch.stack([-columns, columns], 1).flatten(0, 1)
