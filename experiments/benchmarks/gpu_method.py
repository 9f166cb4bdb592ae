"""What `gpu.py` lets run out of a GPU's memory: the template's method, which holds a share of it during each epoch."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from cmh.config import param
from cmh.interfaces import Batches, Setup
from cmh.methods import _template
from cmh.training import train

TITLE = "The template, with much memory"
YEAR = 2026
KIND = "supervised"
LABELS = True
SOURCE = "none"


@dataclass(frozen=True)
class Config(_template.Config):
    """How much is taken, and for how long."""

    share: float = param(0.0, "of the GPU's memory", low=0, high=4)
    seconds: float = param(0.0, "how long an epoch holds it", low=0, high=100)


class Method(_template.Method):
    """Two of them with more than half each do not fit on one card."""

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        self.device = setup.device

    def epoch(self, batches: Batches) -> dict[str, float]:
        """The template's, beside what is held."""
        held = int(self.config.share * torch.cuda.mem_get_info(self.device)[1]) if self.config.share else 0
        taken = torch.empty(held, dtype=torch.uint8, device=self.device)
        time.sleep(self.config.seconds)
        del taken
        torch.cuda.empty_cache()
        return super().epoch(batches)


def trainable(config: dict[str, object]) -> None:
    """As every method's."""
    train(__name__, config)
