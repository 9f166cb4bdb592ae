"""Texts of few words: rows of which nearly all numbers are 0, kept as the words that are there.

A text net's first layer then costs what its words cost: of 128 texts with 3 of 849 words, 1,024 units take 0.7 ms
forward and back where the matrix product takes 8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as trees

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array


class Bags(Tensor):
    """A matrix `(n, d)` of which only what is not 0 is stored; to a net or a loss it is a tensor like any other.

    `functional.linear`, which is what `nn.Linear` calls, and rows `bags[index]`, `bags[from:to]` take the stored
    numbers; every other operation is given the dense matrix. Entries `(nnz,)` and their columns `(nnz,)` stand row
    after row; row i begins at `starts[i]`, `starts` `(n + 1,)`. It has no gradient.
    """

    entries: Tensor
    columns: Tensor
    starts: Tensor

    @staticmethod
    def __new__(cls, entries: Tensor, columns: Tensor, starts: Tensor, width: int) -> Bags:
        shape = (len(starts) - 1, width)
        made: Bags = Tensor._make_wrapper_subclass(cls, shape, dtype=entries.dtype, device=entries.device)
        made.entries, made.columns, made.starts = entries, columns, starts
        return made

    @classmethod
    def of(cls, matrix: csr_array) -> Bags:
        """The matrix `(n, d)`, as float32."""
        entries = torch.from_numpy(matrix.data.astype(np.float32))
        columns, starts = (torch.from_numpy(part.astype(np.int64)) for part in (matrix.indices, matrix.indptr))
        return cls(entries, columns, starts, matrix.shape[1])

    def dense(self) -> Tensor:
        """The matrix as a plain tensor `(n, d)`."""
        whole = self.entries.new_zeros(tuple(self.shape))
        return whole.index_put_((self.row_numbers(), self.columns), self.entries, accumulate=True)

    def with_entries(self, entries: Tensor) -> Bags:
        """The same columns with other entries `(nnz,)`."""
        return Bags(entries, self.columns, self.starts, self.shape[1])

    def at_words(self, matrix: Tensor) -> Tensor:
        """The numbers of a dense matrix `(n, d)` at the places that are stored here, `(nnz,)`."""
        return matrix[self.row_numbers(), self.columns]

    def row_numbers(self) -> Tensor:
        """The row of each entry `(nnz,)`."""
        return torch.repeat_interleave(self.starts.diff(), output_size=len(self.entries))

    def _chosen(self, index: Tensor) -> Bags:
        first, lengths = self.starts[index], self.starts[index + 1] - self.starts[index]
        starts = functional.pad(lengths.cumsum(0), (1, 0))
        total = int(starts[-1])
        shift = torch.repeat_interleave(first - starts[:-1], lengths, output_size=total)
        places = torch.arange(total) + shift
        return Bags(self.entries[places], self.columns[places], starts, self.shape[1])

    def _between(self, first: int, last: int) -> Bags:
        starts = self.starts[first : last + 1]
        words = slice(int(starts[0]), int(starts[-1]))
        return Bags(self.entries[words], self.columns[words], starts - starts[0], self.shape[1])

    def _is(self, *where: Any, **named: Any) -> bool:
        """Whether `to(*where, **named)` has nothing to do."""
        moved = self.entries[:0].to(*where, **named)
        return moved.dtype == self.entries.dtype and moved.device == self.entries.device

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., object],
        types: tuple[type, ...],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if args and isinstance(args[0], Bags):
            if function is functional.linear:
                return _linear(*args, **kwargs or {})  # type: ignore[arg-type]
            if function is Tensor.__getitem__ and isinstance(args[1], Tensor) and args[1].dtype == torch.int64:
                return args[0]._chosen(args[1])
            if function is Tensor.__getitem__ and isinstance(args[1], slice):
                first, last, step = args[1].indices(len(args[0]))
                if step == 1:
                    return args[0]._between(first, max(first, last))
            if function is Tensor.to and args[0]._is(*args[1:], **kwargs or {}):
                return args[0]  # in inference mode torch would ask for the dense matrix
        with torch._C.DisableTorchFunctionSubclass():  # or results would be called Bags
            return function(*args, **kwargs or {})

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch calls it as it is written here
        cls,
        function: Callable[..., object],
        types: tuple[type, ...],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        plain = trees.tree_map_only(Bags, Bags.dense, (args, dict(kwargs or {})))
        return function(*plain[0], **plain[1])

    def __repr__(self, **_: object) -> str:  # type: ignore[override]
        return f"Bags({len(self.entries)} of {self.shape[0]} × {self.shape[1]})"


def tensor(texts: NDArray[np.generic] | csr_array) -> Tensor:
    """Texts `(n, d)` as a net takes them; a view of a dense array."""
    return torch.from_numpy(texts) if isinstance(texts, np.ndarray) else Bags.of(texts)


def _linear(words: Bags, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """words weightᵀ + bias: the sum of a row's columns of the weight `(out, d)`."""
    by_words = weight.T.contiguous()  # no copy where it is a WordLinear's
    out = functional.embedding_bag(
        words.columns,
        by_words,
        words.starts,
        mode="sum",
        per_sample_weights=words.entries.to(weight.dtype),
        include_last_offset=True,
    )
    return out if bias is None else out + bias


class WordLinear(nn.Module):
    """A linear layer whose weight is stored word by word, `(d, out)`: a word's numbers are side by side.

    They are for the optimizer, too, which is three times slower on a weight that is transposed.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(layer.weight.detach().T.contiguous()), layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """Texts `(b, d)` to `(b, out)`."""
        return functional.linear(x, self.weight.T, self.bias)


def by_words(net: nn.Module, width: int) -> nn.Module:
    """The net with `WordLinear` in the place of every linear layer on `width` words."""
    if isinstance(net, nn.Linear) and net.in_features == width:
        return WordLinear(net)
    for name, part in net.named_children():
        setattr(net, name, by_words(part, width))
    return net
