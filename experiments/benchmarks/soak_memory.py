"""A machine whose memory runs out when `soak.py` says so, and for nothing else: Ray's own monitor then kills a worker.

Nothing is really taken: the commands see another /proc/meminfo, mounted in a namespace of theirs.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 20.0  # seconds for Ray to kill somebody


class Memory:
    """`inside` before a command, with its `settings`, is a command on that machine."""

    def __init__(self, path: Path) -> None:
        self.settings = {"RAY_memory_monitor_refresh_ms": "50", "RAY_memory_usage_threshold": "0.9"}
        self.path, text = path, Path("/proc/meminfo").read_text()
        self.total = int(re.findall(r"MemTotal:\s*(\d+)", text)[0])  # kB
        self.text = re.sub(r"\d+ kB", f"{0:>16} kB", text)
        self.inside = ["unshare", "-rm", "sh", "-ec", 'mount --bind "$0" /proc/meminfo; exec "$@"', str(path)]
        path.touch()
        self._free(self.total)
        subprocess.run([*self.inside, "true"], check=True)  # needs Linux's user namespaces

    def run_out(self, workers: Callable[[], set[int]]) -> None:
        """None is left until one of the workers is gone; then all of it is there."""
        before, deadline = workers(), time.monotonic() + PATIENCE
        self._free(0)
        while before <= workers() and time.monotonic() < deadline:
            time.sleep(0.02)
        self._free(self.total)

    def _free(self, free: int) -> None:
        said = self.text
        for name, value in (("MemTotal", self.total), ("MemFree", free), ("MemAvailable", free)):
            said = re.sub(rf"^({name}:\s*) {{15}}0", rf"\g<1>{value:>16}", said, flags=re.MULTILINE)
        with self.path.open("r+") as file:  # in place: another file would not be the one that is mounted
            file.write(said)
