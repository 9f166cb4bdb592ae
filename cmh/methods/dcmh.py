"""DCMH: Jiang and Li, "Deep Cross-Modal Hashing", CVPR 2017, arXiv:1602.02255.

With F, G ∈ R^{N×K} the outputs of the image and the text net for the N training items, S_ij = 1 where two items share a
label (else 0), and B ∈ {−1, +1}^{N×K}, DCMH minimises

    J = Σ_ij [ log(1 + e^θ_ij) − S_ij·θ_ij ] + γ (|B − F|² + |B − G|²) + η (|Fᵀ1|² + |Gᵀ1|²),   θ = ½ F Gᵀ.

An epoch is three alternating steps: a pass over the items that trains the image net against the stored G, a pass that
trains the text net against the stored F, and the closed form B = sign(F + G). Each batch step divides its share of J by
N·b. `γ` is `gamma`, `η` is `eta`; F, G and B have their own names.

Differences from the paper and from the authors' code (jiangqy/DCMH-CVPR2017 @67d0e84, TensorFlow unless said):

1. log(1 + e^θ) is computed in a form that does not overflow for θ > 88: the same value.
2. A pass visits every item once. The released loop draws ⌊N/b⌋ batches independently and sees 63 % of the items.
3. The paper fine-tunes CNN-F under the hash layer. On frozen features the hash layer is all that is left of its image
   net (`hidden_image: 0`, the paper's point here); our default adds one hidden layer.
4. The column sums of F and G in the balance term are kept as running sums (same value, O(K) a step).
5. sign(0) = +1; the released codes leave 0.
6. The optimizer, the other schedules and weight decay are options. The paper's point is plain SGD with the learning
   rates falling linearly from 10^−1.5 to 10^−6 over the run (TensorFlow code). The authors' MATLAB code instead falls
   logarithmically to 10^−3 (`schedule: log`, `lr_end: 0.0316`), decays weights by 5e-4, trains the text net first,
   centres the texts, and starts F, G and B at 0.
7. The default values are ours: Adam with a higher learning rate for texts (they have few words), and hardly any balance
   term. With η = 1 the nets barely move in 30 epochs: the term grows with N², its pull with N·b.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from cmh.config import param
from cmh.interfaces import Batch, Batches, Setup, State
from cmh.losses import Means, similar, sum_nll
from cmh.nets.buffers import Buffers
from cmh.nets.pair import Pair
from cmh.nets.towers import mlp
from cmh.training import train

TITLE = "Deep Cross-Modal Hashing"
YEAR = 2017
KIND = "supervised"
LABELS = True
SOURCE = "arXiv:1602.02255"


@dataclass(frozen=True)
class Config:
    """Hyperparameters of DCMH."""

    gamma: float = param(1.0, "weight γ of the quantisation term |B − F|²", low=0, high=1e4)
    eta: float = param(1e-6, "weight η of the bit balance term |Fᵀ1|²", low=0, high=1e4, paper=1.0)
    optimizer: str = param("adam", "how the nets are trained", choices=["adam", "sgd"], paper="sgd")
    lr_image: float = param(5e-4, "learning rate of the image net at the start", above=0, high=10, paper=10**-1.5)
    lr_text: float = param(0.01, "learning rate of the text net at the start", above=0, high=10, paper=10**-1.5)
    schedule: str = param(
        "linear",
        "how learning rates fall: straight, or by equal factors (log), to lr_end over the run, or by lr_decay an epoch",
        choices=["linear", "log", "exponential"],
    )
    lr_end: float = param(
        0.01, "last learning rate as a share of the first (linear, log)", above=0, high=1, paper=10**-4.5
    )
    lr_decay: float = param(0.98, "factor on the learning rate each epoch (exponential)", above=0, high=1)
    momentum: float = param(0.0, "momentum (sgd)", low=0, below=1)
    weight_decay: float = param(0.0, "weight decay on weights and biases", low=0, high=1)
    batch_size: int = param(128, "items a step", low=1, high=65536)
    hidden_image: int = param(1024, "hidden units of the image net; 0: hash layer only", low=0, high=65536, paper=0)
    hidden_text: int = param(1024, "hidden units of the text net; 0: hash layer only", low=0, high=65536, paper=8192)
    weight_std: float = param(0.01, "standard deviation of the first weights and biases", above=0, high=1)


class Method:
    """DCMH as the trainer drives it. Buffers F, G and B are `(N, bits)`."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config, self.labels = config, setup.known_labels
        image = mlp(setup.image_dim, config.hidden_image, setup.bits, weight_std=config.weight_std)
        text = mlp(setup.text_dim, config.hidden_text, setup.bits, weight_std=config.weight_std)
        self.pair, self.buffers = Pair(setup, config, image, text), Buffers(setup)
        self.encode_image, self.encode_text = self.pair.encode_image, self.pair.encode_text

    def epoch(self, batches: Batches) -> dict[str, float]:
        """Image pass, text pass, B. Returns J per pair as the steps saw it, and its terms."""
        terms = self.buffers.alternate(self._pass, batches)
        self.pair.end_epoch()
        return terms

    def _pass(self, name: str, other: str, batches: Iterator[Batch]) -> dict[str, float]:
        others, means = self.buffers.outputs[other], Means()
        for index, codes, rest in self.buffers.store(name, self.pair.outputs_of(name, batches)):
            B, S = self.buffers.B[index], similar(self.labels[index], self.labels)
            loss, terms = step_loss(codes, others, B, S, rest, gamma=self.config.gamma, eta=self.config.eta)
            self.pair.step(loss, name)
            means.add({"loss": loss, **terms})
        return means.values()

    def state(self) -> State:
        """Everything that the next epoch depends on."""
        return {**self.pair.state(), "buffers": self.buffers.state()}


def step_loss(
    codes: Tensor, others: Tensor, B: Tensor, similar: Tensor, rest: Tensor, *, gamma: float, eta: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """One batch's share of J, divided by N·b, and its three terms (sums, not divided).

    Parameters
    ----------
    codes: outputs of the net being trained `(b, K)`, with gradient. others: the other modality's buffer `(N, K)`.
    B: `(b, K)`. similar: S for the batch against all items `(b, N)`. rest: column sum `(K,)` of the own buffer
    without the batch's rows.
    """
    nll = sum_nll(codes, others, similar, 0.5)
    quantisation = (B - codes).square().sum()
    balance = (rest + codes.sum(0)).square().sum()
    total = (nll + gamma * quantisation + eta * balance) / similar.numel()
    parts = {"nll": nll.detach(), "quantisation": quantisation.detach(), "balance": balance.detach()}
    return total, parts


def trainable(config: dict[str, object]) -> None:
    """Train DCMH with a flat mapping of hyperparameters and run settings, alone or under Ray Tune."""
    train(__name__, config)
