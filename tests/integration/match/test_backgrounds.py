"""Backgrounds are taken once, hold from an event on, and are the same for every server."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from contex.v1.agent_service_pb2 import Need
from contex.v1.audit_service_pb2 import AUDIT_ACTION_ADMINISTERED, AuditFilter, ListRecordsRequest
from contex.v1.match_service_pb2 import (
    BacktestRequest,
    ExplainRequest,
    GetMatchingStatusRequest,
    MatchRequest,
)
from contex.v1.transfer_service_pb2 import EXPORT_PART_AGENTS as AGENTS
from contex.v1.transfer_service_pb2 import EXPORT_PART_VECTORS as VECTORS
from contex_server.kernel import event_codec
from contex_server.kernel.model import BACKGROUND_CHANGED, Append, NewEvent
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis.key_names import backgrounds_kind, key, vectors_kind
from contex_server.matching import background
from contex_server.server import Server

from tests.conftest import StartServer
from tests.integration.logs import exported, imported
from tests.integration.support import (
    Api,
    EventFilter,
    P,
    Words,
    after,
    event,
    eventually,
    order,
    refusal,
)

OLD, NEW = "words@1", "words@1#2"
WORDS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa")
NEED = Need(text="alpha beta", threshold=1e-6, max_matches=50)


@pytest.fixture(autouse=True)
def _smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small projects go through what larger ones do at 100 and 1,000 data."""
    monkeypatch.setattr(background, "SIZES", (10, 100))


async def changes(api: Api, event_type: str = BACKGROUND_CHANGED, project: str = P) -> list[Any]:
    return [e for e in await api.log(project) if e.event_type == event_type]


async def first_change(api: Api, project: str = P) -> str:
    """The sequence of the event that the first background holds from."""
    await eventually(lambda: changes(api, project=project))
    (change,) = await changes(api, project=project)
    return str(change.sequence)


async def scores(api: Api, project: str = P, **fields: Any) -> dict[str, tuple[float, str]]:
    """By data key, the score and the sequence of the background."""
    request = MatchRequest(project=project, questions=[NEED], **fields)
    answer = await api.matches.Match(request)
    return {
        datum.event.data_key: (m.score, m.parts.background_sequence)
        for datum in answer.data
        for m in datum.matches
    }


def data(count: int, start: int = 0) -> list[Any]:
    return [
        event(f"{WORDS[n % 10]}.{'abcdefghij'[n // 10]}", b'"alpha and others"')
        for n in range(start, start + count)
    ]


async def test_ten_data_bring_one_background(word_api: Api) -> None:
    api = word_api
    await api.register("a", "alpha beta", threshold=1e-6)
    stream = await api.listen("a").live()
    first = await api.publish(*data(9))
    await stream.until(lambda s: first[-1] in s.sequences)
    assert await changes(api) == []
    before = await scores(api)
    assert {sequence for _, sequence in before.values()} == {"0"}

    tenth = await api.publish(*data(2, 9))
    change = await first_change(api)
    assert order(change) > order(tenth[0])
    (told,) = await changes(api)
    payload = json.loads(told.payload)
    assert payload.pop("as_of") < told.sequence
    assert payload in [{"model": NEW, "data": count} for count in (10, 11)]
    (later,) = await api.publish(event("alpha.late", b'"alpha beta"'))
    await stream.until(lambda s: later in s.sequences)
    versions = {m.event.sequence: m.matches[0].parts.background_sequence for m in stream.matched}
    assert {versions[sequence] for sequence in first} == {"0"}
    assert versions[later] == change
    now = await scores(api)
    assert {sequence for _, sequence in now.values()} == {change}
    assert all(now[name][0] != score for name, (score, _) in before.items())

    # The past is judged by what held then.
    assert await scores(api, as_of=after(first[-1])) == before
    at_change = await scores(api, as_of=after(change))
    assert at_change == {name: now[name] for name in at_change}
    assert len(at_change) == len(now) - 1
    call = api.matches.Backtest(
        BacktestRequest(project=P, needs=[NEED], threshold=1e-6, since=after("0"))
    )
    tested = [e for answer in [a async for a in call] for e in answer.events.events]
    assert {e.event.sequence: e.matches[0].parts.background_sequence for e in tested} == versions
    assert {e.event.sequence: round(e.matches[0].score, 6) for e in tested} == {
        e.event.sequence: e.matches[0].score for e in stream.matched
    }
    call = api.matches.Backtest(
        BacktestRequest(project=P, needs=[NEED], threshold=1e-6, since=after(change))
    )
    (tested,) = [e for answer in [a async for a in call] for e in answer.events.events]
    assert tested.matches[0].parts.background_sequence == change

    request = ListRecordsRequest(project=P, filter=AuditFilter(actions=[AUDIT_ACTION_ADMINISTERED]))
    (record,) = (await api.audits.ListRecords(request)).records
    assert (record.event_type, record.sequence) == (BACKGROUND_CHANGED, change)
    refused = await refusal(api.publish(event(event_type=BACKGROUND_CHANGED)))
    assert refused.reason == "EVENT_TYPE_RESERVED"


async def test_the_first_answer_has_the_background_that_is_due(word_api: Api) -> None:
    await word_api.publish(*data(12))
    first = await scores(word_api)
    (change,) = await changes(word_api)
    assert {sequence for _, sequence in first.values()} == {change.sequence}
    assert await scores(word_api) == first


async def test_every_server_scores_alike(start_server: StartServer, valkey: EmbeddedValkey) -> None:
    servers = [await start_server(valkey.url, embedder=Words()) for _ in range(2)]
    async with Api.of(servers[0]) as one, Api.of(servers[1]) as other:
        streams = []
        for api in (one, other):
            await api.register("a", "alpha beta", threshold=1e-6)
            streams.append(await api.listen("a").live())
        for n in range(0, 12, 2):
            await one.publish(*data(2, n))
        change = await first_change(one)
        (later,) = await other.publish(event("alpha.late", b'"alpha beta"'))
        for stream in streams:
            await stream.until(lambda s: later in s.sequences)
        live = [
            [(m.event.sequence, m.matches[0].score) for m in stream.matched] for stream in streams
        ]
        assert live[0] == live[1]
        assert len(live[0]) == 13
        found = await scores(one)
        assert await scores(other) == found
        assert {sequence for _, sequence in found.values()} == {change}
    for server in servers:
        await server.stop()
    again = await start_server(valkey.url, embedder=Words())
    async with Api.of(again) as api:
        assert await scores(api) == found
        for n in range(12, 100, 11):
            await api.publish(*data(11, n))
        await eventually(lambda: _is(changes(api), 2))
        assert len(await changes(api)) == 2


async def _is(found: Any, count: int) -> bool:
    return len(await found) == count


@pytest.mark.parametrize("damage", [None, b"no snapshot"])
async def test_without_its_snapshot_a_background_is_the_former_one(
    start_server: StartServer, valkey: EmbeddedValkey, store: Any, damage: bytes | None
) -> None:
    server = await start_server(valkey.url, embedder=Words())
    async with Api.of(server) as api:
        await api.publish(*data(9))
        before = await scores(api)
        await api.publish(*data(1, 9))
        change = await first_change(api)
    await server.stop()
    kind = key(P, backgrounds_kind(NEW))
    if damage is None:
        await store.hdel(kind, change)
    else:
        await store.hset(kind, change, damage)
    server = await start_server(valkey.url, embedder=Words())
    async with Api.of(server) as api:
        found = await scores(api)
        assert {name: found[name] for name in before} == before
        assert len(await changes(api)) == 1


async def test_an_event_that_no_background_belongs_to_changes_nothing(
    word_server: Server, word_api: Api
) -> None:
    await word_api.publish(*data(10))
    await word_api.register("a", "alpha beta", threshold=1e-6)
    stream = await word_api.listen("a").live()
    await first_change(word_api)
    before = await scores(word_api)
    body = event_codec.encode(BACKGROUND_CHANGED, b"of somebody else", {})
    foreign = NewEvent(body, event_type=BACKGROUND_CHANGED)
    await word_server.rooms.match.pool.engine.log.append(Append(P, [foreign]))
    (later,) = await word_api.publish(event("alpha.late", b'"alpha beta"'))
    await stream.until(lambda s: later in s.sequences)
    after_it = await scores(word_api)
    assert {name: after_it[name] for name in before} == before


@pytest.mark.own_store
async def test_a_store_that_is_away_delays_it(
    start_server: StartServer, valkey: EmbeddedValkey
) -> None:
    server = await start_server(valkey.url, embedder=Words())
    async with Api.of(server) as api:
        await api.register("a", "alpha beta", threshold=1e-6)
        stream = await api.listen("a").live()
        await api.publish(*data(9))
        await stream.until(lambda s: len(s.events) == 9)
        matcher = server.rooms.match.pool.open_matcher(P)
        assert matcher is not None
        async with matcher._lock:
            await api.publish(*data(1, 9))
            await valkey.stop()
        await eventually(lambda: matcher._snapshot is not None)
        await valkey.start()
        change = await first_change(api)
        assert order(change) > order(stream.sequences[8])
        found = await scores(api)
        assert {sequence for _, sequence in found.values()} == {change}


async def test_backgrounds_go_with_an_export(word_api: Api, store: Any) -> None:
    api = word_api
    await api.publish(*data(5))
    early = await exported(api, include=[AGENTS, VECTORS])
    (*_, last) = await api.publish(*data(6, 5))
    await scores(api)
    change = await first_change(api)
    found = await scores(api)
    late, bare = await exported(api, include=[AGENTS, VECTORS]), await exported(api)
    filtered = await exported(
        api, include=[VECTORS], filter=EventFilter(data_keys=["*"], event_types=["data_published"])
    )

    await imported(api, late, "copy")
    assert await scores(api, "copy") == found
    assert await scores(api, "copy", as_of=after(last)) == await scores(api, as_of=after(last))
    assert [e.sequence for e in await changes(api, project="copy")] == [change]

    # Added to what is there, under the eyes of who follows it.
    await imported(api, early, "follow")
    await scores(api, "follow")
    await imported(api, late, "follow")
    assert await scores(api, "follow") == found
    assert (await store.hget(key("follow", backgrounds_kind(NEW)), "size")) == b"10"
    await imported(api, early, "more")
    await api.publish(event("another"), project="more")
    refused = await refusal(imported(api, late, "more"))
    assert refused.reason == "PROJECT_NOT_EMPTY"
    assert not await store.hkeys(key("more", backgrounds_kind(NEW)))

    # A file without any: the shipped one holds until there is a new one.
    for name, file in (("bare", bare), ("filtered", filtered)):
        await imported(api, file, name)
        await scores(api, name)
        await eventually(partial(_taken, api, name, change))
        taken = (await changes(api, project=name))[-1].sequence
        assert {sequence for _, sequence in (await scores(api, name)).values()} == {taken}


async def _taken(api: Api, project: str, earlier: str) -> bool:
    return any(order(e.sequence) > order(earlier) for e in await changes(api, project=project))


async def test_a_damaged_background_is_not_imported(word_api: Api, store: Any) -> None:
    await word_api.publish(*data(10))
    await scores(word_api)
    change = await first_change(word_api)
    await store.hset(key(P, backgrounds_kind(NEW)), change, b"no snapshot")
    file = await exported(word_api, include=[VECTORS])
    refused = await refusal(imported(word_api, file))
    assert refused.reason == "IMPORT_MALFORMED"
    assert "background" in refused.message


async def _hold(store: Any) -> None:
    """Keeps every server from re-embedding, as another one does that is at it."""
    await store.set(key(P, "task:embedding"), "another")


async def _as_before(store: Any) -> None:
    """The project is one of a version without absolute scores."""
    await store.hset(key(P, "matching"), "model", OLD)
    await _hold(store)


async def status(api: Api) -> Any:
    return await api.matches.GetMatchingStatus(GetMatchingStatusRequest(project=P))


async def test_a_project_of_an_earlier_version_moves_to_absolute_scores(
    start_server: StartServer, valkey: EmbeddedValkey, store: Any
) -> None:
    await _as_before(store)
    servers = [await start_server(valkey.url, embedder=Words()) for _ in range(2)]
    async with Api.of(servers[0]) as api, Api.of(servers[1]) as other:
        await api.register("a", "alpha beta", threshold=1e-6)
        streams = [await each.listen("a").live() for each in (api, other)]
        s = await api.publish(*data(12))
        for stream in streams:
            await stream.until(lambda st: s[-1] in st.sequences)
            parts = [m.matches[0].parts for m in stream.matched]
            assert {p.model for p in parts} == {OLD}
            assert all(p.share for p in parts)
            assert {p.background_sequence for p in parts} <= set(s)
        told = await status(api)
        assert (told.model, told.configured_model) == (OLD, NEW)
        assert told.texts_total == 13
        assert told.texts_embedded < 13
        assert await changes(api, "matching_model_changed") == []

        await store.delete(key(P, "task:embedding"))
        await eventually(lambda: changes(api, "matching_model_changed"), 60)
        change = await first_change(api)
        (model,) = await changes(api, "matching_model_changed")
        assert json.loads(model.payload) == {"model": NEW, "previous": OLD}
        assert order(model.sequence) < order(change)
        (later,) = await api.publish(event("alpha.late", b'"alpha beta"'))
        for stream in streams:
            await stream.until(lambda st: later in st.sequences)
            parts = stream.matched[-1].matches[0].parts
            assert (parts.model, parts.share, parts.background_sequence) == (NEW, 0, change)
            assert stream.sequences == [*s, later]
        assert streams[0].matched[-1].matches[0].score == streams[1].matched[-1].matches[0].score
        explained = await api.matches.Explain(
            ExplainRequest(project=P, text="alpha beta", data_key="alpha.late")
        )
        assert round(explained.need_match.score, 6) == streams[0].matched[-1].matches[0].score
        told = await status(api)
        assert (told.model, told.texts_total) == (NEW, 0)
    assert not await store.exists(key(P, vectors_kind(OLD)))
