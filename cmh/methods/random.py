"""Random: each modality is cut by its own random hyperplanes, and nothing is trained. The floor of every table.

The code of an image is sign(x R_image), that of a text sign(y R_text), with R_image and R_text drawn from N(0, 1)
without regard to each other: within a modality near items keep near codes (Charikar, "Similarity Estimation
Techniques from Rounding Algorithms", STOC 2002, DOI 10.1145/509907.509965), but the bits of an image say nothing
about those of a text. What such codes score is what a dataset gives away for nothing. That is its chance level plus
a little: items of a class share their noise, so relevant items come in blocks (clip art v2, 32 bits, 12 seeds:
validation MAP .155 to .165, mean .160; all items at one distance: .156). An epoch does nothing.

Differences from the source:

1. The hyperplanes of the two modalities are independent on purpose, so that nothing can be retrieved across them.
   With one set for both (where they had as many dimensions) this would be Charikar's hashing.
2. A text without words lies on every hyperplane; sign(0) = +1 gives it a code of +1 only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cmh.interfaces import Batches, Setup, State
from cmh.seeding import derive
from cmh.training import train

TITLE = "Random hyperplanes, independent for the modalities"
YEAR = 2002
KIND = "shallow"
LABELS = False
SOURCE = "DOI 10.1145/509907.509965"
EPOCHS = 1  # nothing is trained


@dataclass(frozen=True)
class Config:
    """Chance has no hyperparameters."""


class Method:
    """The floor as the trainer drives it: hyperplanes `(dim, bits)` of each modality."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.hyperplanes = {}
        for name, dim in (("image", setup.image_dim), ("text", setup.text_dim)):
            draw = torch.Generator().manual_seed(derive(setup.seed, "hyperplanes", name))
            self.hyperplanes[name] = torch.randn(dim, setup.bits, generator=draw).to(setup.device)

    def epoch(self, batches: Batches) -> dict[str, float]:
        """Do nothing; there is no loss to return."""
        return {}

    def encode_image(self, features: Tensor) -> Tensor:
        """Real-valued outputs `(n, bits)`; their signs are the codes."""
        return features @ self.hyperplanes["image"]

    def encode_text(self, features: Tensor) -> Tensor:
        """Real-valued outputs `(n, bits)`; their signs are the codes."""
        return features @ self.hyperplanes["text"]

    def state(self) -> State:
        """Everything that encoding depends on."""
        return {"hyperplanes": self.hyperplanes}


def trainable(config: dict[str, object]) -> None:
    """Evaluate random codes with a flat mapping of run settings, alone or under Ray Tune."""
    train(__name__, config)
