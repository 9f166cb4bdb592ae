"""The trainer's promises: same seed same curve, exact resume, one modality each, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cmh import config as configs
from cmh import datasets, methods, training
from cmh.datasets import Arrays, SearchData
from cmh.errors import ConfigError, NotFiniteError

VARIANTS = {
    "dcmh-adam": ("dcmh", {"hidden_image": 16, "hidden_text": 16, "batch_size": 32}),
    "dcmh-sgd": ("dcmh", {"hidden_image": 0, "hidden_text": 8, "optimizer": "sgd", "momentum": 0.9, "schedule": "log"}),
    "dcmh-exponential": (
        "dcmh",
        {"hidden_image": 4, "hidden_text": 4, "schedule": "exponential", "weight_decay": 1e-6},
    ),
    "ridge": ("ridge", {}),
}


def tiny(n: int = 120, scale: float = 1.0) -> SearchData:
    rng = np.random.default_rng(7)
    labels = np.eye(3, dtype=np.uint8)[rng.integers(0, 3, n + 30)]
    image, text = (
        (scale * (labels @ rng.standard_normal((3, d)) + 0.3 * rng.standard_normal((n + 30, d)))).astype(np.float32)
        for d in (20, 12)
    )
    train, query = (Arrays(image[rows], text[rows], labels[rows]) for rows in (slice(n), slice(n, None)))
    return SearchData("tiny", "d", "s", "f", ("a", "b", "c"), train, query, train)


def fit(variant: str, data: SearchData | None = None, **more: Any) -> training.Fitted:
    name, values = VARIANTS[variant]
    keys = {key: more.pop(key) for key in ("report", "folder", "resume") if key in more}
    module = methods.get(name)
    run, config = training.split(module, {**values, "bits": 8, "epochs": 5, "threads": 1, **more})
    return training.fit(module, run, config, data or tiny(), **keys)


def values(fitted: training.Fitted) -> list[Any]:
    """The curve without clock times."""
    return [dataclasses.replace(epoch, seconds=0) for epoch in fitted.curve]


@pytest.mark.parametrize("variant", VARIANTS)
def test_same_seed_same_curve_after_another_run(variant: str) -> None:
    first = values(fit(variant))
    fit("dcmh-adam", seed=5, bits=3)
    assert values(fit(variant)) == first
    assert variant == "ridge" or values(fit(variant, seed=1)) != first


def test_same_seed_same_curve_in_another_process() -> None:
    code = "import tests.test_training as t; print([e.val_map for e in t.fit('dcmh-adam').curve])"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert json.loads(done.stdout) == [epoch.val_map for epoch in fit("dcmh-adam").curve]


class _KilledError(Exception):
    pass


def killer(after: int) -> Callable[[training.Epoch, Any], None]:
    def report(epoch: training.Epoch, _save: Any) -> None:
        if epoch.epoch == after:
            raise _KilledError

    return report


@pytest.mark.parametrize("after", [1, 3, 5])
@pytest.mark.parametrize("variant", ["dcmh-adam", "dcmh-sgd", "dcmh-exponential"])
def test_going_on_from_a_checkpoint_is_exact(
    variant: str, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)
    with pytest.raises(_KilledError):
        fit(variant, folder=tmp_path, report=killer(after))
    seen: list[int] = []
    resumed = fit(variant, folder=tmp_path, report=lambda epoch, _: seen.append(epoch.epoch))
    assert seen == list(range(after, 6))  # the last stored epoch again, then the rest
    whole = fit(variant)
    assert values(resumed) == values(whole)
    items = torch.from_numpy(tiny().train.image)
    assert torch.equal(resumed.method.encode_image(items), whole.method.encode_image(items))
    assert len((tmp_path / "curve.csv").read_text().splitlines()) == 6


@pytest.mark.parametrize("damage", ["truncated", "bytes", "other run"])
def test_a_bad_checkpoint_is_set_aside(damage: str, tmp_path: Path) -> None:
    whole = values(fit("dcmh-adam", folder=tmp_path))
    path = tmp_path / "checkpoint.pt"
    raw = path.read_bytes()
    if damage == "other run":
        fit("dcmh-adam", folder=tmp_path, seed=9)
    else:
        path.write_bytes(raw[: len(raw) // 2] if damage == "truncated" else b"x" * 100)
    assert values(fit("dcmh-adam", folder=tmp_path)) == whole
    assert "set aside" in (tmp_path / "log.txt").read_text()
    assert (tmp_path / "checkpoint.damaged").exists()


def test_numbers_that_are_not_finite_stop_the_run() -> None:
    with pytest.raises(NotFiniteError, match="epoch 1"):
        fit("dcmh-adam", tiny(scale=float("inf")))
    with pytest.raises(NotFiniteError):
        fit("dcmh-sgd", tiny(scale=1e18), lr_image=10)


def test_all_bad_settings_at_once() -> None:
    module = methods.get("dcmh")
    with pytest.raises(ConfigError) as error:
        training.split(module, {"bits": 0, "lr_imag": 1, "gamma": -1, "optimizer": "lion"})
    text = str(error.value)
    assert "bits is 0, but must be an integer >= 1" in text
    assert "did you mean 'lr_image'" in text
    assert "gamma is -1" in text
    assert "one of adam, sgd" in text


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="cuda:77"):
        fit("ridge", device="cuda:77")


@pytest.mark.parametrize(
    "more", [{"batch_size": 1}, {"batch_size": 50}, {"batch_size": 999}, {"bits": 1}, {"bits": 100}]
)
def test_any_batch_size_and_code_length(more: dict[str, int]) -> None:
    fitted = fit("dcmh-adam", epochs=2, **more)
    outputs = fitted.method.encode_text(torch.from_numpy(tiny().train.text))
    assert outputs.shape == (120, more.get("bits", 8))


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_items_code_does_not_hang_on_its_batch(variant: str) -> None:
    fitted = fit(variant)
    items = torch.from_numpy(tiny().train.image)
    whole = fitted.method.encode_image(items)
    single = torch.cat([fitted.method.encode_image(row[None]) for row in items])
    assert torch.allclose(whole, single, atol=1e-5)
    assert torch.equal(whole >= 0, single >= 0)


@pytest.mark.parametrize("variant", ["dcmh-adam", "ridge"])
def test_it_learns(variant: str) -> None:
    assert fit(variant, epochs=30).best.val_map > 0.65
    assert training.chance(tiny()) < 0.45


def test_methods_keep_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load", lambda *_, **__: SimpleNamespace(search=tiny))
    assert methods.names() == ["dcmh", "ridge"]
    for name in methods.names():
        module = methods.get(name)
        assert "Differences from the" in (module.__doc__ or "")
        assert module.KIND in ("supervised", "unsupervised", "shallow")
        assert module.TITLE
        assert module.SOURCE
        assert 1900 < module.YEAR < 2100
        for point in (configs.defaults(module.Config), configs.paper(module.Config)):
            assert dataclasses.asdict(configs.build(module.Config, point)) == point
        module.trainable({"epochs": 1, "bits": 4, "threads": 1})


def test_an_unknown_method_names_the_likely_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'dcmh'"):
        methods.get("dchm")
