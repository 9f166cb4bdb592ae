"""Everything a method's next epoch depends on, as one nested dictionary and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def save(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors as they are; mappings part by part; of all else (nets, optimizers, schedules) its `state_dict()`."""
    return {
        name: part if isinstance(part, Tensor) else save(part) if isinstance(part, Mapping) else part.state_dict()
        for name, part in parts.items()
    }


def load(parts: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Put `save()`'s values back into the same parts, in place."""
    for name, part in parts.items():
        if isinstance(part, Tensor):
            part.copy_(saved[name])
        elif isinstance(part, Mapping):
            load(part, saved[name])
        else:
            part.load_state_dict(saved[name])
