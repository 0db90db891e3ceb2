"""Needs that are filters: how they are stored, checked, told apart and explained."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from contex import EventFilter as ClientFilter
from contex_server.kernel.config import Limits
from contex_server.kernel.errors import ContexError
from contex_server.kernel.model import (
    AGENT_REGISTERED,
    Agent,
    Event,
    EventFilter,
    MinDelta,
    Need,
    Sequence,
)
from contex_server.match.agent_codec import (
    AgentDamaged,
    decode_agent,
    encode_agent,
    make_need,
    registered_agent,
    registered_payload,
)
from contex_server.match.agent_rules import check_agent
from contex_server.match.filter_codec import filter_digest, filter_words
from contex_server.matching.describe import text_digest
from contex_server.matching.explanation import explain_filter

WANTED = EventFilter(
    frozenset({"order.paid", "order.sent"}),
    frozenset({"orders/*"}),
    frozenset({"till"}),
    type_prefixes=("refund.",),
    metadata=frozenset({("region", "eu")}),
)


def exact(wanted: EventFilter = WANTED, **options: Any) -> Need:
    return make_need("", 0.4, 10, wanted=wanted, **options)


def paid(data_key: str) -> Event:
    metadata = {"region": "eu"}
    return Event(Sequence(1, 0), "order.paid", data_key, publisher="till", metadata=metadata)


def agent_of(*needs: Need, threshold: float = 0.4) -> Agent:
    return Agent("a", needs, threshold, 10, 1, 2, MinDelta(("/x",)))


def test_records_of_plain_needs_are_what_they_were() -> None:
    agent = agent_of(make_need("apples", 0.4, 10), make_need("pears", 0.4, 10, 0.7, 3, ["x*"]))
    assert encode_agent(agent) == (
        b'{"agent_id":"a","needs":[["apples",null,null,[]],["pears",0.7,3,["x*"]]],'
        b'"threshold":0.4,"max_matches":10,"registered_ms":1,"updated_ms":2,"min_delta":["/x"]}'
    )
    assert registered_payload(agent, agent_of(make_need("plums", 0.4, 10)), None) == (
        b'{"agent_id":"a","needs":["apples","pears"],"threshold":0.4,"max_matches":10,'
        b'"need_specs":[["apples",null,null,[]],["pears",0.7,3,["x*"]]],"min_delta":["/x"],'
        b'"registered_ms":1,"updated_ms":2,'
        b'"previous":{"needs":[["plums",null,null,[]]],"threshold":0.4,"max_matches":10}}'
    )


def test_filters_are_read_again() -> None:
    agent = agent_of(make_need("apples", 0.4, 10), exact(), exact(own_max_matches=2, exclude=["x"]))
    assert decode_agent(encode_agent(agent)) == agent
    everything = agent_of(exact(EventFilter(without_service=True)), exact(EventFilter()))
    assert decode_agent(encode_agent(everything)) == everything
    payload = registered_payload(everything, agent, None)
    assert registered_agent(payload) == ("a", agent.needs)
    assert orjson.loads(payload)["needs"] == ["no-service-events", "everything"]


def test_older_servers_set_only_these_agents_aside() -> None:
    # They take each need apart into four values.
    for record in orjson.loads(encode_agent(agent_of(exact())))["needs"]:
        with pytest.raises(ValueError, match="too many values"):
            _text, _threshold, _max_matches, _exclude = record


@pytest.mark.parametrize(
    "stored",
    [
        {"event_types": "order.paid"},
        {"event_types": [5]},
        {"data_keys": None},
        {"metadata": {"k": 5}},
        {"metadata": []},
        {"without_service": 1},
        {"payloads": ["x"]},
        [],
        None,
    ],
)
def test_a_filter_that_this_version_cannot_read_is_damaged(stored: object) -> None:
    record = orjson.loads(encode_agent(agent_of(exact())))
    record["needs"][0][4] = stored
    with pytest.raises(AgentDamaged):
        decode_agent(orjson.dumps(record))


def test_a_need_is_told_by_its_text_or_filter_alone() -> None:
    assert exact().id == exact(own_max_matches=3, exclude=["x"]).id
    assert exact().id == filter_digest(WANTED)[:4].hex()
    assert make_need("apples", 0.1, 1).id == text_digest("apples")[:4].hex()
    assert make_need(exact().text, 0.4, 10).digest != exact().digest
    others = [
        EventFilter(),
        EventFilter(without_service=True),
        EventFilter(frozenset({"x"})),
        EventFilter(data_keys=frozenset({"x"})),
        EventFilter(publishers=frozenset({"x"})),
        EventFilter(type_prefixes=("x",)),
        EventFilter(metadata=frozenset({("x", "y")})),
    ]
    assert len({exact(each).id for each in others}) == len(others)


def test_it_is_written_out_as_clients_write_it() -> None:
    words = "key=orders/*, type=order.paid, type=order.sent, type-prefix=refund., publisher=till, "
    assert filter_words(WANTED) == words + "meta=region=eu"
    many = tuple(f"{n:0>100}" for n in range(20))
    written = filter_words(EventFilter(frozenset(many)))
    assert len(written) == 1_000
    assert written == ClientFilter(many[::-1]).words
    client = ClientFilter(("b", "a"), ("k",), ("p",), ("t",), {"m": "n"}, True)
    assert client.words == filter_words(
        EventFilter(
            frozenset("ab"),
            frozenset("k"),
            frozenset("p"),
            type_prefixes=("t",),
            metadata=frozenset({("m", "n")}),
            without_service=True,
        )
    )


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        (EventFilter(frozenset({"x" * 65})), "needs[1].filter.event_types"),
        (EventFilter(data_keys=frozenset({"x\\"})), "needs[1].filter.data_keys"),
        (EventFilter(publishers=frozenset({"x" * 129})), "needs[1].filter.publishers"),
        (EventFilter(type_prefixes=("",)), "needs[1].filter.event_type_prefixes"),
        (EventFilter(metadata=frozenset({("", "x")})), "needs[1].filter.metadata"),
        (EventFilter(frozenset(map(str, range(33)))), "needs[1].filter.event_types"),
        (
            EventFilter(metadata=frozenset((str(n), "") for n in range(33))),
            "needs[1].filter.metadata",
        ),
    ],
)
def test_filters_from_files_have_the_limits_of_requests(wanted: EventFilter, field: str) -> None:
    check_agent(agent_of(exact()), "a", Limits())
    with pytest.raises(ContexError) as error:
        check_agent(agent_of(make_need("x", 0.4, 10), exact(wanted)), "a", Limits())
    assert (error.value.field or "").startswith(field)


def test_filters_count_towards_the_bytes_of_needs() -> None:
    globs = [frozenset(f"{n:0>500}{need}" for n in range(32)) for need in range(20)]
    needs = [exact(EventFilter(data_keys=keys)) for keys in globs]
    with pytest.raises(ContexError, match="262144 bytes, not 3"):
        check_agent(agent_of(*needs), "a", Limits())


@pytest.mark.parametrize(
    ("event", "verdict"),
    [
        (
            paid("orders/1"),
            "It matches: it passes the filter by its type, data key, publisher and metadata.",
        ),
        (
            Event(Sequence(1, 0), "refund.asked", "carts/1", publisher="till"),
            "It does not match: it fails the filter by its data key and metadata, and passes it by "
            "its type and publisher.",
        ),
        (
            Event(Sequence(1, 0), "ping"),
            "It does not match: it fails the filter by its type, data key, publisher and metadata.",
        ),
        (
            paid("orders/x"),
            "It does not match: its key is one that the need excludes.",
        ),
    ],
)
def test_the_explanation_names_the_parts(event: Event, verdict: str) -> None:
    explained = explain_filter(exact(exclude=["orders/x"]), event, 7)
    assert explained.verdict == verdict
    assert explained.match.score == float(explained.matched)
    assert explained.data_count == 7


def test_the_explanation_of_the_service() -> None:
    explained = explain_filter(exact(EventFilter()), Event(Sequence(1, 0), AGENT_REGISTERED), 0)
    assert explained.verdict == (
        "It does not match: the filter does not name the service's 'agent_registered'."
    )
    assert explain_filter(exact(EventFilter()), Event(Sequence(1, 0), "x"), 0).verdict == (
        "It matches: it passes the filter."
    )
