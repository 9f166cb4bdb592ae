"""Random changes of training items, each item on its own: turns and flips of pictures, words that go missing.

Which items change is drawn on the CPU from the generator that is passed in, so a run repeats itself on any device and
nothing waits for the GPU; the changes themselves run where the items are.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from cmh.nets.bags import Bags


def turn_and_flip(pixels: Tensor, draw: torch.Generator, *, rotate: float, hflip: float, vflip: float) -> Tensor:
    """Square pictures `(b, 3, side, side)`, each with probability `rotate` turned by 90, 180 or 270 degrees (equally
    likely), with `hflip` mirrored left to right, and with `vflip` upside down.
    """
    n = len(pixels)
    turns = torch.where(_chosen(n, rotate, draw), torch.randint(1, 4, (n,), generator=draw), 0)
    horizontal, vertical = _chosen(n, hflip, draw), _chosen(n, vflip, draw)
    if not (rotate or hflip or vflip):
        return pixels
    pixels = pixels.clone()
    for quarter in (1, 2, 3):
        rows = _rows(turns == quarter, pixels)
        pixels[rows] = functional.rotate(pixels[rows], 90.0 * quarter)  # of squares exact: no pixel is interpolated
    for chosen, flip in ((horizontal, functional.horizontal_flip), (vertical, functional.vertical_flip)):
        rows = _rows(chosen, pixels)
        pixels[rows] = flip(pixels[rows])
    return pixels


def erase(text: Tensor, draw: torch.Generator, *, share: float) -> Tensor:
    """Texts `(b, text_dim)`, each with `share` of its dimensions, drawn anew for each item, set to 0."""
    n_erased = int(text.shape[1] * share)
    if not n_erased:
        return text
    columns = torch.rand(text.shape, generator=draw).topk(n_erased, 1).indices
    if isinstance(text, Bags):
        kept = torch.ones(text.shape).scatter_(1, columns, 0.0)
        return text.with_entries(text.entries * text.at_words(kept))
    return text.scatter(1, columns.to(text.device), 0.0)


def _chosen(n: int, probability: float, draw: torch.Generator) -> Tensor:
    """Which of n items change, `(n,)` bool."""
    return torch.rand(n, generator=draw) < probability


def _rows(chosen: Tensor, like: Tensor) -> Tensor:
    """The numbers of those items, on the device of `like`."""
    return chosen.nonzero().flatten().to(like.device)
