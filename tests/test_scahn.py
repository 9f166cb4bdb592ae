"""SCAHN's loss against the golden file and against loops, its pairs of batches, its nets, and bit-scalable codes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cmh import training
from cmh.losses import sign
from cmh.methods import scahn
from cmh.methods.scahn import Config, in_pairs, step_terms, total, truncate
from cmh.nets import runs as runs_of
from cmh.nets.multiscale import ScaleMap, raw_map
from cmh.nets.runs import Runs
from cmh.nets.staged import ScaleStage, fuse, multiscale_stages
from cmh.training.batches import Batch, Items
from tests import golden
from tests.test_losses import softplus
from tests.test_training import tiny

CASES = golden.cases("SCAHN")
STEPS = [case for case in CASES if case.endswith(("_step", "_step_with_learned_fusion"))]
LEFT_OUT: dict[str, str] = {}  # case → reason; none is
INDEX = torch.from_numpy(np.concatenate([golden.batch(1), golden.batch(2)]))
SEEDS, SIZE = st.integers(0, 999), st.integers(1, 5)
TERMS = {"inter": "inter_loss", "intra": "intra_loss", "pair": "intra_pair_loss", "quantisation": "quantization_loss"}


def step(case: str) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
    """A step as the recipe describes it: (its terms with their weights, their sum, leaves by the file's names)."""
    hyper = CASES[case]["hyper"]
    own, others, names = (
        ("F", "G", ("mI1", "mI2", "f", "f2", "wI"))
        if case.startswith("image_")
        else ("G", "F", ("mT1", "mT2", "g", "g2", "wT"))
    )
    leaves = {name: golden.tensor(name).requires_grad_() for name in names}
    first, second, final_1, final_2, weight = leaves.values()
    if case.endswith("learned_fusion"):
        final_1, final_2 = (torch.tanh(fuse(layers, weight)) for layers in (first, second))
    codes = torch.cat([torch.cat([first, final_1[None]]), torch.cat([second, final_2[None]])], 1)
    buffer, labels = golden.tensor(own), golden.tensor("L")
    B = sign(golden.tensor("F") + golden.tensor("G"))[INDEX]
    buffer[INDEX] = codes[-1].detach()
    scale = golden.SIZES["K"] / hyper["alpha = K/32"]
    terms = step_terms(codes, buffer, golden.tensor(others), B, labels[INDEX], labels, scale)
    weights = {"intra": hyper["lambda"], "pair": hyper["gamma"], "quantisation": hyper["beta"]}
    weighted = {TERMS[name]: weights.get(name, 1) * term for name, term in terms.items()}
    return weighted, total(terms, Config(**weights))[0], leaves


def test_every_case_of_the_file_is_covered() -> None:
    assert sorted([*STEPS, *LEFT_OUT]) == sorted(CASES)
    assert len(STEPS) == 3


@pytest.mark.parametrize("case", STEPS)
def test_step(case: str) -> None:
    expected = CASES[case]
    terms, loss, leaves = step(case)
    assert loss.dtype == torch.float64
    assert {name: float(term.detach()) for name, term in terms.items()} == pytest.approx(expected["terms"], rel=1e-8)
    assert float(loss.detach()) == pytest.approx(expected["total"], rel=1e-8)
    assert expected["grads"]
    for name, about in expected["grads"].items():
        (found,) = torch.autograd.grad(loss, leaves[name], retain_graph=True)
        golden.assert_gradient(found, about)
        for term, norm in about["norm_by_term"].items():
            (part,) = torch.autograd.grad(terms[term], leaves[name], retain_graph=True, materialize_grads=True)
            assert float(part.norm()) == pytest.approx(norm, rel=1e-7)


@settings(max_examples=30, deadline=None)
@given(n=SIZE, b=st.integers(2, 5), bits=st.integers(1, 4), seed=SEEDS, scale=st.floats(0, 100))
def test_terms_equal_loops(n: int, b: int, bits: int, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    codes, own, others = (np.tanh(rng.standard_normal(shape)) for shape in ((5, b, bits), (n, bits), (n, bits)))
    B = np.where(rng.random((b, bits)) < 0.5, -1.0, 1.0)
    labels, all_labels = ((rng.random((rows, 3)) < 0.4).astype(float) for rows in (b, n))

    def loss(h: Any, o: Any, ours: Any, theirs: Any) -> float:
        theta = scale / bits * sum(h[k] * o[k] for k in range(bits))
        return softplus(theta) - theta * any(a == c == 1 for a, c in zip(ours, theirs, strict=True))

    halves = [range((b + 1) // 2), range((b + 1) // 2, b)]
    expected = dict.fromkeys(TERMS, 0.0)
    for rows in halves:
        for i in rows:
            for h in codes[:, i]:
                for j in range(n):
                    expected["inter"] += loss(h, others[j], labels[i], all_labels[j]) / (2 * 5 * len(rows) * n)
                    expected["intra"] += loss(h, own[j], labels[i], all_labels[j]) / (2 * 5 * len(rows) * n)
            distance = sum((B[i, k] - codes[4, i, k]) ** 2 for k in range(bits))
            expected["quantisation"] += distance / (2 * len(rows) * bits)
    for layer in codes:
        for i in halves[0]:
            for j in halves[1]:
                expected["pair"] += loss(layer[i], layer[j], labels[i], labels[j]) / (
                    5 * len(halves[0]) * len(halves[1])
                )
    found = step_terms(*map(torch.from_numpy, (codes, own, others, B, labels, all_labels)), scale)
    assert {name: float(term) for name, term in found.items()} == pytest.approx(expected, rel=1e-9, abs=1e-8)


def test_total_weighs_each_term() -> None:
    terms = {name: torch.ones((), dtype=torch.float64, requires_grad=True) for name in TERMS}
    loss, plain = total(terms, Config(intra=0.3, pair=0.5, quantisation=0.7))
    shares = torch.autograd.grad(loss, list(terms.values()))
    assert [float(share) for share in shares] == pytest.approx([1, 0.3, 0.5, 0.7])
    assert float(loss.detach()) == pytest.approx(2.5)
    assert {name: float(term) for name, term in plain.items()} == dict.fromkeys(TERMS, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [1, 16])
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 1e4])
@pytest.mark.parametrize("alike", [True, False], ids=["all similar", "none similar"])
def test_limits_are_finite(alike: bool, value: float, bits: int, dtype: torch.dtype) -> None:
    codes = torch.full((5, 3, bits), value, dtype=dtype, requires_grad=True)
    buffer = torch.full((4, bits), abs(value), dtype=dtype)
    labels = torch.ones(4, 2, dtype=dtype) if alike else torch.zeros(4, 2, dtype=dtype)
    terms = step_terms(codes, -buffer, buffer, sign(codes[-1].detach()), labels[:3], labels, 32)
    loss, _ = total(terms, Config(intra=1, pair=1, quantisation=1))
    loss.backward()
    assert loss.dtype == dtype
    assert all(bool(torch.isfinite(term)) for term in terms.values())
    assert codes.grad is not None
    assert bool(torch.isfinite(codes.grad).all())


def test_gradients() -> None:
    draw = torch.Generator().manual_seed(1)
    layers, weight, own, others = (
        torch.randn(*shape, generator=draw, dtype=torch.float64).tanh() for shape in ((4, 4, 3), (4, 3), (6, 3), (6, 3))
    )
    labels = torch.randint(0, 2, (6, 2), generator=draw).double()

    def terms(layers: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        codes = torch.cat([layers, torch.tanh(fuse(layers, weight))[None]])
        return tuple(step_terms(codes, own, others, sign(own[:4]), labels[:4], labels, 32).values())

    assert torch.autograd.gradcheck(terms, (layers.requires_grad_(), weight.requires_grad_()))


@pytest.mark.parametrize("n_batches", range(1, 10))
def test_pairs_take_every_batch_once_and_leave_none_alone(n_batches: int) -> None:
    batches: list[Any] = [object() for _ in range(n_batches)]
    groups = list(in_pairs(iter(batches)))
    assert [batch for group in groups for batch in group] == batches
    assert all(len(group) == 2 for group in groups[:-1])
    assert len(groups[-1]) == (1 if n_batches == 1 else 2 + n_batches % 2)


def method(bits: int = 4, **values: Any) -> scahn.Method:
    small = {"hidden_image": 8, "hidden_text": 8, "batch_size": 16}
    run, config = training.parse(scahn, {**small, "bits": bits, "epochs": 1, "threads": 1, "scale": "none", **values})
    built: scahn.Method = training.fit(scahn, run, config, tiny()).method
    return built


def test_a_step_trains_the_fusion_and_the_buffers_hold_the_fused_code() -> None:
    built = method()
    before = {name: fusion.weight.detach().clone() for name, fusion in built.fusions.items()}
    features, labels = (torch.from_numpy(getattr(tiny().train, name)) for name in ("image", "text"))
    rows = torch.split(torch.arange(len(features)), 16)
    built.epoch(lambda: (Batch(index, Items(features, labels, torch.device("cpu"))) for index in rows))
    assert all(not torch.equal(fusion.weight, before[name]) for name, fusion in built.fusions.items())
    assert all(bool((buffer.abs() <= 1).all()) for buffer in built.buffers.outputs.values())
    assert torch.equal(built.buffers.B, sign(built.buffers.outputs["image"] + built.buffers.outputs["text"]))


@pytest.mark.parametrize("n_text", [5, 12, 49, 60])
def test_the_published_text_net_takes_vectors_of_any_length(n_text: int) -> None:
    net = multiscale_stages(n_text, 7)
    layers = net(torch.rand(3, n_text))
    assert layers.shape == (4, 3, 7)
    assert bool((layers.abs() <= 1).all())
    assert net.stages[0].scales(torch.rand(3, n_text)).shape == (3, 1, n_text, 6)


def stage_of(width: int, dtype: torch.dtype, channels: int = 5) -> ScaleStage:
    """A first stage with weights and biases of every sign."""
    stage = ScaleStage(width, channels).to(dtype)
    for one in stage.scales.convolutions:
        torch.nn.init.normal_(one.weight)
        torch.nn.init.normal_(one.bias)
    for norm in (stage.block.body[1], stage.block.body[4], stage.block.skip[1]):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    return stage


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 6), width=st.sampled_from([1, 2, 7, 50, 61, 120]), words=st.integers(0, 9), seed=SEEDS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_runs_of_equal_rows_are_the_rows(
    dtype: torch.dtype, rtol: float, training: bool, n: int, width: int, words: int, seed: int
) -> None:
    """Convolutions and batch norm: value, gradient and the statistics that are kept, of texts of no word to dense."""
    torch.manual_seed(seed)
    x = torch.zeros(n, width, dtype=dtype)
    for row in range(1, n):  # the first text has no word
        x[row, torch.randint(width, (words,))] = torch.randn(words, dtype=dtype)
    by_runs = stage_of(width, dtype).train(training)
    by_rows = copy.deepcopy(by_runs)
    rows = raw_map(x)
    runs = Runs.of(rows)
    assert int(runs.length.sum()) == n * width
    maps, norms = [], []
    for stage in (by_runs, by_rows):
        across, norm, _, down = stage.block.body[:4]
        if stage is by_runs:
            values = stage.scales.weigh(rows[runs.item, runs.place])
            normed = runs.normed(across(values[:, None, None]).squeeze(2), norm)
            maps.append(runs.convolved(normed.tanh(), down.weight).unsqueeze(2))
        else:
            maps.append(down(norm(across(stage.scales.weigh(rows).unsqueeze(1))).tanh()))
        norms.append(norm)
    scale = float(maps[1].detach().abs().max())
    assert torch.allclose(*maps, rtol=rtol, atol=rtol * scale)
    for one, other in zip(*(norm.buffers() for norm in norms), strict=True):
        assert torch.allclose(one, other, rtol=rtol, atol=rtol)
    upstream = torch.randn_like(maps[0])
    wanted = [[*stage.scales.parameters(), *list(stage.block.body[:4].parameters())] for stage in (by_runs, by_rows)]
    gradients = [torch.autograd.grad(one, ours, upstream) for one, ours in zip(maps, wanted, strict=True)]
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=rtol, atol=rtol * (1 + float(other.abs().max())))


@pytest.mark.parametrize("training", [True, False])
def test_the_first_stage_takes_runs_of_texts_of_few_words(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole stage, in float64: outputs, gradients and statistics; dense texts are taken row by row."""
    x = torch.zeros(9, 200, dtype=torch.float64)
    x[torch.arange(9), torch.randint(200, (9,))] = 2.0
    by_runs = stage_of(200, torch.float64).train(training)
    by_rows = copy.deepcopy(by_runs)
    expected = by_rows.by_rows(raw_map(x))
    with monkeypatch.context() as patch:
        patch.setattr(by_runs, "by_rows", None)
        patch.setattr(runs_of, "EDGES", 10)  # in several blocks
        found = by_runs(x)
    assert torch.allclose(found, expected, rtol=1e-8, atol=1e-8)
    for one, other in zip(by_runs.buffers(), by_rows.buffers(), strict=True):
        assert torch.allclose(one, other, rtol=1e-9)
    upstream = torch.randn_like(found)
    found.backward(upstream)
    expected.backward(upstream)
    for (name, one), other in zip(by_runs.named_parameters(), by_rows.parameters(), strict=True):
        assert one.grad is not None, name
        assert other.grad is not None, name
        assert torch.allclose(one.grad, other.grad, rtol=1e-6, atol=1e-6 * (1 + float(other.grad.abs().max()))), name
    monkeypatch.setattr(ScaleStage, "_by_runs", None)
    dense = torch.rand(9, 200, dtype=torch.float64)
    assert torch.equal(by_rows.eval()(dense), by_rows.by_rows(raw_map(dense)))


def test_a_pooled_copy_holds_the_means_of_its_windows() -> None:
    scales = ScaleMap()
    for convolution in scales.convolutions:
        torch.nn.init.ones_(convolution.weight)
        torch.nn.init.zeros_(convolution.bias)
    x = torch.rand(2, 60)
    copies = scales(x)[:, 0]  # (2, 60, 6)
    assert torch.equal(copies[..., 0], x)
    for column, window in ((3, 15), (4, 10), (5, 5)):
        means = x.unflatten(1, (-1, window)).mean(2).repeat_interleave(window, 1)
        assert torch.allclose(copies[..., column], means)


def test_the_published_text_net_trains() -> None:
    built = method(text_net="multiscale")
    outputs = built.encode_text(torch.from_numpy(tiny().train.text))
    assert outputs.shape == (120, 4)
    assert bool(torch.isfinite(outputs).all())


def test_bits_are_ranked_by_the_trained_weights() -> None:
    built = method(bits=4)
    for fusion, weight in zip(built.fusions.values(), ([1.0, 0.0, 2.0, -3.0], [0.5, 0.0, 0.0, 0.0]), strict=True):
        fusion.weight.data = torch.tensor(weight).repeat(4, 1)
    assert built.bit_importance().tolist() == [6, 0, 8, -12]
    codes = torch.arange(8).view(2, 4)
    assert truncate(codes, built.bit_importance(), 3).tolist() == [[2, 0, 1], [6, 4, 5]]
    assert truncate(codes, built.bit_importance(), 1).tolist() == [[2], [6]]
    assert truncate(codes, torch.zeros(4), 2).tolist() == [[0, 1], [4, 5]]  # equal bits keep their order


def test_training_sets_bits_apart() -> None:
    """What the ranking is worth on real data is in the method's file (difference 9); here, that there is one."""
    fitted = training.fit(scahn, *training.parse(scahn, {"bits": 16, "epochs": 3, "threads": 1}), tiny())
    importance = fitted.method.bit_importance()
    assert len(importance.unique()) == 16
    codes = sign(fitted.method.encode_image(torch.from_numpy(tiny().train.image)))
    kept = truncate(codes, importance, 4)
    assert kept.shape == (len(codes), 4)
    best = importance.argsort(descending=True)[:4]
    assert sorted(map(tuple, kept.T.tolist())) == sorted(map(tuple, codes[:, best].T.tolist()))
