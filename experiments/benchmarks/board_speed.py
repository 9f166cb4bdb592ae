"""How long a board of 10,000 records takes, from the start of the process to the last line.

    python experiments/benchmarks/board_speed.py

Two made-up collections, each of 10,000 records with the AP of 500 queries in 170 or so groups: one of 17 methods with
3 seeds on 14 datasets and 14 numbers of bits (196 tables), one of 3,334 rows with 3 seeds in a single table. Expected:
less than 3 s. Methods are those of cmh and one dataset is called clipart, so that ages are looked up, too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from board_errors import Setting, draw, record

from cmh import methods

GIANTS = ("torch", "ray", "optuna")


def fill(root: Path, n_records: int, n_methods: int) -> None:
    """Studies of three seeds each below `root`: every method once in each table."""
    random = np.random.default_rng(0)
    names = methods.names()
    tables = max(n_records // (3 * n_methods), 1)
    n_bits = round(tables**0.5)
    groups = draw(Setting("", queries=500), random)[1]
    written = 0
    for number in range(tables + 1):
        for row in range(n_methods):
            folder = root / f"{number}-{row}"
            folder.mkdir(parents=True)
            lines = []
            for seed in range(min(3, n_records - written)):
                ap = random.uniform(0, 1, (2, 500))
                one = record(row, seed, ap)
                dataset = "clipart" if number // n_bits == 0 else f"data{number // n_bits}"
                made = dataclasses.replace(
                    one.identity, method=names[row % len(names)], dataset=dataset, bits=16 * (1 + number % n_bits)
                )
                made = dataclasses.replace(made, config={f"option{k}": k / 10 + row for k in range(20)})
                lines.append(json.dumps(dataclasses.asdict(dataclasses.replace(one, identity=made)), sort_keys=True))
                np.savez(folder / one.per_query, i2t=ap[0], t2i=ap[1], groups=groups)
                written += 1
            (folder / "records.jsonl").write_text("".join(f"{line}\n" for line in lines))
            if written == n_records:
                return


def measure(root: Path, times: int) -> str:
    """Seconds of the command, the quickest of several, by the clock and of the processor."""
    program = f"""
import sys
from cmh import leaderboard
code = leaderboard.main([{str(root)!r}])
loaded = [name for name in {GIANTS!r} if name in sys.modules]
sys.exit(f"loaded {{loaded}}" if loaded else code)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    clock, processor = [], []
    for _ in range(times):
        before, begin = os.times(), time.perf_counter()
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, env=environment)
        clock.append(time.perf_counter() - begin)
        after = os.times()
        processor.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return f"{min(clock):.2f} s by the clock, {min(processor):.2f} s of the processor"


def main() -> int:
    """Write both collections, read them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=3)
    arguments = parser.parse_args()
    for name, n_methods in (("17 methods a table", 17), ("all in one table", -(-arguments.records // 3))):
        with tempfile.TemporaryDirectory() as root:
            fill(Path(root), arguments.records, n_methods)
            sys.stdout.write(f"{arguments.records} records, {name}: {measure(Path(root), arguments.times)}\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
