"""Nets on the tokens of an item, as MITH has them: concepts, tokens gathered by concept, and a transformer over these.

An item is `(1 + L, d)`: the vector of the whole first, then those of its L parts (patches, words). A part of nothing
but zeros is none: it fills up a shorter text. An item that is one vector `(d,)` is its own only part.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

Outputs = tuple[Tensor, Tensor, Tensor, Tensor]  # c (b, K), t (b, K), z (b, width), u (b, K, width): see `mith`


class Concepts(nn.Module):
    """Residual layers on vectors of any modality, and how strongly each of K concepts is there: one bit each."""

    def __init__(self, width: int, bits: int, n_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            for _ in range(n_layers)
        )
        self.concepts = nn.Linear(width, bits, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors `(…, width)` to vectors of the same shape, and concepts `(…, K)` in (−1, 1)."""
        for layer in self.layers:
            x = x + layer(x)
        return x, torch.tanh(self.concepts(x))


class Block(nn.Module):
    """A layer of CLIP's transformer: attention and two linear layers, each behind a layer norm and beside its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.attention = (
            nn.LayerNorm(width),
            nn.MultiheadAttention(width, max(1, width // 64), batch_first=True),
        )
        self.layers = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), QuickGELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(b, n, width)` to the same."""
        normed = self.norm(x)
        # With the weights: what computes without them has no deterministic backward pass on GPUs.
        attended: Tensor = x + self.attention(normed, normed, normed, need_weights=True)[0]
        changed: Tensor = self.layers(attended)
        return attended + changed


def heads(width: int) -> int:
    """One a 64 numbers, as CLIP has them, or the nearest smaller number that divides the width."""
    return next(n for n in range(max(1, width // 64), 0, -1) if width % n == 0)


class QuickGELU(nn.Module):
    """x · σ(1.702 x), which CLIP has for GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Gathered(nn.Module):
    """Tokens gathered by concept, a transformer over the K gathered vectors, and a bit of each.

    `most`: how many concepts a token may speak for.
    """

    places: Tensor

    def __init__(self, width: int, bits: int, n_layers: int, most: int) -> None:
        super().__init__()
        self.most = min(most, bits)
        self.register_buffer("places", places(bits, width), persistent=False)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(n_layers)))
        layer = nn.Linear(width, bits)  # row k sees vector k alone
        self.weight, self.bias = layer.weight, layer.bias
        self.aligned = nn.Linear(width, width)

    def forward(self, x: Tensor, concepts: Tensor) -> tuple[Tensor, Tensor]:
        """Parts `(b, L, width)` and their concepts `(b, L, K)`, 0 where there is no part, to codes `(b, K)` in (−1, 1)
        and the K vectors for a comparison of modalities, `(b, K, width)`, of length 1."""
        gathered: Tensor = self.blocks(gather(x, concepts, self.most) + self.places)
        return torch.tanh((gathered * self.weight).sum(2) + self.bias), normalize(self.aligned(gathered), dim=-1)


def gather(x: Tensor, concepts: Tensor, most: int) -> Tensor:
    """For each concept a mean of the parts `(b, L, width)` that speak for it, `(b, K, width)`, and 0 where none does.

    A part speaks for the `most` concepts that are strongest in it, if they are positive; weights are the softmax of
    `concepts` `(b, L, K)` over these parts, without gradient.
    """
    with torch.no_grad():
        least = concepts.topk(most, dim=2).values[..., -1:]
        spoken = (concepts >= least) & (concepts > 0)
        weights = torch.where(spoken, concepts.exp(), 0)
        weights = weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    return weights.transpose(1, 2) @ x


def places(n: int, width: int) -> Tensor:
    """Sines and cosines that tell n places apart, `(n, width)`, divided by √width."""
    angles = torch.arange(n)[:, None] * 10000.0 ** (-torch.arange(0, width, 2) / width)
    waves = torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :width]
    scaled: Tensor = waves / width**0.5
    return scaled


def outputs(net: nn.Module, concepts: Concepts, gathered: Gathered, x: Tensor) -> Outputs:
    """What the nets of a modality make of its items, `(b, d)` or `(b, 1 + L, d)`.

    `net` brings vectors to `width`; it may also take pictures, and make vectors or tokens of them.
    """
    vectors: Tensor = net(x)
    single = vectors.ndim == 2
    whole, parts = (vectors, vectors[:, None]) if single else (vectors[:, 0], vectors[:, 1:])
    z, c = concepts(whole)
    with torch.no_grad():  # the concepts of one vector are those of its only part
        spoken = c[:, None] if single else concepts(parts)[1]
        if x.ndim == 3:
            spoken = spoken * (x[:, 1:] != 0).any(2, keepdim=True)
    t, u = gathered(parts, spoken)
    return c, t, normalize(z, dim=1), u
