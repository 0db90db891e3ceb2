"""Subscribe: where it starts, catching up and going live, filters, signs of life."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from contex.v1 import event_pb2
from contex_server.log.buckets import bucket_of
from contex_server.server import Server
from google.protobuf.timestamp_pb2 import Timestamp

from tests.integration.support import (
    EDGE_BEGINNING,
    EDGE_END,
    Api,
    P,
    Stream,
    event,
    eventually,
    ms,
    order,
    own,
    refusal,
)
from tests.thorough import one_of


def instant(unix_ms: int) -> Timestamp:
    value = Timestamp()
    value.FromMilliseconds(unix_ms)
    return value


async def three(api: Api) -> list[str]:
    sequences = []
    for i in range(3):
        sequences += await api.publish(event(f"k{i}"))
        await asyncio.sleep(0.003)
    return sequences


async def follows(api: Api, stream: Stream, past: list[str], project: str = P) -> None:
    """The stream delivers this past, says so, and is live."""
    await stream.live()
    assert stream.sequences == past
    assert stream.kinds == (["events"] if past else []) + ["caught_up"]
    fresh = await api.publish(event("fresh"), project=project)
    assert (await stream.count(len(past) + 1)).sequences == past + fresh
    await stream.quiet(0.1)


async def test_by_default_from_the_beginning(api: Api) -> None:
    s = await three(api)
    await follows(api, api.subscribe(), s)


async def test_from_the_beginning(api: Api) -> None:
    s = await three(api)
    await follows(api, api.subscribe(edge=EDGE_BEGINNING), s)


async def test_from_the_end(api: Api) -> None:
    await three(api)
    await follows(api, api.subscribe(edge=EDGE_END), [])


async def test_after_a_sequence(api: Api) -> None:
    s = await three(api)
    await follows(api, api.subscribe(after_sequence=s[1]), s[2:])


async def test_after_a_sequence_that_no_event_has(api: Api) -> None:
    s = await three(api)
    between = f"{ms(s[1])}-{order(s[1])[1] + 5}"
    await follows(api, api.subscribe(after_sequence=between), s[2:])


async def test_after_sequence_zero(api: Api) -> None:
    s = await three(api)
    await follows(api, api.subscribe(after_sequence="0"), s)


async def test_from_an_instant(api: Api) -> None:
    s = await three(api)
    await follows(api, api.subscribe(from_time=instant(ms(s[1]))), s[1:])


async def test_from_an_instant_between_events(api: Api) -> None:
    s = await three(api)
    await follows(api, api.subscribe(from_time=instant(ms(s[1]) + 1)), s[2:])


async def test_from_an_instant_before_everything(api: Api) -> None:
    s = await three(api)
    await follows(api, api.subscribe(from_time=instant(0)), s)


async def test_from_now_on_a_log_that_rests(api: Api) -> None:
    await three(api)
    await asyncio.sleep(0.01)
    now = time.time_ns() // 1_000_000
    stream = await api.subscribe(from_time=instant(now)).live()
    assert stream.events == []
    # Its cursor is good although nothing has happened since that instant.
    await follows(api, api.subscribe(cursor=stream.cursor), [])


async def test_from_an_instant_to_come(api: Api) -> None:
    await three(api)
    soon = time.time_ns() // 1_000_000 + 1_500
    stream = await api.subscribe(from_time=instant(soon)).live()
    (early,) = await api.publish(event("early"))
    assert ms(early) < soon
    await stream.quiet(0.2)
    while time.time_ns() // 1_000_000 <= soon:
        await asyncio.sleep(0.05)
    late = await api.publish(event("late"))
    assert (await stream.count(1)).sequences == late


async def test_from_a_cursor(api: Api) -> None:
    s = await three(api)
    first = await api.subscribe().live()
    await api.publish(event("missed"))
    await first.count(4)
    missed = first.sequences[3:]
    await follows(api, api.subscribe(cursor=first.messages[0].cursor), missed)
    everything = [*s, *missed, first.sequences[3], "fresh"]
    assert len(everything) == 6


async def test_an_empty_project_can_be_awaited(api: Api) -> None:
    await follows(api, api.subscribe("new"), [], "new")


async def test_a_place_beyond_the_end_is_refused(api: Api) -> None:
    s = await three(api)
    refused = await api.subscribe(after_sequence=f"{ms(s[2]) + 60_000}-0").refusal()
    assert (refused.code, refused.reason) == ("OUT_OF_RANGE", "SEQUENCE_IN_FUTURE")
    assert refused.metadata == {"tail_sequence": s[2]}


@pytest.mark.parametrize("project", ["never", "begun"])
async def test_so_it_is_in_a_project_without_data(api: Api, project: str) -> None:
    """One that nothing was published to, and one that has an agent and nothing else."""
    tail = "0-0"
    if project == "begun":
        tail = (await api.register("agent", "a need", project=project)).sequence
    beyond = f"{4_102_444_800_000}-0"
    streams = [api.subscribe(project, after_sequence=beyond)]
    if project == "begun":
        streams += [
            api.listen("agent", project, after_sequence=beyond),
            api.replay(project, since=event_pb2.Position(sequence=beyond)),
        ]
    for stream in streams:
        refused = await stream.refusal()
        assert (refused.code, refused.reason) == ("OUT_OF_RANGE", "SEQUENCE_IN_FUTURE")
        assert refused.metadata == {"tail_sequence": tail}


async def test_an_instant_that_is_still_to_come_is_awaited_in_an_empty_project(api: Api) -> None:
    stream = await api.subscribe("never", from_time=instant(4_102_444_800_000)).live()
    again = api.subscribe("never", cursor=stream.cursor)
    assert (await again.live()).kinds == ["caught_up"]
    await stream.cancel()
    await again.cancel()


async def _cursor(api: Api) -> str:
    return (await api.subscribe().live()).cursor


Passes = Callable[[event_pb2.Event], object]

FILTERS: list[tuple[dict[str, Any], Passes]] = [
    ({}, lambda e: True),
    ({"event_types": ["note"]}, lambda e: e.event_type == "note"),
    ({"event_types": ["data_deleted"]}, lambda e: e.event_type == "data_deleted"),
    ({"data_keys": ["a*"]}, lambda e: e.data_key.startswith("a")),
    ({"data_keys": ["?1", "b2"]}, lambda e: e.data_key[1:] == "1" or e.data_key == "b2"),
    ({"publishers": ["w1"]}, lambda e: e.publisher == "w1"),
    (
        {"data_keys": ["*"], "publishers": ["w0", "w2"]},
        lambda e: e.data_key and e.publisher in ("w0", "w2"),
    ),
    ({"event_types": ["never"]}, lambda e: False),
]


async def tail(api: Api) -> str:
    (last,) = (await api.page(page_size=1, order=event_pb2.ORDER_BACKWARDS)).events
    return str(last.sequence)


@pytest.mark.parametrize("seed", one_of(*range(3)))
async def test_whoever_joins_at_whatever_moment_gets_everything_once(
    server: Server, seed: int
) -> None:
    randomly = random.Random(seed)
    writing = True
    log: list[event_pb2.Event] = []
    written = asyncio.Event()

    async def write(api: Api, name: str) -> None:
        while writing:
            key = f"{randomly.choice('ab')}{randomly.randrange(3)}"
            kinds = [event(key), event(key), event(key, b"", tombstone=True), own("note")]
            events = randomly.choices(kinds, k=randomly.choice([1, 1, 1, 20]))
            await api.publish(*events, publisher=name)
            await asyncio.sleep(randomly.random() * 0.01)

    async def follow(wanted: dict[str, Any], passes: Passes) -> None:
        await asyncio.sleep(randomly.random() * 1.2)
        async with Api.of(server) as api:
            fields: dict[str, Any] = {}
            # Everything after `least` and nothing before `most` must come.
            least = most = "0-0"
            match randomly.choice(["beginning", "end", "sequence", "cursor"]):
                case "end":
                    fields["edge"] = EDGE_END
                    most = await tail(api)
                case "sequence":
                    page = await api.page(page_size=50, order=randomly.choice([1, 2]))
                    least = most = randomly.choice(page.events).sequence
                    fields["after_sequence"] = least
                case "cursor":
                    early = await api.subscribe(**wanted).live()
                    await early.cancel()
                    fields["cursor"] = early.cursor
                    least = most = early.sequences[-1] if early.events else "0-0"
            stream = await api.subscribe(**fields, **wanted).live()
            if "edge" in fields:
                least = await tail(api)
            await asyncio.sleep(randomly.random() * 0.5)
            await written.wait()
            expected = [e.sequence for e in log if passes(e)]
            needed = [s for s in expected if order(s) > order(least)]
            allowed = [s for s in expected if order(s) > order(most)]
            await stream.until(lambda s: not needed or needed[-1] in s.sequences)
            # What was written while it joined may still be on its way.
            await stream.quiet(0.1, "events")
            assert stream.sequences == allowed[len(allowed) - len(stream.events) :]
            assert len(stream.events) >= len(needed)
            assert stream.kinds.count("caught_up") == 1
            assert "fell_behind" not in stream.kinds

    async with Api.of(server) as api:
        await api.publish(*(event(f"a{i % 3}") for i in range(200)))
        writers = [asyncio.create_task(write(api, f"w{n}")) for n in range(3)]
        readers = [asyncio.create_task(follow(*FILTERS[i % len(FILTERS)])) for i in range(24)]
        await asyncio.sleep(1.6)
        writing = False
        await asyncio.gather(*writers)
        log = await api.log()
        written.set()
        await asyncio.gather(*readers)
    await eventually(lambda: not server.rooms.events.hub.channels)


async def test_caught_up_is_said_once_and_in_its_place(server: Server) -> None:
    async with Api.of(server) as writer, Api.of(server) as reader:
        past = await writer.publish(*(event(f"k{i}") for i in range(900)))
        stream = await reader.subscribe().live()
        assert stream.sequences == past
        assert set(stream.kinds[:-1]) == {"events"}
        for i in range(30):
            await writer.publish(event(f"live{i}"))
        await stream.count(930)
        assert stream.kinds.count("caught_up") == 1


async def test_what_is_queued_goes_out_as_one_message(api: Api) -> None:
    stream = await api.subscribe().live()
    await api.publish(*(event(f"k{i}") for i in range(500)))
    await stream.count(500)
    assert stream.kinds.count("events") <= 3


async def test_a_stream_that_rests_gives_signs_of_life(api: Api) -> None:
    await three(api)
    stream = await api.subscribe(heartbeat_interval_ms=100).live()
    cursor = stream.cursor
    await stream.until(lambda s: s.kinds.count("heartbeat") >= 3)
    assert set(stream.kinds[2:]) == {"heartbeat"}
    assert {m.cursor for m in stream.messages} == {cursor}
    times = [m.server_time.ToNanoseconds() for m in stream.messages]
    assert times == sorted(times)


async def test_a_filtered_stream_tells_how_far_the_log_has_gone(api: Api) -> None:
    await three(api)
    stream = await api.subscribe(data_keys=["never"], heartbeat_interval_ms=100).live()
    for _ in range(3):
        await api.publish(event("other"))
        seen = len(stream.messages)
        await stream.until(lambda s, seen=seen: "checkpoint" in s.kinds[seen:])  # type: ignore[misc]
    places = [m.cursor for m in stream.messages if m.WhichOneof("message") == "checkpoint"]
    assert len(set(places)) == len(places) >= 3
    assert not any(m.checkpoint.last for m in stream.messages)
    # Resuming there does not read again what was looked at.
    (fresh,) = await api.publish(event("other"))
    rest = await api.subscribe(cursor=places[-1]).live()
    assert rest.sequences == [fresh]


async def test_catching_up_through_what_does_not_pass_tells_its_progress(api: Api) -> None:
    for _ in range(20):
        await api.publish(*(own() for _ in range(1_000)))
    stream = api.subscribe(data_keys=["never"], heartbeat_interval_ms=100)
    await stream.live()
    assert stream.events == []
    assert set(stream.kinds) <= {"checkpoint", "caught_up"}


async def test_a_long_past_comes_in_bounded_messages(api: Api) -> None:
    for _ in range(8):
        await api.publish(*(event(f"k{i}", b'"%s"' % (b"x" * 5_000)) for i in range(100)))
    await api.publish(event("whale", b'"%s"' % (b"x" * 1_000_000)))
    stream = await api.subscribe().live()
    assert len(stream.events) == 801
    for message in stream.messages:
        assert message.ByteSize() < 1_200_000 or len(message.events.events) == 1


async def test_two_projects_of_one_bucket_are_followed_apart(server: Server, api: Api) -> None:
    bucket = bucket_of("p0")
    twin = next(f"p{i}" for i in range(1, 5_000) if bucket_of(f"p{i}") == bucket)
    one = await api.subscribe("p0").live()
    two = await api.subscribe(twin).live()
    assert (len(server.rooms.events.hub.channels), len(server.rooms.events.hub.tailers)) == (2, 1)
    a = await api.publish(event("a"), project="p0")
    b = await api.publish(event("b"), project=twin)
    assert (await one.count(1)).sequences == a
    assert (await two.count(1)).sequences == b
    await one.cancel()
    await eventually(lambda: len(server.rooms.events.hub.channels) == 1)
    c = await api.publish(event("c"), project=twin)
    assert (await two.count(2)).sequences == b + c
    # The project that was left is followed again.
    again = await api.subscribe("p0").live()
    assert again.sequences == a
    d = await api.publish(event("d"), project="p0")
    assert (await again.count(2)).sequences == a + d


async def test_subscribers_of_one_filter_share_its_feed(server: Server, api: Api) -> None:
    streams = [
        await Api(api.channel).subscribe(data_keys=["a*", "b*"][:: 1 if i % 2 else -1]).live()
        for i in range(10)
    ]
    (channel,) = server.rooms.events.hub.channels.values()
    (feed,) = channel._feeds.values()
    assert len(feed.readers) == 10
    sequences = await api.publish(event("a"), event("b"), event("c"))
    for stream in streams:
        assert (await stream.count(2)).sequences == sequences[:2]


async def test_a_cursor_of_another_project_is_refused(api: Api) -> None:
    await three(api)
    cursor = await _cursor(api)
    await api.publish(event(), project="other")
    refused = await refusal(api.subscribe("other", cursor=cursor).to_end())
    assert (refused.code, refused.reason, refused.fields) == (
        "INVALID_ARGUMENT",
        "CURSOR_INVALID",
        ["cursor"],
    )
    assert P not in refused.message
