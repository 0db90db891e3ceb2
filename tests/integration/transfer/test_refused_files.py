"""A file brings nothing into a project that could not have come there otherwise."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
from contex.v1 import event_pb2, project_service_pb2
from contex_server.kernel import event_codec
from contex_server.kernel.model import Agent, Entry, Event, Sequence
from contex_server.log.agents import AgentRecord
from contex_server.log.redis.key_names import key
from contex_server.match.agent_codec import encode_agent, make_need
from contex_server.matching.encoding import Encoding, pack
from contex_server.matching.terms import terms_of
from contex_server.transfer.items import Manifest, Summary
from contex_server.transfer.lines import LinesWriter
from contex_server.transfer.native import NativeWriter

from tests.integration.logs import imported
from tests.integration.support import (
    Api,
    GetAgentRequest,
    ListAgentsRequest,
    P,
    event,
    refusal,
)

AT = 1_764_000_000_000
DAY_MS = 24 * 3600 * 1000
GOOD = Event(Sequence(AT, 0), "data_published", "k", payload=b"1", revision=1)
AGENT = Agent("eater", (make_need("apples", 0.2, 5),), 0.2, 5, AT, AT)


@pytest.fixture
def api(small_api: Api) -> Api:
    return small_api


def file(
    *records: Event | Entry,
    lines: bool = False,
    parts: dict[str, Any] | None = None,
    model: str = "",
) -> bytes:
    """An export that holds these."""
    writer = LinesWriter("p", cloud=False, compress=False) if lines else NativeWriter()
    data = writer.begin(Manifest("p", model=model))
    entries = [r if isinstance(r, Entry) else event_codec.entry(r) for r in records]
    data += writer.events(entries)
    for name, value in (parts or {}).items():
        data += getattr(writer, name)(value)
    summary = Summary(events=len(records))
    summary.digest = writer.chain.digest
    return data + writer.end(summary)


EVENTS = {
    "the last sequence": (replace(GOOD, sequence=Sequence(2**64 - 1, 2**64 - 1)), "sequence: "),
    "a time of 2^63": (replace(GOOD, sequence=Sequence(2**63, 0)), "a day ahead"),
    "two days ahead": (
        replace(GOOD, sequence=Sequence(time.time_ns() // 1_000_000 + 2 * DAY_MS, 0)),
        "a day ahead",
    ),
    "a number of 2^63": (replace(GOOD, sequence=Sequence(AT, 2**63)), "2^53 after the dash"),
    "a control character": (replace(GOOD, data_key="a\nb"), "data_key: must be"),
    "no key": (replace(GOOD, data_key="", revision=0), "data_key: must be"),
    "no type": (replace(GOOD, event_type=""), "event_type: must be"),
    "a publisher": (replace(GOOD, publisher="a\0b"), "publisher: must be"),
    "a subject": (replace(GOOD, metadata={"subject": "a b"}), "metadata: the subject must be"),
    "metadata": (replace(GOOD, metadata={"a": "b" * 5_000}), "metadata: must be at most 4096"),
    "a description": (replace(GOOD, description="d" * 5_000), "description: must be at most"),
    "a content type": (replace(GOOD, content_type="json"), "content_type: must be"),
    "a payload": (replace(GOOD, payload=b"1" * (1024**2 + 1)), "the limit is 1048576"),
    "nesting": (replace(GOOD, payload=b"[" * 300 + b"]" * 300), "deeper than 250 levels"),
    "a deletion": (replace(GOOD, event_type="data_deleted"), "must be empty where data are"),
    "an expiry": (replace(GOOD, event_type="data_expired"), "must be empty where data are"),
    "a digest": (replace(GOOD, text_digest=b"short"), "text_digest: must have 16 bytes"),
    "a registration": (
        Event(GOOD.sequence, "agent_registered", payload=b'{"agent_id":"a","previous":5}'),
        "payload: is none of agent_registered",
    ),
    "feedback": (Event(GOOD.sequence, "match_feedback", payload=b"[]"), "none of match_feedback"),
}


@pytest.mark.parametrize("lines", [False, True], ids=["native", "lines"])
@pytest.mark.parametrize("name", EVENTS)
async def test_an_event_that_publish_would_refuse(api: Api, name: str, lines: bool) -> None:
    record, problem = EVENTS[name]
    refused = await refusal(imported(api, file(record, lines=lines)))
    assert refused.reason == "IMPORT_MALFORMED"
    assert problem in refused.message
    assert "(at byte " in refused.message
    assert await api.publish(event("k"), project="copy")


RAW = {
    "sealed": event_pb2.Event(event_type="data_published", data_key="k", sealed=b"k" * 60),
    "a sequence of its own": event_pb2.Event(event_type="a", sequence="5-0"),
    "a revision": event_pb2.Event(
        event_type="data_published", data_key="k", revision=2**64 - 1, previous_sequence="1-0"
    ),
    "too much": event_pb2.Event(event_type="a", publisher="p" * 2_000_000),
}


@pytest.mark.parametrize("name", RAW)
async def test_bytes_that_no_server_wrote(api: Api, name: str) -> None:
    body = RAW[name].SerializeToString()
    refused = await refusal(imported(api, file(Entry(b"%d-0" % AT, body))))
    assert refused.reason == "IMPORT_MALFORMED"
    assert await api.publish(event("k"), project="copy")


def vector(rows: Any) -> bytes:
    return pack(Encoding(np.array(rows, np.float32), tuple(terms_of((("a", 1),)) for _ in rows)))


def record(agent: Agent = AGENT, agent_id: str = "eater") -> AgentRecord:
    return AgentRecord(agent_id, encode_agent(agent), Sequence(AT, 0))


PARTS = {
    "no registration": ("agents", [AgentRecord("a", b"garbage", Sequence(AT, 0))]),
    "another one": ("agents", [record(agent_id="other")]),
    "an agent's name": ("agents", [record(replace(AGENT, agent_id="a b"), "a b")]),
    "no needs": ("agents", [record(replace(AGENT, needs=()))]),
    "a threshold": ("agents", [record(replace(AGENT, threshold=5.0))]),
    "a maximum": ("agents", [record(replace(AGENT, max_matches=10**6))]),
    "a long need": ("agents", [record(replace(AGENT, needs=(make_need("a" * 2_000, 0.2, 5),)))]),
    "a need's type": (
        "agents",
        [AgentRecord("eater", encode_agent(AGENT).replace(b'"apples"', b"5"), Sequence(AT, 0))],
    ),
    "no vector": ("vectors", {b"d" * 16: b"garbage"}),
    "a vector that is not finite": ("vectors", {b"d" * 16: vector([[np.inf, 1.0]])}),
    "dimensions that differ": (
        "vectors",
        {b"d" * 16: vector([[1.0, 0.0]]), b"e" * 16: vector([[1.0, 0.0, 0.0]])},
    ),
    "a vector's digest": ("vectors", {b"d": vector([[1.0, 0.0]])}),
    "no background": ("backgrounds", {Sequence(AT, 0): b"garbage"}),
    "no settings": ("settings", b"[1]"),
    "settings": ("settings", b'{"store_events":-1}'),
    "unknown settings": ("settings", b'{"store_elephants":1}'),
    "a number for a hold": ("settings", b'{"legal_hold":5}'),
}


@pytest.mark.parametrize("name", PARTS)
async def test_what_goes_with_the_events(api: Api, name: str) -> None:
    kind, value = PARTS[name]
    data = file(GOOD, parts={kind: value}, model="of-elsewhere")
    refused = await refusal(imported(api, data))
    assert refused.reason == "IMPORT_MALFORMED"
    assert "frame 3" in refused.message


async def test_a_vector_has_the_dimension_of_its_model(api: Api, small_server: Any) -> None:
    model = small_server.rooms.transfer.importer.models.configured_id
    data = file(GOOD, parts={"vectors": {b"d" * 16: vector([[1.0, 0.0]])}}, model=model)
    refused = await refusal(imported(api, data))
    assert "2 dimensions, not " in refused.message


async def test_a_cursor_is_within_what_is_imported(api: Api) -> None:
    ahead = AgentRecord("eater", encode_agent(AGENT), Sequence(2**63, 5))
    await imported(api, file(GOOD, parts={"agents": [ahead]}))
    await api.publish(event("k"), project="copy")
    await api.listen("eater", "copy").live()


async def test_a_manifest_is_small(api: Api) -> None:
    for manifest in ({"model": "m" * 2_000}, {"events": -1}, {"bytes": 2**60}, {"project": "a\nb"}):
        frame = NativeWriter()._frame(b"M"[0], orjson.dumps({"project": "p", **manifest}))
        refused = await refusal(imported(api, b"CTXEXP1\n" + frame))
        assert f"{next(iter(manifest))} must be" in refused.message


async def test_stored_records_that_are_damaged_cost_themselves_alone(
    api: Api, small_server: Any, store: Any
) -> None:
    for agent_id in ("a", "b", "c"):
        await api.register(agent_id, "apples")
    await store.hset(key(P, "agents"), "b", b"garbage")
    listed = await api.agents.ListAgents(ListAgentsRequest(project=P, page_size=2))
    assert [agent.agent_id for agent in listed.agents] == ["a", "c"]
    listening = await api.listen("a").live()
    refused = await refusal(api.agents.GetAgent(GetAgentRequest(project=P, agent_id="b")))
    assert refused.reason == "AGENT_NOT_FOUND"
    await api.register("b", "apples")
    (kind,) = [k async for k in store.scan_iter(match=key(P, "vectors:*"))]
    for digest in await store.hkeys(kind):
        await store.hset(kind, digest, b"garbage")
    small_server.rooms.projects.verification.embeddings._cache.clear()
    await api.publish(event("fruit", b'"apples"'))
    await listening.count(1)
    await api.listen("b").live()


async def test_what_is_damaged_is_found(api: Api, store: Any) -> None:
    await api.register("a", "apples")
    await api.publish(event("fruit", b'"apples"'), event("k", b'"pears"'))
    await store.hset(key(P, "agents"), "a", b"garbage")
    await store.set(key(P, "retention"), b"garbage")
    (kind,) = [k async for k in store.scan_iter(match=key(P, "vectors:*"))]
    for digest in await store.hkeys(kind):
        await store.hset(kind, digest, b"garbage")
    for repair, vectors in ((True, 2), (False, 0)):
        request = project_service_pb2.VerifyProjectRequest(project=P, repair=repair)
        found = [
            (answer.finding.place, answer.finding.detail)
            async for answer in api.projects.VerifyProject(request)
            if answer.HasField("finding")
        ]
        assert len([detail for _, detail in found if detail == "its vector is damaged"]) == vectors
        assert {"agent a", "retention"} <= {place for place, _ in found}
