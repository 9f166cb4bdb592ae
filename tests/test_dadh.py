"""DADH against the authors' code, against explicit loops, and what is its own: gains, the regression of B."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cmh.datasets import Arrays
from cmh.losses import cosine_triplets, sign, similar
from cmh.methods import dadh
from cmh.nets.critics import critic_loss
from tests import golden
from tests.direct import built
from tests.test_training import tiny

CASES = golden.cases("DADH")
CRITICS = [case for case in CASES if case.startswith("discriminator_")]
LOSSES = [case for case in CASES if case not in (*CRITICS, "update_B")]
LEFT_OUT: dict[str, str] = {}  # case → reason; none is
INDEX = torch.from_numpy(golden.batch())
EFFECTIVE = "beta (after the +0.1 of main.py:19)"


def start_of_codes() -> torch.Tensor:
    return sign(golden.tensor("F_raw") + golden.tensor("G_raw"))


def discriminator(first: torch.Tensor, second: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """D(x) = relu(x W1ᵀ) W2ᵀ as the recipe has it."""
    return torch.relu(x @ first.T) @ second.T


def test_every_case_of_the_file_is_covered() -> None:
    assert sorted([*LOSSES, *CRITICS, "update_B", *LEFT_OUT]) == sorted(CASES)
    assert (len(LOSSES), len(CRITICS)) == (3, 2)


@pytest.mark.parametrize("case", LOSSES)
def test_golden_loss(case: str) -> None:
    expected = CASES[case]
    hyper = expected["hyper"]
    leaves = {name: golden.tensor(name).requires_grad_() for name in ("f", "g", "sT")}
    again = golden.tensor("g").requires_grad_()  # the text codes made from features without gradient
    loss, terms = dadh.step_loss(
        leaves["f"],
        leaves["g"],
        start_of_codes()[INDEX],
        discriminator(golden.tensor("DW1"), golden.tensor("DW2"), leaves["sT"]),
        discriminator(golden.tensor("HW1"), golden.tensor("HW2"), again),
        golden.tensor("L")[INDEX],
        dadh.Config(
            alpha=hyper["alpha"],
            beta=hyper[EFFECTIVE] - 0.1,
            gamma=hyper["gamma"],
            margin=hyper["margin"],
            weighted=hyper["alpha"] == 10,  # what turns the weights on in the code
        ),
    )
    loss.backward()
    assert float(loss.detach()) == pytest.approx(expected["total"], rel=1e-8)
    names = ("tri_i2t", "tri_t2i", "i_ql", "t_ql", "loss_adver_feature", "loss_adver_hash")
    ours = dict(zip(names, (float(term) for term in terms.values()), strict=True))
    assert ours == pytest.approx(expected["terms"], rel=1e-8)
    assert len(expected["grads"]) == 4
    for key, value in expected["grads"].items():
        leaf = again if "via generate_txt_code" in key else leaves[key.split(" ")[0]]
        golden.assert_gradient(leaf.grad, value)


@pytest.mark.parametrize("case", CRITICS)
def test_golden_critic(case: str) -> None:
    expected = CASES[case]
    feature = case.endswith("feature")
    names = ("DW1", "DW2", "sI", "sT", "aF") if feature else ("HW1", "HW2", "f", "g", "aH")
    first, second, real, fake, mix = (golden.tensor(name) for name in names)
    weights = [first.requires_grad_(), second.requires_grad_()]
    weight = expected["hyper"]["gamma"]
    loss, terms = critic_loss(lambda x: discriminator(*weights, x), real, fake, mix, kind="logistic", weight=weight)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(expected["total"], rel=1e-8)
    ours = [weight * float(terms["real"]), weight * float(terms["fake"]), float(terms["penalty"])]
    assert ours == pytest.approx(list(expected["terms"].values()), rel=1e-8)
    assert len(expected["grads"]) == 2
    for leaf, name in zip(weights, ("W1", "W2"), strict=True):
        golden.assert_gradient(leaf.grad, expected["grads"][name])


def test_golden_update_of_codes() -> None:
    expected = CASES["update_B"]
    B, H = start_of_codes(), torch.zeros_like(golden.tensor("F"))
    for name, row in (("F", "f"), ("G", "g")):
        codes = golden.tensor(name)
        codes[INDEX] = golden.tensor(row)
        H += codes
    P, found = dadh.updated_codes(B, H, golden.tensor("L"), ridge=expected["hyper"]["lamb"], mu=expected["hyper"]["mu"])
    assert float(P.norm()) == pytest.approx(expected["terms"]["P_norm"], rel=1e-8)
    assert P.flatten()[:3].tolist() == pytest.approx(expected["extra"]["P_first3"], rel=1e-8)
    assert float(found.sum()) == expected["total"] == expected["terms"]["B_sum"]
    assert int((found != B).sum()) == expected["terms"]["n_changed"]
    rows = expected["extra"]["B_rows_0_4"]
    assert ["".join("01"[bit > 0] for bit in row) for row in found[: len(rows)].tolist()] == rows


def slow_gains(labels: np.ndarray) -> np.ndarray:
    n = len(labels)
    shared = [[sum(x and y for x, y in zip(labels[a], labels[p], strict=True)) for p in range(n)] for a in range(n)]
    weights = np.zeros((n, n))
    for a in range(n):
        ranked = sorted(shared[a], reverse=True)
        best = sum((2**r - 1) / np.log2(k + 2) for k, r in enumerate(ranked))
        for p in range(n):
            weights[a, p] = (2 ** shared[a][p] - 1) / best if best else 0
    return weights


@settings(max_examples=40, deadline=None)
@given(b=st.integers(1, 6), n_labels=st.integers(1, 5), seed=st.integers(0, 999))
def test_gains_equal_loops(b: int, n_labels: int, seed: int) -> None:
    labels = (np.random.default_rng(seed).random((b, n_labels)) < 0.5).astype(float)
    assert np.allclose(dadh.gains(torch.from_numpy(labels)).numpy(), slow_gains(labels), rtol=1e-12)


@settings(max_examples=25, deadline=None)
@given(b=st.integers(1, 5), bits=st.integers(1, 4), seed=st.integers(0, 999), weighted=st.booleans())
def test_step_loss_equals_loops(b: int, bits: int, seed: int, weighted: bool) -> None:
    rng = np.random.default_rng(seed)
    image, text = np.tanh(rng.standard_normal((2, b, bits)))
    B = np.where(rng.random((b, bits)) < 0.5, -1.0, 1.0)
    feature, code = rng.standard_normal((2, b))
    labels = (rng.random((b, 3)) < 0.5).astype(float)
    alpha, beta, gamma, margin = 3.0, 0.7, 0.6, 0.5
    scale = beta * gamma + 0.1
    weights = 10 * scale * scale * slow_gains(labels) if weighted else np.full((b, b), scale)
    S = similar(torch.from_numpy(labels), torch.from_numpy(labels))
    codes = torch.from_numpy(image), torch.from_numpy(text)
    about = {"margin": margin, "weights": torch.from_numpy(weights)}  # equals loops: test_triplets.py
    expected = {
        "triplets_image": float(cosine_triplets(*codes, S, **about)),  # type: ignore[arg-type]
        "triplets_text": float(cosine_triplets(*codes[::-1], S, **about)),  # type: ignore[arg-type]
        "quantisation_image": sum((B[i, k] - image[i, k]) ** 2 for i in range(b) for k in range(bits)),
        "quantisation_text": sum((B[i, k] - text[i, k]) ** 2 for i in range(b) for k in range(bits)),
        "adversary_feature": sum(np.log(1 + np.exp(-x)) for x in feature) / b,
        "adversary_hash": sum(np.log(1 + np.exp(-x)) for x in code) / b,
    }
    loss, terms = dadh.step_loss(
        *map(torch.from_numpy, (image, text, B, feature, code, labels)),
        dadh.Config(alpha=alpha, beta=beta, gamma=gamma, margin=margin, weighted=weighted),
    )
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(expected, rel=1e-9, abs=1e-9)
    factors = (alpha, alpha, beta + 0.1, beta + 0.1, gamma, gamma)
    total = sum(factor * value for factor, value in zip(factors, expected.values(), strict=True))
    assert float(loss) == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [1, 16])
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
@pytest.mark.parametrize("labels", [torch.zeros(4, 3), torch.ones(4, 3), torch.eye(4, 3)], ids=["none", "all", "some"])
def test_limits_are_finite(labels: torch.Tensor, value: float, bits: int, dtype: torch.dtype) -> None:
    image = torch.full((4, bits), value, dtype=dtype, requires_grad=True)
    text = torch.full((4, bits), -value, dtype=dtype, requires_grad=True)
    critic = torch.full((4,), -1e4, dtype=dtype, requires_grad=True)
    config = dadh.Config(alpha=10.0, beta=1.0, gamma=1.0, margin=0.4, weighted=True)
    loss, terms = dadh.step_loss(image, text, sign(image.detach()), critic, critic, labels.to(dtype), config)
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert all(bool(torch.isfinite(term)) for term in terms.values())
    for it in (image, text, critic):
        assert it.grad is not None
        assert bool(torch.isfinite(it.grad).all())


def test_the_regression_equals_the_formula() -> None:
    draw = torch.Generator().manual_seed(0)
    L, B = torch.rand(20, 4, generator=draw).lt(0.4).double(), sign(torch.randn(20, 5, generator=draw).double())
    H = torch.randn(20, 5, generator=draw).double()
    P, found = dadh.updated_codes(B, H, L, ridge=0.3, mu=2.0)
    expected = torch.linalg.inv(L.T @ L + 0.3 * torch.eye(4).double()) @ L.T @ B
    assert torch.allclose(P, expected)
    assert torch.equal(found, sign(L @ expected + H))


def test_same_labels_same_row_unless_mu_is_large() -> None:
    """Bits in which two items with the same labels agree; with a small μ only ties of L P are left to the codes."""
    agree = {}
    for mu in (1e-5, 1e4):
        method, epoch = built("dadh", mu=mu, bits=64)
        epoch(1)
        labels = method.labels
        same = [(i, j) for i in range(40) for j in range(i) if torch.equal(labels[i], labels[j])]
        assert len(same) > 10
        agree[mu] = float(torch.stack([(method.B[i] == method.B[j]).float().mean() for i, j in same]).mean())
    assert agree[1e-5] > 0.95
    assert agree[1e4] < 0.85


def test_b_is_that_of_the_pass() -> None:
    """With a large μ, B is the sign of the sum of both codes; the nets stand still."""
    method, epoch = built("dadh", mu=1e4, lr_image=1e-30, lr_text=1e-30, weight_decay=0.0, batch_size=999)
    epoch(1)
    with torch.no_grad():  # still in training mode: one batch, so its statistics are those of the set
        H = sum(
            method.team.nets[f"{name}_hash"](method.team.nets[name](getattr(method.setup, name).float()))
            for name in dadh.MODALITIES
        )
    sure = H.abs() > 1e-2
    assert torch.equal(method.B[sure], sign(H)[sure])


def test_the_adversary_of_codes_trains_the_texts_hash_layer_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other term is cut off: of all nets but the discriminators only that layer moves."""
    real = dadh.step_loss

    def only_codes(*arguments: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        _, terms = real(*arguments)
        return nn.functional.softplus(-arguments[4]).mean(), terms

    monkeypatch.setattr(dadh, "step_loss", only_codes)
    method, epoch = built("dadh", weight_decay=0.0)
    before = {name: [p.clone() for p in net.parameters()] for name, net in method.team.nets.items()}
    epoch(1)
    moved = {
        name
        for name, net in method.team.nets.items()
        if any(not torch.equal(old, new) for old, new in zip(before[name], net.parameters(), strict=True))
    }
    assert moved == {"text_hash", "feature_critic", "hash_critic"}


def test_statistics_move_once_a_step() -> None:
    method, epoch = built("dadh")
    epoch(1)
    for name in dadh.MODALITIES:
        counts = [int(m.num_batches_tracked) for m in method.team.nets[name].modules() if isinstance(m, nn.BatchNorm1d)]
        assert counts == [4, 4, 4]  # 120 items, 32 a batch, three layers


def test_a_lone_item_is_learned_from() -> None:
    """A batch of one item: batch normalisation has nothing to normalise with, but steps are taken."""
    train = tiny().train
    method, epoch = built("dadh", items=Arrays(train.image[:1], train.text[:1], train.labels[:1]), bits=64)
    weight = method.team.nets["image_hash"][0].weight.clone()
    epoch(1)
    assert not torch.equal(method.team.nets["image_hash"][0].weight, weight)
    assert torch.equal(
        method.team.nets["image"][1].running_mean, torch.zeros_like(method.team.nets["image"][1].running_mean)
    )


def test_dropout_is_in_the_towers_and_off_at_encoding() -> None:
    method, epoch = built("dadh", dropout=0.5)
    epoch(1)
    assert sum(isinstance(m, nn.Dropout) for m in method.team.nets["text"].modules()) == 3
    text = torch.from_numpy(tiny().train.text)
    assert torch.equal(method.encode_text(text), method.encode_text(text))
