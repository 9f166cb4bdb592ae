"""Every method at the library's default point on the clip art, three seeds each: the rows of `experiments/board`.

    python experiments/benchmarks/defaults_board.py --out experiments/board
    python -m cmh.leaderboard experiments/board
    for run in experiments/board/*/; do python -m cmh.reproduce "$run" --check; done

32 bits, 30 epochs, frozen EfficientNet-Lite0 features, one thread. Nothing is searched. A run that is there is not
trained again. Codes are not kept: the board does not need them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import yaml

from cmh import methods, reproduce


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="default: all")
    parser.add_argument("--out", type=Path, default=Path("experiments/board"), metavar="DIR")
    arguments = parser.parse_args()
    code = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.methods or methods.names():
            path = Path(folder) / f"{name}.yml"
            path.write_text(
                yaml.safe_dump(
                    {
                        **{"method": name, "dataset": "clipart", "bits": 32, "epochs": 30, "threads": 1},
                        **{"seeds": [1, 2, 3], "label": "library default", "config": {}},
                    }
                )
            )
            code |= reproduce.main([str(path), "--device", "cpu", "--out", str(arguments.out)])
    for codes in arguments.out.glob("*/codes-*.npz"):
        codes.unlink()
    for weights in arguments.out.glob("*/seed-*/checkpoint.pt"):
        weights.unlink()
    return code


if __name__ == "__main__":
    sys.exit(main())
