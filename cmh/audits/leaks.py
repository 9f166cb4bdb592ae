"""Leak audit: an item's code must hang on nothing but the item."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmh.interfaces import Arrays, Method
from cmh.nets import bags
from cmh.nets import state as states
from cmh.nets.transfer import as_net_input

if TYPE_CHECKING:
    from scipy.sparse import csr_array

QUERIES, QUERIES_FROM_PIXELS = 32, 8  # that are encoded one by one
TOLERANCE = 1e-4
TOLERANCE_REDUCED = 2e-2
MODALITIES = ("image", "text")


def leak(method: Method, items: Arrays, device: torch.device, *, from_pixels: bool = False) -> list[str]:
    """Encode the same queries alone, among other items, and after the other modality; their codes must stay.

    A bit does not count where its output is within rounding of 0. Matrix products of other batch shapes add in another
    order, which moves an output by up to 4e-6 of the root mean square of that bit's outputs (measured on all methods of
    the folder); TOLERANCE allows for 1e-4 of it. Where a network of pixels runs on a GPU, its numbers have 8 to 11
    significant bits, and TOLERANCE_REDUCED is allowed for.

    Parameters
    ----------
    method: what `encode_image` and `encode_text` belong to. items: any, some 100 for all queries; which rows are taken
    depends on their number alone. from_pixels: whether `encode_image` takes `items.pixels` in place of `items.image`.

    Returns findings. A method that has some is no longer what it was: what it remembers is of the audit's items.
    Raises what the method raises for several items; that it cannot encode one alone is a finding.
    """
    encoders = {name: _Encoder(method, name, items, device, from_pixels) for name in MODALITIES}
    before = _copied(states.save(method.state()))
    findings = [finding for name in MODALITIES for finding in _own(encoders[name])]
    drifts = bool(findings)
    for name, other in (MODALITIES, MODALITIES[::-1]):
        findings += [] if drifts else _of_other(encoders[name], encoders[other])
    after = _copied(states.save(method.state()))
    if changed := sorted(key for key, value in after.items() if not _same(before.get(key), value)):
        findings.append(f"encoding changes what the method keeps: {_listed(changed)}")
    return findings


class _Encoder:
    """Outputs of one modality's encoder for rows of the items.

    `queries` are the rows that are encoded alone, `first` and `second` two choices of other rows beside them.
    """

    def __init__(self, method: Method, name: str, items: Arrays, device: torch.device, from_pixels: bool) -> None:
        self.name, self.device, pixels = name, device, from_pixels and name == "image"
        self.encode: Callable[[Tensor], Tensor] = method.encode_image if name == "image" else method.encode_text
        inputs = items.pixels if pixels else items.image if name == "image" else items.read
        assert inputs is not None  # whoever takes pixels has loaded them
        self.inputs: NDArray[np.generic] | csr_array = inputs
        through_network = pixels or (name == "text" and items.tokens is not None)
        self.share = TOLERANCE_REDUCED if through_network and device.type == "cuda" else TOLERANCE
        n, wanted = len(items.labels), QUERIES_FROM_PIXELS if from_pixels else QUERIES
        rows = np.random.default_rng(0).permutation(n)
        self.queries = rows[: min(wanted, max(n // 2, 1))]
        rest = rows[len(self.queries) :]
        self.first, self.second = rest[: 2 * wanted : 2], rest[1 : 2 * wanted : 2][: wanted // 2 + 1]

    def __call__(self, rows: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """Outputs `(n, bits)` of n rows."""
        with torch.inference_mode():
            inputs = bags.tensor(self.inputs[np.asarray(rows)])
            return self.encode(as_net_input(inputs.to(self.device))).float().cpu().clone()

    def alone(self) -> Tensor:
        """Outputs `(n, bits)` of the queries, encoded one by one."""
        return torch.cat([self([row]) for row in self.queries])

    def among(self, mates: NDArray[np.int64]) -> Tensor:
        """Outputs `(n, bits)` of the queries, encoded in reversed order in the midst of other rows `(m,)`."""
        half = len(mates) // 2
        outputs = self(np.concatenate([mates[:half], self.queries[::-1], mates[half:]]))
        return outputs[half : half + len(self.queries)].flip(0)

    def changed(self, one: Tensor, two: Tensor) -> float:
        """The share of bits that differ for sure between two outputs `(n, bits)`; a NaN, as of the deviation of one
        item alone, is another than any number.
        """
        tolerance = self.share * one.square().nanmean(0).nan_to_num().sqrt()
        sure = (one.abs() > tolerance) | (two.abs() > tolerance) | (one.isnan() != two.isnan())
        other = ((one >= 0) != (two >= 0)) | (one.isnan() != two.isnan())
        return float((other & sure).float().mean())


def _own(encoder: _Encoder) -> list[str]:
    """Findings without the other modality; batch mates cannot be judged where codes drift by themselves."""
    name = encoder.name
    try:
        alone = encoder.alone()
    except (RuntimeError, ValueError) as error:  # such as a batch normalisation in training mode
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return [f"{name} codes need batch mates: one item alone cannot be encoded ({reason})"]
    if share := encoder.changed(alone, encoder.alone()):
        return [f"{name} codes change from one call to the next: {_shown(share)}"]
    share = max(encoder.changed(alone, encoder.among(mates)) for mates in (encoder.first, encoder.second))
    if share:
        return [f"{name} codes depend on batch mates: {_shown(share)}"]
    if share := encoder.changed(alone, encoder.alone()):
        return [f"{name} codes depend on the {name}s encoded before: {_shown(share)}"]
    return []


def _of_other(encoder: _Encoder, other: _Encoder) -> list[str]:
    """Findings from other items' other modality having been encoded in between."""
    outputs = []
    others = [encoder.queries[::-1], encoder.first[: len(encoder.queries)]]
    for rows in (encoder.queries, *(rows for rows in others if len(rows))):
        other(rows)
        outputs.append(encoder(encoder.queries))
    share = max(encoder.changed(outputs[0], later) for later in outputs[1:])
    return [f"{encoder.name} codes depend on the {other.name}s encoded before: {_shown(share)}"] if share else []


def _shown(share: float) -> str:
    return f"{100 * share:.0f} % of bits changed" if share >= 0.005 else "less than 1 % of bits changed"


def _copied(state: object, path: str = "") -> dict[str, object]:
    """All tensors and numbers of a nested state, by their path."""
    if isinstance(state, Tensor):
        return {path: state.detach().clone()}
    if isinstance(state, Mapping):
        parts = list(state.items())
    elif isinstance(state, (list, tuple)):
        parts = list(enumerate(state))
    else:
        return {path: state}
    found: dict[str, object] = {}
    for name, part in parts:
        found |= _copied(part, f"{path}.{name}" if path else str(name))
    return found


def _same(one: object, two: object) -> bool:
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        return one.shape == two.shape and bool(torch.equal(one.nan_to_num(), two.nan_to_num()))
    return type(one) is type(two) and not isinstance(one, Tensor) and repr(one) == repr(two)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
