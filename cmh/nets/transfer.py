"""From main memory to a device, so that nothing waits for it."""

from __future__ import annotations

import torch
from torch import Tensor

from cmh.nets.bags import Bags


def on_gpu(device: torch.device) -> bool:
    """Whether work there goes on while this thread does other things."""
    return device.type == "cuda"


def as_net_input(tensor: Tensor) -> Tensor:
    """Features as float32; pixels and tokens, which are whole numbers, as they are."""
    return tensor.to(torch.float32) if tensor.is_floating_point() else tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The same tensor there. A GPU takes it from pinned memory: from other memory the copy would first wait for all
    that was asked of the GPU before.
    """
    if on_gpu(device) and tensor.device.type == "cpu":
        if isinstance(tensor, Bags):  # a GPU has them dense: there the matrix product is no burden
            tensor = tensor.dense()
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
