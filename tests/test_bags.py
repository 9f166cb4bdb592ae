"""Sparse texts against the dense matrix: the slow twin of every way that a `Bags` takes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from torch import nn
from torch.nn import functional

from cmh import cache, methods, training
from cmh.datasets import sparse
from cmh.interfaces import SearchData
from cmh.nets import augment, bags
from cmh.nets.bags import Bags, WordLinear
from tests.test_training import tiny


def words(n: int, d: int, *, share: float = 0.1, seed: int = 0, dtype: Any = np.float32) -> csr_array:
    """A matrix with empty rows, columns that nobody has, and numbers other than 1."""
    rng = np.random.default_rng(seed)
    dense = np.where(rng.random((n, d)) < share, rng.standard_normal((n, d)), 0)
    dense[::4] = 0
    return csr_array(dense.astype(dtype))


@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 2**16))
def test_bags_are_the_dense_matrix(n: int, d: int, seed: int) -> None:
    matrix = words(n, d, share=0.4, seed=seed)
    found, dense = Bags.of(matrix), torch.from_numpy(matrix.toarray())
    assert (found.shape, found.dtype, len(found)) == (dense.shape, dense.dtype, len(dense))
    assert torch.equal(found.dense(), dense)
    rows = torch.randint(0, n, (5,))
    chosen = found[rows]
    assert isinstance(chosen, Bags)
    assert torch.equal(chosen.dense(), dense[rows])
    for some in (slice(2, 5), slice(None), slice(3, 1), slice(n, n + 4)):
        part = found[some]
        assert isinstance(part, Bags)
        assert torch.equal(part.dense(), dense[some])
    assert torch.equal(found[::2], dense[::2])


def test_duplicate_words_add_up() -> None:
    """A matrix that names a column twice: SciPy adds such numbers up, and so must we."""
    matrix = csr_array((np.array([1, 2, 4], np.float32), np.array([1, 1, 0]), np.array([0, 2, 3])), shape=(2, 3))
    found, layer = Bags.of(matrix), nn.Linear(3, 2)
    assert found.dense().tolist() == [[0, 3, 0], [4, 0, 0]]
    assert torch.allclose(WordLinear(layer)(found), layer(found.dense()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("by_words", [True, False])
@pytest.mark.parametrize("n", [1, 40])
def test_a_linear_layer_gives_the_dense_value_and_gradient(dtype: torch.dtype, by_words: bool, n: int) -> None:
    torch.manual_seed(1)
    dense = nn.Linear(30, 7).to(dtype)
    layer: Any = WordLinear(dense) if by_words else nn.Linear(30, 7).to(dtype)
    if not by_words:
        layer.load_state_dict(dense.state_dict())
    matrix = words(n, 30, seed=3)
    x, upstream = torch.from_numpy(matrix.toarray()).to(dtype), torch.randn(n, 7, dtype=dtype)
    expected, found = dense(x), layer(Bags.of(matrix))
    assert type(found) is torch.Tensor
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert torch.allclose(found, expected, atol=tolerance)
    (expected * upstream).sum().backward()
    bias, weight = dense.bias.grad.clone(), dense.weight.grad.clone()  # WordLinear has the same bias
    dense.zero_grad()
    (found * upstream).sum().backward()
    assert torch.allclose(layer.bias.grad, bias, atol=tolerance)
    assert torch.allclose(layer.weight.grad.T if by_words else layer.weight.grad, weight, atol=tolerance)


def test_a_layer_without_bias() -> None:
    matrix, weight = words(6, 5), torch.randn(3, 5)
    found = functional.linear(Bags.of(matrix), weight)
    assert torch.allclose(found, torch.from_numpy(matrix.toarray()) @ weight.T, atol=1e-6)


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: functional.normalize(x),
        lambda x: x @ torch.ones(20, 2),
        lambda x: torch.cat([x, x]),
        lambda x: x.unsqueeze(1),
        lambda x: x.double() - 1,
        lambda x: x[::3],
        lambda x: torch.stack([x, 2 * x]).sum(0),
        lambda x: x.to("cpu", torch.float64),
    ],
)
def test_every_other_operation_is_given_the_dense_matrix(operation: Any) -> None:
    matrix = words(8, 20)
    found = operation(Bags.of(matrix))
    assert type(found) is torch.Tensor
    assert torch.equal(found, operation(torch.from_numpy(matrix.toarray())))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_nothing_is_made_dense_on_the_way_to_a_net(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found, layer = Bags.of(words(8, 20)), nn.Linear(20, 3)
    expected = layer(found.dense())
    monkeypatch.setattr(Bags, "dense", None)
    with mode():
        moved = found.to(torch.device("cpu")).to(torch.float32).to(torch.device("cpu"), dtype=torch.float32)
        assert moved is found
        assert torch.allclose(layer(nn.Identity()(moved)[torch.arange(8)]), expected, atol=1e-6)


def test_erased_texts_lose_the_same_words() -> None:
    matrix = words(30, 40, share=0.3)
    draws = [torch.Generator().manual_seed(5) for _ in range(2)]
    found = augment.erase(Bags.of(matrix), draws[0], share=0.5)
    assert isinstance(found, Bags)
    assert torch.equal(found.dense(), augment.erase(torch.from_numpy(matrix.toarray()), draws[1], share=0.5))


def test_all_layers_on_words_are_laid_out_by_words_and_no_other() -> None:
    net = bags.by_words(nn.Sequential(nn.Linear(9, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 9)), nn.Linear(9, 2)), 9)
    assert [type(part).__name__ for part in net.modules() if hasattr(part, "bias")] == [
        "WordLinear",
        "Linear",
        "WordLinear",
    ]
    assert isinstance(bags.by_words(nn.Linear(9, 4), 9), WordLinear)


def sparse_and_dense() -> tuple[SearchData, SearchData]:
    """Two data sets of the same numbers."""
    data = tiny()
    found = []
    for make in (csr_array, np.asarray):
        sides = {}
        for name in ("train", "validation_query", "validation_database"):
            arrays = getattr(data, name)
            few = np.where(np.abs(arrays.text) > 1.2, arrays.text, 0).astype(np.float32)
            sides[name] = dataclasses.replace(arrays, text=make(few))
        found.append(dataclasses.replace(data, **sides))
    return found[0], found[1]


@pytest.mark.parametrize("name", methods.names())
def test_a_method_learns_from_sparse_texts_what_it_learns_from_dense_ones(name: str) -> None:
    """The same but for how sums are rounded, which Adam makes large where a gradient is almost 0; with words erased."""
    module = methods.get(name)
    more = {} if module.KIND == "shallow" else {"batch_size": 32, "erase": 0.3}
    # As they are: texts of few words are scaled in another way than dense ones.
    run, config = training.parse(module, {"bits": 8, "epochs": 1, "threads": 1, "scale": "none", **more})
    curves, codes = [], []
    for data in sparse_and_dense():
        fitted = training.fit(module, run, config, data)
        assert fitted.best.val_map > 0
        curves.append([*fitted.curve[0].terms.values()])
        codes.append(fitted.method.encode_text(bags.tensor(data.train.text)).detach())
    assert curves[0] == pytest.approx(curves[1], rel=0.03, abs=1e-4)
    assert ((codes[0] >= 0) == (codes[1] >= 0)).float().mean() > 0.97


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_few_words_are_stored_sparse_and_others_dense(dtype: Any, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("CMH_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "ROWS_AT_ONCE", 7)
    few = words(50, 60, share=0.02).toarray().astype(dtype)
    many = words(50, 60, share=0.5).toarray().astype(dtype)
    rows = {"search": np.arange(40)[::-1].copy(), "test": np.arange(40, 50)}
    for name, matrix, stored in (("few", few, True), ("many", many, False)):
        folder = cache.entry(name, lambda matrix=matrix: sparse.contents(matrix, rows))
        for part, index in rows.items():
            found = sparse.read(folder / part)
            assert (found is not None) == stored
            if found is not None:
                assert np.array_equal(found.toarray(), matrix[index])
            else:
                assert np.array_equal(np.load(folder / part / "text.npy"), matrix[index])
