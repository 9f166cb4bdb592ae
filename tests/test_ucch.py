"""UCCH: its loss against the authors' code and against explicit loops, at its limits, and its memory bank."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from cmh import methods, training
from cmh.losses import sign
from cmh.methods import ucch
from cmh.methods.ucch import Method, batch_dictionary, contrast, occurrences, ranking, renewed, step_loss
from cmh.nets.team import Team
from cmh.training.batches import Batch, Items
from tests import golden
from tests.test_training import tiny

CASES = golden.cases("UCCH")
BANK = [case for case in CASES if case.startswith("memory_bank")]
WARM_UP = [case for case in CASES if case.startswith("warm_up")]
LEFT_OUT: dict[str, str] = {}  # case → reason; none is
NAMES = {
    "image_contrast": "l_loss (image InfoNCE)",
    "text_contrast": "ab_loss (text InfoNCE)",
    "ranking": "Lr (ranking)",
}
SEEDS = st.integers(0, 999)
CPU = torch.device("cpu")


def test_every_case_of_the_file_is_covered() -> None:
    assert sorted([*BANK, *WARM_UP, *LEFT_OUT]) == sorted(CASES)
    assert (len(BANK), len(WARM_UP)) == (2, 1)


@pytest.mark.parametrize("case", [*BANK, *WARM_UP])
def test_golden(case: str) -> None:
    expected = CASES[case]
    hyper, index = expected["hyper"], torch.from_numpy(golden.batch())
    x, y = (normalize(golden.tensor(name)).requires_grad_() for name in ("f", "g"))
    bank, candidates = golden.tensor("mem"), golden.tensor("nid")
    assert torch.equal(candidates[:, 0].long(), index)
    if case in WARM_UP:
        dictionary = batch_dictionary(x, y)
    else:
        dictionary = sign(bank), index, occurrences(index, candidates[:, 1:].long(), len(bank))
    weights = {"beta": hyper["alpha"], "tau": hyper["T"], "margin": hyper["margin"], "shift": hyper["shift"]}
    loss, terms = step_loss(x, y, dictionary, **weights)
    assert loss.dtype == torch.float64
    loss.backward()
    assert float(loss.detach()) == pytest.approx(expected["total"], rel=1e-8)
    assert {NAMES[name]: float(value) for name, value in terms.items()} == pytest.approx(expected["terms"], rel=1e-8)
    assert len(expected["grads"]) == 2
    golden.assert_gradient(x.grad, expected["grads"]["image code (tanh, L2-normalised)"])
    golden.assert_gradient(y.grad, expected["grads"]["text code (tanh, L2-normalised)"])

    bank[index] = renewed(bank[index], x, y, delta=0 if case in WARM_UP else hyper["momentum"])
    extra = expected["extra"]
    assert float(bank.sum()) == pytest.approx(extra["memory_after_sum"], rel=1e-8)
    assert float(bank.norm()) == pytest.approx(extra["memory_norm"], rel=1e-8)
    assert bank[index[0], :3].tolist() == pytest.approx(extra["memory_after_row_ind0_first3"], rel=1e-8)


@settings(max_examples=25, deadline=None)
@given(
    b=st.integers(1, 4),
    n=st.integers(4, 7),
    bits=st.integers(1, 4),
    n_drawn=st.integers(1, 12),
    seed=SEEDS,
    tau=st.floats(0.05, 5),
)
def test_contrast_equals_loops(b: int, n: int, bits: int, n_drawn: int, seed: int, tau: float) -> None:
    """The drawn keys one by one, repeats and the item's own among them."""
    rng = np.random.default_rng(seed)
    codes = rng.standard_normal((b, bits))
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    keys = np.where(rng.random((n, bits)) < 0.5, -1.0, 1.0)
    own, drawn = rng.permutation(n)[:b], rng.integers(0, n, (b, n_drawn))
    expected = 0.0
    for i in range(b):
        scores = [
            sum(codes[i, k] * keys[j, k] / math.sqrt(bits) for k in range(bits)) / tau for j in (own[i], *drawn[i])
        ]
        expected -= math.log(math.exp(scores[0]) / sum(math.exp(score) for score in scores)) / b
    counts = occurrences(torch.from_numpy(own), torch.from_numpy(drawn), n)
    found = contrast(torch.from_numpy(codes), torch.from_numpy(keys), torch.from_numpy(own), counts, tau=tau)
    assert float(found) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(b=st.integers(1, 5), bits=st.integers(1, 4), seed=SEEDS, margin=st.floats(0, 2), shift=st.floats(0, 2))
def test_ranking_equals_loops(b: int, bits: int, seed: int, margin: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    x, y = (normalize(torch.from_numpy(rng.standard_normal((b, bits)))) for _ in range(2))
    M = (x @ y.T).tolist()
    expected = 0.0
    for scores in (M, [list(column) for column in zip(*M, strict=True)]):
        for i in range(b):
            lowered = [value if value >= scores[i][i] - margin else value - shift for value in scores[i]]
            expected += (margin + math.log(sum(math.exp(value) for value in lowered)) - scores[i][i]) / b
    assert float(ranking(x, y, margin=margin, shift=shift)) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(b=st.integers(1, 4), bits=st.integers(1, 4), seed=SEEDS, delta=st.floats(0, 0.99))
def test_renewed_equals_loops(b: int, bits: int, seed: int, delta: float) -> None:
    rng = np.random.default_rng(seed)
    rows, x, y = rng.standard_normal((3, b, bits))
    found = renewed(*map(torch.from_numpy, (rows, x, y)), delta=delta)
    for i in range(b):
        middle = [(x[i, k] + y[i, k]) / 2 for k in range(bits)]
        size = math.sqrt(sum(value**2 for value in middle))
        mixed = [delta * rows[i, k] + (1 - delta) * middle[k] / size for k in range(bits)]
        size = math.sqrt(sum(value**2 for value in mixed))
        assert found[i].tolist() == pytest.approx([value / size for value in mixed], rel=1e-7, abs=1e-9)


def test_a_batch_is_its_own_dictionary_in_the_warm_up() -> None:
    draw = torch.Generator().manual_seed(3)
    x, y = (normalize(torch.randn(3, 5, generator=draw)).requires_grad_() for _ in range(2))
    keys, own, counts = batch_dictionary(x, y)
    assert torch.equal(keys, sign((x + y) / 2))
    assert not keys.requires_grad
    assert own.tolist() == [0, 1, 2]
    assert counts.tolist() == [[1] * 3] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [1, 16])
@pytest.mark.parametrize("value", [0.0, 1e-30, 1.0, -1.0])
@pytest.mark.parametrize("key", [1.0, -1.0], ids=["all alike", "all opposite"])
@pytest.mark.parametrize("b", [1, 3])
def test_limits_are_finite(b: int, key: float, value: float, bits: int, dtype: torch.dtype) -> None:
    """Zero vectors, saturated codes, one item, one bit; a low temperature."""
    F = torch.full((b, bits), value, dtype=dtype, requires_grad=True)
    G = torch.full((b, bits), abs(value), dtype=dtype, requires_grad=True)
    x, y = normalize(F), normalize(G)
    keys, own = torch.full((5, bits), key, dtype=dtype), torch.arange(b)
    drawn = torch.full((b, 4), 4)
    for dictionary in (batch_dictionary(x, y), (keys, own, occurrences(own, drawn, 5))):
        loss, terms = step_loss(x, y, dictionary, beta=0.5, tau=0.01, margin=0.2, shift=1.0)
        loss.backward(retain_graph=True)
        assert torch.isfinite(loss)
        assert all(bool(torch.isfinite(term)) for term in terms.values())
        assert not any(term.requires_grad for term in terms.values())
        for codes in (F, G):
            assert codes.grad is not None
            assert bool(torch.isfinite(codes.grad).all())
    assert bool(torch.isfinite(renewed(torch.zeros_like(F), x, y, delta=0.4)).all())


def test_gradients() -> None:
    draw = torch.Generator().manual_seed(1)
    x, y = (normalize(torch.randn(3, 4, generator=draw, dtype=torch.float64)).requires_grad_() for _ in range(2))
    keys, own = sign(torch.randn(6, 4, generator=draw, dtype=torch.float64)), torch.tensor([5, 0, 2])
    counts = occurrences(own, torch.randint(6, (3, 9), generator=draw), 6)
    weights = {"beta": 0.6, "tau": 0.7, "margin": 0.2, "shift": 0.5}
    assert torch.autograd.gradcheck(lambda x, y: step_loss(x, y, (keys, own, counts), **weights)[0], (x, y))


def built(**more: Any) -> tuple[Method, Callable[[], Iterator[training.Batch]]]:
    """A small method, and its passes in the order of the items."""
    items = tiny().train
    values = {"hidden_image": 8, "hidden_text": 8, "bits": 6, "epochs": 6, "n_negatives": 9, **more}
    run, config = training.parse(methods.get("ucch"), values)
    image, text = torch.from_numpy(items.image), torch.from_numpy(items.text)
    torch.manual_seed(0)
    setup = training.Setup(
        bits=run.bits,
        epochs=run.epochs,
        seed=0,
        device=CPU,
        n_train=len(image),
        image_dim=image.shape[1],
        text_dim=text.shape[1],
        labels=None,
        image=image,
        text=text,
        image_net=lambda head: head,
    )
    order = torch.arange(len(image)).split(50)
    return Method(config, setup), lambda: (Batch(index, Items(image, text, CPU)) for index in order)


def codes(method: Method, batches: Callable[[], Iterator[training.Batch]]) -> tuple[Tensor, Tensor]:
    pairs = [
        (method.encode_image(batch.image).detach(), method.encode_text(batch.text).detach()) for batch in batches()
    ]
    image, text = (normalize(torch.cat(side)) for side in zip(*pairs, strict=True))
    return image, text


def test_the_bank_starts_at_fair_signs_of_unit_length() -> None:
    method, _ = built(bits=70)
    assert torch.allclose(method.bank.norm(dim=1), torch.ones(len(method.bank)))
    assert torch.allclose(method.bank.abs(), torch.full_like(method.bank, 70**-0.5))
    assert float((method.bank > 0).float().mean()) == pytest.approx(0.5, abs=0.03)


def test_the_warm_up_overwrites_the_bank_and_later_epochs_follow_it() -> None:
    """With learning rates of next to nothing the outputs stand still, so the rule can be seen in the bank."""
    method, batches = built(lr_image=1e-12, lr_text=1e-12, weight_decay=0, delta=0.4, warm_up=2)
    x, y = codes(method, batches)
    middle = normalize(x + y)
    method.epoch(batches)
    assert torch.allclose(method.bank, middle, atol=1e-5)
    method.epoch(batches)
    method.bank.copy_(middle.flip(0))  # so that the old rows show
    method.epoch(batches)
    assert torch.allclose(method.bank, normalize(0.4 * middle.flip(0) + 0.6 * middle), atol=1e-5)


def test_warm_up_ends_when_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    method, batches = built(warm_up=2)
    seen: list[int] = []
    whole = ucch.contrast

    def spy(codes: Tensor, keys: Tensor, own: Tensor, counts: Tensor, *, tau: float) -> Tensor:
        seen.append(len(keys))
        return whole(codes, keys, own, counts, tau=tau)

    monkeypatch.setattr(ucch, "contrast", spy)
    rows = []
    for _ in range(4):
        method.epoch(batches)
        rows.append(set(seen))
        seen.clear()
    assert rows == [{50, 20}, {50, 20}, {120}, {120}]


def test_negatives_are_drawn_from_all_items_with_replacement() -> None:
    method, _ = built(n_negatives=400)
    index = torch.tensor([3, 7])
    keys, own, counts = method._dictionary(index)
    assert torch.equal(keys, sign(method.bank))
    assert torch.equal(own, index)
    assert counts.sum(1).tolist() == [401, 401]
    assert float(counts.max()) > 2
    assert float((counts > 0).float().mean()) > 0.9
    assert not torch.equal(counts[0], counts[1])
    torch.manual_seed(5)
    first = method._dictionary(index)[2]
    torch.manual_seed(5)
    assert torch.equal(method._dictionary(index)[2], first)


def test_the_gradient_of_both_nets_is_clipped_together(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(team: Team, loss: Tensor, *, clip: float) -> None:
        step(team, loss, clip=clip)
        gradients = [p.grad.flatten() for net in team.nets.values() for p in net.parameters() if p.grad is not None]
        seen.append(float(torch.cat(gradients).norm()))

    step = Team.step
    monkeypatch.setattr(Team, "step", spy)
    for clip in (1e-3, 1e6):
        method, batches = built(clip=clip)
        method.epoch(batches)
    assert seen[:3] == pytest.approx([1e-3] * 3, rel=1e-2)
    assert min(seen[3:]) > 2e-3


def test_epochs_bring_pairs_together() -> None:
    method, batches = built(lr_image=3e-3, lr_text=3e-3, schedule="constant")

    def gap() -> float:
        x, y = codes(method, batches)
        scores = x @ y.T
        return float(scores.diagonal().mean() - scores.mean())

    before = gap()
    curve = [method.epoch(batches) for _ in range(12)]
    assert gap() > before + 0.1
    assert curve[-1]["ranking"] < curve[0]["ranking"]
    for terms in curve:
        total = 0.7 * (terms["image_contrast"] + terms["text_contrast"]) + 0.3 * terms["ranking"]
        assert terms["loss"] == pytest.approx(total, rel=1e-5)
