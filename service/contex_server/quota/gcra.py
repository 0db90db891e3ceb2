"""When a rate allows what: the generic cell rate algorithm, as functions of values.

GCRA, as virtual scheduling, is from ITU-T I.371 and the ATM Forum's Traffic Management
Specification 4.0: a bucket is one number, the theoretical arrival time (TAT) of what comes next.
Units of a rate r move it on by 1/r seconds each, and fit while it is no further ahead of now than
the burst, which is one second's units here. Nothing has to be counted down, and a bucket that is
full is no number at all.

`functions/quota.lua` does the same in the store, for all servers; this is its model, and what a
server goes by while the store can't be asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

from contex_server.log.quota import Ask, Group, Taken

BURST_US = 1_000_000
_SLACK_US = 0.5


def wait_us(ahead_us: float, rate: int, units: int) -> float:
    """How long until units fit, if nobody takes others meanwhile; 0 if they fit now.

    More than one second's units fit when the bucket is full: else they never would.
    """
    cost = min(units * BURST_US / rate, BURST_US)
    return max(0.0, ahead_us + cost - BURST_US)


def take(ahead_us: Sequence[float], asks: Sequence[Ask], groups: Sequence[Group]) -> Taken:
    """What `QuotaStore.take` does with buckets that are so far ahead."""
    ahead = [
        before + ask.debt * BURST_US / ask.rate for before, ask in zip(ahead_us, asks, strict=True)
    ]
    taken = []
    for group in groups:
        fits = all(wait_us(ahead[i], asks[i].rate, units) <= _SLACK_US for i, units in group)
        taken.append(fits)
        if fits:
            for i, units in group:
                ahead[i] += units * BURST_US / asks[i].rate
    spares = []
    for i, ask in enumerate(asks):
        room = floor((BURST_US - ahead[i]) * ask.rate / BURST_US)
        spares.append(max(0, min(ask.spare, room)))
        ahead[i] += spares[i] * BURST_US / ask.rate
    return Taken(ahead, spares, taken)
