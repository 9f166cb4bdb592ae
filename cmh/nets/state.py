"""Everything a method's next epoch depends on, as one nested dictionary and back."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cmh.interfaces import State


def save(parts: State, *, optimizers: bool = True) -> dict[str, object]:
    """Tensors as they are; mappings part by part; of all else (nets, optimizers, schedules) its `state_dict()`.

    Without `optimizers`, and their schedules, it is what encoding depends on.
    """
    found: dict[str, object] = {}
    for name, part in parts.items():
        if isinstance(part, Tensor):
            found[name] = part
        elif isinstance(part, Mapping):
            found[name] = save(part, optimizers=optimizers)
        elif optimizers or not isinstance(part, (Optimizer, LRScheduler)):
            found[name] = part.state_dict()
    return found


def load(parts: State, saved: object, *, optimizers: bool = True) -> None:
    """Put `save()`'s values back into the same parts, in place.

    Raises TypeError or KeyError where `saved` is not what `save()` made of such parts.
    """
    if not isinstance(saved, dict):
        raise TypeError(f"a saved state is a dictionary, not a {type(saved).__name__}")
    for name, part in parts.items():
        if isinstance(part, Tensor):
            _restore(part, saved[name])
        elif isinstance(part, Mapping):
            load(part, saved[name], optimizers=optimizers)
        elif optimizers or not isinstance(part, (Optimizer, LRScheduler)):
            part.load_state_dict(saved[name])


def _restore(part: Tensor, saved: Tensor) -> None:
    """Put saved values into a part, in their layout where it has a storage of its own: a matrix that lies by columns is
    multiplied in another order than one by rows, and going on would not be exact."""
    if part.stride() != saved.stride() and part.untyped_storage().nbytes() == part.nbytes:
        copy = saved.to(part, copy=True)
        part.set_(copy.untyped_storage(), copy.storage_offset(), copy.shape, copy.stride())
    else:
        part.copy_(saved)
