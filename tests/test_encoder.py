"""New pictures and texts through a trained model: the same codes as in training, without the dataset."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.sparse import csr_array

import cmh
from cmh import codes, datasets, methods, records, reproduce, training
from cmh.datasets import SearchData
from cmh.errors import ConfigError, DatasetError, EncoderError, NotFiniteError
from cmh.features import backbones, text, wording
from cmh.features.wording import TextRule
from cmh.nets import state as states
from cmh.use import collection, description, probe, tensors, weights
from cmh.use.description import Description
from cmh.use.encoder import Encoder
from tests import test_methods
from tests.test_training import tiny

CPU = torch.device("cpu")
BITS = 12  # no multiple of 8


def train(place: Path, **changes: Any) -> Path:
    """The folder of a run by `cmh.reproduce`. (The fixture `run` is one: `conftest.py`.)"""
    config = changes.pop("config", {"hidden_image": 16, "hidden_text": 16})
    about = {"method": "dcmh", "dataset": "clipart", "bits": BITS, "epochs": 1, "threads": 1, "config": config}
    (place / "file.yml").write_text(yaml.safe_dump({**about, **changes}))
    assert reproduce.main([str(place / "file.yml"), "--out", str(place / "runs")]) == 0
    return next(path for path in (place / "runs").iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def encoder(run: Path) -> Encoder:
    return cmh.load(run, seed=2)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An own dataset of 48 small pictures of two kinds, with texts."""
    place, draw = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    lines = []
    for row in range(48):
        kind = row % 2
        pixels = draw.integers(0, 100, (20, 30, 3), dtype=np.uint8)
        pixels[..., kind] += 150
        Image.fromarray(pixels).save(place / f"{row}.png")
        words = ["a leaf of the forest", "two big fires"][kind] + " and one" * (row % 3) + " leaves" * (row % 5 == 0)
        side = "query" if row < 8 else "validation" if row < 16 else "train" if row < 40 else "database"
        lines.append(
            json.dumps({"image": f"{row}.png", "text": words, "labels": [["leaf", "ember"][kind]], "split": side})
        )
    (place / "items.jsonl").write_text("\n".join(lines))
    return place


def owned(photos: Path, **options: Any) -> None:
    about = {"name": "photos", "items": "items.jsonl", "text": {"min_count": 1, **options}}
    (photos / "dataset.yml").write_text(yaml.safe_dump(about))


def database() -> tuple[Any, np.ndarray[Any, Any]]:
    """The clip art's source, and the rows of its database in the order of the arrays."""
    source = datasets.read("clipart")
    return source, np.concatenate([source.split.train, source.split.other, source.split.validation])


def recorded(run: Path, seed: int) -> codes.Codes:
    record = next(one for one in records.read(run)[0] if one.identity.seed == seed)
    return codes.read(run / record.codes)


# The same as in training


def test_features_are_the_cached_ones_and_codes_the_recorded_ones(run: Path, encoder: Encoder, tmp_path: Path) -> None:
    source, rows = database()
    some = [0, 5, 1200, 3085]
    wanted = {int(rows[place]): place for place in some}
    raw = {wanted[row]: one for row, one in enumerate(source.pictures()) if row in wanted}
    data = datasets.load("clipart").search()
    whole = np.concatenate([data.validation_database.image, data.validation_query.image])
    features = encoder.image_features([raw[place] for place in some])
    assert np.array_equal(features, whole[some])
    items = recorded(run, 2)
    assert np.array_equal(
        encoder.encode_images([raw[place] for place in some], packed=True), items.database_image[some]
    )
    documents = source.words()
    said = [" ".join(documents[rows[place]]) for place in range(300)]
    spoken = [place for place in range(300) if encoder.read_text(said[place]).used]
    assert len(spoken) > 100
    vectors = encoder.text_vectors([said[place] for place in spoken])
    assert isinstance(vectors, csr_array)
    assert np.array_equal(vectors.toarray(), data.train.text[spoken].toarray())
    ours = encoder.encode_texts([said[place] for place in spoken], packed=True)
    assert np.array_equal(ours, items.database_text[spoken])
    assert ours.shape == (len(spoken), 2)
    signs = encoder.encode_texts([said[spoken[0]]])
    assert signs.dtype == np.int8
    assert set(np.unique(signs)) <= {-1, 1}
    assert np.array_equal(codes.pack(signs)[0], ours[0])
    # paths, pictures of Pillow and arrays are the same picture
    path = tmp_path / "one.png"
    path.write_bytes(raw[0])
    with Image.open(path) as picture:
        rgb = picture.convert("RGB") if picture.mode != "RGBA" else picture.copy()
    each = [[path], [str(path)], [rgb], [np.asarray(rgb)], np.asarray(rgb)[None]]
    assert all(np.array_equal(encoder.encode_images(one), encoder.encode_images([raw[0]])) for one in each)
    assert encoder.encode_images([]).shape == (0, BITS)
    assert encoder.encode_texts([], packed=True).shape == (0, 2)


def test_nothing_of_the_dataset_is_needed_nor_ray_nor_optuna(run: Path, encoder: Encoder, tmp_path: Path) -> None:
    shutil.copytree(run / "seed-2", tmp_path / "moved")
    code = (
        "import sys, cmh\nassert 'torch' not in sys.modules\n"
        "encoder = cmh.load('moved')\nprint(encoder.encode_texts(['red guitar'], packed=True).tolist())\n"
        "assert not {'ray', 'optuna'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PATH": "", "HOME": str(tmp_path), "PYTHONPATH": str(Path(cmh.__file__).parents[1]), "CMH_CACHE": "none"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == encoder.encode_texts(["red guitar"], packed=True).tolist()
    assert not (tmp_path / "none").exists()


def test_the_best_seed_is_taken_and_said(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = {record.identity.seed: record.validation["map"] for record in records.read(run)[0]}
    best = max(found, key=lambda seed: found[seed])
    with caplog.at_level("INFO", "cmh"):
        assert cmh.load(run).seed == best
    assert f"seed {best}, validation MAP {found[best]:.4f}, the best of seeds 1, 2" in caplog.text
    with pytest.raises(EncoderError, match="no model of seed 7; it has 1, 2"):
        cmh.load(run, seed=7)
    with pytest.raises(EncoderError, match=r"has no trial 7: it is no folder of a study \(no study\.yml\)"):
        cmh.load(f"{run}:7")
    for device in ("abacus", "meta:0:0", "cuda:99"):
        with pytest.raises(ConfigError, match=f"device '{device}' cannot be used"):
            cmh.load(run, device=device)
    assert cmh.load(run, seed=1).digest != cmh.load(run, seed=2).digest


def test_words_are_said(encoder: Encoder) -> None:
    reading = encoder.read_text("A red MAP of my fruit: bird, xyzzy")
    assert reading.used == ["red", "of"]
    assert {why.partition(":")[0] for why in reading.left_out.values()} == {
        "names a label",
        "stands for a label",
        "not in the vocabulary",
    }
    assert reading.left_out["bird"].startswith("stands for a label")
    assert str(reading).startswith("used: red, of; not used: map, fruit (names a label")
    with pytest.raises(EncoderError, match="texts without a word") as caught:
        encoder.encode_texts(["red", "maps xyzzy", "", *["!"] * 6])
    assert any("'maps xyzzy': maps (names a label" in line for line in caught.value.problems)
    assert "'': no word" in caught.value.problems


SPARSE = ("dcmh", "dgcpn", "ridge", "scahn", "ssah")  # texts of few words come to the nets of others as to DCMH's


@pytest.mark.parametrize(
    ("name", "sparse"), [*((name, False) for name in methods.names()), *((name, True) for name in SPARSE)]
)
def test_every_method_is_built_again(name: str, sparse: bool, tmp_path: Path) -> None:
    """From other items than it was trained on, even where it computes something of those at its start."""
    data = with_bags(tiny()) if sparse else tiny()
    fitted = test_methods.fit(name, data, epochs=1)
    about, state = described(fitted, data)
    state = tensors.of_bytes(tensors.to_bytes(state), "as a bundle has it")
    built = weights.rebuilt(about, state, tmp_path, CPU)
    assert probe.difference(probed(fitted, data), about.probe) == 0
    for modality, features in (("image", data.train.image), ("text", data.train.text)):
        inputs = torch.from_numpy(features) if isinstance(features, np.ndarray) else weights.Bags.of(features)
        outputs = [getattr(method, f"encode_{modality}")(inputs) for method in (fitted.method, built)]
        assert torch.equal(*outputs)


def with_bags(data: SearchData) -> SearchData:
    def bags(part: Any) -> Any:
        return dataclasses.replace(part, text=csr_array(part.text * (part.text > 1)))

    parts = {name: bags(getattr(data, name)) for name in ("train", "validation_query", "validation_database")}
    return dataclasses.replace(data, **parts)


def probed(fitted: training.Fitted, data: SearchData) -> dict[str, str]:
    sparse = not isinstance(data.train.text, np.ndarray)
    return probe.of(
        fitted.method,
        CPU,
        image_dim=data.train.image.shape[1],
        side=0,
        text_dim=data.train.text.shape[1],
        sparse=sparse,
    )


def described(fitted: training.Fitted, data: SearchData, **changes: Any) -> tuple[Description, dict[str, object]]:
    about = Description(
        version=1,
        identity=fitted.identity,
        method=fitted.identity.method,
        network="",
        weights="",
        provenance={},
        preparation=backbones.VERSION,
        lr_backbone=0.1,
        amp=False,
        image_dim=data.train.image.shape[1],
        text_dim=data.train.text.shape[1],
        sparse=not isinstance(data.train.text, np.ndarray),
        n_labels=data.train.labels.shape[1],
        text=TextRule(),
        validation=0.5,
        chosen_epoch=1,
        probe=probed(fitted, data),
    )
    return dataclasses.replace(about, **changes), states.save(fitted.method.state(), optimizers=False)


MINE = '''
from cmh.methods import _template
from cmh.methods._template import *
from cmh.nets.towers import mlp

class Method(_template.Method):
    """Centres the features, and keeps the mean to itself."""

    def __init__(self, config, setup):
        super().__init__(config, setup)
        mean, encode = setup.image.mean(0), self.encode_image
        self.encode_image = lambda features: encode(features - mean)
'''


def test_a_method_that_keeps_too_little_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine_mean.py").write_text(MINE)
    data = tiny(scale=5.0)
    data = dataclasses.replace(data, train=dataclasses.replace(data.train, image=data.train.image + 20))
    try:
        module = methods.get(str(tmp_path / "mine_mean.py"))
        values = {"hidden_image": 16, "hidden_text": 16, "batch_size": 32, "bits": 8, "epochs": 1, "threads": 1}
        fitted = training.fit(module, *training.parse(module, {**values, "scale": "none"}), data)
        about, state = described(fitted, data, method="mine_mean.py")
        with pytest.raises(EncoderError, match=r"gives other codes than after its training .* state\(\) keeps less"):
            weights.rebuilt(about, state, tmp_path, CPU)
        with pytest.raises(EncoderError, match="weights do not fit the method as it is now"):
            weights.rebuilt(about, {}, tmp_path, CPU)
        with pytest.raises(EncoderError, match="weights do not fit"):
            weights.rebuilt(about, [], tmp_path, CPU)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="no such file"):
            weights.rebuilt(dataclasses.replace(about, method="gone.py"), state, tmp_path, CPU)
    finally:
        sys.modules.pop("cmh.methods.mine_mean", None)
    assert probe.difference({}, {"image": "ff"}) == 1
    assert probe.difference({"image": "0f"}, {"image": "ff"}) == 0.5
    assert probe.difference({"image": "0f"}, {"image": "../x"}) == 1


# Rules of texts


@pytest.mark.parametrize(
    "options",
    [
        {"weight": "tfidf", "stop_words": "english"},
        {"weight": "count", "label_words": "drop"},
        {"label_words": "telling", "stop_words": ["and"]},
    ],
)
def test_own_texts_become_the_cached_vectors(photos: Path, options: dict[str, Any]) -> None:
    owned(photos, **options)
    dataset = datasets.load(str(photos), progress=False)
    rule = description._built(TextRule, json.loads((dataset.folder / "text.json").read_text()), "note")
    items = [json.loads(line) for line in (photos / "items.jsonl").read_text().splitlines()]
    said = [item["text"] for item in items if item["split"] != "query" and item["split"] != "validation"]
    there = dataset.search().validation_database.text
    dense = there if isinstance(there, np.ndarray) else there.toarray()
    assert np.array_equal(np.asarray(rule.vectors(said)[:], np.float32), dense)
    left = rule.read("the leaf and fires").left_out
    assert ("the" in left) == ("and" in left) or options["stop_words"] == ["and"]
    if "stop_words" in options:
        assert left["and"] == "a stop word"
    if options.get("label_words", "keep") != "keep":
        assert left["leaf"].startswith("names a label")


@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=6), min_size=1, max_size=8), st.data())
def test_tfidf_of_kept_factors_is_that_of_training(documents: list[list[str]], data: Any) -> None:
    train = np.array(data.draw(st.lists(st.integers(0, len(documents) - 1), min_size=1, unique=True)))
    words = sorted({word for document in documents for word in document}) or ["a"]
    made = wording.bag(documents, words, weight="tfidf", train=train)
    rule = TextRule(**json.loads(json.dumps(dataclasses.asdict(made.rule))))
    again = text.sparse_bag(documents, rule.words, "tfidf", idf=np.array(rule.idf, np.float32))
    assert np.array_equal(again[:], made[slice(None)])
    # by hand
    for row, document in enumerate(documents):
        line = np.zeros(len(words))
        for column, word in enumerate(words):
            n_word = sum(word in documents[place] for place in train)
            line[column] = document.count(word) * (np.log((1 + len(train)) / (1 + n_word)) + 1)
        line /= np.linalg.norm(line) or 1
        assert np.allclose(line, again[:][row], atol=1e-6)


def test_tags_and_given_vectors() -> None:
    made = wording.bag([["new york", "sky"], ["sky"]], ["sky", "new"], kind="tags")
    assert made.rule.read("Sky NEW york").used == ["sky", "new"]
    assert wording.rule_of(np.zeros((2, 3))) == TextRule()
    assert wording.rule_of(np.zeros((2, 3)), "sentences").kind == "sentences"
    with pytest.raises(DatasetError, match="were given as vectors"):
        TextRule().vectors(["a"])


def test_weights_of_embeddings_must_be_those_of_then(tmp_path: Path) -> None:
    file = tmp_path / "clip.pt"
    file.write_bytes(b"some")
    rule = wording.rule_of(np.zeros((2, 3)), "clip", str(file))
    assert rule.read("a red bus").used == ["red", "bus"]
    file.write_bytes(b"other")
    with pytest.raises(DatasetError, match="are not those that the texts were embedded with"):
        rule.vectors(["a"])


# Other models


@pytest.mark.parametrize(("network", "length"), [("conv4", 0), ("clip-tiny", 9), ("clip-tiny-tokens", 9)])
def test_networks_that_were_trained_along(network: str, length: int, photos: Path, tmp_path: Path) -> None:
    owned(photos)
    parts = network.endswith("tokens")
    run = train(
        tmp_path,
        dataset=str(photos),
        features=network,
        finetune=True,
        context_length=length,
        lr_backbone=1.0,
        method="mith" if parts else "dcmh",
        config={"width": 8} if parts else {"hidden_image": 8, "hidden_text": 8},
    )
    encoder = cmh.load(run)
    assert encoder.description.finetuned
    assert encoder.description.context_length == length
    said = [json.loads(line)["text"] for line in (photos / "items.jsonl").read_text().splitlines()]
    assert np.array_equal(encoder.encode_texts(said[16:], packed=True), recorded(run, 1).database_text[:32])
    assert encoder.text_vectors(said[:2]).shape == (2, length or encoder.description.text_dim)
    items = collection.of_dataset(encoder)
    assert np.array_equal(items["texts"].codes[:32], recorded(run, 1).database_text[:32])
    some = [photos / f"{row}.png" for row in range(16, 48)]
    assert np.array_equal(encoder.encode_images(some, packed=True), recorded(run, 1).database_image[:32])
    assert reproduce.main([str(run), "--bundle", str(tmp_path / "whole.zip")]) == 0
    assert np.array_equal(cmh.load(tmp_path / "whole.zip").encode_images(some), encoder.encode_images(some))
    (photos / "none.png").write_bytes(b"none")
    with pytest.raises(DatasetError, match=r"1 picture \(.*none\.png\): no picture in one of the formats"):
        encoder.encode_images([some[0], photos / "none.png"])


def test_given_features_and_an_older_run(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    labels = np.eye(3, dtype=np.uint8)[draw.integers(0, 3, 80)]
    image, texts = draw.normal(size=(80, 6)).astype("f4"), draw.normal(size=(80, 5)).astype("f4")
    split = np.array(["query"] * 10 + ["validation"] * 10 + ["train"] * 60)
    np.savez(tmp_path / "data.npz", image=image, text=texts, labels=labels, split=split)
    (tmp_path / "dataset.yml").write_text("name: given\nfeatures: data.npz\n")
    run = train(tmp_path, method="ridge", dataset=str(tmp_path), config={})
    encoder = cmh.load(run)
    database = recorded(run, 1)
    assert np.array_equal(encoder.encode_images(image[20:], packed=True), database.database_image[:60])
    assert np.array_equal(encoder.encode_texts(texts[20:], packed=True), database.database_text[:60])
    for wrong in (["a.png"], image[:, :3], np.full((1, 6), "a"), np.full((1, 6), np.nan, "f4")):
        with pytest.raises(EncoderError, match=r"trained on given features, so images must be an array \(n, 6\)"):
            encoder.encode_images(wrong)  # type: ignore[arg-type]
    with pytest.raises(EncoderError, match=r"texts must be an array \(n, 5\) of finite numbers; it is a list"):
        encoder.encode_texts(["red"])
    with pytest.raises(NotFiniteError, match="image codes hold NaN"):
        encoder.hash_images(np.full((1, 6), np.nan, "f4"))
    # without its description it is asked of the dataset, as long as that is the same
    (run / "seed-1" / "encoder.json").unlink()
    assert np.array_equal(cmh.load(run).encode_images(image[20:]), encoder.encode_images(image[20:]))
    np.savez(tmp_path / "data.npz", image=image + 1, text=texts, labels=labels, split=split)
    with pytest.raises(EncoderError, match="is no longer as it was in training"):
        cmh.load(run)


def test_bad_pictures_are_all_named(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    good = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(DatasetError, match="pictures that cannot be encoded") as caught:
        encoder.encode_images([good, "gone.png", "away.png", "off.png", 7, good.astype("f4"), good[:0]])  # type: ignore[list-item]
    assert "3 pictures (gone.png, away.png, …): cannot be read (No such file or directory)" in caught.value.problems
    assert (
        "1 picture (picture 5): a int, but it must be a path, a picture of Pillow or an array" in caught.value.problems
    )
    assert any("an array float32 (4, 4, 3), but it must be uint8" in line for line in caught.value.problems)
    assert any("without a pixel" in line for line in caught.value.problems)
    with pytest.raises(DatasetError) as caught:
        encoder.encode_images([good, tmp_path / "text.png", tmp_path / "empty.png"])
    assert len(caught.value.problems) == 2
    with pytest.raises(DatasetError, match=r"cannot be stored as PNG"):
        encoder.encode_images([Image.new("CMYK", (2, 2))])
    for wrong in ("photo.png", good, 5):
        with pytest.raises(EncoderError, match=r"but must be a list of them: \[picture\]"):
            encoder.encode_images(wrong)  # type: ignore[arg-type]
    with pytest.raises(EncoderError, match=r"but must be a list of them: \[text\]"):
        encoder.encode_texts("red")
    with pytest.raises(EncoderError, match="text is a int, but must be one text"):
        encoder.read_text(5)  # type: ignore[arg-type]
    with pytest.raises(EncoderError, match="1 of the texts are none; text 2 is a int"):
        encoder.encode_texts(["red", 5])  # type: ignore[list-item]
    monkeypatch.setattr("cmh.use.pictures.MAX_BYTES", 3)
    with pytest.raises(DatasetError, match="more than 3 bytes"):
        encoder.encode_images([tmp_path / "text.png"])
    monkeypatch.setattr(backbones, "extract", lambda *_, **__: iter([np.full((16, 1280), np.nan, np.float32)]))
    with pytest.raises(EncoderError, match="features of a picture are not finite"):
        encoder.encode_images([good])
