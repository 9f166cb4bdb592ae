"""GCH: Xu, Li, Yan, Deng and Liu, "Graph Convolutional Network Hashing for Cross-Modal Retrieval", IJCAI 2019,
pages 982-988, DOI 10.24963/ijcai.2019/138 (the DOI is unverified).

Four nets. With l(θ, S) = log(1 + e^θ) − S·θ, S_ij = 1 where two items share a label (else 0), h the codes of a batch,
H ∈ R^{N×K} the newest codes of the label net, B = sign(H), L the labels and L̂ predicted ones, the released code
trains, one after another (all terms are means over their entries):

    label net:        α mean l(⟨h_i, H_j⟩, S_ij)² + γ mean (L̂ − L)²
    image, text net:  mean (h − B)² + γ mean (L̂ − L)²                                        (the `codes` stage)
    graph net:        BCE(L̂, L) + α mean l(⟨M_i, M_j⟩, S_ij)²
    image, text net:  β mean (M − h)² + mean (h − B)²                                        (the `beacon` stage)

The graph net is a graph convolutional network over the items of a batch: M = tanh(A relu(A x W_1) W_2) with
A = D^−½ (L Lᵀ) D^−½ and x = ½ (nrm(f^t f^iᵀ) f^i + nrm(f^i f^tᵀ) f^t), f^i and f^t the features of the batch's images
and texts, nrm(X) = X / max X. Its codes M are the "beacon" that both modalities are drawn to; at retrieval only the
image and the text net are used. The weights are `alpha`, `beta`, `gamma`.

The paper's own form (`form: paper`) has plain l(½⟨·, ·⟩, S) in all pair terms, no `codes` stage, and in the beacon
stage α mean l(½⟨h_i, H_j⟩, S_ij) + β mean (M − h)² + γ mean (L̂ − L)².

Differences from the paper (its formulas are from a public reading note) and from the authors' code:

1. The code is DeXie0808/GCH @2272d2a. It and the paper differ, see above; `released`, the form whose loop is known, is
   the paper's point here. The paper's weights and norms are unverified; the code's are 1.
2. The code fetches the label net's outputs in the wrong order, so that its text net is taught a scalar loss in place of
   labels, and applies the sigmoid twice to the graph net's labels. Both are mended.
3. Batch normalisation runs in training mode at retrieval in the code, so that codes depend on batch mates. Here the
   running statistics are used; a batch of one item is trained with them, too.
4. S = 0.999 for similar pairs is the code's (`positive`); log(1 + e^θ) is computed as softplus(θ).
5. An item without labels has a row of zeros in A, where the code divides by 0. sign(0) = +1.
6. First weights are PyTorch's. The code draws all of them, and the biases, from N(0, 1), under which nothing is learnt
   here. Widths are the code's (512), but the graph net's first layer is as wide as the features.
7. The beacon's gradient also flows into M through the live features, as in the code, whose graph weights stand still.
8. Passes visit every item once. The code counts steps: 10 × 100 of the label net, 5 × 100 of the graph net, which are
   13 and 6 passes over its 10,000 items (`passes_label`, `passes_graph`), and 5 passes of each other stage. With those
   an epoch is many times DCMH's; by default the label net has two passes, each other stage one.
9. The code halves every learning rate each epoch, so that it ends after about 10 of its long epochs. The default values
   are ours; the other stages' Adam states are kept apart, as in the code.
10. The paper fine-tunes CNN-F under the features of 512 units. On frozen features that layer is what is left of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from cmh.config import param
from cmh.interfaces import Batch, Batches, Setup, State
from cmh.losses import Means, pairwise_nll, sign, similar, squared_nll, weighted
from cmh.nets import encoders
from cmh.nets.draws import normals
from cmh.nets.encoders import Encoder, leaky_layers
from cmh.nets.graph_convolution import Graph, adjacency
from cmh.nets.optimizers import Falling, optimizer, schedule_param
from cmh.nets.team import Team
from cmh.training import train

TITLE = "Graph Convolutional Network Hashing for Cross-Modal Retrieval"
YEAR = 2019
KIND = "supervised"
LABELS = True
SOURCE = "DOI 10.24963/ijcai.2019/138"
MODALITIES = ("text", "image")  # in the order in which the code trains them
Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Config:
    """Hyperparameters of GCH."""

    form: str = param("released", "losses of the released code, or the paper's", choices=["released", "paper"])
    alpha: float = param(1.0, "weight α of the pairs of codes", low=0, high=1e4)
    beta: float = param(1.0, "weight β of the beacon", low=0, high=1e4)
    gamma: float = param(1.0, "weight γ of the predicted labels", low=0, high=1e4)
    positive: float = param(0.999, "S of a similar pair", above=0, high=1)
    lr_label: float = param(3e-3, "learning rate of the label net at the start", above=0, high=10, paper=0.01)
    lr_image: float = param(1e-3, "learning rate of the image net at the start", above=0, high=10, paper=1e-4)
    lr_text: float = param(0.01, "learning rate of the text net at the start", above=0, high=10)
    lr_graph: float = param(1e-3, "learning rate of the graph net at the start", above=0, high=10)
    schedule: str = schedule_param(
        "exponential", "fall: straight to lr_end over the run, or by lr_decay an epoch (exponential)"
    )
    lr_end: float = param(0.01, "last learning rate as a share of the first (linear)", above=0, high=1)
    lr_decay: float = param(0.5, "factor on the learning rates each epoch (exponential)", above=0, high=1)
    passes_label: int = param(2, "passes of the label net an epoch", low=1, high=1000, paper=13)
    passes_codes: int = param(1, "passes of text and image net towards the label net's codes", low=1, high=100, paper=5)
    passes_graph: int = param(1, "passes of the graph net an epoch", low=1, high=1000, paper=6)
    passes_beacon: int = param(1, "passes of text and image net towards the beacon", low=1, high=100, paper=5)
    batch_size: int = param(128, "items a step", low=1, high=65536)
    hidden_features: int = param(512, "features of the image and text nets, and width of the graph", low=1, high=65536)
    hidden_label: int = param(512, "hidden units of the label net, in each of two layers", low=1, high=65536)
    hidden_image: int = param(0, "hidden units of the image net before its features; 0: none", low=0, high=65536)
    hidden_text: int = param(512, "hidden units of the text net before its features, in two layers", low=1, high=65536)


class Method:
    """GCH as the trainer drives it. `H` holds the label net's newest code of every training item `(N, bits)`."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config, self.labels = config, setup.known_labels
        n_labels, width, bits = self.labels.shape[1], config.hidden_features, setup.bits
        label_body = leaky_layers([n_labels, config.hidden_label, config.hidden_label])
        label = Encoder(label_body, config.hidden_label, bits, n_labels, labels_from_codes=True)
        image_body = leaky_layers([setup.image_dim, config.hidden_image, width])
        image = Encoder(image_body, width, bits, n_labels, code_norm=nn.BatchNorm1d(bits))
        text_body = leaky_layers([setup.text_dim, config.hidden_text, config.hidden_text, width])
        text = Encoder(text_body, width, bits, n_labels)
        towers = {"image": setup.image_net(image), "text": setup.text_net(text)}
        nets = {"label": label, **towers, "graph": Graph(width, bits, n_labels)}
        self.team = Team(setup, nets)
        self.stages: list[tuple[str, str, int, Callable[[str, Batch], Terms]]] = [
            ("label", "label", config.passes_label, self._label)
        ]
        if config.form == "released":
            self.stages += [(f"{net}_codes", net, config.passes_codes, self._codes) for net in MODALITIES]
        self.stages.append(("graph", "graph", config.passes_graph, self._graph))
        self.stages += [(f"{net}_beacon", net, config.passes_beacon, self._beacon) for net in MODALITIES]
        for stage, net, _, _ in self.stages:
            stepper = optimizer("adam", self.team.nets[net], lr=getattr(config, f"lr_{net}"))
            self.team.add(stage, stepper, Falling.of(config))
        (self.H,) = normals(setup, "buffers", (setup.n_train, bits))

    def epoch(self, batches: Batches) -> dict[str, float]:
        """All stages. Returns the terms of each stage's last pass, without their weights."""
        weights = {"pairs": self.config.alpha, "beacon": self.config.beta, "labels": self.config.gamma}
        terms: dict[str, float] = {}
        for stage, net, passes, terms_of in self.stages:
            for _ in range(passes):
                means = Means()
                for batch in batches():
                    loss, parts = weighted(terms_of(net, batch), weights)
                    self.team.step(loss, stage)
                    means.add(parts)
            terms |= {f"{stage}_{term}": value for term, value in means.values().items()}
        self.team.end_epoch()
        return terms

    def _label(self, net: str, batch: Batch) -> Terms:
        labels = self.labels[batch.index]
        codes, _, predicted = self._train(net, labels)
        terms = label_terms(codes, predicted, self.H, self._similar(labels, self.labels), labels, self.config.form)
        self.H = self.H.index_copy(0, batch.index, codes.detach())  # after the loss, as in the code
        return terms

    def _codes(self, net: str, batch: Batch) -> Terms:
        codes, _, predicted = self._train(net, getattr(batch, net))
        return code_terms(codes, predicted, sign(self.H[batch.index]), self.labels[batch.index])

    def _graph(self, net: str, batch: Batch) -> Terms:
        labels = self.labels[batch.index]
        image, text = (self._features(name, batch) for name in ("image", "text"))
        codes, logits = self.team.nets[net](fuse(image, text), adjacency(labels))
        return graph_terms(codes, logits, self._similar(labels, labels), labels, self.config.form)

    def _beacon(self, net: str, batch: Batch) -> Terms:
        labels = self.labels[batch.index]
        codes, features, predicted = self._train(net, getattr(batch, net))
        other = self._features("text" if net == "image" else "image", batch)
        image, text = (features, other) if net == "image" else (other, features)
        beacon, _ = self.team.nets["graph"](fuse(image, text), adjacency(labels))
        if self.config.form == "released":
            return beacon_terms(codes, beacon, sign(self.H[batch.index]))
        return paper_terms(codes, predicted, beacon, self.H, self._similar(labels, self.labels), labels)

    def _train(self, name: str, x: Tensor) -> encoders.Outputs:
        return encoders.outputs(self.team.nets[name], x, training=len(x) > 1)

    def _features(self, name: str, batch: Batch) -> Tensor:
        return encoders.constant_features(self.team.nets[name], getattr(batch, name))

    def _similar(self, labels: Tensor, others: Tensor) -> Tensor:
        return self.config.positive * similar(labels, others)

    def encode_image(self, features: Tensor) -> Tensor:
        """Real-valued outputs `(n, bits)`; their signs are the codes."""
        return encoders.codes(self.team.nets["image"], features)

    def encode_text(self, features: Tensor) -> Tensor:
        """Real-valued outputs `(n, bits)`; their signs are the codes."""
        return encoders.codes(self.team.nets["text"], features)

    def state(self) -> State:
        """Everything that the next epoch depends on."""
        return {**self.team.state(), "H": self.H}


def fuse(image: Tensor, text: Tensor) -> Tensor:
    """The graph's input x from the features of the batch's images and texts, both `(b, width)`."""
    weights = text @ image.T  # (b, b)
    weights = weights / weights.max().clamp_min(1e-12)
    return 0.5 * (weights @ image + weights.T @ text)


def pair_loss(codes: Tensor, others: Tensor, similar: Tensor, form: str) -> Tensor:
    """Released: the mean of l(⟨·, ·⟩, S)²; paper: of l(½⟨·, ·⟩, S). Codes `(b, K)`, others `(m, K)`, S `(b, m)`."""
    theta = codes @ others.T
    return squared_nll(theta, similar).mean() if form == "released" else pairwise_nll(theta / 2, similar).mean()


def label_terms(codes: Tensor, predicted: Tensor, H: Tensor, similar: Tensor, labels: Tensor, form: str) -> Terms:
    """Of the label net: its codes `(b, K)` against the buffer H, `similar` `(b, N)`, and its labels."""
    return {"pairs": pair_loss(codes, H, similar, form), "labels": mse_loss(predicted, labels)}


def code_terms(codes: Tensor, predicted: Tensor, B: Tensor, labels: Tensor) -> Terms:
    """Of image or text net in the `codes` stage."""
    return {"codes": mse_loss(codes, B), "labels": mse_loss(predicted, labels)}


def graph_terms(codes: Tensor, logits: Tensor, similar: Tensor, labels: Tensor, form: str) -> Terms:
    """Of the graph net: label logits, and its codes against each other, `similar` `(b, b)`."""
    return {
        "labels": binary_cross_entropy_with_logits(logits, labels),
        "pairs": pair_loss(codes, codes, similar, form),
    }


def beacon_terms(codes: Tensor, beacon: Tensor, B: Tensor) -> Terms:
    """Of image or text net in the `beacon` stage of the released code."""
    return {"beacon": mse_loss(codes, beacon), "codes": mse_loss(codes, B)}


def paper_terms(codes: Tensor, predicted: Tensor, beacon: Tensor, H: Tensor, similar: Tensor, labels: Tensor) -> Terms:
    """The same stage in the paper."""
    return {
        "pairs": pair_loss(codes, H, similar, "paper"),
        "beacon": mse_loss(codes, beacon),
        "labels": mse_loss(predicted, labels),
    }


def trainable(config: dict[str, object]) -> None:
    """Train GCH with a flat mapping of hyperparameters and run settings, alone or under Ray Tune."""
    train(__name__, config)
