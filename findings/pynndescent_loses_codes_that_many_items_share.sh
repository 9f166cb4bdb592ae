#!/usr/bin/env bash
# Guess: the item that equals the query is the easiest of all to find, and the more often it is there, the easier.
# What happens: pynndescent joins each item to its 30 nearest. Where more items than that share a code, their nearest are
#   each other, so that little leads there from elsewhere: queries are given items 10 bits away though dozens lie at 0. Of
#   4,000 codes of 32 bits, all different, the nearest is always found; of 4,000 that take 100 values, by two thirds of the
#   queries. No warning.
# Version: pynndescent 0.7.0, metric bit_hamming, its defaults; numpy 2.4.6, scikit-learn 1.9.1.
# Hurts: search with learned short codes, which are shared by the hundred: the tighter a method packs its classes, the worse
#   its index. Scan, or index different codes once with a list of their items.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/v"
"$dir/v/bin/pip" install -q pynndescent==0.7.0 numpy==2.4.6 scikit-learn==1.9.1
cd "$dir"
"$dir/v/bin/python" - <<'P'
import numpy as np
from pynndescent import NNDescent

random = np.random.default_rng(0)
found, far = {}, {}
for values in (4000, 400, 100):
    different = random.integers(0, 256, (values, 4), dtype=np.uint8)
    codes = different if values == 4000 else different[random.integers(0, values, 4000)]
    queries = codes[random.choice(4000, 200, replace=False)]
    distances = np.bitwise_count(queries[:, None] ^ codes).sum(-1)
    index = NNDescent(codes, metric="bit_hamming", random_state=0)
    index.prepare()
    first = distances[np.arange(200), index.query(queries, k=10)[0][:, 0]]
    found[values], far[values] = float((first == 0).mean()), float(np.median(first[first > 0])) if (first > 0).any() else 0.0
    print(f"{values} different codes among 4,000: nearest found by {found[values]:.0%} of queries; else at {far[values]:.0f} bits")
assert found[4000] > 0.99 and found[400] < 0.95 and found[100] < 0.85 and far[100] >= 8
P
