"""NAME: who, "Title", venue and year, DOI 10.0000/to-be-filled-in.

With f and g the outputs of the image and the text net for the items of a batch, and S_ij = 1 where two items share a
label (else 0), this method minimises

    J = mean_ij [ log(1 + e^θ_ij) − S_ij·θ_ij ] + λ ( mean (1 − |f|)² + mean (1 − |g|)² ),   θ = ½ f·g,

over all pairs of the batch; λ is `quantisation`.

An epoch is one pass over the training items, one step of both nets a batch.

Differences from the paper:

1. (What you changed, what the paper leaves out, what you could not verify.)
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cmh.config import param
from cmh.interfaces import Batch, Batches, Setup
from cmh.losses import pairwise_nll, similar
from cmh.nets.optimizers import Falling
from cmh.nets.pair import Pair
from cmh.nets.towers import mlp
from cmh.training import train

TITLE = "Title of the paper"
YEAR = 2026
KIND = "supervised"  # or unsupervised, shallow
LABELS = True  # False: `setup.labels` is None
SOURCE = "DOI 10.0000/to-be-filled-in"


@dataclass(frozen=True)
class Config:
    """Hyperparameters: default, legal range, help; `paper=` where the paper's value is another."""

    quantisation: float = param(0.01, "weight λ of the distance of outputs to ±1", low=0, high=1e3)
    lr_image: float = param(1e-3, "learning rate of the image net at the start", above=0, high=1)
    lr_text: float = param(0.01, "learning rate of the text net at the start", above=0, high=1)
    batch_size: int = param(128, "items a step", low=1, high=65536)
    hidden_image: int = param(512, "hidden units of the image net; 0: hash layer only", low=0, high=65536)
    hidden_text: int = param(512, "hidden units of the text net; 0: hash layer only", low=0, high=65536)


class Method:
    """What the trainer drives. It has a pair of nets with their optimizers; whatever else it keeps from one epoch to
    the next belongs into `state`: `def state(self) -> State: return {**self.pair.state(), "buffer": self.buffer}`.
    """

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config, self.labels = config, setup.known_labels
        image = mlp(setup.image_dim, config.hidden_image, setup.bits)
        text = mlp(setup.text_dim, config.hidden_text, setup.bits)
        self.pair = Pair(setup, config, image, text, falling=Falling("linear", end=0.01))
        self.encode_image, self.encode_text, self.state = self.pair.encode_image, self.pair.encode_text, self.pair.state

    def epoch(self, batches: Batches) -> dict[str, float]:
        """One pass. Returns the mean loss and its terms. Other epochs are loops of their own, as in `dgcpn.py`."""
        return self.pair.one_pass(batches, self._loss)

    def _loss(self, batch: Batch, f: Tensor, g: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        labels = self.labels[batch.index]
        return step_loss(f, g, similar(labels, labels), self.config)


def step_loss(f: Tensor, g: Tensor, S: Tensor, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    """J of a batch and its two terms: `f`, `g` `(b, K)` with gradient, S `(b, b)`."""
    pairs = pairwise_nll(0.5 * f @ g.T, S).mean()
    quantisation = (1 - f.abs()).square().mean() + (1 - g.abs()).square().mean()
    return pairs + config.quantisation * quantisation, {"pairs": pairs, "quantisation": quantisation}


def trainable(config: dict[str, object]) -> None:
    """Train with a flat mapping of hyperparameters and run settings, alone or under Ray Tune."""
    train(__name__, config)
