"""A run as one file: packed, checked, loaded and searched; and what is refused of files that others made."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

import cmh
from cmh import encode, methods, reproduce, search, training
from cmh.errors import BundleError, CmhError, EncoderError
from cmh.methods.__main__ import main as methods_main
from cmh.study import confirm, folder, packing
from cmh.use import archive, bundle, collection, find, tensors
from tests.test_reproduce import SMALL, forget, make_data

IMAGES = np.random.default_rng(1).normal(size=(40, 32)).astype("f4")


@dataclasses.dataclass(frozen=True)
class Made:
    """A run with seeds 1 and 2 on a tiny dataset of one's own, and its bundle."""

    place: Path
    run: Path
    bundle: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    place = tmp_path_factory.mktemp("bundle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CMH_CACHE", str(place / "cache"))
        patch.setenv("CMH_DATA", str(place / "ledgers"))
        make_data(place / "data")
        run = trained(place, "dcmh", seeds=[1, 2], config=SMALL)
        assert reproduce.main([str(run), "--bundle", str(place / "made.zip")]) == 0
        yield Made(place, run, place / "made.zip")
    forget()


def trained(place: Path, method: str, **changes: Any) -> Path:
    about = {"method": method, "dataset": str(place / "data"), "bits": 12, "epochs": 2, "threads": 1, "config": {}}
    (place / "file.yml").write_text(yaml.safe_dump({**about, **changes}))
    assert reproduce.main([str(place / "file.yml"), "--out", str(place / Path(method).stem)]) == 0
    return next(path for path in (place / Path(method).stem).iterdir() if path.is_dir())


def edited(path: Path, out: Path, edit: Callable[[dict[str, bytes], dict[str, Any]], None]) -> Path:
    """A bundle whose members and manifest were changed, with the sizes and sums of what it then holds."""
    held = bundle.read(path)
    members = {name: held.member(name) for name in held.manifest.sizes}
    about = {name: getattr(held.manifest, name) for name in vars(held.manifest)}
    edit(members, about)
    bundle.write(out, bundle.Manifest(**about), members)
    return out


def change(name: str, *way: str, to: Any) -> Callable[[dict[str, bytes], dict[str, Any]], None]:
    """An edit of one value of a member of JSON."""

    def edit(members: dict[str, bytes], _: dict[str, Any]) -> None:
        document = values = json.loads(members[name])
        for key in way[:-1]:
            values = values[key]
        values[way[-1]] = to
        members[name] = json.dumps(document).encode()

    return edit


def zipped(made: Made, out: Path, how: Callable[[zipfile.ZipFile, dict[str, bytes]], None]) -> Path:
    """An archive that `how` writes of the bundle's members."""
    with zipfile.ZipFile(made.bundle) as old, zipfile.ZipFile(out, "w") as new:
        how(new, {name: old.read(name) for name in old.namelist()})
    return out


def check(path: Path, made: Made, *more: str) -> int:
    return reproduce.main([str(path), "--dataset", str(made.place / "data"), *more])


# What is packed


def test_the_same_run_is_the_same_file_without_a_path(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.run, tmp_path / made.run.name)
    held = tmp_path / "again.zip"
    assert (
        reproduce.main([str(tmp_path / made.run.name), "--dataset", str(made.place / "data"), "--bundle", str(held)])
        == 0
    )
    assert held.read_bytes() == made.bundle.read_bytes()
    assert str(made.place).encode() not in held.read_bytes()
    about = bundle.read(held)
    assert about.models == [1, 2]
    split = about.split()
    assert [len(part) for part in split.parts()] == [20, 20, 100, 30]
    one = about.expected(1)
    assert split.sha256() == one.identity.split_sha256
    assert [row["epoch"] for row in one.curve] == [1, 2]
    assert one.curve[one.chosen_epoch - 1]["val_map"] == one.validation["map"]


def test_its_models_are_those_of_the_run(made: Made, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    moved = Path(shutil.copy(made.bundle, tmp_path / "alone" / "other.zip"))
    for seed in (1, 2, None):
        ours, theirs = cmh.load(moved, seed=seed), cmh.load(made.run, seed=seed)
        assert (ours.seed, ours.digest) == (theirs.seed, theirs.digest)
        assert np.array_equal(ours.encode_images(IMAGES), theirs.encode_images(IMAGES))
    with pytest.raises(EncoderError, match="no model of seed 7; it has 1, 2"):
        cmh.load(moved, seed=7)
    assert [path.name for path in moved.parent.iterdir()] == ["other.zip"]


def test_one_of_the_clip_art_is_searched_and_encodes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = tmp_path / "clipart.zip"
    assert reproduce.main([str(run), "--bundle", str(held)]) == 0
    said = []
    for target in (run, held):
        capsys.readouterr()
        assert search.main([str(target), "red guitar", "--top", "5"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]

    def other(members: dict[str, bytes], _: dict[str, Any]) -> None:  # the weights of another seed as those of this one
        members["seed-1/weights.npz"] = members["seed-2/weights.npz"]
        change("seed-1/encoder.json", "probe", to={})(members, {})

    foreign = edited(held, tmp_path / "foreign.zip", other)
    ours, theirs = cmh.load(run, seed=1), cmh.load(foreign, seed=1)
    assert ours.digest == theirs.digest
    found = [collection.of_dataset(one)["pictures"].codes for one in (ours, theirs)]
    assert not np.array_equal(*found)
    (tmp_path / "texts.txt").write_text("red guitar\n")
    assert encode.main([str(held), "--texts", str(tmp_path / "texts.txt"), "--out", str(tmp_path / "codes.npz")]) == 0
    assert cmh.load(held).read_text("xyzzy").left_out == {"xyzzy": "not in the vocabulary"}


def test_what_cannot_be_packed(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / made.run.name
    shutil.copytree(made.run, copy)
    data = ["--dataset", str(made.place / "data")]

    def refused(*arguments: Any) -> str:
        assert reproduce.main([*map(str, arguments), *data]) == 2
        return capsys.readouterr().err

    out = tmp_path / "new.zip"
    assert "must end in .zip" in refused(copy, "--bundle", tmp_path / "new.tar")
    assert "there is no folder" in refused(copy, "--bundle", tmp_path / "gone" / "new.zip")
    assert "of an experiment file, run it first" in refused(made.place / "file.yml", "--bundle", out)
    assert "is a bundle already" in refused(made.bundle, "--bundle", out)
    (tmp_path / "folder.zip").mkdir()
    assert "is a folder" in refused(copy, "--bundle", tmp_path / "folder.zip")
    make_data(tmp_path / "data", changed=True)
    data[1] = str(tmp_path / "data")
    assert "its data are no longer those that were trained on" in refused(copy, "--bundle", out)
    data[1] = str(made.place / "data")
    (copy / "seed-1" / "checkpoint.pt").unlink()
    assert reproduce.main([str(copy), "--bundle", str(out), *data]) == 0
    assert "seed 1: its weights are not here" in capsys.readouterr().out
    assert bundle.read(out).models == [2]
    assert cmh.load(out).seed == 2
    model = copy / "seed-2" / "encoder.json"  # of an earlier confirmation
    model.write_text(model.read_text().replace(bundle.read(out).expected(2).identity.code, "c" * 16))
    assert "has no weights of a recorded run" in refused(copy, "--bundle", out)
    with pytest.raises(SystemExit):
        reproduce.main([str(copy), "--bundle", str(out), "--check"])


# Run again


def test_it_is_run_again_and_compared(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(made.bundle, made) == 0
    said = capsys.readouterr().out
    assert said.count("compared without tolerance") == 2
    assert said.count("validation of any epoch difference 0") == 2
    assert "check: everything agrees" in said

    def edit(members: dict[str, bytes], about: dict[str, Any]) -> None:
        for seed in (1, 2):
            for file in ("run.json", "encoder.json"):
                change(f"seed-{seed}/{file}", "identity", "code", to="c" * 16)(members, about)
        document = json.loads(members["seed-2/run.json"])
        document["curve"][0]["val_map"] += 1e-6
        members["seed-2/run.json"] = json.dumps(document).encode()

    assert check(edited(made.bundle, tmp_path / "other.zip", edit), made) == 1
    said = capsys.readouterr().out
    assert said.count("the code has changed since") == 2
    assert "seed 2: validation of any epoch difference 1e-06  OUTSIDE" in said
    assert said.count("OUTSIDE") == 1


def test_other_data_and_splits_are_refused(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_data(tmp_path / "data", left_out=3, changed=True)
    assert reproduce.main([str(made.bundle), "--dataset", str(tmp_path / "data")]) == 2
    said = capsys.readouterr().err
    assert "was made with other data" in said
    assert "dataset: " in said
    assert "other: 30 items there, 27 here; 3 only there, 0 only here" in said

    def edit(members: dict[str, bytes], about: dict[str, Any]) -> None:
        members["split.npz"] = (tmp_path / "split.npz").read_bytes()

    np.savez(tmp_path / "split.npz", **{name: np.arange(3) for name in bundle.SIDES})
    assert check(edited(made.bundle, tmp_path / "other.zip", edit), made) == 2
    assert "its split is not the one that its runs name" in capsys.readouterr().err


def test_it_is_checked_as_it_is(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main([str(made.bundle)]) == 2
    assert "is of a dataset of one's own, 'made'; --dataset DIR says where" in capsys.readouterr().err
    for option in (["--set", "gamma=2"], ["--test"], ["--fresh"]):
        assert check(made.bundle, made, *option) == 2
        assert "a bundle is checked as it is" in capsys.readouterr().err
    assert search.main([str(made.bundle), "red"]) == 2
    capsys.readouterr()
    with pytest.raises(EncoderError, match="of a dataset of one's own"):
        find.dataset_of(made.bundle, bundle.read(made.bundle).expected(1).identity)


def test_a_trial(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = tmp_path / "study"
    module, place = methods.get("ridge"), study / "trials" / "0"
    place.mkdir(parents=True)
    values = {"dataset": str(made.place / "data"), "bits": 8, "threads": 1, "seed": 5}
    run, hyperparameters = training.parse(module, values)
    fitted = training.fit(module, run, hyperparameters, training.load(run).search(), folder=place)
    about = {"identity": {"method": "ridge", "seed": 5}, "versions": confirm.versions(), "dataset": values["dataset"]}
    folder.write_yaml(study / "study.yml", about)
    best = fitted.best
    (study / "trials.csv").write_text(
        "number,state,val_map_best,val_map_i2t,val_map_t2i,best_epoch\n"
        f"0,complete,{best.val_map!r},{best.val_map_i2t!r},{best.val_map_t2i!r},1\n1,pruned,.1,.1,.1,1\n"
    )
    held = tmp_path / "trial.zip"
    assert reproduce.main([f"{study}:0", "--bundle", str(held)]) == 0
    assert bundle.read(held).manifest.trial == 0
    assert bundle.read(held).ap(5) is None
    assert np.array_equal(cmh.load(held).encode_images(IMAGES), cmh.load(f"{study}:0").encode_images(IMAGES))
    capsys.readouterr()
    assert check(held, made) == 0
    said = capsys.readouterr().out
    assert "validation of any epoch difference 0" in said
    assert "test map" not in said
    shutil.copytree(place, study / "trials" / "1")
    assert reproduce.main([f"{study}:1", "--bundle", str(held)]) == 2
    assert "nothing was recorded" in capsys.readouterr().err


def test_the_winner_of_a_study(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = tmp_path / "dcmh-made-12"
    shutil.copytree(made.run, study)
    for seed in (1, 2):
        (study / "confirm").mkdir(exist_ok=True)
        (study / f"seed-{seed}").rename(study / "confirm" / f"7-{seed}")
    about = yaml.safe_load((study / "run.yml").read_text())
    (study / "run.yml").unlink()
    about |= {"dataset": str(made.place / "data"), "selection": "validation", "search": {"trial": 7, "trials": 9}}
    folder.write_yaml(study / "best.yml", about)
    held = tmp_path / "winner.zip"
    assert reproduce.main([str(study), "--bundle", str(held)]) == 0
    said = bundle.read(held).manifest
    assert (said.selection, said.search.trials, said.trial) == ("validation", 9, -1)
    assert cmh.load(held).digest == cmh.load(study).digest
    assert check(held, made, "--seeds", "1") == 0
    assert "seed 2" not in capsys.readouterr().out


def test_a_method_of_ones_own_is_never_run_by_itself(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert methods_main(["new", "mine_packed"]) == 0
    own, held = tmp_path / "mine_packed.py", tmp_path / "own.zip"
    make_data(tmp_path / "data")
    run = trained(tmp_path, str(own), config=SMALL)
    assert reproduce.main([str(run), "--bundle", str(held)]) == 0
    text = bundle.read(held).member("method.py")
    assert text == own.read_bytes()
    wanted = cmh.load(run).encode_images(IMAGES)
    forget()
    own.unlink()
    with pytest.raises(BundleError, match=r"unzip -p own\.zip method\.py > mine_packed\.py.*never run by itself"):
        cmh.load(held)
    assert reproduce.main([str(held), "--dataset", "data"]) == 2
    assert "say --method mine_packed.py" in capsys.readouterr().err
    assert "cmh.methods.mine_packed" not in sys.modules
    (tmp_path / "trusted").mkdir()
    trusted = tmp_path / "trusted" / "mine_packed.py"
    trusted.write_bytes(text)
    assert np.array_equal(cmh.load(held, method=trusted).encode_images(IMAGES), wanted)
    assert reproduce.main([str(held), "--dataset", "data", "--method", str(trusted)]) == 0
    for wrong in (tmp_path / "other.py", "dcmh"):
        with pytest.raises(EncoderError, match=r"must be the file mine_packed\.py"):
            cmh.load(held, method=wrong)


# What others made


def compressed(new: zipfile.ZipFile, members: dict[str, bytes]) -> None:
    for name, raw in members.items():
        new.writestr(name, raw, zipfile.ZIP_DEFLATED)


def with_more(name: str) -> Callable[[zipfile.ZipFile, dict[str, bytes]], None]:
    def write(new: zipfile.ZipFile, members: dict[str, bytes]) -> None:
        for one, raw in {**members, name: b"more"}.items():
            new.writestr(one, raw)

    return write


def without(name: str) -> Callable[[zipfile.ZipFile, dict[str, bytes]], None]:
    def write(new: zipfile.ZipFile, members: dict[str, bytes]) -> None:
        for one, raw in members.items():
            if one != name:
                new.writestr(one, raw)

    return write


def other_bytes(change: Callable[[bytes], bytes]) -> Callable[[zipfile.ZipFile, dict[str, bytes]], None]:
    def write(new: zipfile.ZipFile, members: dict[str, bytes]) -> None:
        for name, raw in members.items():
            new.writestr(name, change(raw) if name == "split.npz" else raw)

    return write


def twice(new: zipfile.ZipFile, members: dict[str, bytes]) -> None:
    with_more("split.npz")(new, members)
    new.writestr("split.npz", b"more")


def with_comment(new: zipfile.ZipFile, members: dict[str, bytes]) -> None:
    with_more("split.npz")(new, members)
    new.comment = b"packed by hand"


ARCHIVES = {
    "compressed": (compressed, "members that are compressed or encrypted .*: 10 "),
    "unknown": (with_more("more.txt"), r"members that are unknown: 1 \('more.txt'\)"),
    "leaves the folder": (with_more("../more.txt"), r"members that are unknown: 1 \('\.\./more.txt'\)"),
    "leaves the folder of a seed": (with_more("seed-1/../run.json"), "members that are unknown: 1"),
    "absolute": (with_more("/bundle.json"), "members that are unknown: 1"),
    "more than the manifest names": (with_more("method.py"), r"does not name: 1 \('method.py'\)"),
    "another seed": (with_more("seed-9/run.json"), r"of seeds that bundle.json does not name: 1"),
    "no manifest": (without("bundle.json"), r"without bundle\.json: it is no bundle"),
    "no split": (without("split.npz"), r"members that are missing: 1 \('split.npz'\)"),
    "no weights": (without("seed-2/weights.npz"), r"members that are missing: 1 \('seed-2/weights.npz'\)"),
    "of another size": (other_bytes(lambda raw: raw + b"\0"), r"of another size than bundle.json says: 1"),
    "with a comment": (with_comment, "does not end as a bundle does"),
    "twice": (twice, r"members that are twice there: 1 \('split.npz'\)"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("what", ARCHIVES)
def test_archives_that_are_no_bundle(what: str, made: Made, tmp_path: Path) -> None:
    how, problem = ARCHIVES[what]
    path = zipped(made, tmp_path / "other.zip", how)
    with pytest.raises(BundleError, match=problem):
        bundle.read(path)
    with pytest.raises(BundleError, match=problem):
        cmh.load(path)
    assert [one.name for one in tmp_path.iterdir()] == ["other.zip"]


def test_truncated_damaged_and_large_files(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, path = made.bundle.read_bytes(), tmp_path / "cut.zip"
    for n in (0, 10, 100, len(raw) // 2, len(raw) - 1):
        path.write_bytes(raw[:n])
        with pytest.raises(BundleError, match="truncated"):
            bundle.read(path)
    assert check(path, made) == 2
    assert "is no sound bundle" in capsys.readouterr().err
    path.write_bytes(raw[:5] + raw[-3000:])  # its list is whole, its members are not
    with pytest.raises(BundleError, match="its members together are larger than the file"):
        bundle.read(path)
    listed = raw.rindex(b"split.npz") - 46  # its entry in the list of members: two sizes stand there
    path.write_bytes(raw[: listed + 20] + struct.pack("<LL", 10**9, 10**9) + raw[listed + 28 :])
    with pytest.raises(BundleError, match="its members together are larger than the file"):
        bundle.read(path)
    with pytest.raises(BundleError, match=r"cannot be read \(No such file or directory\)"):
        cmh.load(tmp_path / "gone.zip")
    same_size = zipped(made, tmp_path / "same.zip", other_bytes(lambda raw: raw[:-1] + b"\7"))
    with pytest.raises(BundleError, match=r"split\.npz is not what the manifest says \(its SHA-256 differs\)"):
        bundle.read(same_size).split()
    spoilt = bytearray(raw)
    with zipfile.ZipFile(made.bundle) as found:
        spoilt[found.getinfo("seed-1/weights.npz").header_offset + 200] ^= 1
    path.write_bytes(spoilt)
    with pytest.raises(BundleError, match=r"seed-1/weights\.npz cannot be read \(Bad CRC"):
        cmh.load(path, seed=1)
    assert check(path, made) == 2  # though nothing of a run is compared with its weights
    assert "weights.npz cannot be read (Bad CRC" in capsys.readouterr().err
    held = bundle.read(made.bundle)
    with pytest.raises(BundleError, match=r"holds no seed-9/run\.json"):
        held.expected(9)
    with pytest.raises(BundleError, match="its size is another than was said"):
        archive.stored(made.bundle, "split.npz", 3)
    with monkeypatch.context() as patch:
        patch.setattr(archive, "MOST_TEXT", 1000)
        with pytest.raises(BundleError, match=r"texts of more than 1,000 bytes: 5 \('bundle\.json'"):
            bundle.read(made.bundle)
    with monkeypatch.context() as patch:
        patch.setattr(archive, "MOST_LIST", 100)
        with pytest.raises(BundleError, match="does not end as a bundle does"):
            bundle.read(made.bundle)
    monkeypatch.setattr(archive, "MOST", 1000)
    with pytest.raises(BundleError, match="but a bundle has 22 to 1,000"):
        bundle.read(made.bundle)
    with pytest.raises(BundleError, match=r"would take .* pack fewer seeds"):
        edited_held(held, tmp_path / "large.zip")
    assert not (tmp_path / "large.zip").exists()


def edited_held(held: bundle.Bundle, out: Path) -> None:
    bundle.write(out, held.manifest, {"split.npz": b"0" * 2000})


def drop(*names: str) -> Callable[[dict[str, bytes], dict[str, Any]], None]:
    def edit(members: dict[str, bytes], _: dict[str, Any]) -> None:
        for name in names:
            del members[name]

    return edit


def manifest(**values: Any) -> Callable[[dict[str, bytes], dict[str, Any]], None]:
    return lambda _, about: about.update(values)


MODEL = "seed-1/encoder.json"
CONTENTS = {
    "newer": (manifest(version=2), "is of version 2, but this cmh reads 1"),
    "no kind": (manifest(seeds="all"), "seeds is 'all'"),
    "no seeds": (manifest(seeds=[]), "seeds must name one seed or more, each once"),
    "a method that is a path": (
        manifest(method="../mine.py"),
        r"method is '\.\./mine\.py', but must be the name of one",
    ),
    "a method that nobody has": (
        manifest(method="mine"),
        "its text is not in the bundle, which is never run by itself",
    ),
    "no weights at all": (
        drop(*(f"seed-{seed}/{name}" for seed in (1, 2) for name in ("weights.npz", "encoder.json"))),
        "holds no weights, so that it cannot encode",
    ),
    "no JSON": (lambda members, _: members.update({MODEL: b"{"}), "is no JSON"),
    "a list": (lambda members, _: members.update({"seed-1/run.json": b"[]"}), "no JSON object"),
    "a path to its method": (
        change(MODEL, "method", to="../dcmh.py"),
        r"method is '\.\./dcmh\.py', but must be 'dcmh'",
    ),
    "a path to weights": (change(MODEL, "weights", to="../w.pt"), r"weights is '\.\./w\.pt', but must be the name of"),
    "a folder as weights": (change(MODEL, "weights", to=".."), "weights is '..', but must be the name of a file"),
    "a path to text weights": (change(MODEL, "text", "weights", to="/w.pt"), "text weights is '/w.pt'"),
    "of another run": (change(MODEL, "identity", "epochs", to=9), "is of another run than the bundle"),
    "a wide model": (change(MODEL, "image_dim", to=10**12), "image_dim is 1,000,000,000,000, but must be at most"),
    "another seed": (change("seed-1/run.json", "identity", "seed", to=3), "is of dcmh, seed 3"),
    "no weights as here": (
        lambda members, _: members.update({"seed-1/weights.npz": members["split.npz"]}),
        "are no weights as a bundle has them",
    ),
}


@pytest.mark.parametrize("what", CONTENTS)
def test_contents_that_are_not_believed(what: str, made: Made, tmp_path: Path) -> None:
    edit, problem = CONTENTS[what]
    path = edited(made.bundle, tmp_path / "other.zip", edit)
    with pytest.raises((BundleError, EncoderError), match=problem):
        cmh.load(path, seed=1)


ODD = [None, True, -1, 0, 10**30, 1e308, "", "../x", "a\x1b[2J", [], {}, [None], {"a": 1}]


@given(st.data())
def test_any_value_elsewhere_is_one_message_or_harmless(made: Made, data: Any) -> None:
    held, out = bundle.read(made.bundle), made.place / "odd.zip"
    members = {name: held.member(name) for name in held.manifest.sizes}
    name = data.draw(st.sampled_from(["bundle.json", MODEL, "seed-1/run.json"]))
    document = values = json.loads(members.get(name) or bundle.to_json(held.manifest))
    while True:
        key = data.draw(st.sampled_from(sorted(values) if isinstance(values, dict) else range(len(values))))
        if not values[key] or not isinstance(values[key], (dict, list)) or data.draw(st.integers(0, 4)) == 0:
            break
        values = values[key]
    values[key] = data.draw(st.sampled_from(ODD))
    if name == "bundle.json":
        archive.write(out, {name: json.dumps(document).encode(), **members})
    else:
        bundle.write(out, held.manifest, {**members, name: json.dumps(document).encode()})
    for read in (lambda: cmh.load(out, seed=1), lambda: packing.target(out, None, str(made.place / "data"))):
        with contextlib.suppress(CmhError):
            read()


def test_long_codes_and_sums_that_name_other_members(made: Made, tmp_path: Path) -> None:
    def edit(members: dict[str, bytes], about: dict[str, Any]) -> None:
        for file in ("run.json", "encoder.json"):
            change(f"seed-1/{file}", "identity", "bits", to=5000)(members, about)

    with pytest.raises(BundleError, match="bits is 5000, but must be from 1 to 4096"):
        cmh.load(edited(made.bundle, tmp_path / "other.zip", edit))

    def unsummed(new: zipfile.ZipFile, members: dict[str, bytes]) -> None:
        change("bundle.json", "sha256", to={})(members, {})
        with_more("split.npz")(new, {name: raw for name, raw in members.items() if name != "split.npz"})

    with pytest.raises(BundleError, match="sizes and sha256 do not name the same members: 9"):
        bundle.read(zipped(made, tmp_path / "sums.zip", unsummed))


RUNS = {
    "settings missing": (lambda _, about: about["run"].pop("bits"), "run settings are without bits"),
    "settings unknown": (lambda _, about: about["run"].update(folder="here"), "folder"),
    "a wrong tolerance": (manifest(tolerance=0.9), "states a tolerance of 0.9, but its numbers give"),
    "no rows": (
        lambda members, _: members.update({"seed-1/per-query.npz": b"none"}),
        r"per-query\.npz: cannot be read",
    ),
    "other rows": (
        lambda members, _: members.update({"seed-1/per-query.npz": members["split.npz"]}),
        "must hold the rows i2t, t2i, groups, and nothing else",
    ),
}


@pytest.mark.parametrize("what", RUNS)
def test_runs_that_are_not_begun(what: str, made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit, problem = RUNS[what]

    def own(members: dict[str, bytes], about: dict[str, Any]) -> None:
        about["run"] = dict(about["run"])
        edit(members, about)  # type: ignore[no-untyped-call]

    assert check(edited(made.bundle, tmp_path / "other.zip", own), made) == 2
    assert problem.replace("\\", "") in capsys.readouterr().err


# Weights without a pickle


def tensor(shape: tuple[int, ...], kind: torch.dtype, turned: bool) -> torch.Tensor:
    values = torch.arange(int(np.prod(shape))).reshape(shape).to(kind)
    return values.T if turned and len(shape) == 2 else values


leaves = st.builds(
    tensor,
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.sampled_from([torch.float32, torch.int64, torch.bool, torch.uint8]),
    st.booleans(),
)
states = st.recursive(leaves, lambda inner: st.dictionaries(st.text("a.T/é0", max_size=3), inner, max_size=3))


@given(st.dictionaries(st.text("ab", max_size=2), states, max_size=3))
def test_weights_come_back_as_they_were(state: dict[str, Any]) -> None:
    raw = tensors.to_bytes(state)
    assert raw == tensors.to_bytes(state)

    def same(one: Any, other: Any) -> bool:
        if isinstance(one, dict):
            return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
        return one.is_contiguous() == other.is_contiguous() and one.dtype == other.dtype and torch.equal(one, other)

    assert same(state, tensors.of_bytes(raw, "here"))


def test_weights_that_are_none() -> None:
    with pytest.raises(BundleError, match=r"state\.net\.kind is a str, but a bundle holds tensors alone"):
        tensors.to_bytes({"net": {"kind": "linear"}})
    with pytest.raises(BundleError, match=r"state\.net is of torch\.bfloat16, which NumPy has not"):
        tensors.to_bytes({"net": torch.zeros(1, dtype=torch.bfloat16)})
    for tree, problem in (
        ("[]", "tree is no mapping"),
        ('{"a": 3}', "a leaf of tree is a int"),
        ('{"a": "7"}', "KeyError"),
        ('{"a": ' * 5000, "are no weights"),
    ):
        with pytest.raises(BundleError, match=problem):
            tensors.of_bytes(raw_tree(tree), "here")
    with pytest.raises(BundleError, match=r"here: are no weights .*ValueError"):
        tensors.of_bytes(b"none", "here")


def raw_tree(text: str) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, tree=np.frombuffer(text.encode(), np.uint8))
    return buffer.getvalue()
