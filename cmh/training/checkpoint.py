"""Where a run is: what is saved of it, and what is checked before anything goes on from that."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import torch

from cmh import files
from cmh.errors import CheckpointError, OtherRunError
from cmh.identity import Identity
from cmh.identity import differences as identity_differences
from cmh.training import run_folder

NAME = "checkpoint.pt"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a run goes on from: its curve as plain values, the method's state, and that of its best epoch."""

    curve: list[dict[str, object]]
    method: dict[str, object]
    best: dict[str, object]

    def to_bytes(self, identity: Identity) -> bytes:
        """As a file of the run with this identity holds it."""
        buffer = io.BytesIO()
        parts = {"identity": identity.without(), "curve": self.curve, "method": self.method, "best": self.best}
        torch.save(parts, buffer)
        return buffer.getvalue()


def from_bytes(raw: bytes, identity: Identity) -> Checkpoint:
    """What `to_bytes` wrote.

    Raises CheckpointError where it cannot be read or is incomplete, OtherRunError where it is of another run.
    """
    try:
        state = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
        found, complete = dict(state["identity"]), {"curve", "method", "best"} <= state.keys() and state["curve"]
    except Exception as error:  # torch raises many kinds for damaged bytes
        reason = (str(error).splitlines() or ["no message"])[0]
        raise CheckpointError(f"the checkpoint cannot be read ({type(error).__name__}: {reason})") from error
    if lines := identity_differences(found, identity.without()):
        raise OtherRunError(*lines, heading="the checkpoint is of another run")
    if not complete:
        raise CheckpointError("the checkpoint lacks its curve or its weights")
    return Checkpoint(state["curve"], state["method"], state["best"])


def write(folder: Path, raw: bytes) -> None:
    """Put a checkpoint into the folder; a kill in between leaves the older one."""
    with files.new_file(folder / NAME) as temporary:
        temporary.write_bytes(raw)


def read(folder: Path, identity: Identity) -> Checkpoint | None:
    """The folder's checkpoint, or None; one that cannot be used is set aside, since training again is exact."""
    path = folder / NAME
    if not path.exists():
        return None
    try:
        return from_bytes(path.read_bytes(), identity)
    except OtherRunError as error:
        aside, reason = "checkpoint.other", str(error)
    except CheckpointError as error:
        aside, reason = "checkpoint.damaged", str(error)
    path.replace(folder / aside)
    run_folder.note(folder, f"{reason}; set aside as {aside}, training starts at epoch 1")
    return None
