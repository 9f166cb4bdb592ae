"""CHN's terms: the golden file's correct lines, explicit loops, limits, and what they are for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import relu

from cmh import methods, training
from cmh.losses import evenness, similar
from cmh.methods.chn import Config, agreement, quantisation, step_loss
from tests import golden
from tests.test_training import tiny

CASES = golden.cases("CHN")
LINES = "cosine_and_sign_matrix (correct lines)"
REFERENCE = "paper_form_reference"
LEFT_OUT = {
    "torchcmh_as_written_b_x_b": "faulty: squares before the max, <h, 1> for <|h|, 1> and 1 for sqrt K in Q",
}


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """f with gradient, G, and S of the batch against all items."""
    labels = golden.tensor("L")
    S = similar(labels[torch.from_numpy(golden.batch())], labels)
    return golden.tensor("f").requires_grad_(), golden.tensor("G"), S


def config(delta: float, lambda_quantisation: float, balanced: bool = False) -> Config:
    kind = "balanced" if balanced else "none"
    return Config(delta=delta, lambda_quantisation=lambda_quantisation, class_weights=kind)


def test_every_case_of_the_file_is_covered_or_left_out() -> None:
    assert sorted([LINES, REFERENCE, *LEFT_OUT]) == sorted(CASES)
    assert len(golden.FILE["methods"]["CHN"]["cases"]) == len(CASES) == 3


def test_cosines_and_signs_are_those_of_the_port() -> None:
    expected = CASES[LINES]
    f, G, S = inputs()
    agreed = agreement(f, G, S)
    signs = 2 * S - 1
    ours = {
        "cosine_fro": float((signs * agreed).detach().norm()),
        "sim_sum": float(signs.sum()),
        "sum(sim*cosine)": float(agreed.detach().sum()),
    }
    assert agreed.dtype == torch.float64
    assert float(agreed.detach().sum()) == pytest.approx(expected["total"], rel=1e-8)
    assert ours == pytest.approx(expected["terms"], rel=1e-8)
    agreed.sum().backward()
    assert list(expected["grads"]) == ["f"]
    golden.assert_gradient(f.grad, expected["grads"]["f"])


def test_parts_of_the_reference() -> None:
    """An arithmetic check, not authority: nobody's code, and its hinge lacks the square, which is undone here."""
    expected: dict[str, Any] = CASES[REFERENCE]
    margins = [value for key, value in expected["hyper"].items() if "d2" not in key and key != "lambda"]
    (margin,), (margin_2,) = margins, [value for key, value in expected["hyper"].items() if "d2" in key]
    f, G, S = inputs()
    hinge, quantised = relu(margin - agreement(f, G, S)), quantisation(f, delta=margin_2)
    total = hinge.mean() + expected["hyper"]["lambda"] * quantised
    ours = [float(value.detach()) for value in (hinge.mean(), hinge.sum(), quantised)]
    assert ours == pytest.approx(list(expected["terms"].values()), rel=1e-8)
    assert float(total.detach()) == pytest.approx(expected["total"], rel=1e-8)
    total.backward()
    golden.assert_gradient(f.grad, expected["grads"]["f"])
    f2, _, _ = inputs()
    _, parts = step_loss(f2, G, S, config(margin, 1))
    assert float(parts["correlation"]) == pytest.approx(float(hinge.detach().square().mean()), rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    b=st.integers(1, 4),
    m=st.integers(1, 4),
    bits=st.integers(1, 5),
    seed=st.integers(0, 999),
    delta=st.sampled_from([0.2, 0.8, 1.0]),
    weight=st.sampled_from([0.0, 0.01, 2.0]),
    balanced=st.booleans(),
)
def test_step_loss_equals_loops(
    b: int, m: int, bits: int, seed: int, delta: float, weight: float, balanced: bool
) -> None:
    rng = np.random.default_rng(seed)
    u, v = np.tanh(rng.standard_normal((b, bits))), np.tanh(rng.standard_normal((m, bits)))
    S = (rng.random((b, m)) < 0.5).astype(float)
    correlation = 0.0
    for i in range(b):
        for j in range(m):
            cosine = sum(u[i] * v[j]) / math.sqrt(sum(u[i] ** 2)) / math.sqrt(sum(v[j] ** 2))
            factor = b * m / S.sum() if balanced and S[i, j] else 1
            correlation += factor * max(0, delta - (1 if S[i, j] else -1) * cosine) ** 2 / (b * m)
    quantised = 0.0
    for codes in (u, v):
        for row in codes:
            quantised += max(0, delta - sum(abs(row)) / math.sqrt(sum(row**2)) / math.sqrt(bits)) / len(codes)
    total, parts = step_loss(*map(torch.from_numpy, (u, v, S)), config(delta, weight, balanced))
    assert float(parts["correlation"]) == pytest.approx(correlation, rel=1e-9, abs=1e-12)
    assert float(parts["quantisation"]) == pytest.approx(quantised, rel=1e-9, abs=1e-12)
    assert float(total) == pytest.approx(correlation + weight * quantised, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [1, 16])
@pytest.mark.parametrize("value", [0.0, 1e-20, 1.0, -1.0, 1e10])
@pytest.mark.parametrize("share", [0.0, 1.0], ids=["none similar", "all similar"])
def test_limits_are_finite(share: float, value: float, bits: int, dtype: torch.dtype) -> None:
    u, v = (torch.full((3, bits), size, dtype=dtype, requires_grad=True) for size in (value, abs(value)))
    loss, parts = step_loss(u, v, torch.full((3, 3), share, dtype=dtype), config(0.8, 1, balanced=True))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(bool(torch.isfinite(part)) and not part.requires_grad for part in parts.values())
    for codes in (u, v):
        assert codes.grad is not None
        assert bool(torch.isfinite(codes.grad).all())


def test_a_sure_pair_is_left_alone() -> None:
    """Beyond the margin neither value nor gradient: the fault of the port is that it pulls back."""
    u = torch.tensor([[1.0, 1.0, 0.9]], requires_grad=True)
    v = torch.tensor([[1.0, 1.0, 1.0]])
    for vectors, share in ((v, 1.0), (-v, 0.0)):
        u.grad = None
        loss, parts = step_loss(u, vectors, torch.tensor([[share]]), config(0.8, 1))
        loss.backward()
        assert {float(part) for part in parts.values()} == {0.0}
        assert float(loss.detach()) == 0
        assert not u.grad.any()


def test_quantisation_asks_for_a_corner_and_not_for_a_sign() -> None:
    assert evenness(torch.tensor([[0.3, -0.3, 0.3, -0.3], [2.0, 0, 0, 0]])).tolist() == pytest.approx([1, 0.5])
    codes = torch.tensor([[0.9, -0.2, 0.1]], requires_grad=True)
    quantisation(codes, delta=1.0).backward()
    assert codes.grad is not None
    assert codes.grad.sign().tolist() == [[1, 1, -1]]  # descent: 0.9 falls, -0.2 and 0.1 leave 0


def test_gradients() -> None:
    draw = torch.Generator().manual_seed(3)
    u, v = (torch.randn(3, 4, generator=draw, dtype=torch.float64).requires_grad_() for _ in range(2))
    S = torch.eye(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: step_loss(a, b, S, config(0.8, 0.3))[0], (u, v))


def test_outputs_are_bounded_and_both_nets_learn() -> None:
    module = methods.get("chn")
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
