"""Ablations: what is off, what is refused, and what the table says."""

from __future__ import annotations

import csv
import dataclasses
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cmh import config, methods, tune
from cmh.config import param
from cmh.errors import ConfigError
from cmh.study import ablation, confirm, life, opening, points, population
from cmh.study.opening import opened
from cmh.study.request import Asked
from cmh.study.trial_row import from_stored
from cmh.views import ablation as shown
from cmh.views import changes
from tests.test_address import asked
from tests.test_reproduce import here  # noqa: F401


def of(*texts: str, **changes: Any) -> list[Asked]:
    changes = {"methods": ("dcmh",), **changes}
    return ablation.variants(dataclasses.replace(asked(Path("studies")), **changes), texts)


def test_what_is_taken_out() -> None:
    whole, *others = of("gamma", "gamma,eta", "optimizer", "eta=paper", "batch_size=64", "hidden_image", "gamma = 0")
    assert whole.without == ()
    assert [one.without for one in others] == [
        ("gamma=0",),
        ("gamma=0", "eta=0"),
        ("optimizer=sgd",),  # nothing is off: as in the paper
        ("eta=1.0",),
        ("batch_size=64",),
        ("hidden_image=0",),
    ]


def test_off_is_false_none_or_nought() -> None:
    @dataclasses.dataclass(frozen=True)
    class Config:
        a: bool = param(True, "")
        b: str = param("x", "", choices=["x", "none"])
        c: float = param(1.0, "", low=0)
        d: float = param(1.0, "", above=0, paper=2.0)
        e: float = param(1.0, "", above=0)
        f: str = param("x", "", choices=["x", "y"])

    assert [ablation.off(one) for one in config.params(Config).values()] == [False, "none", 0.0, 2.0, None, None]


@given(st.sampled_from(methods.searched(["all"])), st.data())
def test_what_is_off_is_legal_and_comes_back_from_its_text(name: str, data: st.DataObject) -> None:
    one = data.draw(st.sampled_from(list(config.params(methods.get(name).Config).values())))
    value = ablation.off(one)
    if value is not None:
        pairs = config.from_pairs([f"{one.name}={ablation.text_of(value)}"], [])
        assert one.check(pairs[one.name]) == value


REFUSED = {
    "gama": "no component of the method: 'gama' is not known; did you mean 'gamma'?",
    "epochs": "no component of the method: 'epochs' is not known; known: batch_size, eta",
    "batch_size": "an integer >= 1 and <= 65536 has no value that is off; say one: --ablate batch_size=VALUE",
    "momentum": "changes nothing, as the whole method has momentum = 0, too",
    "eta=1e-6": "changes nothing, as the whole method has eta = 1e-06, too",
    "gamma=-1": "gamma is '-1', but must be a number >= 0",
    "lr_text=0": "lr_text is '0', but must be a number > 0 and <= 10",
    "gamma,gamma=1": "names one component twice",
}


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        of(*REFUSED)
    found = error.value.problems
    for problem, (text, words) in zip(found, REFUSED.items(), strict=True):
        assert problem.startswith(f"--ablate {text}: ")
        assert words in problem


def test_what_set_fixes_and_several_methods_are_refused() -> None:
    with pytest.raises(ConfigError, match="--set fixes gamma for the whole method, too"):
        of("gamma", settings=("gamma=2",))
    with pytest.raises(ConfigError, match="--ablate is for one --method, as each has parts of its own; here are 2"):
        of("gamma", methods=("shallow",))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ablate", "gama", "--dataset", "nope"], ["did you mean 'gamma'", "'nope' is not known"]),
        (
            ["--sweep", "gamma=1:0:1", "--no-confirm"],
            ["LOW must be < HIGH", "N is '1'", "--no-confirm: --sweep leaves"],
        ),
        (["--test"], ["--test is for --ablate and --sweep"]),
    ],
)
def test_the_command_says_it_with_all_other_problems(
    options: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune.main(["--method", "dcmh", "--dataset", "data", *options]) == 2
    error = capsys.readouterr().err
    for word in words:
        assert word in error
    assert not Path("studies").exists()


def test_an_ablation_has_a_study_for_each_component_on_each_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = Namespace(ablate=["gamma", "optimizer"], sweep=None, test=False, no_confirm=False)
    one = dataclasses.replace(asked(Path("studies")), methods=("dcmh",), dataset="data", seeds=2)
    todo = changes.Plan([one], arguments)
    assert todo.problems == []
    request = todo.first(population.check(todo.asked))
    assert [study.folder.name for study in request.studies] == [
        *("dcmh-made-8", "dcmh-made-8-gamma=0", "dcmh-made-8-optimizer=sgd")
    ]
    assert request.seeds == ()  # the test split stays closed
    arguments.test = True
    assert changes.Plan([one], arguments).first(population.check([one])).seeds == (1, 2)
    ended: Any = SimpleNamespace(
        study=request.studies[1], best=SimpleNamespace(number=7, origin="paper", config={"gamma": 0.0})
    )
    again = todo.second([ended])
    assert again is not None
    assert str(again.studies[0].folder) == "studies/dcmh-made-8-gamma=0/seeds/dcmh-made-8-gamma=0-trial-7"
    assert again.studies[0].run["scale"] == "none"  # as the paper's point has it
    assert [name for name, _ in again.studies[0].space.start_from] == ["seed 1", "seed 2"]
    assert again.seeds == ()


# The table


@settings(max_examples=20)
@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=6),
    st.lists(st.floats(0, 1), min_size=2, max_size=6),
)
def test_differences_on_validation_are_welchs(whole: list[float], without: list[float]) -> None:
    found = shown.on_validation(whole, without)
    assert found is not None
    assert found.value == pytest.approx(np.mean(without) - np.mean(whole), abs=1e-12)
    a, b = (np.var(values, ddof=1) / len(values) for values in (whole, without))
    if a + b < 1e-12:
        return
    freedom = (a + b) ** 2 / (a**2 / (len(whole) - 1) + b**2 / (len(without) - 1))
    draws = np.random.default_rng(0).standard_t(freedom, 20_000) * np.sqrt(a + b)
    assert found.half is not None
    assert np.mean(np.abs(draws) <= found.half) == pytest.approx(0.95, abs=0.01)


def test_differences_of_one_seed_and_of_equal_seeds() -> None:
    assert shown.on_validation([0.5], [0.25, 0.5]) == shown.Difference(-0.125, None)
    assert shown.on_validation([0.5, 0.5], [0.25, 0.25]) == shown.Difference(-0.25, 0.0)
    assert shown.on_validation([], [0.25]) is None
    assert shown.Difference(-0.25, 0.125).text() == "-0.2500 ± 0.1250"


def outcome(label: str, values: list[float], folder: Path) -> Any:
    rows = [
        from_stored(at, "COMPLETE", {1: value}, {"origin": f"seed {at}"}, {"gamma": 1.0})
        for at, value in enumerate(values)
    ]
    study = SimpleNamespace(
        space=SimpleNamespace(method="dcmh", epochs=3),
        dataset=SimpleNamespace(name="made"),
        bits=8,
        limit=4,
        label=label,
        folder=folder,
    )
    return SimpleNamespace(study=study, rows=rows, best=rows[0], records=[])


def test_the_table_and_the_file_have_the_whole_method_first(tmp_path: Path) -> None:
    whole, without = outcome("", [0.9], tmp_path), outcome("gamma=0", [0.7], tmp_path / "b")
    seeds = {str(tmp_path): outcome("", [0.8, 0.6], tmp_path), str(tmp_path / "b"): outcome("", [0.5, 0.4], tmp_path)}
    rows = shown.rows([whole, without], seeds)
    text = shown.table(rows)
    lines = text.splitlines()
    assert lines[3].split() == ["whole", "method", "0.9000", "0.7000", "±", "0.1414"]
    assert lines[4].split()[:7] == ["gamma", "=", "0", "0.7000", "0.4500", "±", "0.0707"]
    assert lines[4].split()[7] == "-0.2500"
    assert "the test split stayed closed" in text
    shown.write(rows)
    with (tmp_path / shown.NAME).open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["without"] for row in found] == ["", "gamma=0"]
    assert float(found[1]["val_map_difference"]) == pytest.approx(-0.25)
    assert found[0]["val_map_difference"] == found[1]["test_map"] == ""


def test_differences_on_test_know_of_seeds_and_queries(tmp_path: Path) -> None:
    """Against the same variance, added up by hand: independent seeds, and queries that both rows share."""
    draw = np.random.default_rng(3)
    query = draw.normal(0, 0.2, 400)
    runs = [
        0.5 + shift + query + draw.normal(0, 0.05, (4, 400)) + draw.normal(0, 0.01, (4, 1)) for shift in (0.0, -0.03)
    ]
    rows = [
        shown.Row(outcome(label, [0.5], tmp_path), [0.5], ap, np.arange(400))
        for label, ap in zip(("", "x=0"), runs, strict=True)
    ]
    found = shown.on_test(*rows)
    assert found is not None
    assert found.value == pytest.approx(runs[1].mean() - runs[0].mean())
    both = runs[1].mean(0) - runs[0].mean(0)
    seeds = sum(run.mean(1).var(ddof=1) / 4 for run in runs)
    assert found.half is not None
    assert 1.9 * np.sqrt(seeds + both.var() / 400) < found.half < 4.5 * np.sqrt(seeds + both.var() / 400)
    assert shown.on_test(rows[0], shown.Row(rows[1].outcome, [0.5])) is None
    single = [dataclasses.replace(row, test=row.test[:1]) for row in rows]
    found = shown.on_test(*single)
    assert found is not None
    assert found.half is None
    assert "test     difference" in shown.table(rows)


# Points


def test_points_that_a_folder_has_stay_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "study.yml").write_text(
        "identity: {method: dcmh}\nstorage: sqlite:///study.db\npoints: {'gamma=1.0, seed 1': {gamma: 1.0, seed: 1}}\n"
    )

    request = population.check([dataclasses.replace(asked(tmp_path), dataset="data", methods=("dcmh",))])
    base = dict(request.studies[0].base)
    found = points.study(request.studies[0], tmp_path, base, [{"gamma": 2.0}], [1, 2])
    assert points.is_one(found)
    assert [name for name, _ in found.space.start_from] == [
        "gamma=1.0, seed 1",
        "gamma=2.0, seed 1",
        "gamma=2.0, seed 2",
    ]
    assert [dict(values)["gamma"] for _, values in found.space.start_from] == [1.0, 2.0, 2.0]
    assert found.space.run_of("gamma=2.0, seed 2") == {"seed": 2}
    assert found.limit == 3
    assert found.url == f"sqlite:///{tmp_path}/study.db"
    assert found.identity(base, "gamma=2.0, seed 2").seed == 2


def test_further_points_are_noted_where_the_study_is(tmp_path: Path) -> None:
    request = population.check([dataclasses.replace(asked(tmp_path), dataset="data", methods=("dcmh",))])
    of_it = request.studies[0]
    for seeds in ([1], [2]):
        one = points.study(of_it, tmp_path / "s", dict(of_it.base), [{"gamma": 2.0}], seeds)
        with opening.begun(one):
            store = opened(one, {})
        assert [row.origin for row in store.rows()] == []
    document = yaml.safe_load((tmp_path / "s" / "study.yml").read_text())
    assert document["points"] == {f"gamma=2.0, seed {seed}": {"gamma": 2.0, "seed": seed} for seed in (1, 2)}
    found = [proposal for _ in range(2) if (proposal := store.propose(2))]
    assert [(one.config["gamma"], one.run) for one in found] == [(2.0, {"seed": 1}), (2.0, {"seed": 2})]
    assert all(one.protected for one in found)  # no rung stops them


def test_the_records_of_an_ablation_say_what_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = dataclasses.replace(asked(tmp_path), dataset="data", methods=("dcmh",), without=("gamma=0",), seeds=2)
    request = population.check([one])
    store: Any = SimpleNamespace(seconds=lambda: 1.0, kept=dict)
    screen: Any = SimpleNamespace()
    said: dict[str, Any] = {}
    scores = dict.fromkeys(("map", "map_i2t", "map_t2i"), 0.5)
    made = SimpleNamespace(identity=SimpleNamespace(seed=9), test=scores, audits={})

    def write_record(*_: object, **more: Any) -> Any:
        said.update(more)
        return made

    monkeypatch.setattr(confirm, "write_record", write_record)
    confirmed: Any = None
    life.Life(request.studies[0], store, request, {}, "", screen, lambda _: None).tested(confirmed)
    assert said["label"] == "gamma=0"
