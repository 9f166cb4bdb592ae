"""DJSRH: Su, Zhong and Zhang, "Deep Joint-Semantics Reconstructing Hashing for Large-Scale Unsupervised Cross-Modal
Retrieval", ICCV 2019, DOI 10.1109/ICCV.2019.00312.

For a batch of m pairs with fixed image features F_I and bags of words F_T, the joint-semantics matrix is

    S̃ = β (2 cos(F_I, F_I) − 1) + (1 − β) (2 cos(F_T, F_T) − 1),    S = μ [(1 − η) S̃ + η S̃ S̃ᵀ / m],

a constant m × m target whose second part lets items be similar that have similar neighbours. With h the outputs of a
net and B = tanh(α h), α = √(epoch + 1) for epochs counted from 0, a batch step minimises

    J = |cos(B_I, B_T) − S|² + λ₁ |cos(B_I, B_I) − S|² + λ₂ |cos(B_T, B_T) − S|²,    |·|² a mean over m × m.

An epoch is one pass; each step trains both nets. A code is sign(h). `β, η, μ` are `beta, eta, mu`; `λ₁, λ₂` are
`lambda1, lambda2`. No label is used anywhere.

On clip art v2 (32 bits, 30 epochs, validation MAP; chance .156) the paper's point scores .255, the default .344. That
is the method at work, not a fault here: clip art's texts share few words, so S lies far below 0 (mean −.34 at the
paper's point) and small λ let images and texts drift apart to follow it: after 6 epochs (1,024 hidden units) the mean
cosine of codes is .13 within images, .10 within texts and −.10 between them; with Adam in place of SGD, at the rates
1e-3, images are nearly one code (.91). At the default, η lifts S (mean −.06 μ), and the three cosines are .02, .01, 0.

Differences from the paper and from the authors' code (zs-zhong/DJSRH @6041c2d):

1. There AlexNet is trained along, in all its layers and with its dropout (on Wikipedia: its fully connected ones). On
   frozen features the hash layer is all that is left of it (`hidden_image: 0`, the paper's point here); our default
   adds one hidden layer. F_I are the frozen features, as there.
2. There images are flipped and cropped at random, and F_I is taken from the same crop; stored features are of one view.
3. A last, shorter batch is trained on, with its own m; the code drops it.
4. The map of cosines by 2·cos − 1 is in the code; the paper, as a public note copies it, writes plain cosines
   (unverified: the paper's text was not at hand, all else here is from the code).
5. sign(0) = +1; the released codes leave 0.
6. The optimizer is an option. The paper's point is SGD; its β, λ and learning rates are those for MIRFlickr-25K. The
   code has β = .6 for NUS-WIDE, and β = .3, λ₁ = λ₂ = .3, both learning rates .01 for Wikipedia.
7. The default values are ours: Adam, larger μ, λ and η (see above), as much weight on texts as on images.
8. α grows with the number of epochs, whatever number is planned: to √30 in a search, to √80 in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cmh.config import param
from cmh.interfaces import Batch, Batches, Setup
from cmh.losses import cosines, reconstruction
from cmh.nets.pair import Pair
from cmh.nets.towers import mlp
from cmh.training import train

TITLE = "Deep Joint-Semantics Reconstructing Hashing"
YEAR = 2019
KIND = "unsupervised"
LABELS = False
SOURCE = "DOI 10.1109/ICCV.2019.00312"


@dataclass(frozen=True)
class Config:
    """Hyperparameters of DJSRH."""

    beta: float = param(0.5, "share β of the image similarity in S̃ (texts have 1 − β)", low=0, high=1, paper=0.9)
    eta: float = param(0.55, "share η of the second-order similarity S̃ S̃ᵀ / m in S", low=0, high=1, paper=0.4)
    mu: float = param(10.0, "factor μ on S", above=0, high=100, paper=1.5)
    lambda1: float = param(0.3, "weight λ₁ of the image-image term", low=0, high=1e4, paper=0.1)
    lambda2: float = param(0.3, "weight λ₂ of the text-text term", low=0, high=1e4, paper=0.1)
    optimizer: str = param("adam", "how the nets are trained", choices=["adam", "sgd"], paper="sgd")
    lr_image: float = param(3e-4, "learning rate of the image net", above=0, high=10, paper=1e-3)
    lr_text: float = param(1e-3, "learning rate of the text net", above=0, high=10, paper=0.01)
    momentum: float = param(0.9, "momentum (sgd)", low=0, below=1)
    weight_decay: float = param(1e-4, "weight decay on weights and biases", low=0, high=1, paper=5e-4)
    batch_size: int = param(64, "items a step", low=1, high=65536, paper=32)
    hidden_image: int = param(1024, "hidden units of the image net; 0: hash layer only", low=0, high=65536, paper=0)
    hidden_text: int = param(1024, "hidden units of the text net; 0: hash layer only", low=0, high=65536, paper=4096)


class Method:
    """DJSRH as the trainer drives it."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config = config
        image = mlp(setup.image_dim, config.hidden_image, setup.bits)
        text = mlp(setup.text_dim, config.hidden_text, setup.bits)
        self.pair = Pair(setup, config, image, text)
        self.encode_image, self.encode_text, self.state = self.pair.encode_image, self.pair.encode_text, self.pair.state

    def epoch(self, batches: Batches) -> dict[str, float]:
        """One pass that trains both nets. Returns the means of J and its terms over the steps."""
        return self.pair.one_pass(batches, self._loss)

    def _loss(self, batch: Batch, image: Tensor, text: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        config, alpha = self.config, (self.pair.n_epochs + 1) ** 0.5
        S = joint_semantics(batch.features, batch.text_features, beta=config.beta, eta=config.eta, mu=config.mu)
        codes = torch.tanh(alpha * image), torch.tanh(alpha * text)
        return step_loss(*codes, S, lambda1=config.lambda1, lambda2=config.lambda2)


def joint_semantics(image: Tensor, text: Tensor, *, beta: float, eta: float, mu: float) -> Tensor:
    """S for a batch, `(m, m)`, from fixed image features `(m, d_i)` and bags of words `(m, d_t)`."""
    S = beta * (2 * cosines(image, image) - 1) + (1 - beta) * (2 * cosines(text, text) - 1)
    return mu * ((1 - eta) * S + eta * S @ S.T / len(S))


def step_loss(
    B_image: Tensor, B_text: Tensor, S: Tensor, *, lambda1: float, lambda2: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """J of a batch from both nets' B `(m, bits)`, and its three terms without their weights."""
    between = reconstruction(B_image, B_text, S)
    image = reconstruction(B_image, B_image, S)
    text = reconstruction(B_text, B_text, S)
    parts = {"image_text": between.detach(), "image_image": image.detach(), "text_text": text.detach()}
    return between + lambda1 * image + lambda2 * text, parts


def trainable(config: dict[str, object]) -> None:
    """Train DJSRH with a flat mapping of hyperparameters and run settings, alone or under Ray Tune."""
    train(__name__, config)
