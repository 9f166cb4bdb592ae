"""CPAH: Xie, Deng, Li, Liu and Tao, "Multi-Task Consistency-Preserving Adversarial Hashing for Cross-Modal Retrieval",
IEEE TIP 29, pp. 3626-3637, 2020, DOI 10.1109/TIP.2020.2963957.

A mask m = σ(W r) splits the feature r ∈ R^E of an image (x) or a text (y) into a part c = r·m that both modalities have
and a private part p = r·(1 − m); the code is h = tanh(V c). With D a discriminator, C a classifier into {private image,
common, private text}, S_ij = 1 where two items share a label and B ∈ {−1, +1}^{N×K}, the nets minimise for each batch

    J = w·(−mean log σ(D(c^y))) + α (Σ CE(C(·)) + Σ BCE(labels from c^x, c^y))
        + Σ_ij [log(1 + e^θ_ij) − S_ij·θ_ij] + β (|B − h^x|² + |B − h^y|²),      θ = ½ h^x h^yᵀ  (b × b),

and D minimises −mean log σ(D(c^x)) − mean log(1 − σ(D(c^y))) + 10·gradient penalty. w, α, β are `adversary`, `alpha`,
`beta`. An epoch is one pass (a step of D, then one of the nets through the new D), then B = sign(½(H^x + H^y)).

Differences from the paper:

1. The paper's text was not available beyond its abstract, and no code of the authors is known. Objective, values and
   nets are those of an unofficial port (comrados/cpah @1470738) that cites the paper's equations (5)-(11). All of them
   are unverified: w = 100, the three classes, no pairs within a modality, and whether CNN-F is fine-tuned.
2. The port gives its first three features to the cross-entropy in the place of C's logits, so that C is never trained.
   Here it is C, as the paper's equation (7) is cited.
3. The port leaves the mask out of test codes. Here they are sign(V (r·m)), as in training.
4. The port keeps the graph of every code it ever stored; here H^x and H^y are constants. An item comes once a pass, so
   its row of B is overwritten right after its step has seen the old one: the same as an update at the epoch's end.
5. log(1 + e^θ), log σ and the label term are computed in forms that do not overflow.
6. Learning rates have no floor (the port's, 1e-6, raises the last 20 of 80 epochs from 8e-7).
7. The port keeps the epoch that is best on the test queries; here validation chooses. sign(0) = +1.
8. A batch of one item passes batch normalisation with its running statistics: one item has no variance.
9. The image net stands on frozen features, as in the port. The default values are ours: learning rates ten times the
   port's. On the built-in clip art (32 bits, 30 epochs) validation MAP is .68, with the port's values .44.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, softplus

from cmh.config import param
from cmh.interfaces import Batches, Setup, State
from cmh.losses import Means, pairwise_nll, sign, similar, weighted
from cmh.nets.critics import adversaries, train_critic
from cmh.nets.draws import normals
from cmh.nets.team import MODALITIES
from cmh.nets.towers import layers, mlp
from cmh.training import train

TITLE = "Multi-Task Consistency-Preserving Adversarial Hashing"
YEAR = 2020
KIND = "supervised"
LABELS = True
SOURCE = "DOI 10.1109/TIP.2020.2963957"


@dataclass(frozen=True)
class Config:
    """Hyperparameters of CPAH."""

    alpha: float = param(0.1, "weight α of the consistency classes and of the labels", low=0, high=1e4)
    beta: float = param(1.0, "weight β of the quantisation term |B − h|²", low=0, high=1e4)
    adversary: float = param(100.0, "weight w of the adversarial term", low=0, high=1e6)
    lr_image: float = param(1e-3, "learning rate of the image net", above=0, high=1, paper=1e-4)
    lr_text: float = param(1e-3, "learning rate of the text net and of all heads", above=0, high=1, paper=1e-4)
    lr_critic: float = param(1e-4, "learning rate of the discriminator", above=0, high=1)
    schedule: str = param(
        "linear",
        "how learning rates of the nets fall: straight to lr_end, or by lr_decay after epochs 1, 31, 61, …",
        choices=["linear", "early"],
        paper="early",
    )
    lr_end: float = param(0.01, "last learning rate as a share of the first (linear)", above=0, high=1)
    lr_decay: float = param(0.2, "factor on the learning rate (early)", above=0, high=1)
    weight_decay: float = param(5e-4, "weight decay of the nets", low=0, high=1)
    batch_size: int = param(64, "items a step", low=1, high=65536)
    hidden: int = param(512, "width E of the hidden layer and of the features", low=8, high=65536)


class Common(nn.Module):
    """The part r·m of features r `(b, E)` that both modalities have; the mask is m = σ(W r)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mask = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """`(b, E)` to the same."""
        return features * torch.sigmoid(self.mask(features))


class Method:
    """CPAH as the trainer drives it. `B` is `(N, bits)`."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config, self.setup, self.labels, width = config, setup, setup.known_labels, config.hidden
        image, text = (layers(n_in, 2 * [width], normalised=True) for n_in in (setup.image_dim, setup.text_dim))
        nets = {"image": setup.image_net(image), "text": setup.text_net(text)}
        for name in MODALITIES:
            nets[f"{name}_common"] = Common(width)
            nets[f"{name}_hash"] = nn.Sequential(nn.Linear(width, setup.bits), nn.Tanh())
            nets[f"{name}_labels"] = nn.Linear(width, self.labels.shape[1])
        nets |= {"consistency": mlp(width, width // 8, 3), "critic": mlp(width, width // 8, 1)}
        self.team = adversaries(setup, config, nets, ("critic",), every=30)
        (B,) = normals(setup, "B", (setup.n_train, setup.bits))
        self.B = sign(B)

    def epoch(self, batches: Batches) -> dict[str, float]:
        """One pass, and B. Returns J of a step, its terms and the discriminator's loss."""
        nets, means = self.team.nets, Means()
        for batch in batches():
            self.team.train(len(batch.index) > 1)  # batch normalisation has no variance of one item
            features = {name: nets[name](getattr(batch, name)) for name in MODALITIES}
            common = {name: nets[f"{name}_common"](f) for name, f in features.items()}
            image, text = (nets[f"{name}_hash"](c) for name, c in common.items())
            private = {name: features[name] - common[name] for name in MODALITIES}
            critic = train_critic(self.team, "critic", common["image"], common["text"], kind="logistic")
            loss, terms = step_loss(
                image,
                text,
                self.B[batch.index],
                nets["critic"](common["text"]),
                nets["consistency"](torch.cat([*common.values(), *private.values()])),
                nets["image_labels"](common["image"]),
                nets["text_labels"](common["text"]),
                self.labels[batch.index],
                self.config,
            )
            self.team.step(loss, *MODALITIES)
            self.B[batch.index] = sign(image.detach() + text.detach())
            means.add({"loss": loss, **terms, "critic": critic})
        self.team.end_epoch()
        return means.values()

    def encode_image(self, features: Tensor) -> Tensor:
        """Real-valued outputs `(n, bits)`; their signs are the codes."""
        return self.team.encode(features, "image", "image_common", "image_hash")

    def encode_text(self, features: Tensor) -> Tensor:
        """Real-valued outputs `(n, bits)`; their signs are the codes."""
        return self.team.encode(features, "text", "text_common", "text_hash")

    def state(self) -> State:
        """Everything that the next epoch depends on."""
        return {**self.team.state(), "B": self.B}


def step_loss(
    image: Tensor,
    text: Tensor,
    B: Tensor,
    text_as_image: Tensor,
    consistency: Tensor,
    image_labels: Tensor,
    text_labels: Tensor,
    labels: Tensor,
    config: Config,
) -> tuple[Tensor, dict[str, Tensor]]:
    """J of one batch, and its terms without their weights.

    Parameters
    ----------
    image, text, B: codes `(b, K)`. text_as_image: D on the texts' common parts. consistency: C on all parts, `(4b, 3)`
    as `consistency_loss` takes them. image_labels, text_labels: logits of the labels `(b, C)`. labels: `(b, C)`.
    """
    theta = 0.5 * image @ text.T  # (b, b)
    terms = {
        "adversary": softplus(-text_as_image).mean(),
        "consistency": consistency_loss(consistency),
        "labels": binary_cross_entropy_with_logits(image_labels, labels, reduction="sum")
        + binary_cross_entropy_with_logits(text_labels, labels, reduction="sum"),
        "nll": pairwise_nll(theta, similar(labels, labels)).sum(),
        "quantisation": (B - image).square().sum() + (B - text).square().sum(),
    }
    weights = {"adversary": config.adversary, "consistency": config.alpha, "labels": config.alpha}
    return weighted(terms, {**weights, "quantisation": config.beta})


def consistency_loss(logits: Tensor) -> Tensor:
    """Σ cross-entropy of C on common images, common texts, private images and private texts, b rows each.

    Classes: 0 private image, 1 common, 2 private text.
    """
    # Filled there: a list that is moved would have each step wait for a GPU.
    classes = torch.cat([torch.full((len(logits) // 4,), number, device=logits.device) for number in (1, 1, 0, 2)])
    return cross_entropy(logits, classes, reduction="sum")


def trainable(config: dict[str, object]) -> None:
    """Train CPAH with a flat mapping of hyperparameters and run settings, alone or under Ray Tune."""
    train(__name__, config)
