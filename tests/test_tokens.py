"""Items with parts: CLIP's patches and words, kept in half precision, for who takes them; others get the whole."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import cmh
from cmh import codes, datasets, methods, records, reproduce, training
from cmh.datasets import Arrays, SearchData
from cmh.errors import ConfigError, DatasetError
from cmh.features import backbones, text
from cmh.nets import clip as clips
from cmh.nets.clip_tokens import WORDS, PictureTokens, text_tokens
from cmh.training.evaluation import score
from tests.test_own_data import records as records_of_items
from tests.test_own_data import write, write_arrays
from tests.test_training import tiny

open_clip = pytest.importorskip("open_clip", reason="needs the extra [clip]")
NAME, CPU = "clip-vit-b-32-tokens", torch.device("cpu")


@pytest.fixture(scope="module")
def clip() -> nn.Module:
    """CLIP with the real vocabulary and seeded random weights, but small: 4 patches a picture, vectors of 8 numbers."""
    torch.manual_seed(1)
    vision = open_clip.CLIPVisionCfg(layers=2, width=16, head_width=8, patch_size=16, image_size=32)
    words = open_clip.CLIPTextCfg(context_length=77, vocab_size=49408, width=16, heads=2, layers=2)
    model: nn.Module = open_clip.CLIP(8, vision, words, quick_gelu=True).eval()
    return model


@pytest.fixture
def small(clip: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """The small network in the place of the real one."""
    monkeypatch.setattr(clips, "build", lambda *_, **__: copy.deepcopy(clip))
    about = dataclasses.replace(backbones.REGISTRY[NAME], dim=8, side=32, shorter=32, tokens=5)
    monkeypatch.setitem(backbones.REGISTRY, NAME, about)


def test_the_first_token_is_what_clip_says_of_the_whole(clip: Any) -> None:
    pixels = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        whole = clip.encode_image(pixels)
        layers = clip.visual.ln_post(clip.visual.transformer(clip.visual._embeds(pixels))) @ clip.visual.proj
        found = PictureTokens(clip.visual)(pixels)
        clip.visual.output_tokens = False
    assert found.shape == (3, 5, 8)
    assert torch.allclose(found[:, 0], whole, atol=1e-5)
    assert torch.allclose(found, layers, atol=1e-5)


def test_a_texts_words_stand_behind_its_end_and_zeros_fill_up(clip: Any) -> None:
    texts = ["a cat on a sofa", "", "word " * 99]
    tokenize = open_clip.get_tokenizer("ViT-B-32-quickgelu")
    with torch.no_grad():
        found = text_tokens(clip, tokenize(texts, WORDS))
        whole = clip.encode_text(tokenize(texts[:2]))
        lonely = text_tokens(clip, tokenize(texts[:1], WORDS))
    assert found.shape == (3, WORDS, 8)
    assert torch.allclose(found[:2, 0], whole, atol=1e-5)
    assert torch.allclose(found[:1], lonely, atol=1e-5)
    # begin, five words; the begin alone; and as many as there is room for
    assert (found[:, 1:] != 0).any(2).sum(1).tolist() == [6, 1, WORDS - 1]
    assert not found[0, 7:].any()


@pytest.mark.usefixtures("small")
def test_from_pictures_and_texts_to_codes_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Extracted once, cached in half precision, mapped into memory; models take new pictures and texts, whether they
    look at parts (MITH) or not (DCMH)."""
    monkeypatch.setenv("CMH_CACHE", str(tmp_path / "cache"))
    some = [{key: value for key, value in one.items() if key != "tags"} for one in records_of_items()]
    folder = write(tmp_path / "d", some, text={"kind": "clip-tokens"})
    data = datasets.load(str(folder), features=NAME).search()
    assert data.features == NAME
    for array, shape in ((data.train.image, (5, 8)), (data.train.text, (WORDS, 8))):
        assert isinstance(array, np.memmap)
        assert array.dtype == np.float16
        assert array.shape == (len(data.train.labels), *shape)
    with monkeypatch.context() as patched:
        patched.setattr(clips, "build", None)  # nothing is computed again
        assert np.array_equal(datasets.load(str(folder), features=NAME).search().train.image, data.train.image)
    source = datasets.read(str(folder))
    rows = np.concatenate([source.split.train, source.split.other, source.split.validation])
    assert source.captions is not None
    pictures, said = list(source.pictures(rows)), [source.captions()[row] for row in rows]
    for method, config in (("mith", {"width": 8, "batch_size": 4}), ("dcmh", {"hidden_image": 4, "hidden_text": 4})):
        about = {"method": method, "dataset": str(folder), "features": NAME, "bits": 8, "epochs": 2, "threads": 1}
        (tmp_path / f"{method}.yml").write_text(yaml.safe_dump({**about, "config": config}))
        assert reproduce.main([str(tmp_path / f"{method}.yml"), "--out", str(tmp_path / method)]) == 0
        (run,) = (path for path in (tmp_path / method).iterdir() if path.is_dir())
        recorded = codes.read(run / records.read(run)[0][0].codes)
        encoder = cmh.load(run)
        assert np.array_equal(encoder.encode_images(pictures, packed=True), recorded.database_image)
        assert np.array_equal(encoder.encode_texts(said, packed=True), recorded.database_text)


def several(seed: int = 3) -> SearchData:
    """The tiny dataset with parts: images in half precision, texts filled up with zeros."""
    rng, data = np.random.default_rng(seed), tiny()

    def parts(arrays: Arrays) -> Arrays:
        image, text = (
            np.stack([one, *(one + 0.1 * rng.standard_normal(one.shape, np.float32) for _ in range(3))], 1)
            for one in (arrays.image, np.asarray(arrays.text))
        )
        text[rng.random(text.shape[:2]) < 0.3] = 0
        text[:, 0] = arrays.text
        return Arrays(image.astype(np.float16), text, arrays.labels)

    roles = {role: parts(getattr(data, role)) for role in ("train", "validation_query")}
    return dataclasses.replace(data, **roles, validation_database=roles["train"])


def fit(name: str, data: SearchData, **values: Any) -> training.Fitted:
    module = methods.get(name)
    batch = {"batch_size": 32} if name != "ridge" else {}
    return training.fit(
        module, *training.parse(module, {"bits": 8, "epochs": 3, "threads": 1, **batch, **values}), data
    )


def curve(fitted: training.Fitted) -> list[Any]:
    return [[epoch.val_map_i2t, epoch.val_map_t2i, *epoch.terms.values()] for epoch in fitted.curve]


@pytest.mark.parametrize("scale", ["standard", "unit", "none"])
@pytest.mark.parametrize("name", ["ridge", "dcmh"])
def test_a_method_of_vectors_is_given_the_whole(name: str, scale: str) -> None:
    """The same curve as without the parts, and codes of items with parts and without."""
    data = several()
    alone = {
        role: dataclasses.replace(arrays, image=arrays.image[:, 0].copy(), text=np.asarray(arrays.text)[:, 0].copy())
        for role in ("train", "validation_query", "validation_database")
        for arrays in [getattr(data, role)]
    }
    small = {"hidden_image": 8, "hidden_text": 8} if name == "dcmh" else {}
    fitted = fit(name, data, scale=scale, **small)
    assert curve(fitted) == curve(fit(name, dataclasses.replace(data, **alone), scale=scale, **small))
    image = torch.from_numpy(data.train.image[:5]).float()
    assert torch.equal(fitted.method.encode_image(image), fitted.method.encode_image(image[:, 0]))


@pytest.mark.parametrize("scale", ["standard", "unit", "none"])
def test_mith_learns_from_parts(scale: str) -> None:
    values = {"scale": scale, "width": 16, "transformer_layers": 1, "epochs": 6, "lr": 0.003}
    fitted = fit("mith", several(), **values)
    assert fitted.best.val_map > training.chance(several()) + 0.2
    assert curve(fit("mith", several(), **values)) == curve(fitted)
    turned = several()
    image = turned.train.image.copy()
    image[:, 1:] = image[::-1, 1:]  # parts of other items
    other = fit("mith", dataclasses.replace(turned, train=dataclasses.replace(turned.train, image=image)), **values)
    assert curve(other)[0] != curve(fitted)[0]


def test_given_features_may_have_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMH_CACHE", str(tmp_path / "cache"))
    image = np.random.default_rng(0).random((12, 3, 5)).astype(np.float16)
    data = datasets.load(str(write_arrays(tmp_path / "d", image=image))).search()
    assert data.train.image.shape[1:] == (3, 5)
    assert fit("mith", data, width=8).curve[-1].terms["loss"] > 0
    image[4, 1, 2] = np.nan
    with pytest.raises(DatasetError, match="row 4 holds NaN or infinite values"):
        datasets.load(str(write_arrays(tmp_path / "e", image=image)))


def test_a_network_of_parts_is_trained_along_only_by_who_takes_them() -> None:
    data = several()
    with pytest.raises(ConfigError, match=r"dcmh takes no tokens, as .*-tokens gives them; name clip-vit-b-32$"):
        fit("dcmh", data, features=NAME, finetune=True)


def test_embeddings_of_words(small: None) -> None:
    found = text.embeddings(["a cat", "two dogs run"], "x", kind="clip-tokens")
    assert found.shape == (2, WORDS, 8)
    assert found.dtype == np.float16


def test_every_network_of_clip_is_there_with_its_parts() -> None:
    found = {name: backbones.about(name) for name in backbones.names() if name.endswith(backbones.TOKENS)}
    assert set(found) == {name + backbones.TOKENS for name in clips.FORMS}
    model = clips.build("clip-tiny", None)
    assert PictureTokens(model.visual)(torch.zeros(1, 3, 32, 32)).shape == (1, *found["clip-tiny-tokens"].shape)
    assert {name: about.tokens for name, about in found.items() if "vit" in name} == {
        "clip-vit-b-32-tokens": 50,
        "clip-vit-b-32-gelu-tokens": 50,
        "clip-vit-b-16-tokens": 197,
        "clip-vit-b-16-gelu-tokens": 197,
    }


@pytest.mark.usefixtures("small")
def test_a_texts_tokens_do_not_depend_on_the_texts_beside_it() -> None:
    texts = ["a cat", "two dogs run on the beach", "", "word " * 40, "a red bus"]
    whole = text.embeddings(texts, "x", kind="clip-tokens")
    for row in range(5):
        assert np.array_equal(text.embeddings([texts[row]], "x", kind="clip-tokens"), whole[row : row + 1])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("method", ["mith", "dcmh"])
def test_captions_are_drawn_of_frozen_tokens(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMH_CACHE", str(tmp_path / "cache"))
    some = [{key: value for key, value in one.items() if key != "tags"} for one in records_of_items()]
    for one in some:
        one["text"] = [f"{one['text']}", f"again {one['text']}", "a picture"]
    folder = write(tmp_path / "d", some, text={"kind": "clip-tokens", "captions": "draw"})
    data = datasets.load(str(folder), features=NAME).search()
    drawn = data.train.captions
    assert drawn is not None
    assert drawn.text.shape == (3 * len(data.train.labels), WORDS, 8)
    means = np.asarray(drawn.text, np.float32).reshape(-1, 3, WORDS, 8).mean(1)
    assert np.allclose(data.train.text, means, atol=1e-5)
    small: dict[str, Any] = {"width": 8} if method == "mith" else {"hidden_image": 4, "hidden_text": 4}
    fitted = fit(method, data, **{"batch_size": 4, **small})
    assert np.isfinite(fitted.best.val_map)
    with torch.inference_mode():
        of_all = fitted.method.encode_text(torch.from_numpy(np.asarray(drawn.text[:6], np.float32)))
    tested = score(fitted.method, datasets.load(str(folder), features=NAME).noted_test(), CPU, False)
    assert np.array_equal(tested.codes["database_text"][0], np.where(of_all[:3].mean(0) >= 0, 1, -1))
