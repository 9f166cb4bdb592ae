"""What every method in the folder promises, whoever wrote it."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmh import config as configs
from cmh import datasets, methods, training
from cmh.datasets import Arrays, SearchData
from cmh.study import space as spaces
from tests.test_training import tiny

NAMES = methods.names()
CHANCE = ("random",)  # what is not meant to learn
COSTLY = (
    "gcdh",
    "mith",
    "nrch",
    "ssah",
)  # whose paper point takes minutes an epoch, so that no search starts from it


def test_the_folder_holds_what_it_should() -> None:
    assert [
        *("agah", "cca_itq", "chn", "cmhh", "cpah", "dadh", "dcgh", "dchmt", "dchuc", "dcmh", "ddbh", "ddwsh"),
        *("dgcpn", "dhaph", "dimch", "djsrh", "dmsh_ln", "dnph", "dnph_qmi", "dpbe", "dsah", "dscph", "dsph", "gcdh"),
        *("gch", "jdsh", "mith", "nrch", "prdh", "random", "ridge", "scahn", "ssah", "twdh", "ucch"),
    ] == NAMES


def small(name: str, width: int = 16) -> dict[str, Any]:
    """The default point with hidden layers of at most `width` units, for speed."""
    point = configs.defaults(methods.get(name).Config)
    return {key: min(int(value), width) for key, value in point.items() if key.startswith("hidden")}


def fit(name: str, data: SearchData | None = None, **more: Any) -> training.Fitted:
    keys = {key: more.pop(key) for key in ("report", "folder", "resume") if key in more}
    module = methods.get(name)
    batch = {"batch_size": 32} if "batch_size" in configs.params(module.Config) else {}
    run, config = training.parse(module, {**small(name), **batch, "bits": 8, "epochs": 4, "threads": 1, **more})
    return training.fit(module, run, config, data or tiny(), **keys)


def numbers(fitted: training.Fitted) -> list[list[float]]:
    return [[epoch.val_map_i2t, epoch.val_map_t2i, *epoch.terms.values()] for epoch in fitted.curve]


@functools.cache
def real() -> SearchData:
    """A thousand clip arts to train on, and the real validation queries."""
    data = datasets.load("clipart").search()
    train = data.train
    rows = np.random.default_rng(0).permutation(len(train.labels))[:1000]
    part = Arrays(train.image[rows], train.text[rows], train.labels[rows])
    return dataclasses.replace(data, train=part)


@pytest.mark.parametrize("name", NAMES)
def test_the_module_says_what_it_is(name: str) -> None:
    module = methods.get(name)
    text = module.__doc__ or ""
    assert re.search(r"^Differences from the .*:$", text, re.MULTILINE)
    assert re.search(r"^1\. ", text, re.MULTILINE)
    assert re.search(r"arXiv[: ]\d|DOI 10\.|OJS|doi\.org|ieeexplore\.ieee\.org/document/\d", text) or name in CHANCE
    assert module.SOURCE.split(" ")[-1] in text
    assert module.KIND in ("supervised", "unsupervised", "shallow")
    assert (module.KIND == "supervised") == module.LABELS or module.KIND == "shallow"
    assert module.TITLE
    assert 1900 < module.YEAR < 2100


def test_mypy_holds_every_method_to_the_protocol(tmp_path: Path) -> None:
    """And one that lacks an encoder does not pass."""
    root = Path(__file__).parent.parent
    template = (root / "cmh" / "methods" / "_template.py").read_text()
    broken = template.replace("self.encode_image, self.encode_text, self.state =", "self.encode_image, _, self.state =")
    assert broken != template
    (tmp_path / "broken.py").write_text(broken)
    (tmp_path / "check.py").write_text(
        "import broken\n"
        "from cmh.interfaces import MethodModule\n"
        f"from cmh.methods import _template, {', '.join(NAMES)}\n"
        f"modules: list[MethodModule] = [_template, {', '.join(NAMES)}]\n"
        "no_method: MethodModule = broken\n"
    )
    command = [sys.executable, "-m", "mypy", "--show-absolute-path", str(tmp_path / "check.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert len(errors) == 1, done.stdout + done.stderr
    # With a warm cache mypy may name the file as an earlier run had it, in another temporary folder.
    assert errors[0].rpartition("/")[2].startswith("check.py:5: error: Incompatible types in assignment")
    assert "def Method(config: Config, setup: Setup) -> Method" in done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_the_config_round_trips(name: str) -> None:
    module = methods.get(name)
    for point in (configs.defaults(module.Config), configs.paper(module.Config)):
        assert dataclasses.asdict(configs.build(module.Config, point)) == point
    assert all(item.help for item in configs.params(module.Config).values())


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CHANCE])
def test_the_search_space_is_sound(name: str) -> None:
    module = methods.get(name)
    space = spaces.load(spaces.find(name), method=name)
    default, paper = configs.defaults(module.Config), configs.paper(module.Config)
    origins = [origin for origin, _ in space.start_from]
    assert origins == ["paper"] or (origins == [] and (paper == default or name in COSTLY))
    for item in space.ranges:
        ends = item.choices if item.kind == "choice" else (item.low, item.high)
        for end in ends:
            configs.build(module.Config, {**default, **dict(item.when), item.name: end})
        if item.active(default):
            assert item.holds(default[item.name]), f"{item.name}: the default is outside"
        other_rate = item.name.startswith("lr_") and paper.get("optimizer") != default.get("optimizer")
        if item.active(paper) and not other_rate:
            assert item.holds(paper[item.name]), f"{item.name}: the paper's value is outside"


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_curve(name: str) -> None:
    first = numbers(fit(name))
    fit("dcmh", seed=5, bits=3, epochs=1)
    assert numbers(fit(name)) == first


@pytest.mark.parametrize("names", [["dcmh", "gch", "ucch"], pytest.param(NAMES, marks=pytest.mark.slow)])
def test_same_seed_same_curve_in_another_process(names: list[str]) -> None:
    code = f"import json, tests.test_methods as t; print(json.dumps({{n: t.numbers(t.fit(n)) for n in {names}}}))"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert json.loads(done.stdout) == {name: numbers(fit(name)) for name in names}


class _KilledError(Exception):
    pass


@pytest.mark.parametrize("name", NAMES)
def test_going_on_from_a_checkpoint_is_exact(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmh.training.fitting.CHECKPOINT_SECONDS", 0)
    after = 2 if not hasattr(methods.get(name), "EPOCHS") else 1

    def killer(epoch: training.Epoch, _save: Any) -> None:
        if epoch.epoch == after:
            raise _KilledError

    with pytest.raises(_KilledError):
        fit(name, folder=tmp_path, report=killer)
    resumed, whole = fit(name, folder=tmp_path), fit(name)
    assert numbers(resumed) == numbers(whole)
    items = tiny().train
    for encode, features in (("encode_image", items.image), ("encode_text", items.text)):
        assert torch.equal(*(getattr(it.method, encode)(torch.from_numpy(features)) for it in (resumed, whole)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "more", [{"batch_size": 7}, {"batch_size": 119}, {"batch_size": 999}, {"bits": 1}, {"bits": 70}]
)
def test_any_batch_size_and_code_length(name: str, more: dict[str, int]) -> None:
    if "batch_size" in more and "batch_size" not in configs.params(methods.get(name).Config):
        pytest.skip("a closed form has no batch size")
    fitted = fit(name, epochs=2, **more)
    items = tiny().train
    for encode, features in (("encode_image", items.image), ("encode_text", items.text)):
        outputs = getattr(fitted.method, encode)(torch.from_numpy(features))
        assert outputs.shape == (120, more.get("bits", 8))
        assert bool(torch.isfinite(outputs).all())


@pytest.mark.parametrize("name", NAMES)
def test_an_items_code_does_not_hang_on_its_batch(name: str) -> None:
    fitted, items = fit(name), tiny().train
    for encode, features in (("encode_image", items.image), ("encode_text", items.text)):
        encoder = getattr(fitted.method, encode)
        whole = encoder(torch.from_numpy(features))
        single = torch.cat([encoder(row[None]) for row in torch.from_numpy(features)])
        assert torch.allclose(whole, single, atol=1e-4)
        sure = whole.abs() > 1e-4
        assert torch.equal((whole >= 0)[sure], (single >= 0)[sure])


@pytest.mark.parametrize("name", NAMES)
def test_a_code_does_not_hang_on_the_other_modality(name: str) -> None:
    fitted, data = fit(name), tiny()
    image, text = torch.from_numpy(data.train.image), torch.from_numpy(data.train.text)
    before = fitted.method.encode_image(image), fitted.method.encode_text(text)
    fitted.method.encode_text(1e3 * text.flip(0))
    assert torch.equal(fitted.method.encode_image(image), before[0])
    fitted.method.encode_image(1e3 * image.flip(0))
    assert torch.equal(fitted.method.encode_text(text), before[1])


@pytest.mark.parametrize("name", [name for name in NAMES if not methods.get(name).LABELS])
def test_labels_are_not_given_to_who_does_not_ask(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, seen = methods.get(name), []

    def spy(config: Any, setup: training.Setup) -> Any:
        seen.append(setup)
        return built(config, setup)

    built = module.Method
    monkeypatch.setattr(module, "Method", spy)
    first = numbers(fit(name))
    data = tiny()
    mixed = dataclasses.replace(data.train, labels=data.train.labels[::-1].copy())
    fit(name, dataclasses.replace(data, train=mixed))
    assert [setup.labels for setup in seen] == [None, None]
    again = numbers(fit(name, dataclasses.replace(data, train=mixed)))
    assert [row[2:] for row in again] == [row[2:] for row in first]


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_on_real_pictures(name: str) -> None:
    """The default point beats chance after a few epochs on a thousand clip arts."""
    fitted = fit(name, real(), **small(name, 256), **_batch(name), bits=16, epochs=8)
    floor = training.chance(real())
    if name in CHANCE:
        assert fitted.best.val_map == pytest.approx(floor, abs=0.02)
    else:
        assert fitted.best.val_map > floor + 0.03


def _batch(name: str) -> dict[str, Any]:
    default = configs.defaults(methods.get(name).Config)
    return {key: value for key, value in default.items() if key == "batch_size"}


@pytest.mark.parametrize("name", NAMES)
def test_the_trainable_runs_alone(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Here:
        @staticmethod
        def search() -> SearchData:
            return tiny()

    monkeypatch.setattr(datasets, "load", lambda *_, **__: Here)
    caplog.set_level("INFO", logger="cmh")
    methods.get(name).trainable({**small(name), "epochs": 1, "bits": 4, "threads": 1, "folder": str(tmp_path)})
    assert {"config.json", "curve.csv", "checkpoint.pt"} <= {path.name for path in tmp_path.iterdir()}
    assert "epoch 1: val_map" in caplog.text


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
