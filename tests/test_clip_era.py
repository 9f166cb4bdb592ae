"""DCHMT, DSPH, DCGH, DHaPH, DNpH and DNPH: the authors' values, explicit loops, and what head and proxies are."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cmh import methods, training
from cmh.losses import mean_where, pair_cosines, proxy_terms, similar
from cmh.methods import dcgh, dchmt, dhaph, dnph, dnph_qmi, dsph
from cmh.nets.proxies import head
from cmh.nets.two_way import Select, two_way
from tests import golden
from tests.golden import CLIP, MAIN
from tests.test_training import tiny

Loss = tuple[Tensor, dict[str, Tensor]]
HYPERBOLIC = "the hyperbolic part reaches no code in the authors' code and is left out (difference 2)"
LEFT_OUT = {"hp_as_in_the_code (codes detached)": HYPERBOLIC}
LEFT_OUT["hp_not_detached (the gradient the codes would get)"] = HYPERBOLIC
LINEAR = "tanh outputs with a quantisation term: the code's other head is left out (difference 2)"
LEFT_OUT["linear_tanh_codes"] = LINEAR
MODALITIES = {"ii": "image", "tt": "text", "it": "image_text"}
COUNTS = {"DCHMT": 6, "DSPH": 4, "DCGH": 2, "DHaPH": 6, "DNpH": 4}
CASES = [
    (file, method, case)
    for file, names in ((MAIN, ("DCHMT", "DSPH")), (CLIP, ("DCGH", "DHaPH", "DNpH")))
    for method in names
    for case in file.cases(method)
    if case not in LEFT_OUT
]


def chosen(hyper: dict[str, Any]) -> tuple[float, dchmt.Config]:
    """m and the options of a case of DCHMT."""
    assert (hyper["hash_layer"], hyper["sim_threshold"]) == ("select", dchmt.NEAR)
    distance, power = hyper["similarity_function"], int(hyper["loss_type"][1])
    config = dchmt.Config(vartheta=hyper["vartheta"], distance=distance, power=power)
    return dchmt.largest(hyper["output_dim"], config), config


def computed(method: str, case: str, hyper: dict[str, Any], labels: Tensor, *inputs: Tensor) -> tuple[Loss, Any]:
    """Our loss of a case, and a function from our names of terms to theirs and the weight theirs have."""
    f, g, proxies = inputs
    if method == "DSPH":
        alpha, places = hyper["alpha"], {"near": "pos", "far": "neg", "apart": "reg"}
        loss = dsph.step_loss(f, g, proxies, labels, dsph.Config(alpha=alpha, tau=hyper["threshold"]))
        return loss, lambda kind, where: (f"{places[kind]}_{where}", alpha if kind == "apart" else 1)
    if method == "DCGH":
        config = dcgh.Config(
            alpha=hyper["n2n weight"], beta=hyper["p2p weight"], gamma=hyper["variance weight"], variance="all"
        )
        places = {"near": "pos", "far": "neg", "apart": "n2n", "alike": "p2p", "variance": "variance"}
        loss = dcgh.step_loss(f, g, proxies, labels, config)
        return loss, lambda kind, where: (f"{places[kind]} {where.replace('_', '-')}", 1)
    S = similar(labels, labels)
    if method == "DCHMT":
        loss = dchmt.step_loss(f, g, S, *chosen(hyper))
        places = {"similar": "pos", "others": "neg"}
        kinds = {"image_text": "image-text", "image": "image-image", "text": "text-text"}
        return loss, lambda kind, where: (f"{places[kind]} {kinds[where]}", 1)
    short = {ours: theirs for theirs, ours in MODALITIES.items()}
    if method == "DHaPH":
        paced = hyper.get("self_paced", True)
        delta = dhaph.delta(hyper["epoch"], hyper["totalepoch"]) if paced else 0
        loss = dhaph.step_loss(f, g, S, tau=hyper["temperature"], delta=delta)
        return loss, lambda kind, where: (short[f"{kind}_{where}" if where else kind], 1)
    kernel = "cosine" if hyper["use_cosine"] else "gaussian"
    given_m = 0 if isinstance(hyper["M"], str) else hyper["M"]
    options = dnph_qmi.Config(
        M=given_m, kernel=kernel, sigma=hyper.get("sigma", 3), square_clamp=hyper["use_square_clamp"]
    )
    return dnph_qmi.step_loss(f, g, S, options), lambda kind, where: (f"{short[where]} {kind}", 1)


@pytest.mark.parametrize("name", CLIP.inputs)
def test_inputs_are_those_of_the_file(name: str) -> None:
    found, expected = CLIP.array(name), CLIP.file["inputs"][name]["fingerprint"]
    assert list(found.shape) == expected["shape"]
    assert found.sum() == pytest.approx(expected["sum"], rel=1e-12, abs=1e-12)
    assert np.square(found).sum() == pytest.approx(expected["sumsq"], rel=1e-12)
    assert [*found.flat[:3], found.flat[-1]] == pytest.approx([*expected["first3"], expected["last"]], rel=1e-12)


def test_every_case_of_the_files_is_covered_or_left_out() -> None:
    for method, count in COUNTS.items():
        file = MAIN if method in ("DCHMT", "DSPH") else CLIP
        ours = [case for _, name, case in CASES if name == method]
        left = [case for case in LEFT_OUT if case in file.cases(method)]
        assert sorted([*ours, *left]) == sorted(file.cases(method))
        assert len(file.file["methods"][method]["cases"]) == len(file.cases(method)) == count
    assert CLIP.batch(1).tolist() == CLIP.file["ind"]
    assert CLIP.batch(2).tolist() == CLIP.file["ind2"]


@pytest.mark.parametrize(("file", "method", "case"), CASES, ids=lambda value: str(value).split(" ")[0])
def test_the_authors_values(file: golden.Golden, method: str, case: str) -> None:
    expected = file.cases(method)[case]
    second = case == "second_batch"
    labels = file.tensor("L")[torch.from_numpy(file.batch(2 if second else 1))]
    names = ("zI", "zT") if method == "DCHMT" else ("f2", "g2") if second else ("f", "g")
    f, g = (file.tensor(name).requires_grad_() for name in names)
    proxies = file.tensor("P").requires_grad_()
    (total, terms), theirs = computed(method, case, expected["hyper"], labels, f, g, proxies)
    assert total.dtype == torch.float64
    assert float(total.detach()) == pytest.approx(expected["total"], rel=1e-8)
    named: dict[str, float] = {}
    for name, value in terms.items():
        kind, _, where = name.partition("_")
        place, weight = theirs(kind, where)
        named[place] = weight * float(value)
    assert named == pytest.approx(expected["terms"], rel=1e-8, abs=1e-12)
    total.backward()  # type: ignore[no-untyped-call]
    inputs = {"f": f, "x": f, "zI": f, "g": g, "y": g, "zT": g, "P": proxies}
    for name, gradient in expected["grads"].items():
        golden.assert_gradient(inputs[name.split(" ")[0]].grad, gradient)
    assert len(expected["grads"]) == 2 + (method in ("DSPH", "DCGH"))


def cosine(x: Any, y: Any) -> float:
    return float(sum(x * y) / math.sqrt(sum(x * x)) / math.sqrt(sum(y * y)))


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def drawn(b: int, bits: int, classes: int, seed: int) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    f, g = np.tanh(rng.standard_normal((b, bits))), np.tanh(rng.standard_normal((b, bits)))
    labels = (rng.random((b, classes)) < 0.4).astype(float)
    labels[np.arange(b), rng.integers(0, classes, b)] = 1  # as the trainer gives them: no item without one
    return f, g, rng.standard_normal((classes, bits)), labels


sizes: dict[str, Any] = {
    "b": st.integers(1, 5),
    "bits": st.integers(2, 5),
    "classes": st.integers(1, 5),
    "seed": st.integers(0, 999),
}


def loops_of_proxies(f: Any, g: Any, proxies: Any, labels: Any, tau: float) -> dict[str, float]:
    """The seven terms that DSPH and DCGH have, item by item."""
    items, found = range(len(f)), {}
    for name, codes in (("image", f), ("text", g)):
        near, far = [], []
        for i in items:
            for c, proxy in enumerate(proxies):
                if labels[i, c]:
                    near.append(1 - cosine(codes[i], proxy))
                else:
                    far.append(max(0.0, cosine(codes[i], proxy) - tau))
        found |= {f"near_{name}": mean(near), f"far_{name}": mean(far)}
    for name, a, b in (("image", f, f), ("text", g, g), ("image_text", f, g)):
        pairs = [(i, j) for i in items for j in items if labels[i].sum() > 1 and labels[j].sum() > 1]
        apart = [(i, j) for i, j in pairs if not any(labels[i] * labels[j])]
        found[f"apart_{name}"] = mean([max(0.0, cosine(a[i], b[j]) - tau) for i, j in apart])
    return found


@settings(max_examples=30, deadline=None)
@given(**sizes, tau=st.sampled_from([-0.1, 0.0, 0.25]), alpha=st.sampled_from([0.0, 0.8]))
def test_dsph_equals_loops(b: int, bits: int, classes: int, seed: int, tau: float, alpha: float) -> None:
    f, g, proxies, labels = drawn(b, bits, classes, seed)
    expected = loops_of_proxies(f, g, proxies, labels, tau)
    total, terms = dsph.step_loss(*map(torch.from_numpy, (f, g, proxies, labels)), dsph.Config(alpha=alpha, tau=tau))
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected, rel=1e-8, abs=1e-12)
    whole = sum(value * (alpha if name.startswith("apart") else 1) for name, value in expected.items())
    assert float(total) == pytest.approx(whole, rel=1e-8, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(**sizes, variance=st.sampled_from(["all", "own"]))
def test_dcgh_equals_loops(b: int, bits: int, classes: int, seed: int, variance: str) -> None:
    f, g, proxies, labels = drawn(b, bits, classes, seed)
    expected = loops_of_proxies(f, g, proxies, labels, 0.0)
    for name, a, o in (("image", f, f), ("text", g, g), ("image_text", f, g)):
        rho = {(i, j): cosine(labels[i], labels[j]) for i in range(b) for j in range(b)}
        expected[f"alike_{name}"] = mean([max(0.0, r - cosine(a[i], o[j])) for (i, j), r in rho.items() if r > 0])
    for name, codes in (("image", f), ("text", g)):
        spreads = []
        for i in range(b):
            own = [1 - cosine(codes[i], proxies[c]) for c in range(classes) if labels[i, c]]
            entries = own if variance == "own" else own + [0.0] * (classes - len(own))
            divisor = len(entries) - (variance == "all" and classes > 1)
            spreads.append(sum((value - mean(entries)) ** 2 for value in entries) / divisor)
        expected[f"variance_{name}"] = mean(spreads)
    config = dcgh.Config(alpha=0.7, beta=0.3, gamma=0.2, variance=variance)
    total, terms = dcgh.step_loss(*map(torch.from_numpy, (f, g, proxies, labels)), config)
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected, rel=1e-8, abs=1e-12)
    weights = {"near": 1, "far": 1, "apart": 0.7, "alike": 0.3, "variance": 0.2}
    whole = sum(weights[name.split("_")[0]] * value for name, value in expected.items())
    assert float(total) == pytest.approx(whole, rel=1e-8, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(**sizes, tau=st.sampled_from([0.05, 0.3]), delta=st.sampled_from([0.0, 0.2, 1.0]))
def test_dhaph_equals_loops(b: int, bits: int, classes: int, seed: int, tau: float, delta: float) -> None:
    f, g, _, labels = drawn(b, bits, classes, seed)
    expected = {}
    for name, a, o in (("image", f, f), ("text", g, g), ("image_text", f, g)):
        rows = []
        for i in range(b):
            alike = other = 0.0
            for j in range(b):
                s = cosine(a[i], o[j])
                if any(labels[i] * labels[j]):
                    alike += math.exp(-(1 + s) * delta / 4) * math.exp(s / tau)
                else:
                    other += math.exp(-(1 - s) * delta) * math.exp(s / tau)
            rows.append(-math.log(alike / (alike + other)))
        expected[name] = mean(rows)
    S = similar(torch.from_numpy(labels), torch.from_numpy(labels))
    total, terms = dhaph.step_loss(torch.from_numpy(f), torch.from_numpy(g), S, tau=tau, delta=delta)
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected, rel=1e-8, abs=1e-9)
    assert float(total) == pytest.approx(sum(expected.values()), rel=1e-8, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(**sizes, kernel=st.sampled_from(["cosine", "gaussian"]), clamp=st.booleans(), m=st.sampled_from([0, 7]))
def test_dnph_qmi_equals_loops(b: int, bits: int, classes: int, seed: int, kernel: str, clamp: bool, m: float) -> None:
    f, g, _, labels = drawn(b, bits, classes, seed)
    alike = [[float(any(labels[i] * labels[j])) for j in range(b)] for i in range(b)]
    M = m or b * b / sum(map(sum, alike))
    expected = dict.fromkeys((f"{part}_{name}" for name in MODALITIES.values() for part in ("in", "between")), 0.0)
    for name, a, o in (("image", f, f), ("text", g, g), ("image_text", f, g)):
        for i in range(b):
            for j in range(b):
                far = sum((a[i] - o[j]) ** 2)
                Y = (1 + cosine(a[i], o[j])) / 2 if kernel == "cosine" else math.exp(-far / (2 * 2.0**2))
                D = alike[i][j]
                expected[f"in_{name}"] += (D * Y - 1) ** 2 if clamp else -D * Y
                expected[f"between_{name}"] += (Y * Y if clamp else Y) / M
    config = dnph_qmi.Config(M=m, kernel=kernel, sigma=2, square_clamp=clamp)
    S = similar(torch.from_numpy(labels), torch.from_numpy(labels))
    total, terms = dnph_qmi.step_loss(torch.from_numpy(f), torch.from_numpy(g), S, config)
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected, rel=1e-8, abs=1e-9)
    assert float(total) == pytest.approx(sum(expected.values()), rel=1e-8, abs=1e-9)


DNPH = CLIP.cases("DNPH")


@pytest.mark.parametrize("case", DNPH)
def test_the_authors_values_of_dnph(case: str) -> None:
    """Without the class heads (difference 3): their two terms are taken off, and reach no code."""
    expected = copy.deepcopy(DNPH[case])
    labels = CLIP.tensor("L")[torch.from_numpy(CLIP.batch())]
    f, g, proxies = (CLIP.tensor(name).requires_grad_() for name in ("f", "g", "P"))
    weight, noise = expected["hyper"]["uniformity weight w"], CLIP.tensor("noise")
    config = dnph.Config(margin=expected["hyper"]["mrg"], uniformity=weight)
    total, terms = dnph.step_loss(f, g, proxies, labels, noise, config)
    heads = expected["terms"].pop("class image") + expected["terms"].pop("class text")
    assert float(total.detach()) + heads == pytest.approx(expected["total"], rel=1e-8)
    named = {"proxy (both modalities)": float(terms.pop("proxy_image") + terms.pop("proxy_text")) / 2}
    named |= {name.replace("_", " "): float(value) for name, value in terms.items()}
    assert named == pytest.approx(expected["terms"], rel=1e-8)
    for name, codes in (("image", f), ("text", g)):
        rows = expected["extra"][f"noise row assigned to {name} 0..11"]
        assert dnph.assigned(codes, noise).tolist() == rows
    total.backward()  # type: ignore[no-untyped-call]
    for name, codes in (("f (image codes)", f), ("g (text codes)", g), ("P (proxies)", proxies)):
        golden.assert_gradient(codes.grad, expected["grads"].pop(name))
    assert all(name.startswith("logit") for name in expected["grads"])
    assert len(DNPH) == len(CLIP.file["methods"]["DNPH"]["cases"]) == 3


@settings(max_examples=30, deadline=None)
@given(**sizes, margin=st.sampled_from([0.0, 1.0]), weight=st.sampled_from([0.0, 0.5]))
def test_dnph_equals_loops(b: int, bits: int, classes: int, seed: int, margin: float, weight: float) -> None:
    """And the assignment the best of all."""
    f, g, proxies, labels = drawn(b, bits, classes, seed)
    noise = np.sign(np.random.default_rng(seed + 1).standard_normal((b, bits)))
    rows = []
    for codes in (f, g):
        for i in range(b):
            costs = [2 - 2 * cosine(codes[i], p) + margin * labels[i, c] for c, p in enumerate(proxies)]
            whole = sum(math.exp(-cost) for cost in costs)
            rows.append(-sum(math.log(math.exp(-costs[c]) / whole) for c in range(classes) if labels[i, c]))
    expected = mean(rows)
    config = dnph.Config(margin=margin, uniformity=weight)
    inputs = [torch.from_numpy(one) for one in (f, g, proxies, labels)]
    total, terms = dnph.step_loss(inputs[0], inputs[1], inputs[2], inputs[3], torch.from_numpy(noise), config)
    assert float(terms["proxy_image"] + terms["proxy_text"]) / 2 == pytest.approx(expected, rel=1e-8, abs=1e-12)
    for name, codes in (("image", f), ("text", g)):
        best = min(
            itertools.permutations(range(b)),
            key=lambda order, codes=codes: sum(math.dist(codes[i], noise[row]) for i, row in enumerate(order)),
        )
        near = mean([float(sum(codes[i] * noise[row])) for i, row in enumerate(best)])
        found = dnph.assigned(torch.from_numpy(codes), torch.from_numpy(noise)).tolist()
        lengths = [sum(math.dist(codes[i], noise[row]) for i, row in enumerate(order)) for order in (best, found)]
        assert lengths[1] == pytest.approx(lengths[0], rel=1e-12)
        assert sorted(found) == list(range(b))
        if found == list(best):
            assert float(terms[f"uniformity_{name}"]) == pytest.approx(near, rel=1e-8, abs=1e-12)
        expected -= weight * float(terms[f"uniformity_{name}"])
    assert float(total) == pytest.approx(expected, rel=1e-8, abs=1e-12)


def test_fixed_proxies_of_dnph_and_its_noise() -> None:
    """The paper's point: proxies that no step moves, and rows that are drawn anew; the same run again."""
    module = methods.get("dnph")
    values = {"bits": 8, "epochs": 2, "threads": 1, "batch_size": 32, "lr_proxies": 0, "uniformity": 0.1}
    first, second = (training.fit(module, *training.parse(module, values), tiny()) for _ in range(2))
    one, other = (fitted.method.proxies for fitted in (first, second))  # type: ignore[attr-defined]
    assert torch.equal(one, other)
    assert not one.requires_grad
    assert "proxies" not in first.method.state()["nets"]  # type: ignore[operator]
    assert [epoch.terms for epoch in first.curve] == [epoch.terms for epoch in second.curve]
    assert set(first.curve[0].terms) == {
        "loss",
        *(f"{kind}_{of}" for kind in ("proxy", "uniformity") for of in ("image", "text")),
    }


@settings(max_examples=30, deadline=None)
@given(
    **sizes,
    vartheta=st.sampled_from([0.05, 0.5, 1.0]),
    distance=st.sampled_from(["euclidean", "cosine"]),
    power=st.sampled_from([1, 2]),
)
def test_dchmt_equals_loops(
    b: int, bits: int, classes: int, seed: int, vartheta: float, distance: str, power: int
) -> None:
    f, g, _, labels = drawn(b, bits, classes, seed)
    u, v = ([[p for h in row for p in ((1 - h) / 2, (1 + h) / 2)] for row in codes] for codes in (f, g))
    m = 1.0 if distance == "cosine" else math.sqrt(2 * bits * vartheta)
    kinds = {"image_text": (u, v), "image": (u, u), "text": (v, v)}
    expected = dict.fromkeys((f"{part}_{name}" for name in kinds for part in ("similar", "others")), 0.0)
    for name, (a, o) in kinds.items():
        for i in range(b):
            for j in range(b):
                if distance == "cosine":
                    d = 1 - cosine(np.array(a[i]), np.array(o[j]))
                    near = max(0.0, d - 0.1)
                else:
                    d = near = math.dist(a[i], o[j])
                if any(labels[i] * labels[j]):
                    expected[f"similar_{name}"] += near**power / b**2
                else:
                    expected[f"others_{name}"] += (m - min(d, m)) ** power / b**2
    config = dchmt.Config(vartheta=vartheta, distance=distance, power=power)
    S = similar(torch.from_numpy(labels), torch.from_numpy(labels))
    codes = (two_way(torch.from_numpy(one)) for one in (f, g))
    total, terms = dchmt.step_loss(*codes, S, dchmt.largest(bits, config), config)
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected, rel=1e-8, abs=1e-9)
    assert float(total) == pytest.approx(sum(expected.values()), rel=1e-8, abs=1e-9)


def test_a_bit_of_dchmt_is_the_larger_of_two_and_distances_are_hamming() -> None:
    draw = torch.Generator().manual_seed(2)
    logits = torch.randn(5, 12, generator=draw, dtype=torch.float64)
    outputs = Select()(logits)
    assert torch.equal(outputs > 0, logits[:, 1::2] > logits[:, ::2])
    assert torch.allclose(two_way(outputs), logits.reshape(5, 6, 2).softmax(2).reshape(5, 12))
    codes = torch.sign(outputs)
    hamming = (codes[:, None] != codes).sum(2)
    u = two_way(codes)
    terms = dchmt.step_loss(u, u, torch.ones(5, 5, dtype=torch.float64), 1.0, dchmt.Config())[1]
    assert float(terms["similar_image"]) == pytest.approx(2 * float(hamming.double().mean()), rel=1e-9)


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Loss]] = {
    "dchmt": lambda f, g, p, labels: dchmt.step_loss(
        two_way(f), two_way(g), similar(labels, labels), 2.0, dchmt.Config(power=1)
    ),
    "dsph": lambda f, g, p, labels: dsph.step_loss(f, g, p, labels, dsph.Config()),
    "dcgh": lambda f, g, p, labels: dcgh.step_loss(f, g, p, labels, dcgh.Config()),
    "dcgh own": lambda f, g, p, labels: dcgh.step_loss(f, g, p, labels, dcgh.Config(variance="own")),
    "dnph": lambda f, g, p, labels: dnph.step_loss(f, g, p, labels, torch.ones(3, 4), dnph.Config(uniformity=1)),
    "dhaph": lambda f, g, p, labels: dhaph.step_loss(f, g, similar(labels, labels), tau=0.01, delta=1),
    "dnph_qmi": lambda f, g, p, labels: dnph_qmi.step_loss(f, g, similar(labels, labels), dnph_qmi.Config()),
    "dnph_qmi gaussian": lambda f, g, p, labels: dnph_qmi.step_loss(
        f, g, similar(labels, labels), dnph_qmi.Config(kernel="gaussian")
    ),
}


@pytest.mark.parametrize("shared", [True, False], ids=["one label for all", "a label each"])
@pytest.mark.parametrize("value", [0.0, 1e-20, 1.0, -1.0])
@pytest.mark.parametrize("name", LOSSES)
def test_limits_are_finite(name: str, value: float, shared: bool) -> None:
    """Equal outputs, bits all dropped, nothing to average over; float32, the smallest τ."""
    f, g = (torch.full((3, 4), size, requires_grad=True) for size in (value, abs(value)))
    labels = torch.ones(3, 1) if shared else torch.eye(3)
    proxies = torch.ones(labels.shape[1], 4, requires_grad=True)
    loss, parts = LOSSES[name](f, g, proxies, labels)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(bool(torch.isfinite(part)) and not part.requires_grad for part in (loss.detach(), *parts.values()))
    assert all(bool(torch.isfinite(codes.grad).all()) for codes in (f, g) if codes.grad is not None)


def test_the_weights_of_dhaph_are_constants_and_rise_over_a_third() -> None:
    assert [dhaph.delta(epoch, 100) for epoch in (1, 33, 50)] == [1 / 33, 1.0, 1.0]
    assert [dhaph.delta(epoch, 2) for epoch in (1, 2)] == [1.0, 1.0]
    s = torch.tensor([[0.5, -0.2]], dtype=torch.float64, requires_grad=True)
    S = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    (slope,) = torch.autograd.grad(dhaph.contrast(s, S, tau=0.3, delta=1), s)
    with torch.no_grad():
        logits = s / 0.3 + torch.tensor([[-(1 + 0.5) / 4, -(1 + 0.2)]])
        share = logits.softmax(1)
    assert torch.allclose(slope, (share - S) / 0.3)


def test_shared_terms() -> None:
    draw = torch.Generator().manual_seed(1)
    f, g = (torch.randn(4, 3, generator=draw) for _ in range(2))
    assert torch.allclose(pair_cosines(f, g)["image_text"], torch.cosine_similarity(f[:, None], g[None], dim=2))
    assert float(mean_where(f, torch.zeros(4, 3))) == 0
    assert float(mean_where(f, torch.ones(4, 3))) == pytest.approx(float(f.mean()), rel=1e-5)
    terms = proxy_terms(f, g, torch.eye(3), torch.ones(4, 3))
    assert all(float(terms[name]) == 0 for name in terms if not name.startswith("near"))


def test_the_head_drops_bits() -> None:
    torch.manual_seed(0)
    layers = head(6, 0, 8, dropout=0.5)
    assert [type(layer) for layer in layers.modules()][2:] == [nn.Linear, nn.Dropout, nn.Tanh]
    outputs = layers.train()(torch.randn(50, 6))
    assert 0.3 < float((outputs == 0).float().mean()) < 0.7
    assert bool((layers.eval()(torch.randn(50, 6)) != 0).all())
    assert sum(isinstance(layer, nn.Linear) for layer in head(6, 5, 8, dropout=0.0).modules()) == 2


@pytest.mark.parametrize("name", ["dsph", "dcgh", "dnph"])
def test_proxies_are_trained_by_their_own_rate_and_belong_to_the_state(name: str) -> None:
    module = methods.get(name)
    values = {"bits": 8, "epochs": 2, "threads": 1, "hidden_image": 16, "hidden_text": 16, "batch_size": 32}

    def fitted(**more: float) -> Any:
        return training.fit(module, *training.parse(module, {**values, **more}), tiny()).method

    still = fitted(lr_proxies=1e-12)
    moved = fitted(lr_image=1e-12, lr_text=1e-12)
    assert moved.proxies.shape == (tiny().train.labels.shape[1], 8)
    assert not torch.allclose(moved.proxies, still.proxies, atol=1e-4)
    assert moved.state()["nets"]["proxies"].table is moved.proxies
    assert "proxies" in moved.state()["optimizers"]
    if name == "dcgh":
        assert float(still.proxies.detach().abs().max()) < 1


@pytest.mark.parametrize("name", ["dchmt", "dsph", "dcgh", "dhaph", "dnph", "dnph_qmi"])
def test_outputs_are_bounded_and_both_nets_learn(name: str) -> None:
    module = methods.get(name)
    values = {"bits": 8, "epochs": 2, "threads": 1, "hidden_image": 16, "hidden_text": 16, "batch_size": 17}
    run, config = training.parse(module, values)
    method: Any = training.fit(module, run, config, tiny()).method
    slow = training.parse(module, {**values, "lr_image": 1e-12, "lr_text": 1e-12})
    start: Any = training.fit(module, *slow, tiny()).method
    for modality, features in (("image", tiny().train.image), ("text", tiny().train.text)):
        outputs = getattr(method, f"encode_{modality}")(torch.from_numpy(features)).detach()
        assert float(outputs.abs().max()) <= 1
        pairs = zip(method.pair.nets[modality].parameters(), start.pair.nets[modality].parameters(), strict=True)
        assert all(not torch.allclose(now, before, atol=1e-6) for now, before in pairs)
