"""GetEvent, ListEvents and Replay: ranges, filters, order, pages and cursors."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from contex.v1 import event_pb2
from contex.v1.project_service_pb2 import GetActivityRequest
from contex.v1.state_service_pb2 import GetStateRequest
from contex_server.kernel.config import Limits
from contex_server.log.embedded import EmbeddedValkey
from contex_server.server import Server
from google.protobuf.timestamp_pb2 import Timestamp

from tests.conftest import StartServer
from tests.integration.support import (
    AcknowledgeRequest,
    Api,
    GetEventRequest,
    P,
    after,
    at_ms,
    batches,
    event,
    ms,
    order,
    own,
    refusal,
)

BACKWARDS = event_pb2.ORDER_BACKWARDS


async def fill(api: Api, count: int, size: int = 10) -> list[str]:
    """Publishes that many events under 7 keys."""
    sequences: list[str] = []
    for part in batches(range(count), 1_000):
        sequences += await api.publish(*(event(f"k{i % 7}", b'"%s"' % (b"x" * size)) for i in part))
    return sequences


async def spread(api: Api, count: int) -> list[str]:
    """Publishes events that lie in different milliseconds."""
    sequences: list[str] = []
    for i in range(count):
        sequences += await api.publish(event(f"k{i}"))
        await asyncio.sleep(0.003)
    assert len({ms(s) for s in sequences}) == count
    return sequences


async def all_pages(api: Api, **fields: Any) -> list[list[str]]:
    pages, token = [], ""
    while True:
        page = await api.page(page_token=token, **fields)
        pages.append([e.sequence for e in page.events])
        token = page.next_page_token
        if not token:
            return pages


async def test_get_finds_exactly_the_sequence(api: Api) -> None:
    (sequence,) = await api.publish(event())
    first, n = order(sequence)
    got = await api.events.GetEvent(GetEventRequest(project=P, sequence=sequence))
    assert got.event.sequence == sequence
    got = await api.events.GetEvent(GetEventRequest(project=P, sequence=str(first)))
    assert got.event.sequence == sequence
    for absent in ("0", f"{first}-{n + 1}", f"{first - 1}-{n}", f"{2**64 - 1}-{2**64 - 1}"):
        refused = await refusal(api.events.GetEvent(GetEventRequest(project=P, sequence=absent)))
        assert (refused.code, refused.reason) == ("NOT_FOUND", "EVENT_NOT_FOUND")


@pytest.mark.parametrize("direction", [event_pb2.ORDER_FORWARDS, BACKWARDS])
@pytest.mark.parametrize("size", [1, 7, 100])
async def test_pages_follow_on_each_other(api: Api, direction: int, size: int) -> None:
    every = await fill(api, 50)
    pages = await all_pages(api, order=direction, page_size=size)
    assert all(len(page) == size for page in pages[:-1])
    assert len(pages[-1]) <= size
    found = [s for page in pages for s in page]
    assert found == (every[::-1] if direction == BACKWARDS else every)


async def test_a_page_has_a_hundred_events_unless_asked(api: Api) -> None:
    await fill(api, 101)
    page = await api.page()
    assert len(page.events) == 100
    assert len((await api.page(page_token=page.next_page_token)).events) == 1


async def test_the_last_page_has_no_token(api: Api) -> None:
    await fill(api, 20)
    assert not (await api.page(page_size=20)).next_page_token
    assert (await api.page(page_size=19)).next_page_token


@pytest.mark.parametrize("direction", [event_pb2.ORDER_FORWARDS, BACKWARDS])
async def test_ranges_by_sequence_and_by_time(api: Api, direction: int) -> None:
    s = await spread(api, 8)

    async def both(since: Any, until: Any) -> list[str]:
        fields = {"since": since, "until": until, "order": direction}
        found = [e.sequence for e in (await api.page(**fields)).events]
        assert (await api.replay(**fields).to_end()).sequences == found
        return found[::-1] if direction == BACKWARDS else found

    # By sequence: after the lower end, up to and including the upper.
    assert await both(after(s[2]), after(s[5])) == s[3:6]
    assert await both(after("0"), after(s[0])) == s[:1]
    assert await both(after(s[7]), None) == []
    assert await both(after(s[5]), after(s[2])) == []
    assert await both(None, after(s[3])) == s[:4]
    # By time: from the lower end on, up to and including the upper.
    assert await both(at_ms(ms(s[2])), at_ms(ms(s[5]))) == s[2:6]
    assert await both(at_ms(ms(s[2]) + 1), at_ms(ms(s[5]) - 1)) == s[3:5]
    assert await both(at_ms(0), at_ms(ms(s[0]) - 1)) == []
    assert await both(at_ms(ms(s[7]) + 1), None) == []
    assert await both(after(s[1]), at_ms(ms(s[4]))) == s[2:5]
    assert await both(None, at_ms(ms(s[7]) + 3_600_000)) == s


async def test_what_lies_in_the_future_of_the_log_is_refused(api: Api) -> None:
    (last,) = await api.publish(event())
    beyond = f"{ms(last) + 1}-0"
    for call in (api.page(since=after(beyond)), api.replay(since=after(beyond)).to_end()):
        refused = await refusal(call)
        assert (refused.code, refused.reason) == ("OUT_OF_RANGE", "SEQUENCE_IN_FUTURE")
        assert refused.metadata == {"tail_sequence": last}
    assert [e.sequence for e in (await api.page(until=after(beyond))).events] == [last]


FILTERS: list[tuple[dict[str, list[str]], Any]] = [
    ({"event_types": ["note"]}, lambda e: e.event_type == "note"),
    (
        {"event_types": ["data_published", "data_deleted"]},
        lambda e: e.event_type.startswith("data_"),
    ),
    ({"data_keys": ["*"]}, lambda e: e.data_key),
    ({"data_keys": ["a.*"]}, lambda e: e.data_key.startswith("a.")),
    ({"data_keys": ["?.1", "b.2"]}, lambda e: e.data_key in ("a.1", "b.1", "c.1", "b.2")),
    ({"data_keys": ["a.1"]}, lambda e: e.data_key == "a.1"),
    ({"publishers": ["p1"]}, lambda e: e.publisher == "p1"),
    ({"publishers": [""]}, lambda e: not e.publisher),
    (
        {"event_types": ["data_published"], "data_keys": ["*.1"], "publishers": ["p1", "p2"]},
        lambda e: e.event_type == "data_published" and e.data_key.endswith(".1") and e.publisher,
    ),
    ({"event_types": ["never"]}, lambda e: False),
]


async def mixture(api: Api) -> list[event_pb2.Event]:
    for publisher in ("", "p1", "p2"):
        for i in range(4):
            await api.publish(
                event(f"a.{i}"),
                event(f"b.{i}"),
                own("note"),
                own("a.sale"),
                event(f"a.{i}", b"", tombstone=True),
                event(f"c.{i}", event_type="note"),
                publisher=publisher,
            )
    await api.register("somebody", "a need")
    return await api.log()


@pytest.mark.parametrize(("wanted", "passes"), FILTERS)
async def test_filters(api: Api, wanted: dict[str, Any], passes: Any) -> None:
    expected = [e for e in await mixture(api) if passes(e)]
    assert list((await api.page(page_size=1_000, **wanted)).events) == expected
    assert (await api.replay(**wanted).to_end()).events == expected
    backwards = await api.replay(**wanted, order=BACKWARDS).to_end()
    assert backwards.events == expected[::-1]


async def test_a_page_ends_where_enough_was_looked_at(
    start_server: StartServer, valkey: EmbeddedValkey
) -> None:
    server = await start_server(valkey.url, limits=Limits(page_scanned_events=100))
    async with Api.of(server) as api:
        sequences = await fill(api, 350)
        await api.publish(event("needle"))
        pages = await all_pages(api, data_keys=["needle"])
        assert [len(page) for page in pages] == [0, 0, 0, 1]
        assert await all_pages(api, data_keys=["needle"], until=after(sequences[-1])) == [[]] * 4


async def test_a_page_ends_at_its_size_in_bytes(api: Api) -> None:
    every = await fill(api, 5, size=700_000)
    pages = await all_pages(api)
    assert [s for page in pages for s in page] == every
    assert [len(page) for page in pages] == [2, 2, 1]


@pytest.mark.parametrize("direction", [event_pb2.ORDER_FORWARDS, BACKWARDS])
async def test_a_replay_delivers_everything_once_in_bounded_messages(
    api: Api, direction: int
) -> None:
    every = await fill(api, 6_000, size=500)
    replay = await api.replay(order=direction).to_end()
    assert replay.sequences == (every[::-1] if direction == BACKWARDS else every)
    assert set(replay.kinds) == {"events"}
    assert all(m.ByteSize() < 1_200_000 for m in replay.messages)


@pytest.mark.parametrize("direction", [event_pb2.ORDER_FORWARDS, BACKWARDS])
async def test_a_replay_resumes_from_every_cursor(api: Api, direction: int) -> None:
    every = await fill(api, 3_000)
    if direction == BACKWARDS:
        every.reverse()
    whole = await api.replay(order=direction, data_keys=["k1", "k3"]).to_end()
    seen = 0
    for message in whole.messages:
        seen += len(message.events.events)
        rest = await api.replay(
            order=direction, data_keys=["k1", "k3"], cursor=message.cursor
        ).to_end()
        assert rest.sequences == whole.sequences[seen:]
    assert seen == len(whole.events) > 800
    assert len(whole.messages) > 3


async def test_a_replay_that_broke_goes_on_on_another_connection(server: Server) -> None:
    async with Api.of(server) as api:
        every = await fill(api, 2_000)
        received: list[str] = []
        cursor = ""
        for _ in range(100):
            async with Api.of(server) as other:
                part = other.replay(cursor=cursor)
                while await part.read() is not None and len(part.messages) < 2:
                    pass
                received += part.sequences
                if part.ended:
                    break
                cursor = part.cursor
                await part.cancel()
        assert received == every


async def test_the_upper_end_is_fixed_when_a_replay_starts(api: Api) -> None:
    every = await fill(api, 5_000, size=500)
    replay = api.replay()
    await replay.read()
    await fill(api, 100)
    assert (await replay.to_end()).sequences == every


async def test_a_replay_in_which_nothing_passes_tells_its_progress(
    start_server: StartServer, valkey: EmbeddedValkey
) -> None:
    server = await start_server(valkey.url, heartbeat_interval_ms=100, replay_page_events=16)
    async with Api.of(server) as api:
        every = await fill(api, 8_000)
        for direction, expected in ((0, every), (BACKWARDS, every[::-1])):
            replay = await api.replay(order=direction, data_keys=["never"]).to_end()
            assert replay.events == []
            assert replay.kinds
            assert set(replay.kinds) == {"checkpoint"}
            assert not any(m.checkpoint.last for m in replay.messages)
            cursors = [m.cursor for m in replay.messages]
            assert len(set(cursors)) == len(cursors)
            # Without the filter the rest of the range follows: a checkpoint is a place.
            rest = await api.replay(order=direction, cursor=cursors[0]).to_end()
            assert rest.sequences == expected[-len(rest.sequences) :]
            assert 0 < len(rest.sequences) < len(every)


async def test_readers_do_not_disturb_each_other(server: Server) -> None:
    async with Api.of(server) as api:
        every = await fill(api, 3_000)
    apis = [Api.of(server) for _ in range(10)]
    replays = await asyncio.gather(*(a.replay().to_end() for a in apis))
    assert all(replay.sequences == every for replay in replays)
    for api in apis:
        await api.channel.close()


async def test_the_store_does_not_walk_a_stream_for_what_is_before_it(api: Api, store: Any) -> None:
    await api.publish(*(event(f"k{n}") for n in range(10)))

    async def walks() -> bool:
        await store.config_resetstat()
        page = await api.page(until=at_ms(1_000), order=BACKWARDS)
        assert not page.events
        return "cmdstat_xrevrange" in await store.info("commandstats")

    # What the server does by itself may walk one in between, not each time.
    assert not all([await walks() for _ in range(5)])


async def test_streams_take_the_cursors_of_each_other(word_api: Api) -> None:
    await word_api.register("a", "a need")
    first = await word_api.publish(event("a"))
    cursors = {
        "replay": (await word_api.replay().to_end()).cursor,
        "subscribe": (await word_api.subscribe().live()).cursor,
        "listen": (await word_api.listen("a").live()).cursor,
    }
    rest = await word_api.publish(event("b"))
    assert first != rest
    for made_by, cursor in cursors.items():
        assert (await word_api.replay(cursor=cursor).to_end()).sequences == rest, made_by
        assert (await word_api.subscribe(cursor=cursor).count(1)).sequences == rest, made_by
        await word_api.listen("a", cursor=cursor).live()
        await word_api.agents.Acknowledge(
            AcknowledgeRequest(project=P, agent_id="a", cursor=cursor)
        )


async def test_a_range_may_begin_and_end_in_the_future_but_a_moment_may_not(word_api: Api) -> None:
    await word_api.register("a", "a need")
    sequences = await word_api.publish(event("a"))
    later = time.time_ns() // 1_000_000 + 3_600_000
    assert (await word_api.replay(until=at_ms(later)).to_end()).sequences[-1:] == sequences
    assert (await word_api.replay(since=at_ms(later)).to_end()).sequences == []
    assert not (await word_api.page(since=at_ms(later))).events
    start = Timestamp(seconds=later // 1_000)
    for stream in (word_api.subscribe(from_time=start), word_api.listen("a", from_time=start)):
        assert (await stream.live()).sequences == []
        await stream.cancel()
    for refused in (
        word_api.states.GetState(GetStateRequest(project=P, as_of=at_ms(later))),
        word_api.projects.GetActivity(GetActivityRequest(project=P, until=at_ms(later))),
    ):
        assert (await refusal(refused)).reason == "TIME_IN_FUTURE"
