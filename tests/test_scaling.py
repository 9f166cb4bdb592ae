"""Features on one scale: against NumPy, for words and dense rows alike, through training, checkpoints and studies."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from cmh import methods, training
from cmh.interfaces import SearchData
from cmh.nets.bags import Bags
from cmh.study import request
from cmh.study.storage import Store
from cmh.training import scaling
from tests.test_address import asked
from tests.test_bags import words
from tests.test_training import fit, tiny, values


@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 2**16), st.sampled_from([1e-4, 1.0, 1e5]))
def test_standard_is_what_numpy_says(n: int, d: int, seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    train = (size * (rng.standard_normal((n, d)) + 30 * rng.standard_normal(d))).astype(np.float32)
    train[:, 0] = np.float32(7 * size)  # constant
    change = scaling.fitted("standard", torch.from_numpy(train))
    for rows in (train, train[:1] + np.float32(size)):
        deviation = train.astype(np.float64).std(0)
        flat = deviation <= 1e-6 * deviation.max()
        expected = np.where(flat, 0, (rows - train.mean(0, dtype=np.float64)) / np.where(flat, 1, deviation))
        assert np.allclose(change(torch.from_numpy(rows)), expected, atol=2e-4)


@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 2**16))
def test_unit_is_what_numpy_says(n: int, d: int, seed: int) -> None:
    rows = words(n, d, share=0.5, seed=seed)
    norms = np.linalg.norm(rows.toarray(), axis=1, keepdims=True)
    expected = rows.toarray() / np.where(norms == 0, 1, norms)
    change = scaling.fitted("unit", Bags.of(rows))
    assert np.allclose(change(torch.from_numpy(rows.toarray())), expected, atol=1e-6)
    found = change(Bags.of(rows))
    assert isinstance(found, Bags)
    assert np.allclose(found.dense(), expected, atol=1e-6)


@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 2**16))
def test_words_stay_words_and_have_a_mean_square_of_one(n: int, d: int, seed: int) -> None:
    rows = words(n, d, share=0.5, seed=seed)
    found = scaling.fitted("standard", Bags.of(rows))(Bags.of(rows))
    assert isinstance(found, Bags)
    assert np.array_equal(found.dense() != 0, rows.toarray() != 0)
    if rows.nnz:
        assert np.square(found.dense().numpy(), dtype=np.float64).mean() == pytest.approx(1, rel=1e-5)
        ratio = found.dense().numpy()[rows.toarray() != 0] / rows.toarray()[rows.toarray() != 0]
        assert np.allclose(ratio, ratio[0])


def sparse() -> SearchData:
    """The tiny data with texts of few words."""
    data = tiny()
    texts = csr_array(np.where(data.train.text > 1, data.train.text, 0).astype(np.float32))
    query = csr_array(np.where(data.validation_query.text > 1, data.validation_query.text, 0).astype(np.float32))
    train = dataclasses.replace(data.train, text=texts)
    return dataclasses.replace(
        data,
        train=train,
        validation_query=dataclasses.replace(data.validation_query, text=query),
        validation_database=train,
    )


def times(data: SearchData, factor: float, shift: float = 0.0) -> SearchData:
    """All its features multiplied, and dense ones shifted."""
    parts = {
        name: dataclasses.replace(
            part,
            image=(part.image * factor + shift).astype(np.float32),
            text=(part.text * factor).astype(np.float32),
        )
        for name in ("train", "validation_query", "validation_database")
        for part in (getattr(data, name),)
    }
    return dataclasses.replace(data, **parts)


@pytest.mark.parametrize("variant", ["dcmh-adam", "ridge"])
@pytest.mark.parametrize("data", [tiny(), sparse()], ids=["dense", "words"])
def test_the_size_of_features_does_not_matter(variant: str, data: SearchData) -> None:
    first = fit(variant, data, epochs=10).best.val_map
    for factor, shift in ((0.01, 0.0), (100.0, 0.0), (1.0, 5.0)):
        assert fit(variant, times(data, factor, shift), epochs=10).best.val_map == pytest.approx(first, abs=0.01)
    assert fit(variant, times(data, 0.01), epochs=10, scale="unit").best.val_map == pytest.approx(
        fit(variant, data, epochs=10, scale="unit").best.val_map, abs=0.01
    )


def test_none_gives_a_method_what_there_is() -> None:
    data = tiny()
    run, config = training.parse(methods.get("dcmh"), {"scale": "none", "bits": 8, "threads": 1})
    method, begin = training.build(methods.get("dcmh"), run, config, data, torch.device("cpu"))
    assert not isinstance(method, scaling.Scaled)
    batch = next(iter(begin(1)()))
    assert torch.equal(batch.features, torch.from_numpy(data.train.image)[batch.index])


def test_training_and_encoding_see_the_same_numbers() -> None:
    """What a batch holds of an item is what the item is encoded from."""
    data = sparse()
    run, config = training.parse(methods.get("dcmh"), {"bits": 8, "threads": 1})
    method, begin = training.build(methods.get("dcmh"), run, config, data, torch.device("cpu"))
    assert isinstance(method, scaling.Scaled)
    batch = next(iter(begin(1)()))
    assert torch.equal(batch.features, method.image(torch.from_numpy(data.train.image)[batch.index]))
    texts = method.text(Bags.of(data.train.text)[batch.index])  # type: ignore[arg-type]
    assert torch.equal(batch.text.dense(), texts.dense())  # type: ignore[attr-defined]
    pictures = torch.zeros(2, 3, 4, 4)
    seen: list[torch.Tensor] = []
    method.method.encode_image = seen.append  # type: ignore[method-assign, assignment]
    method.encode_image(pictures)
    assert seen[0] is pictures


def test_the_scale_is_in_checkpoint_and_identity(tmp_path: Path) -> None:
    one = fit("dcmh-adam", folder=tmp_path / "a")
    state = torch.load(tmp_path / "a" / "checkpoint.pt", weights_only=True)["best"]
    assert torch.allclose(state["scale"]["image"]["shift"], torch.from_numpy(tiny().train.image.mean(0)), atol=1e-5)
    assert one.identity.settings["scale"] == "standard"
    assert fit("dcmh-adam", scale="unit").identity.digest() != one.identity.digest()
    assert values(fit("dcmh-adam", folder=tmp_path / "a")) == values(one)


def test_the_papers_point_has_the_papers_scale(tmp_path: Path) -> None:
    """Unless --set fixes one for all."""
    (study,) = request.check(dataclasses.replace(asked(tmp_path), methods=("dcmh",))).studies
    store = Store(None, "s", study.space, study.base, 0)
    runs = {}
    for _ in range(3):
        proposal = store.propose(3)
        assert proposal is not None
        runs[proposal.origin] = {**study.run, **proposal.run}
    assert runs["paper"]["scale"] == "none"
    assert {training.parse(methods.get("dcmh"), run)[0].scale for name, run in runs.items() if name != "paper"} == {
        "standard"
    }
    assert study.identity(study.base, "paper").settings["scale"] == "none"
    assert study.identity(study.base).settings["scale"] == "standard"
