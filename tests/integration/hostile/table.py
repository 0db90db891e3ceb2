"""How a request is refused, one case after the other."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from contex.v1 import event_pb2
from contex_server.api.shared.cursors import Token
from contex_server.kernel.model import END_OF_TIME, Sequence
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from tests.integration.hostile.scene import METHODS, VALID
from tests.integration.support import P


@dataclass(frozen=True)
class Case:
    """A request, and how it must be refused.

    Attributes:
        field: What BadRequest names; empty where the error concerns no field.
        says: A part of the message.
        metadata: Names of the facts that ErrorInfo gives.
    """

    rpc: str
    name: str
    request: Callable[[], Message | bytes]
    reason: str = "INVALID_FIELD"
    field: str = ""
    code: str = "INVALID_ARGUMENT"
    says: str = ""
    metadata: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.rpc}-{self.name}"

    @property
    def raw(self) -> bytes:
        request = self.request()
        return request if isinstance(request, bytes) else request.SerializeToString()


CASES: list[Case] = []


def refuse(rpc: str, name: str, field: str = "", /, *, expect: Any = None, **changes: Any) -> None:
    """A valid request of the RPC with some fields changed is refused."""

    def request() -> Message:
        message: Any = type(VALID[rpc])()
        message.CopyFrom(VALID[rpc])
        for key, value in changes.items():
            if isinstance(value, list):
                message.ClearField(key)
                getattr(message, key).extend(value)
            elif isinstance(value, Message):
                getattr(message, key).CopyFrom(value)
            else:
                setattr(message, key, value)
        return message

    case = Case(rpc, name, request, field=field)
    CASES.append(replace(case, **expect) if expect else case)


def raw(rpc: str, name: str, body: Callable[[], bytes]) -> None:
    CASES.append(Case(rpc, name, body, "MALFORMED_REQUEST"))


def some(every: dict[str, str], *names: str) -> dict[str, str]:
    """What is tried where the same check has been tried thoroughly on another RPC."""
    return {name: every[name] for name in names}


NASTY = {
    "space": "a b",
    "newline": "a\nb",
    "trailing newline": "a\n",
    "carriage return": "a\r",
    "NUL": "a\0b",
    "tab": "a\tb",
    "umlaut": "ä",
    "full width": "\uff41\uff42\uff43",
    "foreign digits": "٣٤",
    "right to left": "\u202eabc",
    "zero width": "a\u200bb",
    "byte order mark": "\ufeffa",
    "emoji": "😀",
    "combining": "e\u0301",
    "quote": "a'b",
    "backslash": "a\\b",
    "hash tag": "{a}",
    "injection": "a\r\nDEL x\r\n",
}


UNPRINTABLE = {
    **some(
        NASTY,
        *("newline", "trailing newline", "carriage return", "NUL", "tab", "right to left"),
        *("zero width", "byte order mark", "injection"),
    ),
    "escape": "a\x1b[2Jb",
    "next line": "a\x85b",
    "line separator": "a\u2028b",
    "paragraph separator": "a\u2029b",
    "noncharacter": "a\uffff",
    "last of all": "\U0010ffff",
    "tag": "a\U000e0061",
}
"""What no name may have that is any printable text."""
AROUND = {
    "space first": " a",
    "space last": "a ",
    "no-break space last": "a\xa0",
    "ideographic space first": "\u3000a",
    "blank": " ",
    "joiner first": "\u200da",
    "joiner alone": "\u200c",
}
"""What it may have inside only."""
UNPRINTABLE_FEW = ("empty", "one too long", "trailing newline", "NUL")


def fields_of(rpc: str) -> dict[str, FieldDescriptor]:
    return METHODS[rpc].input_type.fields_by_name  # type: ignore[return-value]


def long_names(limit: int) -> dict[str, str]:
    return {"one too long": "a" * (limit + 1), "far too long": "a" * 100_000}


FIRST = {f"first is {c}": f"{c}a" for c in "-_.:/@+"}


FEW = ("empty", "one too long", "trailing newline", "NUL", "emoji")


MALFORMED = {
    "cut off": b"\x0a\x05abc",
    "endless varint": b"\x08" + b"\xff" * 11,
    "field zero": b"\x00\x01",
    "end of no group": b"\x0c",
    "open group": b"\x0b",
    "groups without end": b"\x0b" * 10_000,
    "wire type 7": b"\x0f\x00",
    "length beyond 2 GiB": b"\x0a\xff\xff\xff\xff\x0f",
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "JSON": b'{"project": "shop"}',
}


def varint(n: int) -> bytes:
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def nested(path: tuple[int, ...], value: bytes) -> bytes:
    """A message with bytes at one place."""
    for number in reversed(path):
        value = varint(number << 3 | 2) + varint(len(value)) + value
    return value


NO_SEQUENCE = {
    "word": "x",
    "minus": "-",
    "negative": "-1",
    "negative pair": "-1-0",
    "negative n": "1--1",
    "no n": "1-",
    "no ms": "-0",
    "three parts": "1-2-3",
    "leading zero": "01-0",
    "leading zero n": "1-01",
    "plus": "+1",
    "decimal": "1.5",
    "exponent": "1e3",
    "hexadecimal": "0x1",
    "underscore": "1_000",
    "space": " 1",
    "newline": "1-0\n",
    "NUL": "1\0",
    "full width": "\uff11-0",
    "foreign digits": "٣-0",
    "en dash": "1\u20130",
    "beyond 64 bits": "18446744073709551616",
    "n beyond 64 bits": "1-18446744073709551616",
    "exclusive": "(1-0",
    "star": "*",
    "far too long": "9" * 100_000,
}


LAST = str(END_OF_TIME)
EDGES = [Sequence(0, 0), Sequence(0, 1), Sequence(2**63, 0), Sequence(2**64 - 1, 0), END_OF_TIME]


def position(**fields: Any) -> event_pb2.Position:
    return event_pb2.Position(**fields)


def sequence_change(field: str, text: str) -> dict[str, Any]:
    container, _, leaf = field.partition(".")
    return {container: position(sequence=text)} if leaf else {field: text}


FUTURE = {
    "reason": "SEQUENCE_IN_FUTURE",
    "code": "OUT_OF_RANGE",
    "metadata": frozenset({"tail_sequence"}),
}


NO_TIME = {
    "before 1970": Timestamp(seconds=-1),
    "long before": Timestamp(seconds=-(2**63)),
    "after 9999": Timestamp(seconds=253_402_300_800),
    "long after": Timestamp(seconds=2**63 - 1),
    "negative nanos": Timestamp(seconds=5, nanos=-1),
    "too many nanos": Timestamp(seconds=5, nanos=1_000_000_000),
    "negative second, many nanos": Timestamp(seconds=-1, nanos=999_999_999),
}


def forged(token: Token, rest: bytes, project: str = P) -> str:
    """A token with a right checksum."""
    checksum = zlib.crc32(rest, zlib.crc32(bytes([token]) + project.encode() + b"\0"))
    head = struct.pack(">BI", token, checksum)
    return base64.urlsafe_b64encode(head + rest).rstrip(b"=").decode()


BAD_METADATA: dict[str, dict[str, str]] = {
    "too many": {str(i): "" for i in range(33)},
    "far too many": {str(i): "" for i in range(20_000)},
    "too large": {"k": "v" * 4_096},
    "too large in emoji": {"k": "😀" * 1_024},
    "too large together": {f"k{i:02}": "v" * 130 for i in range(32)},
    "empty key": {"": "v"},
    "long key": {"k" * 65: "v"},
}
