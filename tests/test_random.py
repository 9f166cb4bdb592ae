"""The floor: codes that hang on the item and the seed, and say nothing across the modalities."""

from __future__ import annotations

import numpy as np
import torch

from cmh import methods, training
from cmh.losses import sign
from tests.test_training import tiny


def fit(**more: int) -> training.Fitted:
    module = methods.get("random")
    run, config = training.parse(module, {"bits": 64, "epochs": 3, "threads": 1, "scale": "none", **more})
    return training.fit(module, run, config, tiny())


def test_one_epoch_in_which_nothing_happens() -> None:
    fitted = fit()
    assert len(fitted.curve) == 1
    assert fitted.curve[0].terms == {}


def test_the_modalities_and_the_seeds_have_hyperplanes_of_their_own() -> None:
    data = tiny()
    same = torch.from_numpy(data.train.text)
    method, other = fit().method, fit(seed=1).method
    planes = method.hyperplanes["image"][: same.shape[1]], method.hyperplanes["text"]
    assert planes[0].shape == planes[1].shape
    assert abs(float(np.corrcoef(*(plane.flatten().numpy() for plane in planes))[0, 1])) < 0.15
    assert not torch.equal(method.encode_text(same), other.encode_text(same))


def test_within_a_modality_the_share_of_differing_bits_is_the_angle() -> None:
    method = fit(bits=4096).method
    x, y = torch.zeros(2, 20)
    x[0], y[0], y[1] = 1, 1, 1  # 45 degrees
    codes = sign(method.encode_image(torch.stack([x, y, 7 * x, -x])))
    differing = (codes[0] != codes).double().mean(1)
    assert abs(float(differing[1]) - 0.25) < 0.04
    assert differing[2:].tolist() == [0, 1]


def test_no_words_no_side() -> None:
    assert bool((sign(fit().method.encode_text(torch.zeros(1, 12))) == 1).all())


def test_across_the_modalities_half_the_bits_differ_whatever_the_pair() -> None:
    """So the ranking is noise. (That items of a class share their noise lifts its MAP a little.)"""
    method, train = fit(bits=4096).method, tiny().train
    image, text = (
        sign(method.encode_image(torch.from_numpy(train.image))),
        sign(method.encode_text(torch.from_numpy(train.text))),
    )
    assert float((image @ text.T / 4096).abs().max()) < 0.1
    assert float((image @ image.T / 4096).abs().mean()) > 0.3
