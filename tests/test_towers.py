"""Both towers of CLIP trained along, from pixels and tokens, on the smallest CLIP that there is."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from cmh import audits, datasets, methods, training
from cmh.config import defaults
from cmh.datasets import SearchData
from cmh.errors import ConfigError, DatasetError
from cmh.features import backbones, tokens
from cmh.nets import bertadam, clip
from cmh.nets.bertadam import BertAdam, Clock, Descent
from cmh.nets.optimizers import Falling, optimizer
from cmh.nets.towers import OnBackbone
from cmh.study import preflight
from tests.test_finetune import DEEP, _modules, numbers

pytest.importorskip("open_clip")

NAME, LENGTH = "clip-tiny", 12
CPU = torch.device("cpu")
WORDS = ("red boat", "two dogs", "a tree")


def written(place: Path, **more: Any) -> Path:
    """An own dataset of 60 pictures of three kinds, each with a text."""
    draw, lines = np.random.default_rng(0), []
    for row in range(60):
        pixels = draw.integers(0, 120, (32, 32, 3), dtype=np.uint8)
        pixels[..., row % 3] += 130
        Image.fromarray(pixels).save(place / f"{row}.png")
        text = f"{WORDS[row % 3]} {'and the sea ' * (row % 4)}"
        side = "query" if row < 9 else "validation" if row < 18 else "train"
        lines.append({"image": f"{row}.png", "text": text, "labels": [WORDS[row % 3]], "split": side})
    (place / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (place / "dataset.yml").write_text(yaml.safe_dump({"name": "photos", "items": "items.jsonl", **more}))
    return place


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def data(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> SearchData:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CMH_CACHE", str(tmp_path_factory.mktemp("cache")))
        return datasets.load(str(folder), features=NAME, pixels=True, context_length=LENGTH, progress=False).search()


def parsed(name: str = "dsph", **more: Any) -> tuple[Any, training.Run, Any]:
    module = methods.get(name)
    small = {key: min(int(value), 32) for key, value in defaults(module.Config).items() if key[:6] == "hidden"}
    along = {"features": NAME, "finetune": True, "context_length": LENGTH, "lr_backbone": 1.0}
    values = {**along, "bits": 16, "threads": 1, "epochs": 1, "batch_size": 14, **small, **more}
    return module, *training.parse(module, values)


def fit(data: SearchData, name: str = "dsph", **more: Any) -> training.Fitted:
    keys = {key: more.pop(key) for key in ("report", "folder") if key in more}
    module, run, config = parsed(name, **more)
    return training.fit(module, run, config, data, **keys)


def towers(method: Any) -> dict[str, OnBackbone]:
    """The nets under which a backbone stands, by what it reads."""
    found = [net for net in _modules(method) if isinstance(net, OnBackbone)]
    return {"text" if isinstance(net.backbone, clip.TextTower) else "image": net for net in found}


# The texts


def test_items_come_as_tokens_and_their_frozen_vectors(data: SearchData) -> None:
    assert data.features == "clip-tiny, both towers fine-tuned"
    found = data.train.tokens
    assert found is not None
    assert (found.shape, found.dtype) == ((42, LENGTH), np.int32)
    said = [f"{WORDS[row % 3]} {'and the sea ' * (row % 4)}" for row in range(18, 60)]
    assert np.array_equal(found, clip.tokens(said, LENGTH).numpy())
    assert data.train.read is found
    tower = backbones.build_text(NAME, "", LENGTH)
    with torch.no_grad():
        assert torch.allclose(tower(torch.from_numpy(found)), torch.from_numpy(data.train.text), atol=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [8, 32])
def test_a_tower_that_is_cut_gives_what_the_whole_one_gives(length: int) -> None:
    model = clip.build(NAME, None).eval()
    texts = ["a boat", "", "two dogs and a cat on the sea under the moon by night, again and again"]
    rows = clip.tokens(texts, length)
    padded = torch.zeros(len(texts), clip.PLACES, dtype=torch.int32)
    padded[:, :length] = rows
    with torch.no_grad():
        whole, cut = model.encode_text(padded), backbones.build_text(NAME, "", length)(rows)
    assert torch.allclose(whole, cut, atol=1e-6)
    assert (rows == clip.END).sum(1).tolist() == [1, 1, 1]  # what is too long keeps its end


def test_what_gives_labels_away_is_left_out_of_the_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(clip, "tokens", lambda texts, length: read.extend(texts) or torch.zeros(len(texts), length))
    source = datasets.read("clipart")
    tokens.of(source, 8)
    assert source.words is not None
    assert read == [" ".join(words) for words in source.words()]


@dataclasses.dataclass
class Given:
    """A dataset whose texts were given as vectors."""

    rows: Any
    said: list[str] | None = None
    name: str = "given"
    text_kind: str = "matrix"
    words: None = None

    @property
    def n_items(self) -> int:
        return len(self.rows)

    def text(self) -> Any:
        return self.rows

    @property
    def captions(self) -> Any:
        return None if self.said is None else lambda: self.said


def test_given_tokens_are_taken_if_they_are_those_of_clip() -> None:
    texts = ["a boat", "two dogs and a cat on the sea", "moon"]
    rows = clip.tokens(texts, 20).numpy()
    padded = np.where(np.cumsum(rows == clip.END, 1) > 0, clip.END, rows)  # as transformers pads
    for form in (rows, rows.astype(np.float32), padded):
        for length in (5, 20, 40):
            assert np.array_equal(tokens.of(Given(form), length), clip.tokens(texts, length).numpy())
    assert np.array_equal(tokens.of(Given(np.zeros((3, 4)), texts), 9), clip.tokens(texts, 9).numpy())


def test_tokens_of_another_tokenizer_are_named_at_once() -> None:
    other = np.array([[101, 2000, 102, 0], [101, 7, 102, 0], [49406, 5, 49407, 9], [49406, -5, 60000, 3]])
    with pytest.raises(DatasetError) as error:
        tokens.of(Given(other), 32)
    assert str(error.value).startswith("given: its tokens are not those of CLIP's tokenizer")
    assert list(error.value.problems) == [
        "1 of 4 rows (4) hold numbers that are not 0 to 49407",
        "2 of 4 rows (1, 2) do not begin with 49406",
        "3 of 4 rows (1, 2, …) have no 49407 at the end",
        "1 of 4 rows (3) go on behind 49407",
        "row 1 begins with 101, 2000, 102; make tokens with open_clip's tokenizer, or give the texts",
    ]
    halves = np.concatenate([other[:2].astype(float), [[49406, 0.5, 49407, 0]]])
    with pytest.raises(DatasetError, match=r"1 of 3 rows \(3\) hold what is no whole number"):
        tokens.of(Given(halves), 32)
    with pytest.raises(DatasetError, match="has 78 tokens a text, but CLIP's text tower has 77 places"):
        tokens.of(Given(np.full((2, 78), 7)), 32)


def test_vectors_without_texts_are_no_texts() -> None:
    for said, rows in ((None, r"3 of 3 rows \(1, 2, …\)"), (["a", " ", "b"], r"1 of 3 rows \(2\)")):
        with pytest.raises(DatasetError, match=f"given: .* {rows} have none, only vectors of 4 numbers; give texts"):
            tokens.of(Given(np.random.default_rng(0).normal(size=(3, 4)), said), 9)


def test_how_many_tokens_there_may_be(folder: Path) -> None:
    for length in (2, 78):
        with pytest.raises(DatasetError, match=f"context_length is {length}, but must be 0 .* or 3 to 77"):
            datasets.load(str(folder), features=NAME, pixels=True, context_length=length)
    with pytest.raises(ConfigError, match="context_length is 78, but must be an integer >= 0 and <= 77"):
        parsed(context_length=78)


def test_what_is_filled_from_elsewhere_needs_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a model that was trained along is used without the file that it began with."""
    import open_clip

    monkeypatch.setitem(clip.FORMS, "clip-vit-b-32", dataclasses.replace(clip.FORMS[NAME], name="ViT-tiny"))
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: clip._TINY)
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: pytest.fail("weights were asked for"))
    for weights in ("", "nowhere.pt"):
        assert backbones.build("clip-vit-b-32", weights, drawn=True)(torch.zeros(1, 3, 32, 32)).shape == (1, 32)
        tower = backbones.build_text("clip-vit-b-32", weights, 5, drawn=True)
        assert tower(clip.tokens(["a"], 5)).shape == (1, 32)


# Training


@pytest.mark.parametrize("name", DEEP)
def test_every_deep_method_trains_both_towers(name: str, data: SearchData) -> None:
    """Half of them by their own optimizer, half by BertAdam, in parts."""
    more = {"optimizer_backbone": "bertadam", "micro_batch": 8} if DEEP.index(name) % 2 else {"checkpointing": True}
    fitted = fit(data, name, **more)
    assert np.isfinite(fitted.best.val_map)
    nets = towers(fitted.method)
    assert nets.keys() == {"image", "text"}, "a net was not made by setup.image_net and setup.text_net"
    starts = {"image": backbones.build(NAME), "text": backbones.build_text(NAME, "", LENGTH)}
    for kind, start in starts.items():
        moved = [
            not torch.equal(old, new)
            for old, new in zip(start.parameters(), nets[kind].backbone.parameters(), strict=True)
        ]
        assert all(moved), kind


def test_the_image_tower_can_be_trained_alone(data: SearchData) -> None:
    bare = {part: dataclasses.replace(getattr(data, part), tokens=None) for part in PARTS}
    fitted = fit(dataclasses.replace(data, **bare), context_length=0)
    assert towers(fitted.method).keys() == {"image"}
    assert fitted.identity.settings["context_length"] == 0


PARTS = ("train", "validation_query", "validation_database")


def test_training_both_towers_helps(data: SearchData) -> None:
    frozen, trained = (
        fit(data, epochs=4, lr_backbone=share, lr_image=3e-3, lr_text=3e-3, hidden_image=0, hidden_text=0)
        for share in (0.0, 1.0)
    )
    assert trained.best.val_map > frozen.best.val_map + 0.02


class _KilledError(Exception):
    pass


@pytest.mark.parametrize(("name", "trained_by"), [("dcmh", "bertadam"), ("dsph", "method")])
def test_going_on_is_exact(
    name: str, trained_by: str, data: SearchData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmh.training.fitting.CHECKPOINT_SECONDS", 0)
    more = {"epochs": 2, "optimizer_backbone": trained_by, "hflip": 0.5}

    def killer(epoch: training.Epoch, _save: Any) -> None:
        if epoch.epoch == 1:
            raise _KilledError

    with pytest.raises(_KilledError):
        fit(data, name, folder=tmp_path, report=killer, **more)
    assert numbers(fit(data, name, folder=tmp_path, **more)) == numbers(fit(data, name, **more))


def test_what_cannot_be_trained_along_is_named_at_once(data: SearchData) -> None:
    bare = dataclasses.replace(data.train, pixels=None)
    with pytest.raises(ConfigError) as error:
        fit(dataclasses.replace(data, train=bare), context_length=9, erase=0.2)
    assert list(error.value.problems) == [
        "finetune is true, but the dataset was loaded without pixels",
        f"context_length is 9, but the dataset was loaded with {LENGTH} tokens a text",
        "erase is 0.2, but tokens have no dimensions to lose; it must be 0",
    ]


def test_codes_of_trained_towers_hang_on_nothing_else(data: SearchData) -> None:
    fitted = fit(data)
    assert audits.leak(fitted.method, data.train, CPU, from_pixels=True) == []
    assert audits.dead(*parsed(), data) == []


def test_a_search_tries_one_batch_of_tokens_first(data: SearchData) -> None:
    _, run, config = parsed()
    taken = {key: getattr(run, key) for key in ("features", "finetune", "context_length", "bits", "threads")}
    study = SimpleNamespace(
        space=SimpleNamespace(method="dsph"),
        dataset=SimpleNamespace(name="photos", search=lambda: data),
        base=dataclasses.asdict(config),
        run=taken,
    )
    preflight.try_one_batch(study)  # type: ignore[arg-type]


@pytest.mark.cuda
def test_both_towers_on_a_gpu(data: SearchData) -> None:
    more = {"device": "cuda", "epochs": 2, "optimizer_backbone": "bertadam", "checkpointing": True}
    first, second = (fit(data, **more) for _ in range(2))
    assert numbers(first) == numbers(second)


# Parts of a batch


def start() -> OnBackbone:
    torch.manual_seed(0)
    return OnBackbone(backbones.build_text(NAME, "", LENGTH), nn.Linear(32, 8), lr_share=1).train()


def gradients(net: OnBackbone, rows: Tensor, **how: Any) -> list[Tensor]:
    """Of a loss that looks at all pairs of the batch."""
    net = copy.deepcopy(net)
    whole = OnBackbone(net.backbone, net.head, lr_share=1, **how).train()
    outputs = whole(rows)
    assert isinstance(outputs, Tensor)
    ((outputs @ outputs.T).tanh().sum() + outputs.square().sum()).backward()
    return [outputs, *(parameter.grad for parameter in net.parameters() if parameter.grad is not None)]


def test_parts_of_a_batch_give_the_gradients_of_the_whole(data: SearchData) -> None:
    assert data.train.tokens is not None
    net, rows = start(), torch.from_numpy(data.train.tokens[:11])
    whole = gradients(net, rows)
    assert len(whole) == 1 + len(list(net.parameters()))
    again = gradients(net, rows, checkpointing=True)
    assert all(torch.equal(*pair) for pair in zip(whole, again, strict=True))
    for micro_batch in (1, 4, 10, 11, 50):
        found = gradients(net, rows, micro_batch=micro_batch, checkpointing=micro_batch == 4)
        for one, other in zip(whole, found, strict=True):
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-4 * float(one.detach().abs().max()))


def test_a_block_keeps_no_maps_where_they_are_computed_twice(data: SearchData) -> None:
    assert data.train.tokens is not None
    rows, kept = torch.from_numpy(data.train.tokens[:11]), []
    for how in ({}, {"checkpointing": True}, {"micro_batch": 4}):
        sizes: list[int] = []
        net = OnBackbone(start().backbone, nn.Linear(32, 8), lr_share=1, **how).train()  # type: ignore[arg-type]

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            net(rows)
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2
    assert kept[2] < kept[0] / 2


# BertAdam


def slow(
    weights: list[Tensor], grads: list[list[Tensor | None]], shares: list[float], lr: float, warmup: float, decay: float
) -> list[Tensor]:
    """BertAdam as its papers' code has it, step by step, in float64."""
    weights = [one.double().clone() for one in weights]
    m, v = ([torch.zeros_like(one) for one in weights] for _ in range(2))
    for step, share in zip(grads, shares, strict=True):
        factor = share / warmup if share < warmup else 0.5 * (1 + math.cos(math.pi * share))
        for number, grad in enumerate(step):
            if grad is None:
                continue
            grad = grad.double()
            grad = grad / max(1.0, float(grad.norm()) + 1e-6)
            m[number] = 0.9 * m[number] + 0.1 * grad
            v[number] = 0.98 * v[number] + 0.02 * grad**2
            update = m[number] / (v[number].sqrt() + 1e-6) + decay * weights[number]
            weights[number] = weights[number] - lr * factor * update
    return weights


@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**31),
    n_steps=st.integers(1, 12),
    size=st.sampled_from([1e-3, 1.0, 30.0]),
    warmup=st.sampled_from([0.0, 0.1, 0.5]),
    decay=st.sampled_from([0.0, 0.2]),
)
def test_bertadam_is_that_of_the_papers(seed: int, n_steps: int, size: float, warmup: float, decay: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    nets = nn.Linear(3, 4), nn.Linear(4, 2)
    along = OnBackbone(*nets, lr_share=0.1, descent=Descent(Clock(), warmup, decay))
    descent = along.descent
    assert descent is not None
    first = [parameter.detach().clone() for parameter in along.parameters()]
    stepper = optimizer("sgd", along, lr=0.01)
    assert isinstance(stepper, BertAdam)
    shares = [step / n_steps for step in range(n_steps)]
    grads: list[list[Tensor | None]] = [
        [size * torch.randn(one.shape, generator=draw) for one in first] for _ in shares
    ]
    for step, share in zip(grads, shares, strict=True):
        descent.clock.share = share
        for parameter, grad in zip(along.parameters(), step, strict=True):
            parameter.grad = None if grad is None else grad.clone()
        stepper.step()
    assert [group["lr"] for group in stepper.param_groups] == pytest.approx([0.001, 0.01])  # as they were
    wanted = [
        one
        for part, lr in ((slice(2), 0.001), (slice(2, 4), 0.01))
        for one in slow(first[part], [step[part] for step in grads], shares, lr, warmup, decay)
    ]
    for one, parameter in zip(wanted, along.parameters(), strict=True):
        assert torch.allclose(one.float(), parameter, rtol=1e-4, atol=1e-6)


def test_what_has_no_gradient_stays() -> None:
    net = OnBackbone(nn.Linear(2, 2), nn.Linear(2, 2), lr_share=1, descent=Descent(Clock(0.5)))
    before = copy.deepcopy(net.state_dict())
    stepper = optimizer("adam", net, lr=0.1)
    net.head(torch.ones(1, 2)).sum().backward()
    stepper.step()
    assert torch.equal(net.backbone.weight, before["backbone.weight"])  # type: ignore[arg-type]
    assert not torch.equal(net.head.weight, before["head.weight"])  # type: ignore[arg-type]


def test_the_rates_of_a_run_rise_and_fall_once(data: SearchData, monkeypatch: pytest.MonkeyPatch) -> None:
    """By steps, whatever an epoch of a method is; the method's own schedule has no say."""
    seen: list[float] = []
    rate = bertadam.rate
    monkeypatch.setattr(bertadam, "rate", lambda share, warmup: seen.append(share) or rate(share, warmup))
    fit(data, "dcmh", epochs=4, optimizer_backbone="bertadam")
    wanted = [step / 12 for step in range(12)]  # 42 items in batches of 14
    in_turn = np.reshape(seen, (4, 2, 3))  # in each epoch a pass for each net
    assert in_turn[:, 0].ravel() == pytest.approx(wanted)
    assert in_turn[:, 1].ravel() == pytest.approx(wanted)
    stepper = BertAdam([{"params": [nn.Parameter(torch.ones(1))]}], lr=0.1, descent=Descent(Clock()))
    falling = Falling("linear", end=0.01).over(3, stepper)
    stepper.step()
    falling.step()
    assert stepper.param_groups[0]["lr"] == 0.1


# Parts: patches and words


@pytest.fixture(scope="module")
def parts(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> SearchData:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CMH_CACHE", str(tmp_path_factory.mktemp("cache")))
        name = f"{NAME}-tokens"
        return datasets.load(str(folder), features=name, pixels=True, context_length=LENGTH, progress=False).search()


def test_mith_trains_the_towers_of_patches_and_words(parts: SearchData, data: SearchData) -> None:
    assert parts.train.tokens is not None
    assert parts.train.image.shape[1:] == (17, 32)
    assert parts.train.text.shape[1:] == (LENGTH, 32)
    assert parts.train.text.dtype == np.float16
    assert np.allclose(parts.train.text[:, 0], data.train.text, atol=1e-3)  # type: ignore[arg-type]
    more = {"features": f"{NAME}-tokens", "width": 16, "micro_batch": 5, "optimizer_backbone": "bertadam"}
    fitted = fit(parts, "mith", **more)
    assert np.isfinite(fitted.best.val_map)
    nets = towers(fitted.method)
    assert nets.keys() == {"image", "text"}
    starts = {
        "image": backbones.build(f"{NAME}-tokens"),
        "text": backbones.build_text(f"{NAME}-tokens", "", LENGTH),
    }
    for kind, start in starts.items():
        pairs = zip(start.parameters(), nets[kind].backbone.parameters(), strict=True)
        assert all(not torch.equal(old, new) for old, new in pairs), kind
    rows = torch.from_numpy(parts.train.tokens[:3])
    with torch.inference_mode():
        assert nets["text"].backbone(rows).shape == (3, LENGTH, 32)
    assert audits.leak(fitted.method, parts.train, CPU, from_pixels=True) == []
    with pytest.raises(ConfigError, match=f"dsph takes no tokens, as {NAME}-tokens gives them; name {NAME}$"):
        fit(parts, "dsph", features=f"{NAME}-tokens")


def test_drawn_captions_are_no_texts_of_a_trained_tower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "photos").mkdir()
    where = str(written(tmp_path / "photos", text={"kind": "words", "captions": "draw"}))
    with pytest.raises(DatasetError, match=r"captions of photos are drawn, but a text tower .* reads one text an item"):
        datasets.load(where, features=NAME, pixels=True, context_length=LENGTH, progress=False)
    alone = datasets.load(where, features=NAME, pixels=True, progress=False).search()
    assert alone.features == "clip-tiny, fine-tuned, drawn captions"
    assert np.isfinite(fit(alone, context_length=0).best.val_map)
    first = datasets.load(where, features=NAME, pixels=True, context_length=LENGTH, captions="first", progress=False)
    assert first.features == "clip-tiny, both towers fine-tuned, first captions"
