"""First values that a method draws beside its nets' weights, each from a stream of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from cmh.interfaces import Setup
from cmh.seeding import derive


def normals(setup: Setup, stream: str, *shapes: tuple[int, ...]) -> list[Tensor]:
    """A tensor of each shape, one after another from N(0, 1), in the run's stream of this name.

    They are drawn on the CPU, so that every device starts from the same numbers.
    """
    draw = torch.Generator().manual_seed(derive(setup.seed, stream))
    return [torch.randn(shape, generator=draw).to(setup.device) for shape in shapes]
