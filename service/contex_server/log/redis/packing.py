"""Publishes as the store's function takes them: columns in MessagePack.

One argument for each field would cost the store more to read than the loop over them, and this
process more to write; see docs/adr/0032.
"""

from __future__ import annotations

from collections.abc import Sequence

from contex_server.kernel.model import DATA_PUBLISHED, Append

_SMALL = 128
"""Numbers below are one byte, which is the number."""


def packed(appends: Sequence[Append], model: str) -> bytes:
    """The columns of some publishes; see `append_packed` in functions/events.lua.

    Args:
        appends: What is appended.
        model: Of two models, one's vectors are left to be computed when they are needed.
    """
    vectors: dict[bytes, bytes] = {}
    names: dict[str, int] = {"": 0}
    texts: dict[str, int] = {}
    lanes: dict[int, int] = {}
    ids: list[str] = []
    origins: list[int] = []
    publishers: list[int] = []
    counts: list[int] = []
    lane_of: list[int] = []
    slots: list[int] = []
    described: list[int] = []
    digests: list[bytes] = []
    bodies: list[bytes] = []
    expected: dict[int, str] = {}
    was: dict[int, str] = {}
    kinds: dict[int, str] = {}
    tombstones: dict[int, str] = {}
    validity: dict[int, str] = {}
    known = origin = None
    number = 0
    for append in appends:
        if append.vectors and append.model == model:
            vectors.update(append.vectors)
        if append.origin is not known:
            known = append.origin
            origin = texts.setdefault(str(known), len(texts) + 1)
        ids.append(append.request_id)
        origins.append(origin or 0)
        publishers.append(texts.setdefault(append.publisher, len(texts) + 1))
        counts.append(len(append.events))
        lane = append.lane
        lane_of.append(0 if lane is None else lanes.setdefault(id(lane), len(lanes) + 1))
        for event in append.events:
            number += 1
            key, text = event.data_key, event.described
            slot = names.get(key)
            if slot is None:
                slot = names[key] = len(names)
            slots.append(slot)
            place = texts.get(text)
            if place is None:
                place = texts[text] = len(texts) + 1
            described.append(place)
            digests.append(event.digest)
            bodies.append(event.body)
            if event.was != "*":
                was[number] = event.was
            if event.event_type != DATA_PUBLISHED:
                kinds[number] = event.event_type
            if event.tombstone:
                tombstones[number] = "T"
            if event.expected_revision is not None:
                expected[number] = str(event.expected_revision)
            elif event.expected_state:
                expected[number] = event.expected_state
            if event.validity:
                validity[number] = event.validity
    del names[""]
    out: list[bytes] = []
    _put_strings(out, [item for pair in vectors.items() for item in pair])
    _put_strings(out, [name.encode() for name in names])
    _put_strings(out, [text.encode() for text in texts])
    _put_strings(out, [request_id.encode() for request_id in ids])
    for numbers in (origins, publishers, counts, lane_of, slots, described):
        _put_numbers(out, numbers)
    _put_strings(out, digests)
    _put_strings(out, bodies)
    for some in (expected, was, kinds, tombstones, validity):
        _put_map(out, some)
    return b"".join(out)


def _put_numbers(out: list[bytes], numbers: Sequence[int]) -> None:
    out.append(_array(len(numbers)))
    if max(numbers, default=0) < _SMALL:
        out.append(bytes(numbers))
    else:
        out += map(_number, numbers)


def _put_strings(out: list[bytes], strings: Sequence[bytes]) -> None:
    out.append(_array(len(strings)))
    if max(map(len, strings), default=0) < len(_HEADS):
        out += [part for string in strings for part in (_HEADS[len(string)], string)]
    else:
        out += [part for string in strings for part in (_string(len(string)), string)]


def _put_map(out: list[bytes], some: dict[int, str]) -> None:
    if not some:
        out.append(b"\x80")
        return
    out.append(b"\xdf" + len(some).to_bytes(4, "big"))
    for number, text in some.items():
        out.append(_number(number))
        _put_string(out, text.encode())


def _put_string(out: list[bytes], string: bytes) -> None:
    out += (_string(len(string)), string)


def _array(size: int) -> bytes:
    return b"\xdd" + size.to_bytes(4, "big")


def _number(value: int) -> bytes:
    return bytes((value,)) if value < _SMALL else b"\xce" + value.to_bytes(4, "big")


def _string(size: int) -> bytes:
    """What stands before a string of so many bytes."""
    if size < 32:
        return bytes((0xA0 | size,))
    if size < 1 << 8:
        return b"\xd9" + size.to_bytes(1, "big")
    if size < 1 << 16:
        return b"\xda" + size.to_bytes(2, "big")
    return b"\xdb" + size.to_bytes(4, "big")


_HEADS = [_string(size) for size in range(2_048)]
