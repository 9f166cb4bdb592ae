"""The codes that a model gives for a few drawn inputs: kept with it, they show that it was rebuilt as it was.

What a method computes from the training items when it is built, and does not keep in its `state()`, is lost when it is
built again without them; such a model would give other codes without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cmh import codes
from cmh.interfaces import Method
from cmh.losses import sign
from cmh.nets.bags import Bags
from cmh.nets.clip import END, START
from cmh.seeding import derive

if TYPE_CHECKING:
    from numpy.typing import NDArray

ITEMS, PIXEL_ITEMS = 8, 2
WORDS = 5  # of a text, where texts are few words
MOST = 1 / 16  # of the bits may differ: another machine rounds otherwise, another model differs in half of them


def of(
    method: Method,
    device: torch.device,
    *,
    image_dim: int,
    side: int,
    text_dim: int,
    sparse: bool,
    context_length: int = 0,
) -> dict[str, str]:
    """Codes of a few drawn inputs in hexadecimal digits, by modality.

    image_dim: of features; side: of pictures in pixels, where the backbone was trained along, else 0; context_length:
    of tokens, where a text tower was, else 0.
    """
    draw = torch.Generator().manual_seed(derive(0, "probe"))
    image = torch.randn(ITEMS, image_dim, generator=draw)
    if side:
        image = torch.randint(0, 256, (PIXEL_ITEMS, 3, side, side), dtype=torch.uint8, generator=draw)
    if context_length:
        text = torch.randint(1, START, (PIXEL_ITEMS, context_length), dtype=torch.int32, generator=draw)
        text[:, 0], text[:, -1] = START, END
    elif sparse:
        columns = torch.stack([torch.randperm(text_dim, generator=draw)[:WORDS].sort().values for _ in range(ITEMS)])
        text = _bags(columns.numpy(), text_dim)
    else:
        text = torch.randn(ITEMS, text_dim, generator=draw)
    with torch.inference_mode():
        outputs = {
            "image": method.encode_image(image.to(device)),
            "text": method.encode_text(text[:].to(device)),  # as rows of texts come: few words of this mode
        }
    return {name: codes.pack(sign(one).cpu().numpy()).tobytes().hex() for name, one in outputs.items()}


def difference(ours: Mapping[str, str], theirs: Mapping[str, str]) -> float:
    """The share of bits that differ, of the modality where it is greater; 1 where they are not of the same inputs."""
    shares = [0.0]
    for name, digits in theirs.items():
        try:
            pair = [np.frombuffer(bytes.fromhex(one), np.uint8) for one in (ours.get(name, ""), digits)]
        except ValueError:  # no such digits
            return 1.0
        if len(pair[0]) != len(pair[1]) or not len(pair[1]):
            return 1.0
        shares.append(float(np.bitwise_count(pair[0] ^ pair[1]).sum()) / (8 * len(pair[0])))
    return max(shares)


def _bags(columns: NDArray[np.int64], width: int) -> Tensor:
    """Texts `(n, width)` that hold the words `columns` `(n, k)`."""
    from scipy.sparse import csr_array

    n, k = columns.shape
    return Bags.of(csr_array((np.ones(n * k, np.float32), columns.ravel(), np.arange(0, n * k + 1, k)), (n, width)))
