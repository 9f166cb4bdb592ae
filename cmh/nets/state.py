"""Everything a method's next epoch depends on, as one nested dictionary and back."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from cmh.interfaces import State


def save(parts: State) -> dict[str, object]:
    """Tensors as they are; mappings part by part; of all else (nets, optimizers, schedules) its `state_dict()`."""
    return {
        name: part if isinstance(part, Tensor) else save(part) if isinstance(part, Mapping) else part.state_dict()
        for name, part in parts.items()
    }


def load(parts: State, saved: object) -> None:
    """Put `save()`'s values back into the same parts, in place.

    Raises TypeError or KeyError where `saved` is not what `save()` made of such parts.
    """
    if not isinstance(saved, dict):
        raise TypeError(f"a saved state is a dictionary, not a {type(saved).__name__}")
    for name, part in parts.items():
        if isinstance(part, Tensor):
            part.copy_(saved[name])
        elif isinstance(part, Mapping):
            load(part, saved[name])
        else:
            part.load_state_dict(saved[name])
