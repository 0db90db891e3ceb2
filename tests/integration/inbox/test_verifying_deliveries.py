"""`VerifyProject` judges what was decided for agents."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any

import pytest
from contex.v1 import agent_service_pb2, event_pb2, project_service_pb2
from contex_server.inbox.holdings import pack_holders, unpack_holders
from contex_server.inbox.subscriber import decode_subscriber
from contex_server.log.inboxes import shard_of
from contex_server.log.redis.key_names import key
from contex_server.server import Server

from tests.integration.support import (
    DEADLINE_S,
    Api,
    P,
    UpdateAgentRequest,
    asked,
    event,
    eventually,
)

DELIVERY = project_service_pb2.FINDING_KIND_DELIVERY


async def verify(api: Api, **fields: Any) -> tuple[list[tuple[str, str]], Any]:
    """Where deliveries are wrong and how, and the summary."""
    request = project_service_pb2.VerifyProjectRequest(project=P, **fields)
    steps = [s async for s in api.projects.VerifyProject(request, timeout=DEADLINE_S)]
    assert steps[-1].delivery_count == steps[-1].summary.delivery_count
    found = [step.finding for step in steps if step.HasField("finding")]
    assert {finding.kind for finding in found} <= {DELIVERY}
    return [(finding.place, finding.detail) for finding in found], steps[-1].summary


async def story(api: Api) -> None:
    """Deliveries of all kinds: also steps, filters, and what an agent published itself."""
    await api.publish(*(event(f"k{n}", b'"alpha"') for n in range(3)))
    await api.register("a", "alpha")
    await api.register("own", "alpha", exclude_own=True)
    wanted = event_pb2.EventFilter(data_keys=["k*"])
    request = agent_service_pb2.RegisterAgentRequest(
        project=P, agent_id="filter", needs=[agent_service_pb2.Need(filter=wanted)]
    )
    await api.agents.RegisterAgent(request, timeout=DEADLINE_S)
    await api.publish(event("k0", b'"alpha two"'), event("k1", b'"beta"'))
    await api.publish(event("k1", b'"alpha beta"'), publisher="own")
    await api.publish(event("k0", b'"beta"'), publisher="own")
    await api.publish(event("k0", b'"alpha"'), event("k2", b"", tombstone=True))
    request = UpdateAgentRequest(project=P, agent_id="a", needs=asked("beta"))
    await api.agents.UpdateAgent(request, timeout=DEADLINE_S)
    await api.publish(event("k2", b'"beta alpha"'), event("k2", b'"beta gamma"'))
    erase = project_service_pb2.EraseDataRequest(
        project=P, data_key="k2", request_id="r", reason="a test"
    )
    await api.projects.EraseData(erase, timeout=DEADLINE_S)
    await api.publish(event("k2", b'"beta"'))
    for agent_id in ("a", "own", "filter"):
        await (await api.listen(agent_id, after_sequence="0").live()).cancel()


async def test_sound_inboxes(word_api: Api) -> None:
    await story(word_api)
    found, summary = await verify(word_api, all_deliveries=True)
    assert found == []
    assert summary.delivery_count > 20
    publishing = asyncio.create_task(publish_on(word_api))
    while not publishing.done():
        assert (await verify(word_api))[0] == []
    await publishing


async def publish_on(api: Api) -> None:
    for n in range(40):
        text = (b'"alpha"', b'"beta"', b'"gamma"')[n % 3]
        deleted = n % 7 == 6
        changed = event(f"k{n % 4}", b"" if deleted else text, tombstone=deleted)
        await api.publish(changed, publisher="own" if n % 5 == 4 else "")


Tamper = Callable[[list[list[Any]]], int]
"""Changes entries, ids with bodies, and returns which one."""


def another_kind(entries: list[list[Any]]) -> int:
    entries[1][1] = b"\x01" + entries[1][1][1:]
    return 1


_REVISION = 4
"""Where it is in an entry, behind the change and the number of the version."""


def another_revision(entries: list[list[Any]]) -> int:
    body = entries[1][1]
    entries[1][1] = body[:_REVISION] + bytes([body[_REVISION] + 5]) + body[_REVISION + 1 :]
    return 1


def another_score(entries: list[list[Any]]) -> int:
    # Behind the revision: the number of needs, and of the first one its id and index.
    body, at = bytearray(entries[1][1]), _REVISION + 7
    (score,) = struct.unpack_from("<f", body, at)
    struct.pack_into("<f", body, at, score - 0.01)
    entries[1][1] = bytes(body)
    return 1


def another_event(entries: list[list[Any]]) -> int:
    ms, n = map(int, entries[1][0].split(b"-"))
    entries[1][0] = b"%d-%d" % (ms, n + (1 << 20))
    return 1


@pytest.mark.parametrize("tamper", [another_kind, another_revision, another_score, another_event])
async def test_an_entry_that_was_tampered_with(word_api: Api, store: Any, tamper: Tamper) -> None:
    await word_api.register("a", "alpha")
    await word_api.publish(event("k", b'"alpha"'))
    await word_api.publish(event("k", b'"alpha beta"'))
    await asyncio.sleep(0.002)  # in another millisecond
    await word_api.publish(event("k", b"", tombstone=True))
    await (await word_api.listen("a", after_sequence="0").live()).count(3)
    assert (await verify(word_api))[0] == []
    inbox = key(P, "inbox:a")
    entries = [[place, fields[b"d"]] for place, fields in await store.xrange(inbox)]
    which = tamper(entries)
    await store.delete(inbox)
    for place, body in entries:
        await store.xadd(inbox, {b"d": body}, id=place)
    place = entries[which][0].decode()
    ms, n = map(int, place.split("-"))
    for fields in ({}, {"all_deliveries": True}):
        found, _ = await verify(word_api, **fields)
        assert f"a {ms}-{n >> 20}" in [where for where, _ in found], found


async def test_holders_that_are_not_what_was_sent(
    word_api: Api, word_server: Server, store: Any
) -> None:
    await word_api.register("a", "alpha")
    (sequence,) = await word_api.publish(event("k", b'"alpha"'))
    await (await word_api.listen("a", after_sequence="0").live()).count(1)
    shard = shard_of("a")
    inboxes = word_server.rooms.storage.store.inboxes
    standing = await inboxes.standing(P, "a")
    number = decode_subscriber(standing.record or b"", standing.position).number

    async def is_idle() -> bool:
        return (await inboxes.inbox_end(P, "a")).position >= (await inboxes_tail(word_server))

    await eventually(is_idle)
    for changed, detail in (
        ({"last": 2}, "a later one"),
        ({"held": False}, "does not hold"),
        ({"first": 0, "last": 0}, "an earlier one"),
        (None, "it is not known"),
    ):
        packed = await store.hget(key(P, f"holders:{shard}"), "k")
        holders = unpack_holders(packed)
        if changed is None:
            tampered = pack_holders({number + 1: holders[number]})
        else:
            tampered = pack_holders({number: holders[number]._replace(**changed)})
        await store.hset(key(P, f"holders:{shard}"), "k", tampered)
        found, _ = await verify(word_api)
        assert [where for where, _ in found] == [f"a {sequence}"]
        assert detail in found[0][1]
        await store.hset(key(P, f"holders:{shard}"), "k", packed)
    assert (await verify(word_api))[0] == []


async def inboxes_tail(server: Server) -> Any:
    return (await server.rooms.storage.store.events.bounds(P)).tail
