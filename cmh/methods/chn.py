"""CHN: Cao, Long, Wang and Yu, "Correlation Hashing Network for Efficient Cross-Modal Retrieval", BMVC 2017,
arXiv:1602.06697.

With u_i and v_j the outputs of the image and the text net, s_ij = +1 where the two items share a label (else −1), and
one margin 0 < δ ≤ 1 for both terms, CHN minimises L + λQ:

    L = Σ_ij max(0, δ − s_ij cos(u_i, v_j))²
    Q = Σ_i max(0, δ − ⟨|u_i|, 1⟩ / (|u_i| √K)) + Σ_j max(0, δ − ⟨|v_j|, 1⟩ / (|v_j| √K))

The first asks similar pairs for a cosine of at least δ and others for at most −δ, the second asks each output to lie
near a corner of the cube (`evenness` in `cmh.losses` is its cosine). `δ` is `delta`, `λ` is `lambda_quantisation`. An
epoch is one pass; each batch of b pairs gives b × b cosines and one joint step of both nets.

No authors' code is known. The formulas are those of a public reading note (WendellGul/wendellgul.github.io @96329e0);
what the note leaves out comes from the same group's CDQ (caoyue10/aaai17-cdq @57e9cf7) and is unverified for CHN.

Differences from the paper:

1. L is a mean over the b × b pairs and Q a mean over items, so λ is relative to those. How the paper reduces its sums
   over a batch, and that one λ stands before all of Q: unverified.
2. The paper's δ and λ are unverified. .8 and .01 (the paper's point here) are those of the only public port,
   WangGodder/deep-cross-modal-hashing @9784397.
3. That port is not followed otherwise: it squares before the max (which pulls sure pairs back to δ), takes ⟨u, 1⟩ for
   ⟨|u|, 1⟩ and 1 for √K (which pulls all bits to +1), and alternates with buffers of all N items.
4. Learning rates (image .02, text .2, × .5 every 15 epochs), momentum .9, batches of 64 pairs, 30 epochs, 4096 hidden
   units and dropout .5 for texts, tanh outputs: CDQ's, unverified for CHN.
5. The paper fine-tunes AlexNet. On frozen features its hash layer is all that is left (`hidden_image: 0`).
6. `class_weights: balanced` multiplies similar pairs by (pairs / similar pairs) of the batch, as the group's later Deep
   Cauchy Hashing does; the paper has no weights (`none`). Where few pairs are similar (.16 on the clip art) unweighted
   training spends bits on one constant for images and its opposite for texts: 16 of 32 after 8 epochs, 2 with weights.
7. At one bit every cosine is ±1 and has no gradient, so nothing is learnt.
8. The default values are ours: those weights, Adam, and a hidden layer for images. On the clip art v2 (32 bits, 30
   epochs, validation MAP, chance .156) they give .680, the paper's point .317.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import relu

from cmh.config import param
from cmh.interfaces import Batch, Batches, Setup
from cmh.losses import cosines, evenness, pair_weights, similar
from cmh.nets.pair import Pair
from cmh.nets.towers import mlp
from cmh.training import train

TITLE = "Correlation Hashing Network"
YEAR = 2017
KIND = "supervised"
LABELS = True
SOURCE = "arXiv:1602.06697"


@dataclass(frozen=True)
class Config:
    """Hyperparameters of CHN."""

    delta: float = param(0.8, "margin δ of both terms", above=0, high=1)
    lambda_quantisation: float = param(0.01, "weight λ of the quantisation term", low=0, high=1e4)
    class_weights: str = param(
        "balanced",
        "weight of similar pairs: pairs / similar pairs of the batch, or 1",
        choices=["balanced", "none"],
        paper="none",
    )
    optimizer: str = param("adam", "how the nets are trained", choices=["adam", "sgd"], paper="sgd")
    lr_image: float = param(1e-3, "learning rate of the image net at the start", above=0, high=10, paper=0.02)
    lr_text: float = param(5e-3, "learning rate of the text net at the start", above=0, high=10, paper=0.2)
    schedule: str = param(
        "linear",
        "how learning rates fall: straight to lr_end over the run, or by lr_decay every decay_every epochs (step)",
        choices=["linear", "step"],
        paper="step",
    )
    lr_end: float = param(0.01, "last learning rate as a share of the first (linear)", above=0, high=1)
    lr_decay: float = param(0.5, "factor on the learning rate (step)", above=0, high=1)
    decay_every: int = param(15, "epochs between two such factors (step)", low=1, high=1_000_000)
    momentum: float = param(0.9, "momentum (sgd)", low=0, below=1)
    weight_decay: float = param(0.0, "weight decay on weights and biases", low=0, high=1)
    batch_size: int = param(64, "pairs a step", low=1, high=65536)
    hidden_image: int = param(1024, "hidden units of the image net; 0: hash layer only", low=0, high=65536, paper=0)
    hidden_text: int = param(1024, "hidden units of the text net; 0: hash layer only", low=0, high=65536, paper=4096)
    dropout: float = param(0.5, "share of hidden units dropped in training", low=0, below=1)


class Method:
    """CHN as the trainer drives it."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config, self.labels = config, setup.known_labels
        image, text = (
            nn.Sequential(mlp(dim, hidden, setup.bits, dropout=config.dropout), nn.Tanh())
            for dim, hidden in ((setup.image_dim, config.hidden_image), (setup.text_dim, config.hidden_text))
        )
        self.pair = Pair(setup, config, image, text)
        self.encode_image, self.encode_text, self.state = self.pair.encode_image, self.pair.encode_text, self.pair.state

    def epoch(self, batches: Batches) -> dict[str, float]:
        """One pass over the pairs. Returns the mean loss of a step and its terms."""
        return self.pair.one_pass(batches, self._loss)

    def _loss(self, batch: Batch, u: Tensor, v: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        labels = self.labels[batch.index]
        return step_loss(u, v, similar(labels, labels), self.config)


def step_loss(u: Tensor, v: Tensor, S: Tensor, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    """L + λQ of a batch, and its two terms; outputs u `(b, K)` and v `(m, K)`, S 0/1 `(b, m)`."""
    costs = relu(config.delta - agreement(u, v, S)).square()
    correlation = (pair_weights(S) * costs if config.class_weights == "balanced" else costs).mean()
    quantised = quantisation(u, delta=config.delta) + quantisation(v, delta=config.delta)
    terms = {"correlation": correlation.detach(), "quantisation": quantised.detach()}
    return correlation + config.lambda_quantisation * quantised, terms


def agreement(u: Tensor, v: Tensor, similar: Tensor) -> Tensor:
    """s_ij cos(u_i, v_j) `(b, m)`, with s = ±1 from `similar`, which is 0/1."""
    return (2 * similar - 1) * cosines(u, v)


def quantisation(codes: Tensor, *, delta: float) -> Tensor:
    """Q of one modality, a mean over items."""
    return relu(delta - evenness(codes)).mean()


def trainable(config: dict[str, object]) -> None:
    """Train CHN with a flat mapping of hyperparameters and run settings, alone or under Ray Tune."""
    train(__name__, config)
