"""A method within something that changes its inputs; the rest of the trainer sees one method."""

from __future__ import annotations

from torch import Tensor

from cmh.interfaces import Batches, Method, State


class Within:
    """The method, which encodes what `image_input` and `text_input` make of features. Its training data are its own."""

    def __init__(self, method: Method) -> None:
        self.method = method

    def __getattr__(self, name: str) -> object:
        """What the method has beside the interface, such as `bit_importance`."""
        if name == "method":  # not there yet: it is being copied
            raise AttributeError(name)
        return getattr(self.method, name)

    def image_input(self, features: Tensor) -> Tensor:
        """What the method encodes of image features, of pixels, or of items with parts: them, unless it is changed."""
        return features

    def text_input(self, features: Tensor) -> Tensor:
        """What the method encodes of text features, of tokens, or of items with parts: them, unless it is changed."""
        return features

    def epoch(self, batches: Batches, /) -> dict[str, float]:
        """Of the method; `batches` are changed already."""
        return self.method.epoch(batches)

    def encode_image(self, features: Tensor, /) -> Tensor:
        """Outputs `(n, bits)` of image inputs."""
        return self.method.encode_image(self.image_input(features))

    def encode_text(self, features: Tensor, /) -> Tensor:
        """Outputs `(n, bits)` of text inputs."""
        return self.method.encode_text(self.text_input(features))

    def state(self) -> State:
        """The method's."""
        return self.method.state()
