"""What is tried before a search starts, and what a search says that has learned nothing or diverged."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cmh import methods, training, tune
from cmh.errors import ConfigError
from cmh.methods.__main__ import main as methods_main
from cmh.study import aside, life, preflight, request
from cmh.study import work as pieces
from cmh.study.session import Session
from cmh.study.storage import Store
from cmh.study.trial_row import from_stored
from cmh.study.work import Budget, RunningTrial, Work
from cmh.views import closing, progress
from tests.test_address import asked
from tests.test_methods import small
from tests.test_own_data import write
from tests.test_reproduce import forget, here, make_data  # noqa: F401
from tests.test_training import tiny

# One batch


@pytest.mark.parametrize("name", methods.names())
def test_every_method_passes(name: str) -> None:
    data = tiny()
    space: Any = SimpleNamespace(method=name)
    dataset: Any = SimpleNamespace(name="tiny", search=lambda: data)
    base = {**small(name)}
    run = {"bits": 8, "epochs": 2, "threads": 1}
    study: Any = SimpleNamespace(space=space, dataset=dataset, base=base, run=run)
    preflight.try_one_batch(study)


@pytest.mark.parametrize(("name", "seen"), [("dcmh", 80), ("djsrh", 120)])
def test_one_batch_is_of_the_items_that_training_takes(name: str, seen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervised method meets no item without labels there, either."""
    data, built = tiny(), []
    data.train.labels[:40] = 0
    build = training.build

    def watched(module: Any, run: Any, config: Any, given: Any, device: Any) -> Any:
        built.append(len(given.train.labels))
        return build(module, run, config, given, device)

    monkeypatch.setattr(training, "build", watched)
    space: Any = SimpleNamespace(method=name)
    dataset: Any = SimpleNamespace(name="tiny", search=lambda: data)
    run = {"bits": 8, "epochs": 2, "threads": 1}
    preflight.try_one_batch(SimpleNamespace(space=space, dataset=dataset, base=small(name), run=run))  # type: ignore[arg-type]
    assert built == [seen]


def test_a_method_passes_from_pixels() -> None:
    write(Path("pictures"))
    given = {"dataset": "pictures", "features": "conv4", "settings": ("finetune=true", "batch_size=4")}
    about = dataclasses.replace(asked(Path("studies")), methods=("dcmh",), **given)
    (study,) = request.check(about).studies
    preflight.try_one_batch(study)


BROKEN = {
    "loss": ("    pairs = ", "    1 / 0\n    pairs = ", "ZeroDivisionError: division by zero"),
    "name": ("    pairs = ", "    pairs = undefined + ", "NameError: name 'undefined' is not defined"),
    "init": (
        "        self.pair = ",
        "        setup.known_labels @ setup.image\n        self.pair = ",
        "RuntimeError: mat1 and mat2",
    ),
    "codes": (
        "\n    def epoch(self",
        "        self.encode_text = lambda features: self.pair.encode_text(features)[:, :3]\n\n    def epoch(self",
        "TypeError: encode_text gives (4, 3), but must give (4, 8)",
    ),
    "state": (
        "\n    def epoch(self",
        "        self.state = lambda: {'seen': [1, object()]}\n\n    def epoch(self",
        "Error: ",
    ),
    "terms": ("        return self.pair.one_pass", "        return list(self.pair.one_pass", "AttributeError: "),
}


def broken(kind: str) -> None:
    """mine.py, with a fault of that kind."""
    assert methods_main(["new", "mine"]) == 0
    text, (old, new, _) = Path("mine.py").read_text(), BROKEN[kind]
    assert old in text
    text = text.replace(old, new, 1)
    if kind == "terms":
        line = next(line for line in text.splitlines() if "list(self.pair.one_pass" in line)
        text = text.replace(line, line + ")")
    Path("mine.py").write_text(text)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_method_that_fails_is_shown_with_its_traceback_before_anything_starts(
    kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(kind)
    monkeypatch.setattr("cmh.study.opening.begun", lambda _: pytest.fail("the search has started"))
    arguments = ["--method", "mine.py", "--dataset", "data", "--bits", "8", "--epochs", "2"]
    for more in [], ["--plan"]:
        capsys.readouterr()
        assert tune.main([*arguments, *more]) == 2
        error = capsys.readouterr().err
        assert "mine.py: fails on one batch of made, before the search has started: " in error
        assert BROKEN[kind][2] in error
        assert "Traceback (most recent call last):" in error
        assert ('mine.py", line' in error) == (kind in ("loss", "name", "init"))
        assert "fitting.py" not in error or kind not in ("loss", "name", "init")
    assert not Path("studies").exists()


@pytest.mark.parametrize("cause", ["__import__('torch').OutOfMemoryError('CUDA')", "MemoryError()", "float('nan')"])
def test_what_lies_in_a_configuration_is_left_to_the_trials(cause: str) -> None:
    assert methods_main(["new", "mine"]) == 0
    fault = f"    pairs = {cause} * " if "nan" in cause else f"    raise {cause}\n    pairs = "
    Path("mine.py").write_text(Path("mine.py").read_text().replace("    pairs = ", fault, 1))
    about = dataclasses.replace(asked(Path("studies")), methods=("mine.py",), dataset="data", epochs=2)
    (study,) = request.check(about).studies
    preflight.try_one_batch(study)


def test_what_a_user_can_cure_stays_as_it_is() -> None:
    write(Path("pictures"))
    given = {"settings": ("finetune=true",), "dataset": "pictures", "features": "conv4"}
    (study,) = request.check(dataclasses.replace(asked(Path("studies")), **given)).studies
    with pytest.raises(ConfigError, match="ridge has a closed form on frozen features"):
        preflight.try_one_batch(study)


# Data and searches without anything to learn


def relabelled(kind: str) -> None:
    make_data(Path("data"))
    with np.load("data/data.npz") as found:
        arrays = dict(found)
    labels, validation = arrays["labels"], arrays["split"] == "validation"
    if kind == "nothing is relevant":
        labels[:, 0] = validation
        labels[validation, 1:] = 0
        labels[~validation & ~labels.any(1), 1] = 1
    else:
        labels[:, 0] = 1
    np.savez("data/data.npz", **arrays)


@pytest.mark.parametrize("kind", ["nothing is relevant", "everything is relevant"])
def test_data_of_which_nothing_can_be_learned(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    relabelled(kind)
    assert tune.main(["--method", "ridge", "--dataset", "data", "--bits", "8"]) == 2
    error = capsys.readouterr().err
    assert "nothing can be learned from made: " in error
    assert {"nothing is relevant": "none of the 20 validation queries has a relevant item"}.get(
        kind, "every item is relevant to each of the 20 validation queries"
    ) in error
    assert "`python -m cmh.datasets check data` shows labels and split" in error
    assert not Path("studies").exists()


@pytest.mark.parametrize(
    ("values", "learned"),
    [
        ([[0.0, 0.0], [0.0]], False),
        ([[0.2, 0.2], [0.2, 0.2]], False),  # what codes that are all the same get
        ([[0.2, 0.2], [0.2, 0.21]], True),
        ([[0.2, 0.1]], True),
        ([[1.0], [1.0]], True),  # all the same, but as good as can be
    ],
)
def test_a_search_that_learned_nothing_says_so_and_opens_no_test_split(
    values: list[list[float]], learned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (study,) = request.check(dataclasses.replace(asked(Path("studies")), dataset="data")).studies
    study.folder.mkdir(parents=True)
    rows = [
        from_stored(number, "COMPLETE", dict(enumerate(curve, start=1)), {"result": {}}, dict(study.base))
        for number, curve in enumerate(values)
    ]
    ran = {aside.CONTROL: dataclasses.asdict(aside.failed(aside.CONTROL, None, 0, "none"))}
    store: Any = SimpleNamespace(rows=lambda: rows, seconds=lambda: 1.0, kept=lambda: {aside.KEPT: ran})
    wanted = request.Request((study,), (1,), asked(Path()).limits)
    shown: list[Any] = []
    screen: Any = SimpleNamespace(close=lambda: None)
    one = life.Life(study, store, wanted, {"chance": (0.2, 0.2, 0.2)}, "", screen, shown.append)
    runs = one.ended()
    assert bool(runs) == learned == (not shown)
    assert (study.folder / "openings.jsonl").exists() == learned
    said = [message for message in caplog.messages if "nothing was learned" in message]
    assert bool(said) != learned
    if not learned:
        assert said[0].endswith("and chance has 0.2000; the test split stays closed")
        assert "test split" not in closing.table(shown[0])


# Diverged


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([1.0, 0.5], ""),
        ([2e6, 3e5], ""),  # a sum over pairs
        ([1e-4, 0.9], ""),
        ([-0.2, -3.0], ""),
        ([1.0, 8e12], "image_loss ended at 8e+12"),
        ([8e12, 8e12], "image_loss ended at 8e+12"),
        ([0.5, 700.0], ""),
        ([0.5, 2000.0], "image_loss ended at 2e+03"),
        ([3e12, 0.5], ""),  # it came back
    ],
)
def test_a_loss_that_became_huge_has_diverged(losses: list[float], expected: str) -> None:
    proposal: Any = SimpleNamespace(number=0)
    trial = RunningTrial(proposal)
    for loss in losses:
        trial.note({"epoch": 1, "image_loss": loss, "image_balance": 1e15, "text_loss": 0.3})
    assert trial.diverged() == expected


def test_a_diverged_trial_is_called_so_and_its_best_epoch_counts(tmp_path: Path) -> None:
    about = dataclasses.replace(asked(tmp_path), dataset="data", warm_start=("defaults",))
    (study,) = request.check(about).studies
    store = Store(None, "s", study.space, study.base, 0)
    view: Any = SimpleNamespace(started=lambda _: None, reported=lambda *_: None, ended=lambda _: None)
    work = Work(store, 3, tmp_path, {**study.run, "epochs": 2}, study.dataset, view)
    one = Session(work, Budget())
    for losses in ((1.0, 8e12), (1.0, 0.5)):
        trial = one.take()
        assert isinstance(trial, RunningTrial)
        for epoch, loss in enumerate(losses, start=1):
            one.reported(trial, {"epoch": epoch, "val_map": 0.5 / epoch, "loss": loss, "best_epoch": 1})
    first, second = store.rows()
    assert (first.state, second.state) == ("diverged", "complete")
    assert first.error == "loss ended at 8e+12"
    assert first.completed
    assert second.completed
    assert first.val_map_best == 0.5
    text = progress.line(first, [])
    assert "diverged" in text
    assert text.endswith(f"{first.origin}: loss ended at 8e+12")
    assert pieces.HUGE > pieces.GROWN


def test_the_check_costs_no_result() -> None:
    """The trials that follow in the same process are what they are without it."""
    about = dataclasses.replace(asked(Path("studies")), methods=("dcmh",), dataset="data", epochs=2)
    (study,) = request.check(about).studies

    def curve() -> list[float]:
        module = methods.get("dcmh")
        run, config = training.parse(module, {**study.base, **study.run})
        return [epoch.val_map for epoch in training.fit(module, run, config, study.dataset.search()).curve]

    before = curve()
    preflight.try_one_batch(study)
    assert curve() == before
    forget()
