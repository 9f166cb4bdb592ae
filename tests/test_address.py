"""Addresses of storages and clusters: what somebody types, what a study keeps, and what is refused with a right one."""

from __future__ import annotations

import shutil
from pathlib import Path

import optuna
import pytest
import yaml

import cmh.study
from cmh.errors import ConfigError, StudyError
from cmh.study import address, folder, request
from cmh.study.opening import begun
from cmh.study.space import Range, Space
from cmh.study.storage import Store

SPACE = Space("ridge", (Range("weight", "float", 0.1, 1),), (), "random", None, 1, 4)
ODD = ["plain", "with space", "100%", "a%20b", "what?", "what?x=1", "{SCHEMA}", "#1", "ümläut"]


def asked(out: Path, storage: str | None = None, where: str | None = None) -> request.Asked:
    limits = request.Limits(1.0, None, None, where, None, None, None)
    return request.Asked(
        methods=("ridge",),
        spaces=(),
        dataset="clipart",
        skip_bad=False,
        split="torchcmh",
        features="efficientnet-lite0",
        weights=None,
        bits=(8,),
        settings=(),
        trials=None,
        epochs=None,
        seed=0,
        seeds=1,
        warm_start=(),
        base=None,
        out=out,
        storage=storage,
        limits=limits,
    )


def study_of(out: Path, storage: str | None = None) -> request.StudyRequest:
    (study,) = request.check(asked(out, storage)).studies
    return study


def opened(study: request.StudyRequest) -> Store:
    """The study's store as a search opens it, with one trial in it."""
    with begun(study):
        about = folder.read_study(study.folder)
        started = any(study.folder.glob("trials/*"))
        store = Store(study.url, about.name, study.space, study.base, study.seed, about.id, begun=started)
        folder.note_storage(study.folder, study.url)
    if not started:
        proposal = store.propose(4)
        assert proposal is not None
        store.report(proposal.number, 1, 0.5)
        (study.folder / "trials" / "0").mkdir(parents=True)
    return store


@pytest.mark.parametrize("name", ODD)
def test_any_path_is_an_address(name: str, tmp_path: Path) -> None:
    path = tmp_path / name / "study.db"
    path.parent.mkdir()
    url = address.of_file(path)
    assert address.file_of(url) == path
    store = Store(url, "s", SPACE, {"weight": 1.0}, seed=0)
    store.propose(1)
    assert [file.name for file in path.parent.iterdir()] == ["study.db"]
    assert list(tmp_path.iterdir()) == [path.parent]
    folder.write_yaml(
        path.parent / "study.yml",
        {"name": "s", "storage": address.kept(url, path.parent), "identity": {"method": "ridge"}},
    )
    assert folder.storage_of(path.parent) == (url, "s")
    assert len(cmh.study.open(path.parent).trials) == 1  # read only, which is another form


def test_what_is_typed_and_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert address.asked("sqlite:///a.db") == f"sqlite:///{tmp_path}/a.db"
    assert address.file_of(address.asked("sqlite:///why?/a.db")) == tmp_path / "why?" / "a.db"
    assert address.asked("sqlite:///file:a.db?uri=true") == "sqlite:///file:a.db?uri=true"
    server = "postgresql+psycopg://me:secret@host:5433/base?sslmode=require"
    assert address.asked(server) == server
    study = tmp_path / "studies" / "s"
    assert "secret" not in address.kept(server, study)
    assert address.kept(f"sqlite:///{tmp_path}/a.db", study) == "sqlite:///../../a.db"
    assert address.opened("sqlite:///../../a.db", study) == f"sqlite:///{tmp_path}/a.db"
    assert address.kept("sqlite:////elsewhere/a.db", study) == "sqlite:////elsewhere/a.db"
    assert address.opened("sqlite:////elsewhere/a.db", study) == "sqlite:////elsewhere/a.db"
    assert address.opened(server, study) == server
    assert address.without_password("no address") == "no address"


BAD = {
    "optuna.db": "is no address; did you mean sqlite:///optuna.db?",
    "/data/my optuna.db": "did you mean sqlite:////data/my optuna.db?",
    "sqlite:optuna.db": "is no address; did you mean sqlite:///optuna.db?",
    "sqlite:/optuna.db": "did you mean sqlite:///optuna.db?",
    "me@host/base": "is no address; an address is sqlite:///FILE.db or postgresql://USER@HOST/BASE",
    "": "is no address; an address is sqlite:///FILE.db",
    "sqlite://optuna.db": "has two slashes, but a file has three; did you mean sqlite:///optuna.db?",
    "sqlite:///": "names no file",
    "sqlite:///:memory:": "names no file, so that no trial would be kept",
    "sqlite:///.": "is a folder; did you mean sqlite:///optuna.db?",
    "postgres://me@host/base": "did you mean postgresql://…?",
    "redis://host": "no trials can be kept there; an address is",
    "journal:///x.log": "no trials can be kept there",
}


@pytest.mark.parametrize("text", BAD)
def test_a_storage_that_is_none_is_shown_a_right_one(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        address.asked(text)
    assert str(error.value).startswith("--storage ")
    assert BAD[text] in str(error.value)


CLUSTERS = {
    "localhost": "did you mean localhost:6379",
    "ray://head:10001": "did you mean head:6379",
    "http://10.0.0.1:8265/": "did you mean 10.0.0.1:6379",
    "head:": "did you mean head:6379",
    ":6379": "did you mean HOST:6379",
    "head:port": "did you mean head:6379",
    "local": "leave --address out",
    "": "did you mean HOST:6379",
}


@pytest.mark.parametrize("text", CLUSTERS)
def test_a_cluster_that_is_none_is_shown_a_right_one(text: str) -> None:
    with pytest.raises(ConfigError, match=f"^--address {text}: must be HOST:PORT of a Ray cluster's head, or auto; "):
        address.check_cluster(text)
    with pytest.raises(ConfigError, match=CLUSTERS[text]):
        address.check_cluster(text)


def test_clusters_that_can_be() -> None:
    for text in (None, "auto", "head:6379", "10.0.0.1:6379", "[::1]:6379"):
        address.check_cluster(text)


def test_both_are_checked_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        request.check(asked(tmp_path, "optuna.db", "localhost"))
    assert [problem.split()[0] for problem in error.value.problems] == ["--storage", "--address"]
    assert not list(tmp_path.iterdir())


# Where a study goes on


def test_a_study_goes_on_in_the_storage_that_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = study_of(tmp_path / "out", "sqlite:///shared.db")
    opened(first)
    assert yaml.safe_load((first.folder / "study.yml").read_text())["storage"] == "sqlite:///../../shared.db"
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    again = study_of(tmp_path / "out")
    assert again.url == first.url
    assert len(opened(again).rows()) == 1
    assert study_of(tmp_path / "out", f"sqlite:///{tmp_path}/shared.db").url == first.url
    with pytest.raises(ConfigError, match=r"has its trials in sqlite:////.*shared\.db; leave --storage out"):
        study_of(tmp_path / "out", "sqlite:///shared.db")  # relative to another folder, it is another
    assert len(cmh.study.open(first.folder).trials) == 1


def test_a_study_and_its_storage_that_were_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    opened(study_of(tmp_path / "here" / "out", "sqlite:///here/shared.db"))
    shutil.move("here", "there")
    assert len(opened(study_of(tmp_path / "there" / "out")).rows()) == 1
    # The storage alone: it is asked whether it has the study, and noted.
    shutil.move("there/shared.db", "moved.db")
    gone = r"shared\.db does not exist, but trials of ridge-clipart-8-\w{8} lie in its folder"
    with pytest.raises(StudyError, match=gone):
        opened(study_of(tmp_path / "there" / "out"))
    assert not Path("there/shared.db").exists()
    Store(address.asked("sqlite:///other.db"), "s", SPACE, {"weight": 1.0}, seed=0)
    with pytest.raises(StudyError, match=r"other\.db holds no study ridge-clipart-8-\w{8}, but trials"):
        opened(study_of(tmp_path / "there" / "out", "sqlite:///other.db"))
    assert len(opened(study_of(tmp_path / "there" / "out", "sqlite:///moved.db")).rows()) == 1
    assert len(opened(study_of(tmp_path / "there" / "out")).rows()) == 1


def test_a_study_with_its_own_file_goes_where_its_folder_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = study_of(Path("out"))
    opened(study)
    document = yaml.safe_load((study.folder / "study.yml").read_text())
    assert document["storage"] == "sqlite:///study.db"
    shutil.copytree("out", "copy")
    assert study_of(Path("copy")).url == f"sqlite:///{tmp_path}/copy/ridge-clipart-8/study.db"
    shutil.copytree("out/ridge-clipart-8", "renamed")
    assert len(cmh.study.open("renamed").trials) == 1
    # As it was written before: by its whole path, and without its name.
    del document["name"]
    folder.write_yaml(
        Path("copy/ridge-clipart-8/study.yml"), {**document, "storage": f"sqlite:///{study.folder.resolve()}/study.db"}
    )
    again = study_of(Path("copy"))
    assert again.url == f"sqlite:///{tmp_path}/copy/ridge-clipart-8/study.db"
    assert len(opened(again).rows()) == 1
    # Without its storage it does not begin anew over its trials.
    Path("out/ridge-clipart-8/study.db").unlink()
    with pytest.raises(StudyError, match=r"study\.db does not exist, but trials"):
        opened(study_of(Path("out")))
    shutil.rmtree("out/ridge-clipart-8/trials")
    opened(study_of(Path("out")))


def test_a_server_that_is_restarted_without_the_study(tmp_path: Path) -> None:
    """What `begun` asks is asked of every storage."""
    url = address.of_file(tmp_path / "a.db")
    with pytest.raises(StudyError, match="does not exist, but trials of s lie"):
        Store(url, "s", SPACE, {"weight": 1.0}, seed=0, begun=True)
    Store(url, "s", SPACE, {"weight": 1.0}, seed=0)
    Store(url, "s", SPACE, {"weight": 1.0}, seed=0, begun=True)
    assert optuna.get_all_study_names(url) == ["s"]


def test_one_storage_holds_a_study_of_every_seed(tmp_path: Path) -> None:
    """As an array over seeds has them: method, dataset and bits are the same."""
    url = f"sqlite:///{tmp_path}/shared.db"
    stores = [opened(study_of(tmp_path / seed, url)) for seed in "123"]
    names = optuna.get_all_study_names(url)
    assert len(names) == 3
    assert all(name.startswith("ridge-clipart-8-") for name in names)
    assert [len(store.rows()) for store in stores] == [1, 1, 1]
    assert len(opened(study_of(tmp_path / "2", url)).rows()) == 1  # goes on in its own
    assert optuna.get_all_study_names(url) == names
    opened(study_of(tmp_path / "own"))  # a file of its own needs none
    assert folder.read_study(tmp_path / "own" / "ridge-clipart-8").name == "ridge-clipart-8"
