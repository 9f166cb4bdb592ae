"""The windows of a real visdom server, offline; and servers that are absent, refuse or hang."""

from __future__ import annotations

import json
import logging
import multiprocessing
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cmh import studies, tune
from cmh.errors import ConfigError
from cmh.study.storage import Store
from cmh.training import Epoch
from cmh.views import live, progress
from cmh.views import visdom as command
from cmh.views.runs import Confirmation
from cmh.views.story import Trial
from cmh.views.windows import Windows
from tests.made_study import BASE, MadeStudy, row, whole

HOST = "127.0.0.1"


def serve(port: int, folder: str) -> None:
    """As docs/live.md says."""
    from visdom.server.run_server import start_server

    start_server(port=port, env_path=folder, base_url="", bind_local=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a visdom server."""
    pytest.importorskip("visdom", reason="visdom is not installed (extra [visdom])")
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    folder = str(tmp_path_factory.mktemp("environments"))
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(port, folder), daemon=True)
    process.start()
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex((HOST, port)) == 0:
                    break
            time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.join()


def get(port: int, path: str, body: Any = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(f"http://{HOST}:{port}/{path}", data, timeout=30) as answer:
        return str(answer.read().decode())


def window(port: int, environment: str, title: str) -> dict[str, list[tuple[float, float | None]]]:
    """The lines of a window by name, as (x, y) in the order drawn."""
    found = json.loads(get(port, "win_data", {"win": title, "eid": environment}))
    return {line["name"]: list(zip(line["x"], line["y"], strict=True)) for line in found["content"]["data"]}


def test_the_page_is_there(server: int) -> None:
    assert "visdom" in get(server, "")


def test_a_search_is_shown_while_it_runs(server: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And a second start shows no epoch twice."""
    caplog.set_level(logging.WARNING)
    place, views = tmp_path / "dcmh-clipart-16", list[live.Background]()

    def view(store: Store) -> live.Follower:
        views.append(live.Background(Windows(HOST, server, place.name), "visdom", "", every=0.0, patience=60))
        return live.Follower(store, place, views[-1:])

    made = whole(place, view)
    made.view.close()
    views[0].close()
    again = MadeStudy(place, view)
    again.epochs(again.begin(), 0.5, 0.6)
    again.view.close()
    views[1].close()
    curve = window(server, "cmh_dcmh-clipart-16_trial-5", "MAP")
    assert curve["mean"] == [(1, 0.3), (2, 0.35), (3, 0.5), (4, 0.6)]
    assert list(curve) == ["i→t", "t→i", "mean"]
    assert window(server, "cmh_dcmh-clipart-16_trial-5", "image loss") == {
        "loss": [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3)), (4, 0.25)]
    }
    assert len(window(server, "cmh_dcmh-clipart-16_4-2", "MAP")["mean"]) == 4
    best = window(server, "cmh_dcmh-clipart-16", "MAP by trial")
    assert [y for _, y in best["best so far"]] == [0.6, 0.6, 0.6, 0.6, 0.7, 0.7]
    assert best["trial"][3] == (3, None)  # it has none
    assert list(window(server, "cmh_dcmh-clipart-16", "MAP of all trials")) == [
        *("trial 0", "trial 1", "trial 2", "trial 4", "trial 5")
    ]
    assert caplog.messages == []


def test_a_finished_study_is_replayed(server: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "a <b> & 'c'"
    whole(place)
    (place / "trials" / "1" / "curve.csv").write_text("damaged\n1,2\n")
    assert studies.main(["visdom", str(place), "--server", f"{HOST}:{server}"]) == 0
    out = capsys.readouterr()
    assert out.out == f"9 environments at http://{HOST}:{server}, the first: cmh_a--b-----c-\n"
    assert "1 of 1 lines are damaged" in out.err
    assert window(server, "cmh_a--b-----c-_trial-1", "MAP")["mean"] == [(1, 0.2)]
    assert window(server, "cmh_a--b-----c-_control-ridge", "MAP") == {
        **{"i→t": [(1, 0.4)], "t→i": [(1, 0.5)]},
        "mean": [(1, 0.45)],
    }


def test_what_is_not_finite_is_a_gap(server: int) -> None:
    shown = Windows(HOST, server, "odd/names")
    shown.trial(Trial(0, "failed", "search", {}, {1: {"val_map": 0.1, "lr_a": float("inf")}, 2: {"val_map": 0.2}}))
    shown.trial(Trial(1, "running", "search", {}, {}))
    shown.flush(last=True)
    shown.confirmation(Confirmation("4-1", 1, {}, {2: {"val_map": float("nan")}}))
    assert window(server, "cmh_odd-names_trial-0", "learning rate") == {"a": [(1, None)]}
    assert window(server, "cmh_odd-names_4-1", "MAP")["mean"] == [(2, None)]


def test_reproduce_shows_the_epochs_of_a_run_that_goes_on(server: int, tmp_path: Path) -> None:
    made = MadeStudy(tmp_path / "study")
    rows = [row(epoch, 0.1 * epoch, (0.1 * epoch, epoch)) for epoch in (1, 2)]
    made.files(tmp_path / "seed-3", BASE, rows)
    view = live.visdom((HOST, server), "run-0123")

    def plain(name: str, epochs: int) -> Any:
        return progress.epochs_bar(name, epochs, terminal=False)

    with live.bars_beside(plain, view, tmp_path)("seed 3", 3) as show:
        show(Epoch(3, 0.5, 0.4, 0.6, 0.5, 3, 0.4, 0.6, 6.0, 6.0, {"image_loss": 0.1}))
    view.close()
    assert [x for x, _ in window(server, "cmh_run-0123_seed-3", "MAP")["mean"]] == [1, 2, 3]
    assert window(server, "cmh_run-0123_seed-3", "image loss")["loss"][2] == (3, 0.1)
    with pytest.raises(urllib.error.HTTPError):
        window(server, "cmh_run-0123_seed-3", "loss")  # there is no other term


def free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])


def refusing() -> int:
    """A port where nobody listens."""
    pytest.importorskip("visdom", reason="visdom is not installed (extra [visdom])")
    return free_port()


def test_an_absent_server_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.WARNING)
    port, views = refusing(), list[live.Background]()
    place = tmp_path / "dcmh-clipart-16"

    def view(store: Store) -> live.Follower:
        views.append(live.visdom((HOST, port), place.name, "later; "))
        return live.Follower(store, place, views)

    made = whole(place, view)
    made.view.close()
    views[0].close()
    assert [line[: line.index("(")] for line in caplog.messages] == [f"visdom at {HOST}:{port}: switched off "]
    assert capsys.readouterr() == ("", "")
    assert studies.main(["visdom", str(place), "--server", f"{HOST}:{port}"]) == 2
    assert "docs/live.md says how to start a server" in capsys.readouterr().err


def test_a_server_that_hangs_is_not_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nor do more epochs wait for it than one of each run."""
    pytest.importorskip("visdom", reason="visdom is not installed (extra [visdom])")
    caplog.set_level(logging.WARNING)
    with socket.create_server((HOST, 0)) as deaf:
        sink = Windows(HOST, deaf.getsockname()[1], "study")
        view = live.Background(sink, "visdom", "", every=0.0, patience=0.2)
        began = time.monotonic()
        for epoch in range(1, 1000):
            trial = Trial(0, "running", "search", {}, {epoch: {"val_map": 0.5}})
            view.leave("trial 0", lambda trial=trial: sink.trial(trial))  # type: ignore[misc]
        assert len(view._waiting) <= 1
        view.close()
        assert time.monotonic() - began < 5
    assert caplog.messages == ["visdom: it did not take everything in 0.2 s; "]


def test_one_that_fails_after_it_was_given_up_says_no_more(caplog: pytest.LogCaptureFixture) -> None:
    held = threading.Event()

    def fail() -> None:
        held.wait(60)
        raise OSError("gone")

    sink: Any = SimpleNamespace(flush=lambda *, last: None)
    view = live.Background(sink, "visdom", "", every=0.0, patience=0.01)
    view.leave("trial 0", fail)
    view.close()
    held.set()
    view._thread.join(60)
    assert caplog.messages == ["visdom: it did not take everything in 0.01 s; "]


def test_without_the_package_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "visdom", None)
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"the extra \[visdom\]"):
        command.check()
    assert tune.main(["--method", "dcmh", "--visdom", "--out", str(tmp_path)]) == 2
    assert "the extra [visdom]" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["studies/x", "host", "host:", ":1", "host:0", "host:70000", "http://host:1"])
def test_an_address_that_is_none_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tune.main(["--method", "dcmh", "--visdom", text])
    assert "must be HOST:PORT, like localhost:8097" in capsys.readouterr().err
