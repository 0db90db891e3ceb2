"""Publish: what an acknowledgement says, idempotency, lost updates."""

from __future__ import annotations

import asyncio

import pytest
from contex.v1 import event_pb2
from contex_server.server import Server

from tests.integration.support import (
    Api,
    GetEventRequest,
    P,
    PublishRequest,
    event,
    order,
    own,
    refusal,
)


async def test_an_event_is_read_back_as_it_was_published(api: Api) -> None:
    request = PublishRequest(
        project=P,
        events=[
            event(
                "api_config",
                b'{"base_url": "https://api.example.com", "timeout": 30}',
                description="API endpoint and timeouts",
                metadata={"team": "core", "größe": "ünïcode"},
            )
        ],
        publisher="deployer",
    )
    response = await api.events.Publish(request)
    (receipt,) = response.receipts
    assert receipt.revision == 1
    assert response.durability == event_pb2.DURABILITY_FSYNC
    assert not response.duplicate
    got = await api.events.GetEvent(GetEventRequest(project=P, sequence=receipt.sequence))
    assert len(got.event.text_digest) == 16
    got.event.ClearField("text_digest")
    assert got.event == event_pb2.Event(
        sequence=receipt.sequence,
        event_type="data_published",
        data_key="api_config",
        payload=request.events[0].payload,
        description="API endpoint and timeouts",
        publisher="deployer",
        metadata={"team": "core", "größe": "ünïcode"},
        revision=1,
    )


async def test_events_of_a_publish_are_consecutive_and_chained(api: Api) -> None:
    sequences = await api.publish(event("a"), event("b"), event("a"), own(), event("a"))
    first = order(sequences[0])
    assert [order(s) for s in sequences] == [(first[0], first[1] + i) for i in range(5)]
    log = await api.log()
    assert [(e.data_key, e.revision, e.previous_sequence) for e in log] == [
        ("a", 1, ""),
        ("b", 1, ""),
        ("a", 2, sequences[0]),
        ("", 0, ""),
        ("a", 3, sequences[2]),
    ]


async def test_a_deletion_is_an_event_with_the_datums_text(api: Api) -> None:
    await api.publish(event("a", description="what it is"))
    await api.publish(event("a", b"", tombstone=True))
    await api.publish(event("a", description="what it is"))
    published, deleted, back = await api.log()
    assert (deleted.event_type, deleted.payload) == ("data_deleted", b"")
    assert [published.revision, deleted.revision, back.revision] == [1, 2, 3]
    assert published.text_digest == deleted.text_digest == back.text_digest != b""


async def test_a_gauge_that_moves_keeps_its_text(api: Api) -> None:
    await api.publish(*(event("load", b'{"percent": %d}' % i) for i in range(5)))
    assert len({e.text_digest for e in await api.log()}) == 1


@pytest.mark.parametrize(
    ("asked", "reached"),
    [
        (event_pb2.DURABILITY_UNSPECIFIED, event_pb2.DURABILITY_FSYNC),
        (event_pb2.DURABILITY_MEMORY, event_pb2.DURABILITY_FSYNC),
        (event_pb2.DURABILITY_FSYNC, event_pb2.DURABILITY_FSYNC),
        # The built-in store has no replica, and the answer says so.
        (event_pb2.DURABILITY_REPLICATED, event_pb2.DURABILITY_FSYNC),
    ],
)
async def test_the_answer_tells_the_durability_that_was_reached(
    server: Server, api: Api, asked: event_pb2.Durability.ValueType, reached: int
) -> None:
    request = PublishRequest(project=P, events=[event()], durability=asked)
    assert (await api.events.Publish(request)).durability == reached


async def test_projects_know_nothing_of_each_other(api: Api) -> None:
    await api.publish(event("k"), project="one", request_id="r")
    await api.publish(event("k"), project="two", request_id="r")
    (one,) = await api.log("one")
    (two,) = await api.log("two")
    assert one.revision == two.revision == 1
    refused = await refusal(
        api.events.GetEvent(GetEventRequest(project="two", sequence=one.sequence))
    )
    assert (refused.code, refused.reason) == ("NOT_FOUND", "EVENT_NOT_FOUND")


async def test_a_request_from_two_connections_at_once_is_appended_once(server: Server) -> None:
    async with Api.of(server) as one, Api.of(server) as two:
        for i in range(30):
            request = PublishRequest(
                project=P, events=[event("a"), event("b", b'"%d"' % i)], request_id=f"r-{i}"
            )
            answers = await asyncio.gather(one.events.Publish(request), two.events.Publish(request))
            assert sorted(a.duplicate for a in answers) == [False, True]
            assert answers[0].receipts == answers[1].receipts
        again = await two.events.Publish(request)
        assert again.duplicate
        assert again.receipts == answers[0].receipts
        assert len(await one.log()) == 60


async def test_a_refused_request_may_succeed_later(api: Api) -> None:
    request = PublishRequest(project=P, events=[event(expected_revision=1)], request_id="r")
    await refusal(api.events.Publish(request))
    await api.publish(event())
    assert not (await api.events.Publish(request)).duplicate


async def test_of_two_racing_writers_one_wins_and_the_other_learns_the_revision(
    server: Server,
) -> None:
    async with Api.of(server) as one, Api.of(server) as two:
        for revision in range(20):
            request = PublishRequest(
                project=P, events=[event("counter", expected_revision=revision)]
            )
            answers = await asyncio.gather(
                one.events.Publish(request), two.events.Publish(request), return_exceptions=True
            )
            (won,) = (a for a in answers if not isinstance(a, BaseException))
            (lost,) = (a for a in answers if isinstance(a, BaseException))
            assert won.receipts[0].revision == revision + 1
            refused = await refusal(_raise(lost))
            assert (refused.code, refused.reason) == (
                "FAILED_PRECONDITION",
                "REVISION_CONFLICT",
            )
            assert refused.metadata == {
                "data_key": "counter",
                "expected_revision": str(revision),
                "actual_revision": str(revision + 1),
                "actual_state": "present",
            }
        assert [e.revision for e in await one.log()] == list(range(1, 21))


async def _raise(error: BaseException) -> None:
    raise error


async def test_a_publish_is_all_or_nothing(api: Api) -> None:
    await api.publish(event("b"))
    refused = await refusal(api.publish(event("a"), event("b", expected_revision=0), event("c")))
    assert refused.metadata["actual_revision"] == "1"
    assert len(await api.log()) == 1


async def test_writers_on_many_connections_share_one_order(server: Server) -> None:
    clients = [Api.of(server) for _ in range(8)]

    async def write(client: Api, number: int) -> list[str]:
        sequences: list[str] = []
        for i in range(25):
            sequences += await client.publish(event(f"w{number}", b'"%d"' % i))
        return sequences

    written = await asyncio.gather(*(write(c, n) for n, c in enumerate(clients)))
    log = await clients[0].log()
    assert sorted(order(s) for part in written for s in part) == [order(e.sequence) for e in log]
    for number, sequences in enumerate(written):
        assert [e.sequence for e in log if e.data_key == f"w{number}"] == sequences
        assert [e.revision for e in log if e.data_key == f"w{number}"] == list(range(1, 26))
    for client in clients:
        await client.channel.close()


async def test_a_publish_whose_client_left_is_no_defect(server: Server, api: Api) -> None:
    for i in range(50):
        call = api.events.Publish(PublishRequest(project=P, events=[event(f"left{i}")]))
        await asyncio.sleep(0.001 * (i % 5))
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    await api.publish(event("last"))
    assert (await api.log())[-1].data_key == "last"
    assert server.calls.active == 0
