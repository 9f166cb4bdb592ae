#!/usr/bin/env bash
# Guess: softplus(x) = log(1 + e^x) takes about as long as the other smooth functions of one number, such as a sigmoid.
# What happens: on a CPU it takes ten to twenty times as long as torch.sigmoid, because log1p does, and so do logsigmoid
#   and logaddexp. max(x, 0) - log(sigmoid(|x|)) is the same number, right to float32, in a quarter to a half of
#   the time, and its sigmoid is the gradient, too. Adding up, log of a product of 32 sigmoids makes the logarithm free.
# Version: torch 2.14.1, Linux, x86-64 with AVX2 or AVX512.
# Hurts: every loss of pairs log(1 + e^θ) - s·θ, as nearly all supervised cross-modal hashing methods have one: for 128
#   items against a training set of 2,700 its softplus took a quarter of an epoch.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/v"
"$dir/v/bin/pip" install -q torch==2.14.1 numpy==2.4.6
cat >"$dir/softplus.py" <<'P'
import time

import torch

torch.set_num_threads(1)
x = torch.randn(128, 2686) * 3


def least(function):
    found = []
    for _ in range(40):
        start = time.perf_counter()
        function(x)
        found.append(time.perf_counter() - start)
    return min(found)


def closed(x):
    return torch.relu(x) - torch.log(torch.sigmoid(x.abs()))


sigmoid, softplus, other = least(torch.sigmoid), least(torch.nn.functional.softplus), least(closed)
error = float((closed(x) - torch.nn.functional.softplus(x)).abs().max())
print(f"torch {torch.__version__}: of 344,000 numbers a sigmoid takes {sigmoid * 1e3:.2f} ms, softplus {softplus * 1e3:.2f},"
      f" log1p {least(lambda x: torch.log1p(x.abs())) * 1e3:.2f}, relu - log(sigmoid|x|) {other * 1e3:.2f} (differs by {error:.0e})")
assert softplus > 5 * sigmoid
assert softplus > 1.5 * other
assert error < 2e-6
P
"$dir/v/bin/python" -W ignore "$dir/softplus.py"
