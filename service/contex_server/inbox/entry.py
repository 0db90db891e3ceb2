"""What was decided to be sent to an agent, as an inbox keeps it.

Layout: 1 byte change, and 16 if the event is another one than that of the entry's id; the version
and the revision as varints; the event as two varints, if it is another; 1 byte number of needs in
words that are met, `_NEED` of each, or, if 64 is set with the change, `_RELATIVE_NEED`, as projects
of earlier versions may have; if 32 is set, the same of filters, `_EXACT` of each; the data key.
Scores and thresholds keep six digits, their parts four.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from contex_server.kernel.model import Change, Match, Sequence
from contex_server.kernel.protobuf import varint
from contex_server.matching.filter_index import exact_match_of

_NEED = struct.Struct("<4sBfHhehHhHHf")
_RELATIVE_NEED = struct.Struct(_NEED.format + "ee")
NEED_BYTES, RELATIVE_NEED_BYTES = _NEED.size, _RELATIVE_NEED.size
NUMBERS = struct.Struct("<fHHHHHHHH")
"""Of a need what lies between its id with its index and its threshold, as the tables below take
it."""
_EXACT = struct.Struct("<4sB")
_ANOTHER, _FILTERS, _RELATIVE = 16, 32, 64
_UNIT, _COSINE = 65_535, 32_767
SHARES = [round(number / _UNIT, 4) for number in range(_UNIT + 1)]
"""Numbers from 0 to 1 as they are told, by how they are stored."""
COSINES = [round(n / _COSINE, 4) for n in (*range(_COSINE + 1), *range(-_COSINE - 1, 0))]
"""Likewise cosines; the negative ones count from the end."""
STANDINGS = [
    round(value, 3) for (value,) in struct.iter_unpack("<e", struct.pack("<65536H", *range(65_536)))
]
"""Likewise standings, stored as half floats."""
_CHANGES = {int(change): change for change in Change}
_head = tuple.__new__


@dataclass(frozen=True, slots=True)
class Decision:
    """What an agent is sent of an event.

    Attributes:
        event: The event.
        matches: The needs that were met, best first; none where it is no longer met.
        version: The number of the model and background that it was decided by.
    """

    change: Change
    event: Sequence
    revision: int
    data_key: str
    matches: tuple[Match, ...]
    version: int = 0


class Version(NamedTuple):
    """What decisions were made by.

    Attributes:
        background: The event since which the background holds.
        data: How many data it sums up.
        margin: How far below its threshold a need has to fall to be no longer met.
    """

    model: str
    scorer: str
    background: str
    data: int
    margin: float

    def pack(self) -> bytes:
        """As it is stored."""
        return orjson.dumps(tuple(self))

    @classmethod
    def unpack(cls, stored: bytes) -> Version:
        """Reads what `pack` wrote."""
        return cls(*orjson.loads(stored))


UNKNOWN_VERSION = Version("", "", "0", 0, 0.0)


def encode(decision: Decision, at: Sequence) -> bytes:
    """A decision that is kept under the id of an event's entry."""
    another = decision.event != at
    worded = [match for match in decision.matches if not match.exact]
    exact = [match for match in decision.matches if match.exact]
    relative = any(match.share for match in worded)
    flags = another * _ANOTHER | bool(exact) * _FILTERS | relative * _RELATIVE
    parts = [
        bytes([decision.change | flags]),
        varint(decision.version),
        varint(decision.revision),
    ]
    if another:
        parts += (varint(decision.event.ms), varint(decision.event.n))
    parts.append(bytes([len(worded)]))
    parts += map(_relative_need if relative else _need, worded)
    if exact:
        parts.append(bytes([len(exact)]))
        parts += [_EXACT.pack(bytes.fromhex(m.need_id), min(m.need_index, 255)) for m in exact]
    parts.append(decision.data_key.encode())
    return b"".join(parts)


def _need(match: Match) -> bytes:
    return _NEED.pack(
        bytes.fromhex(match.need_id),
        min(match.need_index, 255),
        match.score,
        min(match.passage, _UNIT),
        _signed(match.cosine),
        max(-60_000.0, min(match.standing, 60_000.0)),
        _signed(match.mean),
        min(round(match.deviation * _UNIT), _UNIT),
        _signed(match.usual),
        round(match.coverage * _UNIT),
        min(round(match.expected * _UNIT), _UNIT),
        match.threshold,
    )


def _relative_need(match: Match) -> bytes:
    return _need(match) + struct.pack("<ee", match.lexical, max(-60_000.0, match.share))


def _signed(value: float) -> int:
    return round(max(-1.0, min(value, 1.0)) * _COSINE)


class Head(NamedTuple):
    """An entry, with its needs as they are stored.

    Attributes:
        version: The number of what it was decided by.
        worded: The needs in words that were met, one after the other.
        exact: The filters that were passed, likewise.
        relative: Whether those in words have scores relative to other data.
    """

    change: Change
    event: Sequence
    revision: int
    data_key: str
    version: int
    worded: bytes
    exact: bytes
    relative: bool

    @property
    def passages(self) -> list[int]:
        """The numbers of the passages by which needs in words were met."""
        return [need[3] for need in self.needs_in_words()]

    def needs_in_words(self) -> Iterator[tuple[Any, ...]]:
        """The needs in words that were met, unpacked."""
        return (_RELATIVE_NEED if self.relative else _NEED).iter_unpack(self.worded)

    def filters(self) -> Iterator[tuple[Any, ...]]:
        """The filters that were passed, unpacked."""
        return _EXACT.iter_unpack(self.exact)


def read(body: bytes, at: Sequence) -> Head:
    """Reads what `encode` wrote."""
    flags, version, place = body[0], body[1], 2
    # Without calls: streams that catch up read tens of thousands a second.
    if version > 127:
        if (more := body[2]) < 128:
            version, place = version & 127 | more << 7, 3
        elif (most := body[3]) < 128:
            version, place = version & 127 | (more & 127) << 7 | most << 14, 4
        else:
            version, place = _varint(body, 1)
    revision = body[place]
    if revision < 128:
        place += 1
    elif (more := body[place + 1]) < 128:
        revision = revision & 127 | more << 7
        place += 2
    else:
        revision, place = _varint(body, place)
    event = at
    if flags & _ANOTHER:
        ms, place = _varint(body, place)
        n, place = _varint(body, place)
        event = Sequence(ms, n)
    count = body[place]
    place += 1
    worded = exact = b""
    if count:
        end = place + count * (RELATIVE_NEED_BYTES if flags & _RELATIVE else NEED_BYTES)
        worded, place = body[place:end], end
    if flags & _FILTERS:
        end = place + 1 + body[place] * _EXACT.size
        exact, place = body[place + 1 : end], end
    fields = (
        _CHANGES[flags & _ANOTHER - 1],
        event,
        revision,
        str(body[place:], "utf-8"),
        version,
        worded,
        exact,
        bool(flags & _RELATIVE),
    )
    return _head(Head, fields)


def is_of_datum(head: Head) -> bool:
    """Whether an entry tells of a datum what a later one of the same datum tells anew."""
    return bool(head.data_key) and head.change is not Change.ERASED


def decode(head: Head, needs: Mapping[str, str], versions: Mapping[int, Version]) -> Decision:
    """What was decided; `needs` are the words of needs by id."""
    by = versions.get(head.version, UNKNOWN_VERSION)
    matches = (
        *[_exact(parts, needs) for parts in head.filters()],
        *[_match(parts, needs, by) for parts in head.needs_in_words()],
    )
    return Decision(head.change, head.event, head.revision, head.data_key, matches, head.version)


def _exact(parts: tuple[Any, ...], needs: Mapping[str, str]) -> Match:
    raw, index = parts
    need_id = raw.hex()
    return exact_match_of(int(index), needs.get(need_id, ""), need_id)


def _match(parts: tuple[Any, ...], needs: Mapping[str, str], by: Version) -> Match:
    raw, index, score, passage, cosine, standing, mean, deviation, *rest = parts
    usual, coverage, expected, level, *relative = rest
    lexical, share = relative or (0.0, 0.0)
    need_id = raw.hex()
    return Match(
        int(index),
        needs.get(need_id, ""),
        round(score, 6),
        int(passage),
        COSINES[cosine],
        round(float(standing), 3),
        round(lexical, 4),
        round(share, 3),
        COSINES[mean],
        SHARES[deviation],
        round(level, 6),
        by.model,
        by.scorer,
        by.data,
        _background(by.background),
        usual=COSINES[usual],
        coverage=SHARES[coverage],
        expected=SHARES[expected],
        need_id=need_id,
    )


@lru_cache(maxsize=1_024)
def _background(text: str) -> Sequence:
    return Sequence.parse(text)


def _varint(body: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = body[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
