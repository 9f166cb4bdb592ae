"""The weights of a model as bytes without a pickle: an `.npz` of arrays, and of how they are nested."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmh import npz
from cmh.errors import BundleError

TREE = "tree"  # the mapping as JSON: at a leaf the name of its array, with a T where that is transposed


def to_bytes(state: Mapping[str, object]) -> bytes:
    """Nested mappings of tensors, as `cmh.nets.state.save` makes them; the same state gives the same bytes.

    Raises BundleError where something in it is no tensor that NumPy has.
    """
    arrays: dict[str, NDArray[np.generic]] = {}
    tree = json.dumps(_packed(state, "state", arrays), sort_keys=True)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{TREE: np.frombuffer(tree.encode(), np.uint8)}, **arrays)
    return buffer.getvalue()


def _packed(part: object, where: str, arrays: dict[str, NDArray[np.generic]]) -> object:
    if isinstance(part, Mapping):
        return {str(name): _packed(part[name], f"{where}.{name}", arrays) for name in sorted(part)}
    if not isinstance(part, Tensor):
        raise BundleError(f"{where} is a {type(part).__name__}, but a bundle holds tensors alone: keep it as one")
    columns = part.ndim == 2 and not part.is_contiguous() and part.T.is_contiguous()  # which rounds otherwise
    name = f"{len(arrays)}"
    try:
        arrays[name] = (part.T if columns else part).detach().cpu().contiguous().numpy()
    except TypeError as error:
        raise BundleError(f"{where} is of {part.dtype}, which NumPy has not: keep it as float32") from error
    return name + "T" * columns


def of_bytes(raw: bytes, where: str) -> dict[str, object]:
    """What `to_bytes` wrote; nothing is allocated but what the bytes hold. Raises BundleError."""
    try:
        arrays = npz.of_bytes(raw)
        tree = json.loads(arrays[TREE].tobytes())
        if not isinstance(tree, dict):
            raise ValueError(f"{TREE} is no mapping")
        tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items() if name != TREE}
        return {name: _unpacked(part, tensors) for name, part in tree.items()}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{where}: are no weights as a bundle has them ({type(error).__name__}: {error})") from error


def _unpacked(part: object, tensors: Mapping[str, Tensor]) -> object:
    if isinstance(part, dict):
        return {name: _unpacked(one, tensors) for name, one in part.items()}
    if not isinstance(part, str):
        raise ValueError(f"a leaf of {TREE} is a {type(part).__name__}")
    found = tensors[part.removesuffix("T")]
    return found.T if part.endswith("T") else found
