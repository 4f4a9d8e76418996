"""Keyed permutations of any size: one place costs the same whatever the size, and the bits are ours on every machine.

P places.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Words = NDArray[np.uint64]

FEISTEL_ROUNDS = 6


def permute(index: Indices, size: Indices, key: Words) -> Indices:
    """Where keyed permutations of 0 ... size - 1 send each index: a Feistel network, walked until it lands inside.

    Args:
        index: (P,) with 0 <= index < size.
        size: (P,) lengths of the permutations.
        key: (P,) which permutation; equal keys and sizes are one permutation.
    """
    highest = np.maximum(size.astype(np.uint64), np.uint64(2)) - np.uint64(1)
    half = (_bit_length(highest) + np.uint64(1)) // np.uint64(2)
    out = index.astype(np.uint64)
    walking = np.arange(len(out))
    while len(walking):  # the network's domain is at most 4 times the size: 4 turns on average, at most
        out[walking] = _feistel(out[walking], half[walking], key[walking])
        walking = walking[out[walking] >= size[walking].astype(np.uint64)]
    return out.astype(np.int64)


def _feistel(value: Words, half: Words, key: Words) -> Words:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = value >> half, value & mask
    for turn in range(FEISTEL_ROUNDS):
        left, right = right, left ^ (mix(right ^ mix(key + np.uint64(turn))) & mask)
    return (left << half) | right


def mix(value: Words) -> Words:
    """splitmix64's finaliser: 64 bits to 64 bits, each depending on all."""
    with np.errstate(over="ignore"):
        value = value + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _bit_length(value: Words) -> Words:
    bits = np.zeros(len(value), dtype=np.uint64)
    rest = value.copy()
    while rest.any():
        bits += rest > 0
        rest >>= np.uint64(1)
    return bits


def key_of(*parts: int | str) -> int:
    """63 bits that are a pure function of the parts."""
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8], "big") >> 1
