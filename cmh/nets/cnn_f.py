"""CNN-F, the image network of DCMH and its followers.

Chatfield, Simonyan, Vedaldi and Zisserman, "Return of the Devil in the Details", BMVC 2014, arXiv:1405.3531, table 1.
Weights: MatConvNet's `imagenet-vgg-f.mat`, or a state dict of this module.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cmh.errors import DatasetError

SIDE = 224
SHAPES = {  # layer: (outputs, inputs, kernel); fc6 sees the whole 6 × 6 map
    "conv1": (64, 3, 11),
    "conv2": (256, 64, 5),
    "conv3": (256, 256, 3),
    "conv4": (256, 256, 3),
    "conv5": (256, 256, 3),
    "fc6": (4096, 256, 6),
    "fc7": (4096, 4096, 1),
}


class CNNF(nn.Module):
    """Pictures `(n, 3, 224, 224)`, RGB 0 to 255, to fc7 after its ReLU, `(n, 4096)`.

    The mean picture is a buffer. The local response normalisation is the authors': window 5, α = 1e-4 not divided by
    the window (torch divides, so 5e-4 there), β = .75, k = 2. Pooling pads right and below, which is `ceil_mode`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mean_picture: Tensor
        self.register_buffer("mean_picture", torch.zeros(3, SIDE, SIDE))
        for name, (n_out, n_in, kernel) in SHAPES.items():
            stride = 4 if name == "conv1" else 1
            padding = {"conv2": 2, "conv3": 1, "conv4": 1, "conv5": 1}.get(name, 0)
            self.add_module(name, nn.Conv2d(n_in, n_out, kernel, stride, padding))
        self.norm = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)

    def forward(self, pictures: Tensor) -> Tensor:
        """fc7 `(n, 4096)`."""
        x = pictures - self.mean_picture
        for name in SHAPES:
            x = torch.relu(self.get_submodule(name)(x))
            if name in ("conv1", "conv2"):
                x = self.norm(x)
            if name in ("conv1", "conv2", "conv5"):
                x = self.pool(x)
        return x.flatten(1)


def from_matconvnet(path: Path) -> dict[str, Tensor]:
    """The state dict of `imagenet-vgg-f.mat`.

    Raises DatasetError that lists every layer that is missing or has another shape.
    """
    from scipy.io import loadmat

    try:
        content = loadmat(path, squeeze_me=True, struct_as_record=False)
        layers = {str(layer.name): layer for layer in np.atleast_1d(content["layers"])}
        normalization = content["meta"].normalization if "meta" in content else content["normalization"]
        mean = np.asarray(normalization.averageImage, np.float32)
    except Exception as error:  # scipy raises many kinds for damaged files
        raise DatasetError(
            f"{path}: is no MatConvNet network ({type(error).__name__}: {error}); expected imagenet-vgg-f.mat"
        ) from error
    problems = []
    if mean.shape != (SIDE, SIDE, 3):
        problems.append(f"normalization.averageImage is {mean.shape}, but must be ({SIDE}, {SIDE}, 3)")
    state: dict[str, Tensor] = {}
    for name, (n_out, n_in, kernel) in SHAPES.items():
        if name not in layers:
            problems.append(f"layer {name} is missing; found {', '.join(layers)}")
            continue
        filters, biases = _weights(layers[name])
        wanted = (kernel, kernel, n_in, n_out)
        if filters.size != np.prod(wanted) or biases.size != n_out:
            problems.append(
                f"layer {name} has filters {filters.shape} and {biases.size} biases, but must have {wanted}"
            )
            continue
        weight = filters.reshape(wanted).transpose(3, 2, 0, 1)  # MATLAB: height, width, inputs, outputs
        state[f"{name}.weight"] = torch.from_numpy(np.ascontiguousarray(weight, np.float32))
        state[f"{name}.bias"] = torch.from_numpy(np.ascontiguousarray(biases.ravel(), np.float32))
    if problems:
        raise DatasetError(*problems, heading=f"{path} is not CNN-F")
    state["mean_picture"] = torch.from_numpy(np.ascontiguousarray(mean.transpose(2, 0, 1)))
    return state


def _weights(layer: object) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Filters and biases, in MatConvNet's newer (`weights`) or older form."""
    pair = getattr(layer, "weights", None)
    filters, biases = pair if pair is not None else (getattr(layer, name) for name in ("filters", "biases"))
    return np.asarray(filters), np.asarray(biases)
