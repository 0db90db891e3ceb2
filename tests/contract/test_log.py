"""What every implementation of the log port keeps to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest
from contex.v1 import event_pb2
from contex_server.kernel.config import Settings
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.model import (
    BEGINNING,
    END_OF_TIME,
    Append,
    Durability,
    Entry,
    KeyState,
    NewEvent,
    Range,
    Sequence,
)
from contex_server.log.agents import AgentWrite
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.port import Bounds, EventLog, Part
from contex_server.log.redis.key_names import key
from contex_server.log.redis.store import open_store
from contex_server.log.state import SnapshotInfo
from contex_server.log.store import Store
from contex_server.log.tasks import Claims
from contex_server.projects.archiver import Archiver
from contex_server.projects.pace import Pace
from contex_server.projects.retention import Retention, RetentionStore
from contex_server.tiers.archive import Archive
from contex_server.tiers.archived_keys import ArchivedKeys
from contex_server.tiers.archived_log import ArchivedLog, ArchivedSnapshots
from contex_server.tiers.encryption import Encryption
from contex_server.tiers.objects import Objects
from contex_server.tiers.sealed_log import SealedLog
from contex_server.tiers.sealer import Sealer
from contex_server.tiers.storage import Storage
from redis.asyncio import Redis

from tests.thorough import one_of

P = "shop"
DIGEST = bytes(range(16))


class ArchivingLog(ArchivedLog):
    """Archives everything before each read."""

    def __init__(self, store: Store, archive: Archive, archiver: Archiver) -> None:
        super().__init__(store, archive)
        self._archiver = archiver

    async def read_part(self, project: str, span: Range, count: int, max_bytes: int) -> Part:
        await self._archiver.archive_all(project)
        return await super().read_part(project, span, count, max_bytes)

    async def get(self, project: str, sequences: Iterable[Sequence]) -> list[Entry | None]:
        await self._archiver.archive_all(project)
        return await super().get(project, sequences)

    async def bounds(self, project: str) -> Bounds:
        await self._archiver.archive_all(project)
        return await super().bounds(project)

    async def history(
        self, project: str, sequence: Sequence, count: int, max_bytes: int
    ) -> list[Entry]:
        await self._archiver.archive_all(project)
        return await super().history(project, sequence, count, max_bytes)


class ArchivingSnapshots(ArchivedSnapshots):
    """Archives everything before each read."""

    def __init__(self, store: Store, archive: Archive, archiver: Archiver) -> None:
        super().__init__(store, archive)
        self._archiver = archiver

    async def before(self, project: str, until: Sequence) -> SnapshotInfo | None:
        await self._archiver.archive_all(project)
        return await super().before(project, until)

    async def after(self, project: str, after: Sequence, count: int) -> list[SnapshotInfo]:
        await self._archiver.archive_all(project)
        return await super().after(project, after, count)

    async def get(self, project: str, sequence: Sequence) -> bytes | None:
        await self._archiver.archive_all(project)
        return await super().get(project, sequence)


async def nothing(*_: object) -> None:
    pass


@pytest.fixture
async def store(valkey: EmbeddedValkey) -> AsyncIterator[Store]:
    opened = await open_store(valkey.url)
    yield opened
    await opened.events.close()


@pytest.fixture
def segment_events() -> int:
    """Events a segment of the archive; tests with thousands of events set more."""
    return 7


@pytest.fixture(params=["redis", "archived"])
async def storage(
    request: pytest.FixtureRequest, store: Store, tmp_path: Path, segment_events: int
) -> AsyncIterator[Storage]:
    """The store alone, or under the archive and sealing."""
    sealer = Sealer(store.keys, None)
    if request.param == "redis":
        yield Storage(
            store, None, sealer, Encryption(store.keys), store.events, store.events, store.snapshots
        )
        return
    objects = Objects.open(tmp_path.as_uri())
    archive = Archive(store.archive, objects, cache_bytes=1 << 20)
    archiver = Archiver(
        store,
        archive,
        ArchivedKeys(store.keys, objects),
        RetentionStore(store.projects, Retention(0, 0, 0, 0)),
        events=segment_events,
        size=1 << 20,
        expire=nothing,
        pace=Pace(store.projects),
    )
    raw = ArchivingLog(store, archive, archiver)
    snapshots = ArchivingSnapshots(store, archive, archiver)
    encryption, log = Encryption(store.keys), SealedLog(raw, sealer)
    yield Storage(store, archive, sealer, encryption, log, raw, snapshots)
    await archiver.close()
    await archive.close()


@pytest.fixture
def log(storage: Storage) -> EventLog:
    return storage.log


def body(key: str = "", text: str = "x") -> bytes:
    return event_pb2.Event(
        event_type="data_published", data_key=key, payload=text.encode()
    ).SerializeToString()


def event(key: str = "k", text: str = "x", **options: object) -> NewEvent:
    return NewEvent(body(key, text), key, digest=DIGEST, **options)  # type: ignore[arg-type]


def one(key: str = "k", text: str = "x", request_id: str = "", **options: object) -> Append:
    return Append(P, [event(key, text, **options)], request_id)


async def everything(log: EventLog, project: str = P) -> list[Entry]:
    return await log.read(project, Range(), 10_000)


def parse(entry: Entry) -> event_pb2.Event:
    return event_pb2.Event.FromString(entry.body)


async def test_an_append_is_read_back_with_what_the_store_adds(log: EventLog) -> None:
    first = await log.append(one(text="a"))
    second = await log.append(one(text="b"))
    assert (first.revisions, second.revisions) == ((1,), (2,))
    assert first.durability is Durability.FSYNC
    a, b = await everything(log)
    assert (a.sequence, b.sequence) == (first.first, second.first)
    assert (parse(a).payload, parse(a).revision, parse(a).previous_sequence) == (b"a", 1, "")
    assert (parse(b).revision, parse(b).previous_sequence) == (2, str(first.first))
    assert parse(b).text_digest == DIGEST


@pytest.mark.parametrize("segment_events", [300])
async def test_a_batch_has_consecutive_sequences(log: EventLog) -> None:
    appended = await log.append(Append(P, [event(f"k{i}") for i in range(2_500)]))
    entries = await everything(log)
    first = appended.first
    assert [e.sequence for e in entries] == [Sequence(first.ms, first.n + i) for i in range(2_500)]
    assert appended.revisions == (1,) * 2_500


async def test_an_event_without_a_key_has_no_revision(log: EventLog, store: Store) -> None:
    assert (await log.append(one(key=""))).revisions == (0,)
    assert [chunk async for chunk in store.state.state(P)] == [[]]


@pytest.mark.parametrize(("segment_events", "revision"), one_of((7, 300), (10_000, 70_000)))
async def test_large_revisions_are_encoded_right(log: EventLog, revision: int) -> None:
    for start in range(0, revision, 5_000):
        count = min(5_000, revision - start)
        await log.append(Append(P, [event("k") for _ in range(count)]))
    (last,) = await log.read(P, Range(backwards=True), 1)
    assert parse(last).revision == revision


async def test_a_request_is_answered_once(log: EventLog) -> None:
    append = Append(P, [event(f"k{i}") for i in range(3)], "r-1")
    first = await log.append(append)
    await log.append(one("k0"))
    again = await log.append(append)
    assert again.duplicate
    assert not first.duplicate
    assert (again.first, again.revisions) == (first.first, first.revisions)
    assert len(await everything(log)) == 4


async def test_the_same_request_at_the_same_time_is_appended_once(log: EventLog) -> None:
    answers = await asyncio.gather(*(log.append(one(request_id="r")) for _ in range(20)))
    assert sorted(a.duplicate for a in answers) == [False] + [True] * 19
    assert len({a.first for a in answers}) == 1
    assert len(await everything(log)) == 1


async def test_a_request_id_belongs_to_its_project(log: EventLog) -> None:
    await log.append(one(request_id="r"))
    other = await log.append(Append("other", [event()], "r"))
    assert not other.duplicate


async def test_a_lost_update_is_refused_whole(log: EventLog) -> None:
    await log.append(one("b"))
    with pytest.raises(ContexError) as refused:
        await log.append(Append(P, [event("a"), event("b", expected_revision=0), event("c")], "r"))
    assert refused.value.reason is Reason.REVISION_CONFLICT
    assert refused.value.metadata == {
        "data_key": "b",
        "expected_revision": "0",
        "actual_revision": "1",
        "actual_state": "present",
    }
    assert len(await everything(log)) == 1
    # Nothing is remembered of it either: the same request may succeed later.
    assert not (await log.append(one(request_id="r"))).duplicate


async def test_expectations_see_the_batch_before_them(log: EventLog) -> None:
    await log.append(Append(P, [event("a", expected_revision=0), event("a", expected_revision=1)]))
    with pytest.raises(ContexError, match="revision 3"):
        await log.append(
            Append(P, [event("a", expected_revision=2), event("a", expected_revision=2)])
        )


async def test_of_racing_writers_one_wins_each_round(log: EventLog) -> None:
    async def write() -> bool:
        try:
            await log.append(one(expected_revision=0))
        except ContexError:
            return False
        return True

    assert sum(await asyncio.gather(*(write() for _ in range(20)))) == 1


async def test_a_deletion_keeps_history_and_text(log: EventLog, store: Store) -> None:
    await log.append(one("k"))
    gone = await log.append(Append(P, [NewEvent(body("k", ""), "k", tombstone=True)]))
    (state,) = [s async for chunk in store.state.state(P) for s in chunk]
    assert (state.deleted, state.revision, state.sequence) == (True, 2, gone.first)
    assert parse((await everything(log))[1]).text_digest == DIGEST
    back = await log.append(one("k"))
    assert back.revisions == (3,)
    (state,) = [s async for chunk in store.state.state(P) for s in chunk]
    assert not state.deleted


async def test_ranges_are_exclusive_below_and_inclusive_above(log: EventLog) -> None:
    for i in range(5):
        await log.append(one(f"k{i}"))
    s = [e.sequence for e in await everything(log)]
    assert [e.sequence for e in await log.read(P, Range(s[0], s[3]), 10)] == s[1:4]
    assert [e.sequence for e in await log.read(P, Range(s[0], s[3]), 2)] == s[1:3]
    back = Range(s[0], s[3], backwards=True)
    assert [e.sequence for e in await log.read(P, back, 10)] == s[3:0:-1]
    assert [e.sequence for e in await log.read(P, back, 2)] == s[3:1:-1]
    got = await log.get(P, [s[2], Sequence(1, 1)])
    assert got[0] is not None
    assert got[0].sequence == s[2]
    assert got[1] is None


@pytest.mark.parametrize("backwards", [False, True])
async def test_a_part_ends_by_bytes_also_after_small_events(log: EventLog, backwards: bool) -> None:
    sizes = [100, *[10] * 40, *[5_000] * 12, *[10] * 40]
    for size in sizes:
        await log.append(one(text="x" * size))
    everything_there = await everything(log)
    span, read = Range(backwards=backwards), list[Entry]()
    for _ in range(200):
        part = await log.read_part(P, span, 1_000, 12_000)
        assert part.entries or part.ended
        # Nothing is added once there are so many bytes.
        assert sum(len(entry.body) for entry in part.entries[:-1]) < 12_000
        read += part.entries
        if part.ended:
            break
        span = span.rest(part.entries[-1].sequence)
    assert read == (everything_there[::-1] if backwards else everything_there)


async def test_a_follower_that_falls_behind_asks_for_few_large_events(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contex_server.log.redis.follower._READ_BYTES", 30_000)
    for size in (*[10] * 64, *[5_000] * 40):
        await log.append(one(text="x" * size))
    follower, position, polls = log.follower(), BEGINNING, list[int]()
    try:
        while sum(polls) < 104:
            followed = (await follower.poll({P: position}))[P]
            polls.append(len(followed.entries))
            position = followed.position
    finally:
        await follower.close()
    assert polls[0] > 64
    assert max(polls[1:]) <= 6


async def test_bounds_tell_what_can_be_read(log: EventLog) -> None:
    assert (await log.bounds(P))[:4] == (None, BEGINNING, False, 0)
    await log.append(one())
    last = await log.append(one())
    first, tail, trimmed, *_ = await log.bounds(P)
    assert (tail, trimmed) == (last.first, False)
    assert first is not None
    assert first < tail


async def test_a_follower_gets_what_is_appended_while_it_waits(log: EventLog) -> None:
    follower = log.follower()
    try:
        waiting = asyncio.create_task(follower.poll({P: BEGINNING}))
        await asyncio.sleep(0.05)
        appended = await log.append(one())
        received = await waiting
        assert [e.sequence for e in received[P].entries] == [appended.first]
        # Cancelled polls lose nothing.
        cancelled = asyncio.create_task(follower.poll({P: appended.first}))
        await asyncio.sleep(0.02)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        second = await log.append(one())
        received = await follower.poll({P: appended.first})
        assert [e.sequence for e in received[P].entries] == [second.first]
    finally:
        await follower.close()


async def test_a_follower_that_was_away_misses_nothing(log: EventLog, store: Store) -> None:
    appended = [(await log.append(one())).first for _ in range(10)]
    await log.read(P, Range(), 1)  # archives and trims, where there is an archive
    if (await store.archive.archived(P)).last > BEGINNING:
        assert await store.events.read(P, Range(), 1) == []
    appended.append((await log.append(one())).first)
    follower = log.follower()
    try:
        followed = (await follower.poll({P: BEGINNING}))[P]
    finally:
        await follower.close()
    received = followed.entries
    if followed.missed:
        received = await log.read(P, Range(until=followed.position), 100)
    assert [e.sequence for e in received] == appended
    assert followed.position == appended[-1]


async def test_vectors_stay_as_they_were_first(log: EventLog, store: Store) -> None:
    await log.append(Append(P, [event()], vectors={b"d1": b"one"}, model="m"))
    await store.match.put_vectors(P, "m", {b"d1": b"other", b"d2": b"two"})
    assert await store.match.vectors(P, "m", [b"d1", b"d2", b"d3"]) == {
        b"d1": b"one",
        b"d2": b"two",
    }
    assert await store.match.missing_vectors(P, "m", [b"d1", b"d2", b"d3"]) == {b"d3"}
    assert await store.match.vectors(P, "other", [b"d1"]) == {}
    assert await store.match.missing_vectors(P, "other", [b"d1"]) == {b"d1"}


async def test_the_first_model_decides_until_it_is_changed(log: EventLog, store: Store) -> None:
    assert await store.match.model(P) == ""
    await log.append(Append(P, [event()]))
    assert await store.match.model(P) == ""
    await log.append(Append(P, [event()], vectors={b"d": b"1"}, model="old"))
    await store.match.put_vectors(P, "new", {b"d": b"2"})
    assert await store.match.model(P) == "old"
    assert await store.match.change_model(P, "another", "new", "t", b"body") is None
    tail = (await log.bounds(P)).tail
    sequence = await store.match.change_model(P, "old", "new", "t", b"body")
    assert sequence is not None
    assert sequence > tail
    (entry,) = await log.read(P, Range(tail), 10)
    assert (entry.sequence, entry.body) == (sequence, b"body")
    assert await store.match.model(P) == "new"
    assert await store.match.vectors(P, "old", [b"d"]) == {}
    assert await store.match.vectors(P, "new", [b"d"]) == {b"d": b"2"}


async def test_a_background_is_stored_with_its_event_once_for_each_size(
    log: EventLog, store: Store
) -> None:
    match = store.match
    await log.append(Append(P, [event()], vectors={b"d": b"1"}, model="m"))
    assert await match.background(P, "m") is None
    assert await match.set_background(P, "other", 10, b"x", "t", b"body") is None
    tail = (await log.bounds(P)).tail
    first = await match.set_background(P, "m", 10, b"ten", "t", b"body")
    assert first is not None
    assert first > tail
    (entry,) = await log.read(P, Range(tail), 10)
    assert (entry.sequence, entry.body) == (first, b"body")
    for size in (10, 1):
        assert await match.set_background(P, "m", size, b"late", "t", b"body") is None
    second = await match.set_background(P, "m", 1_000, b"thousand", "t", b"body")
    assert second is not None
    assert (await log.bounds(P)).tail == second
    assert await match.background(P, "m") == (second, b"thousand")
    assert await match.background(P, "m", second) == (second, b"thousand")
    assert await match.background(P, "m", second.prev()) == (first, b"ten")
    assert await match.background(P, "m", first.prev()) is None
    assert await match.backgrounds(P, "m") == {first: b"ten", second: b"thousand"}

    # It goes with the model, whatever an earlier turn of the next one may have left.
    await match.put_backgrounds(P, "next", {first: b"old"}, 1_000)
    assert await match.change_model(P, "m", "next", "t", b"body") is not None
    assert await match.backgrounds(P, "m") == await match.backgrounds(P, "next") == {}
    assert await match.set_background(P, "m", 100_000, b"late", "t", b"body") is None
    assert await match.set_background(P, "next", 10, b"ten", "t", b"body") is not None


async def test_backgrounds_that_are_put_keep_what_is_there(store: Store) -> None:
    match, one, other = store.match, Sequence(1, 0), Sequence(2, 0)
    await match.put_vectors(P, "m", {b"d": b"1"})
    await match.put_backgrounds(P, "m", {one: b"one", other: b"other"}, 100)
    await match.put_backgrounds(P, "m", {one: b"new"}, 10)
    assert await match.backgrounds(P, "m") == {one: b"one", other: b"other"}
    assert await match.set_background(P, "m", 100, b"x", "t", b"body") is None
    await match.drop_backgrounds(P, "m", [other])
    assert await match.background(P, "m") == (one, b"one")


async def test_an_older_server_takes_no_project_back_from_absolute_scores(
    store: Store, valkey: EmbeddedValkey
) -> None:
    await store.match.put_vectors(P, "m#2", {b"d": b"1"})
    kinds = ("events", "stats", "activity", "activity-open", "audit", "matching", "vectors:x")
    async with Redis.from_url(valkey.url) as client:

        async def change(new: str) -> object:
            keys = [key(P, kind) for kind in kinds]
            return await client.fcall(
                "contex1_change_model", len(keys), *keys, "m#2", new, "t", b"body", "", 0
            )

        assert await change("m") is None
        assert await store.match.model(P) == "m#2"
        assert await change("other#2") is not None


async def test_a_task_belongs_to_one_owner_until_it_expires(store: Store) -> None:
    assert await store.tasks.claim(P, "t", "a", 60_000)
    assert await store.tasks.claim(P, "t", "a", 60_000)
    assert not await store.tasks.claim(P, "t", "b", 60_000)
    assert await store.tasks.claim(P, "other", "b", 60_000)
    await store.tasks.claim(P, "t", "b", 0)
    assert not await store.tasks.claim(P, "t", "b", 60_000)
    await store.tasks.claim(P, "t", "a", 0)
    assert await store.tasks.claim(P, "t", "b", 50)
    await asyncio.sleep(0.1)
    assert await store.tasks.claim(P, "t", "a", 60_000)


async def test_claims_are_one_owners_for_as_long_as_they_are_renewed(store: Store) -> None:
    one, other = Claims(store.tasks, "t", hold_ms=400), Claims(store.tasks, "t", hold_ms=400)
    assert not one.sure_of(P)
    assert await one.take(P)
    assert one.sure_of(P)
    assert not await other.take(P)
    assert not other.sure_of(P)
    await other.give_back(P)  # It is not its own to give.
    assert not await other.take(P)
    for _ in range(6):
        await asyncio.sleep(0.1)
        assert await one.take(P)  # Renewed after half its time, so never lost.
    assert not await other.take(P)
    await one.give_back(P)
    assert not one.sure_of(P)
    assert await other.take(P)
    await asyncio.sleep(0.45)
    assert await one.take(P)  # It was not renewed.
    assert not await other.take(P, afresh=True)
    await one.give_all_back()
    assert await other.take(P)


async def test_a_pace_holds_for_a_while(store: Store) -> None:
    assert await store.projects.pace(P) == 0
    await store.projects.put_pace(P, 1_234.56, 60_000)
    assert await store.projects.pace(P) == 1_234.6
    assert await store.projects.pace("another") == 0
    await store.projects.put_pace(P, 0, 60_000)
    assert await store.projects.pace(P) == 0
    await store.projects.put_pace(P, 5, 20)
    await asyncio.sleep(0.1)
    assert await store.projects.pace(P) == 0


async def test_agents_are_compared_and_set(log: EventLog, store: Store) -> None:
    def write(expected: bytes, record: bytes, cursor: Sequence | None = None) -> AgentWrite:
        return AgentWrite(P, "a1", expected, record, cursor, "agent_registered", body())

    created = await store.agents.write_agent(write(b"", b"one"))
    assert created is not None
    assert created.cursor == created.sequence
    assert await store.agents.write_agent(write(b"", b"two")) is None
    assert await store.agents.write_agent(write(b"other", b"two")) is None
    changed = await store.agents.write_agent(write(b"one", b"two"))
    assert changed is not None
    assert changed.cursor == created.sequence
    moved = await store.agents.write_agent(write(b"two", b"three", Sequence(5, 1)))
    assert moved is not None
    assert moved.cursor == Sequence(5, 1)
    stored = await store.agents.agent(P, "a1")
    assert stored == ("a1", b"three", Sequence(5, 1), moved.contact_ms)
    assert moved.contact_ms >= created.contact_ms > 0
    assert await store.agents.write_agent(write(b"three", b"")) is not None
    assert await store.agents.agent(P, "a1") is None
    assert await store.agents.acknowledge(P, "a1", Sequence(9, 9)) is None
    assert len(await everything(log)) == 4


async def test_agents_are_listed_by_id(store: Store) -> None:
    for name in ("c", "a", "b"):
        await store.agents.write_agent(
            AgentWrite(P, name, b"", b"r", None, "agent_registered", body())
        )
    assert [a.agent_id for a in await store.agents.agents(P, "", 2)] == ["a", "b"]
    assert [a.agent_id for a in await store.agents.agents(P, "b", 2)] == ["c"]


async def test_a_cursor_only_moves_forward(store: Store) -> None:
    await store.agents.write_agent(
        AgentWrite(P, "a", b"", b"r", BEGINNING, "agent_registered", body())
    )
    assert await store.agents.acknowledge(P, "a", Sequence(10, 2)) == Sequence(10, 2)
    assert await store.agents.acknowledge(P, "a", Sequence(9, 9)) == Sequence(10, 2)
    assert await store.agents.acknowledge(P, "a", Sequence(10, 10)) == Sequence(10, 10)


async def test_replication_is_not_claimed_without_a_replica(valkey: EmbeddedValkey) -> None:
    log = (await open_store(valkey.url, Settings(replication_timeout_ms=50))).events
    append = Append(P, [event()], durability=Durability.REPLICATED)
    assert (await log.append(append)).durability is Durability.FSYNC
    await log.close()


async def test_a_full_queue_refuses_and_sends_nothing(valkey: EmbeddedValkey) -> None:
    log = (await open_store(valkey.url, Settings(pending_appends=3))).events
    results = await asyncio.gather(
        *(log.append(one(f"k{i}")) for i in range(10)), return_exceptions=True
    )
    refused = [r for r in results if isinstance(r, ContexError)]
    assert {r.reason for r in refused} == {Reason.OVERLOADED}
    assert len(await everything(log)) == 10 - len(refused) >= 3
    await log.close()


async def test_a_cancelled_append_does_not_stop_the_others(log: EventLog) -> None:
    tasks = [asyncio.create_task(log.append(one(f"k{i}"))) for i in range(10)]
    await asyncio.sleep(0)
    tasks[3].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(r, asyncio.CancelledError) for r in results].count(True) == 1
    await log.append(one("after"))


async def test_functions_are_loaded_again_where_they_are_gone(
    log: EventLog, store: Store, valkey: EmbeddedValkey
) -> None:
    async with Redis.from_url(valkey.url) as client:
        await log.append(one())
        await client.function_flush()
        assert (await log.append(one())).revisions == (2,)
        await client.function_flush()
    written = await store.agents.write_agent(
        AgentWrite(P, "a", b"", b"r", None, "agent_registered", body())
    )
    assert written is not None


async def test_a_history_is_walked_from_event_to_event(log: EventLog) -> None:
    sequences = []
    for n in range(5):
        appended = await log.append(Append(P, [event("k", str(n)), event("other", "y" * 1_000)]))
        sequences.append(appended.first)
    found = await log.history(P, sequences[4], 10, 1_000_000)
    assert [entry.sequence for entry in found] == sequences[::-1]
    assert [parse(entry).payload for entry in found] == [b"4", b"3", b"2", b"1", b"0"]
    found = await log.history(P, sequences[2], 2, 1_000_000)
    assert [entry.sequence for entry in found] == [sequences[2], sequences[1]]
    # By bytes: at least one, and none after the bytes are exceeded.
    other = Sequence(sequences[4].ms, sequences[4].n + 1)
    assert len(await log.history(P, other, 10, 1)) == 1
    assert len(await log.history(P, other, 10, 1_500)) == 2
    assert await log.history(P, Sequence(5, 5), 10, 1_000) == []
    assert await log.history("empty", Sequence(5, 5), 10, 1_000) == []


async def test_the_latest_of_some_keys(log: EventLog, store: Store) -> None:
    await log.append(Append(P, [event("a"), event("b"), event("a")]))
    (last,) = (await log.append(one("b", tombstone=True)),)
    found = await store.state.latest(P, ["a", "b", "nobody"])
    assert found.keys() == {"a", "b"}
    assert (found["a"].revision, found["a"].deleted, found["a"].digest) == (2, False, DIGEST)
    assert (found["b"].revision, found["b"].deleted) == (2, True)
    assert found["b"].sequence == last.first
    assert {s.data_key: s async for chunk in _all(store) for s in chunk} == found
    assert await store.state.latest(P, []) == {}


async def _all(store: Store) -> AsyncIterator[list[KeyState]]:
    async for chunk in store.state.state(P):
        yield chunk


async def test_snapshots_are_put_in_order_and_found_by_place(
    store: Store, storage: Storage
) -> None:
    snapshots = storage.snapshots
    assert await snapshots.before(P, END_OF_TIME) is None
    assert await snapshots.after(P, BEGINNING, 10) == []
    places = [Sequence(ms, n) for ms, n in ((10, 0), (10, 5), (2**40, 7))]
    for number, place in enumerate(places, 1):
        info = SnapshotInfo(place, number, 100 * number, 10 * number)
        assert await store.snapshots.put(P, info, bytes(range(256)) * number)
    for place in (*places, Sequence(10, 1), Sequence(1, 0)):
        assert not await store.snapshots.put(P, SnapshotInfo(place, 9, 9, 9), b"late")
    found = await snapshots.after(P, BEGINNING, 10)
    assert [info.sequence for info in found] == places
    assert found[1] == SnapshotInfo(places[1], 2, 200, 20, 512)
    assert await snapshots.after(P, places[0], 1) == [found[1]]
    assert await snapshots.before(P, END_OF_TIME) == found[2]
    assert await snapshots.before(P, places[1]) == found[1]
    assert await snapshots.before(P, Sequence(10, 4)) == found[0]
    assert await snapshots.before(P, Sequence(9, 9)) is None
    assert await snapshots.get(P, places[1]) == bytes(range(256)) * 2
    assert await snapshots.get(P, Sequence(10, 4)) is None
    assert await snapshots.after("other", BEGINNING, 10) == []


async def test_refusals_are_beside_the_audit(store: Store) -> None:
    await store.audit.note_refusals(P, [b"one", b"two"])
    assert await store.audit.audit(P, Range(), 10) == []
    notes = await store.audit.refusals(P, Range(), 10)
    assert [note.fields for note in notes] == [{b"x": b"one"}, {b"x": b"two"}]
    assert await store.audit.refusals(P, Range(backwards=True), 1) == [notes[1]]
    assert await store.audit.refusals("other", Range(), 10) == []


async def test_what_is_appended_is_counted(log: EventLog, store: Store) -> None:
    assert (await store.projects.counters(P)).events == 0
    await log.append(Append(P, [event("a"), event("b"), event("")]))
    await log.append(one("a", tombstone=True))
    entries = await everything(log)
    counters = await store.projects.counters(P)
    assert (counters.events, counters.keys, counters.deleted) == (4, 2, 1)
    assert counters.bytes == sum(len(entry.body) for entry in entries)
    assert counters.counted_since == BEGINNING


async def test_the_clock_is_the_stores(log: EventLog) -> None:
    empty = (await log.bounds(P)).now_ms
    appended = await log.append(one())
    assert empty <= appended.first.ms <= (await log.bounds(P)).now_ms
