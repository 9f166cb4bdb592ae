"""AGAH: Gu, Gu, Gu, Li, Xiong and Wang, "Adversary Guided Asymmetric Hashing for Cross-Modal Retrieval", ICMR 2019,
DOI 10.1145/3323873.3325045.

With h^x, h^y ∈ (−1, 1)^{b×K} the codes of a batch's images and texts, f^x, f^y their features, M ∈ {−1, +1}^{C×K} a
code for every label and Y ∈ {0, 1}^{b×C} the labels, the nets minimise (all terms are sums over the batch but the last)

    J = tri(h^x, h^y) + tri(h^y, h^x) + α Σ_i [σ(−cos(|h^x_i|, 1)) + σ(−cos(|h^y_i|, 1))] + β (BCE^x + BCE^y)
        + γ Σ_* |h^* Mᵀ − K(2Y − 1)|² + η Σ_* |h^* − sign h^*|² + μ (−mean D_y(f^x) − mean D_x(f^y)),

with tri(s, t) the sum of max(0, d_ap − d_an + margin) over anchors a of s, items p of t that share a label with a and
items n of t that share none, d = 1 − cos. D_x and D_y are Wasserstein critics: for D_x image features are real and
text features fake, for D_y the reverse. α … μ are `alpha`, `beta`, `gamma`, `eta`, `mu`.

Attention: row c of F_map ∈ R^{C×E} is the direction of the mean feature of the items of label c. The hash layer sees
λ f + (1 − λ) a F_map / Σ_c a_c with a = σ(5 f F_mapᵀ); λ is `attention_keep`.

An epoch is one pass; each step trains the two critics, then both nets through the new critics. After it M takes one
sweep of discrete cyclic descent over the bits, and F_map is taken from this epoch's features.

Differences from the paper and from the first author's code (WendellGul/AGAH @a4bde4f):

1. Only the code was read: the paper's own equations and values are unverified.
2. The code divides the features by the norm of the whole batch, so that an item's code depends on its batch mates. Here
   every row is scaled to the length `feature_norm` by itself (the norm carries no gradient, as in the code). 1/√128,
   the paper's point here, is the length that rows have on average in the code's batches of 128.
3. With rows that short every a_c lies between .50 and .61, so that the attention hardly tells items apart, and its mean
   outweighs the features themselves. Our default is rows of length 1, as those of F_map.
4. The paper fine-tunes CNN-F under the feature layer. On frozen features that layer of 512 units is what is left of its
   image net (`hidden_image: 0`, the paper's point here); our default adds a hidden layer. The text net has hidden
   layers of `hidden_text` and half as many units.
5. F_map and the update of M need sums over the items only (Lᵀ(F^x + F^y), Lᵀ(U + V), UᵀU + VᵀV; U, V the signs). They
   are added up during the pass, which visits every item once: the same values without N × 512 buffers.
6. The sweep over M is the code's: its target is 2K(Lᵀ(U + V) + (2I − 1)M), with labels 0/1 although the loss has
   2Y − 1, and it sees the columns of M that it has already changed. sign(0) = +1; the code would leave 0.
7. A label without items has a row of zeros in F_map; the code gets NaN. The random F_map of the first epoch has rows of
   length 1, as all later ones.
8. Triplets are summed without the b × b × b block (`losses.cosine_triplets`), the label term works on logits.
9. The class heads (β) are there, but have no weight at the published point (β = 0); δ of the code's settings is unused.
10. The code keeps the epoch that is best on the test queries in both directions; here validation chooses.
11. The learning rate's floor of 1e-6 is left out: 300 epochs do not reach it.
12. The default values are ours: Adam, and a text net of one layer (with the code's three, on the built-in clip art and
    after 12 epochs, MAP was .57 in place of .66). After 30 epochs it is .69, with the published values .45.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from cmh.config import param
from cmh.interfaces import Batches, Setup, State
from cmh.losses import Means, cosine_triplets, evenness, sign, similar, weighted
from cmh.nets.critics import adversaries, train_critic
from cmh.nets.draws import normals
from cmh.nets.team import MODALITIES
from cmh.nets.towers import layers, mlp
from cmh.training import train

TITLE = "Adversary Guided Asymmetric Hashing"
YEAR = 2019
KIND = "supervised"
LABELS = True
SOURCE = "DOI 10.1145/3323873.3325045"


@dataclass(frozen=True)
class Config:
    """Hyperparameters of AGAH."""

    alpha: float = param(1.0, "weight α of the bit utilisation term", low=0, high=1e4)
    beta: float = param(0.0, "weight β of the label prediction", low=0, high=1e4)
    gamma: float = param(0.001, "weight γ of the agreement with the label codes M", low=0, high=1e4)
    eta: float = param(1.0, "weight η of the quantisation term |h − sign h|²", low=0, high=1e4)
    mu: float = param(1.0, "weight μ of the adversarial term", low=0, high=1e4)
    margin: float = param(0.3, "margin of the triplets, in cosine distance", low=0, high=2)
    attention_keep: float = param(0.8, "share λ of an item's own features beside the attention", low=0, high=1)
    feature_norm: float = param(
        1.0, "length of every feature vector before the attention", above=0, high=1e3, paper=128**-0.5
    )
    optimizer: str = param("adam", "how nets and critics are trained", choices=["adam", "adamax"], paper="adamax")
    lr_image: float = param(1e-3, "learning rate of the image net", above=0, high=1, paper=1e-4)
    lr_text: float = param(1e-3, "learning rate of the text net and of both hash layers", above=0, high=1)
    lr_critic: float = param(1e-3, "learning rate of the critics", above=0, high=1)
    schedule: str = param(
        "linear",
        "how learning rates fall (not the critics'): straight to lr_end, or by lr_decay after epochs 1, 101, 201, …",
        choices=["linear", "early"],
        paper="early",
    )
    lr_end: float = param(0.01, "last learning rate as a share of the first (linear)", above=0, high=1)
    lr_decay: float = param(0.6, "factor on the learning rate (early)", above=0, high=1)
    weight_decay: float = param(5e-4, "weight decay of the nets", low=0, high=1)
    batch_size: int = param(128, "items a step", low=1, high=4096)
    hidden: int = param(512, "width E of the features and of the critics", low=2, high=65536)
    hidden_image: int = param(1024, "hidden units of the image net; 0: none", low=0, high=65536, paper=0)
    hidden_text: int = param(
        0, "units of the text net's first hidden layer, the second has half; 0: none", low=0, high=65536, paper=8192
    )


class Method:
    """AGAH as the trainer drives it. `code_map` is M `(C, K)`, `feature_map` is F_map `(C, E)`."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config, self.setup, self.labels = config, setup, setup.known_labels
        n_labels, width = self.labels.shape[1], config.hidden
        image = layers(setup.image_dim, [config.hidden_image, width])
        text = layers(setup.text_dim, [config.hidden_text, config.hidden_text // 2, width])
        nets = {"image": setup.image_net(image), "text": setup.text_net(text)}
        for name in MODALITIES:
            nets[f"{name}_hash"] = nn.Sequential(nn.Linear(width, setup.bits), nn.Tanh())
            nets[f"{name}_classes"] = nn.Linear(width, n_labels)
            nets[f"{name}_critic"] = mlp(width, [width, width // 2], 1)
        self.team = adversaries(setup, config, nets, ("image_critic", "text_critic"), every=100)
        codes, features = normals(setup, "maps", (n_labels, setup.bits), (n_labels, width))
        self.code_map, self.feature_map = sign(codes), normalize(features)

    def epoch(self, batches: Batches) -> dict[str, float]:
        """One pass, then M and F_map. Returns J of a step and its terms, and the critics' losses."""
        nets, means = self.team.nets, Means()
        features_of_labels = torch.zeros_like(self.feature_map)
        codes_of_labels, gram = torch.zeros_like(self.code_map), self.code_map.new_zeros(2 * [self.setup.bits])
        self.team.train()
        for batch in batches():
            Y = self.labels[batch.index]
            features = {name: self._scaled(nets[name](getattr(batch, name))) for name in MODALITIES}
            seen = {name: attend(f, self.feature_map, self.config.attention_keep) for name, f in features.items()}
            codes = {name: nets[f"{name}_hash"](f) for name, f in seen.items()}
            critics = {}
            for name, real, fake in (("image_critic", "image", "text"), ("text_critic", "text", "image")):
                critics[name] = train_critic(self.team, name, features[real], features[fake], kind="wasserstein")
            loss, terms = step_loss(
                codes["image"],
                codes["text"],
                nets["image_classes"](seen["image"]),
                nets["text_classes"](seen["text"]),
                nets["text_critic"](features["image"]),
                nets["image_critic"](features["text"]),
                Y,
                self.code_map,
                self.config,
            )
            self.team.step(loss, *MODALITIES)
            with torch.no_grad():
                U, V = sign(codes["image"]), sign(codes["text"])
                features_of_labels += Y.T @ (features["image"] + features["text"])
                codes_of_labels += Y.T @ (U + V)
                gram += U.T @ U + V.T @ V
            means.add({"loss": loss, **terms, **critics})
        self.code_map.copy_(updated_code_map(self.code_map, codes_of_labels, gram))
        self.feature_map.copy_(updated_feature_map(features_of_labels))
        self.team.end_epoch()
        return means.values()

    def _scaled(self, outputs: Tensor) -> Tensor:
        """Features: rows of the length that the configuration says; the norm is a constant to the gradient."""
        lengths: Tensor = outputs.detach().norm(dim=1, keepdim=True).clamp_min(1e-12)
        return outputs * (self.config.feature_norm / lengths)

    def _encode(self, name: str, inputs: Tensor) -> Tensor:
        features = self._scaled(self.team.encode(inputs, name))
        return self.team.encode(attend(features, self.feature_map, self.config.attention_keep), f"{name}_hash")

    def encode_image(self, features: Tensor) -> Tensor:
        """Real-valued outputs `(n, bits)`; their signs are the codes."""
        return self._encode("image", features)

    def encode_text(self, features: Tensor) -> Tensor:
        """Real-valued outputs `(n, bits)`; their signs are the codes."""
        return self._encode("text", features)

    def state(self) -> State:
        """Everything that the next epoch depends on."""
        return {**self.team.state(), "code_map": self.code_map, "feature_map": self.feature_map}


def attend(features: Tensor, feature_map: Tensor, keep: float) -> Tensor:
    """λ f + (1 − λ) a F_map / Σ_c a_c with a = σ(5 f F_mapᵀ), for each row f of `(b, E)`."""
    attention = torch.sigmoid(5 * features @ feature_map.T)  # (b, C)
    attention = attention / attention.sum(1, keepdim=True).clamp_min(1e-12)
    return keep * features + (1 - keep) * attention @ feature_map


def step_loss(
    image: Tensor,
    text: Tensor,
    image_classes: Tensor,
    text_classes: Tensor,
    image_as_text: Tensor,
    text_as_image: Tensor,
    labels: Tensor,
    code_map: Tensor,
    config: Config,
) -> tuple[Tensor, dict[str, Tensor]]:
    """J of one batch, and its terms without their weights.

    Parameters
    ----------
    image, text: codes `(b, K)`. image_classes, text_classes: logits of the labels `(b, C)`. image_as_text: the text
    critic on image features; text_as_image: the image critic on text features. labels: Y `(b, C)`. code_map: M.
    """
    S = similar(labels, labels)
    target = image.shape[1] * (2 * labels - 1)
    terms = {
        "triplets_image": cosine_triplets(image, text, S, margin=config.margin),
        "triplets_text": cosine_triplets(text, image, S, margin=config.margin),
        "utilisation": _utilisation(image) + _utilisation(text),
        "classes": binary_cross_entropy_with_logits(image_classes, labels, reduction="sum")
        + binary_cross_entropy_with_logits(text_classes, labels, reduction="sum"),
        "code_map": (image @ code_map.T - target).square().sum() + (text @ code_map.T - target).square().sum(),
        "quantisation": (image - sign(image)).square().sum() + (text - sign(text)).square().sum(),
        "adversary": -image_as_text.mean() - text_as_image.mean(),
    }
    factors = (1, 1, config.alpha, config.beta, config.gamma, config.eta, config.mu)
    return weighted(terms, dict(zip(terms, factors, strict=True)))


def _utilisation(codes: Tensor) -> Tensor:
    """Σ_i 1/(1 + e^{cos(|h_i|, 1)}): low where all bits of an item are equally strong."""
    return torch.sigmoid(-evenness(codes)).sum()


def updated_code_map(code_map: Tensor, codes_of_labels: Tensor, gram: Tensor) -> Tensor:
    """One sweep of discrete cyclic descent over the bits (columns) of M `(C, K)`.

    Bit k becomes sign(Q_k − 2 Σ_{r≠k} M_r (G_rk + M_rᵀM_k)) with G = UᵀU + VᵀV `(K, K)` (`gram`),
    Q = 2K(Lᵀ(U + V) + (2I − 1)M), Lᵀ(U + V) `(C, K)` (`codes_of_labels`). Columns that are done count as they are now.
    """
    M, n_bits = code_map.clone(), code_map.shape[1]
    Q = 2 * n_bits * (codes_of_labels + 2 * M - M.sum(0))
    for k in range(n_bits):
        pull = gram[:, k] + M.T @ M[:, k]
        pull[k] = 0
        M[:, k] = sign(Q[:, k] - 2 * M @ pull)
    return M


def updated_feature_map(features_of_labels: Tensor) -> Tensor:
    """F_map: the directions of Lᵀ(F^x + F^y) `(C, E)`; the number of items of a label cancels. Zero stays zero."""
    return normalize(features_of_labels)


def trainable(config: dict[str, object]) -> None:
    """Train AGAH with a flat mapping of hyperparameters and run settings, alone or under Ray Tune."""
    train(__name__, config)
