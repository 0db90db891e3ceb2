"""Which of the data that an agent held were stale, each with the reason and with what it lacked."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from contex.v1 import agent_service_pb2, event_pb2, project_service_pb2
from contex_server.inbox.passes import SpanDecider
from google.protobuf.duration_pb2 import Duration

from tests.integration.support import (
    DEADLINE_S,
    Api,
    P,
    RegisterAgentRequest,
    UpdateAgentRequest,
    asked,
    event,
    eventually,
)

Reason = agent_service_pb2.StaleReason
Kind = event_pb2.MatchKind
KEYS = ("k1", "k2", "k3", "k4")
KINDS = ("UPDATED", "LEFT", "DELETED", "EXPIRED")


async def knew(api: Api, at: int | None = None) -> Any:
    request = agent_service_pb2.GetAgentContextRequest(project=P, agent_id="a")
    if at is not None:
        request.as_of.unix_ms = at
    return await api.agents.GetAgentContext(request, timeout=DEADLINE_S)


async def stale(api: Api, at: int | None = None) -> dict[str, tuple[str, str]]:
    """Reason and kind of each datum that is stale."""
    return {
        datum.data_key: (
            Reason.Name(datum.stale_reason).removeprefix("STALE_REASON_"),
            Kind.Name(datum.pending_kind).removeprefix("MATCH_KIND_"),
        )
        for datum in (await knew(api, at)).known
        if datum.stale
    }


async def becomes(api: Api, expected: dict[str, tuple[str, str]]) -> None:
    """What is decided to bring nothing is noted a little later."""
    found: list[dict[str, tuple[str, str]]] = []

    async def holds() -> bool:
        found.append(await stale(api))
        return found[-1] == expected

    try:
        await eventually(holds, 5)
    except TimeoutError:
        assert found[-1] == expected


async def registered(api: Api, **fields: Any) -> None:
    """An agent that was sent one revision of four data, and is away."""
    muted = [Kind.Value(f"MATCH_KIND_{kind}") for kind in fields.pop("muted", ())]
    for name in KEYS:
        valid = {"valid_for": Duration(seconds=1)} if name == "k4" else {}
        await api.publish(event(name, b'{"n": 1, "m": 1}', description="apples", **valid))
    request = RegisterAgentRequest(
        project=P, agent_id="a", needs=asked("apples"), muted_kinds=muted, **fields
    )
    await api.agents.RegisterAgent(request, timeout=DEADLINE_S)
    stream = await api.listen("a").count(4)
    await stream.cancel()
    assert await stale(api) == {}


async def changed(api: Api, **fields: Any) -> None:
    """Updates k1, moves k2 away, deletes k3, waits until k4 has expired."""
    await api.publish(event("k1", b'{"n": 1, "m": 2}', description="apples"), **fields)
    await api.publish(
        event("k2", b"{}", description="the weather in Oslo"),
        event("k3", b"", tombstone=True),
        **fields,
    )

    async def has_expired() -> bool:
        return any(e.event_type == "data_expired" for e in await api.log())

    await eventually(has_expired)


def undecided(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Lets nothing be decided until the event is set."""
    decide, may_decide = SpanDecider.decide, asyncio.Event()

    async def wait(self: SpanDecider, *args: Any) -> Any:
        await may_decide.wait()
        return await decide(self, *args)

    monkeypatch.setattr(SpanDecider, "decide", wait)
    return may_decide


def each(reason: str) -> dict[str, tuple[str, str]]:
    return {name: (reason, kind) for name, kind in zip(KEYS, KINDS, strict=True)}


async def test_what_is_in_the_inbox_is_on_its_way(word_api: Api) -> None:
    await registered(word_api)
    before = time.time_ns() // 1_000_000
    await changed(word_api)
    await becomes(word_api, each("ON_ITS_WAY"))
    missed = time.time_ns() // 1_000_000
    stream = await word_api.listen("a").count(4)
    await stream.cancel()
    assert await stale(word_api) == {}
    assert [datum.data_key for datum in (await knew(word_api)).known] == ["k1"]
    # The same of the moments before.
    assert await stale(word_api, missed) == each("ON_ITS_WAY")
    assert (await stale(word_api, before)).keys() == set()


async def test_what_it_does_without(word_api: Api) -> None:
    await registered(word_api, muted=KINDS)
    await changed(word_api)
    await becomes(word_api, each("MUTED"))
    later = time.time_ns() // 1_000_000
    # It is told of what follows; what it was not told stays as it is.
    request = UpdateAgentRequest(
        project=P, agent_id="a", muted_kinds=agent_service_pb2.MutedKinds()
    )
    await asyncio.sleep(0.01)
    await word_api.agents.UpdateAgent(request, timeout=DEADLINE_S)
    rest = {name: was for name, was in each("MUTED").items() if name != "k1"}
    await becomes(word_api, rest)  # The answer had k1.
    await word_api.publish(event("k1", b'{"n": 3}', description="apples"))
    await becomes(word_api, rest | {"k1": ("ON_ITS_WAY", "UPDATED")})
    assert await stale(word_api, later) == each("MUTED")


async def test_what_changes_nothing_that_it_asked_for(word_api: Api) -> None:
    delta = agent_service_pb2.MinDelta(json_pointers=["/n"])
    await registered(word_api, min_delta=delta)
    await changed(word_api)
    await becomes(word_api, each("ON_ITS_WAY") | {"k1": ("MIN_DELTA", "UPDATED")})


async def test_what_is_not_decided_yet(word_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await registered(word_api)
    may_decide = undecided(monkeypatch)
    await changed(word_api)
    # Whether what is new meets its needs is not known either.
    unknown = ("UNDECIDED", "UNSPECIFIED")
    assert await stale(word_api) == each("UNDECIDED") | {"k1": unknown, "k2": unknown}
    may_decide.set()
    await becomes(word_api, each("ON_ITS_WAY"))


async def test_other_needs_that_let_go_of_data(
    word_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    await word_api.publish(event("k1", description="apples"))
    await word_api.register("a", "apples")
    stream = await word_api.listen("a").count(1)
    await stream.cancel()
    may_decide = undecided(monkeypatch)
    update = UpdateAgentRequest(project=P, agent_id="a", needs=asked("pears"))
    await word_api.agents.UpdateAgent(update, timeout=DEADLINE_S)
    assert await stale(word_api) == {"k1": ("UNDECIDED", "LEFT")}
    may_decide.set()
    await becomes(word_api, {"k1": ("ON_ITS_WAY", "LEFT")})


async def test_other_needs_that_let_go_of_data_of_which_it_is_not_told(word_api: Api) -> None:
    await word_api.publish(event("k1", description="apples"))
    await word_api.register("a", "apples", muted_kinds=[Kind.MATCH_KIND_LEFT])
    stream = await word_api.listen("a").count(1)
    await stream.cancel()
    update = UpdateAgentRequest(project=P, agent_id="a", needs=asked("pears"))
    await word_api.agents.UpdateAgent(update, timeout=DEADLINE_S)
    await becomes(word_api, {"k1": ("MUTED", "LEFT")})


async def test_an_erasure(word_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await registered(word_api)
    await word_api.publish(event("k1", b'{"n": 2}', description="apples"))
    stream = await word_api.listen("a").count(1)
    await stream.cancel()
    may_decide = undecided(monkeypatch)
    erase = project_service_pb2.EraseDataRequest(
        project=P, data_key="k1", request_id="r", reason="a test"
    )
    await word_api.projects.EraseData(erase, timeout=DEADLINE_S)
    assert await stale(word_api) == {"k1": ("UNDECIDED", "ERASED")}
    may_decide.set()
    await becomes(word_api, {"k1": ("ON_ITS_WAY", "ERASED")})
    stream = await word_api.listen("a").count(1)
    await stream.cancel()
    assert "k1" not in {datum.data_key for datum in (await knew(word_api)).known}


async def test_an_erasure_of_what_came_before_leaves_what_it_holds(word_api: Api) -> None:
    api = word_api
    await api.register("a", "apples")
    stream = await api.listen("a").live()
    await api.publish(event("k1", b'{"n": 1}', description="apples", metadata={"subject": "anna"}))
    await api.publish(event("k1", b'{"n": 2}', description="apples", metadata={"subject": "ben"}))
    await stream.count(2)
    erase = project_service_pb2.EraseDataRequest(
        project=P, subject="anna", request_id="r", reason="a test"
    )
    await api.projects.EraseData(erase, timeout=DEADLINE_S)
    await stream.count(3)
    (datum,) = (await knew(api)).known
    assert (datum.revision, datum.stale) == (2, False)
    await stream.cancel()


async def test_what_it_published_itself_it_knows(word_api: Api) -> None:
    await registered(word_api, exclude_own=True)
    await word_api.publish(event("k1", b'{"n": 2}', description="apples"), publisher="a")
    await word_api.publish(event("k2", b"", tombstone=True), publisher="a")
    await becomes(word_api, {})
    context = await knew(word_api)
    assert [(d.data_key, d.revision, d.latest_revision) for d in context.known[:2]] == [
        ("k1", 1, 2),
        ("k2", 1, 2),
    ]
    assert not context.pending
    (held,) = context.held_back
    assert held.reason == agent_service_pb2.HELD_BACK_REASON_OWN
    await word_api.publish(event("k1", b'{"n": 3}', description="apples"))
    await becomes(word_api, {"k1": ("ON_ITS_WAY", "UPDATED")})
