"""What an agent is told of an event, as bytes: `contex.v1.MatchedEvent` without its `event`.

They are made out of an inbox's entry as it is stored, by joining: what stays the same of a need is
made once. Making the messages takes ten times as long. `tests/unit/inbox/test_wire.py` holds it to
the real parser.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from functools import lru_cache

from contex.v1 import event_pb2

from contex_server.inbox.entry import (
    COSINES,
    NEED_BYTES,
    NUMBERS,
    RELATIVE_NEED_BYTES,
    SHARES,
    STANDINGS,
    UNKNOWN_VERSION,
    Head,
    Version,
)
from contex_server.kernel.model import Change
from contex_server.kernel.protobuf import field, varint
from contex_server.matching.describe import Description

_MATCHES = 2 << 3 | 2
_MATCH_HEAD = bytes([_MATCHES])
_PAYLOAD_OMITTED = bytes([3 << 3, 1])
_KINDS = {change: bytes([6 << 3, change]) for change in Change}
_MATCH_PARTS, _MATCH_PATH, _MATCH_PASSAGE = (number << 3 | 2 for number in (4, 5, 6))

_DOUBLE = 1
_SCORE = 3 << 3 | _DOUBLE
_COSINE, _MEAN, _DEVIATION, _STANDING, _USUAL, _COVERAGE, _EXPECTED, _LEXICAL, _SHARE = (
    number << 3 | _DOUBLE for number in (1, 4, 5, 6, 12, 13, 14, 7, 11)
)
_NUMBERS = struct.Struct("<" + 7 * "Bd")
"""Of ScoreParts, what differs from match to match."""
_RELATIVE_NUMBERS = struct.Struct("<" + 2 * "Bd")
_NUMBER = struct.Struct("<Bd")
_HALVES = struct.Struct("<ee")
_LEVEL = struct.Struct("<f")


class Teller:
    """Tells of the entries of an agent's inbox; what is the same in several is made once.

    Args:
        texts: The words of needs by id.
        versions: What decisions were made by.
    """

    def __init__(self, texts: Mapping[str, str], versions: Mapping[int, Version]) -> None:
        self._texts = texts
        self._versions = versions
        self._passed: dict[bytes, bytes] = {}
        self._starts: dict[tuple[bytes, bytes, int], bytes] = {}

    def told(self, head: Head, quotes: Mapping[int, bytes], *, omitted: bool = False) -> bytes:
        """What an entry tells.

        Args:
            quotes: The `quote` of each passage that decided.
            omitted: The event's payload is left out.
        """
        kind = _KINDS[head.change] + _PAYLOAD_OMITTED if omitted else _KINDS[head.change]
        exact = head.exact
        if exact:
            if (passed := self._passed.get(exact)) is None:
                passed = self._passed[exact] = self._filters(head)
            kind += passed
        if head.worded:
            return kind + b"".join(self._in_words(head, quotes))
        return kind

    def _filters(self, head: Head) -> bytes:
        texts = self._texts
        return b"".join([_exact(raw, n, texts.get(raw.hex(), "")) for raw, n in head.filters()])

    def _in_words(self, head: Head, quotes: Mapping[int, bytes]) -> Iterator[bytes]:
        worded, version = head.worded, head.version
        size = RELATIVE_NEED_BYTES if head.relative else NEED_BYTES
        for at in range(0, len(worded), size):
            need, level = worded[at : at + 5], worded[at + 25 : at + 29]
            start = self._starts.get((need, level, version))
            if start is None:
                start = self._start(need, level, version, head.relative)
                self._starts[need, level, version] = start
            score, passage, cosine, standing, mean, deviation, usual, coverage, expected = (
                NUMBERS.unpack_from(worded, at + 5)
            )
            numbers = _NUMBERS.pack(
                _COSINE,
                COSINES[cosine],
                _MEAN,
                COSINES[mean],
                _DEVIATION,
                SHARES[deviation],
                _STANDING,
                STANDINGS[standing],
                _USUAL,
                COSINES[usual],
                _COVERAGE,
                SHARES[coverage],
                _EXPECTED,
                SHARES[expected],
            )
            if head.relative:
                lexical, share = _HALVES.unpack_from(worded, at + NEED_BYTES)
                numbers += _RELATIVE_NUMBERS.pack(
                    _LEXICAL, round(lexical, 4), _SHARE, round(share, 3)
                )
            score_field = _NUMBER.pack(_SCORE, round(score, 6))
            quote = quotes.get(passage, b"")
            content_size = len(start) + len(numbers) + len(score_field) + len(quote)
            yield b"".join((_MATCH_HEAD, varint(content_size), start, numbers, score_field, quote))

    def _start(self, need: bytes, level: bytes, version: int, relative: bool) -> bytes:
        by = self._versions.get(version, UNKNOWN_VERSION)
        raw, index = need[:4], need[4]
        (threshold,) = _LEVEL.unpack(level)
        return _start(raw, index, self._texts.get(raw.hex(), ""), threshold, by, relative)


@lru_cache(maxsize=4_096)
def _exact(raw: bytes, index: int, text: str) -> bytes:
    match = event_pb2.Match(need_index=index, need=text, score=1.0, need_id=raw.hex())
    return field(_MATCHES, match.SerializeToString())


def quote(description: Description, passage: int) -> bytes:
    """The fields of `contex.v1.Match` that quote a passage."""
    quoted = description.quoted(passage)
    path = field(_MATCH_PATH, quoted.path.encode()) if quoted.path else b""
    return path + field(_MATCH_PASSAGE, quoted.text.encode())


@lru_cache(maxsize=4_096)
def _start(
    raw: bytes, index: int, text: str, threshold: float, by: Version, relative: bool
) -> bytes:
    """A match of a need up to the numbers of its parts, which follow."""
    match = event_pb2.Match(need_index=index, need=text, need_id=raw.hex())
    parts = event_pb2.ScoreParts(
        threshold=round(threshold, 6),
        model=by.model,
        scorer=by.scorer,
        background_passages=by.data,
        background_sequence="0" if by.background == "0-0" else by.background,
    ).SerializeToString()
    size = len(parts) + _NUMBERS.size + (_RELATIVE_NUMBERS.size if relative else 0)
    return match.SerializeToString() + bytes([_MATCH_PARTS]) + varint(size) + parts
