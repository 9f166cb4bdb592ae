"""Features of an item's parts (CLIP's patches and words): for whom they are, and the whole's alone for all others."""

from __future__ import annotations

from torch import Tensor

from cmh.errors import ConfigError
from cmh.features import backbones
from cmh.interfaces import Batches, Method, MethodModule, State
from cmh.training.run import Run


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


class Whole:
    """A method that is given the whole's vector wherever it is asked to encode tokens. Training data are its own."""

    def __init__(self, method: Method) -> None:
        self.method = method

    def __getattr__(self, name: str) -> object:
        """What this method has beside the interface."""
        if name == "method":  # not there yet: it is being copied
            raise AttributeError(name)
        return getattr(self.method, name)

    def epoch(self, batches: Batches, /) -> dict[str, float]:
        """Of the method; `batches` are of vectors already."""
        return self.method.epoch(batches)

    def encode_image(self, features: Tensor, /) -> Tensor:
        """Outputs `(n, bits)` of vectors, of items with parts or of pixels."""
        return self.method.encode_image(whole(features))

    def encode_text(self, features: Tensor, /) -> Tensor:
        """Outputs `(n, bits)` of vectors, of items with parts or of tokens."""
        return self.method.encode_text(whole(features))

    def state(self) -> State:
        """The method's."""
        return self.method.state()
