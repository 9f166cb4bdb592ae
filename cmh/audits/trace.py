"""Follows the scalars of an epoch from the loss to the reported terms, for any method and without its help.

Terms leave `epoch` as numbers. While a `Trace` is active it sees every tensor operation: which scalars have a gradient
(measured before the graph is freed), which of them a backward pass goes through, which sums and means are made of them,
and which number each becomes in the end. Where an epoch has one batch a pass, means are their only summand, so that a
reported number is one that was seen; a term that cannot be found so is not judged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import ParamSpec, Self

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

ADDING = {"add", "add_", "__add__", "__radd__", "__iadd__", "sub", "sub_", "__sub__", "__rsub__", "stack", "cat", "sum"}
READING = {"__float__", "item", "tolist", "numpy", "__array__"}
VECTOR = 64  # terms that may stand in one tensor
Given = ParamSpec("Given")


@dataclasses.dataclass(eq=False)
class Origin:
    """A scalar as the loss has it: `node` is its place in the graph, None for a constant."""

    node: Node | None = None
    reached: set[str] | None = None  # parameters on which its gradient is not 0; None until it is measured
    added: bool = False  # a constant that was added to what has a gradient


@dataclasses.dataclass
class Term:
    """What was seen of a reported term."""

    traced: bool = False
    constant: bool = False  # was added to a loss, but has no gradient at all
    trained: bool = False
    reached: set[str] = dataclasses.field(default_factory=set)
    zero: bool = True  # its value was 0 whenever it was reported


class Trace(TorchFunctionMode):
    """Active as a context around `epoch`; `terms` then says what is known of each reported term.

    Gradients on the `parameters` (by name) are only computed with `measure`: it takes a backward pass for each scalar.
    """

    def __init__(self, parameters: Mapping[str, Tensor], *, measure: bool = True) -> None:
        super().__init__()
        self._parameters = dict(parameters) if measure else {}
        self._known: dict[int, tuple[Tensor, set[Origin]]] = {}  # by id; the tensor is held so that ids stay its own
        self._graded: dict[int, tuple[Tensor, Origin]] = {}
        self._read: list[tuple[float, set[Origin]]] = []
        self._passed: set[Node] = set()  # nodes that a backward pass goes through
        self._backward = torch.autograd.backward

    def __enter__(self) -> Self:
        # A backward pass is no tensor operation; Tensor.backward looks this function up, too.
        torch.autograd.backward = self._watched(self._backward)
        super().__enter__()  # type: ignore[no-untyped-call]  # torch has no types here
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]  # torch has no types here
        torch.autograd.backward = self._backward

    def _watched(self, backward: Callable[Given, None]) -> Callable[Given, None]:
        def watched(*args: Given.args, **kwargs: Given.kwargs) -> None:
            with torch._C.DisableTorchFunction():
                self._before_backward(list(_tensors((args[:1], kwargs.get("tensors")))))
            backward(*args, **kwargs)

        return watched

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Run the operation and take note."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if func is torch.autograd.grad:
            self._before_backward(list(_tensors((args[:1], kwargs.get("outputs")))))
        output = func(*args, **kwargs)
        if name in READING and isinstance(args[0], Tensor):
            self._note_numbers(args[0], output)
        elif name != "__get__":
            self._note(name, list(_tensors((args, kwargs))), output)
        return output

    def terms(self, reported: Mapping[str, float], into: dict[str, Term]) -> None:
        """Add what the epoch that gave `reported` tells."""
        self._measure()  # what was first seen after the last backward pass
        for name, value in reported.items():
            term = into.setdefault(name, Term())
            term.zero &= value == 0
            origins = {one for number, origins in self._read if number == value for one in origins}
            graded = [one for one in origins if one.node is not None]
            term.traced |= bool(graded)
            for one in graded:
                term.trained |= one.node in self._passed
                term.reached |= one.reached or set()
            if not graded and any(one.added for one in origins):
                term.traced = term.constant = True

    def _note(self, name: str, inputs: list[Tensor], output: object) -> None:
        for given in inputs:  # the output of a function of one's own is first seen where it is put to use
            if given.numel() == 1 and given.grad_fn is not None:
                self._origin(given)
        for out in _tensors((output,)):
            if not out.is_floating_point() or out.numel() > VECTOR or out.dim() > 1:
                continue
            if out.requires_grad:
                if out.numel() == 1 and out.grad_fn is not None:
                    self._origin(out)
                if name in ADDING:
                    for one in (one for given in inputs if not given.requires_grad for one in self._of(given)):
                        one.added |= one.node is None
                continue
            origins = {one for given in inputs for one in self._of(given)}
            if not origins and out.numel() == 1:
                origins = {Origin()}
            if origins:
                self._known[id(out)] = out, origins

    def _of(self, tensor: Tensor) -> set[Origin]:
        if tensor.requires_grad and tensor.grad_fn is not None:
            small = tensor.numel() <= VECTOR and tensor.dim() <= 1
            return {self._origin(tensor)} if small else set()
        return self._known.get(id(tensor), (tensor, set()))[1]

    def _origin(self, tensor: Tensor) -> Origin:
        known = self._graded.get(id(tensor))
        if known is None or known[1].node is not tensor.grad_fn:  # an operation in place makes another scalar of it
            known = self._graded[id(tensor)] = tensor, Origin(tensor.grad_fn)
        return known[1]

    def _note_numbers(self, tensor: Tensor, output: object) -> None:
        origins = self._of(tensor)
        if origins:
            self._read += [(float(number), origins) for number in np.asarray(output).ravel()]

    def _before_backward(self, roots: list[Tensor]) -> None:
        for root in roots:
            if root.numel() == 1 and root.grad_fn is not None:
                self._origin(root)
        self._passed |= _walk([root.grad_fn for root in roots if root.grad_fn is not None])
        self._measure()

    def _measure(self) -> None:
        """The gradients of all scalars that are new, while there is a graph."""
        for tensor, origin in list(self._graded.values()):
            if origin.reached is None:
                origin.reached = self._gradient(tensor)

    def _gradient(self, tensor: Tensor) -> set[str]:
        if tensor.grad_fn is None or not self._parameters:
            return set()
        try:
            with torch.enable_grad():
                gradients = torch.autograd.grad(
                    tensor.sum(), list(self._parameters.values()), retain_graph=True, allow_unused=True
                )
        except RuntimeError:  # its graph has been used up by an earlier backward pass: what it leads to is all there is
            leaves = {id(getattr(node, "variable", None)) for node in _walk([tensor.grad_fn])}
            return {name for name, parameter in self._parameters.items() if id(parameter) in leaves}
        found = zip(self._parameters, gradients, strict=True)
        return {name for name, gradient in found if gradient is not None and bool(gradient.ne(0).any())}


class Touched(TorchFunctionMode):
    """Active as a context: `leaves` are the ids of the trainable tensors that operations were given."""

    def __init__(self) -> None:
        super().__init__()
        self.leaves: set[int] = set()

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Take note and run the operation."""
        self.leaves |= {id(one) for one in _tensors((args, kwargs)) if one.is_leaf and one.requires_grad}
        return func(*args, **(kwargs or {}))


def _tensors(values: object) -> Iterator[Tensor]:
    """All tensors in nested arguments."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        for value in values.values():
            yield from _tensors(value)


def _walk(nodes: Iterable[Node]) -> set[Node]:
    """All nodes of the graph under these."""
    found: set[Node] = set()
    left = list(nodes)
    while left:
        node = left.pop()
        if node not in found:
            found.add(node)
            left += [below for below, _ in node.next_functions if below is not None]
    return found
