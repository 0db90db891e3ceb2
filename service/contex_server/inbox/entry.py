"""What was decided to be sent to an agent, as an inbox keeps it.

Layout: 1 byte change, and 16 if the event is another one than that of the entry's id; the version
and the revision as varints; the event as two varints, if it is another; 1 byte number of needs in
words that are met, `_NEED` of each, or, if 64 is set with the change, `_RELATIVE_NEED`, as projects
of earlier versions may have; if 32 is set, the same of filters, `_EXACT` of each; the data key.
Scores and thresholds keep six digits, their parts four.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from contex_server.kernel.model import Change, Match, Sequence
from contex_server.kernel.protobuf import varint
from contex_server.matching.filter_index import exact_match_of

_NEED = struct.Struct("<4sBfHhehHhHHf")
_RELATIVE_NEED = struct.Struct(_NEED.format + "ee")
_EXACT = struct.Struct("<4sB")
_ANOTHER, _FILTERS, _RELATIVE = 16, 32, 64
_UNIT, _COSINE = 65_535, 32_767


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


def decode(
    body: bytes, at: Sequence, needs: Mapping[str, str], versions: Mapping[int, Version]
) -> Decision:
    """Reads what `encode` wrote; `needs` are the words of needs by id."""
    change, place = body[0], 1
    version, place = _varint(body, place)
    revision, place = _varint(body, place)
    event = at
    if change & _ANOTHER:
        ms, place = _varint(body, place)
        n, place = _varint(body, place)
        event = Sequence(ms, n)
    count = body[place]
    place += 1
    layout = _RELATIVE_NEED if change & _RELATIVE else _NEED
    end = place + count * layout.size
    by = versions.get(version, UNKNOWN_VERSION)
    matches = tuple(
        [_match(parts, needs, by) for parts in layout.iter_unpack(body[place:end])] if count else ()
    )
    if change & _FILTERS:
        place = end + 1
        end = place + body[end] * _EXACT.size
        exact = [_exact(parts, needs) for parts in _EXACT.iter_unpack(body[place:end])]
        matches = (*exact, *matches)
    key = body[end:].decode()
    return Decision(Change(change & _ANOTHER - 1), event, revision, key, matches, version)


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
        _cosine(cosine),
        round(float(standing), 3),
        round(lexical, 4),
        round(share, 3),
        _cosine(mean),
        _unit(deviation),
        round(level, 6),
        by.model,
        by.scorer,
        by.data,
        _background(by.background),
        usual=_cosine(usual),
        coverage=_unit(coverage),
        expected=_unit(expected),
        need_id=need_id,
    )


def _unit(value: Any) -> float:
    return round(int(value) / _UNIT, 4)


def _cosine(value: Any) -> float:
    return round(int(value) / _COSINE, 4)


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
