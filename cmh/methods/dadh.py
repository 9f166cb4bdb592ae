"""DADH: Bai, Zeng, Ma, Zhang and Chen, "Deep Adversarial Discrete Hashing for Cross-Modal Retrieval", ICMR 2020,
DOI 10.1145/3372278.3390711.

With h^x, h^y ∈ (−1, 1)^{b×K} the codes of a batch's images and texts, f^x, f^y their features, B ∈ {−1, +1}^{N×K} and
L ∈ {0, 1}^{N×C} the labels, the nets minimise for each batch (sums, but means over D)

    J = α (tri(h^x, h^y) + tri(h^y, h^x)) + (β + 0.1) (|B − h^x|² + |B − h^y|²)
        + γ (−mean log σ(D_f(f^y)) − mean log σ(D_h(V f^y))),

    tri(s, t) = Σ_{a,p,n} 10 s² w_ap·max(0, d_ap − d_an + margin),  w_ap = (2^{r_ap} − 1)/Z_a,  s = βγ + 0.1,

over anchors a of s, items p of t that share r_ap > 0 labels with a and n that share none; d = 1 − cos, Z_a is the
best DCG of the anchor in the batch. In the last term only the text's hash layer V gets a gradient. The discriminators
D_f (on features) and D_h (on codes) call images real; each minimises
γ(−mean log σ(D(image)) − mean log(1 − σ(D(text)))) + 10·gradient penalty.

An epoch is one pass (a step of D_f, of D_h, then of the nets through both new ones) and then, H^* the codes of the
pass, P = (LᵀL + λI)⁻¹ Lᵀ B, B = sign(L P + ½μ(H^x + H^y)). α, β, γ, λ, μ are `alpha`, `beta`, `gamma`, `ridge`, `mu`.

Differences from the paper and from the authors' code (Zjut-MultimediaPlus/DADH @5869b81):

1. Only the code was read: the paper's own equations and values are unverified.
2. The factors 10 and s of the triplets and the 0.1 beside β are the code's. There the weights w are on only where α
   is exactly 10; otherwise a triplet counts s times. Here `weighted` says which, whatever α is.
3. The code's weight subtracts the gain of the negative, which is 0. An anchor without labels has no triplets (there
   0/0).
4. Triplets are summed without the b × b × b block (`losses.cosine_triplets`); log σ does not overflow.
5. The code runs the text net a second time for D_h, which moves the statistics of batch normalisation twice a step.
   Here the hash layer is run again on the same features, without their gradient.
6. With μ = 1e-5 the codes hardly touch B: it follows from L and its random start, and from the first epoch on items
   with the same labels share a row. That is the published point, and ours.
7. A batch of one item passes batch normalisation with its running statistics: one item has no variance.
8. `hidden` is the width of the first of three hidden layers; the next have a half and a quarter. The first weights of
   the discriminators are PyTorch's own, not He's. sign(0) = +1; the code would leave 0.
9. The code keeps the epoch with the best mean MAP on the test queries; here validation chooses.
10. The learning rate's floor of 1e-6 is left out: 300 epochs do not reach it.
11. The image net stands on frozen features, as in the code. The default values are ours: narrower nets with higher
    learning rates. On the built-in clip art (32 bits, 30 epochs) validation MAP is .74, with the code's values .73.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from cmh.config import param
from cmh.interfaces import Batches, Setup, State
from cmh.losses import Means, cosine_triplets, gains, label_codes, sign, similar, weighted
from cmh.nets.critics import adversaries, train_critic
from cmh.nets.draws import normals
from cmh.nets.team import MODALITIES
from cmh.nets.towers import layers, mlp
from cmh.training import train

TITLE = "Deep Adversarial Discrete Hashing"
YEAR = 2020
KIND = "supervised"
LABELS = True
SOURCE = "DOI 10.1145/3372278.3390711"


@dataclass(frozen=True)
class Config:
    """Hyperparameters of DADH."""

    alpha: float = param(10.0, "weight α of the triplets", low=0, high=1e4)
    beta: float = param(1.0, "weight β of the quantisation term |B − h|²", low=0, high=1e3)
    gamma: float = param(1.0, "weight γ of the adversarial terms", low=0, high=1e3)
    ridge: float = param(1.0, "regularisation λ of the regression of B on the labels", above=0, high=1e6)
    mu: float = param(1e-5, "weight μ of the codes in the update of B", low=0, high=1e4)
    margin: float = param(0.4, "margin of the triplets, in cosine distance", low=0, high=2)
    weighted: bool = param(True, "triplets weigh as much as the DCG gain of their positive")
    lr_image: float = param(1e-3, "learning rate of the image net", above=0, high=1, paper=5e-5)
    lr_text: float = param(1e-3, "learning rate of the text net and of both hash layers", above=0, high=1, paper=5e-5)
    lr_critic: float = param(1e-4, "learning rate of the discriminators", above=0, high=1, paper=5e-5)
    schedule: str = param(
        "linear",
        "how learning rates of the nets fall: straight to lr_end, or by lr_decay after epochs 1, 101, 201, …",
        choices=["linear", "early"],
        paper="early",
    )
    lr_end: float = param(0.01, "last learning rate as a share of the first (linear)", above=0, high=1)
    lr_decay: float = param(0.8, "factor on the learning rate (early)", above=0, high=1)
    weight_decay: float = param(5e-4, "weight decay of the nets", low=0, high=1)
    batch_size: int = param(128, "items a step", low=1, high=4096)
    hidden: int = param(1024, "units of the first hidden layer", low=8, high=65536, paper=8192)
    hidden_critic: int = param(512, "hidden units of the discriminator of codes", low=1, high=65536)
    dropout: float = param(0.0, "dropout after each hidden layer; the code has 0.5 on NUS-WIDE", low=0, below=1)


class Method:
    """DADH as the trainer drives it. `B` and `H` (the sum of both codes of each item) are `(N, bits)`."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config, self.setup, self.labels = config, setup, setup.known_labels
        sizes, width = [config.hidden, config.hidden // 2, config.hidden // 4], config.hidden // 4
        image, text = (
            layers(n_in, sizes, normalised=True, dropout=config.dropout) for n_in in (setup.image_dim, setup.text_dim)
        )
        nets = {"image": setup.image_net(image), "text": setup.text_net(text)}
        for name in MODALITIES:
            nets[f"{name}_hash"] = nn.Sequential(nn.Linear(width, setup.bits), nn.Tanh())
        nets["feature_critic"] = mlp(width, [width // 2, width // 4], 1)
        nets["hash_critic"] = mlp(setup.bits, config.hidden_critic, 1)
        self.team = adversaries(setup, config, nets, ("feature_critic", "hash_critic"), every=100)
        (B,) = normals(setup, "B", (setup.n_train, setup.bits))
        self.B, self.H = sign(B), torch.zeros_like(B)

    def epoch(self, batches: Batches) -> dict[str, float]:
        """One pass, and B. Returns J of a step, its terms and the discriminators' losses."""
        nets, means = self.team.nets, Means()
        for batch in batches():
            self.team.train(len(batch.index) > 1)  # batch normalisation has no variance of one item
            features = {name: nets[name](getattr(batch, name)) for name in MODALITIES}
            codes = {name: nets[f"{name}_hash"](f) for name, f in features.items()}
            self.H[batch.index] = codes["image"].detach() + codes["text"].detach()
            critics = {}
            for name, (real, fake) in {"feature_critic": features.values(), "hash_critic": codes.values()}.items():
                critics[name] = train_critic(self.team, name, real, fake, kind="logistic", weight=self.config.gamma)
            loss, terms = step_loss(
                codes["image"],
                codes["text"],
                self.B[batch.index],
                nets["feature_critic"](features["text"]),
                nets["hash_critic"](nets["text_hash"](features["text"].detach())),
                self.labels[batch.index],
                self.config,
            )
            self.team.step(loss, *MODALITIES)
            means.add({"loss": loss, **terms, **critics})
        self.B.copy_(updated_codes(self.B, self.H, self.labels, ridge=self.config.ridge, mu=self.config.mu)[1])
        self.team.end_epoch()
        return means.values()

    def encode_image(self, features: Tensor) -> Tensor:
        """Real-valued outputs `(n, bits)`; their signs are the codes."""
        return self.team.encode(features, "image", "image_hash")

    def encode_text(self, features: Tensor) -> Tensor:
        """Real-valued outputs `(n, bits)`; their signs are the codes."""
        return self.team.encode(features, "text", "text_hash")

    def state(self) -> State:
        """Everything that the next epoch depends on. (`H` is written anew in each.)"""
        return {**self.team.state(), "B": self.B}


def step_loss(
    image: Tensor,
    text: Tensor,
    B: Tensor,
    text_as_image: Tensor,
    code_as_image: Tensor,
    labels: Tensor,
    config: Config,
) -> tuple[Tensor, dict[str, Tensor]]:
    """J of one batch, and its terms without their weights α, β + 0.1 and γ.

    Parameters
    ----------
    image, text, B: codes `(b, K)`. text_as_image: D_f on the texts' features. code_as_image: D_h on the texts' codes,
    whose gradient ends at the hash layer. labels: `(b, C)`.
    """
    S, scale = similar(labels, labels), config.beta * config.gamma + 0.1
    counts = 10 * scale**2 * gains(labels) if config.weighted else torch.full_like(S, scale)
    terms = {
        "triplets_image": cosine_triplets(image, text, S, margin=config.margin, weights=counts),
        "triplets_text": cosine_triplets(text, image, S, margin=config.margin, weights=counts),
        "quantisation_image": (B - image).square().sum(),
        "quantisation_text": (B - text).square().sum(),
        "adversary_feature": softplus(-text_as_image).mean(),
        "adversary_hash": softplus(-code_as_image).mean(),
    }
    factors = (config.alpha, config.alpha, config.beta + 0.1, config.beta + 0.1, config.gamma, config.gamma)
    return weighted(terms, dict(zip(terms, factors, strict=True)))


def updated_codes(B: Tensor, H: Tensor, labels: Tensor, *, ridge: float, mu: float) -> tuple[Tensor, Tensor]:
    """P = (LᵀL + λI)⁻¹ LᵀB `(C, K)`, and the new B = sign(L P + ½μ H) with H = H^x + H^y `(N, K)`."""
    P = label_codes(labels, B, ridge=ridge)
    return P, sign(labels @ P + 0.5 * mu * H)


def trainable(config: dict[str, object]) -> None:
    """Train DADH with a flat mapping of hyperparameters and run settings, alone or under Ray Tune."""
    train(__name__, config)
