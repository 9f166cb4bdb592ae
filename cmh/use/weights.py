"""A method built again from a description and its weights, without the dataset that it was trained on."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from cmh import config, methods
from cmh.errors import CmhError, EncoderError
from cmh.features import backbones
from cmh.interfaces import Method, Setup, State
from cmh.nets import state as states
from cmh.nets.bags import Bags
from cmh.nets.towers import OnBackbone
from cmh.training import along, parts, scaling
from cmh.use import probe
from cmh.use.description import Description, placed

ITEMS = 64  # that stand for the training items while a method is built: it has had its epochs


def rebuilt(about: Description, state: Mapping[str, object], folder: Path, device: torch.device) -> Method:
    """The method with its weights, on the device. `state`: of its best epoch, as a checkpoint has it.

    Raises EncoderError where the method is no longer what it was, or keeps less than its codes depend on; ConfigError
    where its file or a hyperparameter of it is unknown.
    """
    module = methods.get(placed(about.method, folder))
    made = about.identity
    what = f"{made.method}, {made.bits} bits, seed {made.seed}"
    with torch.random.fork_rng(devices=[]):  # what it draws is nobody else's
        torch.manual_seed(0)
        try:
            setup = _setup(about, folder, device)
            method = module.Method(config.build(module.Config, made.config), setup)
            scale = str(made.settings.get("scale", "none"))
            if scale != "none":  # its numbers are in the state
                of = [scaling.fitted(scale, rows) for rows in (setup.image, setup.text)]
                method = scaling.Scaled(method, *of)
            if not parts.taken(module):
                method = parts.Whole(method)
            live = method.state()
            _take_shapes(live, state)
            states.load(live, state, optimizers=False)
        except CmhError:
            raise
        except Exception as error:  # a method's own code, or weights of other nets
            line = (str(error).splitlines() or ["no message"])[0]
            raise EncoderError(
                f"{what}: its weights do not fit the method as it is now ({type(error).__name__}: {line});"
                " train it again: python -m cmh.reproduce"
            ) from error
    if about.probe:
        side = backbones.about(about.network).side if about.finetuned else 0
        here = probe.of(
            method,
            device,
            image_dim=about.image_dim,
            side=side,
            text_dim=about.text_dim,
            sparse=about.sparse,
            context_length=about.context_length,
        )
        share = probe.difference(here, about.probe)
        if share > probe.MOST:
            raise EncoderError(
                f"{what}: built again it gives other codes than after its training ({share:.0%} of the bits of drawn"
                " inputs): the method has changed since, or its state() keeps less than encoding depends on"
            )
    return method


def _setup(about: Description, folder: Path, device: torch.device) -> Setup:
    """Drawn items in the place of the training items."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.zeros(ITEMS, about.n_labels)
    if about.n_labels:
        labels[torch.arange(ITEMS), torch.arange(ITEMS) % about.n_labels] = 1
    text: Tensor = torch.randn(ITEMS, about.text_dim, generator=draw)
    if about.sparse:
        columns = torch.arange(ITEMS) % about.text_dim
        text = Bags(torch.ones(ITEMS), columns, torch.arange(ITEMS + 1), about.text_dim)
    made = about.identity
    module = methods.get(placed(about.method, folder))
    return Setup(
        bits=made.bits,
        epochs=made.epochs,
        seed=made.seed,
        device=device,
        n_train=ITEMS,
        image_dim=about.image_dim,
        text_dim=about.text_dim,
        labels=labels.to(device) if module.LABELS else None,
        image=torch.randn(ITEMS, about.image_dim, generator=draw).to(device),
        text=text.to(device),
        **along.under_heads(
            about.finetuned,
            about.network,
            placed(about.weights, folder),
            about.context_length,
            functools.partial(OnBackbone, lr_share=about.lr_backbone, amp=about.amp),
            drawn=True,
        ),
    )


def _take_shapes(parts: State, saved: object) -> None:
    """Give tensors that have a row for each training item as many rows as were saved."""
    if not isinstance(saved, Mapping):
        raise TypeError(f"a saved state is a mapping, not a {type(saved).__name__}")
    for name, part in parts.items():
        if isinstance(part, Mapping):
            _take_shapes(part, saved.get(name, {}))
        elif isinstance(part, Tensor) and isinstance(there := saved.get(name), Tensor) and there.shape != part.shape:
            fresh = torch.empty_like(there, dtype=part.dtype, device=part.device)
            part.set_(fresh.untyped_storage(), 0, fresh.shape, fresh.stride())
