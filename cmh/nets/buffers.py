"""What methods have that train image and text net in turn, as DCMH does: the newest outputs of all items."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from cmh.interfaces import Batch, Batches, Setup, State
from cmh.losses import label_codes, sign
from cmh.nets.draws import normals

Pass = Callable[[str, str, Iterator[Batch]], Mapping[str, float]]  # the net that is trained, the other one, the items


class Buffers:
    """F and G, the newest outputs of both nets for every training item, and B = sign(F + G); each is `(N, bits)`.

    `outputs` has F as `image` and G as `text`. They start at N(0, 1).
    """

    def __init__(self, setup: Setup) -> None:
        F, G = normals(setup, "buffers", *2 * [(setup.n_train, setup.bits)])
        self.outputs = {"image": F, "text": G}
        self.B = self._codes()

    def _codes(self) -> Tensor:
        return sign(self.outputs["image"] + self.outputs["text"])

    def alternate(self, one_pass: Pass, batches: Batches) -> dict[str, float]:
        """An epoch: a pass that trains the image net, one that trains the text net, and B anew.

        `one_pass(trained, other, items)` trains one net and gives its loss terms; here they are called `image_…` and
        `text_…`.
        """
        terms = {
            f"{name}_{term}": value
            for name, other in (("image", "text"), ("text", "image"))
            for term, value in one_pass(name, other, batches()).items()
        }
        self.B = self._codes()
        return terms

    def store(self, name: str, outputs: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """A pass of one net: each batch's outputs are stored, and given with what all the others add up to.

        `outputs`: of each batch its `index` `(b,)` and its outputs `(b, K)` with gradient. Each is given back with
        the column sums `(K,)` of the stored outputs of all items that are not in it (a running sum: O(b·K) a step).
        """
        own = self.outputs[name]
        column_sum = own.sum(0)
        for index, codes in outputs:
            rest = column_sum - own[index].sum(0)
            own[index] = codes.detach()
            yield index, codes, rest
            column_sum = rest + own[index].sum(0)

    def state(self) -> State:
        """F, G and B."""
        return {**self.outputs, "B": self.B}


class LabelCodes:
    """B, ±1 codes of all items that are regressed on their labels once an epoch, as GCDH learns them; `(N, bits)`.

    C, with orthonormal columns, and D hold B towards balanced and uncorrelated bits, where γ is above 0. `outputs` is
    F + G, to be written in a pass. B starts random, C as B, D at 0.
    """

    def __init__(self, setup: Setup) -> None:
        (start,) = normals(setup, "B", (setup.n_train, setup.bits))
        self.B = sign(start)
        self.C, self.D, self.outputs = self.B.clone(), torch.zeros_like(start), torch.zeros_like(start)

    def update(self, labels: Tensor, *, gamma: float, mu: float) -> None:
        """B ← sign(L R + γ C − D + μ (F + G)), then C ← polar(B + D/γ) and D ← D + γ (B − C); labels L `(N, c)`."""
        regressed = labels @ label_codes(labels, self.B, ridge=1)
        self.B.copy_(sign(regressed + gamma * self.C - self.D + mu * self.outputs))
        if gamma:
            U, _, Vt = torch.linalg.svd(self.B + self.D / gamma, full_matrices=False)
            self.C.copy_(U @ Vt)
            self.D.add_(self.B - self.C, alpha=gamma)

    def state(self) -> State:
        """B, C and D: `outputs` is written anew in each pass."""
        return {"B": self.B, "C": self.C, "D": self.D}
