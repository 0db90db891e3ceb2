"""What is published: requests as bytes, made before the clock starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import count

from contex.v1 import event_service_pb2

EXAMPLE = event_service_pb2.NewEvent(
    data_key="api_config",
    payload=b'{"base_url":"https://api.example.com","timeout":30}',
    description="API endpoint and timeouts",
)
"""The documentation's example event."""

BATCH = 64
_PUBLISH = bytes([1 << 3 | 2])
_REQUEST_ID_HEAD = bytes([3 << 3 | 2, 32])


KEYS = 64
_timeouts = count(1)


def example() -> event_service_pb2.NewEvent:
    """The example with another timeout, under one of `KEYS` keys.

    Each payload is new, but the describing texts are as few as the keys: they are known.
    """
    timeout = next(_timeouts)
    return event_service_pb2.NewEvent(
        data_key=f"api_config_{timeout % KEYS}",
        payload=b'{"base_url":"https://api.example.com","timeout":%d}' % timeout,
        description=EXAMPLE.description,
    )


def request(project: str, events: Sequence[event_service_pb2.NewEvent]) -> bytes:
    """A PublishRequest."""
    return event_service_pb2.PublishRequest(project=project, events=events).SerializeToString()


def in_stream(raw: bytes) -> bytes:
    """The PublishStreamRequest of a PublishRequest."""
    return _PUBLISH + encode_varint(len(raw)) + raw


def encode_varint(value: int) -> bytes:
    """A number as protobuf writes lengths."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def with_request_id(raw: bytes) -> bytes:
    """The request with a fresh random id of 32 characters, as our clients send it."""
    return b"".join((raw, _REQUEST_ID_HEAD, os.urandom(16).hex().encode()))
