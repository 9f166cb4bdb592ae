#!/usr/bin/env bash
# Guess: a fused optimizer goes once through a parameter's memory, whatever its strides, as long as no hole is in it.
# What happens: on a CPU it goes through copies: a weight (1024, 849) that lies column by column, with a gradient and
#   moments that lie alike, takes fused Adam two to four times as long as one that lies row by row, SGD up to eight
#   times. The steps themselves are equal bit for bit. The same numbers as a parameter of shape (849, 1024), which lies
#   row by row, cost nothing extra.
# Version: torch 2.14.1, Linux.
# Hurts: whoever keeps a layer's weight so that embedding_bag can read a word's row: laid out as weight.T it saves in
#   the forward pass and loses in the optimizer; stored as (words, units) it saves in both.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/v"
"$dir/v/bin/pip" install -q torch==2.14.1 numpy==2.4.6
cat >"$dir/strides.py" <<'P'
import time

import torch

torch.set_num_threads(1)
torch.manual_seed(0)
weight, gradient = torch.randn(1024, 849), torch.randn(1024, 849)
for name, make in (("Adam", lambda p: torch.optim.Adam(p, fused=True)), ("SGD", lambda p: torch.optim.SGD(p, 0.1, fused=True))):
    least, ends = {}, {}
    for order in ("rows", "columns"):
        laid = (lambda x: x.clone()) if order == "rows" else (lambda x: x.T.contiguous().T)
        parameter = torch.nn.Parameter(laid(weight))
        parameter.grad = laid(gradient)
        optimizer, found = make([parameter]), []
        for _ in range(40):
            start = time.perf_counter()
            optimizer.step()
            found.append(time.perf_counter() - start)
        least[order], ends[order] = min(found), parameter.detach().clone()
    print(f"torch {torch.__version__}: a step of fused {name} takes {least['rows'] * 1e3:.2f} ms by rows, {least['columns'] * 1e3:.2f} by columns")
    assert torch.equal(ends["rows"], ends["columns"])
    assert least["columns"] > 1.5 * least["rows"]
P
"$dir/v/bin/python" -W ignore "$dir/strides.py"
