"""Weights from files, in any of the forms in which networks are passed on, checked against the network that they fill.

Nothing that a file holds is executed: state dicts are read with `weights_only`, safetensors hold numbers alone, and of
a TorchScript archive the tensors are taken (`torchscript.py`).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from cmh.errors import DatasetError
from cmh.nets import torchscript

State = Mapping[str, Tensor]

SHOWN = 2  # names of a kind in a message
PREFIX = "module."  # before each name in checkpoints of networks that were trained in parallel


def read(path: Path) -> dict[str, Tensor]:
    """Tensors by name: of a state dict (`torch.save`, alone or as `state_dict` of a checkpoint), of a safetensors file,
    or of a TorchScript archive.

    Raises DatasetError where the file is none of these.
    """
    if torchscript.is_archive(path):
        return torchscript.tensors(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for files that are none
        line = (str(error).splitlines() or ["no message"])[0].partition(". ")[0]
        raise DatasetError(
            f"{path}: no weights can be read from it ({type(error).__name__}: {line}); it must be a state dict saved by"
            " torch.save, a safetensors file or a TorchScript archive"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DatasetError(f"{path}: holds a {type(state).__name__}, but must hold a state dict (name → tensor)")
    if state and all(str(name).startswith(PREFIX) for name in state):
        state = {str(name).removeprefix(PREFIX): tensor for name, tensor in state.items()}
    return state


def fill(network: nn.Module, state: State, path: Path, *notes: str) -> None:
    """Give a network the tensors of a file, exactly. `notes`: what is known of why they may not fit.

    Raises DatasetError that names missing names, names that are none of the network's, and differing shapes, each with
    their count.
    """
    wanted = network.state_dict()
    differing = {
        f"{name} is {_shape(state[name])} there, {_shape(wanted[name])} here": None
        for name in wanted
        if name in state and wanted[name].shape != state[name].shape
    }
    kinds = (
        ("{} missing: ", sorted(wanted.keys() - state.keys()), "name is|names are"),
        ("{} not the network's: ", sorted(state.keys() - wanted.keys()), "name is|names are"),
        ("{} of another shape: ", list(differing), "tensor is|tensors are"),
    )
    problems = [counted(words, names, noun) for words, names, noun in kinds if names]
    if problems:
        raise DatasetError(*problems, *notes, heading=f"{path}: the weights of another network")
    network.load_state_dict(state, strict=True)


def counted(words: str, names: list[str], nouns: str) -> str:
    """How many there are of a kind, and two of them: `3 names are missing: a, b, …`."""
    one, several = nouns.split("|")
    head = words.format(f"{len(names):,} {one if len(names) == 1 else several}")
    return head + ", ".join(names[:SHOWN]) + ", …" * (len(names) > SHOWN)


def load(network: nn.Module, path: Path) -> None:
    """Fill a network from a file of weights. Raises DatasetError (see `read` and `fill`)."""
    fill(network, read(path), path)


def _shape(tensor: Tensor) -> str:
    return " × ".join(map(str, tensor.shape)) or "a number"


# Hugging Face's names for the parts of CLIP, and OpenAI's.
_PARTS = (
    (r"^vision_model\.", "visual."),
    (r"^text_model\.", ""),
    (r"embeddings\.(class_embedding)$", r"\1"),
    (r"embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"embeddings\.patch_embedding\.", "conv1."),
    (r"embeddings\.token_embedding\.", "token_embedding."),
    (r"pre_layrnorm\.", "ln_pre."),  # as it is written there
    (r"post_layernorm\.", "ln_post."),
    (r"final_layer_norm\.", "ln_final."),
    (r"encoder\.layers\.", "transformer.resblocks."),
    (r"self_attn\.", "attn."),
    (r"layer_norm(\d)\.", r"ln_\1."),
    (r"mlp\.fc1\.", "mlp.c_fc."),
    (r"mlp\.fc2\.", "mlp.c_proj."),
)


def of_hugging_face(state: State) -> bool:
    """Whether the names are those that the library transformers gives to a CLIP network."""
    return any(name.startswith(("vision_model.", "text_model.")) for name in state)


def from_hugging_face(state: State) -> dict[str, Tensor]:
    """CLIP's tensors under OpenAI's names: queries, keys and values in one matrix, projections from the left."""
    found: dict[str, Tensor] = {}
    split: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if name.endswith("position_ids"):  # 0, 1, 2, …
            continue
        if name in ("visual_projection.weight", "text_projection.weight"):
            found["visual.proj" if name[0] == "v" else "text_projection"] = tensor.T
            continue
        called = _renamed(name, _PARTS)
        if part := re.fullmatch(r"(.*attn\.)([qkv])_proj\.(weight|bias)", called):
            split.setdefault(f"{part[1]}in_proj_{part[3]}", {})[part[2]] = tensor
        else:
            found[called] = tensor
    # One that lacks a part is left out: it is then named as missing.
    return found | {name: torch.cat([of[k] for k in "qkv"]) for name, of in split.items() if len(of) == len("qkv")}


def _renamed(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, by in rules:
        name = re.sub(pattern, by, name)
    return name
