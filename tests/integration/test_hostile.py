"""Hostile input over the wire: every field of every RPC, refused as documented, no harm done."""

from __future__ import annotations

import asyncio
import base64
import struct
import tempfile
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from contex.v1 import (
    agent_service_pb2,
    audit_service_pb2,
    error_reason_pb2,
    event_pb2,
    event_service_pb2,
    match_service_pb2,
    project_service_pb2,
    state_service_pb2,
    transfer_service_pb2,
)
from contex.v1.agent_service_pb2 import (
    GetAgentContextRequest,
    ListDeliveriesRequest,
    MinDelta,
    Need,
)
from contex.v1.audit_service_pb2 import AuditFilter, ExportRecordsRequest, ListRecordsRequest
from contex.v1.match_service_pb2 import (
    AgentNeed,
    BacktestRequest,
    ExplainRequest,
    ExportFeedbackRequest,
    GetMatchingStatusRequest,
    MatchRequest,
    RecordFeedbackRequest,
)
from contex.v1.project_service_pb2 import (
    EraseDataRequest,
    GetActivityRequest,
    GetRetentionRequest,
    GetStatsRequest,
    RemoveEventsRequest,
    Retention,
    SetRetentionRequest,
    VerifyProjectRequest,
)
from contex.v1.state_service_pb2 import (
    DiffStatesRequest,
    GetBlameRequest,
    GetHistoryRequest,
    GetRevisionRequest,
    GetStateRequest,
    StreamStateRequest,
)
from contex.v1.transfer_service_pb2 import (
    ExportRequest,
    ImportRequest,
    ImportStart,
    KeyMapping,
    Redaction,
)
from contex_server.api.shared.cursors import Token, encode_place, encode_position, encode_text
from contex_server.api.state.servicer import fingerprint
from contex_server.app import Server
from contex_server.kernel.config import Settings
from contex_server.kernel.model import END_OF_TIME, RESERVED_TYPES, Sequence
from contex_server.log.embedded import EmbeddedValkey
from contex_server.matching.embedders import Embedder
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.integration.support import (
    DEADLINE_S,
    AcknowledgeRequest,
    Api,
    GetAgentRequest,
    GetEventRequest,
    ListAgentsRequest,
    ListenRequest,
    ListEventsRequest,
    NewEvent,
    P,
    PublishRequest,
    PublishStreamRequest,
    Refusal,
    RegisterAgentRequest,
    ReplayRequest,
    SubscribeRequest,
    UnregisterAgentRequest,
    UpdateAgentRequest,
    event,
    order,
    own,
    refusal,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

AGENT = "agent"
KIB, MIB = 1024, 1024 * 1024

SERVICES = (
    event_service_pb2.DESCRIPTOR.services_by_name["EventService"],
    agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"],
    match_service_pb2.DESCRIPTOR.services_by_name["MatchService"],
    state_service_pb2.DESCRIPTOR.services_by_name["StateService"],
    audit_service_pb2.DESCRIPTOR.services_by_name["AuditService"],
    project_service_pb2.DESCRIPTOR.services_by_name["ProjectService"],
    transfer_service_pb2.DESCRIPTOR.services_by_name["TransferService"],
)
METHODS: dict[str, MethodDescriptor] = {m.name: m for s in SERVICES for m in s.methods}

VALID: dict[str, Message] = {
    "Publish": PublishRequest(project=P, events=[event()]),
    "PublishStream": PublishStreamRequest(project=P, events=[event()]),
    "GetEvent": GetEventRequest(project=P, sequence="1-0"),
    "ListEvents": ListEventsRequest(project=P),
    "Replay": ReplayRequest(project=P),
    "Subscribe": SubscribeRequest(project=P),
    "RegisterAgent": RegisterAgentRequest(project=P, agent_id=AGENT, needs=["a need"]),
    "UpdateAgent": UpdateAgentRequest(project=P, agent_id=AGENT),
    "GetAgent": GetAgentRequest(project=P, agent_id=AGENT),
    "ListAgents": ListAgentsRequest(project=P),
    "UnregisterAgent": UnregisterAgentRequest(project=P, agent_id=AGENT),
    "Listen": ListenRequest(project=P, agent_id=AGENT),
    "Acknowledge": AcknowledgeRequest(project=P, agent_id=AGENT, sequence="0"),
    "Match": MatchRequest(project=P, questions=[Need(text="a question")]),
    "Explain": ExplainRequest(project=P, text="a need", data_key="k0"),
    "Backtest": BacktestRequest(project=P, needs=[Need(text="a need")]),
    "RecordFeedback": RecordFeedbackRequest(project=P, agent_id=AGENT, sequence="1-0"),
    "ExportFeedback": ExportFeedbackRequest(project=P),
    "GetMatchingStatus": GetMatchingStatusRequest(project=P),
    "GetAgentContext": GetAgentContextRequest(project=P, agent_id=AGENT),
    "ListDeliveries": ListDeliveriesRequest(project=P, agent_id=AGENT),
    "GetState": GetStateRequest(project=P),
    "StreamState": StreamStateRequest(project=P),
    "DiffStates": DiffStatesRequest(project=P, base=event_pb2.Position(sequence="0")),
    "GetHistory": GetHistoryRequest(project=P, data_key="k0"),
    "GetRevision": GetRevisionRequest(project=P, data_key="k0", revision=1),
    "GetBlame": GetBlameRequest(project=P, data_key="k0"),
    "ListRecords": ListRecordsRequest(project=P),
    "ExportRecords": ExportRecordsRequest(project=P),
    "GetStats": GetStatsRequest(project=P),
    "GetRetention": GetRetentionRequest(project=P),
    "SetRetention": SetRetentionRequest(project=P),
    "RemoveEvents": RemoveEventsRequest(
        project=P, before=event_pb2.Position(sequence="1-0"), reason="a reason"
    ),
    "EraseData": EraseDataRequest(project=P, subject="nobody", request_id="r", reason="a reason"),
    "VerifyProject": VerifyProjectRequest(project=P),
    "GetActivity": GetActivityRequest(project=P),
    "Export": ExportRequest(project=P),
    "Import": ImportRequest(start=ImportStart(project="imported")),
}


# -- the server, one for all cases ---------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """A server with some events and an agent, and a raw view of its services."""

    server: Server
    api: Api
    defects: list[Any]

    async def call(self, rpc: str, *raws: bytes, answers: int = 1) -> list[bytes]:
        """Sends bytes as they are; returns the first answers, or raises the call's error."""
        method = METHODS[rpc]
        channel = self.api.channel
        path = f"/{method.containing_service.full_name}/{rpc}"
        if method.client_streaming:
            call: Any = channel.stream_stream(path)(timeout=DEADLINE_S)
            for raw in raws:
                await call.write(raw)
            await call.done_writing()
        elif method.server_streaming:
            call = channel.unary_stream(path)(raws[0], timeout=DEADLINE_S)
        else:
            return [await channel.unary_unary(path)(raws[0], timeout=DEADLINE_S)]
        read: list[bytes] = []
        while len(read) < answers and (answer := await call.read()) is not grpc.aio.EOF:
            read.append(answer)
        call.cancel()
        return read

    async def state(self) -> Any:
        """What a refused call must leave as it is."""
        log = self.server.log
        bounds = await log.bounds(P)
        return bounds._replace(now_ms=0), await log.agents(P, "", 10)

    async def count(self) -> int:
        return len((await self.api.page(page_size=1_000)).events)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(minilm: Embedder) -> AsyncIterator[Scene]:
    # A short name: Unix sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="ctx") as directory, capture_logs() as logs:
        store = EmbeddedValkey(Path(directory))
        await store.start()
        server = await Server.start(
            Settings(port=0, data_dir=Path(directory)),
            store.url,
            embedder=minilm,
        )
        async with Api.of(server) as api:
            for i in range(3):
                await api.publish(event(f"k{i}"))
            await api.register(AGENT, "a need")
            yield Scene(server, api, logs)
        await server.stop()
        await store.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def unharmed(scene: Scene) -> AsyncIterator[Scene]:
    """The scene, which must be the same after the test, and the server must answer."""
    scene.defects.clear()
    before, count = await scene.state(), await scene.count()
    yield scene
    assert await scene.state() == before
    assert await scene.count() == count
    assert [entry for entry in scene.defects if entry["event"] == "internal_error"] == []


# -- the table -----------------------------------------------------------------------


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


def fields_of(rpc: str) -> dict[str, FieldDescriptor]:
    return METHODS[rpc].input_type.fields_by_name  # type: ignore[return-value]


def long_names(limit: int) -> dict[str, str]:
    return {"one too long": "a" * (limit + 1), "far too long": "a" * 100_000}


FIRST = {f"first is {c}": f"{c}a" for c in "-_.:/@+"}


def some(every: dict[str, str], *names: str) -> dict[str, str]:
    """What is tried where the same check has been tried thoroughly on another RPC."""
    return {name: every[name] for name in names}


# Names: project and agent_id of every RPC that has them. Of PublishStream: see its own test.
# Of Import: below.
_FEW = ("empty", "one too long", "trailing newline", "NUL", "emoji")
for _rpc in sorted(METHODS.keys() - {"PublishStream", "Import"}):
    _bad = {"empty": "", **long_names(64), **NASTY, **FIRST, "slash": "a/b"}
    for _name, _text in (_bad if _rpc == "Publish" else some(_bad, *_FEW)).items():
        refuse(_rpc, f"project {_name}", "project", project=_text)
    if "agent_id" in fields_of(_rpc):
        _bad = {"empty": "", **long_names(128), **NASTY, **FIRST, "star": "*"}
        for _name, _text in (_bad if _rpc == "RegisterAgent" else some(_bad, *_FEW)).items():
            refuse(_rpc, f"agent_id {_name}", "agent_id", agent_id=_text)

# An agent that nobody registered.
for _rpc in (
    "UpdateAgent",
    "GetAgent",
    "UnregisterAgent",
    "Listen",
    "Acknowledge",
    "RecordFeedback",
    "GetAgentContext",
):
    for _where, _changes in {"here": {"agent_id": "nobody"}, "there": {"project": "other"}}.items():
        refuse(
            _rpc,
            f"agent unknown {_where}",
            expect={
                "reason": "AGENT_NOT_FOUND",
                "code": "NOT_FOUND",
                "metadata": frozenset({"agent_id"}),
            },
            **_changes,
        )

# Bytes that are no message.
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
for _rpc in METHODS:
    for _name, _bytes in MALFORMED.items():
        raw(_rpc, f"malformed {_name}", lambda b=_bytes: b)  # type: ignore[misc]


def strings_of(message: Descriptor, prefix: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """The field numbers on the way to each string field."""
    for field in message.fields:
        path = (*prefix, field.number)
        if field.message_type is not None:
            yield from strings_of(field.message_type, path)
        elif field.type == FieldDescriptor.TYPE_STRING:
            yield path


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


# Text that is not UTF-8, in every string field.
for _rpc, _method in METHODS.items():
    for _path in strings_of(_method.input_type):
        for _name, _bytes in {
            "bytes": b"\xff\xfe",
            "surrogate": b"\xed\xa0\x80",
            "overlong": b"\xc0\xaf",
        }.items():
            raw(
                _rpc,
                f"not UTF-8 in {'.'.join(map(str, _path))} {_name}",
                lambda r=_rpc, p=_path, b=_bytes: VALID[r].SerializeToString() + nested(p, b),  # type: ignore[misc]
            )

# Sequences.
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


def position(**fields: Any) -> event_pb2.Position:
    return event_pb2.Position(**fields)


def sequence_change(field: str, text: str) -> dict[str, Any]:
    container, _, leaf = field.partition(".")
    return {container: position(sequence=text)} if leaf else {field: text}


MOMENTS = (
    ("GetAgentContext", "as_of"),
    ("GetState", "as_of"),
    ("StreamState", "as_of"),
    ("DiffStates", "base"),
    ("DiffStates", "target"),
    ("GetHistory", "as_of"),
    ("GetBlame", "as_of"),
    ("RemoveEvents", "before"),
)
FUTURE = {
    "reason": "SEQUENCE_IN_FUTURE",
    "code": "OUT_OF_RANGE",
    "metadata": frozenset({"tail_sequence"}),
}
for _rpc, _field in (
    ("GetEvent", "sequence"),
    ("ListEvents", "since.sequence"),
    ("ListEvents", "until.sequence"),
    ("Replay", "since.sequence"),
    ("Replay", "until.sequence"),
    ("Export", "since.sequence"),
    ("Export", "until.sequence"),
    ("Subscribe", "after_sequence"),
    ("RegisterAgent", "last_seen_sequence"),
    ("Listen", "after_sequence"),
    ("Acknowledge", "sequence"),
    *((_rpc, f"{_field}.sequence") for _rpc, _field in MOMENTS),
):
    _bad = {"empty": "", **NO_SEQUENCE}
    _few = ("empty", "negative", "newline", "beyond 64 bits", "far too long")
    for _name, _text in (_bad if _rpc == "GetEvent" else some(_bad, *_few)).items():
        refuse(_rpc, f"{_field} {_name}", _field, **sequence_change(_field, _text))
    if _rpc == "GetEvent":
        for _text in ("0", "5-5", LAST):
            refuse(
                _rpc,
                f"{_field} of no event {_text}",
                expect={"reason": "EVENT_NOT_FOUND", "code": "NOT_FOUND"},
                sequence=_text,
            )
    elif not _field.startswith("until"):
        for _text in ("9999999999999-0", f"{2**64 - 1}-0", LAST):
            refuse(
                _rpc, f"{_field} beyond {_text}", expect=FUTURE, **sequence_change(_field, _text)
            )

# Positions and times.
RANGES = (
    "ListEvents",
    "Replay",
    "Backtest",
    "ExportFeedback",
    "ListDeliveries",
    "ListRecords",
    "ExportRecords",
    "GetActivity",
    "Export",
)
NO_TIME = {
    "before 1970": Timestamp(seconds=-1),
    "long before": Timestamp(seconds=-(2**63)),
    "after 9999": Timestamp(seconds=253_402_300_800),
    "long after": Timestamp(seconds=2**63 - 1),
    "negative nanos": Timestamp(seconds=5, nanos=-1),
    "too many nanos": Timestamp(seconds=5, nanos=1_000_000_000),
    "negative second, many nanos": Timestamp(seconds=-1, nanos=999_999_999),
}
for _rpc, _field in (
    *((_rpc, "since") for _rpc in RANGES),
    *((_rpc, "until") for _rpc in RANGES),
    ("Match", "as_of"),
    ("Explain", "as_of"),
    *MOMENTS,
):
    refuse(_rpc, f"{_field} nowhere", _field, **{_field: position()})
    for _value in (-1, 253_402_300_800_000, 2**63 - 1, -(2**63)):
        refuse(
            _rpc,
            f"{_field} at {_value} ms",
            f"{_field}.unix_ms",
            **{_field: position(unix_ms=_value)},
        )
    for _name, _time in NO_TIME.items():
        refuse(_rpc, f"{_field} {_name}", f"{_field}.time", **{_field: position(time=_time)})
for _rpc, _field in (("Match", "as_of"), ("Explain", "as_of"), *MOMENTS):
    for _name, _place in {
        "time": position(time=Timestamp(seconds=253_402_300_799)),
        "unix_ms": position(unix_ms=253_402_300_799_999),
    }.items():
        refuse(
            _rpc,
            f"{_field} beyond by {_name}",
            expect={
                "reason": "TIME_IN_FUTURE",
                "code": "OUT_OF_RANGE",
                "metadata": frozenset({"now"}),
            },
            **{_field: _place},
        )
for _rpc in ("Match", "Explain"):
    for _text in ("", "-1-0", "x"):
        refuse(_rpc, f"as_of {_text}", "as_of.sequence", as_of=position(sequence=_text))
for _rpc in RANGES[2:]:
    for _text in ("", "-1-0", "x"):
        for _field in ("since", "until"):
            bad_place = {_field: position(sequence=_text)}
            refuse(_rpc, f"{_field} {_text}", f"{_field}.sequence", **bad_place)
for _rpc in ("ListEvents", "Replay", "ListDeliveries", "ListRecords"):
    for _value in (3, 99, -1, 2**31 - 1, -(2**31)):
        refuse(_rpc, f"order {_value}", "order", order=_value)
for _name, _time in NO_TIME.items():
    refuse("Subscribe", f"from_time {_name}", "from_time", from_time=_time)

# Sizes of pages, heartbeats.
for _rpc in (
    "ListEvents",
    "ListAgents",
    "GetState",
    "DiffStates",
    "GetHistory",
    "ListDeliveries",
    "ListRecords",
):
    for _value in (-1, 1_001, 2**31 - 1, -(2**31)):
        refuse(_rpc, f"page_size {_value}", "page_size", page_size=_value)
for _rpc in ("Subscribe", "Listen"):
    for _value in (1, 99, 60_001, 70_000, 2**32 - 1):
        refuse(
            _rpc,
            f"heartbeat {_value}",
            "heartbeat_interval_ms",
            heartbeat_interval_ms=_value,
        )

# Filters.
for _rpc in ("ListEvents", "Replay", "Subscribe", "Export"):
    for _list, _bad in {
        "event_types": {"empty": "", "digit": "1a", **long_names(64), **NASTY},
        "data_keys": {
            "empty": "",
            **long_names(256),
            **NASTY,
            "bracket": "[a-z]",
            "open bracket": "[",
        },
        "publishers": {**long_names(128), **NASTY, "star": "*"},
    }.items():
        _few = ("one too long", "trailing newline", "NUL", "emoji")
        for _name, _text in (_bad if _rpc == "ListEvents" else some(_bad, *_few)).items():
            refuse(
                _rpc,
                f"filter.{_list} {_name}",
                f"filter.{_list}[1]",
                filter=event_pb2.EventFilter(**{_list: ["fine", _text]}),
            )
        refuse(
            _rpc,
            f"filter.{_list} too many",
            f"filter.{_list}",
            filter=event_pb2.EventFilter(**{_list: ["a"] * 33}),
        )


# Cursors and page tokens.
def forged(token: Token, rest: bytes, project: str = P) -> str:
    """A token with a right checksum."""
    checksum = zlib.crc32(rest, zlib.crc32(bytes([token]) + project.encode() + b"\0"))
    head = struct.pack(">BI", token, checksum)
    return base64.urlsafe_b64encode(head + rest).rstrip(b"=").decode()


_SOME = Sequence(1_764_000_000_000, 0)


def bad_tokens(token: Token) -> dict[str, str]:
    whole = encode_position(token, P, _SOME)
    if token in (Token.AGENTS_PAGE, Token.RECEIVERS_PAGE):
        whole = encode_text(token, P, AGENT)
    changed = "B" if whole[12] == "A" else "A"
    return {
        "a letter": "x",
        "padding": "====",
        "no base64": "!!!!",
        "short": "AAAA",
        "of zeros": "A" * 28,
        "unicode": "é😀",
        "newline": whole + "\n",
        "space": f" {whole}",
        "NUL": f"{whole[:8]}\0{whole[9:]}",
        "cut": whole[:-4],
        "longer": whole + "AAAA",
        "damaged": whole[:12] + changed + whole[13:],
        "far too long": "A" * 200_000,
        "of another project": forged(token, struct.pack(">QQ", *_SOME), "other"),
        "too short inside": forged(token, b"\xff"),
        **{
            f"of kind {other.name}": encode_position(other, P, _SOME)
            for other in Token
            if other is not token
        },
        "of no kind": forged(255, struct.pack(">QQ", *_SOME)),  # type: ignore[arg-type]
    }


for _rpc, _field, _token, _more in (
    ("Subscribe", "cursor", Token.CURSOR, {}),
    ("Listen", "cursor", Token.CURSOR, {}),
    ("Acknowledge", "cursor", Token.CURSOR, {}),
    ("Replay", "cursor", Token.CURSOR, {}),
    ("Replay", "cursor", Token.BACKWARDS, {"order": event_pb2.ORDER_BACKWARDS}),
    ("ListEvents", "page_token", Token.EVENTS_PAGE, {}),
    ("ListAgents", "page_token", Token.AGENTS_PAGE, {}),
    ("ListDeliveries", "page_token", Token.DELIVERIES_PAGE, {}),
    (
        "ListDeliveries",
        "page_token",
        Token.DELIVERIES_BACK_PAGE,
        {"order": event_pb2.ORDER_BACKWARDS},
    ),
    ("ListDeliveries", "page_token", Token.RECEIVERS_PAGE, {"sequence": "1-0"}),
    ("ListRecords", "page_token", Token.AUDIT_PAGE, {}),
    (
        "ListRecords",
        "page_token",
        Token.AUDIT_BACK_PAGE,
        {"order": event_pb2.ORDER_BACKWARDS},
    ),
    ("GetState", "page_token", Token.STATE_PAGE, {}),
    ("DiffStates", "page_token", Token.DIFF_PAGE, {}),
    ("GetHistory", "page_token", Token.HISTORY_PAGE, {}),
    ("Export", "resume_token", Token.EXPORT, {}),
):
    _empty = {"empty": ""} if METHODS[_rpc].name in ("Subscribe", "Listen", "Acknowledge") else {}
    for _name, _text in {**_empty, **bad_tokens(_token)}.items():
        refuse(
            _rpc,
            f"{_field} {_token.name} {_name}",
            _field,
            expect={"reason": "CURSOR_INVALID"},
            **_more,
            **{_field: _text},
        )
for _rpc in ("Subscribe", "Listen", "Acknowledge"):
    refuse(
        _rpc,
        "cursor beyond the end of time",
        "cursor",
        expect={"reason": "CURSOR_INVALID"},
        cursor=encode_position(Token.CURSOR, P, END_OF_TIME),
    )
refuse(
    "Listen",
    "cursor beyond",
    expect=FUTURE,
    cursor=encode_position(Token.CURSOR, P, Sequence(2**62, 7)),
)  # type: ignore[arg-type]
CASES.append(
    Case(
        "Acknowledge",
        "no position",
        lambda: AcknowledgeRequest(project=P, agent_id=AGENT),
        field="position",
    )
)

# Registrations.
for _rpc in ("RegisterAgent", "UpdateAgent"):
    for _name, _text in {
        "empty": "",
        "blank": "   ",
        "only a newline": "\n",
        "blank in unicode": "\u2003\u00a0",
        "too long": "x" * 1_001,
        "far too long": "x" * MIB,
        "too long in emoji": "😀" * 1_001,
    }.items():
        refuse(_rpc, f"need {_name}", "needs[1]", needs=["fine", _text])
    refuse(_rpc, "needs too many", "needs", needs=["a"] * 33)
    refuse(_rpc, "needs far too many", "needs", needs=["a"] * 50_000)
    for _number in (0.0, -0.0, -1.0, 1.0000001, 2.0, 1e308, 5e-324 - 1):
        refuse(_rpc, f"threshold {_number}", "threshold", threshold=_number)
    for _word in ("nan", "inf", "-inf"):
        refuse(_rpc, f"threshold {_word}", "threshold", threshold=float(_word))
    for _value in (101, 2**32 - 1):
        refuse(_rpc, f"max_matches {_value}", "max_matches", max_matches=_value)
refuse("UpdateAgent", "max_matches 0", "max_matches", max_matches=0)

# Needs with thresholds, maxima and exclusions of their own; what an answer may take.
for _rpc, _list in {
    "RegisterAgent": "need_specs",
    "UpdateAgent": "need_specs",
    "Match": "questions",
    "Backtest": "needs",
}.items():
    _changes = {"needs": []} if _list == "need_specs" else {}
    for _field, _bad_needs in {
        "text": [Need(), Need(text=" \t"), Need(text="a" * 1_001), Need(text="a" * 100_000)],
        "threshold": [Need(text="a", threshold=t) for t in (0.0, -1.0, 1.1, float("nan"))],
        "max_matches": [Need(text="a", max_matches=m) for m in (0, 101, 2**32 - 1)],
        "exclude_data_keys": [Need(text="a", exclude_data_keys=["*"] * 33)],
    }.items():
        for _number, _bad_need in enumerate(_bad_needs):
            refuse(
                _rpc,
                f"{_list} {_field} {_number}",
                f"{_list}[1].{_field}",
                **_changes,
                **{_list: [Need(text="fine"), _bad_need]},
            )
    for _text in ("", "a b", "a" * 257, "[a-z]"):
        refuse(
            _rpc,
            f"{_list} excludes {_text[:9]!r}",
            f"{_list}[0].exclude_data_keys[1]",
            **_changes,
            **{_list: [Need(text="a", exclude_data_keys=["x*", _text])]},
        )
    refuse(_rpc, f"{_list} too many", _list, **_changes, **{_list: [Need(text="a")] * 33})
for _rpc in ("RegisterAgent", "UpdateAgent"):
    refuse(_rpc, "needs twice", "need_specs", needs=["a need"], need_specs=[Need(text="a need")])
for _rpc, _list in {"Match": "questions", "Backtest": "needs"}.items():
    refuse(_rpc, "no needs", _list, **{_list: []})
for _rpc in ("RegisterAgent", "UpdateAgent", "Backtest"):
    for _number, _pointers in enumerate((["a"], ["/~2"], ["/~"], ["/" + "a" * 256])):
        refuse(
            _rpc,
            f"pointer {_number}",
            "min_delta.json_pointers[1]",
            min_delta=MinDelta(json_pointers=["/a", *_pointers]),
        )
    refuse(
        _rpc,
        "pointers too many",
        "min_delta.json_pointers",
        min_delta=MinDelta(json_pointers=["/a"] * 17),
    )
for _rpc in ("RegisterAgent", "UpdateAgent", "Match"):
    for _value in (0, 10_000_001, 2**32 - 1):
        refuse(_rpc, f"tokens {_value}", "max_context_tokens", max_context_tokens=_value)
for _rpc in ("RegisterAgent", "UpdateAgent", "Match", "Listen"):
    for _value in (5, 99, -1):
        refuse(_rpc, f"format {_value}", "context_format", context_format=_value)
for _rpc in ("Match", "Explain", "Backtest"):
    for _number in (0.0, -1.0, 1.0000001, float("nan")):
        refuse(_rpc, f"threshold {_number}", "threshold", threshold=_number)
for _value in (101, 2**32 - 1):
    refuse("Match", f"max_matches {_value}", "max_matches", max_matches=_value)
for _text in ("", "a b", "[a-z]", "a" * 257):
    refuse("Match", f"keys {_text[:9]!r}", "data_keys[1]", data_keys=["x*", _text])
refuse("Match", "keys too many", "data_keys", data_keys=["*"] * 33)

# Explain.
for _name, _text in {"blank": " ", "too long": "a" * 1_001}.items():
    refuse("Explain", f"text {_name}", "text", text=_text)
for _name, _text in {"empty": "", **long_names(256), **NASTY, "star": "*"}.items():
    refuse("Explain", f"key {_name}", "data_key", data_key=_text)
for _name, _text in {"empty": "", **some(NO_SEQUENCE, "negative", "far too long")}.items():
    refuse("Explain", f"sequence {_name}", "sequence", sequence=_text)
refuse(
    "Explain",
    "a key that nobody knows",
    expect={
        "reason": "DATA_KEY_NOT_FOUND",
        "code": "NOT_FOUND",
        "metadata": frozenset({"data_key"}),
    },
    data_key="nobody.knows",
)
refuse(
    "Explain",
    "no event",
    expect={
        "reason": "EVENT_NOT_FOUND",
        "code": "NOT_FOUND",
        "metadata": frozenset({"sequence"}),
    },
    sequence="5-5",
)
for _name, _text in some({"empty": "", **long_names(128), **NASTY}, *_FEW).items():
    refuse(
        "Explain",
        f"agent_id {_name}",
        "agent_need.agent_id",
        agent_need=AgentNeed(agent_id=_text),
    )
refuse(
    "Explain",
    "a need too many",
    "agent_need.need_index",
    agent_need=AgentNeed(agent_id=AGENT, need_index=1),
)

# Retention.
for _field in ("store_seconds", "archive_seconds"):
    for _value in (3_155_760_001, 2**64 - 1):
        refuse(
            "SetRetention",
            f"{_field} {_value}",
            f"retention.{_field}",
            retention=Retention(**{_field: _value}),
        )
for _field in ("store_events", "store_bytes"):
    refuse(
        "SetRetention",
        f"{_field} too large",
        f"retention.{_field}",
        retention=Retention(**{_field: 2**53 + 1}),
    )
raw(
    "SetRetention",
    "legal_hold that is no boolean",
    lambda: bytes(VALID["SetRetention"].SerializeToString()) + nested((2,), b"\x2a\x05abc"),
)
for _name, _text in {"empty": "", "blank": " \n", "long": "a" * 1_001}.items():
    refuse("RemoveEvents", f"reason {_name}", "reason", reason=_text)
    refuse("EraseData", f"reason {_name}", "reason", reason=_text)
for _name, _text in some({"empty": "", **long_names(128), **NASTY}, *_FEW).items():
    refuse("EraseData", f"subject {_name}", "subject", subject=_text)
for _name, _text in some({"empty": "", **long_names(256), **NASTY}, *_FEW).items():
    refuse("EraseData", f"data_key {_name}", "data_key", data_key=_text)
for _name, _text in some({"empty": "", **long_names(64), **NASTY}, *_FEW).items():
    refuse("EraseData", f"request_id {_name}", "request_id", request_id=_text)
CASES.append(
    Case(
        "EraseData",
        "no target",
        lambda: EraseDataRequest(project=P, request_id="r", reason="x"),
        field="target",
    )
)
refuse(
    "EraseData",
    "a key that never was",
    expect={
        "reason": "DATA_KEY_NOT_FOUND",
        "code": "NOT_FOUND",
        "metadata": frozenset({"data_key"}),
    },
    data_key="never",
)
refuse(
    "Publish",
    "a subject that is none",
    "events[0].metadata",
    events=[event("k", metadata={"subject": "a b"})],
)

# Exports and imports.
for _value in (5, 6, 2**31 - 1):
    refuse("Export", f"format {_value}", "format", format=_value)
for _value in (0, 1, 4):
    refuse("Export", f"compress {_value}", "compress", format=_value, compress=True)
for _value in (0, 4, 99):
    refuse("Export", f"include {_value}", "include[1]", include=[1, _value])
refuse("Export", "include of lines", "include[0]", format=2, include=[1])
refuse("Export", "include too many", "include", include=[1] * 9)
refuse("Export", "resume_token of Parquet", "resume_token", format=4, resume_token="x")


def refuse_import(name: str, field: str, **changes: Any) -> None:
    """A start of an import with some fields changed is refused."""
    start = ImportStart(**{"project": "imported", **changes})
    refuse("Import", name, f"start.{field}", start=start)


for _name, _text in some({"empty": "", **long_names(64), **NASTY, **FIRST}, *_FEW).items():
    refuse_import(f"project {_name}", "project", project=_text)
refuse_import("a staged project", "project", project="shop~import")
refuse("Import", "nothing", "start", start=ImportStart(), data=b"x")
for _value in (3, 2**31 - 1):
    refuse_import(f"mode {_value}", "mode", mode=_value)
for _value in (4, 6):
    refuse_import(f"format {_value}", "format", format=_value)
refuse_import("an old answer as it is", "mode", format=5)
for _name, _text in some({**long_names(64), **NASTY}, "one too long", "NUL", "emoji").items():
    refuse_import(f"import_id {_name}", "import_id", import_id=_text)
for _field in ("since", "until"):
    refuse_import(f"{_field} nowhere", _field, **{_field: position()})
    refuse_import(f"{_field} no place", f"{_field}.sequence", **{_field: position(sequence="x")})
    refuse_import(f"{_field} at -1", f"{_field}.unix_ms", **{_field: position(unix_ms=-1)})
    for _name, _time in NO_TIME.items():
        refuse_import(f"{_field} {_name}", f"{_field}.time", **{_field: position(time=_time)})
for _list, _text in {"event_types": "1a", "data_keys": "[a-z]", "publishers": "*"}.items():
    refuse_import(
        f"filter.{_list}",
        f"filter.{_list}[1]",
        filter=event_pb2.EventFilter(**{_list: ["fine", _text]}),
    )
    refuse_import(
        f"filter.{_list} too many",
        f"filter.{_list}",
        filter=event_pb2.EventFilter(**{_list: ["a"] * 33}),
    )
_FINE = KeyMapping(from_prefix="a", to_prefix="b")
for _name, _text in {"one too long": "a" * 257, "NUL": "a\0", "star": "*"}.items():
    for _field, _mapping in {
        "from_prefix": KeyMapping(from_prefix=_text, to_prefix="b"),
        "to_prefix": KeyMapping(from_prefix="a", to_prefix=_text),
    }.items():
        refuse_import(f"{_field} {_name}", f"remap_keys[1].{_field}", remap_keys=[_FINE, _mapping])
refuse_import("from nothing", "remap_keys[1].from_prefix", remap_keys=[_FINE, KeyMapping()])
refuse_import("remap_keys too many", "remap_keys", remap_keys=[_FINE] * 33)
_REDACTION = Redaction(json_pointer="/a")
for _field, _redaction in {
    "json_pointer": Redaction(json_pointer="a"),
    "action": Redaction(json_pointer="/a", action=9),  # type: ignore[arg-type]
    "replacement": Redaction(json_pointer="/a", action=2),
    "data_keys[1]": Redaction(json_pointer="/a", data_keys=["fine", "[a]"]),
    "data_keys": Redaction(json_pointer="/a", data_keys=["a"] * 33),
}.items():
    refuse_import(
        f"redactions.{_field}", f"redactions[1].{_field}", redactions=[_REDACTION, _redaction]
    )
for _name, _redaction in {
    "json_pointer empty": Redaction(),
    "json_pointer long": Redaction(json_pointer="/" + "a" * 256),
}.items():
    refuse_import(_name, "redactions[1].json_pointer", redactions=[_REDACTION, _redaction])
for _name, _redaction in {
    "with REMOVE": Redaction(json_pointer="/a", replacement=b"1"),
    "no JSON": Redaction(json_pointer="/a", action=2, replacement=b"{"),
    "long": Redaction(json_pointer="/a", action=2, replacement=b"1" * 4_097),
}.items():
    refuse_import(
        f"replacement {_name}", "redactions[1].replacement", redactions=[_REDACTION, _redaction]
    )
refuse_import("redactions too many", "redactions", redactions=[_REDACTION] * 33)

# Feedback.
for _name, _text in {"empty": "", **some(NO_SEQUENCE, "negative", "far too long")}.items():
    refuse("RecordFeedback", f"sequence {_name}", "sequence", sequence=_text)
for _value in (1, 2**32 - 1):
    refuse("RecordFeedback", f"need {_value}", "need_index", need_index=_value)
refuse("RecordFeedback", "a long comment", "comment", comment="a" * 1_001)
refuse("RecordFeedback", "a bad request id", "request_id", request_id="a b")
refuse(
    "RecordFeedback",
    "no event",
    expect={
        "reason": "EVENT_NOT_FOUND",
        "code": "NOT_FOUND",
        "metadata": frozenset({"sequence"}),
    },
)
refuse("RegisterAgent", "no needs", "needs", needs=[])

# What was sent.
for _value in (101, 2**32 - 1):
    refuse("GetAgentContext", f"near_misses {_value}", "near_misses", near_misses=_value)
CASES.append(
    Case("ListDeliveries", "of nothing", lambda: ListDeliveriesRequest(project=P), field="of")
)
for _name, _text in {"empty": "", **some(NO_SEQUENCE, "negative", "far too long")}.items():
    refuse("ListDeliveries", f"sequence {_name}", "sequence", sequence=_text)
for _field in ("since", "until"):
    refuse(
        "ListDeliveries",
        f"sequence with {_field}",
        _field,
        sequence="1-0",
        **{_field: event_pb2.Position(sequence="0")},
    )

# The audit, and activity.
for _rpc in ("ListRecords", "ExportRecords"):
    for _list, _bad in {
        "actors": some({**long_names(128), **NASTY}, *_FEW[1:]),
        "agent_ids": some({"empty": "", **long_names(128), **NASTY}, *_FEW),
        "data_keys": some({"empty": "", **long_names(256), **NASTY}, *_FEW),
    }.items():
        for _name, _text in _bad.items():
            refuse(
                _rpc,
                f"{_list} {_name}",
                f"filter.{_list}[1]",
                filter=AuditFilter(**{_list: ["a", _text]}),
            )
        refuse(
            _rpc, f"{_list} too many", f"filter.{_list}", filter=AuditFilter(**{_list: ["a"] * 33})
        )
    for _value in (0, max(audit_service_pb2.AuditAction.values()) + 1, 99, -1, 2**31 - 1, -(2**31)):
        refuse(
            _rpc,
            f"action {_value}",
            "filter.actions[1]",
            filter=AuditFilter(actions=[1, _value]),  # type: ignore[list-item]
        )
    refuse(_rpc, "actions too many", "filter.actions", filter=AuditFilter(actions=[1] * 17))  # type: ignore[list-item]
    for _name, _text in some({**long_names(64), **NASTY}, *_FEW[1:]).items():
        refuse(
            _rpc, f"request_id {_name}", "filter.request_id", filter=AuditFilter(request_id=_text)
        )
for _value in (4, 99, -1, 2**31 - 1, -(2**31)):
    refuse("ExportRecords", f"format {_value}", "format", format=_value)
for _value in (6, 99, -1, 2**31 - 1, -(2**31)):
    refuse("GetActivity", f"dimension {_value}", "dimension", dimension=_value)
for _value in (1, 59, 61, 3_599, 3_660, 2**32 - 1):
    refuse("GetActivity", f"bucket {_value}", "bucket_seconds", bucket_seconds=_value)
for _value in (101, 2**32 - 1):
    refuse("GetActivity", f"top {_value}", "top", top=_value)
for _value in (1_441, -1_441, 2**31 - 1, -(2**31)):
    refuse("GetActivity", f"offset {_value}", "utc_offset_minutes", utc_offset_minutes=_value)
for _name, _text in {"empty": "", "too long": "a" * 1_201}.items():
    refuse("GetActivity", f"names {_name}", "names[1]", dimension=2, names=["a", _text])
refuse("GetActivity", "names too many", "names", dimension=2, names=["a"] * 33)
refuse("GetActivity", "names of all together", "names", names=["a"])
refuse(
    "GetActivity",
    "more buckets than there may be",
    "bucket_seconds",
    bucket_seconds=3_600,
    since=event_pb2.Position(unix_ms=0),
)

# States and histories.
for _rpc in ("GetState", "StreamState", "DiffStates"):
    for _text in ("", "a b", "[a-z]", "a" * 257):
        refuse(_rpc, f"keys {_text[:9]!r}", "data_keys[1]", data_keys=["x*", _text])
    refuse(_rpc, "keys too many", "data_keys", data_keys=["*"] * 33)
    for _name, _text in {**some({**long_names(256), **NASTY}, *_FEW[1:]), "star": "*"}.items():
        refuse(_rpc, f"prefix {_name}", "prefix", prefix=_text)
    for _value in (3, 99, -1, 2**31 - 1, -(2**31)):
        refuse(_rpc, f"view {_value}", "view", view=_value)
for _name, _text in {**some({**long_names(256), **NASTY}, *_FEW[1:]), "star": "*"}.items():
    refuse("StreamState", f"after {_name}", "after_data_key", after_data_key=_text)
for _rpc in ("GetHistory", "GetRevision", "GetBlame"):
    for _name, _text in {"empty": "", **long_names(256), **NASTY, "star": "*"}.items():
        refuse(_rpc, f"key {_name}", "data_key", data_key=_text)
    refuse(
        _rpc,
        "a key that nobody knows",
        expect={
            "reason": "DATA_KEY_NOT_FOUND",
            "code": "NOT_FOUND",
            "metadata": frozenset({"data_key"}),
        },
        data_key="nobody.knows",
    )
refuse("GetRevision", "revision 0", "revision", revision=0)
for _value in (2, 2**53, 2**64 - 1):
    refuse(
        "GetRevision",
        f"revision {_value}",
        expect={
            "reason": "REVISION_NOT_FOUND",
            "code": "NOT_FOUND",
            "metadata": frozenset({"data_key", "revision", "actual_revision"}),
        },
        revision=_value,
    )

# Publishes.
for _name, _text in {**long_names(64), **NASTY, "slash": "a/b"}.items():
    refuse("Publish", f"request_id {_name}", "request_id", request_id=_text)
for _name, _text in {**long_names(128), **NASTY, "star": "*"}.items():
    refuse("Publish", f"publisher {_name}", "publisher", publisher=_text)
for _value in (4, 99, -1, 2**31 - 1, -(2**31)):
    refuse("Publish", f"durability {_value}", "durability", durability=_value)
refuse("Publish", "no event", "events", events=[])
refuse("Publish", "1,001 events", "events", events=[event()] * 1_001)
refuse("Publish", "100,000 events", "events", events=[NewEvent()] * 100_000)


def refuse_event(name: str, field: str, bad: NewEvent, **expect: Any) -> None:
    """A good event and a bad one are refused together, and the bad one is named."""
    refuse("Publish", name, f"events[1].{field}", expect=expect, events=[event("good"), bad])


for _name, _text in {"empty": "", **long_names(256), **NASTY, "star": "a*", "comma": "a,b"}.items():
    refuse_event(f"key {_name}", "data_key", event(_text))
refuse_event("key of a tombstone empty", "data_key", event("", b"", tombstone=True))
refuse_event("key bad beside an own type", "data_key", event("a b", event_type="note"))
for _name, _text in {**long_names(64), **NASTY, "digit first": "1a", "dot first": ".a"}.items():
    refuse_event(f"type {_name}", "event_type", event(event_type=_text))
for _text in sorted(RESERVED_TYPES):
    for _bad_event in (event(event_type=_text), own(_text), own(_text, tombstone=True)):
        refuse_event(
            f"type {_text} {_bad_event.data_key} {_bad_event.tombstone}",
            "event_type",
            _bad_event,
            reason="EVENT_TYPE_RESERVED",
        )
for _name, _bad_event in {
    "payload": event(tombstone=True),
    "content_type": event("k", b"", content_type="text/plain", tombstone=True),
    "event_type": event("k", b"", event_type="note", tombstone=True),
}.items():
    refuse_event(f"tombstone with {_name}", _name, _bad_event)
for _name, _text in {
    "no slash": "json",
    "empty type": "/json",
    "empty subtype": "text/",
    "two slashes": "a/b/c",
    "star": "*/*",
    "line end": "text/plain\r\nx-evil: 1",
    "trailing newline": "text/plain\n",
    "newline before parameters": "text/plain\n; charset=utf-8",
    "unicode space before parameters": "text/plain\u2028; charset=utf-8",
    "newline in parameters": "text/plain; a\nb",
    "NUL": "text/plain\0",
    "unicode": "text/plaín",
    "emoji in parameters": "text/plain; 😀",
    "one too long": "text/" + "a" * 124,
    "far too long": "text/" + "a" * 100_000,
    "long parameters": "text/plain;" + " " * 200_000,
}.items():
    refuse_event(f"content_type {_name}", "content_type", event(content_type=_text))
for _name, _text in {
    "one too long": "d" * 4_097,
    "too long in emoji": "😀" * 1_025,
    "far too long": "d" * MIB,
}.items():
    refuse_event(f"description {_name}", "description", event(description=_text))
for _name, _metadata in {
    "too many": {str(i): "" for i in range(33)},
    "far too many": {str(i): "" for i in range(20_000)},
    "too large": {"k": "v" * 4_096},
    "too large in emoji": {"k": "😀" * 1_024},
    "too large together": {f"k{i:02}": "v" * 130 for i in range(32)},
    "empty key": {"": "v"},
    "long key": {"k" * 65: "v"},
}.items():
    refuse_event(f"metadata {_name}", "metadata", event(metadata=_metadata))
refuse_event("revision without key", "expected_revision", own(expected_revision=0))
for _value in (2**53 + 1, 2**63, 2**64 - 1):
    refuse_event(f"revision {_value}", "expected_revision", event(expected_revision=_value))
CASES.append(
    Case(
        "Publish",
        "revision of somebody else",
        lambda: PublishRequest(
            project=P, events=[event("new"), event("k0", expected_revision=2**53)]
        ),
        "REVISION_CONFLICT",
        code="FAILED_PRECONDITION",
        metadata=frozenset({"data_key", "expected_revision", "actual_revision"}),
    )
)

# Payloads.
SIZES = frozenset({"size_bytes", "limit_bytes"})
for _name, _size in {"one byte too large": MIB + 1, "of 5 MB": 5_000_000}.items():
    for _type in ("", "application/octet-stream"):
        refuse_event(
            f"payload {_name} {_type}",
            "payload",
            event("k", b"1" * _size, content_type=_type),
            reason="PAYLOAD_TOO_LARGE",
            metadata=SIZES,
        )
refuse(
    "Publish",
    "batch over 8 MiB",
    "events",
    expect={"reason": "PAYLOAD_TOO_LARGE", "metadata": SIZES},
    events=[event("k", b'"%s"' % (b"x" * 1_000_000))] * 9,
)
for _name, (_payload, _type, _place) in {
    "empty": (b"", "", "line 1, column 1"),
    "a brace": (b"{", "", "line 1, column 2"),
    "on line 3": (b'{\n "a": 1,\n "b": oops\n}', "", "line 3, column 7"),
    "trailing comma": (b"[1,]", "", "line 1, column 3"),
    "NaN": (b"NaN", "", "line 1"),
    "two values": (b"1 2", "", "line 1, column 3"),
    "not UTF-8": (b'"\xff\xfe"', "", "line 1"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "", "line 1"),
    "byte order mark": (b"\xef\xbb\xbf{}", "", "line 1"),
    "lone surrogate": (rb'"\ud800"', "", "line 1"),
    "NUL": (b'"a\0b"', "", "line 1"),
    "100,000 open brackets": (b"[" * 100_000, "", "line 1"),
    "100,000 brackets": (b"[" * 100_000 + b"]" * 100_000, "", "line 1"),
    "100,000 objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "", "line 1"),
    "JSON by suffix": (b"<", "application/problem+json; v=1", "line 1, column 1"),
    "JSON in capitals": (b"<", "APPLICATION/JSON", "line 1, column 1"),
    "text not UTF-8": (b"gr\xc3\xbc\n\xc3\xbc\xff", "text/plain", "line 2, column 2"),
    "YAML": (b"a: 1\nb: [1, 2\n", "application/yaml", "line 3"),
    "TOML": (b"a = 1\nb = \n", "application/toml", "line 2, column 5"),
    "XML": (b"<a>\n<b></a>", "application/xml", "line 2, column 6"),
    "CSV": (b'a,b\n1,"2\n', "text/csv", "line"),
    "text cut off": (b"a\xc3", "text/markdown", "line 1, column 2"),
    "text of surrogates": (b"\xed\xa0\x80", "text/plain", "line 1, column 1"),
}.items():
    refuse_event(
        f"payload {_name}",
        "payload",
        event("k", _payload, content_type=_type),
        reason="PAYLOAD_MALFORMED",
        says=_place,
    )

IDS = [str(case) for case in CASES]


@pytest.mark.parametrize("case", CASES, ids=[f"{i}-{name}" for i, name in enumerate(IDS)])
async def test_hostile_input_is_refused_as_documented(unharmed: Scene, case: Case) -> None:
    refused = await refusal(unharmed.call(case.rpc, case.raw))
    assert (refused.code, refused.reason) == (case.code, case.reason)
    assert refused.fields == ([case.field] if case.field else [])
    assert case.says in refused.message
    assert case.metadata == set(refused.metadata)
    # The message is for a person's eye: no limit of the caller's on its length, or on its lines.
    assert len(refused.message) < 400
    assert refused.message.isprintable()


def paths(message: Descriptor, prefix: str = "") -> Iterator[str]:
    for field in message.fields:
        name = f"{prefix}{field.name}"
        inner = field.message_type
        if inner is None or inner.GetOptions().map_entry or inner.full_name.startswith("google."):
            if field.type != FieldDescriptor.TYPE_BOOL:  # Every value of those is a good one.
                yield name
        else:
            yield from paths(inner, f"{name}.")


async def test_the_table_holds_every_rpc_and_every_field(scene: Scene) -> None:
    assert set(VALID) == {case.rpc for case in CASES} == set(METHODS)
    named = {(case.rpc, f"{case.field.replace('[1]', '')}") for case in CASES}
    # A batch of a stream is a publish; see the test below.
    fields = {(rpc, path) for rpc, m in METHODS.items() for path in paths(m.input_type)}
    # The bytes of a file come after a start: see test_transfer.py.
    named |= {("Import", "data")}
    # What a field of a message in a list is called there.
    named |= {(rpc, path.replace("[1]", "")) for rpc, path in named}
    assert {(r, p) for r, p in fields - named if r != "PublishStream"} == set()
    assert list(paths(METHODS["PublishStream"].input_type)) == list(
        paths(METHODS["Publish"].input_type)
    )
    for rpc, method in METHODS.items():
        assert VALID[rpc].DESCRIPTOR is method.input_type


async def test_a_stream_refuses_the_same_in_the_same_words_and_goes_on(scene: Scene) -> None:
    cases = [c for c in CASES if c.rpc == "Publish" and c.reason != "MALFORMED_REQUEST"]
    assert len(cases) > 100
    before = await scene.count()
    batches: list[bytes] = []
    for i, case in enumerate(cases):
        good = PublishStreamRequest(project="stream", events=[own(f"t{i}")])
        batches += (case.raw, good.SerializeToString())
    call: Any = scene.api.channel.stream_stream("/contex.v1.EventService/PublishStream")(
        timeout=DEADLINE_S
    )

    async def write() -> None:
        for batch in batches:
            await call.write(batch)
        await call.done_writing()

    writing = asyncio.create_task(write())
    answers = [event_service_pb2.PublishStreamResponse.FromString(a) async for a in call]
    await writing
    assert len(answers) == len(batches)
    for case, refused, good_answer in zip(cases, answers[::2], answers[1::2], strict=True):
        assert len(good_answer.published.receipts) == 1, case
        unary = await refusal(scene.call("Publish", case.raw))
        told = refused.refused
        assert told.code == getattr(grpc.StatusCode, unary.code).value[0], case
        name = error_reason_pb2.ErrorReason.Name(told.reason)
        assert (name, told.message) == (f"ERROR_REASON_{unary.reason}", unary.message), case
        assert dict(told.metadata) == unary.metadata, case
        assert told.retry_delay_ms == 0, case
        assert refused.request_id == PublishRequest.FromString(case.raw).request_id, case
    assert await scene.count() == before
    assert [e.event_type for e in await scene.api.log("stream")] == [
        f"t{i}" for i in range(len(cases))
    ]


async def test_bytes_that_are_no_batch_end_a_stream_after_the_answers_before(scene: Scene) -> None:
    good = PublishStreamRequest(project="cut", events=[event()]).SerializeToString()
    call: Any = scene.api.channel.stream_stream("/contex.v1.EventService/PublishStream")(
        timeout=DEADLINE_S
    )
    for body in (good, good, MALFORMED["cut off"]):
        await call.write(body)
    answered = [await call.read(), await call.read()]
    assert all(
        event_service_pb2.PublishStreamResponse.FromString(a).HasField("published")
        for a in answered
    )
    refused = await refusal(call.read())
    assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")
    assert len(await scene.api.log("cut")) == 2


@pytest.mark.parametrize("rpc", ["Publish", "PublishStream", "Subscribe", "Acknowledge"])
async def test_a_message_of_20_mb_is_refused_by_the_transport(unharmed: Scene, rpc: str) -> None:
    # As an unknown field, which any message may have.
    body = VALID[rpc].SerializeToString() + nested((1_000,), bytes(20_000_000))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await unharmed.call(rpc, body)
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "grpc-status-details-bin" not in dict(error.value.trailing_metadata() or ())


async def test_tokens_that_were_handed_out_fit_no_other_call_order_or_project(
    scene: Scene,
) -> None:
    api = scene.api
    for project in ("tokens", "else"):
        await api.publish(event("a"), event("b"), project=project)
        for agent_id in ("a", "b"):
            await api.register(agent_id, "a need", project=project)
    backwards = event_pb2.ORDER_BACKWARDS
    agents = await api.agents.ListAgents(ListAgentsRequest(project="tokens", page_size=1))
    handed_out = {
        "events page": (await api.page("tokens", page_size=1)).next_page_token,
        "agents page": agents.next_page_token,
        "forwards": (await api.replay("tokens").to_end()).cursor,
        "backwards": (await api.replay("tokens", order=backwards).to_end()).cursor,
    }

    def calls(project: str, token: str) -> dict[str, Any]:
        return {
            "events page": lambda: api.page(project, page_token=token),
            "agents page": lambda: api.agents.ListAgents(
                ListAgentsRequest(project=project, page_token=token)
            ),
            "forwards": lambda: api.replay(project, cursor=token).to_end(),
            "backwards": lambda: api.replay(project, cursor=token, order=backwards).to_end(),
        }

    for made_for, token in handed_out.items():
        assert token
        for project in ("tokens", "else"):
            for name, call in calls(project, token).items():
                if (made_for, "tokens") == (name, project):
                    await call()
                    continue
                refused = await refusal(call())
                assert refused.reason == "CURSOR_INVALID", (made_for, name, project)
        for stream in (api.subscribe("else", cursor=token), api.listen("a", "else", cursor=token)):
            assert (await stream.refusal()).reason == "CURSOR_INVALID"


async def reason_of(call: Awaitable[Any]) -> str:
    """Why a call was refused; empty if it was answered."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return Refusal.of(error).reason
    return ""


EDGES = [Sequence(0, 0), Sequence(0, 1), Sequence(2**63, 0), Sequence(2**64 - 1, 0), END_OF_TIME]


@pytest.mark.parametrize("place", EDGES, ids=str)
async def test_a_forged_token_with_a_right_checksum_is_no_defect(
    unharmed: Scene, place: Sequence
) -> None:
    api = unharmed.api
    cursor = encode_position(Token.CURSOR, P, place)
    back = encode_position(Token.BACKWARDS, P, place)
    page = encode_position(Token.EVENTS_PAGE, P, place)
    backwards = event_pb2.ORDER_BACKWARDS
    for call in (
        api.replay(cursor=cursor).to_end(),
        api.replay(cursor=back, order=backwards).to_end(),
        api.page(page_token=page),
        api.page(page_token=page, order=backwards),
        api.subscribe(cursor=cursor).live(),
        api.listen(AGENT, cursor=cursor).live(),
    ):
        assert await reason_of(call) in ("", "CURSOR_INVALID", "SEQUENCE_IN_FUTURE")


@pytest.mark.parametrize("place", EDGES, ids=str)
@pytest.mark.parametrize("key", ["", "k0", "~", "\0"])
async def test_a_forged_page_of_states_is_no_defect(
    unharmed: Scene, place: Sequence, key: str
) -> None:
    def page(rpc: str, token: Token, *numbers: int) -> Message:
        request: Any = type(VALID[rpc])()
        request.CopyFrom(VALID[rpc])
        request.page_token = encode_place(token, P, (fingerprint(request), *numbers), key)
        return request

    for rpc, request in (
        ("GetState", page("GetState", Token.STATE_PAGE, *place, 2**64 - 1, 2**64 - 1)),
        ("DiffStates", page("DiffStates", Token.DIFF_PAGE, *place, 0, *place, 2**64 - 1)),
        ("GetHistory", page("GetHistory", Token.HISTORY_PAGE, *place, 7, *place)),
        ("GetHistory", page("GetHistory", Token.HISTORY_PAGE, 1, 0, 7, *place)),
    ):
        reason = await reason_of(unharmed.call(rpc, request.SerializeToString()))
        assert reason in ("", "CURSOR_INVALID"), rpc


@pytest.mark.parametrize("text", [b"", b"\xff", b"\xed\xa0\x80", b"\0", b"x" * 100_000])
async def test_a_forged_page_of_agents_is_no_defect(unharmed: Scene, text: bytes) -> None:
    token = forged(Token.AGENTS_PAGE, text)
    request = ListAgentsRequest(project=P, page_token=token)
    reason = await reason_of(unharmed.api.agents.ListAgents(request))
    assert reason in ("", "CURSOR_INVALID")


async def test_what_is_just_within_the_limits_is_taken(scene: Scene) -> None:
    api = scene.api
    await api.publish(
        event(
            "K" * 256,
            b'"' + b"x" * (MIB - 2) + b'"',
            description="😀" * 1_024,
            content_type="text/plain;" + " " * 117,
            metadata={f"{i:064}": "v" * 64 for i in range(32)},
        ),
        project="p" * 64,
        request_id="r" * 64,
        publisher="p" * 128,
    )
    await api.publish(*[own("t" * 64)] * 1_000, project="limits")
    await api.publish(event("deep", b"[" * 1_000 + b"]" * 1_000), project="limits")
    answer = await api.register(
        "A" * 128, *["😀" * 1_000] * 32, project="limits", threshold=1.0, max_matches=100
    )
    assert len(answer.agent.needs) == 32
    listening = api.listen("A" * 128, "limits", heartbeat_interval_ms=60_000)
    await (await listening.live()).cancel()
    page = await api.page(
        "limits",
        page_size=1_000,
        event_types=["t" * 64] * 32,
        until=event_pb2.Position(time=Timestamp(seconds=253_402_300_799, nanos=999_999_999)),
    )
    assert len(page.events) == 1_000
    assert order(page.events[0].sequence) < order(page.events[-1].sequence)


# -- anything at all -----------------------------------------------------------------

ALLOWED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE", "FAILED_PRECONDITION"}

TEXTS = st.one_of(
    st.sampled_from(
        [P, "random", AGENT, "k", "note", "0", "1-0", LAST, "", "*", "text/plain", "a" * 300]
    ),
    st.sampled_from([encode_position(t, P, s) for t in Token for s in (Sequence(1, 0), *EDGES)]),
    st.sampled_from([encode_position(t, "random", s) for t in Token for s in EDGES]),
    st.text(max_size=20),
)
INTEGERS = st.one_of(st.integers(0, 3), st.sampled_from([100, 2**31 - 1]))
VALUES: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: TEXTS,
    FieldDescriptor.TYPE_BYTES: st.one_of(st.sampled_from([b"{}", b"1"]), st.binary(max_size=40)),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_DOUBLE: st.one_of(st.floats(0, 1), st.floats()),
    FieldDescriptor.TYPE_UINT32: INTEGERS,
    FieldDescriptor.TYPE_INT32: INTEGERS | st.just(-1),
    FieldDescriptor.TYPE_INT64: INTEGERS | st.sampled_from([-1, 2**63 - 1, 253_402_300_799]),
    FieldDescriptor.TYPE_UINT64: INTEGERS | st.sampled_from([2**53, 2**64 - 1]),
    FieldDescriptor.TYPE_ENUM: st.integers(-1, 5),
}


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor) -> Message:
    """A message with any of its fields, most of them plausible."""
    message: Any = message_factory.GetMessageClass(descriptor)()
    for field in descriptor.fields:
        name = field.name
        if name == "project":
            message.project = draw(st.sampled_from(["random", P, "random", "", "a b"]))
        elif not draw(st.booleans()):
            continue
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            getattr(message, name).update(draw(st.dictionaries(TEXTS, TEXTS, max_size=2)))
        elif field.message_type is not None:
            inner = messages(field.message_type)
            if field.is_repeated:
                getattr(message, name).extend(draw(st.lists(inner, max_size=3)))
            else:
                getattr(message, name).CopyFrom(draw(inner))
        elif field.is_repeated:
            getattr(message, name).extend(draw(st.lists(VALUES[field.type], max_size=3)))
        else:
            setattr(message, name, draw(VALUES[field.type]))
    return message


def bodies(method: MethodDescriptor) -> st.SearchStrategy[bytes]:
    whole = messages(method.input_type).map(lambda m: m.SerializeToString())
    spliced = st.tuples(whole, st.integers(0, 60), st.binary(max_size=6)).map(
        lambda t: t[0][: t[1]] + t[2] + t[0][t[1] :]
    )
    return st.one_of(st.binary(max_size=200), whole, whole, spliced)


REQUESTS = st.sampled_from(sorted(METHODS)).flatmap(
    lambda rpc: st.tuples(st.just(rpc), bodies(METHODS[rpc]))
)


async def outcome(scene: Scene, rpc: str, body: bytes) -> str:
    """The code of a call; its error must be formed as documented."""
    try:
        answers = await scene.call(rpc, body)
    except grpc.aio.AioRpcError as error:
        return Refusal.of(error).code
    if rpc == "PublishStream":
        answer = event_service_pb2.PublishStreamResponse.FromString(answers[0])
        return next(c.name for c in grpc.StatusCode if c.value[0] == answer.refused.code)
    return "OK"


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(requests=st.lists(REQUESTS, min_size=16, max_size=16))
async def test_no_bytes_at_all_make_a_defect(
    scene: Scene, requests: Iterable[tuple[str, bytes]]
) -> None:
    for rpc, body in requests:
        assert await outcome(scene, rpc, body) in ALLOWED, (rpc, body)
    assert [entry for entry in scene.defects if entry["event"] == "internal_error"] == []


@pytest.mark.parametrize("rpc", METHODS)
async def test_a_request_with_every_byte_changed_makes_no_defect(scene: Scene, rpc: str) -> None:
    body = VALID[rpc].SerializeToString()
    for place in range(len(body)):
        for change in (1, 0x80):
            changed = body[:place] + bytes([body[place] ^ change]) + body[place + 1 :]
            assert await outcome(scene, rpc, changed) in ALLOWED, changed
            try:
                type(VALID[rpc]).FromString(changed)
            except DecodeError:
                assert await outcome(scene, rpc, changed) == "INVALID_ARGUMENT"
