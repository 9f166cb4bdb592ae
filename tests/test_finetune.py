"""Training an image network along, from pixels: augmentation, exact resume, and that it helps."""

from __future__ import annotations

import copy
import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cmh import cache, datasets, methods, training
from cmh.config import defaults
from cmh.datasets import SearchData
from cmh.errors import ConfigError
from cmh.features import backbones, extraction
from cmh.nets import augment
from cmh.nets import backbones as networks
from cmh.nets.optimizers import optimizer
from cmh.nets.towers import OnBackbone

DEEP = [name for name in methods.names() if methods.get(name).KIND != "shallow"]


@pytest.fixture(scope="module")
def clipart(tmp_path_factory: pytest.TempPathFactory) -> SearchData:
    """600 clip arts with their pixels, as the small network wants them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CMH_CACHE", str(tmp_path_factory.mktemp("cache")))
        data = datasets.load("clipart", features="conv4", pixels=True, progress=False).search()
    return dataclasses.replace(
        data,
        train=data.train.rows(slice(600)),
        validation_database=data.train.rows(slice(600)),
        validation_query=data.validation_query.rows(slice(200)),
    )


def fit(data: SearchData, name: str = "dcmh", **more: Any) -> training.Fitted:
    keys = {key: more.pop(key) for key in ("report", "folder") if key in more}
    small = {
        key: min(int(value), 64) for key, value in defaults(methods.get(name).Config).items() if key[:6] == "hidden"
    }
    values = {"features": "conv4", "finetune": True, "bits": 16, "threads": 1, "lr_backbone": 1.0, **small, **more}
    run, config = training.parse(methods.get(name), values)
    return training.fit(methods.get(name), run, config, data, **keys)


def numbers(fitted: training.Fitted) -> list[list[float]]:
    return [[epoch.val_map_i2t, epoch.val_map_t2i, *epoch.terms.values()] for epoch in fitted.curve]


def test_pixels_are_the_decoded_pictures(clipart: SearchData) -> None:
    assert clipart.features == "conv4, fine-tuned"
    assert clipart.train.pixels is not None
    assert clipart.train.pixels.shape == (600, 3, 64, 64)
    assert clipart.train.pixels.dtype == np.uint8
    source = datasets.read("clipart")
    row = int(source.split.train[17])
    raw = next(raw for number, raw in enumerate(source.pictures()) if number == row)
    assert np.array_equal(
        clipart.train.pixels[17], backbones.prepared(raw, backbones.about("conv4")).transpose(2, 0, 1)
    )


def test_training_along_improves_over_the_first_epoch(clipart: SearchData) -> None:
    data = dataclasses.replace(clipart, train=clipart.train.rows(slice(300)))
    fitted = fit(data, epochs=6, lr_image=3e-3, batch_size=32, hflip=0.5)
    assert fitted.best.val_map > fitted.curve[0].val_map + 0.01


def test_only_what_is_trained_along_changes(clipart: SearchData) -> None:
    def weights(**more: Any) -> torch.Tensor:
        data = dataclasses.replace(clipart, train=clipart.train.rows(slice(64)))
        net = fit(data, epochs=1, **more).method.pair.nets["image"]
        return nn.utils.parameters_to_vector(net.backbone.parameters())

    start = nn.utils.parameters_to_vector(backbones.build("conv4").parameters())
    assert torch.equal(weights(lr_backbone=0.0), start)
    assert not torch.equal(weights(), start)


class _KilledError(Exception):
    pass


def test_going_on_is_exact(clipart: SearchData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmh.training.fitting.CHECKPOINT_SECONDS", 0)
    data = dataclasses.replace(clipart, train=clipart.train.rows(slice(100)))
    more = {"epochs": 2, "rotate": 0.5, "hflip": 0.5, "vflip": 0.2, "erase": 0.2}

    def killer(epoch: training.Epoch, _save: Any) -> None:
        if epoch.epoch == 1:
            raise _KilledError

    with pytest.raises(_KilledError):
        fit(data, folder=tmp_path, report=killer, **more)
    whole = numbers(fit(data, **more))
    assert numbers(fit(data, folder=tmp_path, **more)) == whole
    assert numbers(fit(data, **{**more, "rotate": 0.0})) != whole


@pytest.mark.parametrize("name", DEEP)
def test_every_deep_method_trains_from_pixels(name: str, clipart: SearchData) -> None:
    data = dataclasses.replace(clipart, train=clipart.train.rows(slice(65)))
    fitted = fit(data, name, epochs=1, checkpointing=True)
    assert np.isfinite(fitted.best.val_map)
    states = [net for net in _modules(fitted.method) if isinstance(net, OnBackbone)]
    assert states, "the image net was not made by setup.image_net"


def _modules(method: Any) -> list[nn.Module]:
    """All nets of a method and of the parts that it has."""
    found: list[Any] = list(vars(getattr(method, "method", method)).values())  # within its scale
    for value in found:
        if isinstance(value, dict):
            found += value.values()
        elif isinstance(value, nn.Module):
            found += value.children()
        elif type(value).__module__.startswith("cmh.nets."):
            found += vars(value).values()
    return [value for value in found if isinstance(value, nn.Module)]


@pytest.mark.parametrize("name", [name for name in methods.names() if name not in DEEP])
def test_a_closed_form_has_nothing_to_train_along(name: str, clipart: SearchData) -> None:
    with pytest.raises(ConfigError, match=f"{name} has a closed form"):
        fit(clipart, name)


def test_without_pixels_there_is_nothing_to_train_from(clipart: SearchData) -> None:
    bare = dataclasses.replace(clipart, train=dataclasses.replace(clipart.train, pixels=None))
    with pytest.raises(ConfigError, match="loaded without pixels"):
        fit(bare)


def test_a_killed_decoding_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMH_CACHE", str(tmp_path))
    monkeypatch.setattr(extraction, "SAVED_EVERY", 100)
    decode, seen = backbones.decoded, []

    def killed(pictures: Any, about: Any) -> Any:
        for number, batch in enumerate(decode(pictures, about)):
            if number == 40 and not seen:
                seen.append(number)
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(backbones, "decoded", killed)
    source = datasets.read("clipart")
    rows = {"search": source.split.train, "test": source.split.query}
    with pytest.raises(KeyboardInterrupt):
        extraction.pixels(source, "conv4", rows, progress=False, made_of=("",))
    begun = [int(path.read_text()) for path in tmp_path.rglob("done")]
    assert begun == [np.sort(np.concatenate(list(rows.values())))[40 * backbones.BATCH - 1] + 1]
    folder = extraction.pixels(source, "conv4", rows, progress=False, made_of=("",))
    assert not list(tmp_path.rglob("*.begun"))
    assert np.load(folder / "test.npy", mmap_mode="r").shape == (len(source.split.query), 3, 64, 64)
    assert all(row.any() for row in np.load(folder / "search.npy", mmap_mode="r"))  # none was left out
    assert folder.is_relative_to(cache.root())


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 9), seed=st.integers(0, 2**32), kind=st.sampled_from(["rotate", "hflip", "vflip"]))
def test_pictures_change_each_on_its_own(n: int, seed: int, kind: str) -> None:
    pixels = torch.arange(n * 3 * 16, dtype=torch.int64).remainder(251).to(torch.uint8).view(n, 3, 4, 4)
    change = functools.partial(augment.turn_and_flip, pixels, **{"rotate": 0, "hflip": 0, "vflip": 0, kind: 0.5})
    found = change(torch.Generator().manual_seed(seed))
    assert torch.equal(found, change(torch.Generator().manual_seed(seed)))
    for one, was in zip(found, pixels, strict=True):
        allowed = {
            "rotate": [torch.rot90(was, quarter, (1, 2)) for quarter in range(4)],
            "hflip": [was, was.flip(2)],
            "vflip": [was, was.flip(1)],
        }[kind]
        assert any(torch.equal(one, each) for each in allowed)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("side", [1, 2, 3, 33, 64, 127, 224])
def test_a_turn_moves_pixels_and_computes_none(side: int, dtype: torch.dtype) -> None:
    picture = torch.randint(0, 256, (1, 3, side, side), generator=torch.Generator().manual_seed(0)).to(dtype)
    found = augment.turn_and_flip(picture.expand(9, -1, -1, -1), torch.Generator(), rotate=1, hflip=0, vflip=0)
    turns = [torch.rot90(picture[0], quarter, (1, 2)) for quarter in (1, 2, 3)]
    seen = [[torch.equal(one, turn) for turn in turns] for one in found]
    assert all(any(one) for one in seen)
    assert side == 1 or all(any(turn) for turn in zip(*seen, strict=True))


@pytest.mark.parametrize(("kind", "ways"), [("rotate", 4), ("hflip", 2), ("vflip", 2)])
def test_changes_are_really_random(kind: str, ways: int) -> None:
    """Within one batch every outcome occurs, about as often as it should."""
    picture = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4).expand(3000, 3, 4, 4)
    values = {"rotate": 0.0, "hflip": 0.0, "vflip": 0.0, kind: 0.6}
    found = augment.turn_and_flip(picture, torch.Generator().manual_seed(3), **values)
    corners, counts = found[:, 0, 0, 0].unique(return_counts=True)
    assert len(corners) == ways
    shares = sorted((counts / 3000).tolist())
    assert shares == pytest.approx(sorted([0.4, *[0.6 / (ways - 1)] * (ways - 1)]), abs=0.03)


def test_nothing_changes_at_probability_zero() -> None:
    pixels = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    draw = torch.Generator()
    assert torch.equal(augment.turn_and_flip(pixels, draw, rotate=0, hflip=0, vflip=0), pixels)
    text = torch.ones(4, 10)
    assert torch.equal(augment.erase(text, draw, share=0.0), text)
    assert torch.equal(augment.erase(text, draw, share=0.05), text)  # less than one dimension


def test_each_text_loses_its_own_share() -> None:
    text = torch.ones(200, 50)
    found = augment.erase(text, torch.Generator().manual_seed(1), share=0.2)
    assert (found.sum(1) == 40).all()
    assert len({tuple(row.tolist()) for row in found}) > 190
    assert bool((text == 1).all())  # the dataset's own array stays
    assert (found.sum(0) - 160).abs().max() < 40  # no dimension is favoured


def test_the_backbone_has_its_own_learning_rate() -> None:
    net = OnBackbone(nn.Linear(3, 4), nn.Linear(4, 2), lr_share=0.25)
    groups = optimizer("sgd", net, nn.Linear(2, 2), lr=0.4).param_groups
    assert [group["lr"] for group in groups] == pytest.approx([0.1, 0.4, 0.4])
    assert [len(group["params"]) for group in groups] == [2, 2, 2]


def small() -> tuple[nn.Module, torch.Tensor]:
    """A net with all that a second pass could change: batch norms of both kinds of averages, and dropout."""
    norms = nn.BatchNorm1d(8), nn.BatchNorm1d(8, momentum=None)
    parts = nn.Linear(3, 8), norms[0], nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 8), norms[1]
    return nn.Sequential(*parts), torch.rand((16, 3))


def resnet() -> tuple[nn.Module, torch.Tensor]:
    return networks._torchvision("resnet18", None), torch.rand((4, 3, 33, 33))


@pytest.mark.parametrize("build", [small, resnet])
def test_checkpointing_changes_no_number(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = torchvision.models.get_model
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights: model(name, weights=None))
    torch.manual_seed(0)
    backbone, pixels = build()
    width = backbone(pixels).shape[1]
    start = copy.deepcopy(OnBackbone(backbone, nn.Linear(width, 2), lr_share=1))
    seen = []
    for checkpointing in (False, True):
        net = copy.deepcopy(start).train()
        net.checkpointing = checkpointing
        torch.manual_seed(1)
        losses = [net(pixels).square().sum(), net(2 * pixels).sum()]  # two passes before the first way back
        losses[0].backward(retain_graph=True)
        losses[0].backward()  # and one graph twice
        losses[1].backward()
        gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
        assert all(gradient is not None for gradient in gradients.values())
        seen.append([*losses, *gradients.values(), *net.state_dict().values(), torch.rand(3)])
    assert all(torch.equal(*pair) for pair in zip(*seen, strict=True))


def test_checkpointing_counts_a_batch_once_by_hand() -> None:
    torch.manual_seed(0)
    backbone, pixels = small()
    net = OnBackbone(backbone, nn.Linear(8, 2), lr_share=1, checkpointing=True).train()
    with torch.no_grad():
        first = backbone[0](pixels)
        mean = 0.9 * backbone[1].running_mean + 0.1 * first.mean(0)
        variance = 0.9 * backbone[1].running_var + 0.1 * first.var(0)
    net(pixels).sum().backward()
    assert torch.allclose(backbone[1].running_mean, mean)
    assert torch.allclose(backbone[1].running_var, variance)
    assert backbone[1].num_batches_tracked == backbone[5].num_batches_tracked == 1


@pytest.mark.parametrize("error", [False, True])
def test_buffers_come_back_however_the_second_pass_ends(error: bool) -> None:
    torch.manual_seed(0)
    backbone, pixels = small()
    net = OnBackbone(backbone, nn.Linear(8, 2), lr_share=1, checkpointing=True).train()
    loss, buffers = net(pixels).sum(), dict(backbone[1]._buffers)
    if error:
        backbone[4].register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("no memory")))
        with pytest.raises(RuntimeError, match="no memory"):
            loss.backward()
    else:
        loss.backward()
    assert all(backbone[1]._buffers[name] is tensor for name, tensor in buffers.items())


def test_checkpointing_changes_no_training(clipart: SearchData) -> None:
    data = dataclasses.replace(clipart, train=clipart.train.rows(slice(100)))
    fits = [fit(data, epochs=2, batch_size=50, checkpointing=on) for on in (False, True)]
    assert numbers(fits[0]) == numbers(fits[1])
    states = [[value for net in _modules(one.method) for value in net.state_dict().values()] for one in fits]
    assert len(states[0]) > 20
    assert all(torch.equal(*pair) for pair in zip(*states, strict=True))
