"""TwDH: Tu, Liu, Hao, Hong and Wang, "Two-Step Discrete Hashing for Cross-Modal Retrieval", TMM 2024,
DOI 10.1109/TMM.2024.3381828.

Two steps. A net gives each of M bits (M = 512) two probabilities, p = (p₀, p₁) end to end in [0, 1]^2M, and is trained
towards a fixed long code: with a centre ±1 for each class, y is the bit by bit majority of the centres of an item's
classes, as pairs (1, 0) and (0, 1). Over the images and the texts of a batch TwDH minimises

    J = ½ Σ_m BCE(p_m, y) + α ½ Σ_m (1 − mean (2 p_m − 1)²) + w (the same two for the short codes q).

The short code of K bits, which is what is stored, comes from a fixed matrix T: q = softmax over pairs of pT. T takes
the long code of an item's classes to the short one, and is found beforehand from labels alone. `M`, `α` and `w` are
`long_bits`, `alpha` and `short`. An epoch is one pass and one joint step of both nets a batch.

Differences from the paper and from the authors' code (kalenforn/clip-based-cross-modal-hash @6d64ae2):

1. The paper's text was not available: formula and values are those of the code.
2. w is 0 in the code, so that nothing in the net is trained for the code that is used; it is an option that is off.
3. Centres are rows of Hadamard matrices as in the code, drawn by the run's seed (the code ships them as pickles, the
   same for all runs). T, which it ships too, is made here: the code descends on BCE, rounding and .001 |T|₁ over the
   training labels; here d of the logits ±½ STEEP · v·d of a bit, v the long code ±1, is what ridge regression gives
   from the training items' long codes to their short ones. On the clip art's training labels (32 bits) all bits come
   out right; 200 steps of Adam down the code's loss, begun evenly in ±1 as there, give 86 %; 100 without |T|₁ 92 %.
4. Where as many centres say + as −, as in half of the bits of an item of two classes, the code takes the bit of a
   random row that it draws anew for each batch (`fresh_ties`). Our default draws one row for the run; T knows that one.
5. The code's head is attention of a token to itself, so two linear layers in a row, then batch norm for images and
   layer norm for texts, a linear layer and ReLU (`head: attention`; a bit whose two logits are negative is ½ and has no
   gradient). Our default is a hidden layer and no second ReLU.
6. The code fine-tunes CLIP ViT-B/32 (learning rate 1e-5) under the heads, on pictures and tokens.
7. The code's BertAdam (no bias correction, decoupled weight decay .2, each tensor's gradient clipped to norm 1, warm-up
   and a cosine) is Adam here, without decay or clipping, with rates that fall straight to a hundredth over the run.
8. The default values are ours. On the clip art v3 (32 bits, 30 epochs, validation MAP, chance .162, ridge .475) they
   give .592, with M 512 .603 at half again the time, the paper's point .521.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy

from cmh.config import param
from cmh.interfaces import Batch, Batches, Setup, State
from cmh.losses import sign, weighted
from cmh.nets.centres import centres, shortening, votes
from cmh.nets.draws import normals
from cmh.nets.optimizers import Falling
from cmh.nets.pair import Pair
from cmh.nets.towers import mlp
from cmh.nets.two_way import Select, two_way
from cmh.training import train

TITLE = "Two-Step Discrete Hashing for Cross-Modal Retrieval"
YEAR = 2024
KIND = "supervised"
LABELS = True
SOURCE = "DOI 10.1109/TMM.2024.3381828"
STEEP = 4.0  # difference of the logits of a bit that T is sure of


@dataclass(frozen=True)
class Config:
    """Hyperparameters of TwDH."""

    long_bits: int = param(256, "bits M of the long code", low=2, high=4096, paper=512)
    alpha: float = param(0.5, "weight α of the rounding of probabilities", low=0, high=1e3)
    short: float = param(0.0, "weight w of the two terms on short codes", low=0, high=1e3)
    fresh_ties: bool = param(False, "draw the row for even votes anew each step", paper=True)
    head: str = param("mlp", "a hidden layer, or the code's head", choices=["mlp", "attention"], paper="attention")
    lr_image: float = param(3e-4, "learning rate of the image net at the start", above=0, high=10, paper=1e-3)
    lr_text: float = param(2e-3, "learning rate of the text net at the start", above=0, high=10, paper=1e-3)
    batch_size: int = param(64, "items a step", low=1, high=65536, paper=128)
    hidden_image: int = param(1024, "hidden units of the image net (head: mlp); 0: none", low=0, high=65536)
    hidden_text: int = param(1024, "hidden units of the text net (head: mlp); 0: none", low=0, high=65536)


class Method:
    """TwDH as the trainer drives it. `centres` are `(c, M)` and `(c, K)`, `ties` `(M,)` and `(K,)`, `transform` T."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config, self.labels = config, setup.known_labels
        sizes = (config.long_bits, setup.bits)
        self.centres = [centres(setup, n, f"centres {n}") for n in sizes]
        self.ties = [sign(row) for row in normals(setup, "ties", *((n,) for n in sizes))]
        self.transform = shortening(*self._codes(self.labels, self.ties), steep=STEEP)
        image = head(setup.image_dim, config.hidden_image, config, nn.BatchNorm1d(setup.image_dim))
        text = head(setup.text_dim, config.hidden_text, config, nn.LayerNorm(setup.text_dim))
        self.pair = Pair(setup, config, image, text, falling=Falling("linear", end=0.01))

    def _codes(self, labels: Tensor, ties: list[Tensor]) -> list[Tensor]:
        return [votes(labels, *of) for of in zip(self.centres, ties, strict=True)]

    def epoch(self, batches: Batches) -> dict[str, float]:
        """One pass. Returns the means of J and its terms."""
        return self.pair.one_pass(batches, self._loss)

    def _loss(self, batch: Batch, f: Tensor, g: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        ties = [sign(torch.rand_like(row) - 0.5) for row in self.ties] if self.config.fresh_ties else self.ties
        y, y_short = map(two_way, self._codes(self.labels[batch.index], ties))
        return step_loss(two_way(f), two_way(g), y, y_short, self.transform, self.config)

    def encode_image(self, features: Tensor) -> Tensor:
        """p₁ − p₀ of the short code `(n, K)`; their signs are the codes."""
        return shortened(two_way(self.pair.encode_image(features)), self.transform)

    def encode_text(self, features: Tensor) -> Tensor:
        """The same of texts."""
        return shortened(two_way(self.pair.encode_text(features)), self.transform)

    def state(self) -> State:
        """Both nets, and T."""
        return {**self.pair.state(), "transform": self.transform}


def head(n_in: int, hidden: int, config: Config, norm: nn.Module) -> nn.Sequential:
    """Features `(n, n_in)` to p₁ − p₀ of the long code `(n, M)`."""
    if config.head == "mlp":
        return nn.Sequential(mlp(n_in, hidden, 2 * config.long_bits), Select())
    last = nn.Linear(n_in, 2 * config.long_bits)
    nn.init.kaiming_uniform_(last.weight, mode="fan_out")
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(n_in, n_in), nn.Linear(n_in, n_in), norm, last, nn.ReLU(), Select())


def shortened(p: Tensor, transform: Tensor) -> Tensor:
    """p₁ − p₀ of the short code `(b, K)` from the probabilities of the long one `(b, 2M)`."""
    outputs: Tensor = Select()(p @ transform)
    return outputs


def step_loss(
    image: Tensor, text: Tensor, y: Tensor, y_short: Tensor, transform: Tensor, config: Config
) -> tuple[Tensor, dict[str, Tensor]]:
    """J of a batch and its terms without weights: p of both modalities and their target `(b, 2M)`, the target of short
    codes `(b, 2K)`, T."""
    terms = {}
    for name, p in (("image", image), ("text", text)):
        terms[f"likelihood_{name}"] = binary_cross_entropy(p, y)
        terms[f"rounding_{name}"] = 1 - (2 * p - 1).square().mean()
        if config.short:
            q = two_way(shortened(p, transform))
            terms[f"short_{name}"] = binary_cross_entropy(q, y_short) + 1 - (2 * q - 1).square().mean()
    weights = {"likelihood": 0.5, "rounding": config.alpha / 2, "short": config.short / 2}
    return weighted(terms, {name: weights[name.split("_")[0]] for name in terms})


def trainable(config: dict[str, object]) -> None:
    """Train TwDH with a flat mapping of hyperparameters and run settings, alone or under Ray Tune."""
    train(__name__, config)
