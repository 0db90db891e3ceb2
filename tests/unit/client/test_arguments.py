"""Arguments that can't be sent are refused by name, before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from contex import AsyncClient, Client, MinDelta, Need, NewEvent

from tests.unit.client.recording import RecordingChannel

HALF = "a\ud800"
SURROGATE = "character 1 is U\\+D800, half of a surrogate pair"
Call = Callable[[Any], object]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda c: c.publish("p", "k", 1, expected_revision=True),
            TypeError,
            "expected_revision: expected an integer, not True",
        ),
        (
            lambda c: c.delete("p", "k", expected_revision=False),
            TypeError,
            "expected_revision: expected an integer, not False",
        ),
        (lambda c: c.publish("p", 5, 1), TypeError, "data_key: expected a string, not int 5"),
        (
            lambda c: c.publish("p", "k", 1, description=5),
            TypeError,
            "description: expected a string, not int 5",
        ),
        (
            lambda c: c.publish("p", "k", 1, metadata={"a": 5}),
            TypeError,
            "metadata: expected strings, not int 5",
        ),
        (
            lambda c: c.publish("p", "k", 1, metadata={"a": HALF}),
            ValueError,
            "metadata: " + SURROGATE,
        ),
        (lambda c: c.publish("p", HALF, 1), ValueError, "data_key: " + SURROGATE),
        (lambda c: c.publish(HALF, "k", 1), ValueError, "project: " + SURROGATE),
        (lambda c: c.publish("p", "k", HALF), ValueError, "payload: " + SURROGATE),
        (
            lambda c: c.publish("p", "k", 1, durability=True),
            TypeError,
            "durability: expected a Durability, not True",
        ),
        (
            lambda c: c.publish("p", "k", 1, durability="disk"),
            ValueError,
            "durability: 'disk' is no Durability, which are MEMORY, FSYNC, REPLICATED",
        ),
        (
            lambda c: c.publish("p", "k", 1, expected_state="gone"),
            ValueError,
            "expected_state: 'gone' is no KeyState, which are 'absent', 'present', 'deleted'",
        ),
        (
            lambda c: c.activity("p", dimension="colour"),
            ValueError,
            "dimension: 'colour' is no ActivityDimension, which are 'total', ",
        ),
        (
            lambda c: c.audit("p", actions=["published", "hope"]),
            ValueError,
            r"actions\[1\]: 'hope' is no AuditAction, which are 'published', ",
        ),
        (
            lambda c: c.publish("p", "k", 1, expected_revision=2**70),
            ValueError,
            "expected_revision: ",
        ),
        (
            lambda c: c.publish_batch("p", [NewEvent("k", 1), NewEvent("k", {1})]),
            ValueError,
            r"events\[1\].payload: a value of type set has no JSON form",
        ),
        (
            lambda c: c.publish_batch("p", [NewEvent("k", 1), NewEvent(HALF)]),
            ValueError,
            r"events\[1\].data_key: " + SURROGATE,
        ),
        (
            lambda c: c.publish_batch("p", [{"data_key": "k"}]),
            TypeError,
            "event: expected a NewEvent, not dict",
        ),
        (lambda c: c.publish_batch("p", 5), TypeError, "events: expected several, not int 5"),
        (
            lambda c: c.register_agent("p", "a", ["n"], max_matches=True),
            TypeError,
            "max_matches: expected an integer, not True",
        ),
        (
            lambda c: c.register_agent("p", "a", ["n"], threshold=True),
            TypeError,
            "threshold: expected a number, not True",
        ),
        (
            lambda c: c.register_agent("p", "a", ["n"], threshold="high"),
            TypeError,
            "threshold: expected a number, not str 'high'",
        ),
        (lambda c: c.register_agent("p", "a", "n"), TypeError, "needs: expected several strings"),
        (
            lambda c: c.register_agent("p", "a", ["n", HALF]),
            ValueError,
            r"needs\[1\].text: " + SURROGATE,
        ),
        (
            lambda c: c.register_agent("p", "a", [5]),
            TypeError,
            r"needs\[0\].text: expected a string, an EventFilter or a Need, not int 5",
        ),
        (
            lambda c: c.register_agent("p", "a", [Need("n", max_matches=True)]),
            TypeError,
            r"needs\[0\].max_matches: expected an integer, not True",
        ),
        (
            lambda c: c.register_agent("p", "a", ["n"], min_delta=MinDelta(json_pointers="/a")),
            TypeError,
            "json_pointers: expected several",
        ),
        (
            lambda c: c.update_agent("p", "a", max_matches=True),
            TypeError,
            "max_matches: expected an integer, not True",
        ),
        (lambda c: c.match("p", [HALF]), ValueError, r"needs\[0\].text: " + SURROGATE),
        (
            lambda c: c.match("p", ["q"], data_keys=["a", 5]),
            TypeError,
            r"data_keys\[1\]: expected a string, not int 5",
        ),
        (
            lambda c: c.match("p", ["q"], as_of=True),
            TypeError,
            "as_of: expected a sequence or a time, not bool True",
        ),
        (
            lambda c: c.explain("p", agent_id="a", need_index=True, data_key="k"),
            TypeError,
            "need_index: expected an integer, not True",
        ),
        (
            lambda c: c.record_feedback("p", "a", "1-0", useful="yes"),
            TypeError,
            "useful: expected True or False, not str 'yes'",
        ),
        (
            lambda c: c.record_feedback("p", "a", "1-0", useful=True, comment=HALF),
            ValueError,
            "comment: " + SURROGATE,
        ),
        (
            lambda c: c.record_feedback("p", "a", "1-0", useful=True, need_index=True),
            TypeError,
            "need_index: expected an integer, not True",
        ),
        (
            lambda c: c.list_events("p", page_size=True),
            TypeError,
            "page_size: expected an integer, not True",
        ),
        (
            lambda c: c.list_events("p", since=object()),
            TypeError,
            "since: expected a sequence or a time, not object",
        ),
        (lambda c: c.list_events("p", until="yesterday T"), ValueError, "until: "),
        (lambda c: c.list_events("p", until=2**70), ValueError, "until: "),
        (
            lambda c: c.subscribe("p", from_time="2025-01-01"),
            TypeError,
            "from_time: expected a datetime, not str",
        ),
        (lambda c: c.subscribe("p", cursor=HALF), ValueError, "cursor: " + SURROGATE),
        (
            lambda c: c.subscribe("p", heartbeat_interval_ms=True),
            TypeError,
            "heartbeat_interval_ms: expected an integer, not True",
        ),
        (lambda c: c.acknowledge("p", "a", 5), TypeError, "sequence: expected a string, not int 5"),
        (
            lambda c: c.get_revision("p", "k", True),
            TypeError,
            "revision: expected an integer, not True",
        ),
        (lambda c: c.activity("p", top=True), TypeError, "top: expected an integer, not True"),
        (lambda c: c.erase("p", subject="s", reason=HALF), ValueError, "reason: " + SURROGATE),
        (lambda c: c.audit("p", actors=[HALF]), ValueError, r"actors\[0\]: " + SURROGATE),
        (lambda c: c.list_events("p", event_type_prefixes="a"), TypeError, "event_type_prefixes: "),
        (
            lambda c: c.list_events("p", metadata=5),
            TypeError,
            "metadata: expected a mapping or pairs, not int 5",
        ),
        (
            lambda c: c.list_events("p", metadata=[("a", 5)]),
            TypeError,
            "metadata: expected strings, not int 5",
        ),
        (
            lambda c: c.list_projects(page_size=True),
            TypeError,
            "page_size: expected an integer, not True",
        ),
        (lambda c: c.delete_project("p", reason=HALF), ValueError, "reason: " + SURROGATE),
        (lambda c: c.health(HALF), ValueError, "service: "),
    ],
)
def test_arguments(
    recorder: Client, recorded: RecordingChannel, call: Call, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match="^" + message):
        call(recorder)
    assert not recorded.requests


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_arguments_of_a_client(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"^publisher: "):
        kind(publisher=HALF)
    with pytest.raises(TypeError, match=r"^publisher: expected a string, not int 5"):
        kind(publisher=5)
    with pytest.raises(TypeError, match=r"^target: expected a string, not None"):
        kind(cast(Any, None))
