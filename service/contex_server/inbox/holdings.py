"""What agents hold: of each datum who was sent it, and which revision last.

It is kept by data key, apart from inboxes, and outlives what these let go of. A holding stays when
the agent was told that the datum is gone, for it is still to be told of an erasure.

Layout of a datum's holders: `_HOLDING` of each agent, by its number.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

_HOLDING = struct.Struct("<III7sB")
DIGEST_BYTES = 7
_HELD, _EXACT = 1, 2


class Holding(NamedTuple):
    """What an agent was sent of a datum.

    Attributes:
        first: The revision that it was sent first.
        last: And last.
        digest: The beginning of the digest of that one's text.
        held: Whether the agent takes the datum to be there; False once it was told otherwise.
        exact: It met filters alone: these are tested anew even where its text stays the same.
    """

    first: int
    last: int
    digest: bytes
    held: bool
    exact: bool = False


Holders = dict[int, Holding]


def unpack_holders(stored: bytes) -> Holders:
    """Reads what `pack_holders` wrote."""
    return {
        number: Holding(first, last, digest, bool(flags & _HELD), bool(flags & _EXACT))
        for number, first, last, digest, flags in _HOLDING.iter_unpack(stored)
    }


def pack_holders(holders: Mapping[int, Holding]) -> bytes:
    """Holders as they are stored."""
    pack = _HOLDING.pack
    return b"".join(
        [
            pack(number, first, last, digest, held * _HELD | exact * _EXACT)
            for number, (first, last, digest, held, exact) in sorted(holders.items())
        ]
    )
