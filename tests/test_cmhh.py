"""CMHH's terms: the golden file's correct line, explicit loops, limits, and what they are for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmh import methods, training
from cmh.losses import cosines, pair_weights, similar
from cmh.methods.cmhh import NEAREST, Config, distances, focal, quantisation, step_loss
from tests import golden
from tests.test_training import tiny

CASES = golden.cases("CMHH")
LINE = "focal_loss (correct line)"
REFERENCE = "paper_form_reference"
VARIANT = (
    "variant: Euclidean distance, constant class weight, |sign(h) - h| for quantisation; not the loss of the paper"
)
LEFT_OUT = {"image_torchcmh_variant": VARIANT, "text_torchcmh_variant": VARIANT}


def config(beta: float, gamma: float, lambda_quantisation: float, *, balanced: bool) -> Config:
    kind = "balanced" if balanced else "none"
    return Config(beta=beta, gamma=gamma, lambda_quantisation=lambda_quantisation, class_weights=kind)


def test_every_case_of_the_file_is_covered_or_left_out() -> None:
    assert sorted([LINE, REFERENCE, *LEFT_OUT]) == sorted(CASES)
    assert len(golden.FILE["methods"]["CMHH"]["cases"]) == len(CASES) == 4


def test_the_focal_line_of_the_port() -> None:
    """Its ε inside the logarithm is not in our loss; what it changes is known exactly and taken out here."""
    expected = CASES[LINE]
    alpha, gamma, eps = (expected["hyper"][name] for name in ("alpha", "gamma", "eps"))
    p = torch.tensor([float(key.removeprefix("p=")) for key in expected["terms"]], dtype=torch.float64)
    p.requires_grad_()
    ours = alpha * focal(-p.log(), torch.ones_like(p), gamma=gamma)
    theirs = ours - alpha * (1 - p) ** gamma * torch.log1p(eps / p)
    assert theirs.tolist() == pytest.approx(list(expected["terms"].values()), rel=1e-8)
    assert float(theirs.sum().detach()) == pytest.approx(expected["total"], rel=1e-8)
    theirs.sum().backward()
    assert list(expected["grads"]) == ["p"]
    golden.assert_gradient(p.grad, expected["grads"]["p"])


def test_reference() -> None:
    """An arithmetic check, not authority: nobody's code, without class weights, quantisation of one modality."""
    expected: dict[str, Any] = CASES[REFERENCE]
    beta, gamma = expected["hyper"]["beta"], expected["hyper"]["gamma"]
    labels = golden.tensor("L")
    S = similar(labels[torch.from_numpy(golden.batch())], labels)
    f, G = golden.tensor("f").requires_grad_(), golden.tensor("G")
    assert expected["hyper"]["class weight"] == 1
    loss, parts = step_loss(f, G, S, config(beta, gamma, 1, balanced=False))
    total = loss - quantisation(G, beta=beta)
    assert total.dtype == torch.float64
    assert float(parts["focal"]) == pytest.approx(expected["terms"]["focal mean"], rel=1e-8)
    ours = float(quantisation(f, beta=beta).detach())
    assert ours == pytest.approx(expected["terms"]["quantization mean"], rel=1e-8)
    assert len(expected["terms"]) == 2
    assert float(total.detach()) == pytest.approx(expected["total"], rel=1e-8)
    total.backward()
    assert list(expected["grads"]) == ["f"]
    golden.assert_gradient(f.grad, expected["grads"]["f"])


@settings(max_examples=40, deadline=None)
@given(
    b=st.integers(1, 4),
    m=st.integers(1, 4),
    bits=st.integers(2, 5),
    seed=st.integers(0, 999),
    beta=st.sampled_from([0.1, 0.5, 3.0]),
    gamma=st.sampled_from([0.0, 0.5, 2.0]),
    weight=st.sampled_from([0.0, 1.0]),
    balanced=st.booleans(),
)
def test_step_loss_equals_loops(
    b: int, m: int, bits: int, seed: int, beta: float, gamma: float, weight: float, balanced: bool
) -> None:
    rng = np.random.default_rng(seed)
    h, o = np.tanh(rng.standard_normal((b, bits))), np.tanh(rng.standard_normal((m, bits)))
    S = (rng.random((b, m)) < 0.5).astype(float)
    ones = np.ones(bits)

    def distance(x: Any, y: Any) -> float:
        return float(bits / 2 * (1 - sum(x * y) / math.sqrt(sum(x**2)) / math.sqrt(sum(y**2))))

    n_similar, loss = int(S.sum()), 0.0
    for i in range(b):
        for j in range(m):
            far = max(beta * distance(h[i], o[j]), NEAREST)  # difference 3
            p = math.exp(-far)
            cost = (1 - p) ** gamma * far if S[i, j] else -(p**gamma) * math.log(-math.expm1(-far))
            loss += cost * (b * m / n_similar if balanced and S[i, j] else 1) / (b * m)
    quantised = sum(beta * distance(abs(row), ones) / len(codes) for codes in (h, o) for row in codes)
    total, parts = step_loss(*map(torch.from_numpy, (h, o, S)), config(beta, gamma, weight, balanced=balanced))
    assert float(parts["focal"]) == pytest.approx(loss, rel=1e-8, abs=1e-12)
    assert float(parts["quantisation"]) == pytest.approx(quantised, rel=1e-8, abs=1e-12)
    assert float(total) == pytest.approx(loss + weight * quantised, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [1, 128])
@pytest.mark.parametrize("value", [0.0, 1e-20, 1.0, -1.0, 1e10])
@pytest.mark.parametrize("share", [0.0, 1.0], ids=["none similar", "all similar"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_limits_are_finite(gamma: float, share: float, value: float, bits: int, dtype: torch.dtype) -> None:
    h, o = (torch.full((3, bits), size, dtype=dtype, requires_grad=True) for size in (value, abs(value)))
    S = torch.full((3, 3), share, dtype=dtype)
    loss, parts = step_loss(h, o, S, config(10, gamma, 1, balanced=True))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(bool(torch.isfinite(part)) and not part.requires_grad for part in parts.values())
    for codes in (h, o):
        assert codes.grad is not None
        assert bool(torch.isfinite(codes.grad).all())


def test_focal_at_its_ends() -> None:
    """p = 1 and p = 0 for similar and for dissimilar pairs."""
    x = torch.tensor([0.0, 1e4, 0.0, 1e4], dtype=torch.float64)
    S = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    found = focal(x, S, gamma=2).tolist()
    assert found == pytest.approx([0, 1e4, -math.log(1e-6), 0], rel=1e-5, abs=1e-9)


def test_nearly_equal_codes_cost_exactly_that_in_float32() -> None:
    x = [2e-6, 7e-6, 3e-5]
    found = focal(torch.tensor(x), torch.zeros(3), gamma=0).tolist()
    assert found == pytest.approx([-math.log(-math.expm1(-value)) for value in x], rel=1e-6)


def test_the_distance_of_codes_is_hamming() -> None:
    draw = torch.Generator().manual_seed(0)
    codes, others = (torch.randint(0, 2, (5, 12), generator=draw).double() * 2 - 1 for _ in range(2))
    expected = [[float((a != b).sum()) for b in others] for a in codes]
    assert torch.allclose(distances(cosines(codes, others), 12), torch.tensor(expected, dtype=torch.float64))


def test_far_similar_pairs_pull_harder_than_near_ones() -> None:
    """The paper's point: the slope grows with the distance, and γ plays down what is right already."""
    x = torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64, requires_grad=True)
    (plain,) = torch.autograd.grad(focal(x, torch.ones(3), gamma=0).sum(), x)
    (slopes,) = torch.autograd.grad(focal(x, torch.ones(3), gamma=2).sum(), x)
    assert torch.allclose(plain, torch.ones(3, dtype=torch.float64))
    assert slopes[0] < 0.1 < 0.5 < slopes[1]
    assert float(focal(torch.tensor([5.0]), torch.zeros(1), gamma=2)) < 1e-6


def test_similar_pairs_are_weighted_by_how_rare_they_are() -> None:
    S = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])
    assert pair_weights(S).tolist() == [[3, 1, 1], [1, 1, 3]]
    assert pair_weights(torch.zeros(2, 3)).tolist() == torch.ones(2, 3).tolist()
    assert pair_weights(torch.ones(2, 3, dtype=torch.float64)).tolist() == torch.ones(2, 3).tolist()


def test_gradients() -> None:
    draw = torch.Generator().manual_seed(3)
    h, o = (torch.randn(3, 4, generator=draw, dtype=torch.float64).requires_grad_() for _ in range(2))
    S = torch.eye(3, dtype=torch.float64)
    for gamma in (0.7, 2):
        assert torch.autograd.gradcheck(
            lambda a, b, gamma=gamma: step_loss(a, b, S, config(0.5, gamma, 0.3, balanced=True))[0], (h, o)
        )


def test_outputs_are_bounded_and_both_nets_learn() -> None:
    module = methods.get("cmhh")
    values = {"bits": 8, "epochs": 2, "threads": 1, "hidden_image": 16, "hidden_text": 16, "batch_size": 17}
    run, config = training.parse(module, values)
    method = training.fit(module, run, config, tiny()).method
    start = training.fit(
        module, *training.parse(module, {**values, "lr_image": 1e-12, "lr_text": 1e-12}), tiny()
    ).method
    for name, features in (("image", tiny().train.image), ("text", tiny().train.text)):
        outputs = getattr(method, f"encode_{name}")(torch.from_numpy(features)).detach()
        assert float(outputs.abs().max()) <= 1
        pairs = zip(method.pair.nets[name].parameters(), start.pair.nets[name].parameters(), strict=True)
        assert all(not torch.allclose(now, before, atol=1e-6) for now, before in pairs)
