"""What was decided for agents goes with an export, and an exact import goes on from there."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from contex.v1 import event_pb2
from contex.v1.consumer_pb2 import (
    PARK_CAUSE_SEEK,
    Drain,
    ListParkedRequest,
    RedriveParkedRequest,
)
from contex.v1.project_service_pb2 import EraseDataRequest, VerifyProjectRequest
from contex.v1.transfer_service_pb2 import KeyMapping
from contex_server.inbox import trimming
from contex_server.inbox.holdings import unpack_holders
from contex_server.kernel.model import Range, Sequence
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.inboxes import SHARDS, CarriedDecisions, InboxEntry
from contex_server.log.redis import inboxes
from contex_server.server import Server
from contex_server.transfer import decisions
from contex_server.transfer.decisions import DecisionsReader

from tests.conftest import StartServer, fresh_store
from tests.integration.groups.worker import Worker
from tests.integration.logs import exported, imported
from tests.integration.support import (
    DEADLINE_S,
    AcknowledgeRequest,
    Api,
    P,
    UnregisterAgentRequest,
    UpdateAgentRequest,
    Words,
    asked,
    event,
    eventually,
    refusal,
)
from tests.integration.transfer.test_refused_files import GOOD, file
from tests.thorough import one_of

PARTS = [1, 2, 3]
LEFT = bytes([event_pb2.MATCH_KIND_LEFT])


@pytest.fixture
async def other(start_server: StartServer, tmp_path: Path) -> AsyncIterator[Server]:
    """A server that has nothing in common with `word_server`."""
    async with fresh_store() as store:
        server = await start_server(store.url, embedder=Words(), data_dir=tmp_path / "other")
        yield server
        await server.stop()


async def decided(server: Server, project: str = P) -> Any:
    """Waits until all is decided; returns inboxes and holders, as they are stored."""
    store = server.rooms.storage.store
    tail = (await store.events.bounds(project)).tail

    async def is_decided() -> bool:
        state = await store.inboxes.deciding_state(project)
        stands = len(state.shards) == SHARDS and min(state.shards.values()) >= tail
        begun = all(state.records.get(agent_id) for agent_id in state.agents)
        return stands and begun and not state.own

    await eventually(is_decided)
    state = await store.inboxes.deciding_state(project)
    entries = {
        agent_id: await store.inboxes.inbox(project, agent_id, Range(), 10_000)
        for agent_id in sorted(state.agents)
    }
    return entries, [
        {
            name: unpack_holders(packed)
            async for chunk in store.inboxes.all_holders(project, shard)
            for name, packed in chunk.items()
        }
        for shard in range(SHARDS)
    ]


async def acknowledge(api: Api, agent_id: str, **place: str) -> None:
    request = AcknowledgeRequest(project=P, agent_id=agent_id, **place)
    await api.agents.Acknowledge(request, timeout=DEADLINE_S)


async def everything(api: Api, agent_id: str, **start: str) -> list[event_pb2.MatchedEvent]:
    stream = await api.listen(agent_id, **start).live()
    await stream.cancel()
    return stream.matched


async def deliveries_found(api: Api) -> list[str]:
    request = VerifyProjectRequest(project=P, all_deliveries=True)
    steps = [step async for step in api.projects.VerifyProject(request, timeout=DEADLINE_S)]
    assert steps[-1].summary.delivery_count > 4
    return [step.finding.detail for step in steps if step.HasField("finding")]


async def test_agents_go_on_with_what_was_decided(
    word_api: Api, word_server: Server, other: Server
) -> None:
    await word_api.publish(*(event(f"k{n}", b'"alpha"') for n in range(3)))
    for agent_id in ("online", "away", "partly"):
        await word_api.register(agent_id, "alpha")
    await word_api.register("other", "beta")
    online = await (await word_api.listen("online").live()).count(3)
    await acknowledge(word_api, "online", cursor=online.cursor)
    partly = await (await word_api.listen("partly").live()).count(3)
    await acknowledge(word_api, "partly", cursor=partly.cursor)
    await word_api.publish(event("k0", b'"alpha two"'), event("k1", b'"beta"'))
    await word_api.publish(event("k2", b"", tombstone=True))
    await online.count(6)
    before = await decided(word_server)
    rest = {name: await everything(word_api, name) for name in before[0]}
    whole = {name: await everything(word_api, name, after_sequence="0") for name in before[0]}
    data = await exported(word_api, include=PARTS)
    async with Api.of(other) as api:
        report = await imported(api, data, P)
        assert report.agent_count == 4
        assert await decided(other) == before
        assert await deliveries_found(api) == []
        for name, matched in rest.items():
            assert await everything(api, name) == matched
            assert await everything(api, name, after_sequence="0") == whole[name]
        assert [len(rest[name]) for name in ("away", "online")] == [6, 3]
        # What it holds is known: it is told of what becomes of that, and nobody else is.
        await api.publish(event("k0", b'"gamma"'), event("k1", b"", tombstone=True))
        streams = {name: await api.listen(name).live() for name in before[0]}
        assert streams["away"].told[6:] == ["LEFT"]
        assert streams["other"].told == ["MATCHED", "DELETED"]
        await api.publish(event("k0", b'"alpha"'))
        await streams["online"].count(5)
        assert streams["online"].told[3:] == ["LEFT", "MATCHED"]
        await decided(other)
        assert await deliveries_found(api) == []


async def test_deciding_goes_on_while_it_is_exported(
    word_api: Api, word_server: Server, other: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy comes to what the project itself came to, whatever happens between two reads."""
    await word_api.publish(*(event(f"k{n}", b'"alpha"') for n in range(4)))
    for agent_id in ("a", "b", "own", "leaves", "anew"):
        await word_api.register(agent_id, "alpha", exclude_own=agent_id == "own")
    await decided(word_server)

    async def change() -> None:
        await word_api.publish(event("k0", b'"alpha one"'), event("k1", b'"beta"'))

    async def more() -> None:
        request = UpdateAgentRequest(project=P, agent_id="b", needs=asked("beta", "gamma"))
        await word_api.agents.UpdateAgent(request)
        await word_api.register("new", "alpha", last_seen_sequence="0")
        await word_api.publish(event("k3", b'"gamma"'), event("k1", b'"alpha beta"'))

    async def leave() -> None:
        for agent_id in ("leaves", "anew"):
            request = UnregisterAgentRequest(project=P, agent_id=agent_id)
            await word_api.agents.UnregisterAgent(request)
        await word_api.register("anew", "beta")
        await word_api.publish(event("k9", b'"beta"'), event("k2", b"", tombstone=True))
        await word_api.publish(event("k2", b'"alpha"'), publisher="own")

    async def last() -> None:
        await word_api.register("last", "beta")
        await word_api.publish(event("k0", b'"alpha beta"'), event("k9", b"", tombstone=True))

    happens: dict[int, Callable[[], Awaitable[None]]] = {0: change, 1: more, 2: leave}
    parts = DecisionsReader.parts

    async def interrupted(reader: DecisionsReader) -> AsyncIterator[CarriedDecisions]:
        number = 0
        async for part in parts(reader):
            yield part
            if number in happens:
                await happens[number]()
                await decided(word_server)
            number += 1
        await last()
        await decided(word_server)

    monkeypatch.setattr(DecisionsReader, "parts", interrupted)
    data = await exported(word_api, include=PARTS)
    monkeypatch.undo()
    async with Api.of(other) as api:
        await imported(api, data, P)
        assert await api.log() == await word_api.log()
        original, copy = await decided(word_server), await decided(other)
        # Of an earlier agent of its id, an agent has nothing to read.
        anew = [page[0].pop("anew") for page in (original, copy)]
        assert anew[0][-len(anew[1]) :] == anew[1]
        assert copy[0] == original[0]
        for name in original[0]:
            start = {"after_sequence": "0"}
            one = await everything(word_api, name, **start)
            assert await everything(api, name, **start) == one
        # What they hold is the same as well: they are told the same from here on.
        some = [event(f"k{n}", b'"delta"') for n in (0, 1, 2, 3, 9)]
        for each in (api, word_api):
            await each.publish(*some)
        told = []
        for server in (word_server, other):
            inboxes, _ = await decided(server)
            told.append(
                {name: [body[:1] for _, body in page[-4:]] for name, page in inboxes.items()}
            )
        assert told[0] == told[1]
        assert all(LEFT in bodies for name, bodies in told[0].items() if name in "ab")


class History:
    """Random changes of a project with four agents."""

    texts = ("alpha", "beta", "gamma", "alpha beta", "beta gamma", "delta")
    agents = ("a", "b", "c", "d")

    def __init__(self, api: Api, seed: int) -> None:
        self._api = api
        self._random = random.Random(seed)
        self._erasures = 0
        self.registered_anew: set[str] = set()

    def text(self) -> bytes:
        return b'"%s"' % self._random.choice(self.texts).encode()

    async def begin(self) -> None:
        await self._api.publish(*(event(f"k{n}", self.text()) for n in range(4)))
        for agent_id in self.agents:
            await self._register(agent_id)

    async def _register(self, agent_id: str, **fields: str) -> None:
        own, text = self._random.random() < 0.5, self._random.choice(self.texts)
        await self._api.register(agent_id, text, exclude_own=own, **fields)

    async def change(self) -> None:
        choose, api = self._random, self._api
        key, agent_id = f"k{choose.randrange(4)}", choose.choice(self.agents)
        publisher = choose.choice(("", "", agent_id))
        kinds = ("publish", "delete", "update", "anew", "past", "erase")
        kind = choose.choices(kinds, (11, 2, 3, 2, 1, 1))
        match kind[0]:
            case "publish":
                await api.publish(event(key, self.text()), publisher=publisher)
            case "delete":
                await api.publish(event(key, b"", tombstone=True), publisher=publisher)
            case "update":
                needs = asked(*choose.sample(self.texts, 2))
                update = UpdateAgentRequest(project=P, agent_id=agent_id, needs=needs)
                await api.agents.UpdateAgent(update, timeout=DEADLINE_S)
            case "anew":
                gone = UnregisterAgentRequest(project=P, agent_id=agent_id)
                await api.agents.UnregisterAgent(gone, timeout=DEADLINE_S)
                self.registered_anew.add(agent_id)
                await self._register(agent_id)
            case "past":
                self.registered_anew.add(agent_id)
                await self._register(agent_id, last_seen_sequence="0")
            case _:
                self._erasures += 1
                request_id = f"r{self._erasures}"
                erase = EraseDataRequest(
                    project=P, data_key=key, request_id=request_id, reason="a test"
                )
                await api.projects.EraseData(erase, timeout=DEADLINE_S)

    def sometimes(self, most: int) -> range:
        return range(self._random.randint(0, most))


@pytest.mark.parametrize("seed", one_of(15, *range(12)))
async def test_random_histories_go_on_while_they_are_exported(
    word_api: Api, word_server: Server, other: Server, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(inboxes, "_SCANNED", 1)
    monkeypatch.setattr(decisions, "_AGENTS", 1)
    monkeypatch.setattr(decisions, "_PAGE", 2)
    history = History(word_api, seed)
    await history.begin()
    for _ in range(12):
        await history.change()
    await decided(word_server)
    history.registered_anew.clear()
    parts, left = DecisionsReader.parts, 20

    async def interrupted(reader: DecisionsReader) -> AsyncIterator[CarriedDecisions]:
        nonlocal left
        async for part in parts(reader):
            yield part
            for _ in history.sometimes(min(left, 2)):
                left -= 1
                await history.change()
                for _ in history.sometimes(1):
                    await decided(word_server)

    monkeypatch.setattr(DecisionsReader, "parts", interrupted)
    data = await exported(word_api, include=PARTS)
    monkeypatch.undo()
    async with Api.of(other) as api:
        await imported(api, data, P)
        assert await api.log() == await word_api.log()
        (original, _), (copy, _) = await decided(word_server), await decided(other)
        for agent_id, entries in copy.items():
            anew = agent_id in history.registered_anew
            before = len(original[agent_id]) - len(entries) if anew else 0
            assert original[agent_id][before:] == entries, agent_id
        for each in (api, word_api):
            assert await deliveries_found(each) == []
            await each.publish(*(event(f"k{n}", b'"delta"') for n in range(4)))
            await each.publish(*(event(f"k{n}", b'"alpha beta gamma"') for n in range(4)))
        told = [
            {name: [body[:1] for _, body in page[-4:]] for name, page in found.items()}
            for found, _ in (await decided(word_server), await decided(other))
        ]
        assert told[0] == told[1]


async def test_what_an_inbox_has_let_go_of_goes_with_it(
    start_server: StartServer,
    valkey: EmbeddedValkey,
    other: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trimming, "_LOOK_S", 0.02)
    monkeypatch.setattr(trimming, "_LEAST", 10)
    server = await start_server(valkey.url, embedder=Words(), delivery_records=False)
    store = server.rooms.storage.store.inboxes
    async with Api.of(server) as first, Api.of(other) as api:
        await first.register("a", "alpha")
        await first.publish(*(event(f"k{n % 3}", b'"alpha %d"' % n) for n in range(30)))
        stream = await (await first.listen("a").live()).count(30)
        await acknowledge(first, "a", cursor=stream.cursor)
        await stream.cancel()

        async def is_trimmed() -> bool:
            await first.publish(event("k0", b'"alpha"'))  # What grows is looked at.
            return (await store.inbox_end(P, "a")).trimmed.upto > Sequence(0, 0)

        await eventually(is_trimmed)
        await first.publish(event("k1", b'"alpha"'), event("k2", b'"beta"'))
        before = await decided(server)
        data = await exported(first, include=PARTS)
        await imported(api, data, P)
        assert await decided(other) == before
        streams = [await each.listen("a", after_sequence="0").live() for each in (first, api)]
        for stream in streams:
            await stream.cancel()
        assert "resync" in streams[0].kinds
        assert streams[1].kinds == streams[0].kinds
        assert streams[1].matched == streams[0].matched
        for each in (first, api):
            assert await deliveries_found(each) == []


async def test_what_is_not_the_same_log_is_decided_anew(word_api: Api, word_server: Server) -> None:
    await word_api.publish(event("k1", b'"alpha"'))
    await word_api.register("a", "alpha")
    await decided(word_server)
    data = await exported(word_api, include=PARTS)
    mapping = KeyMapping(from_prefix="k", to_prefix="c")
    await imported(word_api, data, "mapped", remap_keys=[mapping])
    await word_api.publish(event("c2", b'"alpha"'), project="mapped")
    stream = await (await word_api.listen("a", "mapped").live()).count(1)
    assert (stream.told, stream.keys) == (["MATCHED"], ["c2"])


SEQUENCE = GOOD.sequence
STANDS = dict.fromkeys(range(SHARDS), SEQUENCE)
LATER = Sequence(SEQUENCE.ms + 1, 0)
REFUSED = {
    "no subscriber": CarriedDecisions(shards=STANDS, records={"a": b"garbage"}),
    "holders": CarriedDecisions(shards=STANDS, holders={0: {"k": b"x"}}),
    "a shard": CarriedDecisions(shards={7: SEQUENCE}),
    "a part of the shards": CarriedDecisions(shards={1: SEQUENCE}),
    "a version": CarriedDecisions(shards=STANDS, versions={1: b"[1,2]"}),
    "an entry": CarriedDecisions(shards=STANDS, entries={"a": [InboxEntry(SEQUENCE, b"")]}),
    "a position ahead": CarriedDecisions(shards=dict.fromkeys(range(SHARDS), LATER)),
    "an entry ahead": CarriedDecisions(
        shards=STANDS,
        records={"a": b""},
        entries={"a": [InboxEntry(LATER, b"\x01\x01\x01\x00k")]},
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_deciders_could_not_read_is_refused(small_api: Api, name: str) -> None:
    refused = await refusal(imported(small_api, file(GOOD, parts={"decisions": REFUSED[name]})))
    assert refused.reason == "IMPORT_MALFORMED"
    assert not await small_api.exists("copy")


async def test_what_is_parked_goes_with_it(
    word_api: Api, word_server: Server, other: Server
) -> None:
    async with Api.of(other) as api:
        await word_api.register("a", "alpha")
        await word_api.publish(*(event(f"k{n}", b'"alpha"') for n in range(4)))
        async with Worker(word_api, "w") as worker:
            ids = [each.delivery_id for each in await worker.count(4)]
            await worker.park(*ids[:3], reason="a reason\nof two lines")
            await worker.ack(ids[3])
            parked = await word_api.agents.ListParked(ListParkedRequest(project=P, agent_id="a"))
            await worker.say(drain=Drain())
            # One of them is on its way again.
            again = [parked.deliveries[1].parked_id]
            request = RedriveParkedRequest(project=P, agent_id="a", parked_ids=again)
            await word_api.agents.RedriveParked(request)
        await imported(api, await exported(word_api, include=PARTS), P)
        copied = await api.agents.ListParked(ListParkedRequest(project=P, agent_id="a"))
        of = {each.matched.event.data_key: each for each in copied.deliveries}
        assert sorted(of) == ["k0", "k1", "k2"]
        assert of["k0"] == parked.deliveries[0]
        assert of["k2"] == parked.deliveries[2]
        assert of["k1"].cause == PARK_CAUSE_SEEK
        async with Worker(api, "w") as worker:
            await worker.idle()
            assert worker.deliveries == []
            await api.agents.RedriveParked(RedriveParkedRequest(project=P, agent_id="a"))
            await worker.count(3)
