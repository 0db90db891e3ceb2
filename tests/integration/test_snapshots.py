"""Snapshots on a real store: exact, at intervals, by one process, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from contex.v1 import event_pb2
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.model import (
    BEGINNING,
    END_OF_TIME,
    Append,
    Entry,
    KeyState,
    NewEvent,
    Sequence,
)
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.port import SnapshotInfo
from contex_server.log.redis.keys import key
from contex_server.log.redis.store import RedisLog
from contex_server.state.current import live
from contex_server.state.fold import take
from contex_server.state.history import History
from contex_server.state.moments import Instant
from contex_server.state.snapshot_format import encode
from contex_server.state.snapshots import Snapshots
from contex_server.state.snapshotter import Snapshotter
from contex_server.state.states import States

from tests.integration.support import P, eventually

DIGEST = bytes(range(16))


@pytest.fixture
async def log(valkey: EmbeddedValkey) -> AsyncIterator[RedisLog]:
    opened = await RedisLog.open(valkey.url)
    yield opened
    await opened.close()


async def publish(log: Any, *keys: str, size: int = 1, deleted: bool = False) -> Sequence:
    """Appends an event of each key together; returns the first's sequence."""
    events = [
        NewEvent(
            event_pb2.Event(
                event_type="data_deleted" if deleted else "data_published",
                data_key=name,
                payload=b"x" * size,
            ).SerializeToString(),
            name,
            tombstone=deleted,
            digest=DIGEST,
        )
        for name in keys
    ]
    return (await log.append(Append(P, events))).first


async def entries(log: Any) -> list[Entry]:
    found = await log.read(P, BEGINNING, END_OF_TIME, 1_000_000)
    return list(found)


async def folded(log: Any, until: Sequence) -> dict[str, KeyState]:
    state: dict[str, KeyState] = {}
    take(state, [e for e in await entries(log) if e.sequence <= until])
    return state


def snapshotter(log: Any, events: int = 10, size: int = 1 << 20) -> Snapshotter:
    snapshots = Snapshots(log, cache_bytes=0)
    return Snapshotter(log, snapshots, events=events, size=size, look_s=0.01)


async def look(log: Any, events: int = 10, size: int = 1 << 20) -> None:
    """Takes what is due, as a process that does nothing else."""
    worker = snapshotter(log, events, size)
    await worker.look(P)
    await worker.close()


def states(log: Any, far: list[str] | None = None, cache_bytes: int = 0) -> States:
    snapshots = Snapshots(log, cache_bytes=cache_bytes)
    told = far if far is not None else []
    return States(log, snapshots, cache_bytes=cache_bytes, far=told.append)


async def infos(log: Any) -> list[SnapshotInfo]:
    found = await log.snapshots(P, BEGINNING, 10_000)
    return list(found)


async def check_snapshots(log: Any) -> list[SnapshotInfo]:
    """Every snapshot is the fold of the log up to it, and tells its size."""
    found = await infos(log)
    reader = Snapshots(log, cache_bytes=0)
    for info in found:
        snapshot = await reader.read(P, info.sequence)
        assert snapshot is not None
        expected = await folded(log, info.sequence)
        assert {name: snapshot.get(name) for name in snapshot.keys} == expected
        assert info.keys == len(expected)
        assert info.size == len(await log.snapshot(P, info.sequence))
    return found


class Interrupted:
    """A log where somebody publishes between any two calls."""

    def __init__(self, log: RedisLog) -> None:
        self._log = log
        self.published = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._log, name)
        if name == "state":
            return self._state
        if not asyncio.iscoroutinefunction(method):
            return method

        async def call(*args: Any, **options: Any) -> Any:
            answer = await method(*args, **options)
            await self._publish()
            return answer

        return call

    async def _state(self, project: str) -> AsyncIterator[list[KeyState]]:
        async for chunk in self._log.state(project):
            await self._publish()
            yield chunk
        await self._publish()

    async def _publish(self) -> None:
        n = self.published = self.published + 1
        await publish(self._log, f"k{n % 7}", f"new{n}")
        await publish(self._log, f"k{n % 3}", deleted=n % 2 == 0)


@pytest.mark.parametrize("at_once", [True, False])
async def test_the_live_state_is_exact_while_every_key_changes(
    log: RedisLog, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    if not at_once:
        monkeypatch.setattr("contex_server.state.current._AT_ONCE_KEYS", 100)
    await publish(log, *(f"k{n}" for n in range(3_000)))
    busy = Interrupted(log)
    sequence, state = await live(busy, P)  # type: ignore[arg-type]
    assert busy.published >= (1 if at_once else 4)
    assert state == await folded(log, sequence)
    await look(busy, events=3_000)
    await publish(log, *(f"k{n}" for n in range(3_000)))
    await look(busy, events=3_000)
    assert len(await check_snapshots(log)) == 2


async def test_snapshots_come_after_so_many_events(log: RedisLog) -> None:
    worker = snapshotter(log)
    for n in range(9):
        await publish(log, f"k{n % 3}")
    await worker.look(P)
    assert await infos(log) == []
    await publish(log, "k0")
    await worker.look(P)
    (info,) = await check_snapshots(log)
    assert (info.events, info.keys) == (10, 3)
    await worker.look(P)
    assert len(await infos(log)) == 1


async def test_snapshots_come_after_so_many_bytes(log: RedisLog) -> None:
    worker = snapshotter(log, events=1_000, size=10_000)
    await publish(log, "a", size=9_000)
    await worker.look(P)
    assert await infos(log) == []
    await publish(log, "a", size=1_000)
    await worker.look(P)
    assert len(await check_snapshots(log)) == 1


async def test_many_keys_wait_for_as_many_events(log: RedisLog) -> None:
    worker = snapshotter(log)
    for start in range(0, 1_000, 100):
        await publish(log, *(f"k{n}" for n in range(start, start + 100)))
    await worker.look(P)
    assert len(await check_snapshots(log)) >= 1
    before = len(await infos(log))
    for _ in range(49):
        await publish(log, *(f"k{n}" for n in range(10)))
    await worker.look(P)
    assert len(await infos(log)) == before
    await publish(log, *(f"k{n}" for n in range(10)))
    await worker.look(P)
    assert len(await check_snapshots(log)) == before + 1


async def test_a_burst_leaves_a_snapshot_at_each_interval(log: RedisLog) -> None:
    for n in range(100):
        await publish(log, *(f"k{(n + i) % 20}" for i in range(20)))
    await look(log, events=100)
    found = await check_snapshots(log)
    events = [0, *(info.events for info in found)]
    assert len(found) >= 10
    assert max(b - a for a, b in pairwise(events)) < 200
    assert 2_000 - events[-1] < 100


async def test_a_log_that_is_older_than_its_counters_is_caught_up(
    log: RedisLog, store: Any
) -> None:
    for n in range(40):
        await publish(log, *(f"k{(n + i) % 20}" for i in range(10)))
    await store.delete(key(P, "stats"))
    await publish(log, "k1")
    worker = snapshotter(log, events=100)
    await worker.look(P)
    found = await check_snapshots(log)
    assert 3 <= len(found) <= 4
    assert found[-1].events <= 1
    for _ in range(12):
        await publish(log, *(f"k{i}" for i in range(10)))
    await worker.look(P)
    assert len(await check_snapshots(log)) == len(found) + 1


async def test_a_small_old_log_needs_none(log: RedisLog, store: Any) -> None:
    await publish(log, "a", "b")
    await store.delete(key(P, "stats"))
    await publish(log, "a")
    await snapshotter(log).look(P)
    assert await infos(log) == []


async def test_one_process_takes_it(log: RedisLog) -> None:
    for _ in range(30):
        await publish(log, "a", "b")
    await asyncio.gather(*(look(log) for _ in range(5)))
    events = [info.events for info in await check_snapshots(log)]
    assert events == sorted(set(events))
    assert await log.claim(P, "snapshot", "another", 1_000)


async def test_the_background_worker_takes_what_is_due(log: RedisLog) -> None:
    worker = snapshotter(log)
    for n in range(25):
        await publish(log, f"k{n % 4}")
        worker.appended(P)
    found: list[SnapshotInfo] = []

    async def watch() -> None:
        while not found:
            found.extend(await infos(log))
            await asyncio.sleep(0.01)

    await asyncio.wait_for(watch(), 30)
    await worker.close()
    await check_snapshots(log)


async def test_closing_halfway_leaves_what_there_was_and_gives_the_task_back(
    log: RedisLog,
) -> None:
    for n in range(100):
        await publish(log, *(f"k{n % 9}-{i}" for i in range(30)))
    worker = snapshotter(log)
    worker.appended(P)
    await eventually(lambda: worker.claims.sure_of(P))
    await worker.close()
    await check_snapshots(log)
    assert await log.claim(P, "snapshot", "another", 1_000)


async def test_a_damaged_snapshot_is_passed_over(log: RedisLog, store: Any) -> None:
    worker = snapshotter(log)
    for _ in range(3):
        for _ in range(10):
            await publish(log, "a", "b", "c")
        await worker.look(P)
    newest = (await infos(log))[-1].sequence
    for data in (b"", b"\x01garbage", b"\x63", None):
        name = key(P, "snapshot-data")
        if data is None:
            await store.hdel(name, str(newest))
        else:
            await store.hset(name, str(newest), data)
        tail = (await log.bounds(P)).tail
        state = await states(log).at(P, tail)
        assert {s.data_key: s for s in state.all()} == await folded(log, tail)
        assert state.base.get("a") is not None


# -- what can no longer be told ------------------------------------------------------


async def test_of_a_trimmed_log_the_moments_after_a_snapshot_can_be_told(
    log: RedisLog, store: Any
) -> None:
    for n in range(130):
        await publish(log, f"k{n % 5}", deleted=n % 7 == 6)
    await look(log)
    whole = await entries(log)
    expected = {e.sequence: await folded(log, e.sequence) for e in whole}
    places = [e.sequence for e in whole]
    taken = [info.sequence for info in await infos(log)]
    assert len(taken) >= 3
    second = places.index(taken[1])
    await store.xtrim(key(P, "events"), minid=str(places[second - 3]), approximate=False)
    read = states(log)
    for n, place in enumerate(places):
        answerable = n >= second or place in taken
        if answerable:
            state = await read.at(P, place)
            assert {k: state.get(k) for k in expected[place]} == expected[place]
            assert len(state) == len(expected[place])
            for name in ("k0", "nobody"):
                assert await read.key_at(P, name, place) == expected[place].get(name)
        else:
            with pytest.raises(ContexError) as refused:
                await read.at(P, place)
            assert refused.value.reason is Reason.SEQUENCE_TRIMMED
            assert refused.value.metadata == {"earliest_sequence": str(taken[1])}
    with pytest.raises(ContexError, match="can no longer be told"):
        await read.read(P, Instant(places[0].ms - 1))
    moment, state = await read.read(P, places[-1])
    assert (moment.sequence, moment.unix_ms) == (places[-1], places[-1].ms)


async def test_the_state_now_can_be_told_of_a_log_that_is_trimmed_away(
    log: RedisLog, store: Any
) -> None:
    for n in range(10):
        await publish(log, f"k{n % 3}")
    expected = await folded(log, END_OF_TIME)
    await store.xtrim(key(P, "events"), maxlen=0, approximate=False)
    read = states(log)
    moment, state = await read.read(P, None)
    assert {s.data_key: s for s in state.all()} == expected
    assert await read.key_at(P, "k0", moment.sequence) == expected["k0"]
    with pytest.raises(ContexError) as refused:
        await read.read(P, Instant(moment.sequence.ms - 1_000_000))
    assert refused.value.metadata == {"earliest_sequence": str(moment.sequence)}
    history = History(log, Snapshots(log, cache_bytes=0))
    page = await history.page(
        P, expected["k0"].sequence, 10, patches=True, payloads=True, max_bytes=1_000
    )
    assert (page.revisions, page.next, page.trimmed) == ([], None, True)
    with pytest.raises(ContexError) as refused:
        await history.revision(P, "k0", 1)
    assert refused.value.reason is Reason.SEQUENCE_TRIMMED


# -- cost ----------------------------------------------------------------------------


class Counted:
    """A log that counts what is read of it."""

    def __init__(self, log: RedisLog) -> None:
        self._log = log
        self.events = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._log, name)
        if name not in ("read", "history", "get"):
            return method

        async def call(*args: Any, **options: Any) -> Any:
            answer = await method(*args, **options)
            self.events += len(answer)
            return answer

        return call


async def test_a_moment_costs_a_snapshot_and_the_events_after_it(log: RedisLog) -> None:
    worker = snapshotter(log, events=100)
    for n in range(100):
        await publish(log, *(f"k{(n + i) % 30}" for i in range(30)))
        if n % 9 == 0:
            await worker.look(P)
    places = [e.sequence for e in await entries(log)]
    counted = Counted(log)
    read = states(counted)
    for place in places[150::371]:
        counted.events = 0
        await read.at(P, place)
        assert counted.events <= 400
    far: list[str] = []
    await states(log, far).at(P, places[-1])
    assert far == []


async def test_one_revision_of_many_is_found_with_bounded_work(log: RedisLog) -> None:
    worker = snapshotter(log, events=100)
    for n in range(200):
        await publish(log, *("hot" for _ in range(20)), f"k{n % 5}")
        if n % 4 == 0:
            await worker.look(P)
    counted = Counted(log)
    history = History(counted, Snapshots(log, cache_bytes=0))
    for wanted in (1, 2, 63, 500, 1_999, 3_333, 3_999, 4_000):
        counted.events = 0
        found = await history.revision(P, "hot", wanted)
        assert found.event.revision == wanted
        assert (found.patch is None) == (wanted == 1)
        assert counted.events <= 350, wanted


async def test_far_snapshots_are_told(log: RedisLog) -> None:
    for n in range(45):
        await publish(log, *(f"k{n}" for _ in range(100)))
    far: list[str] = []
    await states(log, far).at(P, (await log.bounds(P)).tail)
    assert far == [P]


async def test_what_is_kept_at_hand_is_bounded(log: RedisLog) -> None:
    for n in range(30):
        await publish(log, *(f"k{n}-{i}" for i in range(20)))
        await look(log)
    read = states(log, cache_bytes=400_000)
    for entry in await entries(log):
        await read.at(P, entry.sequence)
        assert read._cache.currsize <= 400_000
        assert read._snapshots._cache.currsize <= 400_000
    assert len(read._cache) > 1


async def test_a_snapshot_before_one_that_is_there_is_refused(log: RedisLog) -> None:
    await publish(log, "a")
    data = encode({})
    assert await log.put_snapshot(P, SnapshotInfo(Sequence(5, 5), 1, 1, 0), data)
    assert not await log.put_snapshot(P, SnapshotInfo(Sequence(5, 4), 1, 1, 0), data)
    assert not await log.put_snapshot(P, SnapshotInfo(Sequence(5, 5), 1, 1, 0), data)
    assert await log.put_snapshot(P, SnapshotInfo(Sequence(5, 6), 1, 1, 0), data)
