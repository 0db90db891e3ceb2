"""A segment is the same however its events are put in."""

from __future__ import annotations

import random

import pytest
from contex_server.kernel.blocks import BLOCK_BYTES
from contex_server.kernel.model import Entry
from contex_server.tiers.segment import SegmentBuilder


@pytest.mark.parametrize("seed", range(8))
def test_many_at_once_are_the_same_as_one_by_one(seed: int) -> None:
    rng = random.Random(seed)
    sizes = (1, 300, BLOCK_BYTES // 3, BLOCK_BYTES, 2 * BLOCK_BYTES)
    entries = [
        Entry(b"1-%d" % n, rng.randbytes(rng.choice(sizes) if rng.random() < 0.1 else 200))
        for n in range(1, rng.randrange(2, 3_000))
    ]
    contents = [
        (rng.choice(["", "a", "b", f"k{n}"]), rng.choice("xy")) for n in range(len(entries))
    ]
    one, many = SegmentBuilder("p", 0, ""), SegmentBuilder("p", 0, "")
    for entry, what in zip(entries, contents, strict=True):
        one.add([entry], [what])
    start = 0
    while start < len(entries):
        end = start + rng.randrange(0, 900)
        many.add(entries[start:end], contents[start:end])
        start = end
    assert (many.events, many.body_bytes) == (one.events, one.body_bytes)
    assert many.seal().data == one.seal().data
