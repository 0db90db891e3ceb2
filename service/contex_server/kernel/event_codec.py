"""Between events and their bytes in the log: a serialised `contex.v1.Event` without its sequence.

The sequence is the entry's id and is not repeated in the body.

What is stored may have been damaged since. It costs no more than itself: a body that is no event
is read as an event of type `event_damaged` without a data key, whose `erased` says so. So readers
of everything see that something is missing in its place; one who filters can't be told whether it
would have passed. A later revision of its key goes on, and `verify` names it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from contex.v1 import event_pb2
from google.protobuf.message import DecodeError

from contex_server.kernel.model import (
    DELETIONS,
    SEALED_TAG,
    Entry,
    Erasure,
    Event,
    KeyState,
    Links,
    Proven,
    Sequence,
)
from contex_server.kernel.protobuf import field, timestamp
from contex_server.kernel.scope import Scope

_links = _key_state = tuple.__new__
_parse = event_pb2.Event.FromString
assert event_pb2.Event.SEALED_FIELD_NUMBER << 3 | 2 == SEALED_TAG
_DESCRIPTION = event_pb2.Event.DESCRIPTION_FIELD_NUMBER << 3 | 2
_OPAQUE = bytes([12 << 3, 1])
"""Event.opaque = true."""
_NO_METADATA: dict[str, str] = {}
PROOF_BYTES = 8
DAMAGED = "event_damaged"
"""The type of what is no event."""
_DAMAGE = "damaged: what is stored can't be read"
_LAST_MS = 253_402_300_799_999
"""The end of the year 9999, where a Timestamp ends."""


def decode(entry: Entry) -> Event:
    """Reads an entry; one that is no event as one that is damaged."""
    try:
        return decode_new(entry)
    except ValueError:
        return Event(entry.sequence, DAMAGED, erased=_damage(entry))


def decode_new(entry: Entry) -> Event:
    """Reads an entry that is not stored yet.

    Raises:
        ValueError: It is not an event.
    """
    try:
        message = _parse(entry.body)
    except DecodeError as error:
        raise ValueError(f"no event: {error}") from error
    previous = message.previous_sequence
    return Event(
        sequence=entry.sequence,
        event_type=message.event_type,
        data_key=message.data_key,
        payload=message.payload,
        content_type=message.content_type,
        description=message.description,
        publisher=message.publisher,
        revision=message.revision,
        previous_sequence=Sequence.parse(previous) if previous else None,
        text_digest=message.text_digest,
        opaque=message.opaque,
        erased=_erasure(message.erased) if message.HasField("erased") else None,
        metadata=dict(message.metadata) if message.metadata else _NO_METADATA,
        valid_until_ms=_valid_until_ms(message),
        claimed_publisher=message.claimed_publisher,
    )


def key_state(entry: Entry) -> KeyState | None:
    """The state of an entry's data key after it; None if it is about none."""
    try:
        message = _parse(entry.body)
    except DecodeError:
        return None
    data_key = message.data_key
    if not data_key:
        return None
    return _key_state(
        KeyState,
        (
            data_key,
            message.revision,
            entry.sequence,
            message.event_type in DELETIONS,
            message.text_digest,
        ),
    )


def entry(event: Event) -> Entry:
    """The entry that is read as this event."""
    previous = event.previous_sequence
    message = event_pb2.Event(
        event_type=event.event_type,
        data_key=event.data_key,
        payload=event.payload,
        content_type=event.content_type,
        description=event.description,
        publisher=event.publisher,
        metadata=event.metadata,
        revision=event.revision,
        previous_sequence="" if previous is None else str(previous),
        text_digest=event.text_digest,
        opaque=event.opaque,
        erased=None if event.erased is None else _erased_message(event.erased),
        valid_until=None if event.valid_until_ms is None else timestamp(event.valid_until_ms),
        claimed_publisher=event.claimed_publisher,
    )
    body = message.SerializeToString(deterministic=True)
    return Entry(str(event.sequence).encode(), body)


def content_key(entry: Entry) -> tuple[bytes, int]:
    """Equal for entries with the same content, of which the same can be quoted; for caches."""
    message = _message(entry)
    content = (
        message.payload,
        message.content_type,
        message.description,
        message.data_key,
        message.event_type,
    )
    return message.text_digest, hash(content)


def seal(body: bytes, lock: Callable[[bytes, bytes], bytes]) -> bytes:
    """A body without its payload and description, which `lock` encrypts, given what they
    must stay with. It begins with `SEALED_TAG`, the length of what `lock` made as a
    varint, and that."""
    message = _parse(body)
    content = event_pb2.Event(payload=message.payload, description=message.description)
    message.ClearField("payload")
    message.ClearField("description")
    # In front, where it is found without a search.
    sealed = lock(content.SerializeToString(), _bound_to(message))
    return field(SEALED_TAG, sealed) + message.SerializeToString()


def unseal(entry: Entry, unlock: Callable[[bytes, bytes], bytes | Erasure | None]) -> Entry:
    """The entry that was sealed; `unlock` undoes `lock`, or tells that it was erased, or can't.
    What is not sealed, or is no event, is returned as it is."""
    try:
        message = _parse(entry.body)
    except DecodeError:
        return entry
    if not message.sealed:
        return entry
    content = unlock(message.sealed, _bound_to(message))
    if content is None:
        content = _damage(entry)
    if isinstance(content, Erasure):
        return _erased(entry, message, content)
    message.ClearField("sealed")
    message.MergeFromString(content)
    return Entry(entry.id, message.SerializeToString())


def erase(entry: Entry, erasure: Erasure) -> Entry:
    """The entry without its payload and description; unless it has none any more."""
    message = _message(entry)
    if message.HasField("erased"):
        return entry
    return _erased(entry, message, erasure)


def is_foreign(entry: Entry) -> bool:
    """Whether an event has what no export holds: sealed content, or a sequence in its body."""
    message = _message(entry)
    return bool(message.sealed or message.sequence)


def has_content(entry: Entry) -> bool:
    """Whether an entry has a payload or a description, sealed or not."""
    message = _message(entry)
    return bool(message.payload or message.description or message.sealed)


def _erased(entry: Entry, message: event_pb2.Event, erasure: Erasure) -> Entry:
    digest = hashlib.sha256(message.sealed or message.payload).digest()
    for name in ("payload", "description", "sealed", "text_digest", "opaque"):
        message.ClearField(name)
    message.erased.CopyFrom(_erased_message(replace(erasure, digest=digest)))
    return Entry(entry.id, message.SerializeToString())


def links(entry: Entry) -> Links:
    """What ties an entry to others; nothing one that is damaged."""
    message = _message(entry)
    return _links(
        Links,
        (
            message.data_key,
            message.revision,
            message.previous_sequence,
            message.text_digest,
            message.event_type,
            message.publisher,
            _valid_until_ms(message),
        ),
    )


def proven(entry: Entry) -> Proven:
    """An entry's sequence, with the proof of what stands there."""
    return Proven.of(entry.sequence, proof(entry))


def proof(entry: Entry) -> bytes:
    """Eight bytes that no other event with this sequence has; none for one that is damaged.

    Sealing, erasure and compaction don't change what they are made of.
    """
    link = links(entry)
    if link.event_type == DAMAGED:
        return b""
    tied = link.event_type, link.data_key, str(link.revision), link.previous_sequence
    text = "\0".join((*tied, link.publisher))
    return hashlib.blake2b(text.encode(), digest_size=PROOF_BYTES).digest()


def contents(entry: Entry) -> tuple[str, str]:
    """What an event is filed under: its data key, or "", and its type; what is no event
    has neither."""
    try:
        message = _parse(entry.body)
    except DecodeError:
        return "", ""
    return message.data_key, message.event_type


def is_admitted(entry: Entry, scope: Scope) -> bool:
    """Whether one who sees a scope may see an event."""
    return scope.is_open or scope.admits(contents(entry)[0])


def without_payload(entry: Entry) -> Entry:
    """The same entry with an empty payload."""
    message = _message(entry)
    message.ClearField("payload")
    return Entry(entry.id, message.SerializeToString())


def encode(event_type: str, payload: bytes, metadata: dict[str, str]) -> bytes:
    """The body of an event that the service itself writes; the payload is JSON."""
    return event_pb2.Event(
        event_type=event_type, payload=payload, metadata=metadata
    ).SerializeToString()


def with_description(body: bytes, description: str) -> bytes:
    """The body of an event that had no description."""
    return body + _description(description)


@lru_cache(maxsize=1_024)
def _description(description: str) -> bytes:
    return field(_DESCRIPTION, description.encode())


def payload_of(body: bytes) -> bytes:
    """The payload of an event that is not sealed."""
    return _parse(body).payload


def mark_opaque(body: bytes) -> bytes:
    """The body of an event whose payload can't be described."""
    return body + _OPAQUE


def readable(entry: Entry) -> Entry:
    """The entry as every client can read it: itself, or what stands for one that is damaged."""
    try:
        _parse(entry.body)
    except DecodeError:
        return Entry(entry.id, _message(entry).SerializeToString())
    return entry


def is_damaged(event: Event) -> bool:
    """Whether an event, or what it sealed, is not as it was stored."""
    erased = event.erased
    return erased is not None and (erased.request_id, erased.reason) == ("", _DAMAGE)


def _message(entry: Entry) -> event_pb2.Event:
    try:
        return _parse(entry.body)
    except DecodeError:
        return event_pb2.Event(event_type=DAMAGED, erased=_erased_message(_damage(entry)))


def _damage(entry: Entry) -> Erasure:
    return Erasure(entry.sequence.ms, "", _DAMAGE)


def _bound_to(message: event_pb2.Event) -> bytes:
    """What a sealed content must stay with."""
    return f"{message.event_type}\0{message.data_key}".encode()


def _valid_until_ms(message: event_pb2.Event) -> int | None:
    if not message.HasField("valid_until"):
        return None
    time = message.valid_until
    # A file can say anything.
    return min(max(time.seconds * 1000 + time.nanos // 1_000_000, 0), _LAST_MS)


def _erasure(message: event_pb2.Erased) -> Erasure:
    return Erasure(
        message.time.ToMilliseconds(), message.request_id, message.reason, message.payload_digest
    )


def _erased_message(erasure: Erasure) -> event_pb2.Erased:
    return event_pb2.Erased(
        time=timestamp(erasure.unix_ms),
        request_id=erasure.request_id,
        reason=erasure.reason,
        payload_digest=erasure.digest,
    )
