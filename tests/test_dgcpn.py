"""DGCPN: its loss and graph against the authors' code and against explicit loops, at their limits, and its steps."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cmh import methods, training
from cmh.losses import sign
from cmh.methods import dgcpn
from cmh.methods.dgcpn import Config, Graph, Method, binary_loss, coherence_loss, joint_similarity, neighbours
from cmh.training.batches import Batch, Items
from tests import golden
from tests.test_training import tiny

CASES = golden.cases("DGCPN")
REAL = [case for case in CASES if case.endswith("real_codes")]
IMAGE = [case for case in CASES if case.endswith("image_vs_sign_text")]
TEXT = [case for case in CASES if case.endswith("sign_image_vs_text")]
LEFT_OUT: dict[str, str] = {}  # case → reason; none is
NAMES = {
    "pair": "loss_pair",
    "text_text": "loss_dis_1 (text-text)",
    "image_text": "loss_dis_2 (image-text)",
    "image_image": "loss_dis_3 (image-image)",
    "coherence": "loss_cons (4 terms)",
}
SEEDS = st.integers(0, 999)
CPU = torch.device("cpu")


def golden_graph(hyper: dict[str, float]) -> tuple[Graph, dict[str, float]]:
    """The graph over all items, and the arguments of `similarity`; the code counts what it drops, we what is kept."""
    n, n_kept = golden.SIZES["N"], golden.SIZES["N"] - round(hyper["knn_number"])
    graph = Graph(golden.tensor("XI"), golden.tensor("XT"), CPU, a1=hyper["a1"], knn=n_kept / n)
    return graph, {"a2": hyper["a2"], "scale": hyper["scale"] / n_kept}


def golden_inputs(hyper: dict[str, float]) -> tuple[Tensor, Tensor, Tensor, list[float]]:
    """f, g with gradients, S of the batch, and the weights of the loss."""
    graph, arguments = golden_graph(hyper)
    S = graph.similarity(torch.from_numpy(golden.batch()), **arguments)
    f, g = (golden.tensor(name).requires_grad_() for name in ("f", "g"))
    return f, g, S, [hyper[name] for name in ("K", "dw", "cw")]


def test_every_case_of_the_file_is_covered() -> None:
    assert sorted([*REAL, *IMAGE, *TEXT, *LEFT_OUT]) == sorted(CASES)
    assert len(REAL) == len(IMAGE) == len(TEXT) == 2


@pytest.mark.parametrize("case", REAL)
def test_golden_real_step(case: str) -> None:
    expected = CASES[case]
    f, g, S, weights = golden_inputs(expected["hyper"])
    loss, terms = coherence_loss(f, g, S, *weights)
    assert loss.dtype == torch.float64
    loss.backward()
    assert float(loss.detach()) == pytest.approx(expected["total"], rel=1e-8)
    assert {NAMES[name]: float(value) for name, value in terms.items()} == pytest.approx(expected["terms"], rel=1e-8)
    assert len(expected["grads"]) == 2
    golden.assert_gradient(f.grad, expected["grads"]["f (image codes)"])
    golden.assert_gradient(g.grad, expected["grads"]["g (text codes)"])


@pytest.mark.parametrize("case", [*IMAGE, *TEXT])
def test_golden_binary_steps(case: str) -> None:
    """The code's two losses are halves of ours: each alone has the file's value, the sum both gradients."""
    expected = CASES[case]
    f, g, S, weights = golden_inputs(expected["hyper"])
    codes = (f, sign(g)) if case in IMAGE else (sign(f), g)
    assert float(coherence_loss(*codes, S, *weights)[0].detach()) == pytest.approx(expected["total"], rel=1e-8)
    binary_loss(f, g, S, *weights).backward()
    (name, gradient), *more = expected["grads"].items()
    assert not more
    golden.assert_gradient({"f (image codes)": f, "g (text codes)": g}[name].grad, gradient)


@pytest.mark.parametrize("case", REAL)
def test_golden_binary_loss_is_the_sum_of_its_halves(case: str) -> None:
    f, g, S, weights = golden_inputs(CASES[case]["hyper"])
    halves = [CASES[case.replace("real_codes", half)]["total"] for half in ("image_vs_sign_text", "sign_image_vs_text")]
    assert float(binary_loss(f, g, S, *weights).detach()) == pytest.approx(sum(halves), rel=1e-8)


@pytest.mark.parametrize("kept", [True, False], ids=["remembered", "made anew"])
@pytest.mark.parametrize("case", REAL)
def test_golden_graph(case: str, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dgcpn, "KEPT", 2**24 if kept else 0)
    monkeypatch.setattr(dgcpn, "ROWS", 7)
    hyper, extra = CASES[case]["hyper"], CASES[case]["extra"]
    graph, arguments = golden_graph(hyper)
    assert (graph.kept is not None) == kept
    everything, index = torch.arange(golden.SIZES["N"]), torch.from_numpy(golden.batch())
    for found, name in (
        (graph.similarity(everything, **arguments), "gs (N,N)"),
        (graph.similarity(index, **arguments), "S_batch"),
        (graph.similarity(everything, a2=0, scale=0) / 2 + 0.5, "S_pair"),
        (graph.similarity(everything, a2=1, scale=arguments["scale"]) / 2 + 0.5, "pro_dis*scale"),
    ):
        golden.assert_gradient(found, extra[name])


def slow_cosine(a: list[float], b: list[float]) -> float:
    size = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / size if size else 0.0


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(2, 9),
    share=st.floats(0.01, 1),
    a1=st.floats(0, 1),
    a2=st.floats(0, 1),
    seed=SEEDS,
    kept=st.booleans(),
)
def test_similarity_equals_loops(n: int, share: float, a1: float, a2: float, seed: int, kept: bool) -> None:
    rng = np.random.default_rng(seed)
    image, text = rng.random((n, 4)), np.abs(rng.standard_normal((n, 3)))
    n_kept = min(max(round(share * n), 2), n)
    A = [
        [a1 * slow_cosine(text[i], text[j]) + (1 - a1) * slow_cosine(image[i], image[j]) for j in range(n)]
        for i in range(n)
    ]
    P = [[0.0] * n for _ in range(n)]
    for i in range(n):
        best = sorted((j for j in range(n) if j != i), key=lambda j: -A[i][j])[: n_kept - 1]
        for j in best:
            P[i][j] = A[i][j] / sum(A[i][k] for k in best)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dgcpn, "KEPT", 2**24 if kept else 0)
        patch.setattr(dgcpn, "ROWS", 4)
        graph = Graph(torch.from_numpy(image), torch.from_numpy(text), CPU, a1=a1, knn=share)
        index = torch.from_numpy(rng.permutation(n)[: max(1, n // 2)])
        found = graph.similarity(index, a2=a2, scale=1.5)
    for row, i in enumerate(index.tolist()):
        for column, j in enumerate(index.tolist()):
            agree = sum(P[i][k] * P[j][k] for k in range(n))
            expected = 2 * ((1 - a2) * A[i][j] + a2 * 1.5 * n_kept * agree) - 1
            assert float(found[row, column]) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    b=st.integers(1, 4),
    bits=st.integers(1, 4),
    seed=SEEDS,
    target=st.floats(0, 2),
    d=st.floats(0, 2),
    c=st.floats(0, 2),
)
def test_loss_equals_loops(b: int, bits: int, seed: int, target: float, d: float, c: float) -> None:
    rng = np.random.default_rng(seed)
    F, G, S = (np.tanh(rng.standard_normal(shape)) for shape in ((b, bits), (b, bits), (b, b)))
    pair = sum((slow_cosine(F[i], G[i]) - target) ** 2 for i in range(b)) / b
    distance = coherence = 0.0
    for i in range(b):
        for j in range(b):
            X, Y, C, D = (slow_cosine(p, q) for p, q in ((F[i], F[j]), (G[i], G[j]), (F[i], G[j]), (F[j], G[i])))
            if i != j:
                distance += ((X - S[i, j]) ** 2 + (Y - S[i, j]) ** 2 + (C - S[i, j]) ** 2) / b**2
            coherence += ((C - X) ** 2 + (C - Y) ** 2 + (X - Y) ** 2 + (C - D) ** 2) / b**2
    loss, terms = coherence_loss(*map(torch.from_numpy, (F, G, S)), target, d, c)
    close = {"rel": 1e-9, "abs": 1e-9}
    assert float(terms["pair"]) == pytest.approx(pair, **close)
    distances = [float(terms[name]) for name in ("text_text", "image_text", "image_image")]
    assert sum(distances) == pytest.approx(distance, **close)
    assert float(terms["coherence"]) == pytest.approx(coherence, **close)
    assert float(loss) == pytest.approx(pair + d * distance + c * coherence, **close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [1, 16])
@pytest.mark.parametrize("value", [0.0, 1e-30, 1.0, -1.0])
@pytest.mark.parametrize("similarity", [-1.0, 3.0], ids=["none similar", "all similar"])
@pytest.mark.parametrize("b", [1, 3])
def test_limits_are_finite(b: int, similarity: float, value: float, bits: int, dtype: torch.dtype) -> None:
    F = torch.full((b, bits), value, dtype=dtype, requires_grad=True)
    G = torch.full((b, bits), abs(value), dtype=dtype, requires_grad=True)
    S = torch.full((b, b), similarity, dtype=dtype)
    loss, terms = coherence_loss(F, G, S, 1.5, 1.0, 1.0)
    (loss + binary_loss(F, G, S, 1.5, 1.0, 1.0)).backward()
    assert torch.isfinite(loss)
    assert all(bool(torch.isfinite(term)) for term in terms.values())
    assert not any(term.requires_grad for term in terms.values())
    for codes in (F, G):
        assert codes.grad is not None
        assert bool(torch.isfinite(codes.grad).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["zeros", "same", "negative", "one item"])
def test_odd_features_give_finite_similarities(kind: str, dtype: torch.dtype) -> None:
    n = 1 if kind == "one item" else 6
    signs = torch.tensor([(-1.0) ** i for i in range(n)], dtype=dtype)[:, None]
    features = torch.zeros(n, 3, dtype=dtype) if kind == "zeros" else torch.ones(n, 3, dtype=dtype)
    graph = Graph(features * signs if kind == "negative" else features, features, CPU, a1=0.01, knn=0.5)
    S = graph.similarity(torch.arange(n), a2=0.3, scale=2.0)
    assert S.shape == (n, n)
    assert S.dtype == dtype
    assert bool(torch.isfinite(S).all())


def test_an_item_is_no_neighbour_of_itself_even_among_copies() -> None:
    A = torch.tensor([[1.0, 1.0, 0.5, 0.2], [1.0, 1.0, 0.5, 0.2]])
    values, columns = neighbours(A, torch.tensor([0, 1]), 3)
    P = torch.zeros(2, 4).scatter(1, columns, values)
    assert torch.allclose(P, torch.tensor([[0, 2 / 3, 1 / 3, 0], [2 / 3, 0, 1 / 3, 0]]))


def test_knn_and_scale_mean_the_same_on_a_doubled_dataset() -> None:
    """Two copies of every item: the same share of neighbours agrees just as much."""
    rng = np.random.default_rng(0)
    image, text = (torch.from_numpy(rng.random((40, 5))) for _ in range(2))
    index, found = torch.arange(8), []
    for copies in (1, 2, 4):
        graph = Graph(image.repeat(copies, 1), text.repeat(copies, 1), CPU, a1=0.3, knn=0.5)
        found.append(graph.similarity(index, a2=1, scale=2.0) + 1)
    others = ~torch.eye(8, dtype=torch.bool)
    for S in found[1:]:
        assert torch.allclose(S[others], found[0][others], rtol=0.2)


def test_gradients() -> None:
    draw = torch.Generator().manual_seed(1)
    F, G, S = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((3, 4), (3, 4), (3, 3)))
    F.requires_grad_()
    G.requires_grad_()
    assert torch.autograd.gradcheck(lambda f, g: coherence_loss(f, g, S, 1.5, 0.7, 0.4)[0], (F, G))


def test_joint_similarity_is_not_clipped() -> None:
    S = joint_similarity(torch.ones(1, 1), torch.full((1, 4), 0.25), a2=0.5, scale=16)
    assert float(S) == pytest.approx(2 * (0.5 + 0.5 * 16 * 0.25) - 1)


def built(**more: Any) -> tuple[Method, Callable[[], Iterator[training.Batch]]]:
    """A small method without dropout in training, and its passes."""
    module, items = methods.get("dgcpn"), tiny().train
    values = {"hidden_image": 8, "hidden_text": 8, "dropout": 0, "bits": 6, "epochs": 3, **more}
    run, config = training.parse(module, values)
    image, text = torch.from_numpy(items.image), torch.from_numpy(items.text)
    torch.manual_seed(0)
    setup = training.Setup(
        bits=run.bits,
        epochs=run.epochs,
        seed=0,
        device=CPU,
        n_train=len(image),
        image_dim=image.shape[1],
        text_dim=text.shape[1],
        labels=None,
        image=image,
        text=text,
        image_net=lambda head: head,
    )
    order = torch.arange(len(image)).split(50)
    return Method(config, setup), lambda: (Batch(index, Items(image, text, CPU)) for index in order)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_an_epoch_makes_the_three_steps_of_the_code(kind: str) -> None:
    """One backward pass for both binary steps is the same as the code's two, in its order."""
    method, batches = built(optimizer=kind, lr_image=0.1, lr_text=0.05)
    theirs = copy.deepcopy(method)
    terms = method.epoch(batches)
    image, text = theirs.pair.nets["image"], theirs.pair.nets["text"]
    config, losses = theirs.config, []
    weights = (config.pair_target, config.distance_weight, config.coherence_weight)
    for batch in batches():
        S = theirs.graph.similarity(batch.index, a2=config.a2, scale=config.pp_scale)
        loss = coherence_loss(image(batch.image), text(batch.text), S, *weights)[0]
        losses.append(float(loss.detach()))
        for it in theirs.pair.optimizers.values():
            it.zero_grad()
        loss.backward()
        for it in theirs.pair.optimizers.values():
            it.step()
        F, G = image(batch.image), text(batch.text)
        for name, codes in (("image", (F, sign(G).detach())), ("text", (sign(F).detach(), G))):
            theirs.pair.optimizers[name].zero_grad()
            coherence_loss(*codes, S, *weights)[0].backward()
            theirs.pair.optimizers[name].step()
    for name, net in method.pair.nets.items():
        for ours, other in zip(net.parameters(), theirs.pair.nets[name].parameters(), strict=True):
            assert torch.allclose(ours, other, atol=1e-6)
    assert terms["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    parts = terms["pair"] + terms["text_text"] + terms["image_text"] + terms["image_image"] + terms["coherence"]
    assert terms["loss"] == pytest.approx(parts, rel=1e-5)


def test_epochs_bring_the_loss_down() -> None:
    method, batches = built(lr_image=3e-3, lr_text=3e-3, schedule="constant")
    curve = [method.epoch(batches) for _ in range(8)]
    assert curve[-1]["loss"] < curve[0]["loss"]
    assert curve[-1]["binary"] < curve[0]["binary"]


def test_a_long_graph_is_not_remembered_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, batches = built()
    monkeypatch.setattr(dgcpn, "KEPT", 0)
    anew, _ = built()
    assert kept.graph.kept is not None
    assert anew.graph.kept is None
    assert kept.epoch(batches) == pytest.approx(anew.epoch(batches), rel=1e-5)


def test_the_text_nets_last_weights_are_wide_at_first() -> None:
    wide, plain = (built(text_std=std, hidden_text=512)[0] for std in (0.3, 0.0))
    found = [float(list(method.pair.nets["text"].parameters())[-2].detach().std()) for method in (wide, plain)]
    assert found[0] == pytest.approx(0.3, rel=0.1)
    assert found[1] < 0.05


def test_the_papers_point_is_the_codes_on_5000_items() -> None:
    paper = Config(**{field.name: field.metadata["paper"] for field in dataclasses.fields(Config)})
    assert round(paper.knn * 5000) == 5000 - 3000
    assert paper.pp_scale * round(paper.knn * 5000) == 4000
