#!/usr/bin/env bash
# Guess: the Hamming distance of two rows of packed bits (uint8, eight bits a byte) is the number of bits that differ, as in
#   simsimd, whose successor numkong is; and dtype="u1", which the docstring of numkong.hamming offers, means 1-bit numbers.
# What happens: numkong takes uint8 as numbers and counts the bytes that differ; "u1" is read as NumPy reads it, one unsigned
#   byte, and counts bytes, too. Only dtype="uint1" counts bits, and the docstring does not name it. simsimd refused uint8
#   without a dtype, with an error; its "bin8" is unknown to numkong.
# Version: numkong 7.8.6, simsimd 6.5.16, numpy 2.4.6.
# Hurts: who ranks packed codes with it after moving from simsimd: 32-bit codes get distances from 0 to 4, nearly all of
#   them 4, so that rankings and MAPs look weak, but not broken.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/v"
"$dir/v/bin/pip" install -q numkong==7.8.6 simsimd==6.5.16 numpy==2.4.6
cd "$dir"
"$dir/v/bin/python" - <<'P'
import numkong
import numpy as np
import simsimd

codes = np.random.default_rng(0).integers(0, 256, (1000, 4), dtype=np.uint8)  # 32 bits
queries = codes[:10]
bits = np.bitwise_count(queries[:, None] ^ codes).sum(-1)
n_bytes = (queries[:, None] != codes).sum(-1)


def is_bits(found):
    found = np.asarray(found)
    assert np.array_equal(found, bits) or np.array_equal(found, n_bytes)
    return bool(np.array_equal(found, bits))


seen = {"no dtype": is_bits(numkong.cdist(queries, codes, metric="hamming"))}
seen |= {name: is_bits(numkong.cdist(queries, codes, metric="hamming", dtype=name)) for name in ("u1", "uint1")}
print("numkong 7.8.6 counts bits:", seen)
print(f"mean distance: {bits.mean():.2f} bits, {n_bytes.mean():.2f} bytes; docstring names uint1: {'uint1' in numkong.hamming.__doc__}")
old = is_bits(simsimd.cdist(queries, codes, metric="hamming", dtype="bin8"))
try:
    simsimd.cdist(queries, codes, metric="hamming")
    refused = False
except LookupError:
    refused = True
print(f"simsimd 6.5.16: bin8 counts bits: {old}; uint8 without a dtype refused: {refused}")
assert seen == {"no dtype": False, "u1": False, "uint1": True} and "'u1'" in numkong.hamming.__doc__ and old and refused
P
