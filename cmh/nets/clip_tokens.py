"""What CLIP says of the parts of a picture or a text: a vector for each patch or word, beside that of the whole.

A picture or text is `(1 + L, d)`, d 512 of ViT-B: the whole's vector first, as `clip-vit-b-32` and `text: kind clip`
have it alone. All are in the space in which CLIP compares pictures with texts, as MITH takes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import open_clip

TOKENS = "-tokens"  # at the end of a network's name
WORDS = 32  # tokens of a text, with those of its begin and end; the rest is cut off, as MITH and most of its kin do


class PictureTokens(nn.Module):
    """CLIP's image tower, `(n, 3, side, side)` to `(n, 1 + patches, d)`."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        visual.output_tokens = True  # type: ignore[assignment]  # a plain attribute of open_clip's tower
        self.visual = visual

    def forward(self, pixels: Tensor) -> Tensor:
        """The whole, and each patch through the same layer norm and projection."""
        whole, patches = self.visual(pixels)
        return torch.cat([whole[:, None], patches @ self.visual.proj], 1)


def text_tokens(model: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """Token numbers `(n, length)` to `(n, length, d)`: the text's end first, which stands for the whole, then its begin
    and words in their order, and zeros.
    """
    (n, length), device = tokens.shape, tokens.device
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length])) @ model.text_projection
    end = tokens.argmax(1)  # the largest number is that of the end
    parts = x[:, : length - 1] * (torch.arange(length - 1, device=device) < end[:, None]).unsqueeze(2)
    whole: Tensor = x[torch.arange(n, device=device), end]
    return torch.cat([whole[:, None], parts], 1)
