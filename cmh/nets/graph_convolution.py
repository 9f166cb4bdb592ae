"""A graph convolutional network over the items of a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Graph(nn.Module):
    """Two graph convolutions without biases, and label logits from their codes."""

    def __init__(self, width: int, bits: int, n_labels: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width, bias=False), nn.Linear(width, bits, bias=False)
        self.label = nn.Linear(bits, n_labels)

    def forward(self, x: Tensor, adjacency: Tensor) -> tuple[Tensor, Tensor]:
        """Items `(b, width)` and A `(b, b)` to codes M `(b, bits)` and label logits `(b, c)`."""
        codes = graph_codes(x, adjacency, self.first.weight.T, self.second.weight.T)
        return codes, self.label(codes)


def graph_codes(x: Tensor, adjacency: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """M = tanh(A relu(A x W_1) W_2) `(b, K)`: x `(b, d)`, A `(b, b)`, W_1 `(d, d')`, W_2 `(d', K)`."""
    hidden = torch.relu(adjacency @ (x @ first))
    return torch.tanh(adjacency @ (hidden @ second))


def adjacency(labels: Tensor) -> Tensor:
    """A = D^−½ (L Lᵀ) D^−½ `(b, b)` of the labels L `(b, c)`; D has the row sums.

    Rows of items without labels are 0.
    """
    shared = labels @ labels.T
    scale = shared.sum(1).clamp_min(1).rsqrt()
    return scale[:, None] * shared * scale


class ClassGraph(nn.Module):
    """Two graph convolutions over classes, from a vector of each `(c, d)` to vectors `(c, width)`, without biases.

    An edge stands where the share of a class's items that have the other one, too, is at least `threshold`, on the
    labels `(n, c)`: GCDH's graph. A class without an item has none but to itself.
    """

    def __init__(self, vectors: Tensor, labels: Tensor, hidden: int, width: int, *, threshold: float) -> None:
        super().__init__()
        self.first = nn.Linear(vectors.shape[1], hidden, bias=False)
        self.second = nn.Linear(hidden, width, bias=False)
        self.vectors, self.adjacency = nn.Buffer(vectors), nn.Buffer(class_adjacency(labels, threshold))

    def forward(self) -> Tensor:
        """The vectors of all classes."""
        hidden = nn.functional.leaky_relu(self.adjacency @ self.first(self.vectors), 0.2)
        vectors: Tensor = self.adjacency @ self.second(hidden)
        return vectors


def class_adjacency(labels: Tensor, threshold: float) -> Tensor:
    """Â = (A D)ᵀ D `(c, c)`: A the identity plus a quarter of the edges over their column's sum, D = rowsum(A)^−½."""
    shared = labels.T @ labels
    edges = (shared / shared.diagonal().clamp_min(1)[:, None] >= threshold).to(labels.dtype)
    A = 0.25 * edges / (edges.sum(0) + 1e-6) + torch.eye(len(edges), dtype=edges.dtype, device=edges.device)
    scale = A.sum(1).rsqrt()
    return (A * scale).T * scale
