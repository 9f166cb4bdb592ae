"""PRDH: Yang, Deng, Liu W., Liu X., Tao and Gao, "Pairwise Relationship Guided Deep Hashing for Cross-Modal Retrieval",
AAAI 2017, OJS article 10719 (https://doi.org/10.1609/aaai.v31i1.10719).

With U^x, U^y ∈ R^{N×K} the outputs of the image and the text net for the N training items, S_ij = 1 where two items
share a label (else 0), l(θ, S) = log(1 + e^θ) − S·θ and B ∈ {−1, +1}^{N×K}, PRDH minimises

    J = J1 + J2 + J3 + λ J4 + γ R
    J1 = Σ_ij l(½ U^x_i·U^y_j, S_ij)                                             across modalities (`inter`)
    J2 = Σ_ij l(½ U^x_i·U^x_j, S_ij),   J3 = Σ_ij l(½ U^y_i·U^y_j, S_ij)          within one (`intra`)
    J4 = Σ_{u=x,y} ½ (|C^u|² − |diag C^u|²),   C = covariance of the bits over a mini-batch of real-valued outputs
    R  = |B − U^x|² + |B − U^y|² + |U^xᵀ1|² + |U^yᵀ1|²

An epoch is as DCMH's: a pass over the items that trains the image net (J1, J2 and its shares of J4 and R), a pass that
trains the text net, and B = sign(γ(U^x + U^y)). A step pairs its b items with all N stored outputs of both modalities,
which are constants (also the item's own). `λ` is `decorrelation`, `γ` is `gamma`. No authors' code is known. The
formulas are taken from a reading note (WendellGul/wendellgul.github.io @6eb7bbb).

Differences from the paper:

1. A step divides J1 to J3 and R by N·b, as DCMH does, and leaves J4 as it is written, with C divided by b. How the
   paper scales J4 against the sums is unverified.
2. λ = γ = 1, b = 128, SGD from 10^−1.5 and 500 epochs in the paper's point are those of a public port
   (WangGodder/deep-cross-modal-hashing @9784397), which took them from DCMH: unverified, as are linear outputs.
3. The learning rate falls linearly to 10^−6 (DCMH's schedule, unverified). The port multiplies it by the difference
   between two rates, 6e-5, each epoch.
4. The port's other faults are not copied: a covariance of means, which is 0, and no J4 in its image step; a
   quantisation term of stored outputs, which has no gradient.
5. The paper fine-tunes CNN-F. On frozen features the hash layer is all that is left of its image net
   (`hidden_image: 0`, the paper's point here); our default adds one hidden layer.
6. The text net has three fully connected layers as in the paper; the sizes of its two hidden ones are unverified, so
   ours stand in the paper's point, too. Weights start at N(0, 0.01²) as DCMH's do (unverified).
7. A pass visits every item once; column sums are kept as running sums; sign(0) = +1.
8. The default values are ours. With γ = 1 the nets hardly move in 30 epochs: R has one weight for quantisation and
   balance, and the balance grows with N² while its pull is divided by N·b. A large λ keeps the outputs small, and small
   steps by the thousand matter more than in DCMH: J2 and J3 cannot call the average pair dissimilar (U Uᵀ is positive
   semidefinite), which takes long outputs where few pairs are similar, as in the clip art (16 %). With batches of 32
   and rates of 5e-4 and 3e-3 it gave .608 on the clip art v2 (32 bits, 30 epochs, validation MAP), but .123 on 6,341
   icons (linear control: .240), and .346 on 612 stamps (.469); today's values give .556 on the clip art v3 (.475) and
   .444 on the stamps. The paper's point gave .189 on the clip art v2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from cmh.config import param
from cmh.interfaces import Batch, Batches, Setup, State
from cmh.losses import Means, mean_nll, similar
from cmh.nets.buffers import Buffers
from cmh.nets.pair import Pair
from cmh.nets.towers import mlp
from cmh.training import train

TITLE = "Pairwise Relationship Guided Deep Hashing for Cross-Modal Retrieval"
YEAR = 2017
KIND = "supervised"
LABELS = True
SOURCE = "DOI 10.1609/aaai.v31i1.10719"


@dataclass(frozen=True)
class Config:
    """Hyperparameters of PRDH."""

    decorrelation: float = param(1e-5, "weight λ of the covariance between bits", low=0, high=1e4, paper=1.0)
    gamma: float = param(1e-6, "weight γ of quantisation and bit balance together", low=0, high=1e4, paper=1.0)
    optimizer: str = param("adam", "how the nets are trained", choices=["adam", "sgd"], paper="sgd")
    lr_image: float = param(3e-4, "learning rate of the image net at the start", above=0, high=10, paper=10**-1.5)
    lr_text: float = param(3e-4, "learning rate of the text net at the start", above=0, high=10, paper=10**-1.5)
    schedule: str = param(
        "linear", "how learning rates fall to lr_end: straight, or by equal factors (log)", choices=["linear", "log"]
    )
    lr_end: float = param(0.01, "last learning rate as a share of the first", above=0, high=1, paper=10**-4.5)
    momentum: float = param(0.0, "momentum (sgd)", low=0, below=1)
    weight_decay: float = param(0.0, "weight decay on weights and biases", low=0, high=1)
    batch_size: int = param(16, "items a step", low=1, high=65536, paper=128)
    hidden_image: int = param(512, "hidden units of the image net; 0: hash layer only", low=0, high=65536, paper=0)
    hidden_text: int = param(512, "units of the text net's first hidden layer; 0: none", low=0, high=65536)
    hidden_text_2: int = param(512, "units of its second hidden layer; 0: none", low=0, high=65536)
    weight_std: float = param(
        0.0, "standard deviation of the first weights and biases; 0: PyTorch's own start", low=0, high=1, paper=0.01
    )


class Method:
    """PRDH as the trainer drives it. Buffers U^x, U^y and B are `(N, bits)`."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config, self.labels = config, setup.known_labels
        image = mlp(setup.image_dim, config.hidden_image, setup.bits, weight_std=config.weight_std)
        text = mlp(setup.text_dim, (config.hidden_text, config.hidden_text_2), setup.bits, weight_std=config.weight_std)
        self.pair, self.buffers = Pair(setup, config, image, text), Buffers(setup)
        self.encode_image, self.encode_text = self.pair.encode_image, self.pair.encode_text

    def epoch(self, batches: Batches) -> dict[str, float]:
        """Image pass, text pass, B. Returns J as the steps saw it, and its terms."""
        terms = self.buffers.alternate(self._pass, batches)
        self.pair.end_epoch()
        return terms

    def _pass(self, name: str, other: str, batches: Iterator[Batch]) -> dict[str, float]:
        own, others, labels, means = self.buffers.outputs[name], self.buffers.outputs[other], self.labels, Means()
        for index, codes, rest in self.buffers.store(name, self.pair.outputs_of(name, batches)):
            terms = step_terms(codes, own, others, self.buffers.B[index], similar(labels[index], labels), rest)
            loss = total(terms, decorrelation=self.config.decorrelation, gamma=self.config.gamma)
            self.pair.step(loss, name)
            means.add({"loss": loss, **terms})
        return means.values()

    def state(self) -> State:
        """Everything that the next epoch depends on."""
        return {**self.pair.state(), "buffers": self.buffers.state()}


def step_terms(codes: Tensor, own: Tensor, others: Tensor, B: Tensor, S: Tensor, rest: Tensor) -> dict[str, Tensor]:
    """One batch's share of J1 + J2 (or J3), J4 and the two halves of R, without weights.

    Parameters
    ----------
    codes: outputs of the net being trained `(b, K)`, with gradient. own, others: the buffers of its modality (the
    batch's rows are `codes` already) and of the other `(N, K)`. B: `(b, K)`. S: of the batch against all items
    `(b, N)`. rest: column sum `(K,)` of the own buffer without the batch's rows.
    """
    return {
        "inter": mean_nll(codes, others, S, 0.5),
        "intra": mean_nll(codes, own, S, 0.5),
        "decorrelation": covariance_penalty(codes),
        "quantisation": (B - codes).square().sum() / S.numel(),
        "balance": (rest + codes.sum(0)).square().sum() / S.numel(),
    }


def total(parts: dict[str, Tensor], *, decorrelation: float, gamma: float) -> Tensor:
    """The terms of one step, weighted with λ and γ."""
    likelihood = parts["inter"] + parts["intra"]
    regularisation = parts["quantisation"] + parts["balance"]
    return likelihood + decorrelation * parts["decorrelation"] + gamma * regularisation


def covariance_penalty(codes: Tensor) -> Tensor:
    """½ (|C|² − |diag C|²): half the squares off the diagonal of C, the covariance of the bits over the batch."""
    centred = codes - codes.mean(0)
    covariance = centred.T @ centred / len(codes)  # (K, K)
    return 0.5 * (covariance - covariance.diag().diag()).square().sum()


def trainable(config: dict[str, object]) -> None:
    """Train PRDH with a flat mapping of hyperparameters and run settings, alone or under Ray Tune."""
    train(__name__, config)
