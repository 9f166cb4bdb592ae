"""AGAH against the author's code, against explicit loops, and what is its own: attention, label codes, critics."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from cmh.losses import cosine_triplets, sign, similar
from cmh.methods import agah
from cmh.nets.critics import critic_loss
from tests import golden
from tests.direct import built

CASES = golden.cases("AGAH")
LOSSES = [case for case in CASES if case in ("published_defaults", "all_weights_on")]
CRITICS = [case for case in CASES if case.startswith("discriminator_")]
OTHERS = ["attention_masked_features", "update_code_map", "update_feature_map"]
LEFT_OUT: dict[str, str] = {
    "triplet_cos_mean": "variant: the mean over triplets with a loss, which training does not use",
    "triplet_euclidean_mean": "variant: Euclidean distances and a mean, which training does not use",
}
INDEX = torch.from_numpy(golden.batch())
WEIGHTS = ("alpha", "beta", "gamma", "eta", "mu", "margin")


def tiny_critic(modality: str) -> tuple[Any, list[torch.Tensor]]:
    """D(x) = relu(x W1ᵀ) W2ᵀ as the recipe has it, and its weights."""
    first, second = golden.tensor("DW1"), golden.tensor("DW2")
    if modality == "text":
        first = 0.5 * first.flip(0)
    weights = [first.requires_grad_(), second.requires_grad_()]
    return lambda x: torch.relu(x @ weights[0].T) @ weights[1].T, weights


def buffers(names: tuple[str, str], rows: tuple[str, str]) -> list[torch.Tensor]:
    full = [golden.tensor(name) for name in names]
    for buffer, row in zip(full, rows, strict=True):
        buffer[INDEX] = golden.tensor(row)
    return full


def test_every_case_of_the_file_is_covered() -> None:
    assert sorted([*LOSSES, *CRITICS, *OTHERS, *LEFT_OUT]) == sorted(CASES)
    assert (len(LOSSES), len(CRITICS)) == (2, 2)


@pytest.mark.parametrize("case", LOSSES)
def test_golden_loss(case: str) -> None:
    expected = CASES[case]
    leaves = {name: golden.tensor(name).requires_grad_() for name in ("f", "g", "sI", "sT", "pI", "pT")}
    image_critic, text_critic = tiny_critic("image")[0], tiny_critic("text")[0]
    loss, terms = agah.step_loss(
        leaves["f"],
        leaves["g"],
        torch.logit(leaves["pI"]),
        torch.logit(leaves["pT"]),
        text_critic(leaves["sI"]),
        image_critic(leaves["sT"]),
        golden.tensor("L")[INDEX],
        golden.tensor("CM"),
        agah.Config(**{name: expected["hyper"][name] for name in WEIGHTS}),
    )
    loss.backward()
    assert float(loss.detach()) == pytest.approx(expected["total"], rel=1e-8)
    names = ("loss1", "loss2", "loss3", "loss_class", "loss_code_map", "loss_quant", "loss_adver")
    ours = dict(zip(names, (float(term) for term in terms.values()), strict=True))
    assert ours == pytest.approx(expected["terms"], rel=1e-8)
    assert len(expected["grads"]) == len(leaves)
    for key, value in expected["grads"].items():
        golden.assert_gradient(leaves[key.split(" ")[0]].grad, value)


@pytest.mark.parametrize("case", CRITICS)
def test_golden_critic(case: str) -> None:
    expected = CASES[case]
    modality = "image" if case.endswith("img") else "text"
    critic, weights = tiny_critic(modality)
    real, fake = (golden.tensor(name) for name in (("sI", "sT") if modality == "image" else ("sT", "sI")))
    loss, terms = critic_loss(critic, real, fake, golden.tensor("aF"), kind="wasserstein")
    loss.backward()
    assert float(loss.detach()) == pytest.approx(expected["total"], rel=1e-8)
    assert [float(it) for it in terms.values()] == pytest.approx(list(expected["terms"].values()), rel=1e-8)
    assert [name.split(" ")[0] for name in expected["terms"]] == ["real", "fake", "gradient_penalty"]
    assert len(expected["grads"]) == 2
    for weight, name in zip(weights, ("W1", "W2"), strict=True):
        golden.assert_gradient(weight.grad, expected["grads"][name])


def test_golden_attention() -> None:
    """The features are scaled as the code does, by the norm of the batch; what follows is ours."""
    expected = CASES["attention_masked_features"]
    for name, modality in (("sI", "x"), ("sT", "y")):
        features = golden.tensor(name)
        found = agah.attend(features / features.norm(), golden.tensor("FM"), expected["hyper"]["lambd"])
        assert float(found.norm()) == pytest.approx(expected["terms"][f"norm_{modality}"], rel=1e-8)
        assert found.flatten()[:3].tolist() == pytest.approx(expected["extra"][f"{modality}_first3"], rel=1e-8)


def test_golden_code_map() -> None:
    expected = CASES["update_code_map"]
    U, V = (sign(buffer) for buffer in buffers(("F", "G"), ("f", "g")))
    before = golden.tensor("CM")
    found = agah.updated_code_map(before, golden.tensor("L").T @ (U + V), U.T @ U + V.T @ V)
    assert expected["hyper"]["bit"] == found.shape[1]
    assert float(found.sum()) == expected["total"] == expected["terms"]["sum"]
    assert int((found != before).sum()) == expected["terms"]["n_changed_vs_CM"]
    assert torch.equal(before, golden.tensor("CM"))
    rows = next(value for key, value in expected["extra"].items() if key.startswith("code_map_rows"))
    assert ["".join("01"[bit > 0] for bit in row) for row in found.tolist()] == rows


def test_golden_feature_map() -> None:
    """`average`, the mode that training uses; the code's other one (`max`) is never called."""
    expected = CASES["update_feature_map"]
    image, text = buffers(("SI", "ST"), ("sI", "sT"))
    found = agah.updated_feature_map(golden.tensor("L").T @ (image + text))
    assert float(found.sum()) == pytest.approx(expected["total"], rel=1e-8)
    assert expected["total"] == expected["terms"]["sum_average"]
    assert found.flatten()[:3].tolist() == pytest.approx(expected["extra"]["average_first3"], rel=1e-8)


@settings(max_examples=25, deadline=None)
@given(b=st.integers(1, 5), bits=st.integers(1, 4), n_labels=st.integers(1, 3), seed=st.integers(0, 999))
def test_step_loss_equals_loops(b: int, bits: int, n_labels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image, text = np.tanh(rng.standard_normal((2, b, bits)))
    classes = rng.standard_normal((2, b, n_labels))
    fooled = rng.standard_normal((2, b))
    labels = (rng.random((b, n_labels)) < 0.5).astype(float)
    code_map = np.where(rng.random((n_labels, bits)) < 0.5, -1.0, 1.0)
    weights = dict(zip(WEIGHTS, (0.7, 0.6, 0.3, 0.4, 0.9, 0.5), strict=True))
    terms = dict.fromkeys(("utilisation", "classes", "code_map", "quantisation"), 0.0)
    for codes, logits in zip((image, text), classes, strict=True):
        for i in range(b):
            length = sum(x * x for x in codes[i]) ** 0.5
            cosine = sum(abs(x) for x in codes[i]) / (length * bits**0.5)
            terms["utilisation"] += 1 / (1 + np.exp(cosine))
            for c in range(n_labels):
                p, y = 1 / (1 + np.exp(-logits[i, c])), labels[i, c]
                terms["classes"] -= np.log(p) if y else np.log(1 - p)
                dot = sum(codes[i, k] * code_map[c, k] for k in range(bits))
                terms["code_map"] += (dot - bits * (1 if y else -1)) ** 2
            terms["quantisation"] += sum((x - (1 if x >= 0 else -1)) ** 2 for x in codes[i])
    terms["adversary"] = -sum(fooled[0]) / b - sum(fooled[1]) / b
    arrays = (image, text, *classes, *fooled, labels, code_map)
    loss, found = agah.step_loss(*map(torch.from_numpy, arrays), agah.Config(**weights))
    S = similar(torch.from_numpy(labels), torch.from_numpy(labels))
    codes_pair = torch.from_numpy(image), torch.from_numpy(text)
    terms["triplets_image"] = float(cosine_triplets(*codes_pair, S, margin=0.5))  # equals loops: test_triplets.py
    terms["triplets_text"] = float(cosine_triplets(*codes_pair[::-1], S, margin=0.5))
    assert {name: float(value) for name, value in found.items()} == pytest.approx(terms, rel=1e-9, abs=1e-9)
    names = ("utilisation", "classes", "code_map", "quantisation", "adversary")
    total = sum(weights[weight] * terms[name] for weight, name in zip(WEIGHTS, names, strict=False))
    assert float(loss) == pytest.approx(total + terms["triplets_image"] + terms["triplets_text"], rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [1, 16])
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
@pytest.mark.parametrize("labels", [torch.zeros(4, 3), torch.ones(4, 3), torch.eye(4, 3)], ids=["none", "all", "some"])
def test_limits_are_finite(labels: torch.Tensor, value: float, bits: int, dtype: torch.dtype) -> None:
    image = torch.full((4, bits), value, dtype=dtype, requires_grad=True)
    text = torch.full((4, bits), -value, dtype=dtype, requires_grad=True)
    classes = torch.full((4, 3), 1e4 * value, dtype=dtype, requires_grad=True)
    critic = torch.full((4,), 1e4, dtype=dtype)
    map_ = torch.ones(3, bits, dtype=dtype)
    loss, terms = agah.step_loss(
        image,
        text,
        classes,
        classes,
        critic,
        critic,
        labels.to(dtype),
        map_,
        agah.Config(**dict.fromkeys(WEIGHTS, 1.0)),
    )
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert all(bool(torch.isfinite(term)) for term in terms.values())
    for it in (image, text, classes):
        assert it.grad is not None
        assert bool(torch.isfinite(it.grad).all())


def slow_code_map(M: torch.Tensor, U: torch.Tensor, V: torch.Tensor, L: torch.Tensor) -> torch.Tensor:
    """The sweep as the code writes it, with N-row products and M changing under way."""
    M, n_bits = M.clone(), M.shape[1]
    Q = 2 * n_bits * (L.T @ (U + V) + (2 * torch.eye(len(M)).to(M) - 1) @ M)
    for k in range(n_bits):
        rest = [r for r in range(n_bits) if r != k]
        pull = sum(M[:, rest] @ X[:, rest].T @ X[:, k] for X in (U, V, M))
        M[:, k] = torch.where(Q[:, k] - 2 * pull >= 0, 1, -1)
    return M


@pytest.mark.parametrize(("n_labels", "bits", "seed"), [*itertools.product([1, 4, 9], [1, 2, 8, 17], range(3))])
def test_the_sweep_equals_the_slow_one(n_labels: int, bits: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    U, V, M = (sign(torch.randn(n, bits, generator=draw)) for n in (30, 30, n_labels))
    L = torch.rand(30, n_labels, generator=draw).lt(0.3).float()
    found = agah.updated_code_map(M, L.T @ (U + V), U.T @ U + V.T @ V)
    assert torch.equal(found, slow_code_map(M, U, V, L))


def test_the_code_map_follows_codes_that_know_their_labels() -> None:
    """Items of one label each, with that label's code: M becomes these codes."""
    draw = torch.Generator().manual_seed(0)
    own = sign(torch.randn(6, 32, generator=draw))
    L = torch.eye(6).repeat(50, 1)
    U = L @ own
    M = sign(torch.randn(6, 32, generator=draw))
    assert float((own == M).float().mean()) < 0.7
    for _ in range(5):
        M = agah.updated_code_map(M, L.T @ (2 * U), 2 * U.T @ U)
    assert float((own == M).float().mean()) > 0.9


def test_a_label_without_items_has_no_direction() -> None:
    found = agah.updated_feature_map(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    assert found.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0]]


def test_the_attention_is_a_weighted_mean_of_the_map() -> None:
    """With λ = 0 only the map is left; a feature along one row draws the mean towards it."""
    rows = torch.eye(3, 5)
    near = agah.attend(4 * rows[:1], rows, 0.0)[0]
    assert float(near.sum()) == pytest.approx(1)
    assert float(near[0]) > 0.45 > 0.3 > float(near[1])
    assert torch.equal(agah.attend(rows, rows, 1.0), rows)


def test_maps_are_those_of_the_pass() -> None:
    """What the pass adds up equals the maps from all items' outputs, when the nets stand still."""
    method, epoch = built("agah", lr_image=1e-30, lr_text=1e-30, weight_decay=0.0, bits=6, batch_size=7)
    both = {"image": method.setup.image.float(), "text": method.setup.text.float()}
    with torch.no_grad():
        U, V = (sign(method._encode(name, x)) for name, x in both.items())
        expected = slow_code_map(method.code_map, U, V, method.labels)
    epoch(1)
    with torch.no_grad():
        image, text = (method._scaled(method.team.nets[name](x)) for name, x in both.items())
    assert torch.equal(method.code_map, expected)
    assert torch.allclose(method.feature_map, normalize(method.labels.T @ (image + text)), atol=1e-5)


@pytest.mark.parametrize("norm", [1.0, 0.1])
def test_features_have_the_length_of_the_configuration(norm: float) -> None:
    method, _ = built("agah", feature_norm=norm)
    with torch.no_grad():
        found = method._scaled(method.team.nets["text"](method.setup.text))
    assert torch.allclose(found.norm(dim=1), torch.tensor(norm), atol=1e-5)


def test_the_norm_of_features_carries_no_gradient() -> None:
    """As in the code: a feature is a multiple of the net's output, and the multiple is a constant."""
    method, _ = built("agah", feature_norm=0.5)
    outputs = torch.tensor([[3.0, 4.0]], requires_grad=True)
    method._scaled(outputs).sum().backward()
    assert outputs.grad is not None
    assert outputs.grad.tolist() == [[pytest.approx(0.1), pytest.approx(0.1)]]


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_beta_alone_trains_the_class_heads(beta: float) -> None:
    method, epoch = built("agah", beta=beta, weight_decay=0.0)
    before = method.team.nets["image_classes"].weight.clone()
    epoch(1)
    assert torch.equal(before, method.team.nets["image_classes"].weight) == (beta == 0)


def test_each_modality_is_drawn_to_the_other_ones_critic(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the adversarial term alone, features move and hash layers do not."""
    real = agah.step_loss

    def only_critics(*arguments: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        _, terms = real(*arguments)
        return -arguments[4].mean() - arguments[5].mean(), terms

    monkeypatch.setattr(agah, "step_loss", only_critics)
    method, epoch = built("agah", weight_decay=0.0)
    before = {name: [p.clone() for p in net.parameters()] for name, net in method.team.nets.items()}
    epoch(1)
    moved = {
        name
        for name, net in method.team.nets.items()
        if any(not torch.equal(old, new) for old, new in zip(before[name], net.parameters(), strict=True))
    }
    assert moved == {"image", "text", "image_critic", "text_critic"}
