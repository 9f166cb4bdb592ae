"""JDSH: Liu, Qian, Guan, Zhan and Ying, "Joint-modal Distribution-based Similarity Hashing for Large-scale Unsupervised
Deep Cross-modal Retrieval", SIGIR 2020, DOI 10.1145/3397271.3401086.

For a batch of m pairs with fixed image features F_I and bags of words F_T, the joint-modal similarity is

    S = α S_I + β S_T + λ (Q + Qᵀ) / 2,    S_I = 2 cos(F_I, F_I) − 1,    S_T = 2 cos(F_T, F_T) − 1,

where Q_ij is the cosine of row i of S_I and row j of S_T. Distribution-based similarity decision and weighting (DSDW)
then changes the entries of S, diagonal included, that are far from the mode M of their distribution:

    S < M − k_l σ_l:  S ← S (1 + L₁ e^(min − S)),        S > M + k_r σ_r:  S ← S (1 + L₂ e^(S − max)),

with σ_l the scale of a Gaussian left of M, σ_r that of a Laplace distribution right of it, min and max the extremes.
With h the outputs of a net and B = tanh(a h), a = √(epoch + 1) for epochs counted from 0, a step minimises

    J = 2 |cos(B_I, B_T) − μS|² − mean_i cos(B_I,i, B_T,i) + γ (|cos(B_I, B_I) − μS|² + |cos(B_T, B_T) − μS|²),

|·|² a mean over m × m, μS a constant. An epoch is one pass; each step trains both nets. A code is sign(h). No label
is used. `α, β, λ, μ, γ` are `alpha, beta, lamb, mu, intra`; `k_l, k_r, L₁, L₂` are `k_left, k_right, l1, l2`. On clip
art v2 (32 bits, 30 epochs, validation MAP; chance .156) the paper's point scores .333, the default .355.

Differences from the paper and from the authors' code (KaiserLew/JDSH @caa8224):

1. M, σ_l, σ_r, min and max are estimated before the first epoch, always, from the off-diagonal entries of S over one
   pass in batches. The code has them as constants of its two datasets and AlexNet's features (MIRFlickr-25K: −.49,
   .019, .088, −.52, .68), which mean nothing for others. How the authors found them is unverified; the recipe is that
   of a public port (comrados/jdsh @f7fe79d) and agrees with the constants. M is the centre of the fullest of 400 bins.
2. There AlexNet is frozen up to fc7 but in training mode, so its dropout is in F_I and in what the hash layer sees.
   Here features are those of evaluation mode, of any network; our default adds a hidden layer under the hash layer.
3. There images are flipped and cropped at random; stored features are of one view.
4. The code computes both inter-modal terms; S is symmetric, so they are equal, and one is taken twice.
5. The code changes the left entries first and then looks for right ones in the result; here both are looked for in S.
6. A last, shorter batch is trained on; the code drops it.
7. sign(0) = +1; the released codes leave 0.
8. The optimizer is an option. The paper's point is SGD with the code's values for MIRFlickr-25K; for NUS-WIDE it has
   α .4, β .3, λ .3, L₁ .2. That they are the paper's own is unverified.
9. The default values are ours: Adam, a larger μ, and as much weight on texts as on images. With λ far above α + β the
   mean of S is above 0 and all codes become one (λ .8, α = β = .3, μ 6: MAP at chance).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cmh.config import param
from cmh.interfaces import Batch, Batches, Setup, State
from cmh.losses import cosines, reconstruction
from cmh.nets.distribution import distribution
from cmh.nets.pair import Pair
from cmh.nets.towers import mlp
from cmh.seeding import derive
from cmh.training import train

TITLE = "Joint-modal Distribution-based Similarity Hashing"
YEAR = 2020
KIND = "unsupervised"
LABELS = False
SOURCE = "DOI 10.1145/3397271.3401086"


@dataclass(frozen=True)
class Config:
    """Hyperparameters of JDSH."""

    alpha: float = param(0.3, "weight α of the image similarity in S", low=0, high=10, paper=0.5)
    beta: float = param(0.3, "weight β of the text similarity in S", low=0, high=10, paper=0.1)
    lamb: float = param(0.4, "weight λ of the fused similarity Q in S", low=0, high=10)
    l1: float = param(0.1, "DSDW: how much dissimilar pairs (below the left threshold) are pushed", low=0, high=10)
    l2: float = param(0.2, "DSDW: how much similar pairs (above the right threshold) are pushed", low=0, high=10)
    k_left: float = param(2.0, "DSDW: left threshold, in scales of the left half below the mode", low=0, high=100)
    k_right: float = param(4.0, "DSDW: right threshold, in scales of the right half above the mode", low=0, high=100)
    mu: float = param(6.0, "factor μ on S", above=0, high=100, paper=1.4)
    intra: float = param(0.1, "weight of the terms within a modality", low=0, high=1e4)
    optimizer: str = param("adam", "how the nets are trained", choices=["adam", "sgd"], paper="sgd")
    lr_image: float = param(3e-4, "learning rate of the image net", above=0, high=10, paper=0.01)
    lr_text: float = param(1e-3, "learning rate of the text net", above=0, high=10, paper=0.01)
    momentum: float = param(0.9, "momentum (sgd)", low=0, below=1)
    weight_decay: float = param(1e-4, "weight decay on weights and biases", low=0, high=1, paper=5e-4)
    batch_size: int = param(64, "items a step", low=1, high=65536, paper=32)
    hidden_image: int = param(1024, "hidden units of the image net; 0: hash layer only", low=0, high=65536, paper=0)
    hidden_text: int = param(1024, "hidden units of the text net; 0: hash layer only", low=0, high=65536, paper=4096)


class Method:
    """JDSH as the trainer drives it. `shape` describes how the entries of S are distributed in the training set."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config, self.setup = config, setup
        image = mlp(setup.image_dim, config.hidden_image, setup.bits)
        text = mlp(setup.text_dim, config.hidden_text, setup.bits)
        self.pair = Pair(setup, config, image, text)
        self.encode_image, self.encode_text = self.pair.encode_image, self.pair.encode_text
        self.shape = distribution(self._blocks, config.alpha + config.beta + config.lamb)

    def _blocks(self) -> Iterator[Tensor]:
        """S for all training items, in batches of an order of its own."""
        draw = torch.Generator().manual_seed(derive(self.setup.seed, "distribution"))
        order = torch.randperm(self.setup.n_train, generator=draw)
        for rows in torch.split(order, max(self.config.batch_size, 2)):
            image, text = (of[rows].to(self.setup.device, torch.float32) for of in (self.setup.image, self.setup.text))
            yield joint_similarity(image, text, self.config)

    def epoch(self, batches: Batches) -> dict[str, float]:
        """One pass that trains both nets. Returns the means of J and its terms over the steps."""
        return self.pair.one_pass(batches, self._loss)

    def _loss(self, batch: Batch, image: Tensor, text: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        a = (self.pair.n_epochs + 1) ** 0.5
        S = reweighted(joint_similarity(batch.features, batch.text_features, self.config), self.shape, self.config)
        return step_loss(torch.tanh(a * image), torch.tanh(a * text), self.config.mu * S, intra=self.config.intra)

    def state(self) -> State:
        """Everything that the next epoch depends on."""
        return {**self.pair.state(), "shape": self.shape}


def joint_similarity(image: Tensor, text: Tensor, config: Config) -> Tensor:
    """S of a batch before DSDW, `(m, m)`, from fixed image features `(m, d_i)` and bags of words `(m, d_t)`."""
    S_image, S_text = 2 * cosines(image, image) - 1, 2 * cosines(text, text) - 1
    Q = cosines(S_image, S_text)
    return config.alpha * S_image + config.beta * S_text + config.lamb * (Q + Q.T) / 2


def reweighted(similarity: Tensor, shape: Mapping[str, Tensor], config: Config) -> Tensor:
    """DSDW: entries of S far from the mode grow, the more the farther they are."""
    left = shape["mode"] - config.k_left * shape["scale_left"]
    right = shape["mode"] + config.k_right * shape["scale_right"]
    factor = torch.where(similarity < left, config.l1 * torch.exp(shape["low"] - similarity), 0)
    factor = torch.where(similarity > right, config.l2 * torch.exp(similarity - shape["high"]), factor)
    return similarity * (1 + factor)


def step_loss(B_image: Tensor, B_text: Tensor, S: Tensor, *, intra: float) -> tuple[Tensor, dict[str, Tensor]]:
    """J of a batch from both nets' B `(m, bits)` and a symmetric S, and its terms without their weights."""
    between = reconstruction(B_image, B_text, S)
    image = reconstruction(B_image, B_image, S)
    text = reconstruction(B_text, B_text, S)
    pairs = (normalize(B_image) * normalize(B_text)).sum(1).mean()
    terms = {"image_text": between, "pairs": pairs, "image_image": image, "text_text": text}
    return 2 * between - pairs + intra * (image + text), {name: term.detach() for name, term in terms.items()}


def trainable(config: dict[str, object]) -> None:
    """Train JDSH with a flat mapping of hyperparameters and run settings, alone or under Ray Tune."""
    train(__name__, config)
