"""What agents register, and what was sent to them."""

from __future__ import annotations

from contex.v1 import event_pb2
from contex.v1.agent_service_pb2 import ListDeliveriesRequest, MinDelta, MutedKinds, Need
from contex.v1.consumer_pb2 import ConsumeStart
from contex.v1.event_pb2 import EventFilter
from google.protobuf.duration_pb2 import Duration

from tests.integration.hostile.scene import AGENT, MIB
from tests.integration.hostile.table import CASES, NO_SEQUENCE, Case, refuse, some
from tests.integration.support import P, asked

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
        refuse(_rpc, f"need {_name}", "needs[1].text", needs=asked("fine", _text))
    refuse(_rpc, "needs too many", "needs", needs=asked(*["a"] * 33))
    refuse(_rpc, "needs far too many", "needs", needs=asked(*["a"] * 50_000))
    for _number in (0.0, -0.0, -1.0, 1.0000001, 2.0, 1e308, 5e-324 - 1):
        refuse(_rpc, f"threshold {_number}", "threshold", threshold=_number)
    for _word in ("nan", "inf", "-inf"):
        refuse(_rpc, f"threshold {_word}", "threshold", threshold=float(_word))
    for _value in (101, 2**32 - 1):
        refuse(_rpc, f"max_matches {_value}", "max_matches", max_matches=_value)
    for _length in (
        Duration(seconds=-1),
        Duration(nanos=1),
        Duration(seconds=1, nanos=-1),
        Duration(seconds=1, nanos=1_000_000_000),
        Duration(seconds=10 * 365 * 24 * 3600 + 1),
        Duration(seconds=2**63 - 1),
    ):
        refuse(_rpc, f"ttl {_length.seconds} s, {_length.nanos} ns", "ttl", ttl=_length)
refuse("UpdateAgent", "max_matches 0", "max_matches", max_matches=0)

# Waiting.
for _until in (3, -1, 2**31 - 1):
    refuse("WaitForAgent", f"until {_until}", "until", until=_until)
for _timeout_ms in (60_001, 2**32 - 1):
    refuse("WaitForAgent", f"timeout_ms {_timeout_ms}", "timeout_ms", timeout_ms=_timeout_ms)

# Needs with thresholds, maxima and exclusions of their own; what an answer may take.
for _rpc, _list in {
    "RegisterAgent": "needs",
    "UpdateAgent": "needs",
    "Match": "questions",
    "Backtest": "needs",
}.items():
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
                **{_list: [Need(text="fine"), _bad_need]},
            )
    for _text in ("", "a\tb", "a" * 513, "a\\"):
        refuse(
            _rpc,
            f"{_list} excludes {_text[:9]!r}",
            f"{_list}[0].exclude_data_keys[1]",
            **{_list: [Need(text="a", exclude_data_keys=["x*", _text])]},
        )
    for _part, _bad_filters in {
        "event_types": [EventFilter(event_types=["fine", _t]) for _t in ("", "a" * 65, "a\n")],
        "data_keys": [EventFilter(data_keys=["fine", _t]) for _t in ("", "a" * 513, "a\\")],
        "publishers": [EventFilter(publishers=["fine", _t]) for _t in ("a" * 129, "a\n")],
        "event_type_prefixes": [
            EventFilter(event_type_prefixes=["fine", _t]) for _t in ("", "a" * 65)
        ],
    }.items():
        for _number, _bad_filter in enumerate(_bad_filters):
            refuse(
                _rpc,
                f"{_list} filter {_part} {_number}",
                f"{_list}[1].filter.{_part}[1]",
                **{_list: [Need(text="fine"), Need(filter=_bad_filter)]},
            )
    refuse(
        _rpc,
        f"{_list} filter metadata",
        f"{_list}[1].filter.metadata",
        **{_list: [Need(text="fine"), Need(filter=EventFilter(metadata={"": "a"}))]},
    )
    refuse(_rpc, f"{_list} too many", _list, **{_list: [Need(text="a")] * 33})
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


refuse("RegisterAgent", "no needs", "needs", needs=[])
for _kind in (0, 1, 6, 7, -1):
    refuse("RegisterAgent", f"mutes {_kind}", "muted_kinds[1]", muted_kinds=[2, _kind])
    refuse(
        "UpdateAgent",
        f"mutes {_kind}",
        "muted_kinds.kinds[1]",
        muted_kinds=MutedKinds(kinds=[2, _kind]),
    )


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

# Consumers: how they begin. What they say later is refused in tests/integration/groups.
_START = {"project": P, "agent_id": AGENT, "consumer": "w"}
for _field, _values in {
    "project": ["", "a" * 65, "a\0b", "-a"],
    "agent_id": ["", "*", "a" * 129],
    "consumer": ["", "*", "~waiting", "a" * 129, "a\n"],
    "max_outstanding_messages": [1_001, 2**32 - 1],
    "max_outstanding_bytes": [64 * MIB + 1, 2**64 - 1],
    "ack_deadline": [Duration(), Duration(nanos=-1), Duration(seconds=3_601)],
    "max_attempts": [1_001, 2**32 - 1],
    "heartbeat_interval_ms": [1, 99, 60_001, 2**32 - 1],
}.items():
    for _value in _values:
        _name = f"{_field} {str(_value)[:20]!r}"
        refuse("Consume", _name, f"start.{_field}", start=ConsumeStart(**_START | {_field: _value}))
for _text in ("", "x", "1-0.1", "1-0.1.x", "1-0.-1.1", "1-0.1.1.1", "01-0.1.1", "a" * 1_000):
    refuse(
        "Consume",
        f"held_delivery_ids {_text[:20]!r}",
        "start.held_delivery_ids[1]",
        start=ConsumeStart(**_START, held_delivery_ids=["1-0.1.1", _text]),
    )
_many = ConsumeStart(**_START, held_delivery_ids=["1-0.1.1"] * 1_001)
refuse("Consume", "held_delivery_ids too many", "start.held_delivery_ids", start=_many)
for _rpc in ("RedriveParked", "DropParked"):
    refuse(_rpc, "parked_ids no id", "parked_ids[1]", parked_ids=["1-0", "x"])
    refuse(_rpc, "parked_ids too many", "parked_ids", parked_ids=["1-0"] * 1_001)
refuse("DropParked", "parked_ids none", "parked_ids", parked_ids=[])
