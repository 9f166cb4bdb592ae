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

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cmh.config import param
from cmh.interfaces import State
from cmh.losses import pairwise_nll, similar
from cmh.nets.optimizers import optimizer, schedule
from cmh.nets.towers import encode, mlp
from cmh.training import Batch, Setup, train

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
    """What the trainer drives. Everything that the next epoch depends on is in `state_dict`."""

    def __init__(self, config: Config, setup: Setup) -> None:
        assert setup.labels is not None  # LABELS is True
        self.config, self.labels = config, setup.labels
        image = setup.image_net(mlp(setup.image_dim, config.hidden_image, setup.bits))
        text = mlp(setup.text_dim, config.hidden_text, setup.bits)
        self.nets = {"image": image.to(setup.device), "text": text.to(setup.device)}
        self.optimizers = {
            "image": optimizer("adam", self.nets["image"], lr=config.lr_image),
            "text": optimizer("adam", self.nets["text"], lr=config.lr_text),
        }
        self.schedules = {name: schedule(it, "linear", setup.epochs, end=0.01) for name, it in self.optimizers.items()}

    def epoch(self, batches: Callable[[], Iterator[Batch]]) -> dict[str, float]:
        """One pass. Returns the mean loss."""
        for net in self.nets.values():
            net.train()
        total, n_steps = torch.zeros((), device=self.labels.device), 0
        for batch in batches():
            labels = self.labels[batch.index]
            f, g = self.nets["image"](batch.image), self.nets["text"](batch.text)
            loss = step_loss(f, g, similar(labels, labels), quantisation=self.config.quantisation)
            for stepper in self.optimizers.values():
                stepper.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
            for stepper in self.optimizers.values():
                stepper.step()
            total += loss.detach()
            n_steps += 1
        for it in self.schedules.values():
            it.step()
        return {"loss": float(total) / n_steps}

    def encode_image(self, features: Tensor) -> Tensor:
        """Real-valued outputs `(n, bits)`; their signs are the codes."""
        return encode(self.nets["image"], features)

    def encode_text(self, features: Tensor) -> Tensor:
        """Real-valued outputs `(n, bits)`; their signs are the codes."""
        return encode(self.nets["text"], features)

    def state(self) -> State:
        """Everything that the next epoch depends on."""
        return {"nets": self.nets, "optimizers": self.optimizers, "schedules": self.schedules}


def step_loss(f: Tensor, g: Tensor, similar: Tensor, *, quantisation: float) -> Tensor:
    """J of a batch: `f`, `g` `(b, K)` with gradient, `similar` S `(b, b)`."""
    pairs = pairwise_nll(0.5 * f @ g.T, similar).mean()
    return pairs + quantisation * ((1 - f.abs()).square().mean() + (1 - g.abs()).square().mean())


def trainable(config: dict[str, object]) -> None:
    """Train with a flat mapping of hyperparameters and run settings, alone or under Ray Tune."""
    train(__name__, config)
