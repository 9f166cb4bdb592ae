"""The trainer's promises: same seed same curve, exact resume, one modality each, and what it refuses."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cmh import datasets, interfaces, methods, training
from cmh.datasets import Arrays, SearchData
from cmh.errors import CheckpointError, ConfigError, DatasetError, NotFiniteError
from cmh.metrics import _torch
from cmh.nets import state as states
from cmh.training import evaluation
from cmh.training.batches import Items, Passes

VARIANTS = {
    "dcmh-adam": (
        "dcmh",
        {"hidden_image": 16, "hidden_text": 16, "batch_size": 32, "lr_text": 3e-3, "weight_std": 0.1},
    ),
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
    run, config = training.parse(module, {**values, "bits": 8, "epochs": 5, "threads": 1, **more})
    return training.fit(module, run, config, data or tiny(), **keys)


def values(fitted: training.Fitted) -> list[Any]:
    """The curve without clock times."""
    return [dataclasses.replace(epoch, seconds=0) for epoch in fitted.curve]


def test_the_test_split_is_locked_while_a_method_trains() -> None:
    dataset = datasets.load("clipart")

    def peek(*_: Any) -> None:
        dataset.test()

    with pytest.raises(DatasetError, match="the test split is locked"):
        fit("ridge", report=peek)
    assert len(dataset.test().query.labels) > 100


@pytest.mark.parametrize("variant", VARIANTS)
def test_same_seed_same_curve_after_another_run(variant: str) -> None:
    first = values(fit(variant))
    fit("dcmh-adam", seed=5, bits=3)
    assert values(fit(variant)) == first
    assert variant == "ridge" or values(fit(variant, seed=1)) != first


def numbers(fitted: training.Fitted) -> list[list[float]]:
    return [[epoch.val_map_i2t, epoch.val_map_t2i, *epoch.terms.values()] for epoch in fitted.curve]


def test_same_seed_same_curve_in_another_process() -> None:
    code = "import json, tests.test_training as t; print(json.dumps({v: t.numbers(t.fit(v)) for v in t.VARIANTS}))"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert json.loads(done.stdout) == {variant: numbers(fit(variant)) for variant in VARIANTS}


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="no huge pages on this system")
def test_large_tensors_ask_for_huge_pages() -> None:
    """A process that imports the trainer: one more mapping than before is marked for huge pages, the tensor's."""
    code = """
import torch, cmh.training
marked = lambda: sum(" hg" in line for line in open("/proc/self/smaps") if line.startswith("VmFlags"))
before, large = marked(), torch.ones(2**24)
print(marked() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 1


def test_a_run_sets_what_makes_it_repeat_itself() -> None:
    """And leaves a stricter mode as it is. cuBLAS reads its setting in the process's first product on a GPU."""
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in (":4096:8", ":16:8")
    try:
        for before, after in ((0, 1), (1, 1), (2, 2)):
            torch.set_deterministic_debug_mode(before)
            training.prepare(training.Run(threads=1))
            assert torch.get_deterministic_debug_mode() == after
            assert torch.backends.cudnn.deterministic
            assert not torch.backends.cudnn.benchmark
            assert not torch.utils.deterministic.fill_uninitialized_memory
    finally:
        torch.set_deterministic_debug_mode(1)


def test_gradients_of_rows_taken_many_times_repeat_on_two_threads() -> None:
    """Without what `prepare` sets, threads add them up in any order."""
    threads = torch.get_num_threads()
    draw = torch.Generator().manual_seed(0)
    rows, weight = torch.randint(0, 50, (20_000,), generator=draw), torch.randn(20_000, 64, generator=draw)
    try:
        training.prepare(training.Run(threads=2))
        found = []
        for _ in range(8):
            table = torch.ones(50, 64, requires_grad=True)
            (table[rows] * weight).sum().backward()
            found.append(table.grad)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradient, found[0]) for gradient in found[1:])


@pytest.mark.cuda
@pytest.mark.parametrize("name", [name for name in methods.names() if methods.get(name).KIND != "shallow"])
def test_a_curve_repeats_on_a_gpu(name: str) -> None:
    module = methods.get(name)
    run, config = training.parse(module, {"bits": 8, "epochs": 2, "threads": 1, "device": "cuda", "batch_size": 32})
    first, second = (numbers(training.fit(module, run, config, tiny())) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("variant", ["dcmh-adam", "ridge"])
def test_validation_on_a_gpu_gives_the_numbers_of_the_cpu(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU's way, taken on the CPU: codes stay there, products count, the kernel does nothing."""
    fitted = fit(variant)
    test = interfaces.TestData(tiny().validation_query, tiny().train, np.zeros(30, np.int64))
    expected = training.score(fitted.method, test, fitted.device, False)
    there: list[torch.Tensor] = []

    def count(*codes_and_labels: torch.Tensor) -> Any:
        there.extend(codes_and_labels)
        return _torch.histograms(*codes_and_labels, device="cpu", half=True)

    monkeypatch.setattr("cmh.training.evaluation.on_gpu", lambda device: True)
    monkeypatch.setattr("cmh.metrics.histograms", count)
    monkeypatch.setattr("cmh.metrics._kernel.histograms", None)  # calling it would fail
    found = training.score(fitted.method, test, fitted.device, False)
    assert found.metrics == expected.metrics
    for left, right in ((found.i2t, expected.i2t), (found.t2i, expected.t2i)):
        np.testing.assert_array_equal(left, right)
    assert found.codes.keys() == expected.codes.keys()
    assert all(np.array_equal(found.codes[name], expected.codes[name]) for name in found.codes)
    assert len(there) == 8
    assert all(isinstance(tensor, torch.Tensor) for tensor in there)
    assert values(fit(variant)) == values(fitted)


@pytest.mark.cuda
def test_large_features_go_to_a_gpu_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = fit("dcmh-adam", device="cuda")
    test = interfaces.TestData(tiny().validation_query, tiny().train, np.zeros(30, np.int64))
    kept = training.score(fitted.method, test, fitted.device, False)
    monkeypatch.setattr("cmh.training.evaluation.KEPT_BYTES", 0)
    assert training.score(fitted.method, test, fitted.device, False).metrics == kept.metrics


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
    monkeypatch.setattr("cmh.training.fitting.CHECKPOINT_SECONDS", 0)
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


def test_ridge_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(_KilledError):
        fit("ridge", folder=tmp_path, report=killer(1))
    seen: list[int] = []
    resumed, whole = fit("ridge", folder=tmp_path, report=lambda epoch, _: seen.append(epoch.epoch)), fit("ridge")
    assert seen == [1]
    assert values(resumed) == values(whole)
    items = torch.from_numpy(tiny().train.text)
    assert torch.equal(resumed.method.encode_text(items), whole.method.encode_text(items))


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda raw: raw[: len(raw) // 2],
    "empty": lambda _: b"",
    "bytes": lambda _: b"x" * 100,
    "no state": lambda _: saved([1, 2]),
    "no identity": lambda _: saved({"identity": 3, "curve": [], "method": {}, "best": {}}),
}


def saved(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside(damage: str, tmp_path: Path) -> None:
    whole = values(fit("dcmh-adam", folder=tmp_path))
    path = tmp_path / "checkpoint.pt"
    bad = DAMAGES[damage](path.read_bytes())
    path.write_bytes(bad)
    assert values(fit("dcmh-adam", folder=tmp_path)) == whole
    log = (tmp_path / "log.txt").read_text()
    assert "set aside as checkpoint.damaged, training starts at epoch 1" in log
    assert "cannot be read" in log
    assert (tmp_path / "checkpoint.damaged").read_bytes() == bad


@pytest.mark.parametrize("change", ["seed", "data", "split"])
def test_a_checkpoint_of_another_run_is_set_aside(change: str, tmp_path: Path) -> None:
    data = tiny()
    if change == "seed":
        fit("ridge", data, folder=tmp_path, seed=9)
    else:
        field = {"data": "sha256", "split": "split_sha256"}[change]
        fit("ridge", dataclasses.replace(data, **{field: "other"}), folder=tmp_path)
    assert values(fit("ridge", data, folder=tmp_path)) == values(fit("ridge", data))
    log = (tmp_path / "log.txt").read_text()
    assert "the checkpoint is of another run" in log
    assert {"split": "split_sha256", "data": "dataset_sha256"}.get(change, change) + ": " in log
    assert "set aside as checkpoint.other" in log  # nothing is wrong with it
    assert (tmp_path / "checkpoint.other").exists()


def test_a_damaged_checkpoint_given_by_hand_is_refused() -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        fit("ridge", resume=b"x")


def test_numbers_that_are_not_finite_stop_the_run() -> None:
    with pytest.raises(NotFiniteError, match="epoch 1"):
        fit("dcmh-adam", tiny(scale=float("inf")))
    with pytest.raises(NotFiniteError):
        fit("dcmh-sgd", tiny(scale=1e18), lr_image=10, scale="none")
    with pytest.raises(NotFiniteError, match="image_residual = nan"):
        fit("ridge", tiny(scale=float("nan")), scale="none")
    data = tiny()
    queries = dataclasses.replace(data.validation_query, text=data.validation_query.text * np.float32("inf"))
    with pytest.raises(NotFiniteError, match="the text codes"):
        fit("ridge", dataclasses.replace(data, validation_query=queries))


def test_all_bad_settings_at_once() -> None:
    module = methods.get("dcmh")
    with pytest.raises(ConfigError) as error:
        training.parse(module, {"bits": 0, "lr_imag": 1, "gamma": -1, "optimizer": "lion", "batch_size": 10**400})
    text = str(error.value)
    assert "bits is 0, but must be an integer >= 1" in text
    assert "did you mean 'lr_image'" in text
    assert "gamma is -1" in text
    assert "one of adam, sgd" in text
    assert len(error.value.problems) == 5


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="cuda:77"):
        fit("ridge", device="cuda:77")


@pytest.mark.parametrize("size", [1, 50, 60, 120, 999])
def test_a_pass_visits_every_item_once(size: int) -> None:
    device, train = torch.device("cpu"), tiny().train
    image, text = torch.from_numpy(train.image), torch.from_numpy(train.text)
    passes = Passes(Items(image, text, device), size, 0, 1)
    orders = []
    for _ in range(2):
        batches = list(passes())
        assert [len(batch.index) for batch in batches] == [min(size, 120 - start) for start in range(0, 120, size)]
        assert all(torch.equal(batch.image, image[batch.index]) for batch in batches)
        assert all(torch.equal(batch.text, text[batch.index]) for batch in batches)
        orders.append(torch.cat([batch.index for batch in batches]).tolist())
        assert sorted(orders[-1]) == list(range(120))
    assert orders[0] != orders[1]
    assert passes.n_seen == 240


@pytest.mark.parametrize("n_labels", [1, 3])
def test_chance_is_its_closed_form(n_labels: int) -> None:
    """With R of n relevant and all orders equally likely, E[AP] = (H_n + (R − 1)/(n − 1) · (n − H_n)) / n."""
    data = tiny()
    keep = [
        dataclasses.replace(part, labels=np.maximum(part.labels, n_labels == 1))
        for part in (data.validation_query, data.validation_database)
    ]
    data = dataclasses.replace(data, validation_query=keep[0], validation_database=keep[1])
    n = len(keep[1].labels)
    harmonic = sum(1 / k for k in range(1, n + 1))
    relevant = (keep[0].labels.astype(int) @ keep[1].labels.T.astype(int) > 0).sum(1)
    expected = np.mean((harmonic + (relevant - 1) / (n - 1) * (n - harmonic)) / n)
    assert training.chance(data) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("variant", ["dcmh-adam", "ridge"])
def test_it_learns(variant: str) -> None:
    assert fit(variant, epochs=30).best.val_map > 0.65
    assert training.chance(tiny()) < 0.45


def test_what_a_run_alone_says_is_logged_and_can_be_silenced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cmh.training.trainable.load", lambda run: SimpleNamespace(search=tiny))
    settings = {"bits": 8, "threads": 1}
    with caplog.at_level("INFO", logger="cmh.training"):
        methods.get("ridge").trainable(settings)
    assert [record.name.startswith("cmh.training") for record in caplog.records] == [True]
    assert re.fullmatch(
        r"epoch 1: val_map \d\.\d{4} \(i2t \d\.\d{4}, t2i \d\.\d{4}\), best \d\.\d{4}", caplog.records[0].getMessage()
    )
    caplog.clear()
    with caplog.at_level("WARNING", logger="cmh.training"):
        methods.get("ridge").trainable(settings)
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_a_state_comes_back_in_its_layout() -> None:
    by_columns, whole = torch.arange(6.0).view(3, 2).T.clone(), torch.zeros(4, 5)
    saved = states.save({"matrix": by_columns, "part": torch.ones(4, 3), "number": torch.tensor(2.5)})
    live = {"matrix": torch.zeros(2, 3), "part": whole[:, :3], "number": torch.tensor(0)}
    kept = dict(live)
    states.load(live, saved)
    assert torch.equal(kept["matrix"], by_columns)
    assert kept["matrix"].stride() == by_columns.stride() == (1, 2)
    assert kept["matrix"].data_ptr() != by_columns.data_ptr()
    assert torch.equal(whole.sum(0), torch.tensor([4.0, 4, 4, 0, 0]))  # still a part of the whole
    assert kept["number"] == 2


def test_results_travel_between_processes() -> None:
    fitted = fit("ridge")
    test = interfaces.TestData(tiny().validation_query, tiny().train, np.zeros(30, np.int64))
    tested = training.score(fitted.method, test, fitted.device, False)
    assert pickle.loads(pickle.dumps(fitted.curve)) == fitted.curve  # noqa: S301  # written in this line
    assert pickle.loads(pickle.dumps(fitted.identity)) == fitted.identity  # noqa: S301
    assert pickle.loads(pickle.dumps(tested)).metrics == tested.metrics  # noqa: S301


def test_ray_is_not_loaded_for_a_run_alone() -> None:
    code = "import sys, cmh.training; print([name for name in ('ray', 'optuna') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_method_names_the_likely_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'dcmh'"):
        methods.get("dcm")


@pytest.mark.parametrize("every", [2, 3, 9])
def test_validation_every_few_epochs_trains_the_same(
    every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The validated epochs have the numbers that they have when all are validated, over a kill as well."""
    whole = {epoch.epoch: epoch for epoch in fit("dcmh-adam", epochs=7).curve}
    few = fit("dcmh-adam", epochs=7, validate_every=every)
    assert [epoch.epoch for epoch in few.curve] == sorted({*range(every, 7, every), 7})
    for epoch in few.curve:
        assert (epoch.val_map, epoch.terms, epoch.passes) == (
            whole[epoch.epoch].val_map,
            whole[epoch.epoch].terms,
            whole[epoch.epoch].passes,
        )
    assert few.best.val_map == max(epoch.val_map for epoch in few.curve)
    monkeypatch.setattr("cmh.training.fitting.CHECKPOINT_SECONDS", 0)
    with pytest.raises(_KilledError):
        fit("dcmh-adam", epochs=7, validate_every=every, folder=tmp_path, report=killer(few.curve[0].epoch))
    resumed = fit("dcmh-adam", epochs=7, validate_every=every, folder=tmp_path)
    assert values(resumed) == values(few)
    assert resumed.resumed == few.curve[0].epoch
    rows = csv.DictReader((tmp_path / "curve.csv").open(newline=""))
    assert [int(row["epoch"]) for row in rows] == [epoch.epoch for epoch in few.curve]


def test_a_sample_of_the_validation_database_is_the_same_in_all_trials() -> None:
    data = tiny()
    found = [fit("dcmh-adam", data, validation_database=50, seed=seed) for seed in (0, 1)]
    drawn = evaluation.sample(data.validation_database, 50)
    assert len(drawn.labels) == 50
    for one in found:
        again = evaluation.Ranking(data.validation_query, drawn, one.device, False).average_precision(one.method)
        assert one.best.val_map == pytest.approx(np.mean(again), rel=1e-12)
    rows = {tuple(row) for row in data.validation_database.image.tolist()}
    assert {tuple(row) for row in drawn.image.tolist()} < rows
    for n in (0, 120, 1000):
        assert evaluation.sample(data.validation_database, n) is data.validation_database


def test_a_checkpoint_holds_the_best_epoch_without_its_optimizers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And after the last epoch nothing else: what is left is the encoder."""
    monkeypatch.setattr("cmh.training.fitting.CHECKPOINT_SECONDS", 0)
    sizes = []
    for after in (3, 5):
        with pytest.raises(_KilledError):
            fit("dcmh-adam", folder=tmp_path / str(after), report=killer(after))
        state = torch.load(tmp_path / str(after) / "checkpoint.pt", weights_only=True)
        assert (state["best"]["optimizers"], state["best"]["schedules"]) == ({}, {})
        assert state["best"]["nets"].keys() == {"image", "text"}
        assert (state["method"] == {}) == (after == 5)
        sizes.append((tmp_path / str(after) / "checkpoint.pt").stat().st_size)
    assert sizes[1] < 0.5 * sizes[0]


def test_checkpoints_take_a_fiftieth_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only the checkpoint (10 s) and the epochs (100 s) move."""
    now, written = [0.0], []
    monkeypatch.setattr("cmh.training.fitting.time.monotonic", lambda: now[0])

    def write(folder: Path, raw: bytes) -> None:
        written.append(now[0])
        now[0] += 10

    monkeypatch.setattr("cmh.training.fitting.checkpoint.write", write)
    fit("dcmh-adam", epochs=14, folder=tmp_path, report=lambda *_: now.__setitem__(0, now[0] + 100))
    assert written == [100, 610, 1120, 1330]
