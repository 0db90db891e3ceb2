"""Fields that methods of several services have."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator

from contex.v1 import event_pb2
from contex_server.api.shared.cursors import Token, encode_position, encode_text
from contex_server.kernel.model import END_OF_TIME, Sequence
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.timestamp_pb2 import Timestamp

from tests.integration.hostile.scene import AGENT, METHODS, VALID
from tests.integration.hostile.table import (
    AROUND,
    BAD_METADATA,
    CASES,
    FEW,
    FIRST,
    FUTURE,
    LAST,
    MALFORMED,
    NASTY,
    NO_SEQUENCE,
    NO_TIME,
    UNPRINTABLE,
    UNPRINTABLE_FEW,
    Case,
    fields_of,
    forged,
    long_names,
    nested,
    position,
    raw,
    refuse,
    sequence_change,
    some,
)
from tests.integration.support import AcknowledgeRequest, P

# Names: project and agent_id of every RPC that has them. Of PublishStream: see its own test.
# Of ImportProject, Consume and GetUsage: with their other fields.
_ELSEWHERE = {"PublishStream", "ImportProject", "Consume", "GetUsage"}
for _rpc in sorted(METHODS.keys() - _ELSEWHERE):
    if "project" not in fields_of(_rpc):
        continue
    _bad = {"empty": "", **long_names(64), **NASTY, **FIRST, "slash": "a/b", "access": "~access"}
    for _name, _text in (_bad if _rpc == "Publish" else some(_bad, *FEW, "access")).items():
        if _name == "empty" and _rpc in ("ListRecords", "ExportRecords"):
            continue  # That is the deployment.
        refuse(_rpc, f"project {_name}", "project", project=_text)
    if "agent_id" in fields_of(_rpc):
        _bad = {"empty": "", **long_names(128), **NASTY, **FIRST, "star": "*"}
        for _name, _text in (_bad if _rpc == "RegisterAgent" else some(_bad, *FEW)).items():
            refuse(_rpc, f"agent_id {_name}", "agent_id", agent_id=_text)

# An agent that nobody registered.
for _rpc in (
    "UpdateAgent",
    "GetAgent",
    "UnregisterAgent",
    "Listen",
    "Acknowledge",
    "WaitForAgent",
    "RecordFeedback",
    "GetAgentContext",
    "GetConsumerGroup",
    "SeekConsumerGroup",
    "ListParked",
    "RedriveParked",
    "DropParked",
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
for _rpc in METHODS:
    for _name, _bytes in MALFORMED.items():
        if _name == "field zero" and not METHODS[_rpc].input_type.fields:
            continue  # protobuf itself takes it where a message has no field at all
        raw(_rpc, f"malformed {_name}", lambda b=_bytes: b)  # type: ignore[misc]


def strings_of(message: Descriptor, prefix: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """The field numbers on the way to each string field."""
    for field in message.fields:
        path = (*prefix, field.number)
        if field.message_type is not None:
            yield from strings_of(field.message_type, path)
        elif field.type == FieldDescriptor.TYPE_STRING:
            yield path


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
for _rpc, _field in (
    ("GetEvent", "sequence"),
    ("ListEvents", "since.sequence"),
    ("ListEvents", "until.sequence"),
    ("Replay", "since.sequence"),
    ("Replay", "until.sequence"),
    ("ExportProject", "since.sequence"),
    ("ExportProject", "until.sequence"),
    ("Subscribe", "after_sequence"),
    ("RegisterAgent", "last_seen_sequence"),
    ("Listen", "after_sequence"),
    ("Acknowledge", "sequence"),
    ("WaitForAgent", "sequence"),
    ("SeekConsumerGroup", "after_sequence"),
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
    "ExportProject",
)
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
    refuse("Listen", f"from_time {_name}", "from_time", from_time=_time)
    refuse("SeekConsumerGroup", f"from_time {_name}", "from_time", from_time=_time)
for _rpc in ("Subscribe", "Listen", "SeekConsumerGroup"):
    for _value in (0, 3, -1, 2**31 - 1):
        refuse(_rpc, f"edge {_value}", "edge", edge=_value)


# Sizes of pages, heartbeats.
for _rpc in (
    "ListEvents",
    "ListAgents",
    "GetState",
    "DiffStates",
    "GetHistory",
    "ListDeliveries",
    "ListParked",
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

# The pace of replays.
for _value in (0.0, -1.0, -0.0, 1_000_001.0, 1e300, math.inf, -math.inf, math.nan):
    refuse("Replay", f"speed {_value}", "speed", speed=_value)
for _value in (3_600_001, 2**32 - 1):
    refuse("Replay", f"max_pause_ms {_value}", "max_pause_ms", max_pause_ms=_value, speed=1.0)
refuse("Replay", "max_pause_ms without a speed", "max_pause_ms", max_pause_ms=1)

# Filters.
for _rpc in ("ListEvents", "Replay", "Subscribe", "ExportProject"):
    for _list, _bad in {
        "event_types": {"empty": "", **long_names(64), **UNPRINTABLE, **AROUND},
        "data_keys": {
            "empty": "",
            **long_names(512),
            **UNPRINTABLE,
            "nothing after a backslash": "a\\",
            "a newline after one": "a\\\n",
        },
        "publishers": {**long_names(128), **UNPRINTABLE, **AROUND},
        "event_type_prefixes": {"empty": "", **long_names(64), **UNPRINTABLE},
    }.items():
        _few = UNPRINTABLE_FEW[1:]
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
    for _name, _metadata in BAD_METADATA.items():
        refuse(
            _rpc,
            f"filter.metadata {_name}",
            "filter.metadata",
            filter=event_pb2.EventFilter(metadata=_metadata),
        )


# Cursors and page tokens.
_SOME = Sequence(1_764_000_000_000, 0)


def bad_tokens(token: Token) -> dict[str, str]:
    whole = encode_position(token, P, _SOME)
    if token in (Token.AGENTS_PAGE, Token.RECEIVERS_PAGE):
        whole = encode_text(token, P, AGENT)
    if token in (Token.KEYS_PAGE, Token.BINDINGS_PAGE):
        whole = encode_text(token, "", AGENT)
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
    ("SeekConsumerGroup", "cursor", Token.CURSOR, {}),
    ("Replay", "cursor", Token.CURSOR, {}),
    ("Replay", "cursor", Token.BACKWARDS, {"order": event_pb2.ORDER_BACKWARDS}),
    ("ListEvents", "page_token", Token.EVENTS_PAGE, {}),
    ("ListAgents", "page_token", Token.AGENTS_PAGE, {}),
    ("ListParked", "page_token", Token.PARKED_PAGE, {}),
    ("ListProjects", "page_token", Token.PROJECTS_PAGE, {}),
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
    ("ExportProject", "resume_token", Token.EXPORT, {}),
):
    _empty = {"empty": ""} if _rpc in ("Acknowledge", "SeekConsumerGroup") else {}
    for _name, _text in {**_empty, **bad_tokens(_token)}.items():
        _places = ("of kind INBOX", "of kind CONSUMED")
        if _rpc in ("Listen", "Acknowledge", "SeekConsumerGroup") and _name in _places:
            continue  # A place inside of what an event brought.
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
