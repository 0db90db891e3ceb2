"""Cursors and page tokens: opaque outside, checked inside. See docs/adr/0002.

Layout, base64url without padding: 1 byte kind, 4 bytes CRC-32 over the project, the kind
and the content, then the content: a position as two big-endian 64-bit integers, a text, or
several such integers and a text.
The checksum finds damage and mix-ups between projects. It is no protection against forgery,
and need not be: a cursor grants nothing.
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from enum import IntEnum, unique
from functools import lru_cache

from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.model import END_OF_TIME, Sequence

_HEAD = struct.Struct(">BI")
_POSITION = struct.Struct(">QQ")


@unique
class Token(IntEnum):
    """What a token is for; one kind is never taken for another."""

    CURSOR = 1
    BACKWARDS = 2
    EVENTS_PAGE = 3
    AGENTS_PAGE = 4
    STATE_PAGE = 5
    DIFF_PAGE = 6
    HISTORY_PAGE = 7
    DELIVERIES_PAGE = 8
    DELIVERIES_BACK_PAGE = 9
    RECEIVERS_PAGE = 10
    AUDIT_PAGE = 11
    AUDIT_BACK_PAGE = 12
    EXPORT = 13


def encode_position(token: Token, project: str, position: Sequence) -> str:
    """A token for a position in the project's log."""
    return _encode(token, project, _POSITION.pack(position.ms, position.n))


def decode_position(token: Token, project: str, text: str, field: str) -> Sequence:
    """Reads what `encode_position` wrote.

    Raises:
        ContexError: CURSOR_INVALID.
    """
    rest = _decode(token, project, text, field)
    if len(rest) != _POSITION.size:
        raise _invalid(field)
    position = Sequence(*_POSITION.unpack(rest))
    if position == END_OF_TIME:
        # Forged: there can be no event at this position, and no token is made for it.
        raise _invalid(field)
    return position


def encode_text(token: Token, project: str, value: str) -> str:
    """A token that carries a text."""
    return _encode(token, project, value.encode())


def decode_text(token: Token, project: str, text: str, field: str) -> str:
    """Reads what `encode_text` wrote.

    Raises:
        ContexError: CURSOR_INVALID.
    """
    try:
        return _decode(token, project, text, field).decode()
    except UnicodeDecodeError as error:
        raise _invalid(field) from error


def encode_place(token: Token, project: str, numbers: tuple[int, ...], value: str = "") -> str:
    """A token that carries numbers, of 64 bits each, and a text."""
    return _encode(token, project, struct.pack(f">{len(numbers)}Q", *numbers) + value.encode())


def decode_place(
    token: Token, project: str, text: str, field: str, count: int
) -> tuple[tuple[int, ...], str]:
    """Reads what `encode_place` wrote with `count` numbers.

    Raises:
        ContexError: CURSOR_INVALID.
    """
    rest = _decode(token, project, text, field)
    try:
        numbers = struct.unpack_from(f">{count}Q", rest)
        return numbers, rest[8 * count :].decode()
    except (struct.error, UnicodeDecodeError) as error:
        raise _invalid(field) from error


def invalid_token(field: str) -> ContexError:
    """The refusal of an intact token that does not belong to this call."""
    return _invalid(field)


@lru_cache(maxsize=1_024)
def _checksum_start(token: Token, project: str) -> int:
    return zlib.crc32(bytes([token]) + project.encode() + b"\0")


def _encode(token: Token, project: str, rest: bytes) -> str:
    head = _HEAD.pack(token, zlib.crc32(rest, _checksum_start(token, project)))
    return base64.urlsafe_b64encode(head + rest).rstrip(b"=").decode()


def _decode(token: Token, project: str, text: str, field: str) -> bytes:
    try:
        raw = base64.b64decode(text.encode() + b"=" * (-len(text) % 4), b"-_", validate=True)
        kind, checksum = _HEAD.unpack_from(raw)
    except (binascii.Error, struct.error, UnicodeError) as error:
        raise _invalid(field) from error
    rest = raw[_HEAD.size :]
    if kind != token or zlib.crc32(rest, _checksum_start(token, project)) != checksum:
        raise _invalid(field)
    return rest


def _invalid(field: str) -> ContexError:
    return ContexError(
        Reason.CURSOR_INVALID,
        f"{field}: damaged, or made for another project or call",
        field=field,
    )
