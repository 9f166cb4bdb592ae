"""JDSH: the authors' numbers, loops, limits, and the distribution that DSDW is fitted to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmh.config import build, paper
from cmh.methods.jdsh import Config, Method, joint_similarity, reweighted, step_loss
from cmh.nets import state as states
from cmh.nets.distribution import BINS, distribution
from cmh.training import Setup
from cmh.training.batches import Batch, Items
from tests import golden

CASES = golden.cases("JDSH")
LEFT_OUT: dict[str, str] = {}  # case → reason; none is


def similarity(hyper: dict[str, Any]) -> torch.Tensor:
    rows = golden.batch()
    image, text = golden.tensor("XI")[rows], golden.tensor("XT")[rows]
    return joint_similarity(image, text, Config(alpha=hyper["alpha"], beta=hyper["beta"], lamb=hyper["lamb"]))


def target(hyper: dict[str, Any]) -> torch.Tensor:
    """S with the constants that the authors ship."""
    assert hyper["LOC_LEFT"] == hyper["LOC_RIGHT"]
    shape = {
        "mode": hyper["LOC_LEFT"],
        "scale_left": hyper["SCALE_LEFT"],
        "scale_right": hyper["SCALE_RIGHT"],
        "low": hyper["MIN"],
        "high": hyper["MAX"],
    }
    options = {"l1": hyper["L1"], "l2": hyper["L2"], "k_left": hyper["ALPHA"], "k_right": hyper["BETA"]}
    return hyper["mu"] * reweighted(similarity(hyper), shape, Config(**options))


def test_every_case_of_the_file_is_covered() -> None:
    assert sorted(["mirflickr", "nuswide", *LEFT_OUT]) == sorted(CASES)


@pytest.mark.parametrize("case", ["mirflickr", "nuswide"])
def test_authors_numbers(case: str) -> None:
    expected, hyper = CASES[case], CASES[case]["hyper"]
    image, text = golden.tensor("f").requires_grad_(), golden.tensor("g").requires_grad_()
    total, terms = step_loss(image, text, target(hyper), intra=hyper["INTRA"])
    assert total.dtype == torch.float64
    assert float(total.detach()) == pytest.approx(expected["total"], rel=1e-8)
    ours = {name: float(value) for name, value in terms.items()}
    assert expected["terms"] == pytest.approx(
        {
            "loss1 (image-image)": ours["image_image"],
            "mse(BI BT^T,S)": ours["image_text"],
            "mse(BT BI^T,S)": ours["image_text"],
            "mean diagonal cosine": ours["pairs"],
            "loss3 (text-text)": ours["text_text"],
        },
        rel=1e-8,
    )
    total.backward()
    assert len(expected["grads"]) == 2
    golden.assert_gradient(image.grad, expected["grads"]["f (image codes)"])
    golden.assert_gradient(text.grad, expected["grads"]["g (text codes)"])


@pytest.mark.parametrize("case", ["mirflickr", "nuswide"])
def test_authors_similarities(case: str) -> None:
    extra, hyper = CASES[case]["extra"], CASES[case]["hyper"]
    before, after = similarity(hyper), target(hyper)
    golden.assert_gradient(before, extra["S_before_weighting"])
    golden.assert_gradient(after, extra["S"])
    grown = ~torch.isclose(after, hyper["mu"] * before, rtol=1e-9)
    assert int(grown.sum()) == extra["n_below_left"] + extra["n_above_right"]
    assert int((grown & (before < hyper["LOC_LEFT"])).sum()) == extra["n_below_left"]


def cosine(a: Any, b: Any) -> float:
    norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / norms if norms else 0.0


@settings(max_examples=25, deadline=None)
@given(m=st.integers(1, 5), bits=st.integers(1, 4), seed=st.integers(0, 999), intra=st.sampled_from([0.0, 0.1, 2.0]))
def test_equals_loops(m: int, bits: int, seed: int, intra: float) -> None:
    rng = np.random.default_rng(seed)
    image, text = rng.random((m, 4)), (rng.random((m, 6)) < 0.3).astype(float)  # some texts are empty
    codes = [np.tanh(rng.standard_normal((m, bits))) for _ in range(2)]
    S_image, S_text = ([[2 * cosine(a, b) - 1 for b in rows] for a in rows] for rows in (image, text))
    S = np.array(
        [
            [
                0.5 * S_image[i][j]
                + 0.2 * S_text[i][j]
                + 0.4 * (cosine(S_image[i], S_text[j]) + cosine(S_image[j], S_text[i])) / 2
                for j in range(m)
            ]
            for i in range(m)
        ]
    )
    found = joint_similarity(torch.from_numpy(image), torch.from_numpy(text), Config(alpha=0.5, beta=0.2, lamb=0.4))
    assert found.numpy() == pytest.approx(S, rel=1e-9, abs=1e-9)
    assert torch.allclose(found, found.T, atol=1e-12)

    def error(a: Any, b: Any) -> float:
        return sum((cosine(a[i], b[j]) - S[i][j]) ** 2 for i in range(m) for j in range(m)) / m**2

    expected = {
        "image_text": error(*codes),
        "image_image": error(codes[0], codes[0]),
        "text_text": error(codes[1], codes[1]),
        "pairs": sum(cosine(a, b) for a, b in zip(*codes, strict=True)) / m,
    }
    total, terms = step_loss(*map(torch.from_numpy, codes), found, intra=intra)
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected, rel=1e-9, abs=1e-12)
    both_ways = error(codes[0], codes[1]) + error(codes[1], codes[0])
    within = intra * (expected["image_image"] + expected["text_text"])
    assert float(total) == pytest.approx(both_ways - expected["pairs"] + within, rel=1e-9, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), k_left=st.sampled_from([0.0, 2.0]), k_right=st.sampled_from([0.0, 4.0]))
def test_reweighted_equals_loops(seed: int, k_left: float, k_right: float) -> None:
    S = np.random.default_rng(seed).uniform(-1, 1, (4, 4))
    shape = {"mode": -0.3, "scale_left": 0.1, "scale_right": 0.15, "low": -0.9, "high": 0.8}
    expected = []
    for value in S.ravel():
        factor = 1.0
        if value < -0.3 - k_left * 0.1:
            factor = 1 + 0.7 * math.exp(-(value - -0.9))
        elif value > -0.3 + k_right * 0.15:
            factor = 1 + 0.4 * math.exp(value - 0.8)
        expected.append(factor * value)
    found = reweighted(torch.from_numpy(S), shape, Config(l1=0.7, l2=0.4, k_left=k_left, k_right=k_right))
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("bits", [1, 16])
@pytest.mark.parametrize("hidden", [0.0, 1.0, 1e4], ids=["zero codes", "codes", "saturated"])
@pytest.mark.parametrize("features", ["alike", "orthogonal", "empty"])
def test_limits_are_finite(features: str, hidden: float, bits: int, m: int, dtype: torch.dtype) -> None:
    rows = {"alike": torch.ones(m, 4), "orthogonal": torch.eye(m, 4), "empty": torch.zeros(m, 4)}[features].to(dtype)
    S = joint_similarity(rows, rows, Config(alpha=0.5, beta=0.1, lamb=0.4))
    shape = distribution(lambda: iter([S.repeat(2, 2)]), 1.0)
    assert all(bool(torch.isfinite(value)) for value in shape.values())
    S = reweighted(S, shape, Config(l1=0.1, l2=0.2, k_left=2, k_right=4))
    assert S.dtype == dtype
    outputs = torch.full((m, bits), hidden, dtype=dtype, requires_grad=True)
    loss, terms = step_loss(torch.tanh(outputs), torch.tanh(-outputs), S, intra=0.1)
    loss.backward()
    assert bool(torch.isfinite(torch.stack([loss, *terms.values()])).all())
    assert outputs.grad is not None
    assert bool(torch.isfinite(outputs.grad).all())
    assert not any(term.requires_grad for term in terms.values())


def blocks_of(values: np.ndarray[Any, Any], side: int) -> Callable[[], Iterator[torch.Tensor]]:
    """Square blocks whose off-diagonal entries are `values`, and whose diagonals would ruin any estimate."""

    def blocks() -> Iterator[torch.Tensor]:
        for part in values.reshape(-1, side * side - side):
            block = torch.full((side, side), 1.0).double()
            block[~torch.eye(side, dtype=torch.bool)] = torch.from_numpy(part)
            yield block
        yield torch.ones(1, 1).double()  # a last batch of one item has no pair

    return blocks


def test_distribution_finds_what_the_entries_were_drawn_from() -> None:
    rng = np.random.default_rng(0)
    left, right = -0.4 - np.abs(0.03 * rng.standard_normal(5000)), -0.4 + rng.exponential(0.08, 5000 * 3)
    values = np.minimum(rng.permutation(np.concatenate([left, right])), 0.99)
    shape = {name: float(value) for name, value in distribution(blocks_of(values, 5), 1.0).items()}
    assert shape["mode"] == pytest.approx(-0.4, abs=0.015)
    assert shape["scale_left"] == pytest.approx(0.03, rel=0.3)
    assert shape["scale_right"] == pytest.approx(0.08, rel=0.2)
    assert shape["low"] == pytest.approx(values.min(), rel=1e-6)
    assert shape["high"] == pytest.approx(values.max(), rel=1e-6)


def test_distribution_equals_a_plain_computation() -> None:
    values = np.clip(np.random.default_rng(1).normal(0.1, 0.2, 20 * 50), -0.6, 0.6)
    counts, edges = np.histogram(values, BINS, (-0.6, 0.6))
    mode = (edges[counts.argmax()] + edges[counts.argmax() + 1]) / 2
    below, above = values[values < mode] - mode, values[values > mode] - mode
    expected = {
        "mode": mode,
        "scale_left": np.sqrt(np.mean(below**2)),
        "scale_right": np.mean(above),
        "low": values.min(),
        "high": values.max(),
    }
    found = distribution(blocks_of(values, 5), 0.6)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected, rel=1e-6)


def test_constant_similarities_have_no_tails() -> None:
    """With one value only, no entry is far from the mode."""
    shape = distribution(blocks_of(np.full(40, -0.5), 5), 1.0)
    S = torch.full((3, 3), -0.5)
    assert torch.equal(reweighted(S, shape, Config(l1=1, l2=1, k_left=2, k_right=4)), S)


def method(**values: Any) -> tuple[Method, Setup]:
    """A method on 40 random pairs."""
    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(1)
    image, text = torch.rand(40, 6, generator=draw), (torch.rand(40, 5, generator=draw) < 0.4).float()
    setup = Setup(
        bits=4,
        epochs=9,
        seed=3,
        device=torch.device("cpu"),
        n_train=40,
        image_dim=6,
        text_dim=5,
        labels=None,
        image=image,
        text=text,
        image_net=lambda head: head,
    )
    config = build(Config, {**paper(Config), "hidden_text": 8, **values})
    return Method(config, setup), setup


def one_batch(setup: Setup) -> list[Batch]:
    return [Batch(torch.arange(40), Items(setup.image, setup.text, setup.device))]


def test_the_constants_are_those_of_the_data() -> None:
    """They come from all training items before the first step, and change with data and weights of S only."""
    fitted, setup = method(batch_size=40)
    S = joint_similarity(setup.image, setup.text, Config(alpha=0.5, beta=0.1, lamb=0.4))
    entries = S[~torch.eye(40, dtype=torch.bool)]
    assert float(fitted.shape["low"]) == pytest.approx(float(entries.min()), rel=1e-5)
    assert float(fitted.shape["high"]) == pytest.approx(float(entries.max()), rel=1e-5)
    assert float(entries.min()) < float(fitted.shape["mode"]) < float(entries.max())
    again, other = method(batch_size=40)[0], method(batch_size=40, alpha=0.2)[0]
    assert all(torch.equal(value, again.shape[name]) for name, value in fitted.shape.items())
    assert not torch.equal(fitted.shape["mode"], other.shape["mode"])
    assert all(torch.isfinite(value) for value in method(batch_size=1)[0].shape.values())


def test_the_constants_are_part_of_the_state() -> None:
    fitted, _ = method()
    saved = states.save(fitted.state())
    saved["shape"]["mode"] = torch.tensor(0.125)
    fresh, _ = method()
    states.load(fresh.state(), saved)
    assert float(fresh.shape["mode"]) == 0.125


def test_an_epoch_trains_on_the_reweighted_similarity() -> None:
    """Both nets, √(epoch + 1) in tanh, μ and DSDW in S."""
    still, setup = method(lr_image=1e-30, lr_text=1e-30, batch_size=40)
    image, text = still.encode_image(setup.image).detach(), still.encode_text(setup.text).detach()
    S = joint_similarity(setup.image, setup.text, Config(alpha=0.5, beta=0.1, lamb=0.4))
    S = 1.4 * reweighted(S, still.shape, Config(l1=0.1, l2=0.2, k_left=2, k_right=4))
    for epoch in range(5):
        if epoch == 3:
            saved, (still, _) = states.save(still.state()), method(lr_image=1e-30, lr_text=1e-30, batch_size=40)
            states.load(still.state(), saved)
        alpha = math.sqrt(epoch + 1)
        expected, _ = step_loss(torch.tanh(alpha * image), torch.tanh(alpha * text), S, intra=0.1)
        assert still.epoch(lambda: iter(one_batch(setup)))["loss"] == pytest.approx(float(expected), rel=1e-5)
    trained, _ = method(batch_size=40)
    trained.epoch(lambda: iter(one_batch(setup)))
    assert not torch.equal(trained.encode_image(setup.image), image)
    assert not torch.equal(trained.encode_text(setup.text), text)
    first = trained.epoch(lambda: iter(one_batch(setup)))["loss"]
    for _ in range(20):
        last = trained.epoch(lambda: iter(one_batch(setup)))["loss"]
    assert last < first
