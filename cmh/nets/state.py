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
            _restore(part, saved[name])
        elif isinstance(part, Mapping):
            load(part, saved[name])
        else:
            part.load_state_dict(saved[name])


def _restore(part: Tensor, saved: Tensor) -> None:
    """Put saved values into a part, in their layout where it has a storage of its own: a matrix that lies by columns is
    multiplied in another order than one by rows, and going on would not be exact."""
    if part.stride() != saved.stride() and part.untyped_storage().nbytes() == part.nbytes:
        copy = saved.to(part, copy=True)
        part.set_(copy.untyped_storage(), copy.storage_offset(), copy.shape, copy.stride())
    else:
        part.copy_(saved)
