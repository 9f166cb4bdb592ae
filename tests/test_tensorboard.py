"""TensorBoard's files: what either of its loaders reads from them, live, resumed, written in full; and what fails."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard import program
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import Status
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from cmh import files, studies, tune, tune_options
from cmh.study import aside
from cmh.study.storage import Store
from cmh.views import event_files, live
from tests.made_study import BITS, EPOCHS, SEED, MadeStudy, whole
from tests.test_address import opened, study_of

RUNS = [*(f"trial-{number}" for number in range(6)), "confirm-4-1", "confirm-4-2", "control-ridge"]
SUCCESS, FAILURE = "STATUS_SUCCESS", "STATUS_FAILURE"


def watched(place: Path, views: list[live.Background]) -> Callable[[Store], live.Follower]:
    """What follows a study in `place` and writes its files at once; its thread is added to `views`."""

    def view(store: Store) -> live.Follower:
        sink = event_files.EventFiles(place / "tensorboard", {"method": "dcmh", "dataset": "clipart", "bits": BITS})
        views.append(live.Background(sink, "tensorboard", "", every=0.0, patience=60))
        return live.Follower(store, place, views[-1:])

    return view


def finished(study: MadeStudy, views: list[live.Background]) -> None:
    study.view.close()
    views[-1].close()


def read(run: Path) -> EventAccumulator:
    return EventAccumulator(str(run)).Reload()


def scalars(found: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, round(event.value, 4)) for event in found.Scalars(tag)]


def session(found: EventAccumulator, tag: str) -> HParamsPluginData:
    assert found.summary_metadata.keys() >= {tag}
    return HParamsPluginData.FromString(found.summary_metadata[tag].plugin_data.content)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that was watched while it ran."""
    place, views = tmp_path_factory.mktemp("studies") / "dcmh-clipart-16", list[live.Background]()
    finished(whole(place, watched(place, views)), views)
    return place


def test_every_run_has_its_scalars_and_its_end(study: Path) -> None:
    found = {path.name: read(path) for path in (study / "tensorboard").iterdir()}
    assert sorted(found) == sorted(RUNS)
    assert scalars(found["control-ridge"], "best/val_map") == [(1, 0.45)]
    first = found["trial-0"]
    assert scalars(first, "val_map") == [(1, 0.3), (2, 0.5), (3, 0.6), (4, 0.4)]
    assert scalars(first, "best/val_map")[-1] == (4, 0.6)
    assert scalars(first, "loss/image_loss")[1] == (2, 0.5)
    assert scalars(first, "time/epoch_seconds") == [(epoch, 2.0) for epoch in range(1, 5)]
    assert scalars(first, "val_map_t2i")[0] == (1, 0.4)
    assert scalars(found["trial-1"], "pruned_at") == [(1, 1.0)]
    (before, broken) = scalars(found["trial-2"], "val_map")
    assert before == (1, 0.25)
    assert broken[0] == 2
    assert math.isnan(broken[1])
    assert scalars(found["trial-2"], "best/val_map") == [(1, 0.25)]
    assert scalars(found["confirm-4-2"], "test/map") == [(4, round(1.75 / 3, 4))]
    ends = {name: metadata.SESSION_END_INFO_TAG in run.summary_metadata for name, run in found.items()}
    assert ends == {name: name != "trial-5" for name in RUNS}
    assert not any(metadata.EXPERIMENT_TAG in run.summary_metadata for run in found.values())
    start = session(first, metadata.SESSION_START_INFO_TAG).session_start_info.hparams
    assert {start["method"].string_value, start["dataset"].string_value} == {"dcmh", "clipart"}
    assert (start["bits"].number_value, start["momentum"].number_value) == (BITS, 0.0)
    assert start["optimizer"].string_value == "adam"


def test_a_resumed_trial_has_no_epoch_twice(tmp_path: Path) -> None:
    """Neither for who looks at it now nor for who has looked all the time; ended ones are not written again."""
    place, views = tmp_path / "dcmh-clipart-16", list[live.Background]()
    made = MadeStudy(place, watched(place, views))
    one, two = made.begin(), made.begin()
    made.epochs(one, 0.3, 0.4, 0.5, 0.6)
    made.end(one)
    made.epochs(two, 0.2, 0.3)
    finished(made, views)
    home = place / "tensorboard" / f"trial-{two.number}"
    looking = read(home)
    assert scalars(looking, "val_map") == [(1, 0.2), (2, 0.3)]
    with next(home.glob("events*")).open("ab") as file:  # a kill in the middle of a write
        file.write(b"\x17half of a record")
    before = next((place / "tensorboard" / f"trial-{one.number}").glob("events*")).stat()
    again = MadeStudy(place, watched(place, views))
    again.epochs(again.begin(), 0.35, 0.25)
    finished(again, views)
    curve = [(1, 0.2), (2, 0.3), (3, 0.35), (4, 0.25)]
    assert scalars(read(home), "val_map") == curve
    looking.Reload()
    assert scalars(looking, "val_map") == curve
    assert len(list(home.glob("events*"))) == 2
    after = next((place / "tensorboard" / f"trial-{one.number}").glob("events*")).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_closed_search_is_done_when_it_was_killed_before_its_files_were(study: Path, tmp_path: Path) -> None:
    """A trial that ended unseen is written by the next start."""
    place, views = tmp_path / "dcmh-clipart-16", list[live.Background]()
    made = MadeStudy(place)
    one = made.begin()
    made.epochs(one, 0.3, 0.4, 0.5, 0.6)
    made.end(one)
    finished(MadeStudy(place, watched(place, views)), views)
    assert len(scalars(read(place / "tensorboard" / "trial-0"), "val_map")) == 4


def test_runs_beside_the_search_are_shown_as_they_come(tmp_path: Path) -> None:
    """The library's default and further seeds: live, ended as they end, and the same when written afterwards."""
    place, views = tmp_path / "dcmh-clipart-16", list[live.Background]()
    made = MadeStudy(place, watched(place, views))
    made.beside("default", None, SEED, 0.2, 0.3, ended=False)
    made.beside("7-1001", 7, 1001)  # it failed before its first epoch
    finished(made, views)

    def state(run: Path) -> tuple[list[tuple[int, float]], str | None]:
        found = read(run)
        curve = scalars(found, "val_map") if "val_map" in found.Tags()["scalars"] else []
        if metadata.SESSION_END_INFO_TAG not in found.summary_metadata:
            return curve, None
        return curve, Status.Name(session(found, metadata.SESSION_END_INFO_TAG).session_end_info.status)

    shown = place / "tensorboard"
    assert state(shown / "control-default") == ([(1, 0.2), (2, 0.3)], None)
    assert state(shown / "finalist-7-1001") == ([], FAILURE)
    again = MadeStudy(place, watched(place, views))  # the next start
    again.beside("default", None, SEED, 0.2, 0.3, 0.5, 0.4)
    again.beside("4-1001", 4, 1001, 0.6, 0.65)
    finished(again, views)
    wanted = {
        "control-default": ([(1, 0.2), (2, 0.3), (3, 0.5), (4, 0.4)], SUCCESS),
        "control-ridge": ([(1, 0.45)], SUCCESS),
        "finalist-4-1001": ([(1, 0.6), (2, 0.65)], SUCCESS),
        "finalist-7-1001": ([], FAILURE),
    }
    assert {run.name: state(run) for run in sorted(shown.iterdir())} == wanted
    start = session(read(shown / "finalist-4-1001"), metadata.SESSION_START_INFO_TAG).session_start_info.hparams
    assert (start["origin"].string_value, start["seed"].number_value) == ("finalist", 1001)
    start = session(read(shown / "control-ridge"), metadata.SESSION_START_INFO_TAG).session_start_info.hparams
    assert (start["origin"].string_value, start["method"].string_value) == ("control", "ridge")
    shutil.rmtree(place / "finals" / "4-1001")  # then only its result is known
    wanted["finalist-4-1001"] = ([(EPOCHS, 0.65)], SUCCESS)
    assert studies.main(["tensorboard", str(place), "--out", str(tmp_path / "out")]) == 0
    assert {run.name: state(run) for run in sorted((tmp_path / "out").iterdir())} == wanted


@pytest.mark.parametrize("loader", ["default", "python"])
def test_a_real_server_shows_it_all(study: Path, loader: str) -> None:
    """Scalars and HPARAMS as the page asks for them, with the data server and without."""
    board = program.TensorBoard()
    more = ["--load_fast=false"] if loader == "python" else []
    board.configure(argv=[None, "--logdir", str(study), "--host", "127.0.0.1", "--port", "0", *more])
    url, until = board.launch(), time.monotonic() + 60

    def get(path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(url + path, data, {"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310
            return json.load(answer)

    names = {f"tensorboard/{name}" for name in RUNS}
    everything = {"colParams": [], "startIndex": 0, "sliceSize": 100, "allowedStatuses": [SUCCESS, FAILURE]}
    everything["allowedStatuses"].append("STATUS_UNKNOWN")
    groups: list[Any] = []
    while time.monotonic() < until and (len(groups) < len(RUNS) or not all("metricValues" in one for one in groups)):
        with contextlib.suppress(urllib.error.HTTPError):  # while it loads
            groups = get("data/plugin/hparams/session_groups", everything).get("sessionGroups", [])
    assert set(get("data/runs")) == names
    by_run = {group["sessions"][0]["name"].rpartition("/")[2]: group for group in groups}
    assert set(by_run) == set(RUNS)
    status = {name: group["sessions"][0]["status"] for name, group in by_run.items()}
    assert [name for name in RUNS if status[name] == FAILURE] == ["trial-2", "trial-3"]
    assert [name for name in RUNS if status[name] not in (SUCCESS, FAILURE)] == ["trial-5"]
    best = {
        name: metric["value"]
        for name, group in by_run.items()
        for metric in group.get("metricValues", [])
        if metric["name"]["tag"] == "best/val_map"
    }
    assert {name: round(value, 4) for name, value in best.items()} == {
        **{"trial-0": 0.6, "trial-1": 0.2, "trial-2": 0.25, "trial-4": 0.7, "trial-5": 0.35},
        **{"confirm-4-1": 0.4, "confirm-4-2": 0.4, "control-ridge": 0.45},
    }
    columns = {info["name"] for info in get("data/plugin/hparams/experiment", {})["hparamInfos"]}
    assert columns >= {"method", "bits", "dataset", "origin", "lr_image", "optimizer", "momentum", "gamma"}
    (curve,) = [get("data/plugin/scalars/scalars?tag=val_map&run=tensorboard/trial-2")]
    assert [step for _, step, _ in curve] == [1, 2]
    assert curve[1][2] in ("NaN", None) or math.isnan(curve[1][2])


def test_a_study_is_written_in_full_afterwards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "dcmh-clipart-16"
    whole(place)
    for _ in range(2):
        assert studies.main(["tensorboard", str(place)]) == 0
        assert len(list(place.glob("tensorboard/*/events*"))) == len(RUNS)
    assert "9 runs; see them with: tensorboard --logdir" in capsys.readouterr().out
    (place / "trials" / "0" / "curve.csv").write_text("damaged\n1,2\n")
    with files.locked(place / ".lock"):
        assert studies.main(["tensorboard", str(place)]) == 2
        assert "is being searched" in capsys.readouterr().err
        assert studies.main(["tensorboard", str(place), "--out", str(tmp_path / "out")]) == 0
    assert "1 of 1 lines are damaged" in capsys.readouterr().err
    assert len(scalars(read(tmp_path / "out" / "trial-0"), "val_map")) == 4
    (tmp_path / "file").write_text("")
    assert studies.main(["tensorboard", str(place), "--out", str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_disk_that_refuses_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    place, views = tmp_path / "dcmh-clipart-16", list[live.Background]()
    place.mkdir()
    (place / "tensorboard").write_text("in the way")
    made = whole(place, watched(place, views))
    finished(made, views)
    assert [row.state for row in made.store.rows()][:2] == ["complete", "pruned"]
    assert len(caplog.messages) == 1
    assert "tensorboard: switched off" in caplog.messages[0]


@pytest.mark.parametrize(("words", "n_runs"), [([], 2), (["--no-tensorboard"], 0)])
def test_tune_writes_them_unless_told_otherwise(words: list[str], n_runs: int, tmp_path: Path) -> None:
    request = study_of(tmp_path)
    store = opened(request)
    proposal = store.propose(4)
    assert proposal is not None
    with tune._views(tune_options.parser().parse_args(["--method", "ridge", *words]), None) as watch:
        screen = watch(store, request, "")
        screen.started(proposal)
        store.report(proposal.number, 1, 0.5)
        screen.reported(proposal.number, 1, 0.5)
        store.complete(proposal.number, {})
        screen.ended(proposal.number)
        screen.validated(aside.failed("default", None, 0, "loss = nan"))
        screen.close()
    found = sorted(request.folder.glob("tensorboard/*/events*"), reverse=True)
    assert [path.parent.name for path in found] == [f"trial-{proposal.number}", "control-default"][:n_runs]
    if found:
        start = session(read(found[0].parent), metadata.SESSION_START_INFO_TAG).session_start_info.hparams
        assert (start["method"].string_value, start["bits"].number_value) == ("ridge", 8)
