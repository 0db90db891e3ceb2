from __future__ import annotations

import asyncio

import pytest
from contex_server.events.feed import Behind, Delivery, Feed, Reader
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.model import BEGINNING, Entry, Sequence
from hypothesis import given
from hypothesis import strategies as st


def at(n: int) -> Sequence:
    return Sequence(n, 0)


def delivery(n: int, size: int = 36) -> Delivery:
    return Delivery(at(n), Entry(f"{n}-0".encode(), b"x" * size))


def attach(feed: Feed, position: Sequence) -> Reader:
    reader = feed.attach(position)
    assert reader is not None
    return reader


def drain(reader: Reader, max_bytes: int = 10_000) -> list[int]:
    taken = []
    while (chunk := reader.take(max_bytes)) is not None:
        taken += [d.sequence.ms for d in chunk.deliveries]
    return taken


def test_readers_at_the_same_place_share_a_chunk() -> None:
    feed = Feed(BEGINNING, 1_000)
    a, b = attach(feed, BEGINNING), attach(feed, BEGINNING)
    feed.extend([delivery(1), delivery(2)], at(3))
    chunk = a.take(10_000)
    assert chunk is not None
    assert chunk is b.take(10_000)
    assert chunk.position == at(3)
    assert a.take(10_000) is None


def test_a_message_is_bounded_but_never_empty() -> None:
    feed = Feed(BEGINNING, 100_000)
    reader = attach(feed, BEGINNING)
    feed.extend([delivery(1, 36), delivery(2, 36), delivery(3, 5_000)], at(3))
    sizes = []
    while (chunk := reader.take(150)) is not None:
        sizes.append(len(chunk.deliveries))
        assert chunk.position == chunk.deliveries[-1].sequence
    assert sizes == [1, 1, 1]


def test_who_is_too_slow_is_told() -> None:
    feed = Feed(BEGINNING, 500)
    slow = attach(feed, BEGINNING)
    attach(feed, BEGINNING)
    for n in range(1, 20):
        feed.extend([delivery(n)], at(n))
    assert feed.buffered_bytes <= 500
    with pytest.raises(Behind):
        slow.take(10_000)
    assert feed.attach(at(3)) is None
    assert drain(attach(feed, feed.floor))[-1] == 19


def test_a_reader_that_fell_behind_may_go_on_at_the_end() -> None:
    feed = Feed(BEGINNING, 500)
    reader = attach(feed, BEGINNING)
    attach(feed, BEGINNING)
    for n in range(1, 20):
        feed.extend([delivery(n)], at(n))
    with pytest.raises(Behind):
        reader.take(10_000)
    assert reader.skip() == reader.position == at(19)
    assert reader.at_end
    feed.extend([delivery(20)], at(20))
    assert drain(reader) == [20]


async def test_nothing_is_kept_for_readers_that_wait() -> None:
    feed = Feed(BEGINNING, 100_000)
    reader = attach(feed, BEGINNING)
    for n in range(1, 4):
        waiting = asyncio.create_task(reader.wait())
        await asyncio.sleep(0)
        feed.extend([delivery(n)], at(n))
        await waiting
        assert drain(reader) == [n]
        assert feed.buffered_bytes == 100


async def test_a_reader_ahead_of_the_feed_gets_nothing_twice() -> None:
    feed = Feed(at(2), 10_000)
    reader = attach(feed, at(5))
    feed.extend([delivery(3), delivery(4), delivery(5)], at(5))
    assert reader.take(10_000) is None
    assert reader.position == at(5)
    feed.extend([delivery(6)], at(6))
    assert drain(reader) == [6]


async def test_a_reset_is_noticed_by_all() -> None:
    feed = Feed(BEGINNING, 10_000)
    reader = attach(feed, BEGINNING)
    waiting = asyncio.create_task(reader.wait())
    await asyncio.sleep(0)
    feed.reset(at(9))
    await waiting
    with pytest.raises(Behind):
        reader.take(10_000)
    assert feed.attach(at(8)) is None
    assert drain(attach(feed, at(9))) == []


async def test_a_failure_comes_after_what_is_there() -> None:
    feed = Feed(BEGINNING, 10_000)
    reader = attach(feed, BEGINNING)
    feed.extend([delivery(1)], at(1))
    feed.fail(ContexError(Reason.INTERNAL, "over"))
    assert reader.take(10_000) is not None
    with pytest.raises(ContexError):
        reader.take(10_000)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("extend"), st.integers(0, 5)),
            st.tuples(st.just("take"), st.integers(0, 3)),
            st.tuples(st.just("reset"), st.just(0)),
        ),
        max_size=60,
    ),
    st.integers(100, 800),
)
def test_no_reader_ever_misses_or_repeats(steps: list[tuple[str, int]], max_bytes: int) -> None:
    """Readers that go back to the log when they are told to see every event once."""
    feed = Feed(BEGINNING, max_bytes)
    log: list[int] = []
    seen: list[list[int]] = [[] for _ in range(4)]
    readers = [attach(feed, BEGINNING) for _ in range(4)]

    def read(index: int) -> None:
        try:
            chunk = readers[index].take(250)
        except Behind:
            readers[index].close()
            last = seen[index][-1] if seen[index] else 0
            seen[index] += [n for n in log if n > last]
            readers[index] = attach(feed, max(at(log[-1] if log else 0), feed.floor))
            return
        if chunk is not None:
            seen[index] += [d.sequence.ms for d in chunk.deliveries]

    for action, value in steps:
        if action == "extend":
            new = range(len(log) + 1, len(log) + 1 + value)
            log += new
            feed.extend([delivery(n) for n in new], at(len(log)))
        elif action == "reset":
            log.append(len(log) + 1)  # The feed misses it.
            feed.reset(at(len(log)))
        else:
            read(value)
    for index in range(4):
        for _ in range(len(log) + 2):
            read(index)
        assert seen[index] == log


async def test_a_woken_reader_is_not_taken_for_idle() -> None:
    feed = Feed(BEGINNING, 10_000)
    reader = attach(feed, BEGINNING)
    waiting = asyncio.create_task(reader.wait())
    await asyncio.sleep(0)
    feed.extend([delivery(1)], at(1))
    feed.extend([delivery(2)], at(2))
    await waiting
    assert drain(reader) == [1, 2]
    cancelled = asyncio.create_task(reader.wait())
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    feed.extend([delivery(3)], at(3))
    feed.extend([delivery(4)], at(4))
    assert drain(reader) == [3, 4]
