"""Protobuf's wire format, as far as messages are joined out of bytes by hand."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp


def varint(value: int) -> bytes:
    """A number as a base-128 varint."""
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(tag: int, value: bytes) -> bytes:
    """A length-delimited field; `tag` is its number * 8 + 2."""
    return bytes([tag]) + varint(len(value)) + value


def timestamp(unix_ms: int) -> Timestamp:
    """Unix milliseconds as the API has them."""
    return Timestamp(seconds=unix_ms // 1000, nanos=unix_ms % 1000 * 1_000_000)
