"""Snapshots on a real store: exact, at intervals, by one process, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
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
    Range,
    Sequence,
)
from contex_server.kernel.scope import EVERYTHING
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.port import EventLog
from contex_server.log.redis.key_names import key
from contex_server.log.redis.store import open_store
from contex_server.log.state import SnapshotInfo
from contex_server.log.store import Store
from contex_server.state.fold import fold_entries, read_current_state
from contex_server.state.history import HistoryReader
from contex_server.state.moments import Instant
from contex_server.state.reader import StateReader
from contex_server.state.snapshot import encode_snapshot
from contex_server.state.snapshot_cache import SnapshotCache
from contex_server.state.snapshotter import Snapshotter

from tests.integration.support import P, eventually, wrapped

DIGEST = bytes(range(16))


@pytest.fixture
async def backend(valkey: EmbeddedValkey) -> AsyncIterator[Store]:
    opened = await open_store(valkey.url)
    yield opened
    await opened.events.close()


async def publish(backend: Store, *keys: str, size: int = 1, deleted: bool = False) -> Sequence:
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
    return (await backend.events.append(Append(P, events))).first


async def entries(backend: Store) -> list[Entry]:
    found = await backend.events.read(P, Range(), 1_000_000)
    return list(found)


async def folded(backend: Store, until: Sequence) -> dict[str, KeyState]:
    state: dict[str, KeyState] = {}
    fold_entries(state, [e for e in await entries(backend) if e.sequence <= until])
    return state


def snapshotter(backend: Store, events: int = 10, size: int = 1 << 20) -> Snapshotter:
    snapshots = SnapshotCache(backend.snapshots, cache_bytes=0)
    return Snapshotter(backend.events, backend, snapshots, events=events, size=size, look_s=0.01)


async def look(backend: Store, events: int = 10, size: int = 1 << 20) -> None:
    """Takes what is due, as a process that does nothing else."""
    worker = snapshotter(backend, events, size)
    await worker.look(P)
    await worker.close()


def states(backend: Store, far: list[str] | None = None, cache_bytes: int = 0) -> StateReader:
    snapshots = SnapshotCache(backend.snapshots, cache_bytes=cache_bytes)
    told = far if far is not None else []
    return StateReader(
        backend.events, backend.state, snapshots, cache_bytes=cache_bytes, on_long_fold=told.append
    )


async def infos(backend: Store) -> list[SnapshotInfo]:
    found = await backend.snapshots.after(P, BEGINNING, 10_000)
    return list(found)


async def check_snapshots(backend: Store) -> list[SnapshotInfo]:
    """Every snapshot is the fold of the log up to it, and tells its size."""
    found = await infos(backend)
    reader = SnapshotCache(backend.snapshots, cache_bytes=0)
    for info in found:
        snapshot = await reader.read(P, info.sequence)
        assert snapshot is not None
        expected = await folded(backend, info.sequence)
        assert {name: snapshot.get(name) for name in snapshot.keys} == expected
        assert info.keys == len(expected)
        assert info.size == len(await backend.snapshots.get(P, info.sequence))
    return found


class Interrupted:
    """Lets somebody publish between any two calls of a store."""

    def __init__(self, backend: Store) -> None:
        self._store = backend
        self.published = 0

    def facet(self, facet: Any) -> Any:
        return InterruptedFacet(facet, self.publish)

    async def publish(self) -> None:
        n = self.published = self.published + 1
        await publish(self._store, f"k{n % 7}", f"new{n}")
        await publish(self._store, f"k{n % 3}", deleted=n % 2 == 0)


class InterruptedFacet:
    def __init__(self, facet: Any, publish: Callable[[], Awaitable[None]]) -> None:
        self._facet = facet
        self._publish = publish

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._facet, name)
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
        async for chunk in self._facet.state(project):
            await self._publish()
            yield chunk
        await self._publish()


@pytest.mark.parametrize("at_once", [True, False])
async def test_the_live_state_is_exact_while_every_key_changes(
    backend: Store, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    if not at_once:
        monkeypatch.setattr("contex_server.state.fold._ATOMIC_KEYS", 100)
    await publish(backend, *(f"k{n}" for n in range(3_000)))
    interrupted = Interrupted(backend)
    busy = wrapped(backend, interrupted.facet)
    sequence, state = await read_current_state(busy.events, busy.state, P)
    assert interrupted.published >= (1 if at_once else 4)
    assert state == await folded(backend, sequence)
    await look(busy, events=3_000)
    await publish(backend, *(f"k{n}" for n in range(3_000)))
    await look(busy, events=3_000)
    assert len(await check_snapshots(backend)) == 2


async def test_snapshots_come_after_so_many_events(backend: Store) -> None:
    worker = snapshotter(backend)
    for n in range(9):
        await publish(backend, f"k{n % 3}")
    await worker.look(P)
    assert await infos(backend) == []
    await publish(backend, "k0")
    await worker.look(P)
    (info,) = await check_snapshots(backend)
    assert (info.events, info.keys) == (10, 3)
    await worker.look(P)
    assert len(await infos(backend)) == 1


async def test_snapshots_come_after_so_many_bytes(backend: Store) -> None:
    worker = snapshotter(backend, events=1_000, size=10_000)
    await publish(backend, "a", size=9_000)
    await worker.look(P)
    assert await infos(backend) == []
    await publish(backend, "a", size=1_000)
    await worker.look(P)
    assert len(await check_snapshots(backend)) == 1


async def test_many_keys_wait_for_as_many_events(backend: Store) -> None:
    worker = snapshotter(backend)
    for start in range(0, 1_000, 100):
        await publish(backend, *(f"k{n}" for n in range(start, start + 100)))
    await worker.look(P)
    assert len(await check_snapshots(backend)) >= 1
    before = len(await infos(backend))
    for _ in range(49):
        await publish(backend, *(f"k{n}" for n in range(10)))
    await worker.look(P)
    assert len(await infos(backend)) == before
    await publish(backend, *(f"k{n}" for n in range(10)))
    await worker.look(P)
    assert len(await check_snapshots(backend)) == before + 1


async def test_a_burst_leaves_a_snapshot_at_each_interval(backend: Store) -> None:
    for n in range(100):
        await publish(backend, *(f"k{(n + i) % 20}" for i in range(20)))
    await look(backend, events=100)
    found = await check_snapshots(backend)
    events = [0, *(info.events for info in found)]
    assert len(found) >= 10
    assert max(b - a for a, b in pairwise(events)) < 200
    assert 2_000 - events[-1] < 100


async def test_a_log_that_is_older_than_its_counters_is_caught_up(
    backend: Store, store: Any
) -> None:
    for n in range(40):
        await publish(backend, *(f"k{(n + i) % 20}" for i in range(10)))
    await store.delete(key(P, "stats"))
    await publish(backend, "k1")
    worker = snapshotter(backend, events=100)
    await worker.look(P)
    found = await check_snapshots(backend)
    assert 3 <= len(found) <= 4
    assert found[-1].events <= 1
    for _ in range(12):
        await publish(backend, *(f"k{i}" for i in range(10)))
    await worker.look(P)
    assert len(await check_snapshots(backend)) == len(found) + 1


async def test_a_small_old_log_needs_none(backend: Store, store: Any) -> None:
    await publish(backend, "a", "b")
    await store.delete(key(P, "stats"))
    await publish(backend, "a")
    await snapshotter(backend).look(P)
    assert await infos(backend) == []


async def test_one_process_takes_it(backend: Store) -> None:
    for _ in range(30):
        await publish(backend, "a", "b")
    await asyncio.gather(*(look(backend) for _ in range(5)))
    events = [info.events for info in await check_snapshots(backend)]
    assert events == sorted(set(events))
    assert await backend.tasks.claim(P, "snapshot", "another", 1_000)


async def test_the_background_worker_takes_what_is_due(backend: Store) -> None:
    worker = snapshotter(backend)
    for n in range(25):
        await publish(backend, f"k{n % 4}")
        worker.appended(P)
    found: list[SnapshotInfo] = []

    async def watch() -> None:
        while not found:
            found.extend(await infos(backend))
            await asyncio.sleep(0.01)

    await asyncio.wait_for(watch(), 30)
    await worker.close()
    await check_snapshots(backend)


async def test_closing_halfway_leaves_what_there_was_and_gives_the_task_back(
    backend: Store,
) -> None:
    for n in range(100):
        await publish(backend, *(f"k{n % 9}-{i}" for i in range(30)))
    worker = snapshotter(backend)
    worker.appended(P)
    await eventually(lambda: worker.claims.sure_of(P))
    await worker.close()
    await check_snapshots(backend)
    assert await backend.tasks.claim(P, "snapshot", "another", 1_000)


async def test_a_damaged_snapshot_is_passed_over(backend: Store, store: Any) -> None:
    worker = snapshotter(backend)
    for _ in range(3):
        for _ in range(10):
            await publish(backend, "a", "b", "c")
        await worker.look(P)
    newest = (await infos(backend))[-1].sequence
    for data in (b"", b"\x01garbage", b"\x63", None):
        name = key(P, "snapshot-data")
        if data is None:
            await store.hdel(name, str(newest))
        else:
            await store.hset(name, str(newest), data)
        tail = (await backend.events.bounds(P)).tail
        state = await states(backend).at(P, tail)
        assert {s.data_key: s for s in state.all()} == await folded(backend, tail)
        assert state.base.get("a") is not None


# -- what can no longer be read ------------------------------------------------------


async def test_of_a_trimmed_log_the_moments_after_a_snapshot_can_be_told(
    backend: Store, store: Any
) -> None:
    for n in range(130):
        await publish(backend, f"k{n % 5}", deleted=n % 7 == 6)
    await look(backend)
    whole = await entries(backend)
    expected = {e.sequence: await folded(backend, e.sequence) for e in whole}
    places = [e.sequence for e in whole]
    taken = [info.sequence for info in await infos(backend)]
    assert len(taken) >= 3
    second = places.index(taken[1])
    await store.xtrim(key(P, "events"), minid=str(places[second - 3]), approximate=False)
    read = states(backend)
    for n, place in enumerate(places):
        answerable = n >= second or place in taken
        if answerable:
            state = await read.at(P, place)
            assert {k: state.get(k) for k in expected[place]} == expected[place]
            assert len(state) == len(expected[place])
            for name in ("k0", "nobody"):
                assert await read.key_at(P, name, place, EVERYTHING) == expected[place].get(name)
        else:
            with pytest.raises(ContexError) as refused:
                await read.at(P, place)
            assert refused.value.reason is Reason.SEQUENCE_TRIMMED
            assert refused.value.metadata == {"earliest_sequence": str(taken[1])}
    with pytest.raises(ContexError, match="can no longer be read"):
        await read.read(P, Instant(places[0].ms - 1))
    moment, state = await read.read(P, places[-1])
    assert (moment.sequence, moment.unix_ms) == (places[-1], places[-1].ms)


async def test_the_state_now_can_be_told_of_a_log_that_is_trimmed_away(
    backend: Store, store: Any
) -> None:
    for n in range(10):
        await publish(backend, f"k{n % 3}")
    expected = await folded(backend, END_OF_TIME)
    await store.xtrim(key(P, "events"), maxlen=0, approximate=False)
    read = states(backend)
    moment, state = await read.read(P, None)
    assert {s.data_key: s for s in state.all()} == expected
    assert await read.key_at(P, "k0", moment.sequence, EVERYTHING) == expected["k0"]
    with pytest.raises(ContexError) as refused:
        await read.read(P, Instant(moment.sequence.ms - 1_000_000))
    assert refused.value.metadata == {"earliest_sequence": str(moment.sequence)}
    history = HistoryReader(
        backend.events, backend.state, SnapshotCache(backend.snapshots, cache_bytes=0)
    )
    page = await history.page(
        P, expected["k0"].sequence, 10, patches=True, payloads=True, max_bytes=1_000
    )
    assert (page.revisions, page.next, page.trimmed) == ([], None, True)
    with pytest.raises(ContexError) as refused:
        await history.revision(P, "k0", 1, EVERYTHING)
    assert refused.value.reason is Reason.SEQUENCE_TRIMMED


# -- cost ----------------------------------------------------------------------------


class Counted:
    """A log that counts what is read of it."""

    def __init__(self, log: EventLog) -> None:
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


async def test_a_moment_costs_a_snapshot_and_the_events_after_it(backend: Store) -> None:
    worker = snapshotter(backend, events=100)
    for n in range(100):
        await publish(backend, *(f"k{(n + i) % 30}" for i in range(30)))
        if n % 9 == 0:
            await worker.look(P)
    places = [e.sequence for e in await entries(backend)]
    counted: Any = Counted(backend.events)
    read = states(replace(backend, events=counted))
    for place in places[150::371]:
        counted.events = 0
        await read.at(P, place)
        assert counted.events <= 400
    far: list[str] = []
    await states(backend, far).at(P, places[-1])
    assert far == []


async def test_one_revision_of_many_is_found_with_bounded_work(backend: Store) -> None:
    worker = snapshotter(backend, events=100)
    for n in range(200):
        await publish(backend, *("hot" for _ in range(20)), f"k{n % 5}")
        if n % 4 == 0:
            await worker.look(P)
    counted: Any = Counted(backend.events)
    history = HistoryReader(counted, backend.state, SnapshotCache(backend.snapshots, cache_bytes=0))
    for wanted in (1, 2, 63, 500, 1_999, 3_333, 3_999, 4_000):
        counted.events = 0
        found = await history.revision(P, "hot", wanted, EVERYTHING)
        assert found.event.revision == wanted
        assert (found.patch is None) == (wanted == 1)
        assert counted.events <= 350, wanted


async def test_far_snapshots_are_told(backend: Store) -> None:
    for n in range(45):
        await publish(backend, *(f"k{n}" for _ in range(100)))
    far: list[str] = []
    await states(backend, far).at(P, (await backend.events.bounds(P)).tail)
    assert far == [P]


async def test_what_is_kept_at_hand_is_bounded(backend: Store) -> None:
    for n in range(30):
        await publish(backend, *(f"k{n}-{i}" for i in range(20)))
        await look(backend)
    read = states(backend, cache_bytes=400_000)
    for entry in await entries(backend):
        await read.at(P, entry.sequence)
        assert read._cache.currsize <= 400_000
        assert read._snapshots._cache.currsize <= 400_000
    assert len(read._cache) > 1


async def test_a_snapshot_before_one_that_is_there_is_refused(backend: Store) -> None:
    await publish(backend, "a")
    data = encode_snapshot({})
    assert await backend.snapshots.put(P, SnapshotInfo(Sequence(5, 5), 1, 1, 0), data)
    assert not await backend.snapshots.put(P, SnapshotInfo(Sequence(5, 4), 1, 1, 0), data)
    assert not await backend.snapshots.put(P, SnapshotInfo(Sequence(5, 5), 1, 1, 0), data)
    assert await backend.snapshots.put(P, SnapshotInfo(Sequence(5, 6), 1, 1, 0), data)
