"""CPAH against the port that is known, against explicit loops, and what is its own: parts, classes, B."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmh.datasets import Arrays
from cmh.losses import sign
from cmh.methods import cpah
from cmh.nets.critics import critic_loss
from tests import golden
from tests.direct import built
from tests.test_methods import fit
from tests.test_training import tiny

CASES = golden.cases("CPAH")
LOSSES = [case for case in CASES if case in ("published_defaults", "other_weights")]
OTHERS = ["consistency_as_in_paper_eq7", "discriminator"]
LEFT_OUT: dict[str, str] = {}  # case → reason; none is
INDEX = torch.from_numpy(golden.batch())
WEIGHTS = ("alpha", "beta", "adversary")


def discriminator(first: torch.Tensor, second: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """D(x) = relu(x W1ᵀ) W2ᵀ as the recipe has it."""
    return torch.relu(x @ first.T) @ second.T


def test_every_case_of_the_file_is_covered() -> None:
    assert sorted([*LOSSES, *OTHERS, *LEFT_OUT]) == sorted(CASES)
    assert len(LOSSES) == 2


@pytest.mark.parametrize("case", LOSSES)
def test_golden_loss(case: str) -> None:
    """The port takes features for C's logits (difference 2), so here they are given as such: the same arithmetic."""
    expected = CASES[case]
    leaves = {name: golden.tensor(name).requires_grad_() for name in ("f", "g", "sI", "sT", "qI", "qT", "pI", "pT")}
    parts = torch.cat([leaves[name] for name in ("sI", "sT", "qI", "qT")])
    B = sign(golden.tensor("F_raw") + golden.tensor("G_raw"))[INDEX]
    hyper = expected["hyper"]
    loss, terms = cpah.step_loss(
        leaves["f"],
        leaves["g"],
        B,
        discriminator(golden.tensor("DW1"), golden.tensor("DW2"), leaves["sT"]),
        parts,
        torch.logit(leaves["pI"]),
        torch.logit(leaves["pT"]),
        golden.tensor("L")[INDEX],
        cpah.Config(alpha=hyper["alpha"], beta=hyper["beta"], adversary=hyper["adversarial weight"]),
    )
    loss.backward()
    assert float(loss.detach()) == pytest.approx(expected["total"], rel=1e-8)
    names = ("loss_adver", "loss_consistency_class", "loss_class", "loss_pairwise", "loss_quant")
    ours = dict(zip(names, (float(term) for term in terms.values()), strict=True))
    assert ours == pytest.approx(expected["terms"], rel=1e-8)
    assert len(expected["grads"]) == len(leaves)
    for key, value in expected["grads"].items():
        golden.assert_gradient(leaves[key.split(" ")[0]].grad, value)


def test_golden_consistency() -> None:
    expected = CASES["consistency_as_in_paper_eq7"]
    logits = golden.tensor("c3").requires_grad_()
    loss = cpah.consistency_loss(logits)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(expected["total"], rel=1e-8)
    assert len(expected["grads"]) == 1
    golden.assert_gradient(logits.grad, expected["grads"]["c3"])


def test_golden_discriminator() -> None:
    expected = CASES["discriminator"]
    weights = [golden.tensor(name).requires_grad_() for name in ("DW1", "DW2")]
    real, fake, mix = (golden.tensor(name) for name in ("sI", "sT", "aF"))
    loss, terms = critic_loss(lambda x: discriminator(*weights, x), real, fake, mix, kind="logistic")
    loss.backward()
    assert float(loss.detach()) == pytest.approx(expected["total"], rel=1e-8)
    assert [float(it) for it in terms.values()] == pytest.approx(list(expected["terms"].values()), rel=1e-8)
    assert len(expected["grads"]) == 2
    for weight, name in zip(weights, ("W1", "W2"), strict=True):
        golden.assert_gradient(weight.grad, expected["grads"][name])


@settings(max_examples=25, deadline=None)
@given(b=st.integers(1, 4), bits=st.integers(1, 4), n_labels=st.integers(1, 3), seed=st.integers(0, 999))
def test_step_loss_equals_loops(b: int, bits: int, n_labels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image, text = np.tanh(rng.standard_normal((2, b, bits)))
    B = np.where(rng.random((b, bits)) < 0.5, -1.0, 1.0)
    fooled, parts, predicted = (rng.standard_normal(shape) for shape in ((b,), (4 * b, 3), (2, b, n_labels)))
    labels = (rng.random((b, n_labels)) < 0.5).astype(float)
    expected = dict.fromkeys(("adversary", "consistency", "labels", "nll", "quantisation"), 0.0)
    for i in range(b):
        expected["adversary"] -= np.log(1 / (1 + np.exp(-fooled[i]))) / b
        for block, right in enumerate((1, 1, 0, 2)):
            row = parts[block * b + i]
            expected["consistency"] -= row[right] - np.log(sum(np.exp(x) for x in row))
        for logits in predicted:
            for c in range(n_labels):
                p = 1 / (1 + np.exp(-logits[i, c]))
                expected["labels"] -= np.log(p) if labels[i, c] else np.log(1 - p)
        for j in range(b):
            theta = 0.5 * sum(image[i, k] * text[j, k] for k in range(bits))
            s = float(any(labels[i, c] and labels[j, c] for c in range(n_labels)))
            expected["nll"] += np.log(1 + np.exp(theta)) - s * theta
        expected["quantisation"] += sum((B[i, k] - h[i, k]) ** 2 for k in range(bits) for h in (image, text))
    weights = dict(zip(WEIGHTS, (0.3, 0.6, 7.0), strict=True))
    arrays = (image, text, B, fooled, parts, *predicted, labels)
    loss, terms = cpah.step_loss(*map(torch.from_numpy, arrays), cpah.Config(**weights))
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(expected, rel=1e-9)
    total = 7.0 * expected["adversary"] + 0.3 * (expected["consistency"] + expected["labels"])
    assert float(loss) == pytest.approx(total + expected["nll"] + 0.6 * expected["quantisation"], rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [1, 16])
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
@pytest.mark.parametrize("labels", [torch.zeros(4, 3), torch.ones(4, 3), torch.eye(4, 3)], ids=["none", "all", "some"])
def test_limits_are_finite(labels: torch.Tensor, value: float, bits: int, dtype: torch.dtype) -> None:
    image = torch.full((4, bits), value, dtype=dtype, requires_grad=True)
    text = torch.full((4, bits), -value, dtype=dtype, requires_grad=True)
    logits = torch.full((16, 3), 1e4, dtype=dtype).fill_diagonal_(-1e4).requires_grad_()
    critic = torch.full((4,), -1e4, dtype=dtype, requires_grad=True)
    loss, terms = cpah.step_loss(
        image,
        text,
        sign(-image.detach()),
        critic,
        logits,
        logits[:4],
        logits[4:8],
        labels.to(dtype),
        cpah.Config(**dict.fromkeys(WEIGHTS, 1.0)),
    )
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert all(bool(torch.isfinite(term)) for term in terms.values())
    for it in (image, text, logits, critic):
        assert it.grad is not None
        assert bool(torch.isfinite(it.grad).all())


def test_b_is_that_of_the_pass() -> None:
    """When the nets stand still, B after an epoch is the sign of both codes, and no longer the random start."""
    method, epoch = built("cpah", lr_image=1e-30, lr_text=1e-30, weight_decay=0.0, batch_size=999)
    start = method.B.clone()
    epoch(1)
    codes = []
    with torch.no_grad():
        for name in cpah.MODALITIES:  # still in training mode: one batch, so its statistics are those of the set
            r = method.team.nets[name](getattr(method.setup, name).float())
            mask = torch.sigmoid(method.team.nets[f"{name}_common"].mask(r))
            codes.append(method.team.nets[f"{name}_hash"](r * mask))
    sure = (codes[0] + codes[1]).abs() > 1e-4
    assert torch.equal(method.B[sure], sign(codes[0] + codes[1])[sure])
    assert not torch.equal(method.B, start)


def test_codes_go_through_the_mask() -> None:
    method, x = fit("cpah", epochs=1).method, torch.from_numpy(tiny().train.image)
    before = method.encode_image(x)
    with torch.no_grad():
        method.team.nets["image_common"].mask.bias.fill_(-50)  # nothing is common
    after = method.encode_image(x)
    assert not torch.allclose(before, after)
    assert torch.allclose(after, after[:1].expand_as(after), atol=1e-4)


def test_the_classifier_of_parts_is_trained() -> None:
    """Unlike the port's: its weights move, and it tells the parts apart."""
    method, epoch = built("cpah", alpha=10.0, lr_image=1e-2, lr_text=1e-2, epochs=15)
    before = method.team.nets["consistency"][0].weight.clone()
    first = epoch(1)["consistency"]
    assert not torch.equal(before, method.team.nets["consistency"][0].weight)
    for number in range(2, 16):
        last = epoch(number)["consistency"]
    assert last < 0.6 * first


def test_only_texts_are_drawn_to_the_other_side() -> None:
    """The adversarial term has no gradient for images: with nothing else to train, the image net stands still."""
    weights = {"alpha": 0.0, "beta": 0.0, "weight_decay": 0.0}
    loss_weights = {name: value for name, value in weights.items() if name != "weight_decay"}
    image, text = (torch.randn(4, 2).requires_grad_() for _ in range(2))
    loss, _ = cpah.step_loss(
        torch.zeros(4, 2),
        torch.zeros(4, 2),
        torch.ones(4, 2),
        text.sum(1),
        torch.zeros(16, 3),
        image,
        image,
        image.detach().sign().relu(),
        cpah.Config(adversary=1.0, **loss_weights),
    )
    loss.backward()
    assert image.grad is not None
    assert float(image.grad.abs().sum()) == 0
    assert text.grad is not None
    assert float(text.grad.abs().sum()) > 0


def test_the_critic_is_no_part_of_the_nets_step() -> None:
    """Its weights change by its own optimizer only."""
    method = fit("cpah", epochs=1, lr_critic=1e-30).method
    owned = [
        id(p)
        for name in cpah.MODALITIES
        for group in method.team.optimizers[name].param_groups
        for p in group["params"]
    ]
    assert not set(owned) & {id(parameter) for parameter in method.team.nets["critic"].parameters()}
    others = [p for name, net in method.team.nets.items() if name != "critic" for p in net.parameters()]
    assert sorted(owned) == sorted(map(id, others))


def test_a_lone_item_is_learned_from() -> None:
    """A batch of one item: batch normalisation has nothing to normalise with, but steps are taken and B is written."""
    train = tiny().train
    method, epoch = built("cpah", items=Arrays(train.image[:1], train.text[:1], train.labels[:1]), bits=64)
    weight, B = method.team.nets["image"][0].weight.clone(), method.B.clone()
    epoch(1)
    assert not torch.equal(method.team.nets["image"][0].weight, weight)
    assert not torch.equal(method.B, B)
    assert torch.equal(method.team.nets["image"][1].running_mean, torch.zeros(16))
