"""From a finished study or run to codes of pictures and texts that it has never seen."""

from __future__ import annotations

from cmh.use.encoder import Encoder
from cmh.use.find import load

__all__ = ["Encoder", "load"]
