"""Several vectors an item: a net that makes them, and how two sets of them compare."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize


class Instances(nn.Module):
    """Features `(n, d)`, or tokens `(n, tokens, d)`, to `n_instances` vectors an item, `(n, n_instances, bits)`.

    Tokens are mixed by a convolution over their dimensions, as DIMCH has it (one channel a token, kernels of three);
    one vector goes through a linear layer to all instances, `width` numbers each. Then come ReLU and, for each instance
    alike, a linear layer to half its width, ReLU, dropout, and the hash layer.
    """

    def __init__(self, shape: torch.Size, n_instances: int, width: int, bits: int, *, dropout: float) -> None:
        super().__init__()
        self.n_instances = n_instances
        if len(shape) == 2:
            self.first: nn.Module = nn.Conv1d(shape[0], n_instances, kernel_size=3, padding=1)
            width = shape[1]
        else:
            self.first = nn.Linear(shape[0], n_instances * width)
        half = max(width // 2, 1)
        self.hash = nn.Sequential(nn.Linear(width, half), nn.ReLU(), nn.Dropout(dropout), nn.Linear(half, bits))

    def forward(self, features: Tensor) -> Tensor:
        """The instances before any tanh."""
        instances = torch.relu(self.first(features)).reshape(len(features), self.n_instances, -1)
        outputs: Tensor = self.hash(instances)
        return outputs


def cosines(x: Tensor, y: Tensor) -> Tensor:
    """Of all instances `(b, s, K)` and `(m, t, K)`, `(b, s, m, t)`."""
    rows, others = normalize(x, dim=2).flatten(0, 1), normalize(y, dim=2).flatten(0, 1)
    return (rows @ others.T).reshape(*x.shape[:2], *y.shape[:2])


def similarity(cosine: Tensor, temperature: float, *, smooth: bool) -> Tensor:
    """Chamfer similarity of items `(b, m)` from their instances' cosines `(b, s, m, t)`.

    The mean, both ways, of each instance's largest cosine to the other set; `smooth`: log-sum-exp in place of the
    largest, which is not divided by the size of the set.
    """
    if not smooth:
        return (cosine.amax(3).mean(1) + cosine.amax(1).mean(2)) / 2
    scaled = temperature * cosine
    return (scaled.logsumexp(3).mean(1) + scaled.logsumexp(1).mean(2)) / (2 * temperature)


def distances(cosine: Tensor, *, own: bool) -> Tensor:
    """Of unit rows, all instances of a batch `(b·s, m·t)`, from their cosines `(b, s, m, t)`.

    An instance is at 0 from itself (`own`: both sets are the same), without a gradient.
    """
    squares = 2 - 2 * cosine.flatten(2, 3).flatten(0, 1)
    apart = squares > 0
    if own:
        apart = apart & ~torch.eye(len(squares), dtype=torch.bool, device=squares.device)
    return torch.where(apart, squares, 1).sqrt() * apart


def crowding(cosine: Tensor, t: float, *, within: str) -> Tensor:
    """Σ e^(−t d²) / (½ s (s − 1)) over pairs of unit instances, from a modality's cosines with itself `(b, s, b, s)`.

    `within`: the pairs of an `item` each and the mean over items, or those of the whole `batch`. 0 where s is 1.
    """
    s = cosine.shape[1]
    if s == 1:
        return cosine.new_zeros(())
    if within == "item":
        near = (2 * t * (cosine.diagonal(dim1=0, dim2=2) - 1)).exp().mean(2)  # (s, s)
    else:
        near = (2 * t * (cosine.flatten(2, 3).flatten(0, 1) - 1)).exp()
    others = ~torch.eye(len(near), dtype=torch.bool, device=near.device)
    return torch.where(others, near, 0).sum() / (s * (s - 1))
