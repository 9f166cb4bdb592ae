"""DJSRH: the authors' numbers, loops, limits, and the annealed tanh."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmh.config import build, paper
from cmh.methods.djsrh import Config, Method, joint_semantics, step_loss
from cmh.nets import state as states
from cmh.training import Setup
from cmh.training.batches import Batch, Items
from tests import golden

CASES = golden.cases("DJSRH")
ANNEALED = "mirflickr_epoch3_alpha2"
LEFT_OUT: dict[str, str] = {}  # case → reason; none is
TERMS = {"image-image": "image_image", "image-text": "image_text", "text-text": "text_text"}


def semantics(hyper: dict[str, Any]) -> torch.Tensor:
    rows = golden.batch()
    image, text = golden.tensor("XI")[rows], golden.tensor("XT")[rows]
    assert hyper["BATCH_SIZE"] == len(rows)
    return joint_semantics(image, text, beta=hyper["BETA"], eta=hyper["ETA"], mu=hyper["MU"])


def check(case: str, hyper: dict[str, Any], inputs: dict[str, torch.Tensor], alpha: float | None) -> None:
    """Total, terms and gradients of a case; with alpha the inputs are the nets' outputs before tanh."""
    expected = CASES[case]
    outputs = [value.requires_grad_() for value in inputs.values()]
    codes = outputs if alpha is None else [torch.tanh(alpha * value) for value in outputs]
    total, terms = step_loss(*codes, semantics(hyper), lambda1=hyper["LAMBDA1"], lambda2=hyper["LAMBDA2"])
    assert total.dtype == torch.float64
    assert float(total.detach()) == pytest.approx(expected["total"], rel=1e-8)
    ours = [float(terms[name]) for name in ("image_image", "image_text", "text_text")]
    assert [name[:5] for name in expected["terms"]] == ["loss1", "loss2", "loss3"]
    assert ours == pytest.approx(list(expected["terms"].values()), rel=1e-8)
    total.backward()
    assert list(expected["grads"]) == list(inputs)
    for value, gradient in zip(outputs, expected["grads"].values(), strict=True):
        golden.assert_gradient(value.grad, gradient)


def test_every_case_of_the_file_is_covered() -> None:
    assert sorted(["mirflickr", "nuswide", "wiki", ANNEALED, *LEFT_OUT]) == sorted(CASES)


@pytest.mark.parametrize("case", ["mirflickr", "nuswide", "wiki"])
def test_authors_numbers(case: str) -> None:
    inputs = {"f (image codes)": golden.tensor("f"), "g (text codes)": golden.tensor("g")}
    check(case, CASES[case]["hyper"], inputs, None)
    named = [name.partition("(")[2].rstrip(")") for name in CASES[case]["terms"]]
    assert [TERMS[name] for name in named] == ["image_image", "image_text", "text_text"]


@pytest.mark.parametrize("case", ["mirflickr", "nuswide", "wiki"])
def test_authors_similarities(case: str) -> None:
    hyper = CASES[case]["hyper"]
    golden.assert_gradient(semantics(hyper), CASES[case]["extra"]["S"])
    golden.assert_gradient(semantics({**hyper, "ETA": 0, "MU": 1}), CASES[case]["extra"]["S_tilde"])


def test_authors_numbers_in_the_fourth_epoch() -> None:
    inputs = {"f_raw (hid_I)": golden.tensor("f_raw"), "g_raw (hid_T)": golden.tensor("g_raw")}
    check(ANNEALED, CASES["mirflickr"]["hyper"], inputs, CASES[ANNEALED]["hyper"]["alpha"])


def cosine(a: Any, b: Any) -> float:
    norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / norms if norms else 0.0


@settings(max_examples=25, deadline=None)
@given(
    m=st.integers(1, 5),
    bits=st.integers(1, 4),
    seed=st.integers(0, 999),
    beta=st.sampled_from([0.0, 0.3, 1.0]),
    eta=st.sampled_from([0.0, 0.4, 1.0]),
    weights=st.sampled_from([(0.1, 0.1), (0.0, 2.0), (0.7, 0.0)]),
)
def test_equals_loops(m: int, bits: int, seed: int, beta: float, eta: float, weights: tuple[float, float]) -> None:
    rng = np.random.default_rng(seed)
    image, text = rng.random((m, 4)), (rng.random((m, 6)) < 0.3).astype(float)  # some texts are empty
    codes = [np.tanh(rng.standard_normal((m, bits))) for _ in range(2)]
    tilde = [
        [
            beta * (2 * cosine(image[i], image[j]) - 1) + (1 - beta) * (2 * cosine(text[i], text[j]) - 1)
            for j in range(m)
        ]
        for i in range(m)
    ]
    S = [
        [1.5 * ((1 - eta) * tilde[i][j] + eta * sum(tilde[i][k] * tilde[j][k] for k in range(m)) / m) for j in range(m)]
        for i in range(m)
    ]
    found = joint_semantics(torch.from_numpy(image), torch.from_numpy(text), beta=beta, eta=eta, mu=1.5)
    assert found.numpy() == pytest.approx(np.array(S), rel=1e-9, abs=1e-9)

    def error(a: Any, b: Any) -> float:
        return sum((cosine(a[i], b[j]) - S[i][j]) ** 2 for i in range(m) for j in range(m)) / m**2

    between, within_image, within_text = error(*codes), error(codes[0], codes[0]), error(codes[1], codes[1])
    total, terms = step_loss(*map(torch.from_numpy, codes), found, lambda1=weights[0], lambda2=weights[1])
    assert float(terms["image_text"]) == pytest.approx(between, rel=1e-9, abs=1e-12)
    assert float(terms["image_image"]) == pytest.approx(within_image, rel=1e-9, abs=1e-12)
    assert float(terms["text_text"]) == pytest.approx(within_text, rel=1e-9, abs=1e-12)
    assert float(total) == pytest.approx(between + weights[0] * within_image + weights[1] * within_text, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("bits", [1, 16])
@pytest.mark.parametrize("hidden", [0.0, 1.0, 1e4], ids=["zero codes", "codes", "saturated"])
@pytest.mark.parametrize("features", ["alike", "orthogonal", "empty"])
def test_limits_are_finite(features: str, hidden: float, bits: int, m: int, dtype: torch.dtype) -> None:
    rows = {"alike": torch.ones(m, 4), "orthogonal": torch.eye(m, 4), "empty": torch.zeros(m, 4)}[features].to(dtype)
    S = joint_semantics(rows, rows, beta=0.5, eta=0.4, mu=1.5)
    outputs = torch.full((m, bits), hidden, dtype=dtype, requires_grad=True)
    loss, terms = step_loss(torch.tanh(outputs), torch.tanh(-outputs), S, lambda1=0.1, lambda2=0.1)
    loss.backward()
    assert bool(torch.isfinite(torch.stack([loss, *terms.values()])).all())
    assert outputs.grad is not None
    assert bool(torch.isfinite(outputs.grad).all())
    assert not any(term.requires_grad for term in terms.values())


def test_perfect_codes_cost_nothing() -> None:
    codes = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    S = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, -1.0], [0.0, -1.0, 1.0]], dtype=torch.float64)
    assert float(step_loss(codes, codes, S, lambda1=1, lambda2=1)[0]) == pytest.approx(0, abs=1e-30)
    assert float(step_loss(codes, -codes, S, lambda1=0, lambda2=0)[0]) > 1


def test_items_with_the_same_neighbours_are_similar() -> None:
    """Two items that share no feature get more similar by S̃S̃ᵀ when they have the same neighbour."""
    rows = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]])
    first, second = (joint_semantics(rows, rows, beta=0.5, eta=eta, mu=1) for eta in (0.0, 0.9))
    assert first[0, 2] == first[0, 3]  # neither shares a feature with item 0
    assert second[0, 2] != second[0, 3]


def method(**values: Any) -> tuple[Method, Setup]:
    """A method on 10 random pairs."""
    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(1)
    image, text = torch.rand(10, 6, generator=draw), (torch.rand(10, 5, generator=draw) < 0.4).float()
    setup = Setup(
        bits=4,
        epochs=9,
        seed=3,
        device=torch.device("cpu"),
        n_train=10,
        image_dim=6,
        text_dim=5,
        labels=None,
        image=image,
        text=text,
        image_net=lambda head: head,
    )
    config = build(Config, {**paper(Config), "hidden_text": 8, "batch_size": 10, **values})
    return Method(config, setup), setup


def one_batch(setup: Setup) -> list[Batch]:
    return [Batch(torch.arange(10), Items(setup.image, setup.text, setup.device))]


def test_tanh_gets_steeper_with_the_epochs() -> None:
    """√(epoch + 1), also after going on from a state."""
    still, setup = method(lr_image=1e-30, lr_text=1e-30)
    image, text = still.encode_image(setup.image).detach(), still.encode_text(setup.text).detach()
    S = joint_semantics(setup.image, setup.text, beta=0.9, eta=0.4, mu=1.5)
    for epoch in range(5):
        if epoch == 3:
            saved, (still, _) = states.save(still.state()), method(lr_image=1e-30, lr_text=1e-30)
            states.load(still.state(), saved)
        alpha = math.sqrt(epoch + 1)
        expected, _ = step_loss(torch.tanh(alpha * image), torch.tanh(alpha * text), S, lambda1=0.1, lambda2=0.1)
        assert still.epoch(lambda: iter(one_batch(setup)))["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_an_epoch_is_one_pass_that_trains_both_nets() -> None:
    trained, setup = method()
    before = trained.encode_image(setup.image).detach(), trained.encode_text(setup.text).detach()
    passes = []

    def batches() -> Any:
        passes.append(1)
        return iter(one_batch(setup))

    first = trained.epoch(batches)["loss"]
    assert len(passes) == 1
    assert not torch.equal(trained.encode_image(setup.image), before[0])
    assert not torch.equal(trained.encode_text(setup.text), before[1])
    for _ in range(20):
        last = trained.epoch(batches)["loss"]
    assert last < 0.8 * first
