"""What `soak.py` trains: a random walk of two projections, whose every epoch depends on all epochs before it.

An epoch takes a fraction of a second and checkpoints come every few epochs, so that a kill hits each of: an epoch
that is stored, one that only the checkpoint holds, one that is in neither. `fault` breaks a trial in its second epoch.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from cmh.config import param
from cmh.interfaces import Batches, Setup, State
from cmh.training import fitting, train

TITLE = "Two projections that walk at random"
YEAR = 2026
KIND = "shallow"
LABELS = False
SOURCE = "none"
EPOCH_SECONDS = 0.25

fitting.CHECKPOINT_SECONDS = 0.6


@dataclass(frozen=True)
class Config:
    """How far a step goes, and what breaks."""

    step: float = param(1.0, "length of a step", above=0, high=100)
    fault: str = param("none", "what breaks", choices=("none", "nan", "memory", "exception", "hang", "death"))


class Method:
    """The walk as the trainer drives it."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config, self.count = config, torch.tensor(0)
        self.image, self.text = torch.randn(setup.image_dim, setup.bits), torch.randn(setup.text_dim, setup.bits)

    def epoch(self, batches: Batches) -> dict[str, float]:
        """One step."""
        time.sleep(EPOCH_SECONDS)
        count = int(self.count.add_(1))
        loss = 1.0 / count
        if count == 2:
            if self.config.fault == "nan":
                loss = float("nan")
            elif self.config.fault == "memory":
                raise MemoryError
            elif self.config.fault == "exception":
                raise RuntimeError("broke")
            elif self.config.fault == "hang":
                time.sleep(10_000)
            elif self.config.fault == "death":
                os.kill(os.getpid(), signal.SIGKILL)
        for projection in (self.image, self.text):
            projection += self.config.step * torch.randn_like(projection)
        return {"loss": loss}

    def encode_image(self, features: Tensor) -> Tensor:
        """`(n, bits)`."""
        return features @ self.image

    def encode_text(self, features: Tensor) -> Tensor:
        """`(n, bits)`."""
        return features @ self.text

    def state(self) -> State:
        """Where the walk is."""
        return {"image": self.image, "text": self.text, "count": self.count}


def trainable(config: dict[str, object]) -> None:
    """As every method's."""
    train(__name__, config)
