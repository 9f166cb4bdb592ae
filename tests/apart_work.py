"""What `tests/test_apart.py` sends to another process: a file that imports little, as each starts anew."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from cmh.errors import ConfigError


def process_and(value: int, *, more: int) -> tuple[int, int]:
    return os.getpid(), value + more


def refuses() -> None:
    raise ConfigError("one", "two", heading="both")


def breaks() -> None:
    raise ValueError("a fault")


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def waits(folder: str) -> None:
    Path(folder, str(os.getpid())).touch()
    time.sleep(1000)
