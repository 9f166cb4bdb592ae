"""What a search was worth: the expected best, each rule of the verdict on made-up studies, and `cmh.studies show`."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from cmh import studies
from cmh.study import folder
from cmh.study import space as spaces
from cmh.study.expected import expected_best
from cmh.views import again, show, verdict, worth
from cmh.views.report import trials
from cmh.views.story import Confirmation, Story, Trial
from cmh.views.worth import Worth
from tests.made_study import whole

RANGES: dict[str, BaseDistribution] = {
    "lr_image": FloatDistribution(1e-4, 1e-1, log=True),
    "lr_text": FloatDistribution(1e-4, 1e-1, log=True),
    "dropout": FloatDistribution(0.1, 0.5),
    "batch_size": CategoricalDistribution((64, 128)),
}
CHANCE = 0.16

# The expected best


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=7), st.data())
def test_the_expected_best_is_the_mean_over_all_draws(values: list[float], data: Any) -> None:
    n = data.draw(st.integers(1, len(values)))
    wanted = mean(max(draw) for draw in itertools.combinations(values, n))
    assert expected_best(values, n) == pytest.approx(wanted, abs=1e-12)
    assert expected_best(values, 1) == pytest.approx(mean(values), abs=1e-12)
    assert expected_best(values, len(values)) == max(values)


def test_the_expected_best_is_unbiased_where_draws_with_replacement_are_too_low() -> None:
    """Five uniform numbers: the best of three is 3/4 in the mean."""
    rng, ours, theirs = random.Random(0), [], []
    for _ in range(4000):
        values = sorted(rng.random() for _ in range(5))
        ours.append(expected_best(values, 3))
        theirs.append(sum(v * (((i + 1) / 5) ** 3 - (i / 5) ** 3) for i, v in enumerate(values)))
    assert mean(ours) == pytest.approx(0.75, abs=0.01)
    assert mean(theirs) < 0.72
    assert expected_best([0.5] * 2000 + [1.0], 1000) == pytest.approx(0.5 + 0.5 * 1000 / 2001)


@pytest.mark.parametrize(("values", "n"), [([1.0], 0), ([1.0], 2), ([], 1), ([1.0, math.nan], 1), ([math.inf], 1)])
def test_what_has_no_expected_best(values: list[float], n: int) -> None:
    with pytest.raises(ValueError, match=r"n is|must be finite"):
        expected_best(values, n)


# Made-up studies


def trial(number: int, value: float | None, state: str = "complete", **more: Any) -> Trial:
    rng = random.Random(number)
    settings = {
        "lr_image": 10 ** rng.uniform(-3.5, -1.5),
        "lr_text": 10 ** rng.uniform(-3.5, -1.5),
        "dropout": rng.uniform(0.2, 0.4),
        "batch_size": 64 if number % 2 else 128,
        "eta": 1e-6,
        "weight_decay": rng.uniform(1e-5, 2e-5),
    }
    curve = {} if value is None else {1: {"val_map": value}}
    return Trial(
        number, state, more.pop("origin", "search"), settings | more.pop("settings", {}), curve, 1, value, **more
    )


def study(found: list[Trial], **changes: Any) -> Worth:
    """A finished study of these trials, DCMH in its own space unless said otherwise."""
    done = [one for one in found if one.completed]
    best = max(done, key=lambda one: one.best_val_map or 0, default=None)
    own = spaces.load(spaces.find("dcmh"), method="dcmh")
    values: dict[str, Any] = {
        "folder": Path("studies/dcmh-clipart-32"),
        "name": "dcmh-clipart-32",
        "method": "dcmh",
        "dataset": "clipart",
        "bits": 32,
        "identity": {**folder.described(own), "epochs": 30, "fixed": {}, "start_from": ["paper"]},
        "document": {},
        "trials": found,
        "confirmations": [],
        "controls": {"chance": (CHANCE,) * 3, "ridge (control)": (0.4, 0.5, 0.45)},
        "seconds": 1.0,
        "winner": None if best is None else best.number,
        "kept": {"asked": len(found)},
        "problems": [],
    }
    story = Story(**(values | changes))
    rows = [dataclasses.replace(trials._as_row(one, RANGES)) for one in found]
    compared = [(row, row.val_map_best) for row in rows if row.val_map_best is not None and row.copied_from is None]
    return Worth(story, rows, compared, 1, RANGES, {})


def plain(count: int = 24) -> list[Trial]:
    """A search whose best came early, with no pattern in its settings."""
    return [trial(number, 0.5 + 0.1 * (number == 3) - 0.002 * (number * 7 % 11)) for number in range(count)]


def names(made: Worth) -> list[str]:
    return [one.name for one in verdict.findings(made)]


def only(made: Worth, name: str) -> verdict.Finding:
    (found,) = (one for one in verdict.findings(made) if one.name == name)
    return found


AGAIN = "python -m cmh.tune --method dcmh --bits 32 --trials"


def test_a_search_without_any_pattern_has_settled() -> None:
    (found,) = verdict.findings(study(plain()))
    assert found.name == "settled"
    assert "(0.5800, trial 3)" in found.text
    assert found.step == "python -m cmh.leaderboard studies/dcmh-clipart-32"


def test_no_verdict_before_the_end_and_none_on_few_trials() -> None:
    made = study([trial(number, 0.3 + 0.01 * number) for number in range(24)], kept={"asked": 30})
    assert names(made) == ["unfinished"]
    assert "24 of 30 trials have ended" in only(made, "unfinished").text
    assert only(made, "unfinished").step == f"{AGAIN} 30"
    assert names(study([*plain(), trial(24, 0.9, "interrupted")])) == ["unfinished"]
    few = study([trial(number, 0.3 + 0.01 * number) for number in range(19)])
    assert names(few) == ["too few"]
    assert only(few, "too few").step == f"{AGAIN} 20"
    # Copies and trials that were trained anew say nothing.
    copies = [trial(number, 0.6, copied_from=3) for number in range(19, 40)]
    assert names(study([*plain(19), *copies])) == ["too few"]
    assert names(study([])) == ["too few"]


def test_still_improving() -> None:
    made = study([trial(number, 0.5 + (0.02 if number == 20 else 0)) for number in range(24)])
    found = only(made, "still improving")
    assert "the last 8 of 24 trials raised the best from 0.5000 to 0.5200; give it 24 more" in found.text
    assert found.step == f"{AGAIN} 48"
    assert names(study([trial(number, 0.5 + (0.004 if number == 20 else 0)) for number in range(24)])) == ["settled"]
    assert names(study([trial(number, 0.5 + (0.02 if number == 15 else 0)) for number in range(24)])) == ["settled"]


def at(name: str, values: list[float], start: float = 0.6) -> list[Trial]:
    """The best trials have these values of a hyperparameter, the others do not."""
    best = [trial(number, start - 0.001 * number, settings={name: value}) for number, value in enumerate(values)]
    return [*best, *(trial(number, 0.4) for number in range(len(values), 24))]


def test_a_range_whose_end_the_best_lie_at() -> None:
    found = only(study(at("lr_image", [1.1e-4, 1.5e-4, 1.2e-4, 1.3e-4])), "edge")
    assert "lr_image is at the lower end of its range: the winner and 4 of the best 6 trials" in found.text
    assert found.step == "search lr_image in {float: [1e-05, 0.1], log: true}, as another study (--out)"
    upper = only(study(at("lr_image", [0.09, 0.08, 0.085, 0.095, 0.07])), "edge")
    assert upper.step.startswith("search lr_image in {float: [0.0001, 1], log: true}")
    assert only(study(at("dropout", [0.49, 0.48, 0.47, 0.5])), "edge").step.startswith(
        "search dropout in {float: [0.1, 0.7]}"
    )
    assert names(study(at("lr_image", [1.1e-4, 1.5e-4, 1.2e-4]))) == ["settled"]  # three of six
    assert names(study(at("lr_image", [5e-3, 1.5e-4, 1.2e-4, 1.1e-4, 1.3e-4]))) == ["settled"]  # not the winner
    with pytest.MonkeyPatch.context() as patch:  # where the legal values end, nothing can be widened
        patch.setitem(RANGES, "weight_decay", FloatDistribution(0, 3e-5))
        assert names(study(at("weight_decay", [0.0, 1e-7, 0.0, 1e-6]))) == ["settled"]
        assert names(study(at("weight_decay", [3e-5, 2.9e-5, 3e-5, 3e-5]))) == ["edge"]
        patch.setitem(RANGES, "hidden_image", IntDistribution(100, 1000))
        wide = [dataclasses.replace(one, settings={"hidden_image": 500, **one.settings}) for one in plain()]
        wide[:6] = at("hidden_image", [990, 1000, 980, 970, 960, 950])[:6]
        assert "search hidden_image in {int: [100, 1450]}" in only(study(wide), "edge").step
    # A limit that is not legal itself is not reached.
    item = verdict.configs.params(verdict.methods.get("dcmh").Config)["lr_image"]
    assert verdict._wider(FloatDistribution(0.1, 1.0), "lower", item) == "{float: [0.05, 1]}"


def test_the_false_alarms_at_the_ends_of_ranges_are_rare() -> None:
    """Trials whose values hang on nothing."""
    rng, alarms, told = random.Random(1), 0, 100
    for _ in range(told):
        found = []
        for number in range(24):
            drawn = {name: 10 ** rng.uniform(-4, -1) for name in ("lr_image", "lr_text")}
            found.append(trial(number, rng.uniform(0.3, 0.5), settings={**drawn, "dropout": rng.uniform(0.1, 0.5)}))
        alarms += bool(list(verdict.edges(study(found))))
    assert alarms <= 0.03 * told  # six ends; about 1 in 200 is expected


def test_the_papers_point_collapses() -> None:
    paper = trial(0, 0.18, origin="paper", settings={"eta": 1.0, "lr_image": 0.03, "optimizer": "sgd"})
    rest = [dataclasses.replace(one, settings={**one.settings, "optimizer": "adam"}) for one in plain()[1:]]
    found = only(study([paper, *rest]), "paper collapses")
    assert "collapses (0.1800, chance 0.1600)" in found.text
    assert "eta = 1 (1e-06), optimizer = sgd (adam), " in found.text
    assert found.step == "python -m cmh.reproduce studies/dcmh-clipart-32 --set eta=1.0"
    assert names(study([dataclasses.replace(paper, best_val_map=0.4), *rest])) == ["settled"]
    assert names(study([dataclasses.replace(paper, state="failed", failure="nan"), *rest])) == ["settled"]


def test_controls_that_a_search_does_not_beat() -> None:
    made = study(plain(), controls={"chance": (CHANCE,) * 3, "ridge (control)": (0.6, 0.6, 0.6)})
    assert "the winner (0.5800) is not above ridge (control), 0.6000" in only(made, "below the control").text
    unsupervised = {"ridge (control)": (0.9,) * 3, "cca_itq (control)": (0.3,) * 3}
    assert names(study(plain(), controls=unsupervised)) == ["settled"]
    kept = {"asked": 24, "aside": {"default": dataclasses.asdict(worth_of_default(0.62))}}
    controls = {"library default": (0.6, 0.64, 0.62)}
    found = only(study(plain(), kept=kept, controls=controls), "below the default")
    assert "found 0.5800, less than the library's default has, 0.6200" in found.text
    assert names(study(plain(), kept=kept, controls={"library default": (0.6, 0.6, 0.584)})) == ["settled"]
    assert names(study(plain(), controls=controls)) == ["settled"]  # one that the search started from


def worth_of_default(value: float) -> Any:
    from cmh.study.aside import Aside

    return Aside("default", None, 0, value, value, value, 1, 1, 1.0, 1.0, 1.0, "cpu", "")


def test_winners_that_one_seed_cannot_tell_apart() -> None:
    fresh = [Confirmation(f"3-{seed}", seed, {}, {}, 1, {"map": 0.58 + 0.06 * seed}) for seed in (1, 2)]
    found = only(study(plain(), confirmations=fresh), "noise")
    near = [one.number for one in plain() if one.number != 3 and (one.best_val_map or 0) > 0.58 - 2 * 0.0424264]
    assert found.text.startswith(f"{len(near)} other trials ({near[0]}, ")
    assert found.text.endswith("a seed changes 0.0424 (standard deviation of 2)")
    assert found.step == f"{AGAIN} 30 --finalists 4"
    assert names(study(plain(), confirmations=fresh[:1])) == ["settled"]
    assert names(study(plain(), confirmations=fresh, kept={"asked": 24, "finalists": 4})) == ["settled"]


def test_failures_and_where_they_lie() -> None:
    bad = [trial(number, None, "failed", failure="nan", settings={"lr_text": 0.08}) for number in range(24, 30)]
    found = only(study([*plain(), *bad]), "failures")
    assert "6 of 30 trials came to nothing (nan 6): all of them have lr_text in the high third" in found.text
    scattered = [trial(number, None, "failed", failure="oom") for number in range(24, 30)]
    spread = [
        dataclasses.replace(
            one,
            settings={
                **one.settings,
                "lr_text": [1e-4, 0.09][one.number % 2],
                "lr_image": [1e-4, 0.09][one.number % 2],
                "dropout": [0.1, 0.5][one.number % 2],
            },
        )
        for one in scattered
    ]
    assert only(study([*plain(), *spread]), "failures").step == "see studies/dcmh-clipart-32/trials.csv"
    assert names(study([*plain(), *bad[:2]])) == ["settled"]


def test_a_search_that_learned_nothing() -> None:
    made = study([trial(number, CHANCE + 0.001) for number in range(24)])
    assert names(made) == ["nothing learned"]
    assert only(made, "nothing learned").step == "python -m cmh.datasets check clipart"
    (line,) = worth.silent(made)
    assert line.startswith("24 of 24 were trained to the end and stayed near chance: trials 0, 1, 2")
    assert line.endswith(" and 16 more")


# Tables


def test_the_parts_of_a_range_and_the_expected_best_in_words() -> None:
    made = study(
        [
            trial(0, 0.3, settings={"lr_image": 1e-4}),
            trial(1, 0.5, settings={"lr_image": 0.1}),
            trial(2, None, "failed", failure="nan"),
        ]
    )
    found = worth.slices_table(made)
    assert found is not None
    assert [row[1:5] for row in found.rows[:3]] == [
        ["low third", "0.300", "0.300", "1"],
        ["middle third", "", "", "0"],
        ["high third", "0.500", "0.500", "1"],
    ]
    assert [row[5] for row in found.rows[:3]] == ["", "", "0.1"]
    assert found.rows[0][0].startswith("lr_image [0.0001, 0.01] log")
    assert [row[1:5] for row in found.rows[-2:]] == [["64", "0.500", "0.500", "1"], ["128", "0.300", "0.300", "1"]]
    table = worth.expected_table(made)
    assert table is not None
    assert table.rows == [["1", f"{mean([0.3, 0.5, 0.3]):.4f}"], ["2", f"{mean([0.5, 0.3, 0.5]):.4f}"], ["3", "0.5000"]]
    assert worth.expected_table(study([trial(0, 0.3)])) is None
    assert worth.importance_table(made) is None
    weighed = dataclasses.replace(made, importance={"lr_image": 0.75, "dropout": 0.25})
    shown = worth.importance_table(weighed)
    assert shown is not None
    assert shown.rows == [["lr_image", "75%"], ["dropout", "25%"]]
    assert "PED-ANOVA" in shown.caption
    assert worth.silent(made) == ["1 of 3 failed (nan): trial 2"]
    assert worth.position(IntDistribution(1, 1), 1) == 0.5


def test_the_command_that_goes_on() -> None:
    made = study(plain())
    story = made.story
    assert again.command(story, 30) == f"{AGAIN} 30"
    other = dataclasses.replace(
        story,
        identity={
            **story.identity,
            "params": {"lr_image": "[0, 1]"},
            "fixed": {"eta": 0.5},
            "seed": 4,
            "features": "x",
        },
        folder=Path("/elsewhere/my studies/a"),
        dataset="holiday",
    )
    assert again.command(other, 9) == (
        "python -m cmh.tune --method dcmh --space SPACE --dataset holiday --features x --bits 32 --epochs 30 --seed 4"
        " --set eta=0.5 --out '/elsewhere/my studies' --trials 9"
    )
    own = dataclasses.replace(story, method="mine", document={"method_file": "../../mine.py", "from": "../../other"})
    assert "--method mine.py --space SPACE" in again.command(own, 9).replace(str(Path.cwd()) + "/", "")
    assert "--from " in again.command(own, 9)
    assert (
        again.command(dataclasses.replace(story, kept={"finalists": 4}), 30)
        == f"{AGAIN[:-9]} --finalists 4 --trials 30"
    )


def test_show_of_a_study_on_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole(tmp_path / "made")
    assert studies.main(["show", str(tmp_path / "made")]) == 0
    shown = capsys.readouterr().out
    for words in (
        "best: trial 4, validation MAP 0.7000",
        "verdict",
        "- 5 of 6 trials have ended",
        "slices",
        "told nothing",
    ):
        assert words in shown
    assert "expected best" in shown
    assert "1 of 6 failed (nan): trial 2" in shown
    assert all(len(line) <= show.WIDTH or "→" in line for line in shown.splitlines())
    (tmp_path / "made" / "study.db").unlink()
    assert studies.main(["show", str(tmp_path / "made")]) == 0
    assert "could not be read: " in capsys.readouterr().err
    assert studies.main(["show", str(tmp_path)]) == 2
    assert "is not a study folder" in capsys.readouterr().err
