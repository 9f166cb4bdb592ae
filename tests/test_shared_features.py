"""Features of a picture are computed once, whichever datasets it is in: by its bytes, network and preparation."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from cmh import datasets
from cmh.errors import DatasetError
from cmh.features import backbones, extraction

N = 24


class Network:
    """In place of one: the first pixel of each picture is its feature, and every picture that came is remembered."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, name: str, pictures: Iterable[bytes], **_: object) -> Iterator[NDArray[np.float32]]:
        for raw in pictures:
            with Image.open(io.BytesIO(raw)) as picture:
                shade = picture.getpixel((0, 0))
            self.seen.append(shade)
            yield np.full((1, backbones.about(name).dim), shade, np.float32)


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Network:
    monkeypatch.setenv("CMH_CACHE", str(tmp_path / "cache"))
    known = Network()
    monkeypatch.setattr(backbones, "extract", known)
    return known


def write(folder: Path, shades: Iterable[int], *, seed: int = 0, text: str = "a picture") -> str:
    """A dataset of pictures that are one shade of grey each, in this order."""
    photos, lines = folder.parent / "photos", []
    photos.mkdir(exist_ok=True)
    for number, shade in enumerate(shades):
        if not (photos / f"{shade}.png").exists():
            Image.new("L", (4, 4), shade).save(photos / f"{shade}.png")
        item = {
            "image": f"{shade}.png",
            "text": f"{text} {'sea' if number % 2 else 'city'}",
            "labels": [f"l{number % 2}"],
        }
        lines.append(json.dumps(item))
    folder.mkdir()
    (folder / "items.jsonl").write_text("\n".join(lines))
    split = {"query": 4, "validation": 4, "seed": seed}
    about = {"name": folder.name, "items": "items.jsonl", "images": "../photos", "split": split}
    (folder / "dataset.yml").write_text(yaml.safe_dump(about))
    return str(folder)


def shades(folder: str) -> list[int]:
    """The features of a dataset's pictures, in the order of its rows."""
    path = extraction.features(datasets.read(folder), "efficientnet-lite0", "", progress=False)
    return [int(value) for value in np.load(path / "image.npy")[:, 0]]


def test_another_split_text_and_name_share_all(network: Network, tmp_path: Path) -> None:
    first = datasets.load(write(tmp_path / "one", range(N)), progress=False)
    assert network.seen == list(range(N))
    second = datasets.load(write(tmp_path / "two", range(N), seed=5, text="something else"), progress=False)
    assert network.seen == list(range(N))
    assert first.split_sha256 != second.split_sha256
    assert len(list((tmp_path / "cache").glob("features/*/*/image.npy"))) == 1  # nor is it stored twice
    query = datasets.read(str(tmp_path / "two")).split.query
    assert second.test().query.image[:, 0].tolist() == query.tolist()


def test_only_new_pictures_are_computed(network: Network, tmp_path: Path) -> None:
    datasets.load(write(tmp_path / "one", range(N)), progress=False)
    network.seen.clear()
    mixed = [30, 7, 31, 3, 4, *range(8, 23), 32]
    assert shades(write(tmp_path / "more", mixed)) == mixed
    assert network.seen == [30, 31, 32]
    network.seen.clear()
    other = [32, *range(23, 0, -1), 31]  # of two entries, in another order
    assert shades(write(tmp_path / "both", other)) == other
    assert network.seen == []


def test_another_network_preparation_or_version_shares_nothing(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = datasets.read(write(tmp_path / "one", range(N)))
    for name in ("resnet18", "resnet18-squash", "resnet18-bf16"):
        extraction.features(source, name, "", progress=False)
    assert network.seen == [*range(N)] * 3
    monkeypatch.setattr(backbones, "VERSION", backbones.VERSION + 1)
    extraction.features(source, "resnet18", "", progress=False)
    assert network.seen == [*range(N)] * 4


def test_rows_that_other_versions_made_are_not_mixed_in(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = {"torch": "1"}
    monkeypatch.setattr(backbones, "versions", lambda: dict(installed))
    datasets.load(write(tmp_path / "one", range(N)), progress=False)
    installed["torch"] = "2"
    network.seen.clear()
    dataset = datasets.load(write(tmp_path / "more", range(N + 1)), progress=False)
    assert network.seen == list(range(N + 1))
    assert dataset.provenance["torch"] == "2"


@pytest.mark.parametrize("damaged", ["image.npy", "digests.npy", "meta.json"])
def test_a_damaged_entry_gives_nothing(damaged: str, network: Network, tmp_path: Path) -> None:
    datasets.load(write(tmp_path / "one", range(N)), progress=False)
    (path,) = (tmp_path / "cache").glob(f"features/*/*/{damaged}")
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw if damaged != "digests.npy" else raw[:-5])
    network.seen.clear()
    assert shades(write(tmp_path / "more", range(N + 1))) == list(range(N + 1))
    assert network.seen == list(range(N + 1))


def test_a_killed_extraction_goes_on_beside_known_rows(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "SAVED_EVERY", 2)
    datasets.load(write(tmp_path / "one", range(0, N, 2)), progress=False)

    def killed(name: str, pictures: Iterable[bytes], **more: object) -> Iterator[NDArray[np.float32]]:
        for number, batch in enumerate(network(name, pictures, **more)):
            if number == 9:
                raise KeyboardInterrupt
            yield batch

    network.seen.clear()
    folder = write(tmp_path / "more", range(N))
    monkeypatch.setattr(backbones, "extract", killed)
    with pytest.raises(KeyboardInterrupt):
        datasets.load(folder, progress=False)
    monkeypatch.setattr(backbones, "extract", network)
    network.seen.remove(19)  # was read, but not kept
    assert shades(folder) == list(range(N))
    assert network.seen == [row for row in range(N) if row % 2]


def test_a_picture_that_changes_meanwhile_spoils_nothing(network: Network, tmp_path: Path) -> None:
    folder = write(tmp_path / "one", range(N))
    source = datasets.read(folder)
    Image.new("L", (4, 4), 99).save(tmp_path / "photos" / "5.png")
    with pytest.raises(DatasetError, match="one: picture 6 has changed since the dataset was read; start again"):
        datasets.load(folder, source=source, progress=False)
    assert shades(folder) == [*range(5), 99, *range(6, N)]
    assert network.seen == [*range(5), *range(5), 99, *range(6, N)]


def test_two_at_once(network: Network, tmp_path: Path) -> None:
    """One computes and the other waits, though they prepare two datasets."""
    sources = [datasets.read(write(tmp_path / name, range(N))) for name in ("one", "two")]
    ready = threading.Barrier(2)

    def prepare(source: datasets.Source) -> Path:
        ready.wait()
        return extraction.features(source, "efficientnet-lite0", "", progress=False)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(prepare, sources)
    assert first == second
    assert network.seen == list(range(N))
