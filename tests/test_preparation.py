"""Pictures are prepared as the networks' publishers do it: against torchvision's and open_clip's own transforms."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from cmh.errors import DatasetError
from cmh.features import backbones, extras
from cmh.nets.backbones import Standardised

TORCHVISION = [name for name in backbones.names() if backbones.about(name).source.startswith("torchvision")]
PHOTOS = [(500, 375), (640, 427), (500, 334), (500, 333), (640, 480), (333, 500), (224, 224), (257, 255), (31, 7)]


def photo(width: int, height: int) -> Image.Image:
    """Smooth, so that a shift of one pixel shows, and no two places are alike."""
    rng = np.random.default_rng(width * 10_000 + height)
    return Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)


def encoded(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def given_to(name: str, picture: Image.Image) -> torch.Tensor:
    """What a network's first layer gets `(3, side, side)`."""
    about = backbones.about(name)
    pixels = torch.tensor(backbones.prepared(encoded(picture), about)).permute(2, 0, 1)
    whole: torch.Tensor = Standardised(torch.nn.Identity(), about.mean, about.std)(pixels[None])[0]
    return whole


def published(name: str) -> Callable[[Image.Image], torch.Tensor]:
    weights = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
    transforms: Callable[[Image.Image], torch.Tensor] = weights.transforms()
    return transforms


@pytest.mark.parametrize("name", TORCHVISION)
def test_every_network_of_torchvision_gets_what_its_weights_ask_for(name: str) -> None:
    assert len(TORCHVISION) == 8
    for size in PHOTOS[:3]:
        assert torch.allclose(given_to(name, photo(*size)), published(name)(photo(*size)), atol=1e-5)


@given(st.integers(1, 700), st.integers(1, 700))
@settings(max_examples=25)
@example(500, 375)
@example(640, 427)
@example(500, 334)
def test_any_size_is_cut_as_torchvision_cuts_it(width: int, height: int) -> None:
    """One pixel beside it would be a difference of .01 and more."""
    picture = photo(width, height)
    assert torch.allclose(given_to("resnet18", picture), published("resnet18")(picture), atol=1e-5)


@pytest.fixture(scope="module")
def clip_preprocess() -> Callable[[Image.Image], torch.Tensor]:
    open_clip = pytest.importorskip("open_clip")
    from open_clip.transform import image_transform_v2

    about: Any = open_clip.get_pretrained_cfg("ViT-B-32-quickgelu", "openai")
    known = {key: about[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in about}
    prepare: Callable[[Image.Image], torch.Tensor] = image_transform_v2(
        open_clip.transform.PreprocessCfg(**known), False
    )
    return prepare


@given(st.integers(1, 700), st.integers(1, 700))
@settings(max_examples=25)
@example(500, 375)
@example(640, 427)
@example(500, 334)
@example(640, 480)
def test_any_size_is_cut_as_open_clip_cuts_it(clip_preprocess: Any, width: int, height: int) -> None:
    picture = photo(width, height)
    assert torch.allclose(given_to("clip-vit-b-32", picture), clip_preprocess(picture), atol=1e-5)


def test_real_photos_are_cut_as_open_clip_cuts_them(clip_preprocess: Any, test_data: Callable[[str], Path]) -> None:
    with zipfile.ZipFile(test_data("coco_mini.zip")) as archive:
        photos = [archive.read(name) for name in archive.namelist() if name.endswith(".jpg")][:8]
    about = backbones.about("clip-vit-b-32")
    assert len(photos) == 8
    for raw in photos:
        ours = Standardised(torch.nn.Identity(), about.mean, about.std)(
            torch.tensor(backbones.prepared(raw, about)).permute(2, 0, 1)[None]
        )
        assert torch.allclose(ours[0], clip_preprocess(Image.open(io.BytesIO(raw))), atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16", "clip-vit-b-32"])
def test_squash_gives_the_whole_picture(name: str) -> None:
    squashed = f"{name}-squash"
    about = backbones.about(squashed)
    assert backbones.check(squashed) == squashed
    assert backbones.about(f"{squashed}-bf16") == about
    assert backbones.about(name).shorter
    how = Image.Resampling.BICUBIC if name.startswith("clip") else Image.Resampling.BILINEAR
    for size in PHOTOS:
        expected = np.asarray(photo(*size).resize((224, 224), how))
        assert np.array_equal(backbones.prepared(encoded(photo(*size)), about), expected)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("efficientnet-lite0-squash", "efficientnet-lite0 is given whole pictures anyway; leave -squash out"),
        ("cnn-f-squash-bf16", "cnn-f is given whole pictures anyway"),
        ("resnet8-squash", "features"),
        ("resnet18-bf16-squash", "features"),
    ],
)
def test_a_preparation_that_is_none_is_refused(name: str, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        backbones.check(name)


def test_an_extra_is_asked_for_whatever_the_preparation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    names = [f"clip-vit-b-32{more}" for more in ("", "-squash", "-bf16", "-squash-bf16")]
    assert len(extras.missing(*names)) == 4


def test_a_pictures_features_do_not_hang_on_its_batch() -> None:
    """To the bit: rows of one dataset's features are rows of another's, and of a single picture that is looked up."""
    raws = [encoded(photo(60 + number, 70)) for number in range(backbones.BATCH + 3)]
    for name in ("conv4", "efficientnet-lite0"):
        whole = np.concatenate(list(backbones.extract(name, raws)))
        assert np.array_equal(whole[5:12], np.concatenate(list(backbones.extract(name, raws[5:12]))))
        assert np.array_equal(whole[-1:], next(backbones.extract(name, raws[-1:])))
