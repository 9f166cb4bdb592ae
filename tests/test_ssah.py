"""SSAH against the authors' code, against explicit loops, and what is its own: label net, adversary, scales."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from cmh.losses import sign, similar
from cmh.methods import ssah
from cmh.nets import multiscale
from cmh.nets.bags import Bags, WordLinear, by_words
from cmh.nets.encoders import ResponseNorm
from cmh.nets.multiscale import SCALES, ScaleVector
from tests import golden
from tests.direct import built

CASES = golden.cases("SSAH")
NETS = {"label": ("h", "sL", "pL", ""), "image": ("f", "sI", "pI", "dI"), "text": ("g", "sT", "pT", "dT")}
LEFT_OUT = dict.fromkeys(
    ("monitor_calc_labnet_loss", "monitor_calc_loss_image"),
    "what the code prints over all items; nothing is trained by it",
)
PAIRS = {True: "squared", False: "nll"}
INDEX = torch.from_numpy(golden.batch())
TERMS = {
    "feature_pairs": "Loss_pair_Fea",
    "code_pairs": "Loss_pair_Hsh",
    "quantisation": "Loss_quant",
    "labels": "Loss_label",
}


def weights(case: str) -> dict[str, float]:
    """The code's β weighs the quantisation and its η the labels; here it is the other way round, as in the paper."""
    hyper = CASES[case]["hyper"]
    return {"alpha": hyper["alpha"], "gamma": hyper["gamma"], "eta": hyper["beta"], "beta": hyper["eta"]}


def buffers() -> tuple[torch.Tensor, torch.Tensor]:
    """The label net's codes and features with the batch's rows written."""
    H, SL = golden.tensor("H"), golden.tensor("SL")
    H[INDEX], SL[INDEX] = golden.tensor("h"), golden.tensor("sL")
    return H, SL


def test_every_case_of_the_file_is_covered() -> None:
    assert sorted([*(f"{name}_net" for name in NETS), "discriminators", *LEFT_OUT]) == sorted(CASES)


@pytest.mark.parametrize("name", NETS)
def test_golden_net(name: str) -> None:
    expected = CASES[f"{name}_net"]
    leaves = {key: golden.tensor(key).requires_grad_() for key in NETS[name] if key}
    codes, features, predicted = (leaves[key] for key in NETS[name][:3])
    labels = golden.tensor("L")
    S = expected["hyper"]["similarity value of a positive pair"] * similar(labels[INDEX], labels)
    total, terms = ssah.net_loss(
        codes,
        features,
        predicted,
        *buffers(),
        S,
        sign(codes.detach()),
        labels[INDEX],
        ssah.Config(**weights(f"{name}_net"), pairs="squared"),
    )
    found = {TERMS[term]: float(value) for term, value in terms.items()}
    if name != "label":
        deceit = ssah.adversarial_loss(leaves[NETS[name][3]])
        total, found["Loss_adver"] = total + expected["hyper"]["delta"] * deceit, float(deceit.detach())
    total.backward()
    assert float(total.detach()) == pytest.approx(expected["total"], rel=1e-8)
    assert found == pytest.approx(expected["terms"], rel=1e-8)
    assert set(expected["grads"]) == set(leaves)
    for key, leaf in leaves.items():
        golden.assert_gradient(leaf.grad, expected["grads"][key])


def test_golden_discriminators() -> None:
    expected = CASES["discriminators"]
    leaves = {key: golden.tensor(key).requires_grad_() for key in ("dI", "dT", "dL1", "dL2")}
    loss = ssah.discriminator_loss(*leaves.values())
    loss.backward()
    assert float(loss.detach()) == pytest.approx(expected["total"], rel=1e-8)
    for key, leaf in leaves.items():
        golden.assert_gradient(leaf.grad, expected["grads"][key])


def loss(theta: float, S: float) -> float:
    return max(theta, 0) + math.log1p(math.exp(-abs(theta))) - S * theta


@settings(max_examples=30, deadline=None)
@given(b=st.integers(1, 3), n=st.integers(1, 4), seed=st.integers(0, 2**32 - 1), squared=st.booleans())
def test_net_loss_equals_loops(b: int, n: int, seed: int, squared: bool) -> None:
    rng = np.random.default_rng(seed)
    codes, features, predicted = np.tanh(rng.standard_normal((b, 3))), rng.random((b, 5)), rng.random((b, 2))
    H, F = np.tanh(rng.standard_normal((n, 3))), rng.random((n, 5))
    S, B = 0.999 * (rng.random((b, n)) < 0.5), np.where(rng.random((b, 3)) < 0.5, -1.0, 1.0)
    labels = (rng.random((b, 2)) < 0.5).astype(float)
    power, half = (2, 0.5) if squared else (1, 1.0)
    expected = dict.fromkeys(TERMS, 0.0)
    for i in range(b):
        for j in range(n):
            expected["code_pairs"] += half * loss(float(codes[i] @ H[j]) / 2, S[i, j]) ** power
            expected["feature_pairs"] += half * loss(float(features[i] @ F[j]) / 2, S[i, j]) ** power
        expected["quantisation"] += half * float(((B[i] - codes[i]) ** 2).sum())
        expected["labels"] += half * float(((predicted[i] - labels[i]) ** 2).sum())
    arrays = map(torch.from_numpy, (codes, features, predicted, H, F, S, B, labels))
    total, terms = ssah.net_loss(*arrays, ssah.Config(alpha=0.3, gamma=0.5, eta=0.7, beta=1.1, pairs=PAIRS[squared]))
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(expected, rel=1e-9)
    by_hand = sum(w * expected[name] for name, w in zip(expected, (0.3, 0.5, 0.7, 1.1), strict=True))
    assert float(total) == pytest.approx(by_hand, rel=1e-9)


def test_adversarial_losses_equal_their_formula() -> None:
    rng = np.random.default_rng(3)
    image, text, first, second = rng.standard_normal((4, 6))

    def entropy(logit: float, target: int) -> float:
        probability = 1 / (1 + math.exp(-logit))
        return -math.log(probability if target else 1 - probability)

    expected = (sum(entropy(x, 0) for x in [*image, *text]) / 6 + sum(entropy(x, 1) for x in [*first, *second]) / 6) / 4
    found = ssah.discriminator_loss(*map(torch.from_numpy, (image, text, first, second)))
    assert float(found) == pytest.approx(expected)
    assert float(ssah.adversarial_loss(torch.from_numpy(image))) == pytest.approx(sum(entropy(x, 1) for x in image) / 6)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [1, 16])
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
@pytest.mark.parametrize("alike", [True, False], ids=["all similar", "none similar"])
def test_limits_are_finite(alike: bool, value: float, bits: int, dtype: torch.dtype, squared: bool) -> None:
    codes = torch.full((3, bits), value, dtype=dtype, requires_grad=True)
    features = torch.full((3, 4), 100 * abs(value), dtype=dtype, requires_grad=True)  # products far beyond 88
    labels = torch.full((4, 2), float(alike), dtype=dtype)
    H, F = torch.ones(4, bits, dtype=dtype), torch.full((4, 4), 100.0, dtype=dtype)
    total, terms = ssah.net_loss(
        codes,
        features,
        labels[:3],
        H,
        F,
        similar(labels[:3], labels),
        sign(codes.detach()),
        labels[:3],
        ssah.Config(**dict.fromkeys(("alpha", "gamma", "eta", "beta"), 1.0), pairs=PAIRS[squared]),
    )
    logits = torch.tensor([1e4, -1e4, 0.0], dtype=dtype, requires_grad=True)
    (total + ssah.adversarial_loss(logits) + ssah.discriminator_loss(*[logits] * 4)).backward()
    assert all(bool(torch.isfinite(term)) for term in terms.values())
    for leaf in (codes, features, logits):
        assert leaf.grad is not None
        assert bool(torch.isfinite(leaf.grad).all())


def snapshot(method: Any) -> dict[str, torch.Tensor]:
    return {
        name: torch.cat([parameter.detach().flatten() for parameter in net.parameters()])
        for name, net in method.team.nets.items()
    }


def test_the_adversary_teaches_the_nets_and_is_taught_apart() -> None:
    """With δ alone the image and text nets move; without passes of their own nothing else does."""
    method, epoch = built("ssah", alpha=0, gamma=0, eta=0, beta=0, delta=1, passes_label=1)
    before = snapshot(method)
    terms = epoch(1)
    after = snapshot(method)
    assert torch.equal(before["label"], after["label"])
    assert all(not torch.equal(before[name], after[name]) for name in ("image", "text", "image_judge", "text_judge"))
    assert {"image_deceit", "text_deceit", "discriminator_loss"} <= set(terms)
    assert "label_deceit" not in terms
    still, epoch = built("ssah", alpha=0, gamma=0, eta=0, beta=0, delta=0)
    before = snapshot(still)
    epoch(1)
    after = snapshot(still)
    assert all(torch.equal(before[name], after[name]) for name in ("image", "text"))


def test_buffers_are_written_by_their_nets() -> None:
    method, epoch = built("ssah")
    before = {name: buffer.clone() for name, buffer in method.codes.items()}
    epoch(1)
    assert all(not bool((method.codes[name] == before[name]).all(1).any()) for name in ssah.ENCODERS)
    assert all(bool((buffer.abs() <= 1).all()) for buffer in method.codes.values())
    assert bool((method.features >= 0).all())  # after a ReLU


def test_passes_are_counted() -> None:
    wanted = {"label": 3, "discriminator": 2, "image": 1, "text": 4}
    method, epoch = built("ssah", **{f"passes_{name}": count for name, count in wanted.items()})
    epoch(1)
    steps = {name: int(next(iter(it.state.values()))["step"]) for name, it in method.team.optimizers.items()}
    assert steps == {name: count * -(-120 // 32) for name, count in wanted.items()}


@pytest.mark.parametrize("n_words", [3, 12, 60, 101])
def test_scales_are_averages_of_words(n_words: int) -> None:
    x = torch.rand(2, n_words)
    scales = ScaleVector()(x).view(2, 6, n_words)
    assert torch.equal(scales[:, 0], x)
    for row, scale in enumerate(SCALES, start=1):
        window = min(scale, n_words)
        first = x[:, :window].mean(1)
        assert scales[:, row].amax() <= x.amax() + 1e-6
        if n_words < 2 * window:  # one window only: the same average everywhere
            assert torch.allclose(scales[:, row], first[:, None].expand(2, n_words), atol=1e-6)


def test_response_norm_is_tensorflows() -> None:
    x = torch.randn(2, 7, dtype=torch.float64)
    found = ResponseNorm()(x)
    for i in range(7):
        around = x[:, max(0, i - 2) : i + 3].square().sum(1)
        assert torch.allclose(found[:, i], x[:, i] / (2 + 1e-4 * around) ** 0.75)


def norms(x: Tensor) -> tuple[Tensor, Tensor]:
    """What our norm gives, and torch's own."""
    explicit = functional.local_response_norm(x.unsqueeze(-1), 5, alpha=5e-4, beta=0.75, k=2.0).squeeze(-1)
    return ResponseNorm()(x), explicit


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("width", [1, 2, 3, 7, 64])
def test_response_norm_equals_torchs(width: int, dtype: torch.dtype, rtol: float) -> None:
    """Value and gradient, also where the squares outweigh the 2."""
    x = (300 * torch.randn(5, width, dtype=dtype)).requires_grad_()
    upstream = torch.randn(5, width, dtype=dtype)
    found, expected = norms(x)
    assert torch.allclose(found, expected, rtol=rtol)
    gradients = [torch.autograd.grad(one, x, upstream)[0] for one in (found, expected)]
    assert torch.allclose(*gradients, rtol=rtol, atol=rtol)


def few_words(n: int, width: int, dtype: torch.dtype) -> Bags:
    """Texts with up to three words, the first with none, of weights other than 1."""
    dense = torch.zeros(n, width, dtype=dtype)
    for row in range(1, n):
        dense[row, torch.randint(width, (3,))] = torch.rand(3, dtype=dtype) + 0.5
    rows, columns = dense.nonzero(as_tuple=True)
    return Bags(dense[rows, columns], columns, torch.searchsorted(rows, torch.arange(n + 1)), width)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("width", [1, 4, 12, 61, 149])
def test_a_folded_layer_is_the_layer_on_the_stretched_copies(
    width: int, sparse: bool, dtype: torch.dtype, rtol: float
) -> None:
    """Value and the gradient of all parameters, of bags of words (their layer then by words) and of dense texts."""
    x = few_words(6, width, dtype) if sparse else torch.randn(6, width, dtype=dtype)
    scales, layer = ScaleVector(), torch.nn.Linear(6 * width, 7, dtype=dtype)
    scales.weights.data = torch.tensor([0.5, -1.0, 2.0, 0.3, 1.1], dtype=dtype)
    explicit = torch.nn.Sequential(scales, layer)
    folded = torch.nn.Sequential(scales, layer)
    multiscale.fold_scales(folded)
    if sparse:
        by_words(folded, width)
    upstream = torch.randn(6, 7, dtype=dtype)
    outputs = folded(x), explicit(x.dense() if isinstance(x, Bags) else x)
    assert torch.allclose(*outputs, rtol=rtol, atol=rtol)
    first = folded[0]
    assert type(first.text) is (WordLinear if sparse else torch.nn.Linear)
    found = torch.autograd.grad(outputs[0], [scales.weights, first.text.weight, first.copies, layer.bias], upstream)
    expected = torch.autograd.grad(outputs[1], [scales.weights, layer.weight, layer.bias], upstream)
    by_text = found[1].T if sparse else found[1]
    whole = torch.cat([by_text, found[2].T], 1)
    for one, other in zip((found[0], whole, found[3]), expected, strict=True):
        assert torch.allclose(one, other, rtol=rtol, atol=rtol)


def test_a_folded_layer_starts_with_the_numbers_of_the_whole_one() -> None:
    net = torch.nn.Sequential(ScaleVector(), torch.nn.Linear(6 * 20, 3))
    whole = net[1].weight.detach().clone()
    multiscale.fold_scales(net)
    assert torch.equal(torch.cat([net[0].text.weight, net[0].copies.T], 1), whole)
    assert sum(parameter.numel() for parameter in net.parameters()) == whole.numel() + 3 + len(SCALES)
    assert "0.fold" not in net.state_dict()  # a constant
