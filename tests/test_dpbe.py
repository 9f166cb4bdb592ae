"""DPBE: the authors' values, its curvature by automatic differentiation, and what its draws do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import linear

from cmh import methods, training
from cmh.methods import dpbe
from cmh.nets import laplace
from cmh.nets.bags import Bags
from cmh.nets.laplace import LaplaceLinear
from tests import golden
from tests.golden import CLIP
from tests.test_training import tiny

CASES = CLIP.cases("DPBE")
NAMES = {"ii": "image", "tt": "text", "it": "image_text"}
SMALL = {"bits": 8, "epochs": 3, "threads": 1, "hidden_image": 8, "hidden_text": 8}


@pytest.mark.parametrize("case", CASES)
def test_the_authors_values(case: str) -> None:
    expected, second = CASES[case], case == "second_batch"
    f, g = (CLIP.tensor(name).requires_grad_() for name in (("f2", "g2") if second else ("f", "g")))
    A = dpbe.affinity(CLIP.tensor("L")[torch.from_numpy(CLIP.batch(2 if second else 1))])
    golden.assert_gradient(A, expected["extra"]["affinity"])  # its norm and first entries
    total, terms = dpbe.step_loss(f, g, A)
    assert float(total.detach()) == pytest.approx(expected["total"], rel=1e-8)
    assert {theirs: float(terms[ours]) for theirs, ours in NAMES.items()} == pytest.approx(expected["terms"], rel=1e-8)
    total.backward()  # type: ignore[no-untyped-call]
    for value, gradient in zip((f, g), expected["grads"].values(), strict=True):
        golden.assert_gradient(value.grad, gradient)
    assert len(CLIP.file["methods"]["DPBE"]["cases"]) == len(CASES) == 2


def test_the_loss_of_several_draws_is_the_mean_of_theirs() -> None:
    rng = np.random.default_rng(0)
    f, g = map(torch.from_numpy, rng.standard_normal((2, 3, 5, 4)))
    shared = rng.integers(0, 3, (5, 5))
    A = torch.from_numpy(2 / (1 + np.exp(-shared)) - 1)
    expected = []
    for one, other in zip(f.numpy(), g.numpy(), strict=True):
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (one, other))
        expected.append(sum(float(((x @ y.T - A.numpy()) ** 2).mean()) for x, y in ((a, a), (b, b), (a, b))))
    assert float(dpbe.step_loss(f, g, A)[0]) == pytest.approx(sum(expected) / 3, rel=1e-12)


@pytest.mark.parametrize("bits", [1, 4])
def test_the_curvature_is_that_of_the_unit_outputs(bits: int) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, generator=draw, dtype=torch.float64)
    weights = torch.randn(2, bits, 3, generator=draw, dtype=torch.float64)
    biases = torch.randn(2, bits, generator=draw, dtype=torch.float64)
    expected = [torch.zeros(bits, 3, dtype=torch.float64), torch.zeros(bits, dtype=torch.float64)]
    for pair in zip(weights, biases, strict=True):
        for row in x:

            def unit(weight: torch.Tensor, bias: torch.Tensor, row: torch.Tensor = row) -> torch.Tensor:
                z = linear(row, weight, bias)
                return z / (z.square().sum().sqrt() + 1e-6)

            for total, jacobian in zip(expected, torch.autograd.functional.jacobian(unit, pair), strict=True):  # type: ignore[no-untyped-call]
                total += jacobian.square().sum(0) / (2 * len(x))
    found = laplace.curvature(x, laplace.outputs(x, weights, biases))
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-9)  # the added 1e-6 is no part of ∂y/∂z


def test_draws_scatter_as_the_precisions_say_and_train_the_means() -> None:
    layer = LaplaceLinear(3, 2, first=99.0, kept=4)
    torch.manual_seed(0)
    weight, bias = layer.draw(4000)
    for drawn, theta in ((weight, layer.weight), (bias, layer.bias)):
        assert torch.allclose(drawn.mean(0), theta, atol=0.01)
        assert torch.allclose(drawn.std(0), torch.full_like(theta, 0.1), atol=0.01)
    (slope,) = torch.autograd.grad(weight.sum(), layer.weight)
    assert torch.equal(slope, torch.full_like(slope, 4000))
    x = torch.randn(7, 3)
    layer.observe(x, laplace.outputs(x, weight, bias).detach(), scale=1e4, memory=0.5)
    found = laplace.curvature(x, laplace.outputs(x, weight, bias).detach())[0]
    assert torch.allclose(layer.get_buffer("h_weight"), 49.5 + 1e4 * found)


def test_codes_are_of_the_kept_draws() -> None:
    layer, x = LaplaceLinear(3, 2, first=9.0, kept=3), torch.randn(5, 3)
    at_means = laplace.units(layer(x))
    assert torch.allclose(at_means, laplace.units(linear(x, layer.weight, layer.bias)), atol=1e-5)
    layer.draw_kept()
    first = layer(x)
    assert not torch.allclose(laplace.units(first), at_means, atol=1e-3)
    kept = zip(layer.get_buffer("kept_weight"), layer.get_buffer("kept_bias"), strict=True)
    assert torch.allclose(first, torch.stack([laplace.units(linear(x, *one)) for one in kept]).mean(0))
    assert torch.equal(layer(x), first)
    sure = LaplaceLinear(3, 2, first=9.0, kept=0)
    with torch.no_grad():
        sure.weight.add_(1)
    sure.draw_kept()
    assert torch.equal(sure.get_buffer("kept_weight")[0], sure.weight)


def fitted(**more: Any) -> Any:
    module = methods.get("dpbe")
    return training.fit(module, *training.parse(module, {**SMALL, **more}), tiny()).method


def test_precisions_grow_and_one_draw_may_count() -> None:
    method = fitted()
    assert float(method.hash["image"].get_buffer("h_weight").min()) > 120 * 0.99
    image = torch.from_numpy(tiny().train.image)
    others = fitted(counted="last").encode_image(image), fitted(kept=2).encode_image(image)
    assert not any(torch.equal(other, method.encode_image(image)) for other in others)


def test_hash_layers_stand_on_bags_of_words() -> None:
    """Without a hidden layer, as the paper's point has it."""
    dense = torch.tensor([[0.0, 2, 0], [1, 0, 3]])
    bags = Bags(torch.tensor([2.0, 1, 3]), torch.tensor([1, 0, 2]), torch.tensor([0, 1, 3]), 3)
    layer = LaplaceLinear(3, 2, first=9.0, kept=0)
    assert torch.allclose(layer(bags), layer(dense))
    z = laplace.outputs(dense, *layer.draw(2)).detach()
    assert all(map(torch.allclose, laplace.curvature(bags, z), laplace.curvature(dense, z)))
    outputs = fitted(hidden_image=0, hidden_text=0).encode_text(torch.from_numpy(tiny().train.text))
    assert bool(torch.isfinite(outputs).all())


@pytest.mark.parametrize("value", [0.0, 1e-20, 1.0])
def test_limits_are_finite(value: float) -> None:
    f, g = (torch.full((2, 3, 4), value, requires_grad=True) for _ in "fg")
    loss, _ = dpbe.step_loss(f, g, dpbe.affinity(torch.ones(3, 1)))
    loss.backward()  # type: ignore[no-untyped-call]
    assert bool(torch.isfinite(loss))
    assert all(bool(torch.isfinite(codes.grad).all()) for codes in (f, g) if codes.grad is not None)
    for found in laplace.curvature(torch.ones(3, 2), torch.full((3, 2, 4), value)):
        assert bool(torch.isfinite(found).all())
