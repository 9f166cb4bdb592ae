"""One code an item for both modalities, learnt beside the nets by discrete coordinate descent, as DCHUC has them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from cmh.interfaces import Setup, State
from cmh.losses import sign, similar
from cmh.nets.draws import normals

ROWS = 2048  # of S that are worked on at once


class UnifiedCodes:
    """V `(N, K)`, W `(K, c)`, and the newest `outputs` of both nets for every training item, `(N, K)` each.

    `r` is the ratio of pairs of training items that share a label to those that do not. V and outputs start at 0, W at
    N(0, .01²).
    """

    def __init__(self, setup: Setup) -> None:
        labels = setup.known_labels
        (start,) = normals(setup, "W", (setup.bits, labels.shape[1]))
        self.W, self.r = 0.01 * start, ratio(labels, labels)
        self.outputs = {name: labels.new_zeros(setup.n_train, setup.bits) for name in ("image", "text")}
        self.V = labels.new_zeros(setup.n_train, setup.bits)

    def update(self, labels: Tensor, *, gamma: float, alpha: float, beta: float, eta: float, times: int = 1) -> None:
        """V bit by bit, then W, from labels L `(N, c)`; the formula is DCHUC's.

        Where `times` is 2, what G and W say of a bit's share in the others counts twice, as in the authors' code.
        """
        F, G, V, W = self.outputs["image"], self.outputs["text"], self.V, self.W
        H, bits = F + G, V.shape[1]
        pull = 2 * bits * weighed(labels, H, self.r) + gamma * H + 2 * beta * labels @ W.T
        between = F.T @ F + times * (G.T @ G + beta * W @ W.T)
        between.fill_diagonal_(0)
        for k in range(bits):
            V[:, k] = sign(pull[:, k] - 2 * V @ between[:, k])
        gram = alpha * (F.T @ F + G.T @ G) + beta * V.T @ V
        gram.diagonal().add_(eta)
        W.copy_(torch.linalg.solve(gram, (alpha * H + beta * V).T @ labels))

    def state(self) -> State:
        """V, W and the outputs."""
        return {"V": self.V, "W": self.W, **self.outputs}


def centred(S: Tensor, r: Tensor) -> Tensor:
    """1 where the 0/1 S is 1, else −r."""
    return S * (1 + r) - r


def ratio(labels: Tensor, others: Tensor) -> Tensor:
    """Of all pairs of rows `(n, c)`, `(m, c)`: how many share a label, over how many do not; 0 where all do. A scalar,
    float64."""
    alike = torch.stack([S.sum(dtype=torch.float64) for S in _blocks(labels, others)]).sum()
    apart = len(labels) * len(others) - alike
    return torch.where(apart > 0, alike / apart.clamp_min(1), 0.0)


def weighed(labels: Tensor, H: Tensor, r: Tensor) -> Tensor:
    """S H `(N, K)` for the S of labels `(N, c)` that has −r where items share none; S is never stored whole."""
    return torch.cat([(1 + r) * (S @ H) for S in _blocks(labels, labels)]) - r * H.sum(0)


def _blocks(labels: Tensor, others: Tensor) -> Iterator[Tensor]:
    for part in torch.split(labels, ROWS):
        yield similar(part, others)
