"""CLIP (Radford et al., ICML 2021, arXiv:2103.00020): an image tower and a text tower, built by open_clip."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cmh.errors import DatasetError
from cmh.nets import torchscript, weights
from cmh.nets.clip_tokens import TOKENS, PictureTokens, text_tokens

if TYPE_CHECKING:
    import open_clip

log = logging.getLogger(__name__)

PLACES = 77  # for the tokens of a text
START, END = 49406, 49407  # tokens around a text; END has the highest number, and the text's vector is taken there
GELU = "-gelu"  # at the end of a network's name


@dataclasses.dataclass(frozen=True)
class _Form:
    """A network as open_clip calls it; one without a name is CLIP on the smallest scale."""

    name: str = ""
    quick: bool = True  # x · σ(1.702 x), which OpenAI's weights were trained with; most later ones with GELU

    def build(self) -> open_clip.CLIP:
        import open_clip

        sizes = open_clip.get_model_config(self.name) if self.name else _TINY
        kept = {name: sizes[name] for name in ("embed_dim", "vision_cfg", "text_cfg")}
        made: open_clip.CLIP = open_clip.CLIP(**kept, quick_gelu=self.quick)
        return made


_TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": PLACES, "vocab_size": END + 1, "width": 32, "heads": 2, "layers": 2},
}
FORMS = {
    "clip-vit-b-32": _Form("ViT-B-32-quickgelu"),
    "clip-vit-b-16": _Form("ViT-B-16-quickgelu"),
    "clip-vit-b-32-gelu": _Form("ViT-B-32", quick=False),
    "clip-vit-b-16-gelu": _Form("ViT-B-16", quick=False),
    "clip-tiny": _Form(),
}
# Names in files that are no weights of a network: sizes, and the mask that hides later tokens.
_NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size")


class TextTower(nn.Module):
    """CLIP's text side for texts of at most `context_length` tokens: `(n, context_length)` to vectors `(n, d)`, or with
    `parts` to `(n, context_length, d)`, as `text_tokens` has them.

    Places behind these are cut off: they would never be trained.
    """

    def __init__(self, clip: open_clip.CLIP, context_length: int, *, parts: bool = False) -> None:
        super().__init__()
        self.clip, self.parts, self.dim = clip, parts, int(clip.text_projection.shape[1])
        del clip.visual, clip.logit_scale
        clip.positional_embedding = nn.Parameter(clip.positional_embedding.detach()[:context_length].clone())
        clip.attn_mask = clip.attn_mask[:context_length, :context_length].clone()

    def forward(self, tokens: Tensor) -> Tensor:
        """Vectors of tokens `(n, context_length)`."""
        vectors: Tensor = text_tokens(self.clip, tokens) if self.parts else self.clip.encode_text(tokens)
        return vectors


def is_one(name: str) -> bool:
    """Whether a network is CLIP, of vectors or of tokens."""
    return name.removesuffix(TOKENS) in FORMS


def image_tower(name: str, path: Path | None, *, drawn: bool = False) -> nn.Module:
    """The image side of a network, of its parts where the name says so. Raises what `build` raises."""
    visual: nn.Module = build(name.removesuffix(TOKENS), path, drawn=drawn).visual
    return PictureTokens(visual) if name.endswith(TOKENS) else visual


def text_tower(name: str, path: Path | None, context_length: int, *, drawn: bool = False) -> TextTower:
    """The text side of a network, in float32, of its parts where the name says so. Raises what `build` raises."""
    plain = name.removesuffix(TOKENS)
    return TextTower(build(plain, path, drawn=drawn), context_length, parts=name != plain)


def build(name: str, path: Path | None, *, drawn: bool = False) -> open_clip.CLIP:
    """CLIP by one of the names of FORMS: `.visual(pixels)` and `.encode_text(tokens)`.

    Weights: those of a file, else OpenAI's, which open_clip downloads; of `clip-tiny`, and of any that is to be filled
    from elsewhere (`drawn`), drawn with seed 0. Raises
    DatasetError where open_clip is not installed, and where weights cannot be had or are another network's.
    """
    form = FORMS[name]
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    try:
        import open_clip
    except ImportError as error:
        raise DatasetError(f"{name} needs the package open_clip_torch: pip install 'cmh[clip]'") from error
    if path is not None or drawn or not form.name:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = form.build()
        if path is not None and not drawn:
            _fill(model, name, path)
        return model
    if not form.quick:
        raise DatasetError(f"{name} has no weights of its own: name a file of weights trained with GELU with --weights")
    before = logging.root.level
    logging.root.setLevel(logging.CRITICAL)  # it warns on the root logger
    try:
        return open_clip.create_model(form.name, pretrained="openai")
    except Exception as error:  # the hub's many kinds: no network, no room, a proxy in between
        line = (str(error).splitlines() or ["no message"])[0][:200]
        raise DatasetError(
            f"the weights of {name} could not be downloaded ({type(error).__name__}: {line}); get OpenAI's"
            f" {form.name.removesuffix('-quickgelu')}.pt, or open_clip's or Hugging Face's file of it, on another"
            " machine and name it with --weights"
        ) from error
    finally:
        logging.root.setLevel(before)


def _fill(model: open_clip.CLIP, name: str, path: Path) -> None:
    form, of_openai, state = FORMS[name], torchscript.is_archive(path), weights.read(path)
    if of_openai and not form.quick:
        raise DatasetError(
            f"{path}: is OpenAI's archive, whose weights were trained with QuickGELU; take"
            f" --features {name.removesuffix(GELU)}"
        )
    if weights.of_hugging_face(state):
        state = weights.from_hugging_face(state)
    state = {key: one for key, one in state.items() if key not in _NO_WEIGHTS and not key.endswith("attn_mask")}
    weights.fill(model, state, path, *_notes(model, state))
    # OpenAI published numbers of 16 bits; who trained on, or from the start, has others.
    published = all(torch.equal(one, one.half().to(one.dtype)) for one in state.values() if one.ndim > 1)
    if not of_openai and published != form.quick:
        said = "trained with QuickGELU" if form.quick else "trained with GELU"
        other = name.removesuffix(GELU) + GELU * form.quick
        why = "are no numbers of 16 bits, as OpenAI's are" if form.quick else "are numbers of 16 bits, as OpenAI's are"
        hint = f"; if that is wrong, take --features {other}" if other in FORMS else ""
        _say_once(f"{path}: does not say its activation, and its weights {why}; taken as {said}{hint}")


@functools.cache
def _say_once(line: str) -> None:
    """Both towers are read from one file."""
    log.warning("%s", line)


def _notes(model: open_clip.CLIP, state: weights.State) -> list[str]:
    """What can be said of why a file does not fit."""
    towers = {"image": any(name.startswith("visual.") for name in state), "text": "token_embedding.weight" in state}
    if "class_embedding" in state and not towers["image"]:
        return ["it holds CLIP's image tower alone; both towers are needed"]
    missing = [name for name, there in towers.items() if not there]
    if len(missing) == 1:
        return [f"it holds no {missing[0]} tower; both towers are needed"]
    if missing:
        return ["it holds nothing of CLIP"]
    here, there = (_size(of) for of in (model.state_dict(), state))
    return [f"it is of a CLIP with {there}, and this network has {here}"] if here != there else []


def _size(state: weights.State) -> str:
    """Widths and patches of a CLIP, in words."""
    patch, words = state.get("visual.conv1.weight"), state.get("token_embedding.weight")
    if patch is None or words is None or patch.ndim != 4 or words.ndim != 2:
        return "other parts"
    return f"image width {len(patch)}, patches of {patch.shape[-1]}, text width {words.shape[1]}"


def tokens(texts: Sequence[str], context_length: int) -> Tensor:
    """Tokens `(n, context_length)` int32 of texts, lower-cased: START, those of the text, END, then zeros. A text that
    is too long is cut and still has its END.

    Raises DatasetError where open_clip is not installed.
    """
    try:
        tokenizer = _tokenizer()
    except ImportError as error:
        raise DatasetError("CLIP's tokens need the package open_clip_torch: pip install 'cmh[clip]'") from error
    found: Tensor = tokenizer(list(texts), context_length=context_length)
    return found.to(torch.int32)


@functools.cache
def _tokenizer() -> open_clip.SimpleTokenizer:
    import open_clip

    return open_clip.SimpleTokenizer()
