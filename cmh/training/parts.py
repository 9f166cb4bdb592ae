"""Features of an item's parts (CLIP's patches and words): for whom they are, and the whole's alone for all others."""

from __future__ import annotations

from torch import Tensor

from cmh.errors import ConfigError
from cmh.features import backbones
from cmh.interfaces import MethodModule
from cmh.training.run import Run
from cmh.training.within import Within


def taken(module: MethodModule) -> bool:
    """Whether a method looks at the parts of an item; its module says `TOKENS = True`."""
    return bool(getattr(module, "TOKENS", False))


def whole(features: Tensor) -> Tensor:
    """The whole's vectors `(n, d)` of items `(n, 1 + L, d)`; all else (vectors, pixels, numbers of tokens) as it is."""
    return features[:, 0] if features.ndim == 3 else features


def given(module: MethodModule, run: Run, *features: Tensor) -> tuple[Tensor, ...]:
    """The training items' features as the method takes them: the whole's alone, unless it takes parts.

    Raises ConfigError where towers that give parts are to be trained along under a method that takes none.
    """
    if taken(module):
        return features
    if run.finetune and backbones.about(run.features).tokens:
        name, plain = module.__name__.rpartition(".")[2], run.features.replace(backbones.TOKENS, "")
        raise ConfigError(f"finetune is true, but {name} takes no tokens, as {run.features} gives them; name {plain}")
    return tuple(map(whole, features))


class Whole(Within):
    """A method that is given the whole's vector wherever it is asked to encode tokens."""

    image_input = text_input = staticmethod(whole)
