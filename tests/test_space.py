"""Search space files: every message, and that no document gets another answer than a space or a message."""

from __future__ import annotations

import copy
import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmh import methods
from cmh.config import param
from cmh.errors import ConfigError
from cmh.study import space, space_reader
from cmh.study.ranges import outside
from cmh.study.space import Asha, Range, Space


@dataclass(frozen=True)
class Config:
    rate: float = param(0.1, "a rate", above=0, high=10, paper=5.0)
    share: float = param(0.2, "a share", low=0, below=1)
    units: int = param(8, "units", low=0, high=64)
    nested: bool = param(False, "a switch")
    mode: str = param("linear", "a mode", choices=["linear", "log"], paper="log")


GOOD: dict[str, Any] = {
    "method": "made_up",
    "params": {
        "share": {"float": [0, 0.5], "when": {"mode": "log"}},
        "rate": {"float": ["1e-3", 5], "log": True},
        "units": {"int": [1, 64]},
        "mode": {"choice": ["linear", "log"]},
    },
    "start_from": ["paper", "default", {"rate": "1e-1"}],
    "search": {"sampler": "tpe"},
    "schedule": {"asha": {"first_rung": 3, "reduction": 3, "epochs": 30}},
    "objective": "val_map",
    "trials": 10,
}


def read(document: object, fixed: dict[str, Any] | None = None, epochs: int | None = None) -> Space:
    return space_reader.read(document, Config, method="made_up", fixed=fixed or {}, epochs=epochs)


def problems(document: object, **more: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as error:
        read(document, **more)
    return error.value.problems


def changed(path: str, value: object) -> dict[str, Any]:
    document = copy.deepcopy(GOOD)
    *way, last = path.split(".")
    place: Any = document
    for key in way:
        place = place[key]
    place[last] = value
    return document


def test_a_good_file() -> None:
    found = read(GOOD)
    assert [item.name for item in found.ranges] == ["rate", "units", "mode", "share"]  # what hangs on mode, after it
    assert found.ranges[0] == Range("rate", "float", 0.001, 5.0, log=True)
    assert [item.text() for item in found.ranges] == ["[0.001, 5] log", "[1, 64]", "{linear, log}", "[0, 0.5]"]
    assert (found.asha, found.epochs, found.sampler, found.trials) == (Asha(3, 3), 30, "tpe", 10)
    assert [(name, values["rate"]) for name, values in found.starts()] == [
        ("paper", 5.0),
        ("default", 0.1),
        ("point 3", 0.1),
    ]
    share = found.ranges[-1]
    assert share.active({"mode": "log"})
    assert not share.active({"mode": "linear"})
    assert Asha(1, 3).rungs(10) == [1, 3, 9]


def test_what_is_left_out_has_a_default() -> None:
    found = read({"params": {"rate": {"float": [0.01, 9]}}})
    assert (found.asha, found.epochs, found.sampler, found.trials) == (Asha(3, 3), 30, "tpe", 24)
    assert [name for name, _ in found.starts()] == ["paper"]
    assert found.finalists == 0
    assert read({**GOOD, "schedule": {"asha": None}}).asha == Asha(3, 3)
    assert read({**GOOD, "schedule": {"asha": {"reduction": 4, "strict": True}}}).asha == Asha(3, 4, strict=True)
    for schedule in ("none", None, {"none": None}):
        assert read({**GOOD, "schedule": schedule}).asha is None
    assert read({**GOOD, "schedule": {"none": {"epochs": 7}}}).epochs == 7
    assert read(GOOD, epochs=9).epochs == 9


def test_fixed_values_leave_the_search() -> None:
    found = read(GOOD, {"rate": 9.0})
    assert "rate" not in [item.name for item in found.ranges]
    assert [values["rate"] for _, values in found.starts()] == [9.0, 9.0, 9.0]


def test_a_point_outside_an_inactive_range_is_no_problem() -> None:
    document = changed("params.share.float", [0.3, 0.5])
    document["start_from"] = ["default"]  # mode is linear there, so share is not searched
    assert read(document).starts()
    document["start_from"] = ["paper"]
    assert read(document).notes == (
        "the paper's share 0.2: outside of what is searched, so no sampler learns from that trial",
    )


def test_a_papers_point_may_lie_outside_where_the_range_could_hold_it() -> None:
    inside = read(GOOD)
    assert not inside.notes
    assert not any(outside(inside.ranges, point) for _, point in inside.starts())
    document = changed("params.rate.float", [0.01, 1])
    document["start_from"] = ["paper"]
    found = read(document)
    assert found.notes == ("the paper's rate 5: outside of what is searched, so no sampler learns from that trial",)
    assert [item.name for item in outside(found.ranges, found.starts()[0][1])] == ["rate"]
    document["params"]["rate"] = {"float": [6, 8]}
    assert read(document).notes == found.notes
    grid = {"params": {"units": {"int": [1, 7]}}, "search": {"sampler": "grid"}}
    assert problems(grid)[0].startswith("start_from: units = 8 of paper lies outside [1, 7]; widen the range")


BAD: list[tuple[str, object, str]] = [
    ("trails", 3, "'trails' is not known; did you mean 'trials'?"),
    ("zzz", 3, "'zzz' is not known; known: finalists, method, objective"),
    ("method", "dcmh", "method is 'dcmh', but --method asks for 'made_up'"),
    ("objective", "test_map", "objective is 'test_map', but must be 'val_map'"),
    ("params", {}, "params is {}, but must map at least one"),
    ("params", None, "params is None, but must map"),
    ("params", ["rate"], "params is ['rate'], but must map"),
    ("params.rat", {"float": [1, 2]}, "params: 'rat' is not known; did you mean 'rate'?"),
    ("params.rate", 3, "params.rate: is 3, but must be {float: [low, high]}"),
    ("params.rate", {}, "params.rate: is {}, but must be"),
    ("params.rate", {"float": [1, 2], "int": [1, 2]}, "but must be {float: [low, high]}"),
    ("params.rate", {"float": [1, 2], "logs": True}, "params.rate: 'logs' is not known; did you mean 'log'?"),
    ("params.rate.log", "yes", "params.rate: log is 'yes', but must be true or false"),
    ("params.rate.float", 3, "params.rate: float is 3, but must be a list"),
    ("params.rate.float", [], "params.rate: float is [], but must be [low, high]"),
    ("params.rate.float", [1, 2, 3], "but must be [low, high]"),
    ("params.rate.float", [2, 1], "params.rate: float is [2, 1], but low must be < high; for one value use --set"),
    ("params.rate.float", [1, 1], "but low must be < high"),
    ("params.rate.float", [1, 20], "params.rate: rate is 20, but must be a number > 0 and <= 10"),
    ("params.rate.float", [0, 1], "params.rate: rate is 0, but must be a number > 0 and <= 10"),
    ("params.rate.float", ["a", 1], "params.rate: rate is 'a', but must be a number"),
    ("params.rate.float", [float("nan"), 1], "params.rate: rate is nan, but must be"),
    ("params.rate.float", [1, 10**400], "but must be a number > 0 and <= 10"),
    ("params.rate.float", [[1], 2], "params.rate: rate is [1], but must be"),
    ("params.rate", {"int": [1, 2]}, "params.rate: is searched as int, but rate is a number > 0"),
    ("params.units", {"float": [1, 2]}, "params.units: is searched as float, but units is an integer"),
    ("params.mode", {"int": [1, 2]}, "params.mode: is searched as int, but mode is one of linear, log"),
    ("params.nested", {"float": [0, 1]}, "params.nested: is searched as float, but nested is true or false"),
    ("params.units.int", [1.5, 3], "params.units: units is 1.5, but must be an integer"),
    ("params.share.log", True, "params.share: log is true, but low is 0; a log scale needs low > 0"),
    ("params.mode.choice", [], "params.mode: choice is [], but must list at least one value, each once"),
    ("params.mode.choice", ["log", "log"], "each once"),
    ("params.units", {"choice": [8, "8"]}, "each once"),
    ("params.mode.choice", ["cosine"], "params.mode: mode is 'cosine', but must be one of linear, log"),
    ("params.mode.choice", "log", "params.mode: choice is 'log', but must be a list"),
    ("params.mode.log", True, "params.mode: log is true, but a choice has no scale"),
    ("params.share.when", "log", "params.share: when is 'log', but must map a parameter"),
    ("params.share.when", {"mod": "log"}, "params.share: when: 'mod' is not known; did you mean 'mode'?"),
    ("params.share.when", {"mode": "cosine"}, "params.share: mode is 'cosine', but must be one of linear, log"),
    ("params.share.when", {"share": 0.1}, "params: the conditions of share go in a circle"),
    ("params.mode.when", {"share": 0.1}, "params: the conditions of mode, share go in a circle"),
    ("start_from", "paper", "start_from is 'paper', but must be a list"),
    ("start_from", ["papers"], "start_from: 'papers' must be paper, default or a mapping"),
    ("start_from", [["paper"]], "start_from: ['paper'] must be paper, default or a mapping"),
    ("start_from", [None], "start_from: None must be paper"),
    ("start_from", [{"rat": 1}], "start_from, point 1: 'rat' is not known; did you mean 'rate'?"),
    ("start_from", [{"rate": 11}], "start_from, point 1: rate is 11, but must be a number > 0 and <= 10"),
    ("start_from", [{"rate": 6}], "start_from: rate = 6.0 of point 1 lies outside [0.001, 5] log; widen"),
    ("params.mode.choice", ["linear"], "start_from: mode = 'log' of paper lies outside {linear}"),
    ("search", {"sampler": "bayes"}, "search is {'sampler': 'bayes'}, but must be {sampler: priorband | tpe | random"),
    ("search", {"sampler": ["tpe"]}, "search is {'sampler': ['tpe']}, but must be"),
    ("search", {"sampler": "tpe", "seed": 1}, "but must be {sampler: priorband"),
    ("search", "tpe", "search is 'tpe', but must be"),
    ("schedule", "asha", "schedule is 'asha', but must be {asha: {first_rung, reduction, epochs, strict}} or none"),
    ("schedule", {"hyperband": {}}, "schedule is {'hyperband': {}}, but must be"),
    ("schedule", {}, "schedule is {}, but must be"),
    ("schedule.asha", 3, "schedule.asha is 3, but must be a mapping with first_rung, reduction, epochs, strict"),
    ("schedule.asha", False, "schedule.asha is False, but must be a mapping"),
    ("schedule", {"none": []}, "schedule.none is [], but must be a mapping with epochs"),
    ("schedule.asha.firstrung", 3, "schedule.asha: 'firstrung' is not known; did you mean 'first_rung'?"),
    ("schedule.asha.first_rung", 30, "schedule.asha.first_rung is 30, but must be < the 30 epochs of a trial"),
    ("schedule.asha.first_rung", 0, "schedule.asha.first_rung is 0, but must be an integer >= 1"),
    ("schedule.asha.reduction", 1, "schedule.asha.reduction is 1, but must be an integer >= 2"),
    ("schedule.asha.strict", 1, "schedule.asha.strict is 1, but must be true or false"),
    ("schedule.asha.epochs", "many", "schedule.asha.epochs is 'many', but must be an integer >= 1"),
    ("schedule", {"none": {"epochs": 0}}, "schedule.none.epochs is 0, but must be an integer >= 1"),
    ("trials", 0, "trials is 0, but must be an integer >= 1"),
    ("trials", 2.5, "trials is 2.5, but must be an integer >= 1"),
    ("trials", True, "trials is True, but must be"),
    ("trials", None, "trials is None, but must be"),
    ("trials", [3], "trials is [3], but must be"),
    ("trials", float("inf"), "trials is inf, but must be"),
    ("trials", 10**400, "characters), but must be an integer >= 1"),
    ("trials", 10**5000, "trials is a number of thousands of digits, but must be"),
]


@pytest.mark.parametrize(
    ("path", "value", "message"), BAD, ids=[f"{number}-{bad[0]}" for number, bad in enumerate(BAD)]
)
def test_each_problem_has_its_message(path: str, value: object, message: str) -> None:
    found = problems(changed(path, value))
    assert any(message in problem for problem in found), found
    assert len(found) == 1 or path in ("params", "schedule.asha.epochs")


@pytest.mark.parametrize("document", [None, [], "text", 3])
def test_a_document_that_is_no_mapping(document: object) -> None:
    assert "but must be a mapping with method, params" in problems(document)[0]


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_few_epochs_of_the_command_line_leave_the_rungs_out(epochs: int) -> None:
    found = read(GOOD, epochs=epochs)
    assert (found.asha, found.epochs) == (None, epochs)
    assert found.notes == (
        f"--epochs {epochs}: the first rung would be at epoch 3, so there is none, and every trial runs to its end",
    )


def test_more_epochs_of_the_command_line_keep_the_rungs() -> None:
    found = read(changed("schedule.asha.first_rung", 40), epochs=50)  # the file alone contradicts itself
    assert (found.asha, found.notes) == (Asha(40, 3), ())
    assert read(GOOD, epochs=4).asha == Asha(3, 3)


def test_several_problems_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.yml"
    path.write_text(
        "metod: dcmh\nparams:\n  gama: {float: [0, 1]}\n  eta: {float: [1, 0]}\n"
        "search: {sampler: x}\nschedule: {asha: {reduction: 1}}\ntrials: 0\nstart_from: [x]\n"
    )
    with pytest.raises(ConfigError) as error:
        space.load(path, method="dcmh")
    text = str(error.value)
    assert text.startswith(f"{path}:\n  - ")
    for part in ("'metod'", "did you mean 'gamma'", "low must be < high", "sampler", "reduction", "trials", "'x' must"):
        assert part in text
    assert len(error.value.problems) == 7


def test_a_syntax_error_has_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.yml"
    path.write_text("params:\n  gamma: {float: [0, 1]}\n  gamma: {float: [0, 2]}\n")
    with pytest.raises(ConfigError, match=r"bad\.yml:3: .*'gamma' stands twice"):
        space.load(path, method="dcmh")


BUILT_IN = sorted((Path(__file__).parent.parent / "search_spaces").glob("*.yml"))


def test_there_are_built_in_spaces() -> None:
    assert len(BUILT_IN) >= 2
    assert {path.stem for path in BUILT_IN} == set(methods.names()) - {"random"}  # which has nothing to search


@pytest.mark.parametrize("path", BUILT_IN, ids=[path.stem for path in BUILT_IN])
def test_built_in_spaces_load_with_any_epochs(path: Path) -> None:
    for epochs in (1, 2, 5):
        assert space.load(path, method=path.stem, epochs=epochs).epochs == epochs


@pytest.mark.parametrize("path", BUILT_IN, ids=[path.stem for path in BUILT_IN])
def test_built_in_spaces_load(path: Path) -> None:
    found = space.load(path, method=path.stem)
    assert found.ranges
    assert not found.prior
    first = found.ranges[0]
    for fixed in ({}, {first.name: first.choices[0] if first.choices else first.low}):
        whole, read = (
            space.load(path, method=path.stem, fixed=fixed),
            space.outline(path, method=path.stem, fixed=fixed),
        )
        assert read == dataclasses.replace(whole, start_from=(), notes=())  # read without its method


def test_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yml").write_text("")
    assert space.find(str(tmp_path / "mine.yml")) == tmp_path / "mine.yml"
    assert space.find("mine.yml") == Path("mine.yml")
    built_in = {space.find(name) for name in ("dcmh", "dcmh.yml", "./dcmh", "spaces/dcmh.yml", "./spaces/dcmh.yml")}
    assert [path.resolve() for path in built_in] == [path for path in BUILT_IN if path.stem == "dcmh"]
    (tmp_path / "dcmh.yml").write_text("")
    assert space.find("dcmh.yml") == Path("dcmh.yml")  # a file of the user's comes first


ALL = "built in: " + ", ".join(path.stem for path in BUILT_IN)
NOT_FOUND = {
    "nowhere": "no such file; ",
    "no/such/folder/dcmh.yml": r"no such file \(no/such/folder does not exist\); did you mean the built-in dcmh\? ",
    "folder/dcmh.yml": r"no such file; did you mean the built-in dcmh or folder/dcmh2\.yml\? ",
    "folder/min.yml": r"no such file; did you mean folder/mine\.yml\? ",
    "search_spaces/dcmh.yml": r"no such file \(search_spaces does not exist\); did you mean the built-in dcmh\? ",
    "spaces/deep/dcmh.yml": r"no such file \(spaces/deep does not exist\); did you mean the built-in dcmh\? ",
    "spaces/dcm.yml": r"no such file \(spaces does not exist\); did you mean the built-in dcmh\? ",
    "dcm": r"no such file; did you mean the built-in dcmh\? ",
    "folder": "a folder; ",
    "dcmh": r"a folder; did you mean the built-in dcmh\? ",
    ".": "a folder; ",
}


@pytest.mark.parametrize("path", NOT_FOUND)
def test_a_path_that_does_not_exist_is_no_built_in_space(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name in ("mine.yml", "dcmh2.yml"):
        (tmp_path / "folder" / name).write_text("")
    if path == "dcmh":
        (tmp_path / path).mkdir()
    with pytest.raises(ConfigError, match=f"^--space {re.escape(path)}: {NOT_FOUND[path]}{ALL}$"):
        space.find(path)


def chosen(names: list[str], asked: list[str]) -> dict[str, str]:
    return {name: str(file) for name, file in space.of_methods([methods.get(name) for name in names], asked).items()}


def test_each_method_has_one_of_the_spaces_or_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "of dcmh": "method: dcmh",
        "prdh": "trials: 3",
        "broken": "{",
        "deep/ridge": "",
        "deep/dcmh": "method: dcmh",
        "deep/broken": "{",
    }.items():
        path = tmp_path / f"{name}.yml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    own = str(BUILT_IN[0].with_name("ridge.yml"))
    three = ["dcmh", "prdh", "ridge"]
    assert chosen(three, ["prdh.yml", "of dcmh.yml"]) == {"dcmh": "of dcmh.yml", "prdh": "prdh.yml", "ridge": own}
    found = chosen(three, ["deep", "prdh.yml"])
    assert found == {"dcmh": "deep/dcmh.yml", "prdh": "prdh.yml", "ridge": "deep/ridge.yml"}
    assert chosen(["ridge"], []) == chosen(["ridge"], ["ridge"]) == {"ridge": own}
    assert chosen(["ridge"], ["of dcmh.yml"]) == {"ridge": "of dcmh.yml"}  # which its reader refuses
    (tmp_path / "empty").mkdir()
    for asked, messages in {
        ("nowhere", "deep", "of dcmh.yml"): ["--space nowhere: no such file", "are both of dcmh; one method has one"],
        ("broken.yml",): [
            "--space broken.yml: is of broken, but --method asks for dcmh, prdh, ridge; a file names its"
        ],
        ("empty",): ["--space empty: is a folder without a .yml file"],
    }.items():
        with pytest.raises(ConfigError) as error:
            chosen(three, list(asked))
        assert len(error.value.problems) == len(messages)
        for problem, message in zip(error.value.problems, messages, strict=True):
            assert message in problem
    with pytest.raises(ConfigError, match="--space deep: is of broken, dcmh, ridge, but --method asks for prdh"):
        chosen(["prdh"], ["deep"])
    with pytest.raises(ConfigError, match="method random: has no search space of its own; --space FILE names one"):
        chosen(["random"], [])


def test_a_folder_of_that_name_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spaces").mkdir()
    (tmp_path / "spaces" / "dcmh_2.yml").write_text("")
    expected = r"spaces/dcmh\.yml: no such file; did you mean the built-in dcmh or spaces/dcmh_2\.yml\? built in: "
    with pytest.raises(ConfigError, match=expected):
        space.find("spaces/dcmh.yml")


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400), "1e-3", "paper", "default", "none", "tpe", "log", "\0", "\ud800"])
    | st.floats()
    | st.text(max_size=5)
    | st.dates()
    | st.binary(max_size=3)
)
WORDS = st.sampled_from(
    [
        *space_reader.KEYS,
        *Config.__dataclass_fields__,
        *("float", "int", "choice", "when", "asha", "none", "epochs", "strict", "sampler"),
    ]
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | SCALARS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(TREES, st.sampled_from(["", *space_reader.KEYS, "params.rate", "params.rate.float", "params.mode.choice"]))
def test_any_document_gives_a_space_or_a_config_error(tree: object, path: str) -> None:
    document = changed(path, tree) if path else tree
    try:
        found = read(document)
    except ConfigError:
        return
    assert found.ranges
    assert found.trials >= 1
