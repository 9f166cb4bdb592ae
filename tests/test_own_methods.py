"""Methods of one's own: written by `cmh.methods new`, taken by path, and run like those of the folder."""

from __future__ import annotations

import csv
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cmh import config, methods, reproduce, tune
from cmh.errors import ConfigError
from cmh.methods.__main__ import main
from cmh.study import space as spaces


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder; methods that were loaded from it are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("cmh.methods."):
            del sys.modules[name]


def test_new_writes_what_already_works(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "my_method"]) == 0
    said = capsys.readouterr().out
    files = ["my_method.py", "my_method.yml", "my_method_clipart.yml", "test_my_method.py"]
    assert all(name in said for name in files)
    assert sorted(path.name for path in here.iterdir()) == sorted(files)
    module = methods.get("my_method.py")
    assert methods.short(module) == "my_method"
    assert methods.get("my_method") is module
    assert methods.spec("my_method") == str(here / "my_method.py")
    assert methods.spec("dcmh") == "dcmh"
    space = spaces.load(here / "my_method.yml", method="my_method")
    assert space.start_from == ()
    experiment = yaml.safe_load((here / "my_method_clipart.yml").read_text())
    assert dataclasses.asdict(config.build(module.Config, experiment["config"])) == config.defaults(module.Config)
    assert main(["my_method.py"]) == 0
    assert "quantisation = 0.01" in capsys.readouterr().out
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "test_my_method.py", "-p", "no:cacheprovider"],
        capture_output=True,
        text=True,
        check=False,
        cwd=here,
    )
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_its_experiment_runs_and_is_recorded(here: Path) -> None:
    assert main(["new", "mine"]) == 0
    assert reproduce.main(["mine_clipart.yml", "--set", "epochs=1", "hidden_image=8", "hidden_text=8"]) == 0
    (record,) = (json.loads(line) for line in next(here.rglob("records.jsonl")).read_text().splitlines())
    assert record["identity"]["method"] == "mine"


def test_nothing_is_overwritten(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "mine.yml").write_text("precious")
    assert main(["new", "mine"]) == 2
    assert "mine.yml: exists already; nothing was written" in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == ["mine.yml"]


@pytest.mark.parametrize("name", ["dcmh", "Mine", "_mine", "my method", "../mine", "new", "3d", "mine.py", "class"])
def test_names_that_no_method_can_have(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", name]) == 2
    assert "must be a lower-case Python name that no method has" in capsys.readouterr().err
    assert not list(here.iterdir())


def test_a_folder_that_cannot_be_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "file").write_text("")
    assert main(["new", "mine", "--out", "file/below"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_names_too_few_and_too_many(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new"]) == 2
    assert main(["dcmh", "ridge"]) == 2
    errors = capsys.readouterr().err
    assert "a name for the method is missing" in errors
    assert "'ridge' is one name too many" in errors


@pytest.mark.parametrize(
    ("name", "said"), [("ucmfh", "both"), ("PromptHash", "both"), ("dpsih", "stores four codes an item")]
)
def test_methods_of_the_field_that_are_refused_say_why(
    name: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever a method is named: in the listing's command, in a search, in a run."""
    said = "marks such codes (`leak`)" if said == "both" else said
    assert main([name]) == 2
    assert tune.main(["--method", name, "--plan"]) == 2
    errors = capsys.readouterr().err
    assert errors.count(f"method {name} is not here. ") == errors.count(said) == 2
    with pytest.raises(ConfigError, match="is not here"):
        methods.get(name)


def test_the_listing_goes_by_kind_and_year(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    heads = [line.split()[0] for line in lines if line[0] != " "]
    assert heads == ["supervised", "unsupervised", "shallow", "not"]
    found: list[str] = []
    for line in lines[:-1]:
        if line[0] != " ":
            kind, years = line.split()[0], [0]
            continue
        name, year = line.split()[:2]
        assert kind == methods.get(name).KIND
        years.append(int(year))
        assert years == sorted(years)
        found.append(name)
    assert sorted(found) == methods.names()
    assert lines[-1].endswith(": dpsih, prompthash, ucmfh")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("none.py", None, "no such file"),
        ("dcmh.py", "", "must be a Python name that no method of cmh has"),
        ("my-own.py", "", "must be a Python name"),
        ("empty.py", "", "has no TITLE, YEAR, KIND, LABELS, SOURCE, Config, Method, trainable"),
        ("broken.py", "import nowhere_to_be_found", "cannot be imported (ModuleNotFoundError"),
        ("syntax.py", "def (", "cannot be imported (SyntaxError"),
    ],
)
def test_files_that_are_no_methods(name: str, text: str | None, said: str, here: Path) -> None:
    if text is not None:
        (here / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        methods.get(name)
    assert said in str(caught.value)
    with pytest.raises(ConfigError):
        methods.get(name)  # nothing half loaded stays


def test_a_file_of_the_same_name_elsewhere_is_loaded_anew(here: Path) -> None:
    assert main(["new", "mine", "--out", "a"]) == main(["new", "mine", "--out", "b"]) == 0
    first = methods.get("a/mine.py")
    assert methods.get("a/mine.py") is first
    second = methods.get("b/mine.py")
    assert second is not first
    assert methods.get("mine") is second


def test_a_file_that_is_asked_for_without_its_ending(here: Path) -> None:
    assert main(["new", "mine"]) == 0
    with pytest.raises(ConfigError, match=r"'mine' is not known; .*; did you mean the file mine\.py\?$"):
        methods.get("mine")


def test_a_field_with_a_run_settings_name_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "mine"]) == 0
    assert methods.get("mine.py").Config
    fields = '    epochs: int = param(50, "of mine")\n    features: str = param("", "of mine")\n    quantisation: float'
    (here / "other.py").write_text((here / "mine.py").read_text().replace("    quantisation: float", fields))
    before = f"method {here / 'other.py'}: the field"
    why = "of Config has a run setting's name, so that a value for one would be given to both: rename it"
    for _ in range(2):  # nothing half loaded stays
        with pytest.raises(ConfigError) as error:
            methods.get("other.py")
        epochs, features = error.value.problems
        assert epochs == f"{before} `epochs` {why}, or take `setup.epochs`"
        assert features == f"{before} `features` {why}"
    capsys.readouterr()
    assert main(["other.py"]) == 2
    assert tune.main(["--method", "ridge", "other.py", "--plan"]) == 2
    assert capsys.readouterr().err.count("`features` of Config") == 2


def plans(*arguments: str) -> int:
    return tune.main([*arguments, "--bits", "8", "--trials", "2", "--plan"])


def test_the_space_beside_the_file_is_found(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "mine", "--out", "own"]) == 0
    space = (here / "own" / "mine.yml").read_text()
    (here / "own" / "mine.yml").write_text(space.replace("sampler: priorband", "sampler: random"))
    capsys.readouterr()
    assert plans("--method", "ridge", "own/mine.py") == 0
    shown = capsys.readouterr().out
    assert "studies/ridge-clipart-8" in shown
    assert "studies/mine-clipart-8" in shown
    assert shown.count("sampler: tpe") == shown.count("sampler: random") == 1
    # One that is asked for comes first; the others keep their own.
    (here / "other.yml").write_text(space.replace("sampler: priorband", "sampler: qmc"))
    assert plans("--method", "ridge", "own/mine.py", "--space", "other.yml") == 0
    assert "sampler: qmc" in capsys.readouterr().out
    assert main(["new", "mine", "--out", "twin"]) == 0
    assert plans("--method", "own/mine.py", "dcm", "twin/mine.py", "./own/mine.py", "--space", "nowhere") == 2
    error = capsys.readouterr().err
    for part in (
        "twin/mine.py: have one name, but studies go by it",
        "did you mean 'dcmh'",
        "--space nowhere: no such",
    ):
        assert error.count(part) == 1
    (here / "own" / "mine.yml").unlink()
    assert plans("--method", "own/mine.py") == 2
    assert "mine.py: mine.yml is not beside it; --space FILE says where its space is" in capsys.readouterr().err


@pytest.mark.ray
def test_a_search_of_a_method_of_ones_own_with_slow_epochs(here: Path) -> None:
    """Workers load the file by its path; a pruned trial is still in its epoch when its worker gets the next one."""
    assert main(["new", "mine"]) == 0
    text = (here / "mine.py").read_text()
    # In Ray's workers only; without Ray there is nothing to wait for.
    pause = "        if 'ray' in __import__('sys').modules:\n            __import__('time').sleep(2.5)\n"
    slow = text.replace("        return self.pair.one_pass", pause + "        return self.pair.one_pass")
    assert slow != text
    (here / "mine.py").write_text(slow)
    space = (
        (here / "mine.yml")
        .read_text()
        .replace("first_rung: 2, reduction: 3, strict: true, epochs: 30", "first_rung: 1, reduction: 2, epochs: 3")
    )
    (here / "mine.yml").write_text(space)
    command = ["--method", "mine.py", "--space", "mine.yml", "--trials", "4", "--bits", "8", "--seeds", "1"]
    command += ["--warm-start", "defaults", "--max-concurrent", "1", "--set", "hidden_image=8", "hidden_text=8"]
    arguments = [sys.executable, "-m", "cmh.tune", *command]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, cwd=here)
    assert done.returncode == 0, done.stderr
    study = here / "studies" / "mine-clipart-8"
    with (study / "trials.csv").open(newline="") as file:
        states = [row["state"] for row in csv.DictReader(file)]
    assert len(states) == 4
    assert set(states) == {"complete", "pruned"}
    (record,) = (json.loads(line) for line in (study / "records.jsonl").read_text().splitlines())
    assert record["identity"]["method"] == "mine"
    assert yaml.safe_load((study / "best.yml").read_text())["method"] == "../../mine.py"
    assert reproduce.main(["studies/mine-clipart-8", "--check"]) == 0
    assert reproduce.main(["studies/mine-clipart-8:0", "--check"]) == 0
