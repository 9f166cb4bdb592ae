"""DCHUC: the authors' values, and its codes against trying every bit."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cmh import methods, training
from cmh.losses import similar
from cmh.methods import dchuc
from cmh.nets import unified
from cmh.nets.unified import UnifiedCodes
from tests import golden
from tests.golden import CLIP
from tests.test_training import tiny

CASES = CLIP.cases("DCHUC")
SHARES = {
    "asymmetric pairs": "codes",
    "batch pairs (times mu)": "pairs",
    "labels (times alpha)": "labels",
    "quantisation (times gamma)": "quantisation",
}
SMALL = {"bits": 8, "epochs": 3, "threads": 1, "hidden_image": 16, "hidden_text": 16}


def sampled() -> Tensor:
    """The items that an epoch of the authors' code is on: the first batch, then the second."""
    return torch.from_numpy(np.concatenate([CLIP.batch(1), CLIP.batch(2)]))


@pytest.mark.parametrize("case", ["image_step", "text_step"])
def test_the_authors_values_of_a_step(case: str) -> None:
    expected, hyper = CASES[case], CASES[case]["hyper"]
    names = ("f", "g") if case == "image_step" else ("g", "f")
    u, others, labels = CLIP.tensor(names[0]).requires_grad_(), CLIP.tensor(names[1]), CLIP.tensor("L")
    V, index = torch.sign(CLIP.tensor("F") + CLIP.tensor("G")), torch.from_numpy(CLIP.batch())
    r = unified.ratio(labels[sampled()], labels)
    assert r == pytest.approx(expected["extra"]["r (value of a dissimilar pair is -r)"])
    S = unified.centred(similar(labels[index], labels), r)
    T = S[:, : len(index)]  # of the items at the batch's places
    for found, name in ((S, "S first row"), (T, "S_1 first row")):
        assert found[0, :8].tolist() == pytest.approx(expected["extra"][name])
    weights = {name: hyper[name] for name in ("gamma", "alpha", "mu")}
    config = dchuc.Config(**weights)
    assert (hyper["code_length"], hyper["num_train"]) == (u.shape[1], len(labels))
    total, terms = dchuc.step_loss(u, others, V, V[index], S, T, CLIP.tensor("W3"), labels[index], config)
    assert float(total.detach()) == pytest.approx(expected["total"], rel=1e-8)
    times = {"codes": 1, "pairs": config.mu, "labels": config.alpha, "quantisation": config.gamma}
    named = {theirs: times[ours] * float(terms[ours]) for theirs, ours in SHARES.items()}
    assert named == pytest.approx(expected["terms"], rel=1e-8)
    total.backward()  # type: ignore[no-untyped-call]
    (gradient,) = expected["grads"].values()
    golden.assert_gradient(u.grad, gradient)


def codes_of(V: Tensor, W: Tensor, F: Tensor, G: Tensor, r: float) -> UnifiedCodes:
    codes = UnifiedCodes.__new__(UnifiedCodes)
    codes.V, codes.W, codes.outputs, codes.r = V.clone(), W.clone(), {"image": F, "text": G}, r
    return codes


def test_the_authors_update() -> None:
    expected = CASES["update_V_and_W"]
    labels, V = CLIP.tensor("L"), torch.sign(CLIP.tensor("F") + CLIP.tensor("G"))
    F, G = torch.zeros_like(V), torch.zeros_like(V)
    F[sampled()], G[sampled()] = (torch.cat([CLIP.tensor(n), CLIP.tensor(f"{n}2")]) for n in ("f", "g"))
    codes = codes_of(V, CLIP.tensor("W3"), F, G, unified.ratio(labels[sampled()], labels))
    hyper = expected["hyper"]
    weights = {"gamma": hyper["gamma"], "alpha": hyper["alpha"], "beta": hyper["beta"], "eta": hyper["yita"]}
    codes.update(labels, **weights, times=2)
    assert float(codes.V.sum()) == expected["total"] == expected["extra"]["V sum"]
    assert int((codes.V != V).sum()) == expected["terms"]["bits changed"]
    text = ["".join("1" if bit > 0 else "0" for bit in row) for row in codes.V[:6].tolist()]
    assert text == expected["extra"]["V first 6 rows"]
    assert float(codes.W.norm()) == pytest.approx(expected["terms"]["W norm"], rel=1e-8)
    assert codes.W.flatten()[:3].tolist() == pytest.approx(expected["extra"]["W first3"], rel=1e-8)
    assert len(CLIP.file["methods"]["DCHUC"]["cases"]) == len(CASES) == 3


def objective(V: Any, W: Any, F: Any, G: Any, labels: Any, config: dchuc.Config) -> float:
    """J without the term of μ, entry by entry."""
    shared = labels @ labels.T > 0
    r = shared.sum() / (~shared).sum() if (~shared).any() else 0
    total = config.eta * float((W**2).sum())
    for out in (F, G):
        for i, j in itertools.product(range(len(V)), repeat=2):
            total += (out[i] @ V[j] - V.shape[1] * (1 if shared[i, j] else -r)) ** 2
        total += config.alpha * float(((out @ W - labels) ** 2).sum())
    total += config.gamma * float(((V - (F + G) / 2) ** 2).sum())
    return float(total + config.beta * ((V @ W - labels) ** 2).sum())


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 5),
    bits=st.integers(1, 4),
    classes=st.integers(1, 3),
    seed=st.integers(0, 999),
    start=st.booleans(),
)
def test_every_renewed_bit_and_w_make_j_smallest(n: int, bits: int, classes: int, seed: int, start: bool) -> None:
    rng = np.random.default_rng(seed)
    F, G = np.tanh(rng.standard_normal((2, n, bits)))
    labels = (rng.random((n, classes)) < 0.5).astype(float)
    W, V = rng.standard_normal((bits, classes)), np.sign(rng.standard_normal((n, bits))) * start
    config = dchuc.Config(gamma=3, alpha=2, beta=5, eta=0.7)
    r = unified.ratio(*2 * [torch.from_numpy(labels)])
    codes = codes_of(*map(torch.from_numpy, (V, W, F, G)), r)
    codes.update(torch.from_numpy(labels), gamma=3, alpha=2, beta=5, eta=0.7)
    for k in range(bits):  # one bit of one item after another: items do not hang on each other
        for i in range(n):
            values = []
            for bit in (1.0, -1.0):
                V[i, k] = bit
                values.append(objective(V, W, F, G, labels, config))
            if abs(values[0] - values[1]) < 1e-9 * abs(values[0]):
                V[i, k] = codes.V[i, k]
            else:
                V[i, k] = 1.0 if values[0] < values[1] else -1.0
    assert np.array_equal(codes.V.numpy(), V)
    best = objective(V, codes.W.numpy(), F, G, labels, config)
    for _ in range(3):
        assert objective(V, codes.W.numpy() + 0.01 * rng.standard_normal(W.shape), F, G, labels, config) > best


def test_s_adds_up_to_nothing_however_it_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.from_numpy((np.random.default_rng(0).random((7, 4)) < 0.3).astype(np.float64))
    H = torch.randn(7, 3, dtype=torch.float64)
    r = unified.ratio(labels, labels)
    S = unified.centred(similar(labels, labels), r)
    assert float(S.sum()) == pytest.approx(0, abs=1e-9)
    for rows in (2, 7, 2048):
        monkeypatch.setattr(unified, "ROWS", rows)
        assert unified.ratio(labels, labels) == pytest.approx(r)
        assert torch.allclose(unified.weighed(labels, H, r), S @ H)
    alike = torch.ones(3, 2)
    assert unified.ratio(alike, alike) == 0
    assert bool((unified.centred(similar(alike, alike), unified.ratio(alike, alike)) == 1).all())


def fitted(**more: Any) -> Any:
    module = methods.get("dchuc")
    return training.fit(module, *training.parse(module, {**SMALL, **more}), tiny())


def test_options_change_what_is_trained() -> None:
    """And the authors' point trains, too."""
    texts = torch.from_numpy(tiny().train.text)
    plain = fitted()
    for more in ({"between": "places"}, {"update": "twice"}, {"passes": 2}, {"dropout": 0.5}, {"optimizer": "sgd"}):
        assert not torch.equal(fitted(**more).method.encode_text(texts), plain.method.encode_text(texts)), more
    method = plain.method
    assert set(method.codes.V.unique().tolist()) == {-1.0, 1.0}
    assert float(method.codes.outputs["image"].abs().max()) <= 1
    assert {name.partition("_")[2] for name in plain.curve[0].terms} == {"loss", *SHARES.values()}
    of_places = [fitted(between="places", epochs=1).curve[0].terms["image_pairs"] for _ in range(2)]
    assert of_places[0] == of_places[1]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_one_label_for_all_is_finite(value: float) -> None:
    labels, full = torch.ones(3, 1), torch.full((3, 4), value)
    codes = codes_of(torch.zeros(3, 4), torch.zeros(4, 1), full, -full, unified.ratio(labels, labels))
    codes.update(labels, gamma=200, alpha=50, beta=1, eta=50)
    assert bool(torch.isfinite(codes.W).all())
    assert set(codes.V.unique().tolist()) <= {-1.0, 1.0}
