"""A run's identity: what differs is named, and the code's hash follows formulas and nothing else."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cmh import methods, training
from cmh.identity import BEFORE, BEFORE_FINETUNE, FOLDER, MACHINE, OPENING, ROW, STUDY, Identity, code_hash
from cmh.study import target
from tests.test_training import tiny

ROOT = Path(__file__).parent.parent


def identity(**changes: Any) -> Identity:
    values: dict[str, Any] = {
        "method": "dcmh",
        "code": "c" * 16,
        "dataset": "clipart",
        "dataset_sha256": "d" * 64,
        "split_sha256": "5" * 64,
        "arrays_sha256": "a" * 64,
        "features": "efficientnet-lite0",
        "bits": 32,
        "epochs": 30,
        "seed": 0,
        "config": {"lr": 0.1, "hidden": 64},
        "settings": {"erase": 0.0, "finetune": False},
        "threads": 1,
        "device": "cpu, AVX2",
        "torch": "2.14.1",
    }
    return Identity(**(values | changes))


OTHER = {
    "seed": 1,
    "bits": 16,
    "epochs": 2,
    "threads": 2,
    "config": {"lr": 0.2, "hidden": 64},
    "settings": {"erase": 0.5, "finetune": False},
}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Identity)])
def test_every_field_changes_the_digest_unless_it_is_left_out(field: str) -> None:
    one, two = identity(), identity(**{field: OTHER.get(field, "other")})
    assert one.digest() != two.digest()
    assert one.digest(field) == two.digest(field)
    assert len(one.differences(two)) == 1
    assert one.differences(two, field) == []


def test_differences_name_the_key_and_both_values() -> None:
    lines = identity().differences(identity(config={"lr": 0.1, "hidden": 32}, dataset_sha256="e" * 64, seed=3))
    assert lines == [
        "dataset_sha256: dddddddddddd there, eeeeeeeeeeee here",
        "seed: 0 there, 3 here",
        "hidden: 64 there, 32 here",
    ]


def test_the_digest_does_not_hang_on_the_order_of_keys() -> None:
    turned = identity(config={"hidden": 64, "lr": 0.1})
    assert turned.digest() == identity().digest()
    assert Identity(**json.loads(json.dumps(dataclasses.asdict(turned)))) == turned


def test_what_each_use_leaves_out_are_fields() -> None:
    fields = {field.name for field in dataclasses.fields(Identity)}
    for left_out in (ROW, FOLDER, OPENING, STUDY, MACHINE):
        assert set(left_out) <= fields


def test_every_run_setting_is_in_the_identity_or_has_a_reason() -> None:
    """A new setting of Run changes identities unless somebody says why it does not."""
    module = methods.get("dcmh")
    fields = {field.name for field in dataclasses.fields(training.Run)}
    assert set(training.NOT_SETTINGS) <= fields
    base = {"threads": 1}
    for name in fields - set(training.NOT_SETTINGS) - {"finetune"}:
        before = getattr(training.Run(), name)
        value = {bool: not before, int: 7, float: 0.5, str: "bertadam" if "optimizer" in name else "unit"}[type(before)]
        same = [_of(module, {**base, name: value}), _of(module, base)]
        assert (same[0] == same[1]) == (name in training.ONLY_FINETUNE), name
        along = {**base, "finetune": True, "features": "clip-tiny"}
        along |= {"optimizer_backbone": "bertadam"} if name in ("warmup_backbone", "decay_backbone") else {}
        tuned = [_of(module, {**along, **more}) for more in ({name: value}, {})]
        assert tuned[0] != tuned[1], name


def test_settings_without_effect_on_what_is_trained_along_are_in_no_identity() -> None:
    module = methods.get("dcmh")
    for features, name, there in (
        ("conv4", "context_length", 0),
        ("clip-tiny", "context_length", 9),
        ("clip-tiny", "warmup_backbone", None),
        ("clip-tiny", "decay_backbone", None),
    ):
        value = 9 if name == "context_length" else 0.5
        made = _of(module, {"threads": 1, "finetune": True, "features": features, name: value})
        assert made.settings.get(name) == there
    assert _of(module, {"threads": 1, "context_length": 9}).settings.keys() >= BEFORE.keys()
    older = {**BEFORE, "finetune": True}
    assert identity(settings=older).settings == {**BEFORE_FINETUNE, **older}
    assert identity(settings=BEFORE).settings == BEFORE


def _of(module: Any, values: dict[str, Any]) -> Identity:
    return training.identify(module, *training.parse(module, values), tiny())


def test_a_closed_form_has_the_epochs_that_it_trains() -> None:
    assert _of(methods.get("ridge"), {"epochs": 30}).epochs == 1
    assert _of(methods.get("dcmh"), {"epochs": 30}).epochs == 30


@pytest.fixture(scope="module")
def hashes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What `code_hash` gives in a copy of the package with some text of a file replaced."""
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "cmh", copy / "cmh", ignore=shutil.ignore_patterns("__pycache__", "*.zip"))
    program = (
        "import json, sys\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[1])\n"
        "from cmh.identity import code_hash\n"
        "root = Path(sys.argv[1]) / 'cmh' / 'methods'\n"
        "names = 'dcmh', 'cpah', 'dadh', 'ridge', 'random', 'jdsh'\n"
        "print(json.dumps({name: code_hash(root / f'{name}.py') for name in names}))"
    )

    def of(file: str = "", old: str = "", new: str = "") -> dict[str, str]:
        path = copy / "cmh" / file
        before = path.read_text() if file else ""
        if file:
            assert before.count(old) >= 1, f"{file} has no {old!r}"
            path.write_text(before.replace(old, new, 1))
        try:
            done = subprocess.run(
                [sys.executable, "-c", program, str(copy)], capture_output=True, text=True, check=True, cwd=copy
            )
        finally:
            if file:
                path.write_text(before)
        result: dict[str, str] = json.loads(done.stdout)
        return result

    return of


NOTHING = {
    "a comment of a loss file": ("losses.py", "\n    return", "\n    # why it is so\n    return"),
    "a docstring of a loss file": ("losses.py", '"""', '"""In other words. '),
    "empty lines": ("losses.py", "\n\n\ndef", "\n\n\n\ndef"),
    "a comment of the method": ("methods/dcmh.py", "class Method:", "class Method:  # the method"),
    "a message of a reader": ("datasets/coco.py", "DatasetError(", "DatasetError('other', "),
    "how records are written": ("records.py", "SCHEMA = 2", "SCHEMA = 3"),
    "where a checkpoint lies": ("training/checkpoint.py", 'NAME = "checkpoint.pt"', 'NAME = "state.pt"'),
    "what a checkpoint must hold": ("training/checkpoint.py", "    if not complete:", "    if complete is None:"),
    "how a curve is written": ("training/run_folder.py", "first: bool) -> None:", "first: bool = False) -> None:"),
    "how a run is named": ("training/identify.py", "def _code(", "def _hash("),
    "what a trial dies of": ("training/trainable.py", 'return "oom", line', 'return "memory", line'),
    "how a device is called": ("training/device.py", "thread{'s'", "core{'s'"),
    "which names a package gives": ("training/__init__.py", '    "threads",\n', ""),
    "a plot": ("study/figures.py", "FEWEST = 20", "FEWEST = 30"),
    "how a model is used": ("use/encoder.py", "ROWS = ", "ROWS = 1 + "),
    "what is imported for types": (
        "__init__.py",
        "    from cmh.use import Encoder, load",
        "    from cmh.use import Encoder",
    ),
    "another metric": ("metrics/legacy.py", "import ", "import math\nimport "),
}


@pytest.mark.parametrize("change", NOTHING)
def test_comments_docstrings_and_other_rooms_change_no_hash(hashes: Any, change: str) -> None:
    assert hashes(*NOTHING[change]) == hashes()


CHANGED: dict[str, tuple[str, str, str, Any]] = {
    "the method's own file": ("methods/dcmh.py", "similar, 0.5)", "similar, 0.6)", {"dcmh"}),
    "a default": ("methods/dcmh.py", "param(128,", "param(64,", {"dcmh"}),
    "a loss": ("losses.py", "sub_(similar * theta)", "add_(similar * theta)", "pairwise_nll"),
    "a critic": ("nets/critics.py", "of_real, of_fake = -softplus", "of_real, of_fake = softplus", "train_critic"),
    "the sign": ("losses.py", "values >= 0", "values > 0", "all"),
    "the order of items": ("training/batches.py", "order = torch.randperm(", "order = 1 - torch.randperm(", "all"),
    "the stream of an augmentation": ("training/batches.py", '"augment", what', 'what, "augment"', "all"),
    "the probability of a turn": ("nets/augment.py", "generator=draw) < prob", "generator=draw) <= prob", "all"),
    "the weights' seed": ("training/fitting.py", '"weights"', '"start"', "all"),
    "the choice of an epoch": ("training/fitting.py", "not val_map > last.", "not val_map >= last.", "all"),
    "what is kept of the best epoch": ("training/device.py", ".to(device, copy=copy)", ".to(device)", "all"),
    "what is set before a run": ("training/device.py", "benchmark = False", "benchmark = True", "all"),
    "how an epoch is validated": ("training/evaluation.py", "i2t, t2i = (", "t2i, i2t = (", "all"),
    "how codes are tested": ("training/evaluation.py", "min(2, ", "min(3, ", "all"),
    "a run's default": ("training/run.py", "erase: float = param(0.0", "erase: float = param(0.1", "all"),
    "what a closed form trains": ("training/run.py", "int(min(run.epochs", "int(max(run.epochs", "all"),
    "the metric": ("metrics/_planes.py", "ones] -= padding", "ones] += padding", "all"),
}


@pytest.mark.parametrize("change", CHANGED)
def test_a_changed_formula_changes_what_stands_on_it_and_nothing_else(hashes: Any, change: str) -> None:
    file, old, new, who = CHANGED[change]
    before, after = hashes(), hashes(file, old, new)
    changed = {name for name in before if before[name] != after[name]}
    if isinstance(who, str) and who != "all":  # the methods that name this function, and no other
        who = {name for name in before if who in (ROOT / "cmh" / "methods" / f"{name}.py").read_text()}
        assert who
        assert who != set(before)
    assert changed == (set(before) if who == "all" else who)


def test_a_module_beside_a_method_of_ones_own_counts(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from helper import twice\nimport json\n\n\ndef f(x):\n    return twice(x)\n")
    (tmp_path / "helper.py").write_text("def twice(x):\n    return 2 * x\n\n\ndef unused():\n    return 0\n")
    before = code_hash(tmp_path / "mine.py")
    helper = (tmp_path / "helper.py").read_text()
    (tmp_path / "helper.py").write_text(helper.replace("return 0", "return 1  # nobody calls it"))
    assert code_hash(tmp_path / "mine.py") == before
    (tmp_path / "helper.py").write_text(helper.replace("2 * x", "3 * x"))
    assert code_hash(tmp_path / "mine.py") != before


def test_of_a_module_only_what_is_named_counts(tmp_path: Path) -> None:
    text = "import helper\nfrom package import inner\n\n\ndef f(x):\n    return helper.twice(inner.one.half(x))\n"
    (tmp_path / "mine.py").write_text(text)
    (tmp_path / "helper.py").write_text("def twice(x):\n    return 2 * x\n\n\ndef unused():\n    return 0\n")
    (tmp_path / "package" / "inner").mkdir(parents=True)
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "inner" / "__init__.py").write_text("OTHER = 1\n")
    (tmp_path / "package" / "inner" / "one.py").write_text("def half(x):\n    return x / 2\n")

    def after(file: str, old: str, new: str) -> bool:
        path, before = tmp_path / file, code_hash(tmp_path / "mine.py")
        there = path.read_text()
        assert old in there
        path.write_text(there.replace(old, new))
        changed = code_hash(tmp_path / "mine.py") != before
        path.write_text(there)
        return changed

    assert after("helper.py", "2 * x", "3 * x")
    assert not after("helper.py", "return 0", "return 111")
    assert after("package/inner/one.py", "x / 2", "x / 3.5")
    assert not after("package/inner/__init__.py", "OTHER = 1", "OTHER = 222")
    # What a module makes when it runs could be anything in it.
    assert after("helper.py", "def twice(x):\n    return 2 * x", "globals()['twice'] = lambda x: 2.5 * x")
    (tmp_path / "helper.py").write_text("globals()['twice'] = float\n\n\ndef unused():\n    return 0\n")
    assert after("helper.py", "return 0", "return 111")


def test_the_hash_does_not_hang_on_where_the_files_lie(hashes: Any) -> None:
    assert hashes()["dcmh"] == code_hash(ROOT / "cmh" / "methods" / "dcmh.py")


def test_a_run_setting_that_came_later_stood_at_what_it_was_before(tmp_path: Path) -> None:
    """Of what was written then: records, and the files of runs. Today's default may be another."""
    older = _of(methods.get("dcmh"), {"threads": 1, "scale": "none"})
    written = dataclasses.asdict(older)
    written["settings"] = {key: written["settings"][key] for key in written["settings"].keys() - set(BEFORE)}
    assert Identity(**written) == older
    assert Identity(**written).digest() == older.digest()
    document = "method: ridge\ndataset: clipart\nconfig: {}\n"
    (tmp_path / "run.yml").write_text(document)
    (tmp_path / "mine.yml").write_text(document)
    assert target.of_file(tmp_path / "run.yml").run["scale"] == "none"
    assert target.of_file(tmp_path / "mine.yml").run["scale"] == training.Run().scale
