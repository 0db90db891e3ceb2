"""What a registration brings, by itself and after earlier agents of the same id."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Any

import pytest
from contex.v1 import agent_service_pb2, event_pb2, project_service_pb2
from contex_server.inbox import behind, deciders, ledger, passes, steps
from contex_server.inbox.behind import Behind
from contex_server.inbox.changes import Changes
from contex_server.inbox.decider import ProjectDecider
from contex_server.inbox.hub import InboxHub
from contex_server.inbox.passes import Pass
from contex_server.inbox.reader import InboxReader
from contex_server.inbox.steps import Steps
from contex_server.kernel.errors import store_unavailable
from contex_server.kernel.inbox_ids import event_of
from contex_server.kernel.model import Sequence
from contex_server.log.redis.inboxes import RedisInboxes

from tests.inbox_model import Told, told
from tests.inbox_world import all_got
from tests.integration.support import (
    Api,
    P,
    RegisterAgentRequest,
    Stream,
    UnregisterAgentRequest,
    UpdateAgentRequest,
    asked,
    event,
    eventually,
)


async def unregister(api: Api, agent_id: str = "a") -> None:
    await api.agents.UnregisterAgent(UnregisterAgentRequest(project=P, agent_id=agent_id))


async def tail(api: Api) -> str:
    """The sequence of the last event."""
    *_, last = await api.log()
    return last.sequence


def all_told(stream: Stream) -> list[Told]:
    return [told(item) for item in stream.matched]


async def test_a_live_stream_is_told_of_new_needs_before_what_they_bring(word_api: Api) -> None:
    await word_api.publish(event("alpha"), event("beta"))
    await word_api.register("a", "alpha")
    stream = await (await word_api.listen("a").live()).count(1)
    request = UpdateAgentRequest(project=P, agent_id="a", needs=asked("beta"))
    await word_api.agents.UpdateAgent(request)
    await stream.count(3)
    again = await word_api.listen("a").live()
    assert again.messages
    assert [(t.kind, t.data_key) for t in all_told(stream)] == [
        ("MATCHED", "alpha"),
        ("LEFT", "alpha"),
        ("MATCHED", "beta"),
    ]
    kinds = [kind for kind in stream.kinds if kind in ("events", "needs_changed")]
    assert kinds == ["events", "needs_changed", "events"]
    assert all_told(again) == all_told(stream)


async def test_a_registration_does_not_bring_what_the_agent_published_itself(
    word_api: Api,
) -> None:
    """It holds that all the same: it is told when others change it."""
    await word_api.publish(event("alpha.own"), publisher="a")
    await word_api.publish(event("alpha.other"))
    answer = await word_api.register("a", "alpha", exclude_own=True)
    assert [datum.event.data_key for datum in answer.data] == ["alpha.other"]
    stream = await (await word_api.listen("a").live()).count(1)
    await word_api.publish(event("alpha.own", b"2"))
    await stream.count(2)
    assert [(t.kind, t.data_key) for t in all_told(stream)] == [
        ("MATCHED", "alpha.other"),
        ("UPDATED", "alpha.own"),
    ]


async def test_a_registration_names_the_needs_that_are_met(word_api: Api) -> None:
    """Not those that are met only within the margin."""

    async def needs_named(agent_id: str, **fields: Any) -> list[list[int]]:
        request = RegisterAgentRequest(project=P, agent_id=agent_id, needs=needs, **fields)
        await word_api.agents.RegisterAgent(request)
        stream = await (await word_api.listen(agent_id, **since(fields)).live()).count(1)
        return [[m.need_index for m in item.matches] for item in stream.matched]

    def since(fields: dict[str, Any]) -> dict[str, str]:
        return {"after_sequence": "0"} if fields else {}

    await word_api.publish(event("k", b'"alpha beta"'))
    probe = await word_api.register("probe", "alpha gamma")
    score = probe.data[0].matches[0].score
    needs = [
        agent_service_pb2.Need(text="alpha"),
        agent_service_pb2.Need(text="alpha gamma", threshold=min(1.0, score + 0.01)),
    ]
    assert await needs_named("by-registration") == [[0]]
    assert await needs_named("from-the-log", last_seen_sequence="0") == [[0]]


async def test_an_agent_begins_anew_with_the_past_of_an_earlier_one(word_api: Api) -> None:
    await word_api.register("a", "alpha")
    await word_api.publish(event("alpha"), event("beta"))
    await (await word_api.listen("a").live()).count(1)
    await unregister(word_api)
    answer = await word_api.register("a", "beta", last_seen_sequence="0")
    stream = await word_api.listen("a", cursor=answer.cursor).live()
    await word_api.publish(event("beta", b'"more"'))
    await stream.count(2)
    assert [(t.kind, t.data_key) for t in all_told(stream)] == [
        ("MATCHED", "beta"),
        ("UPDATED", "beta"),
    ]
    assert all_told(await word_api.listen("a", after_sequence="0").live()) == all_told(stream)


async def test_an_agent_that_is_registered_anew_is_not_taken_for_the_one_that_left(
    word_api: Api,
) -> None:
    await word_api.publish(event("alpha"))
    for _ in range(5):
        await word_api.register("a", "alpha")
        stream = await (await word_api.listen("a").live()).count(1)
        assert stream.keys == ["alpha"]
        await unregister(word_api)
        assert (await stream.refusal()).reason == "AGENT_NOT_FOUND"


def stop_deciders(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets the decider stop where it is for the n-th time about to write, or has written."""
    left = 0

    def stop_perhaps(_place: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise ledger.Fenced

    def stop_at(count: int) -> None:
        nonlocal left
        left = count

    monkeypatch.setattr(ledger, "reached", stop_perhaps)
    monkeypatch.setattr(deciders, "_LOOK_S", 0.02)
    monkeypatch.setattr(steps, "_PART", 1)
    return stop_at


async def test_a_live_stream_is_told_of_new_needs_wherever_the_decider_stops(
    word_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at = stop_deciders(monkeypatch)
    await word_api.publish(event("alpha"), event("beta"))
    await word_api.register("a", "alpha")
    stream = await (await word_api.listen("a", after_sequence="0").live()).count(1)
    for count in range(1, 11):
        stop_at(count)
        needs = asked("beta" if count % 2 else "alpha")
        await word_api.agents.UpdateAgent(UpdateAgentRequest(project=P, agent_id="a", needs=needs))
        await stream.until(lambda stream, due=1 + 3 * count: len(all_got(stream)) >= due)
    again = await word_api.listen("a", after_sequence="0").live()
    assert all_got(stream) == all_got(again)


@pytest.mark.parametrize("again", [False, True])
async def test_a_stream_ends_with_its_agent_though_the_decider_stops_then(
    word_api: Api, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    async def stop() -> None:
        raise ledger.Fenced

    def unregistered(*args: Any) -> Any:
        return stop if leaves(*args) is not None else None

    leaves = Changes._unregistered
    monkeypatch.setattr(Changes, "_unregistered", unregistered)
    await word_api.publish(event("alpha"))
    await word_api.register("other", "alpha")
    await word_api.register("a", "alpha")
    stream = await (await word_api.listen("a").live()).count(1)
    await unregister(word_api)
    if again:
        await word_api.register("a", "alpha")
    assert (await stream.refusal()).reason == "AGENT_NOT_FOUND"
    assert stream.keys == ["alpha"]


async def test_a_stream_gets_nothing_of_a_later_agent_of_the_id(
    word_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the decider stops before it has told of the end of the one that left."""
    reads, handed = asyncio.Event(), list[Sequence]()
    reads.set()

    async def stop() -> None:
        reads.clear()
        raise ledger.Fenced

    def unregistered(*args: Any) -> Any:
        return stop if leaves(*args) is not None else None

    async def refresh(*args: Any) -> None:
        await reads.wait()
        await refreshes(*args)

    def hand_over(self: InboxHub, project: str, agents: Any, *args: Any) -> None:
        hands_over(self, project, agents, *args)
        if "a" in agents:
            handed.append(args[3])

    leaves, refreshes, hands_over = Changes._unregistered, InboxHub._refresh, InboxHub.decided
    monkeypatch.setattr(Changes, "_unregistered", unregistered)
    monkeypatch.setattr(InboxHub, "_refresh", refresh)
    monkeypatch.setattr(InboxHub, "decided", hand_over)
    monkeypatch.setattr(deciders, "_LOOK_S", 0.02)
    await word_api.register("other", "gamma")
    await word_api.register("a", "alpha")
    (place,) = await word_api.publish(event("one", b'"alpha"'))
    stream = await (await word_api.listen("a").live()).count(1)
    await unregister(word_api)
    await eventually(lambda: not reads.is_set())
    await word_api.register("a", "alpha", last_seen_sequence=place)
    (last,) = await word_api.publish(event("two", b'"alpha"'))
    await eventually(lambda: any(event_of(upto) >= Sequence.parse(last) for upto in handed))
    reads.set()
    assert (await stream.refusal()).reason == "AGENT_NOT_FOUND"
    assert stream.keys == ["one"]


async def test_a_stream_gets_nothing_of_an_inbox_that_has_begun_anew(
    word_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though that is handed over late."""
    begins, late, holds = hold_passes(monkeypatch), list[tuple[Any, ...]](), False
    begins.set()

    def hand_over(self: InboxHub, project: str, agents: Any, *args: Any) -> None:
        *rest, members = args
        if holds:
            late.append((self, project, {*agents}, *rest, {**members}))
        else:
            hands_over(self, project, agents, *args)

    hands_over = InboxHub.decided
    monkeypatch.setattr(InboxHub, "decided", hand_over)
    (place,) = await word_api.publish(event("one", b'"gamma"'))
    await word_api.register("a", "alpha", last_seen_sequence=place)
    online = await word_api.listen("a").live()
    holds = True
    (place,) = await word_api.publish(event("two", b'"gamma"'))
    (last,) = await word_api.publish(event("three", b'"alpha"'))
    await eventually(lambda: any(event_of(args[6]) >= Sequence.parse(last) for args in late))
    begins.clear()
    await word_api.register("a", "beta", last_seen_sequence="0")
    stream = await word_api.listen("a", after_sequence=place).quiet()
    holds = False
    for args in late:
        hands_over(*args)
    begins.set()
    await word_api.publish(event("four", b'"beta"'))
    await stream.count(1)
    assert stream.keys == ["four"]
    await online.cancel()


async def test_a_stream_misses_nothing_where_the_store_did_not_answer(
    word_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    unanswered = 0

    async def decide(self: RedisInboxes, *args: Any) -> bool:
        nonlocal unanswered
        decided = await decides(self, *args)
        if unanswered:
            unanswered -= 1
            raise store_unavailable("it doesn't answer")
        return decided

    decides = RedisInboxes.decide
    monkeypatch.setattr(RedisInboxes, "decide", decide)
    await word_api.register("a", "alpha")
    stream = await word_api.listen("a").live()
    await word_api.publish(event("one", b'"alpha"'))
    await stream.count(1)
    unanswered = 1
    await word_api.publish(event("two", b'"alpha"'))
    await word_api.publish(event("three", b'"alpha"'))
    await stream.count(3)
    assert stream.keys == ["one", "two", "three"]


@pytest.mark.parametrize("late", [False, True])
async def test_a_known_agent_gets_the_past_that_it_asks_for(
    word_api: Api, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """Also if it listens before its decider has come to that."""

    async def begin(*args: Any) -> Any:
        await asyncio.sleep(0.2 * late)
        return await begins(*args)

    begins = Changes._begins
    monkeypatch.setattr(Changes, "_begins", begin)
    await word_api.publish(event("alpha"), event("beta"), event("alpha", b'"2"'))
    await word_api.register("a", "alpha")
    await word_api.publish(event("alpha", b'"3"'))
    online = await (await word_api.listen("a").live()).count(2)
    answer = await word_api.register("a", "alpha", last_seen_sequence="0")
    stream = await (await word_api.listen("a", cursor=answer.cursor).live()).count(3)
    whole = [("MATCHED", 1), ("UPDATED", 2), ("UPDATED", 3)]
    assert [(t.kind, t.revision) for t in all_told(stream)] == whole
    # It goes on, and who listens all the time is told nothing twice.
    await word_api.publish(event("alpha", b'"4"'))
    await stream.count(4)
    await online.count(3)
    assert [(t.kind, t.revision) for t in all_told(online)] == [
        ("MATCHED", 2),
        ("UPDATED", 3),
        ("UPDATED", 4),
    ]
    # What it has already, it need not ask for: only the cursor moves.
    middle = stream.matched[1].event.sequence
    answer = await word_api.register("a", "alpha", last_seen_sequence=middle)
    again = await (await word_api.listen("a", cursor=answer.cursor).live()).count(2)
    assert [(t.kind, t.revision) for t in all_told(again)] == [("UPDATED", 3), ("UPDATED", 4)]


async def test_registrations_of_a_new_agent_are_decided_one_after_the_other(
    word_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered = asyncio.Event()

    async def load(self: ProjectDecider) -> None:
        await registered.wait()
        await loads(self)

    loads = ProjectDecider._load
    monkeypatch.setattr(ProjectDecider, "_load", load)
    await word_api.publish(event("alpha"), event("beta"))
    await word_api.register("a", "alpha", last_seen_sequence="0")
    await word_api.register("a", "beta")
    registered.set()
    stream = await (await word_api.listen("a", after_sequence="0").live()).count(3)
    assert [(t.kind, t.data_key) for t in all_told(stream)] == [
        ("MATCHED", "alpha"),
        ("LEFT", "alpha"),
        ("MATCHED", "beta"),
    ]


async def test_what_an_earlier_agent_was_sent_is_not_a_later_ones(word_api: Api) -> None:
    await word_api.register("a", "alpha")
    await word_api.publish(event("alpha"))
    await (await word_api.listen("a").live()).count(1)
    await unregister(word_api)
    await word_api.publish(event("gamma"))
    await word_api.register("a", "alpha beta")
    await word_api.publish(event("beta"))
    stream = await (await word_api.listen("a", after_sequence="0").live()).count(2)
    assert [(t.kind, t.data_key) for t in all_told(stream)] == [
        ("MATCHED", "alpha"),
        ("MATCHED", "beta"),
    ]
    request = agent_service_pb2.GetAgentContextRequest(project=P, agent_id="a")
    known = (await word_api.agents.GetAgentContext(request)).known
    assert [datum.data_key for datum in known] == ["alpha", "beta"]


def hold_passes(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Passes behind the live one begin when the event is set, and take one event at a time."""
    begins = asyncio.Event()

    async def bring_up_all(self: Behind) -> None:
        await begins.wait()
        await brings_up_all(self)

    brings_up_all = Behind._bring_up_all
    monkeypatch.setattr(Behind, "_bring_up_all", bring_up_all)
    monkeypatch.setattr(behind, "_SPAN", 1)
    return begins


async def test_no_agent_is_in_two_passes(word_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though one of the first changes its needs, so that the second overtakes it."""
    begins = hold_passes(monkeypatch)
    await word_api.register("far", "alpha", last_seen_sequence="0")
    await word_api.publish(event("one", b'"alpha"'))
    await word_api.register("far", "beta")
    *_, last = await word_api.publish(event("two", b'"beta"'), event("three", b'"beta"'))
    await word_api.register("near", "beta", last_seen_sequence=last)
    await word_api.publish(event("two", b'"beta too"'))
    begins.set()
    near = await word_api.listen("near", after_sequence=last).live()
    far = await word_api.listen("far", after_sequence="0").live()
    await word_api.publish(event("three", b'"beta too"'))
    await near.count(2)
    await far.count(6)
    assert [(t.kind, t.data_key) for t in all_told(near)] == [
        ("MATCHED", "two"),
        ("MATCHED", "three"),
    ]
    assert [(t.kind, t.data_key) for t in all_told(far)] == [
        ("MATCHED", "one"),
        ("LEFT", "one"),
        ("MATCHED", "two"),
        ("MATCHED", "three"),
        ("UPDATED", "two"),
        ("UPDATED", "three"),
    ]


def hold_after_leaving(
    monkeypatch: pytest.MonkeyPatch, until: asyncio.Event, then: type[Exception] | None = None
) -> list[Behind]:
    """Holds the first pass that has seen an agent leave, and perhaps stops it; returns whose."""
    held = list[Behind]()

    async def let_others_pass(self: Behind, way: Pass) -> None:
        if self._roster.left and not held:
            held.append(self)
            await until.wait()
            if then is not None:
                raise then
        await lets_others_pass(self, way)

    lets_others_pass = Behind._let_others_pass
    monkeypatch.setattr(Behind, "_let_others_pass", let_others_pass)
    return held


async def test_an_agent_begins_with_its_first_registration_since_another_left(
    word_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though a pass that began later comes to another one first."""
    begins, goes_on = hold_passes(monkeypatch), asyncio.Event()
    held = hold_after_leaving(monkeypatch, goes_on)
    begins.set()
    await word_api.publish(event("one", b'"alpha"'))
    await word_api.register("other", "gamma")
    await word_api.listen("other").live()
    begins.clear()
    await word_api.register("a", "alpha", last_seen_sequence="0")
    await unregister(word_api)
    await word_api.publish(event("two", b'"beta"'))
    await word_api.register("a", "beta", last_seen_sequence="0")
    begins.set()
    await eventually(lambda: held)
    await word_api.register("other", "delta")
    await word_api.register("a", "alpha")
    last = Sequence.parse(await tail(word_api))
    await eventually(lambda: held[0]._live.position == last)
    goes_on.set()
    stream = await word_api.listen("a", after_sequence="0").live()
    assert [(t.kind, t.data_key) for t in all_told(stream)] == [
        ("MATCHED", "two"),
        ("MATCHED", "one"),
        ("LEFT", "two"),
    ]


async def test_an_agent_is_decided_for_though_the_pass_stops_that_has_seen_another_leave(
    word_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the live pass has gone by its registration."""
    begins, stops = hold_passes(monkeypatch), asyncio.Event()
    held = hold_after_leaving(monkeypatch, stops, then=ledger.Fenced)
    monkeypatch.setattr(deciders, "_LOOK_S", 0.02)
    await word_api.publish(event("one", b'"alpha"'))
    await word_api.register("a", "alpha", last_seen_sequence="0")
    await unregister(word_api)
    await word_api.publish(event("two", b'"beta"'))
    begins.set()
    await eventually(lambda: held)
    await word_api.register("a", "beta", last_seen_sequence="0")
    last = Sequence.parse(await tail(word_api))
    await eventually(lambda: held[0]._live.noted == last)
    stops.set()
    stream = await word_api.listen("a", after_sequence="0").live()
    assert [(t.kind, t.data_key) for t in all_told(stream)] == [("MATCHED", "two")]


async def test_a_stream_has_caught_up_once_it_has_all_that_a_registration_brings(
    word_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = asyncio.Event()

    async def write(self: Steps, some: list[Any], *, last: bool = True) -> None:
        if some and last:
            await goes_on.wait()
        await writes(self, some, last=last)

    writes = Steps._write
    monkeypatch.setattr(Steps, "_write", write)
    monkeypatch.setattr(steps, "_PART", 1)
    await word_api.publish(event("one", b'"alpha"'), event("two", b'"alpha"'))
    await word_api.register("a", "alpha")
    streams = [await word_api.listen("a").count(1)]
    streams.append(await word_api.listen("a").count(1))
    for stream in streams:
        await stream.quiet()
    goes_on.set()
    for stream in streams:
        await stream.live()
        assert stream.keys == ["one", "two"]


async def test_a_stream_of_an_agent_that_left_has_nothing_of_an_inbox_before_it_began_anew(
    word_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    begins, waits = hold_passes(monkeypatch), asyncio.Event()
    begins.set()

    def fed(*args: Any) -> Any:
        if not begins.is_set():
            waits.set()
        return is_fed(*args)

    is_fed = InboxHub.fed
    monkeypatch.setattr(InboxHub, "fed", fed)
    await word_api.register("a", "alpha")
    online = await word_api.listen("a").live()
    await word_api.publish(event("one", b'"alpha"'))
    await online.count(1)
    await word_api.publish(event("two", b'"alpha"'))
    await online.count(2)
    begins.clear()
    answer = await word_api.register("a", "alpha", last_seen_sequence="0")
    stream = word_api.listen("a", cursor=answer.cursor)
    await waits.wait()
    await unregister(word_api)
    await word_api.register("a", "alpha")
    later = word_api.listen("a")
    assert (await stream.refusal()).reason == "AGENT_NOT_FOUND"
    assert stream.keys == []
    begins.set()
    await later.count(2)


async def test_what_is_erased_meets_no_need_of_a_registration(word_api: Api) -> None:
    """Nor one that asks for its key alone."""
    await word_api.publish(event("k", b'"alpha"'))
    left = agent_service_pb2.MutedKinds(kinds=[event_pb2.MATCH_KIND_LEFT])
    await word_api.register("a", "alpha", muted_kinds=left.kinds)
    await word_api.publish(event("k", b'"beta"', metadata={"subject": "anna"}))
    await word_api.listen("a").live()
    request = project_service_pb2.EraseDataRequest(
        project=P, subject="anna", request_id="r", reason="a test"
    )
    await word_api.projects.EraseData(request)
    key = agent_service_pb2.Need(filter=event_pb2.EventFilter(data_keys=["k"]))
    update = UpdateAgentRequest(
        project=P, agent_id="a", needs=[key], muted_kinds=agent_service_pb2.MutedKinds()
    )
    await word_api.agents.UpdateAgent(update)
    stream = await word_api.listen("a", after_sequence="0").live()
    assert [(t.kind, t.data_key) for t in all_told(stream)] == [("MATCHED", "k"), ("LEFT", "k")]


async def test_a_stream_misses_nothing_that_was_not_handed_over(
    word_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a decider that stopped: the next one may begin with another agent, further back."""
    begins, reads, stops = hold_passes(monkeypatch), asyncio.Event(), False
    handed = list[Sequence]()

    async def decide(self: RedisInboxes, *args: Any) -> bool:
        nonlocal stops
        decided = await decides(self, *args)
        if not handed and any("near" in each.entries for each in args[2].values()):
            stops = True
            reads.clear()
        return decided

    def stop_perhaps(_place: str) -> None:
        nonlocal stops
        if stops:
            stops = False
            raise ledger.Fenced

    async def refresh(*args: Any) -> None:
        await reads.wait()
        await refreshes(*args)

    def hand_over(self: InboxHub, project: str, agents: Any, *args: Any) -> None:
        hands_over(self, project, agents, *args)
        if "near" in agents:
            handed.append(args[3])

    decides, refreshes, hands_over = RedisInboxes.decide, InboxHub._refresh, InboxHub.decided
    monkeypatch.setattr(RedisInboxes, "decide", decide)
    monkeypatch.setattr(ledger, "reached", stop_perhaps)
    monkeypatch.setattr(InboxHub, "_refresh", refresh)
    monkeypatch.setattr(InboxHub, "decided", hand_over)
    monkeypatch.setattr(deciders, "_LOOK_S", 0.02)
    monkeypatch.setattr(passes, "_STANDINGS_S", inf)
    reads.set()
    await word_api.publish(event("other", b'"gamma"'))
    await word_api.register("far", "alpha", last_seen_sequence="0")
    await word_api.register("near", "beta", last_seen_sequence=await tail(word_api))
    stream = word_api.listen("near", heartbeat_interval_ms=100)
    await stream.until(lambda stream: "heartbeat" in stream.kinds)
    (place,) = await word_api.publish(event("one", b'"beta"'))
    begins.set()
    await eventually(lambda: any(event_of(upto) >= Sequence.parse(place) for upto in handed))
    reads.set()
    await stream.live()
    await word_api.publish(event("two", b'"beta"'))
    await stream.count(2)
    assert stream.keys == ["one", "two"]


async def test_a_stream_waits_until_the_past_is_decided_that_was_asked_for_before(
    word_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the inbox has until then is going to be replaced."""
    decides = asyncio.Event()

    async def begin(*args: Any) -> Any:
        await decides.wait()
        return await begins(*args)

    begins = Changes._begins
    monkeypatch.setattr(Changes, "_begins", begin)
    decides.set()
    (place,) = await word_api.publish(event("one", b'"beta"'))
    await word_api.register("a", "alpha", last_seen_sequence=place)
    await word_api.publish(event("two", b'"alpha"'))
    await (await word_api.listen("a", after_sequence=place).live()).count(1)
    decides.clear()
    await word_api.register("a", "beta", last_seen_sequence="0")
    answer = await word_api.register("a", "beta", last_seen_sequence=place)
    stream = await word_api.listen("a", cursor=answer.cursor).quiet()
    decides.set()
    await word_api.publish(event("three", b'"beta"'))
    await stream.count(1)
    assert [(t.kind, t.data_key) for t in all_told(stream)] == [("MATCHED", "three")]


async def test_a_stream_waits_for_that_past_also_once_its_agent_has_left(
    word_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    decides, looks = asyncio.Event(), list[bool]()

    async def begin(*args: Any) -> Any:
        await decides.wait()
        return await begins(*args)

    async def has_begun(*args: Any) -> bool:
        has = await has_it_begun(*args)
        looks.append(has)
        return has

    begins, has_it_begun = Changes._begins, InboxReader.has_begun
    monkeypatch.setattr(Changes, "_begins", begin)
    decides.set()
    (place,) = await word_api.publish(event("one", b'"beta"'))
    await word_api.register("a", "alpha", last_seen_sequence=place)
    await word_api.publish(event("two", b'"alpha"'))
    await (await word_api.listen("a", after_sequence=place).live()).count(1)
    decides.clear()
    await word_api.register("a", "beta", last_seen_sequence="0")
    answer = await word_api.register("a", "beta", last_seen_sequence=place)
    monkeypatch.setattr(InboxReader, "has_begun", has_begun)
    stream = word_api.listen("a", cursor=answer.cursor)
    await eventually(lambda: looks)
    await unregister(word_api)
    looks.clear()
    await eventually(lambda: True in looks or len(looks) > 1)  # One may have begun before.
    decides.set()
    assert (await stream.refusal()).reason == "AGENT_NOT_FOUND"
    assert all_told(stream) == []
