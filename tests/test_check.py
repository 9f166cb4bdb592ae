"""What `--check` calls the same: equal to the last digit on the same machine, within a stated tolerance on another."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmh.records import PerQuery
from cmh.study import check
from cmh.study.target import Recorded
from tests.test_identity import OTHER, identity

VERSIONS = {"numpy": "2.0", "numba": "0.60", "processor": "one", "pillow": "11"}


def known(
    value: float = 0.5, *, versions: dict[str, str] | None = None, ap: Any = (0.25, 0.75), **made: Any
) -> Recorded:
    """A whole run whose numbers are all `value`; `made` changes its identity."""
    maps = {"map": value, "map_i2t": value, "map_t2i": value}
    one = np.asarray(ap, dtype=float)
    return Recorded(
        identity(**made), VERSIONS | (versions or {}), maps, 3, maps, PerQuery(one, one, np.arange(one.size))
    )


def verdict(there: Recorded, here: Recorded, *more: Recorded) -> tuple[bool, str]:
    """Of one seed; `more` are recorded seeds that are not run again."""
    recorded = {1: there} | dict(enumerate(more, start=2))
    found = check.compare(recorded, {1: here})
    return found.agrees, "\n".join(found.lines)


def test_the_same_run_agrees_in_every_number() -> None:
    agrees, text = verdict(known(), known())
    assert agrees
    for name in ("validation map_i2t", "chosen epoch", "test map ", "AP of any query, t2i"):
        assert name in text
    assert text.count("\n") == 9  # 3 + 1 + 3 + 2 lines below the first, and nothing else
    assert text.startswith("seed 1: compared without tolerance: ")


MACHINES: dict[str, dict[str, Any]] = {
    "threads": {"threads": 2},
    "device": {"device": "cuda"},
    "torch": {"torch": "3.0"},
    "arrays_sha256": {"arrays_sha256": "b" * 64},
    "numpy": {"versions": {"numpy": "3.0"}},
    "numba": {"versions": {"numba": "1.0"}},
    "processor": {"versions": {"processor": "another"}},
}


@pytest.mark.parametrize("what", MACHINES)
def test_another_machine_has_a_tolerance_that_is_stated_with_its_reason(what: str) -> None:
    agrees, text = verdict(known(), known(0.5 + check.ALONE - 1e-9, **MACHINES[what]))
    assert agrees
    assert f"compared within a tolerance of {check.ALONE:.4f}" in text
    assert f"{what}: " in text
    assert "one seed tells no spread" in text
    agrees, text = verdict(known(), known(0.5 + check.ALONE + 1e-6, **MACHINES[what]))
    assert not agrees
    assert text.count("OUTSIDE") == 6


def test_the_tolerance_is_the_spread_over_recorded_seeds() -> None:
    other = known(0.5 + 0.025, threads=2)
    assert verdict(known(0.5), other, known(0.49), known(0.51))[0]  # three times 0.01
    agrees, text = verdict(known(0.5), other, known(0.5), known(0.5))
    assert not agrees
    assert f"compared within a tolerance of {check.LOWEST:.4f}" in text
    assert "3 times what its MAPs deviate at most over 3 recorded seeds, at least 0.005" in text


def test_the_tolerance_is_that_of_the_map_that_deviates_most() -> None:
    """Of three numbers one may be close together by chance."""
    wide = [
        dataclasses.replace(known(0.5), test={"map": 0.5, "map_i2t": 0.5, "map_t2i": value})
        for value in (0.5, 0.52, 0.54)
    ]
    assert check.tolerance(dict(enumerate(wide, start=1))) == pytest.approx(3 * 0.02)


def test_epoch_and_queries_bind_on_the_same_machine_only() -> None:
    for changed in (
        dataclasses.replace(known(), chosen_epoch=4),
        known(ap=(0.75, 0.25)),  # of the same mean
        known(ap=(0.25, 0.5, 0.75)),  # other queries
    ):
        agrees, text = verdict(known(), changed)
        assert not agrees
        assert "OUTSIDE" in text
    elsewhere = dataclasses.replace(known(ap=(0.75, 0.25), threads=2), chosen_epoch=4)
    agrees, text = verdict(known(), elsewhere)
    assert agrees
    assert "recorded 3, now 4" in text
    assert not verdict(known(), known(ap=(0.5,), threads=2))[0]  # the queries themselves are others


def test_a_number_that_differs_by_its_last_digit() -> None:
    agrees, text = verdict(known(0.5), known(math.nextafter(0.5, 1)))
    assert not agrees
    assert text.count("OUTSIDE") == 6


@pytest.mark.parametrize("where", ["validation", "test", "ap"])
@pytest.mark.parametrize("machine", [{}, {"threads": 2}])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_does_not_agree(where: str, machine: dict[str, Any], bad: float) -> None:
    def broken(one: Recorded) -> Recorded:
        if where == "ap":
            return dataclasses.replace(one, ap=known(ap=(0.25, math.nan)).ap)
        return dataclasses.replace(one, **{where: {**getattr(one, where), "map": bad}})

    for there, here in ((known(), broken(known(**machine))), (broken(known()), known(**machine))):
        assert not verdict(there, here)[0]
        assert not verdict(there, here, known(0.4))[0]
    assert not verdict(broken(known()), broken(known(**machine)))[0]


def test_nothing_compared_does_not_agree() -> None:
    found = check.compare({11: known(), 12: known()}, {1: known()})
    assert not found.agrees
    assert found.lines == ("nothing was compared: recorded are seeds 11, 12, run 1",)
    assert not check.compare({}, {}).agrees
    agrees, text = verdict(Recorded(identity()), Recorded(identity()))
    assert not agrees
    assert text.endswith("\nseed 1: nothing was compared")
    only_epoch = Recorded(identity(), {}, chosen_epoch=3)
    assert not verdict(only_epoch, dataclasses.replace(only_epoch, identity=identity(threads=2)))[0]


def test_a_seed_that_was_asked_for_and_not_recorded_does_not_agree() -> None:
    found = check.compare({1: known()}, {1: known()}, asked=[1, 2])
    assert not found.agrees
    assert found.lines[0] == "seed 2: nothing was recorded that it could be compared with"
    assert check.compare({1: known(), 2: known()}, {1: known()}, asked=[1]).agrees


@pytest.mark.parametrize(
    "field", ["dataset_sha256", "split_sha256", "features", "epochs", "bits", "config", "settings"]
)
def test_another_run_is_named_and_not_compared(field: str) -> None:
    new: Any = OTHER.get(field, "e" * 64)
    agrees, text = verdict(known(), known(**{field: new}))
    assert not agrees
    assert "is another run" in text
    assert {"config": "lr", "settings": "erase"}.get(field, field) in text
    assert "difference" not in text


def test_the_name_of_the_data_says_nothing() -> None:
    assert verdict(known(), known(dataset="moved"))[0]


def test_changed_code_is_compared_and_noted() -> None:
    agrees, text = verdict(known(), known(code="d" * 16))
    assert agrees
    assert "the code has changed since (cccccccccccccccc there, dddddddddddddddd here)" in text
    agrees, text = verdict(known(), known(0.51, code="d" * 16))
    assert not agrees
    assert "OUTSIDE" in text


def test_a_file_that_records_numbers_alone() -> None:
    numbers = Recorded(test={"map_i2t": 0.5, "map_t2i": 0.5})
    agrees, text = verdict(numbers, known(0.515))
    assert agrees
    assert "the record does not say on which machine it was made" in text
    assert not verdict(numbers, known(0.53))[0]
    assert not verdict(Recorded(test={"map_i2t": math.nan, "map_t2i": 0.5}), known())[0]


numbers = st.floats(0, 1) | st.sampled_from([0.5, math.nextafter(0.5, 1), math.nan])
runs = st.builds(
    known,
    numbers,
    ap=st.lists(numbers, min_size=1, max_size=2),
    threads=st.integers(1, 2),
    bits=st.sampled_from([16, 32]),
    code=st.sampled_from(["c", "d"]),
)


@given(runs, runs)
def test_who_was_first_does_not_matter_and_nan_never_agrees(one: Recorded, other: Recorded) -> None:
    agrees = verdict(one, other)[0]
    assert agrees == verdict(other, one)[0]
    for run in (one, other):
        assert run.ap is not None
        if math.isnan(run.test["map"]) or np.isnan(run.ap.i2t).any():
            assert not agrees
    whole = not math.isnan(one.test["map"]) and one.ap is not None and not np.isnan(one.ap.i2t).any()
    assert verdict(one, one)[0] == whole
