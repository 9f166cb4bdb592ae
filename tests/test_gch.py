"""GCH against the authors' code, against explicit loops, and what is its own: the graph and its stages."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmh import config as configs
from cmh.losses import sign, similar
from cmh.methods import gch
from cmh.nets.graph_convolution import adjacency, graph_codes
from tests import golden
from tests.direct import built

CASES = golden.cases("GCH")
LEFT_OUT = {
    "image_net_self_unused": "defined in the code, but its update is commented out",
    "text_net_self_unused": "defined in the code, but its update is commented out",
}
INDEX = torch.from_numpy(golden.batch())
NETS = {"image": ("f", "pI"), "text": ("g", "pT")}


def check(case: str, terms: gch.Terms, leaves: dict[str, torch.Tensor], names: dict[str, str]) -> None:
    """Total (the code's weights are 1), terms and gradients."""
    expected = CASES[case]
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    assert float(total.detach()) == pytest.approx(expected["total"], rel=1e-8)
    found = {names[term]: float(value.detach()) for term, value in terms.items()}
    assert found == pytest.approx(expected["terms"], rel=1e-8)
    assert set(expected["grads"]) == set(leaves)
    for name, leaf in leaves.items():
        golden.assert_gradient(leaf.grad, expected["grads"][name])


def positive(case: str) -> float:
    """S of a similar pair in the file."""
    return float(CASES[case]["hyper"]["positive similarity"])


def test_every_case_of_the_file_is_covered() -> None:
    covered = [f"{net}_net_{stage}" for net in NETS for stage in ("label", "graph")]
    assert sorted([*covered, "label_net", "graph_net", "graph_input_and_adjacency", *LEFT_OUT]) == sorted(CASES)


def test_golden_label_net() -> None:
    leaves = {name: golden.tensor(name).requires_grad_() for name in ("h", "pL")}
    labels, H = golden.tensor("L"), golden.tensor("H")
    S = positive("label_net") * similar(labels[INDEX], labels)
    terms = gch.label_terms(leaves["h"], leaves["pL"], H, S, labels[INDEX], "released")
    check("label_net", terms, leaves, {"pairs": "pair_l", "labels": "label_l"})


@pytest.mark.parametrize("net", NETS)
def test_golden_codes_stage(net: str) -> None:
    leaves = {name: golden.tensor(name).requires_grad_() for name in NETS[net]}
    B, labels = sign(golden.tensor("H"))[INDEX], golden.tensor("L")[INDEX]
    terms = gch.code_terms(*leaves.values(), B, labels)
    check(f"{net}_net_label", terms, leaves, {"codes": "quant", "labels": "label"})


@pytest.mark.parametrize("net", NETS)
def test_golden_beacon_stage(net: str) -> None:
    leaves = {name: golden.tensor(name).requires_grad_() for name in (NETS[net][0], "gc")}
    terms = gch.beacon_terms(*leaves.values(), sign(golden.tensor("H"))[INDEX])
    check(f"{net}_net_graph", terms, leaves, {"beacon": "graph", "codes": "quant"})


def test_golden_graph_net() -> None:
    """The code applies the sigmoid twice; given its output as the logits, the arithmetic is the same."""
    leaves = {name: golden.tensor(name).requires_grad_() for name in ("gc", "gl")}
    labels = golden.tensor("L")[INDEX]
    S = positive("graph_net") * similar(labels, labels)
    terms = gch.graph_terms(leaves["gc"], leaves["gl"], S, labels, "released")
    check("graph_net", terms, leaves, {"labels": "Loss_G_lab", "pairs": "Loss_pair_g"})


def test_golden_graph_input_and_adjacency() -> None:
    expected = CASES["graph_input_and_adjacency"]
    A, x = adjacency(golden.tensor("L")[INDEX]), gch.fuse(golden.tensor("sI"), golden.tensor("sT"))
    codes = graph_codes(x, A, golden.tensor("W1"), golden.tensor("W2"))
    labels = torch.sigmoid(codes @ golden.tensor("W3"))
    found = {"adj": A, "GCN_in": x, "graph_code": codes, "graph_label": labels}
    for name, value in found.items():
        assert value.flatten()[:3].tolist() == pytest.approx(expected["extra"][f"{name}_first3"], rel=1e-7)
    norms = {f"{'adj_fro' if name == 'adj' else name}_norm": float(value.norm()) for name, value in found.items()}
    assert norms == pytest.approx(expected["terms"], rel=1e-8)
    assert float(codes.norm()) == pytest.approx(expected["total"], rel=1e-8)


def loss(theta: float, S: float) -> float:
    return max(theta, 0) + math.log1p(math.exp(-abs(theta))) - S * theta


@settings(max_examples=30, deadline=None)
@given(
    b=st.integers(1, 4),
    n=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
    form=st.sampled_from(["released", "paper"]),
)
def test_pair_loss_equals_loops(b: int, n: int, seed: int, form: str) -> None:
    rng = np.random.default_rng(seed)
    codes, others = rng.standard_normal((b, 3)), rng.standard_normal((n, 3))
    S = 0.999 * (rng.random((b, n)) < 0.5)
    total = 0.0
    for i in range(b):
        for j in range(n):
            dot = sum(codes[i, k] * others[j, k] for k in range(3))
            total += loss(dot, S[i, j]) ** 2 if form == "released" else loss(dot / 2, S[i, j])
    found = gch.pair_loss(*map(torch.from_numpy, (codes, others, S)), form)
    assert float(found) == pytest.approx(total / (b * n), rel=1e-9)


@settings(max_examples=20, deadline=None)
@given(b=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
def test_adjacency_and_input_equal_loops(b: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random((b, 3)) < 0.5).astype(float)
    image, text = np.abs(rng.standard_normal((b, 4))), np.abs(rng.standard_normal((b, 4)))
    shared = [[sum(labels[i] * labels[j]) for j in range(b)] for i in range(b)]
    A = adjacency(torch.from_numpy(labels))
    largest = max(sum(text[i] * image[j]) for i in range(b) for j in range(b))
    x = gch.fuse(torch.from_numpy(image), torch.from_numpy(text))
    for i in range(b):
        for j in range(b):
            degrees = sum(shared[i]) * sum(shared[j])
            assert float(A[i, j]) == pytest.approx(shared[i][j] / math.sqrt(degrees) if degrees else 0)
        expected = sum(
            sum(text[i] * image[j]) / largest * image[j] + sum(image[i] * text[j]) / largest * text[j] for j in range(b)
        )
        assert x[i].tolist() == pytest.approx((expected / 2).tolist())


def test_the_papers_terms_equal_loops() -> None:
    rng = np.random.default_rng(2)
    codes, beacon, H = (np.tanh(rng.standard_normal(shape)) for shape in ((3, 4), (3, 4), (5, 4)))
    predicted, labels = rng.random((3, 2)), (rng.random((3, 2)) < 0.5).astype(float)
    S = (rng.random((3, 5)) < 0.5).astype(float)
    found = gch.paper_terms(*map(torch.from_numpy, (codes, predicted, beacon, H, S, labels)))
    pairs = sum(loss(float(codes[i] @ H[j]) / 2, S[i, j]) for i in range(3) for j in range(5)) / 15
    assert float(found["pairs"]) == pytest.approx(pairs)
    assert float(found["beacon"]) == pytest.approx(float(((codes - beacon) ** 2).mean()))
    assert float(found["labels"]) == pytest.approx(float(((predicted - labels) ** 2).mean()))


@pytest.mark.parametrize("form", ["released", "paper"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [1, 16])
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
@pytest.mark.parametrize("alike", [True, False], ids=["all similar", "none similar"])
def test_limits_are_finite(alike: bool, value: float, bits: int, dtype: torch.dtype, form: str) -> None:
    labels = torch.full((3, 2), float(alike), dtype=dtype)
    codes = torch.full((3, bits), value, dtype=dtype, requires_grad=True)
    S, H = similar(labels, labels), torch.ones(3, bits, dtype=dtype)
    features = torch.zeros(3, 4, dtype=dtype, requires_grad=True)
    weights = torch.ones(4, bits, dtype=dtype)
    beacon = graph_codes(gch.fuse(features, features), adjacency(labels), weights[:, :1].repeat(1, 4), weights)
    terms = [
        *gch.label_terms(codes, labels, H, S, labels, form).values(),
        *gch.graph_terms(codes, codes[:, :1].repeat(1, 2), S, labels, form).values(),
        *gch.beacon_terms(codes, beacon, H).values(),
        *gch.paper_terms(codes, labels, beacon, H, S, labels).values(),
    ]
    torch.stack(terms).sum().backward()
    assert all(bool(torch.isfinite(term)) for term in terms)
    for leaf in (codes, features):
        assert leaf.grad is not None
        assert bool(torch.isfinite(leaf.grad).all())


@pytest.mark.parametrize("form", ["released", "paper"])
def test_each_stage_trains_its_own_net_only(form: str) -> None:
    method, epoch = built("gch", form=form)
    wanted = {"label": "label", "graph": "graph", "text_beacon": "text", "image_beacon": "image"}
    if form == "released":
        wanted |= {"text_codes": "text", "image_codes": "image"}
    assert {stage: net for stage, net, _, _ in method.stages} == wanted
    for stage, net in wanted.items():
        steppers = {
            id(parameter) for group in method.team.optimizers[stage].param_groups for parameter in group["params"]
        }
        assert steppers == {id(parameter) for parameter in method.team.nets[net].parameters()}
    terms = epoch(1)
    assert set(terms) >= {"label_pairs", "graph_labels", "image_beacon_beacon"}
    assert ("image_codes_codes" in terms) == (form == "released")


def test_the_buffer_holds_the_label_nets_codes() -> None:
    method, epoch = built("gch", passes_label=1)
    before = method.H.clone()
    epoch(1)
    assert not bool((before == method.H).all(1).any())
    assert bool((method.H.abs() <= 1).all())


def test_passes_are_counted() -> None:
    method, epoch = built("gch", passes_label=3, passes_codes=2, passes_graph=4, passes_beacon=1)
    epoch(1)
    steps = {stage: int(next(iter(it.state.values()))["step"]) for stage, it in method.team.optimizers.items()}
    one = -(-120 // 32)
    assert steps["label"] == 3 * one
    assert steps["text_codes"] == steps["image_codes"] == 2 * one
    assert steps["graph"] == 4 * one
    assert steps["text_beacon"] == steps["image_beacon"] == one


def test_the_papers_point_is_the_released_form() -> None:
    assert configs.paper(gch.Config)["form"] == "released"
