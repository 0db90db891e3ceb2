"""The native format: frames.

    "CTXEXP1\\n"
    frames, each:
        uint8   kind
        uint32  length of the payload; all numbers are little-endian
        uint32  CRC-32 of the frame's number in the file (uint64, from 0), its kind and payload
        bytes   payload

    M  the manifest, JSON: first
    E  events: a block, see kernel/blocks.py
    A  agents: a JSON array of [id, cursor, record in base64]
    D  what was decided for agents: uint8 version of its layout, 1; then a block whose ids are names
       of tables, and whose bodies a uint16 length, a name of that length, and a value:
         anew       ""              what came in frames before does not count
         shard      a number        up to which event it is decided for its agents
         own        an agent        the same, where it is behind its shard
         numbers    ""              how many numbers of agents were given out
         record     an agent        what decides for it; "" if deciding has not come to it
         version    a number        a model and background that decisions name
         place      an agent        where it stands inside of what an event brought
         holders:N  a data key      which agents of shard N were sent it
         trimmed    an agent        "<id> <summed up> <dropped>": up to where its inbox is trimmed
         base       an agent        an entry: its id, a space and what was decided
         inbox      an agent        likewise
         parked     an agent        a delivery that consumers have put aside: a JSON array of its
                                    id, its place in the inbox, attempts, consumer and why; a line
                                    feed; what was decided
       They come before the agents, and both before the events.
    V  vectors: a block whose ids are the texts' digests in hexadecimal
    B  backgrounds of scores: a block whose ids are their events' sequences
    S  settings: JSON
    Z  the summary, JSON: last. Its digest is a `Chain` over all frames before it.

The number in the CRC reveals where a frame was moved or left out.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import asdict

import orjson

from contex_server.kernel import event_codec
from contex_server.kernel.blocks import BlockDamaged, decode_block, encode_block
from contex_server.kernel.model import Entry, Sequence
from contex_server.kernel.right_of_way import giving
from contex_server.log.agents import AgentRecord
from contex_server.log.groups import Parked
from contex_server.log.inboxes import CarriedDecisions, InboxEntry, Trimmed
from contex_server.transfer import items

MAGIC = b"CTXEXP1\n"
_HEAD = struct.Struct("<BII")
_NAME = struct.Struct("<H")
_NUMBER = struct.Struct("<QB")
_MAX_BYTES = 64 * 1024 * 1024
_MAX_HEAD_BYTES = 64 * 1024
"""Of manifest, settings and summary."""
_MAX_ROWS = 100_000
"""Agents in a frame; in memory, JSON is many times as large as it is as text."""
_MANIFEST, _EVENTS, _AGENTS, _VECTORS, _BACKGROUNDS, _SETTINGS, _SUMMARY = b"MEAVBSZ"
_DECISIONS = b"D"[0]
_LAYOUT = 1
"""The layout of what was decided; another one is refused."""


class NativeWriter(items.Writer):
    """Writes frames."""

    def begin(self, manifest: items.Manifest) -> bytes:
        return MAGIC + self._frame(_MANIFEST, orjson.dumps(asdict(manifest)))

    def events(self, entries: SequenceOf[Entry]) -> bytes:
        return self._frame(_EVENTS, encode_block(list(map(event_codec.readable, giving(entries)))))

    def agents(self, records: SequenceOf[AgentRecord]) -> bytes:
        rows = [[a.agent_id, str(a.cursor), base64.b64encode(a.record).decode()] for a in records]
        return self._frame(_AGENTS, orjson.dumps(rows))

    def decisions(self, part: CarriedDecisions) -> bytes:
        rows = [
            Entry(table.encode(), _NAME.pack(len(raw := name.encode())) + raw + value)
            for table, name, value in _rows(part)
        ]
        return self._frame(_DECISIONS, bytes([_LAYOUT]) + encode_block(rows))

    def vectors(self, encodings: Mapping[bytes, bytes]) -> bytes:
        rows = [Entry(digest.hex().encode(), data) for digest, data in sorted(encodings.items())]
        return self._frame(_VECTORS, encode_block(rows))

    def backgrounds(self, packed: Mapping[Sequence, bytes]) -> bytes:
        rows = [Entry(str(sequence).encode(), data) for sequence, data in sorted(packed.items())]
        return self._frame(_BACKGROUNDS, encode_block(rows))

    def settings(self, retention: bytes) -> bytes:
        return self._frame(_SETTINGS, orjson.dumps({"retention": retention.decode()}))

    def end(self, summary: items.Summary) -> bytes:
        return self._frame(_SUMMARY, orjson.dumps(asdict(summary)))

    def _frame(self, kind: int, payload: bytes) -> bytes:
        crc = zlib.crc32(payload, zlib.crc32(_NUMBER.pack(self.items, kind)))
        self.items += 1
        frame = _HEAD.pack(kind, len(payload), crc) + payload
        self.chain.add(frame)
        return frame


class NativeReader(items.Reader):
    """Reads frames."""

    exported = True
    noun = "frame"

    def __init__(self) -> None:
        super().__init__()
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[items.Item | None]:
        self._buffer += data
        at = 0
        try:
            if not self.offset:
                if len(self._buffer) < len(MAGIC):
                    return
                if not self._buffer.startswith(MAGIC):
                    raise self.malformed("not a native export")
                at = self.offset = len(MAGIC)
            while len(self._buffer) - at >= _HEAD.size:
                kind, length, crc = _HEAD.unpack_from(self._buffer, at)
                if length > _MAX_BYTES:
                    raise self.malformed(f"a frame of more than {_MAX_BYTES >> 20} MiB")
                start = at + _HEAD.size
                end = start + length
                if end > len(self._buffer):
                    return
                head, payload = bytes(self._buffer[at:start]), bytes(self._buffer[start:end])
                if zlib.crc32(payload, zlib.crc32(_NUMBER.pack(self.item, kind))) != crc:
                    raise self.malformed("a frame that is damaged or out of place")
                if self.ended:
                    raise self.malformed("data after the summary")
                item = self._read(kind, payload)
                self.chain.add(head, payload)
                self.offset += end - at
                self.item += 1
                at = end
                yield item
        finally:
            del self._buffer[:at]

    def finish(self) -> Iterator[items.Item | None]:
        if self._buffer or not self.ended:
            raise self.malformed("the file is truncated")
        return iter(())

    def _read(self, kind: int, payload: bytes) -> items.Item:
        if (kind == _MANIFEST) != (self.item == 0):
            raise self.malformed("the manifest is not the first frame")
        try:
            if kind == _EVENTS:
                return items.Events(decode_block(payload))
            if kind == _DECISIONS:
                if payload[:1] != bytes([_LAYOUT]):
                    raise ValueError("what was decided has the layout of a later version")
                return items.Decisions(_decisions(decode_block(payload[1:])))
            if kind == _VECTORS:
                rows = decode_block(payload)
                return items.Vectors({bytes.fromhex(row.id.decode()): row.body for row in rows})
            if kind == _BACKGROUNDS:
                return items.Backgrounds({row.sequence: row.body for row in decode_block(payload)})
            if kind != _AGENTS and len(payload) > _MAX_HEAD_BYTES:
                raise ValueError(f"more than {_MAX_HEAD_BYTES >> 10} KiB")
            if kind == _AGENTS and payload.count(b",") + payload.count(b"[") > 4 * _MAX_ROWS:
                raise ValueError(f"more than {_MAX_ROWS:,} agents")
            fields = orjson.loads(payload)
            if kind == _MANIFEST:
                return items.Manifest.of_json(fields)
            if kind == _AGENTS:
                return items.Agents([_agent(*row) for row in fields])
            if kind == _SETTINGS:
                return items.SettingsItem(str(fields["retention"]).encode())
            if kind == _SUMMARY:
                summary = items.Summary(**fields)
                if summary.digest != self.chain.digest:
                    raise self.malformed("the content does not match the digest")
                self.ended = True
                return summary
        except (BlockDamaged, ValueError, TypeError, KeyError, struct.error) as error:
            raise self.malformed(f"an invalid frame: {error}") from error
        raise self.malformed(f"a frame of unknown kind {kind}")


def _agent(agent_id: str, cursor: str, record: str) -> AgentRecord:
    return AgentRecord(agent_id, base64.b64decode(record, validate=True), Sequence.parse(cursor))


def _rows(part: CarriedDecisions) -> Iterator[tuple[str, str, bytes]]:
    """Tables, names and values."""
    if part.anew:
        yield "anew", "", b""
    for shard, position in part.shards.items():
        yield "shard", str(shard), str(position).encode()
    for agent_id, position in part.own.items():
        yield "own", agent_id, str(position).encode()
    if part.numbers:
        yield "numbers", "", str(part.numbers).encode()
    for agent_id, record in part.records.items():
        yield "record", agent_id, record
    for number, version in part.versions.items():
        yield "version", str(number), version
    for agent_id, place in part.places.items():
        yield "place", agent_id, str(place).encode()
    for shard, holders in part.holders.items():
        for data_key, packed in holders.items():
            yield f"holders:{shard}", data_key, packed
    for agent_id, trimmed in part.trimmed.items():
        yield "trimmed", agent_id, " ".join(map(str, trimmed)).encode()
    for table, inboxes in (("base", part.base), ("inbox", part.entries)):
        for agent_id, entries in giving(inboxes.items()):
            for (ms, n), body in entries:
                yield table, agent_id, b"%d-%d %b" % (ms, n, body)
    for agent_id, several in part.parked.items():
        for each in several:
            yield "parked", agent_id, _parked(each)


def _parked(parked: Parked) -> bytes:
    place, entry, attempts, consumer, why = parked
    head = orjson.dumps([str(place), str(entry.id), attempts, consumer, why])
    return head + b"\n" + entry.body


def _read_parked(value: bytes) -> Parked:
    head, _, decided = value.partition(b"\n")
    place, inbox_place, attempts, consumer, why = orjson.loads(head)
    entry = InboxEntry(Sequence.parse(inbox_place), decided)
    return Parked(Sequence.parse(place), entry, int(attempts), str(consumer), str(why))


def _decisions(rows: list[Entry]) -> CarriedDecisions:
    part = CarriedDecisions()
    for table, body in giving(rows):
        start = _NAME.size + _NAME.unpack_from(body)[0]
        name, value = body[_NAME.size : start].decode(), body[start:]
        kind, _, shard = table.decode().partition(":")
        match kind:
            case "anew":
                part.anew = True
            case "shard":
                part.shards[int(name)] = Sequence.parse(value.decode())
            case "own":
                part.own[name] = Sequence.parse(value.decode())
            case "numbers":
                part.numbers = int(value)
            case "record":
                part.records[name] = value
            case "version":
                part.versions[int(name)] = value
            case "place":
                part.places[name] = Sequence.parse(value.decode())
            case "holders":
                part.holders.setdefault(int(shard), {})[name] = value
            case "trimmed":
                upto, *counts = value.decode().split(" ")
                part.trimmed[name] = Trimmed(Sequence.parse(upto), *map(int, counts))
            case "base" | "inbox":
                place, _, decided = value.partition(b" ")
                entry = InboxEntry(Sequence.parse(place.decode()), decided)
                inboxes = part.base if kind == "base" else part.entries
                inboxes.setdefault(name, []).append(entry)
            case "parked":
                part.parked.setdefault(name, []).append(_read_parked(value))
            case _:
                raise ValueError(f"an unknown table {kind!r:.40}")
    return part
