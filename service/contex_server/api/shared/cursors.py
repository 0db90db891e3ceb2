"""Cursors and page tokens: opaque outside, checked inside. See docs/adr/0002.

Layout, base64url without padding: 1 byte kind, 4 bytes CRC-32 over the realm, the kind
and the content, then the content: a position as two big-endian 64-bit integers and the proof of
the event that stands there, a text, or several such integers and a text.
The realm of a stream's cursor is the project. That of a page token is `Call.realm`: who sees only a
part of the project has tokens of that part. See docs/adr/0034.
The checksum finds damage and mix-ups between realms. It is no protection against forgery,
and need not be: a token grants nothing, as what is read from there on is checked anew. What can't
be decoded is refused with CURSOR_INVALID.
"""

from __future__ import annotations

import base64
import binascii
import string
import struct
import zlib
from enum import IntEnum, unique
from functools import lru_cache

from contex.v1 import state_service_pb2 as state_pb

from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.event_codec import PROOF_BYTES
from contex_server.kernel.inbox_ids import LAST_ENTRY, entry_of, event_of, inbox_id
from contex_server.kernel.model import BEGINNING, END_OF_TIME, Proven, Sequence

_HEAD = struct.Struct(">BI")
_POSITION = struct.Struct(">QQ")
_NO_EVENT = bytes(PROOF_BYTES)
Listing = state_pb.GetStateRequest | state_pb.DiffStatesRequest | state_pb.GetHistoryRequest


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
    PROJECTS_PAGE = 14
    INBOX = 15
    PARKED_PAGE = 16
    CONSUMED = 17
    KEYS_PAGE = 18
    BINDINGS_PAGE = 19


def encode_position(token: Token, realm: str, position: Sequence) -> str:
    """A token for a position in the project's log.

    With the proof of the event there: zeros if none is known to be there, left out if it is not
    known which one is there.
    """
    proof = position.proof if isinstance(position, Proven) else _NO_EVENT
    return _encode(token, realm, _POSITION.pack(position.ms, position.n) + proof)


def decode_position(token: Token, realm: str, text: str, field: str = "page_token") -> Sequence:
    """Reads what `encode_position` wrote, also what was written before tokens had proofs."""
    content = _content(token, realm, text, field)
    if len(content) not in (_POSITION.size, _POSITION.size + PROOF_BYTES):
        raise invalid_token(field)
    position, proof = Sequence(*_POSITION.unpack_from(content)), content[_POSITION.size :]
    if position == END_OF_TIME:
        # Forged: there can be no event at this position, and no token is made for it.
        raise invalid_token(field)
    return position if position == BEGINNING or proof == _NO_EVENT else Proven.of(position, proof)


def encode_inbox(token: Token, project: str, place: Sequence) -> str:
    """A token for a place in an agent's inbox.

    It is the cursor of the event there, unless it is inside of what the event brought.
    """
    entry, event = entry_of(place), event_of(place)
    if not entry:
        return encode_position(Token.CURSOR, project, event)
    return encode_place(token, project, (event.ms, event.n, entry))


def decode_inbox(project: str, text: str, field: str) -> Sequence:
    """The place in an inbox that a cursor names."""
    try:
        return inbox_id(decode_position(Token.CURSOR, project, text, field))
    except ContexError:
        pass
    try:
        (ms, n, entry), rest = decode_place(Token.INBOX, project, text, field, 3)
    except ContexError:
        (ms, n, entry, _), rest = decode_place(Token.CONSUMED, project, text, field, 4)
    if rest or entry > LAST_ENTRY:
        raise invalid_token(field)
    return inbox_id(Sequence(ms, n), entry)


def encode_consumed(project: str, place: Sequence, message: int) -> str:
    """A token for a place in an inbox, and the number of the message that says so."""
    event = event_of(place)
    numbers = event.ms, event.n, entry_of(place), message
    return encode_place(Token.CONSUMED, project, numbers)


def decode_consumed(project: str, text: str, field: str) -> int:
    """The number of the message in a token that `encode_consumed` wrote."""
    (*_, message), rest = decode_place(Token.CONSUMED, project, text, field, 4)
    if rest:
        raise invalid_token(field)
    return message


def encode_text(token: Token, realm: str, value: str) -> str:
    """A token that carries a text."""
    return _encode(token, realm, value.encode())


def decode_text(token: Token, realm: str, text: str, field: str = "page_token") -> str:
    """Reads what `encode_text` wrote; "" if there is no token."""
    return decode_place(token, realm, text, field, 0)[1] if text else ""


def encode_place(token: Token, realm: str, numbers: tuple[int, ...], value: str = "") -> str:
    """A token that carries numbers, of 64 bits each, and a text."""
    return _encode(token, realm, struct.pack(f">{len(numbers)}Q", *numbers) + value.encode())


_ALPHABET = frozenset(f"{string.ascii_letters}{string.digits}-_")


def decode_place(
    token: Token, realm: str, text: str, field: str, count: int
) -> tuple[tuple[int, ...], str]:
    """Reads what `encode_place` wrote with `count` numbers."""
    content = _content(token, realm, text, field)
    try:
        return struct.unpack_from(f">{count}Q", content), content[8 * count :].decode()
    except (struct.error, UnicodeError) as error:
        raise invalid_token(field) from error


def _content(token: Token, realm: str, text: str, field: str) -> bytes:
    try:
        if not _ALPHABET.issuperset(text):  # b64decode takes "/" for "_", too.
            raise invalid_token(field)
        raw = base64.b64decode(text.encode() + b"=" * (-len(text) % 4), b"-_", validate=True)
        kind, checksum = _HEAD.unpack_from(raw)
        content = raw[_HEAD.size :]
        if kind == token and zlib.crc32(content, _checksum_start(token, realm)) == checksum:
            return content
    except (binascii.Error, struct.error, UnicodeError) as error:
        raise invalid_token(field) from error
    raise invalid_token(field)


def page_token(
    token: Token, realm: str, request: Listing, numbers: tuple[int, ...], last: str = ""
) -> str:
    """A token that carries some numbers, and the key to continue after."""
    return encode_place(token, realm, (fingerprint(request), *numbers), last)


def read_page_token(
    token: Token, realm: str, request: Listing, count: int
) -> tuple[tuple[int, ...], str] | None:
    """Reads what `page_token` wrote with `count` numbers for the same request; None: no token."""
    if not request.page_token:
        return None
    numbers, last = decode_place(token, realm, request.page_token, "page_token", count + 1)
    if numbers[0] != fingerprint(request):
        raise invalid_token("page_token")
    return numbers[1:], last


def fingerprint(request: Listing) -> int:
    """A checksum of all fields that must not change from page to page."""
    same = type(request)()
    same.CopyFrom(request)  # type: ignore[arg-type]
    same.ClearField("page_token")
    same.ClearField("page_size")
    return zlib.crc32(same.SerializeToString(deterministic=True))


def invalid_token(field: str) -> ContexError:
    """The refusal of a token that is damaged, or does not belong to this call."""
    problem = f"{field}: damaged, or made for another project or call, or with other rights"
    return ContexError(Reason.CURSOR_INVALID, problem, field=field)


@lru_cache(maxsize=1_024)
def _checksum_start(token: Token, realm: str) -> int:
    return zlib.crc32(bytes([token]) + realm.encode() + b"\0")


def _encode(token: Token, realm: str, rest: bytes) -> str:
    head = _HEAD.pack(token, zlib.crc32(rest, _checksum_start(token, realm)))
    return base64.urlsafe_b64encode(head + rest).rstrip(b"=").decode()
