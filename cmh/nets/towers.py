"""Towers from one modality's features to the hash layer."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cmh.nets.bertadam import Descent


def mlp(
    n_in: int, hidden: int | Sequence[int], n_out: int, *, weight_std: float = 0.0, dropout: float = 0.0
) -> nn.Sequential:
    """Linear layers with ReLU between: features `(n, n_in)` to real-valued outputs `(n, n_out)`.

    A hidden size of 0 leaves that layer out. Weights and biases are drawn from N(0, weight_std²); 0 keeps PyTorch's
    own start. Dropout follows each ReLU.
    """
    sizes = [size for size in ([hidden] if isinstance(hidden, int) else hidden) if size]
    layers: list[nn.Module] = []
    for before, after in zip([n_in, *sizes], [*sizes, n_out], strict=True):
        layers += [nn.Linear(before, after), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    net = nn.Sequential(*layers[: -2 if dropout else -1])  # nothing after the last linear layer
    if weight_std:
        start_at(net, weight_std)
    return net


def start_at(net: nn.Module, weight_std: float) -> None:
    """Draw all weights and biases from N(0, weight_std²)."""
    for parameter in net.parameters():
        nn.init.normal_(parameter, 0.0, weight_std)


def encode(net: nn.Module, features: Tensor) -> Tensor:
    """A net's outputs `(n, bits)` in evaluation mode, of features `(n, d)` or of pixels."""
    net.eval()
    outputs: Tensor = net(features)
    return outputs


class OnBackbone(nn.Module):
    """A network that is trained along, under a head: pixels `(n, 3, s, s)` or tokens `(n, l)` to what the head gives.

    It computes in half precision on GPUs (`amp`), and again instead of keeping its maps where `checkpointing` is on,
    which changes no number; a network of open_clip does so block by block. With a `micro_batch`, so many items go
    through it at once, and again on the way back, while head and loss see the whole batch: gradients are added up over
    the parts, and are those of the batch (but where a batch norm looks at its mates). The head and the losses always
    see float32. `descent`: with what it is trained, if not with the method's own optimizer.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        *,
        lr_share: float,
        amp: bool = False,
        checkpointing: bool = False,
        micro_batch: int = 0,
        descent: Descent | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.lr_share, self.amp, self.checkpointing = lr_share, amp, checkpointing
        self.micro_batch, self.descent = micro_batch, descent
        blocks = [module for module in backbone.modules() if hasattr(module, "grad_checkpointing")]
        for module in blocks:
            module.grad_checkpointing = checkpointing  # type: ignore[assignment]  # torch: attributes are tensors
        self._by_blocks = bool(blocks)

    def forward(self, inputs: Tensor) -> object:
        """Whatever the head gives for the network's vectors."""
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.amp and inputs.is_cuda):
            if self.training and 0 < self.micro_batch < len(inputs):
                vectors = torch.cat([self._twice(part) for part in torch.split(inputs, self.micro_batch)])
            elif self.training and self.checkpointing and not self._by_blocks:
                vectors = self._twice(inputs)
            else:
                vectors = self.backbone(inputs)
        return self.head(vectors.float())

    def _twice(self, inputs: Tensor) -> Tensor:
        """The network's vectors `(n, d)`, computed again on the way back."""
        again = functools.partial(_contexts, self.backbone)
        vectors: Tensor = checkpoint(self.backbone, inputs, use_reentrant=False, context_fn=again)
        return vectors


class _CopiedBuffers:
    """While the block runs, a network writes to copies of its buffers: its batch norms would count a batch that is
    computed again as another one. It can be entered again, as two backward passes through one graph do.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.own: list[tuple[nn.Module, dict[str, Tensor | None]]] = []

    def __enter__(self) -> None:
        self.own = [(module, dict(module._buffers)) for module in self.network.modules()]
        for module, buffers in self.own:
            copies = {name: None if buffer is None else buffer.clone() for name, buffer in buffers.items()}
            module._buffers.update(copies)

    def __exit__(self, *_: object) -> None:
        for module, buffers in self.own:
            module._buffers.update(buffers)  # the tensors themselves: nothing was copied back, no version has changed


def _contexts(network: nn.Module) -> tuple[contextlib.AbstractContextManager[None], _CopiedBuffers]:
    """Under what a network computes first, and under what again."""
    return contextlib.nullcontext(), _CopiedBuffers(network)


def layers(n_in: int, hidden: Sequence[int], *, normalised: bool = False, dropout: float = 0.0) -> nn.Sequential:
    """Hidden layers alone: linear, batch normalisation if asked for, ReLU, dropout; `(n, n_in)` to the last width.

    A size of 0 leaves that layer out.
    """
    sizes = [size for size in hidden if size]
    parts: list[nn.Module] = []
    for before, after in zip([n_in, *sizes], sizes, strict=False):
        parts += [nn.Linear(before, after), *([nn.BatchNorm1d(after)] if normalised else []), nn.ReLU()]
        if dropout:
            parts.append(nn.Dropout(dropout))
    return nn.Sequential(*parts)
