"""Random histories, and every read of the past compared with a fold written here."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from contex.v1 import event_pb2, state_service_pb2
from contex_server.kernel.config import Settings
from contex_server.kernel.model import END_OF_TIME
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis.store import open_store
from contex_server.log.store import Store
from contex_server.projects.archive_task import TASK
from contex_server.projects.archiver import Archiver
from contex_server.projects.pace import Pace
from contex_server.projects.retention import Retention, RetentionStore
from contex_server.server import Server
from contex_server.state.snapshot_cache import SnapshotCache
from contex_server.state.snapshotter import Snapshotter
from contex_server.tiers.archive import Archive
from contex_server.tiers.archived_keys import ArchivedKeys
from contex_server.tiers.objects import Objects
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.integration.support import (
    DEADLINE_S,
    Api,
    NewEvent,
    ReplayRequest,
    Words,
    order,
    wrapped,
)
from tests.thorough import one_of
from tests.unit.state.applying import apply, as_values, exact, patched

T = TypeVar("T")

KEYS = ("a", "a/1", "a/2", "b", "b.c", "z")
GLOBS = ((), ("a*",), ("b", "z"), ("?",), ("a/?", "b*"), ("nothing",))
DOCUMENTS = (
    b"{}",
    b'{"n":1}',
    b'{"n":1.0}',
    b'{"n":true,"list":[1,2,3]}',
    b'{"list":[1,3],"n":12345678901234567890123}',
    b'{"list":[0,1,2,3],"a/b":{"c":null}}',
    b'{ "n" : 1 }',
    b"[]",
    b"3",
)
TEXTS = (
    b"one\ntwo\nthree\n",
    b"one\n2\nthree\n",
    b"zero\none\ntwo",
    b"one\n",
    b"three\ntwo\none\n",
)
_FEW_EVENTS = 10


@dataclass(frozen=True)
class Fact:
    """An event as the test knows it."""

    sequence: str
    key: str
    payload: bytes
    text: bool
    deleted: bool
    publisher: str
    revision: int

    @property
    def at(self) -> tuple[int, int]:
        return order(self.sequence)


@dataclass(frozen=True)
class Asked:
    """A moment to ask about, and what it comes to."""

    position: event_pb2.Position | None
    facts: list[Fact]


class World:
    """A store and two servers on it, which live through all histories."""

    def __init__(self, directory: Path) -> None:
        self.runner = asyncio.Runner()
        self.directory = directory
        self.store = EmbeddedValkey(directory)
        self.objects = Objects.open((directory / "archive").as_uri())
        self.servers: list[Server] = []
        self.apis: list[Api] = []
        self.projects = (f"history-{n}" for n in count())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    async def start(self) -> None:
        await self.store.start()
        self.opened = await open_store(self.store.url)
        for place in range(2):
            await self.start_server(place)

    async def start_server(self, place: int) -> None:
        # Small caches, so that what is read comes from the store too.
        chosen = Settings(
            port=0,
            shutdown_grace_s=1.0,
            # The test takes them.
            snapshot_events=1_000_000,
            snapshot_cache_bytes=20_000 if place else 0,
            # And it archives.
            archive_url=self.objects.url,
            data_dir=self.directory,
        )
        server = await Server.start(chosen, self.store.url, embedder=Words())
        self.servers[place : place + 1] = [server]
        self.apis[place : place + 1] = [Api.of(server)]

    async def restart_server(self, place: int) -> None:
        await self.apis[place].channel.close()
        await self.servers[place].stop()
        await self.start_server(place)

    async def restart_store(self) -> None:
        await self.store.stop()
        await self.store.start()
        await self.opened.events.close()
        self.opened = await open_store(self.store.url)

    async def stop(self) -> None:
        for api, server in zip(self.apis, self.servers, strict=True):
            await api.channel.close()
            await server.stop()
        await self.opened.events.close()
        await self.store.stop()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="ctx") as directory:
        made = World(Path(directory))
        made.run(made.start())
        yield made
        made.run(made.stop())
        made.runner.close()


class _Killed(BaseException):
    """What ends a process that is killed."""


class _Mortal:
    """A facet of the store of a process that is killed at its n-th call."""

    def __init__(self, facet: Any, calls: Iterator[int]) -> None:
        self._facet = facet
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        if next(self._calls, None) is None:
            raise _Killed
        return getattr(self._facet, name)


def mortal(store: Store, calls: int) -> Store:
    """The store as a process sees it that is killed at its n-th call."""
    left = iter(range(calls))
    return wrapped(store, lambda facet: _Mortal(facet, left))


CONTENT = st.one_of(
    st.tuples(st.sampled_from(DOCUMENTS), st.just(False)),
    st.tuples(st.sampled_from(TEXTS), st.just(True)),
    st.just((None, False)),
)
BATCH = st.lists(st.tuples(st.sampled_from((*KEYS, "")), CONTENT), min_size=1, max_size=6)
MOMENTS = st.tuples(
    st.integers(0, 200), st.sampled_from(["at", "next", "time", "ms", "just before"])
)
MAYBE_MOMENTS = st.one_of(st.none(), MOMENTS)
SIZES = st.sampled_from([1, 2, 3, 1_000])
SERVERS = st.integers(0, 1)


@dataclass
class Model:
    """What has happened in a project."""

    facts: list[Fact] = field(default_factory=list)

    def note(self, sequences: list[str], batch: list[NewEvent], publisher: str) -> None:
        for sequence, new in zip(sequences, batch, strict=True):
            self.facts.append(
                Fact(
                    sequence,
                    new.data_key,
                    new.payload,
                    new.content_type == "text/plain",
                    new.tombstone,
                    publisher,
                    0,
                )
            )
        self.facts.sort(key=lambda fact: fact.at)

    def history(self) -> list[Fact]:
        """The facts with the revisions that they must have."""
        counts: dict[str, int] = {}
        found = []
        for fact in self.facts:
            if fact.key:
                counts[fact.key] = counts.get(fact.key, 0) + 1
            found.append(
                Fact(
                    fact.sequence,
                    fact.key,
                    fact.payload,
                    fact.text,
                    fact.deleted,
                    fact.publisher,
                    counts.get(fact.key, 0),
                )
            )
        return found

    def asked(self, moment: tuple[int, str] | None) -> Asked:
        facts = self.history()
        if moment is None or not facts:
            return Asked(None, facts)
        index, kind = moment
        ms, n = facts[index % len(facts)].at
        position = event_pb2.Position()
        match kind:
            case "at":
                position.sequence = f"{ms}-{n}"
                end = (ms, n)
            case "next":
                end = min((ms, n + 1), facts[-1].at)
                position.sequence = "{}-{}".format(*end)
            case "time":
                position.time.FromMilliseconds(ms)
                end = (ms, 2**64)
            case "ms":
                position.unix_ms = ms
                end = (ms, 2**64)
            case _:
                position.unix_ms = ms - 1
                end = (ms - 1, 2**64)
        return Asked(position, [fact for fact in facts if fact.at <= end])


def _ms_of(position: event_pb2.Position) -> int:
    if position.WhichOneof("at") == "time":
        return position.time.ToMilliseconds()
    return position.unix_ms


async def _nothing(*_: object) -> None:
    pass


def fold(facts: list[Fact]) -> dict[str, Fact]:
    """The latest fact of each key."""
    return {fact.key: fact for fact in facts if fact.key}


def fits(key: str, globs: tuple[str, ...]) -> bool:
    """The globs of these tests, spelt out."""
    table = {
        "a*": key.startswith("a"),
        "b": key == "b",
        "z": key == "z",
        "?": len(key) == 1,
        "a/?": key.startswith("a/") and len(key) == 3,
        "b*": key.startswith("b"),
        "nothing": False,
    }
    return not globs or any(table[glob] for glob in globs)


def same(event: event_pb2.Event, fact: Fact) -> None:
    assert event.sequence == fact.sequence
    assert event.data_key == fact.key
    assert event.payload == fact.payload
    assert event.publisher == fact.publisher
    assert event.revision == fact.revision


def check_patch(patch: Any, before: Fact, after: Fact) -> None:
    assert not patch.omitted
    form = patch.WhichOneof("form")
    if before.payload == after.payload:
        assert form is None
    elif before.text or after.text:
        assert patched(before.payload.decode(), patch.unified_diff) == after.payload.decode()
    else:
        changed = apply(exact(before.payload), exact(patch.json_patch))
        assert as_values(changed) == as_values(exact(after.payload))


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        pairs: Any = [(k.replace("~", "~0").replace("/", "~1"), v) for k, v in value.items()]
    elif isinstance(value, list) and value:
        pairs = enumerate(value)
    else:
        return {path: as_values(value)}
    return {p: v for key, child in pairs for p, v in leaves(child, f"{path}/{key}").items()}


async def persistently(call: Callable[[], Awaitable[T]]) -> T:
    """Repeats a call where a connection to a store that was restarted had to be dropped."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.01)


class History(RuleBasedStateMachine):
    """One project's life."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.project = next(self.world.projects)
        self.model = Model()
        self.requests = count()
        self.restarts = 0

    def call(self, server: int, rpc: str, request: Any) -> Any:
        stub = self.world.apis[server].states
        return self.world.run(persistently(lambda: getattr(stub, rpc)(request, timeout=DEADLINE_S)))

    # -- what happens ------------------------------------------------------------

    def _new(self, batch: list[tuple[str, tuple[bytes | None, bool]]]) -> list[NewEvent]:
        found = []
        for key, (payload, text) in batch:
            if payload is None and key:
                found.append(NewEvent(data_key=key, tombstone=True))
            else:
                found.append(
                    NewEvent(
                        data_key=key,
                        payload=payload or b"{}",
                        content_type="text/plain" if text else "",
                        event_type="" if key else "note",
                    )
                )
        return found

    async def _publish(self, server: int, batch: list[NewEvent], publisher: str) -> None:
        api, request_id = self.world.apis[server], f"r-{next(self.requests)}"
        sequences = await persistently(
            lambda: api.publish(
                *batch, project=self.project, publisher=publisher, request_id=request_id
            )
        )
        self.model.note(sequences, batch, publisher)

    @initialize()
    def begin(self) -> None:
        """What reads a project without an event is refused."""
        self.world.run(self._publish(0, [NewEvent(event_type="note", payload=b"{}")], ""))

    @rule(server=SERVERS, batch=BATCH, publisher=st.sampled_from(["ops", "ci", ""]))
    def publish(self, server: int, batch: Any, publisher: str) -> None:
        self.world.run(self._publish(server, self._new(batch), publisher))

    @rule(batches=st.lists(BATCH, min_size=2, max_size=4))
    def publish_together(self, batches: list[Any]) -> None:
        async def work() -> None:
            await asyncio.gather(
                *(
                    self._publish(n % 2, self._new(batch), f"writer-{n}")
                    for n, batch in enumerate(batches)
                )
            )

        self.world.run(work())

    @rule(key=st.sampled_from(KEYS), times=st.integers(11, 45))
    def publish_a_burst(self, key: str, times: int) -> None:
        batch = [NewEvent(data_key=key, payload=b'{"n":%d}' % n) for n in range(times)]
        self.world.run(self._publish(0, batch, "burst"))

    @rule(events=st.sampled_from([1, _FEW_EVENTS, None]))
    def take_snapshots(self, events: int | None) -> None:
        self.world.run(self._look(events))

    @rule(calls=st.integers(0, 14), events=st.sampled_from([1, _FEW_EVENTS, None]))
    def take_snapshots_and_be_killed(self, calls: int, events: int | None) -> None:
        self.world.run(self._look(events, calls))

    @rule(batches=st.lists(BATCH, min_size=4, max_size=8))
    def take_snapshots_while_others_publish(self, batches: list[Any]) -> None:
        async def publish() -> None:
            for n, batch in enumerate(batches):
                await self._publish(n % 2, self._new(batch), f"writer-{n}")

        async def take() -> None:
            async with asyncio.TaskGroup() as tasks:
                publishing = tasks.create_task(publish())
                while not publishing.done():
                    await self._look(None)

        self.world.run(take())

    async def _look(self, events: int | None, calls: int | None = None) -> None:
        """Looks, as a process does to which a snapshot is due after so many events.

        None: after as many as there are now, which takes one of what is there, not of the past.
        """
        store = self.world.opened
        if events is None:
            newest = await store.snapshots.before(self.project, END_OF_TIME)
            counters = await store.projects.counters(self.project)
            events = max(1, counters.events - (newest.events if newest else 0))
        seen = store if calls is None else mortal(store, calls)
        snapshots = SnapshotCache(seen.snapshots, cache_bytes=0)
        snapshotter = Snapshotter(seen.events, seen, snapshots, events=events, size=1 << 30)
        try:
            await snapshotter.look(self.project)
        except _Killed:
            pass
        finally:
            # As when it was closed, or its claim has expired.
            await store.tasks.claim(self.project, "snapshot", snapshotter.claims.owner, 0)

    @rule(keep=st.sampled_from([0, 3, _FEW_EVENTS]), segment=st.sampled_from([1, 4, 1_000]))
    def archive(self, keep: int, segment: int) -> None:
        self.world.run(self._archive(keep, segment))

    @rule(calls=st.integers(0, 30), keep=st.sampled_from([0, 3]), segment=st.sampled_from([2, 9]))
    def archive_and_be_killed(self, calls: int, keep: int, segment: int) -> None:
        self.world.run(self._archive(keep, segment, calls))

    @rule(batches=st.lists(BATCH, min_size=4, max_size=8))
    def archive_while_others_publish_and_read(self, batches: list[Any]) -> None:
        async def publish() -> None:
            for n, batch in enumerate(batches):
                await self._publish(n % 2, self._new(batch), f"writer-{n}")

        async def work() -> None:
            async with asyncio.TaskGroup() as tasks:
                publishing = tasks.create_task(publish())
                while not publishing.done():
                    await self._archive(2, 3)
                    known = len(self.model.facts)
                    facts = self.model.history()[:known]
                    read = await self._replayed(0)
                    assert [e.sequence for e in read][:known] == [f.sequence for f in facts]

        self.world.run(work())

    async def _archive(self, keep: int, segment: int, calls: int | None = None) -> None:
        """Archives all but `keep` events, as a process does that has the task."""
        store = self.world.opened
        seen = store if calls is None else mortal(store, calls)
        archive = Archive(seen.archive, self.world.objects, cache_bytes=10_000)
        retentions = RetentionStore(seen.projects, Retention(0, 0, 0, 0))
        archiver = Archiver(
            seen,
            archive,
            ArchivedKeys(seen.keys, self.world.objects),
            retentions,
            events=segment,
            size=1 << 20,
            expire=_nothing,
            pace=Pace(seen.projects),
        )
        try:
            if keep:
                retentions.defaults = Retention(0, keep, 0, 0)
                await archiver.archive_due(self.project)
            else:
                await archiver.archive_all(self.project)
        except _Killed:
            pass
        finally:
            await archive.close()
            # As when it was closed, or its claim has expired.
            await store.tasks.claim(self.project, TASK, archiver.task.claims.owner, 0)

    @precondition(lambda self: self.restarts < 1)
    @rule(what=st.sampled_from(["server", "store"]))
    def restart(self, what: str) -> None:
        self.restarts += 1
        work = self.world.restart_server(0) if what == "server" else self.world.restart_store()
        self.world.run(work)

    # -- what is read ------------------------------------------------------------

    async def _replayed(self, server: int, **range_: Any) -> list[event_pb2.Event]:
        request = ReplayRequest(project=self.project, **range_)

        async def read() -> list[event_pb2.Event]:
            stream = self.world.apis[server].events.Replay(request, timeout=DEADLINE_S)
            return [event async for message in stream for event in message.events.events]

        return await persistently(read)

    @precondition(lambda self: self.model.facts)
    @rule(server=SERVERS, since=MAYBE_MOMENTS, until=MAYBE_MOMENTS, backwards=st.booleans())
    def replay(self, server: int, since: Any, until: Any, backwards: bool) -> None:
        first, last = self.model.asked(since), self.model.asked(until)
        skipped = len(first.facts) if since is not None else 0
        if since is not None and first.position.WhichOneof("at") != "sequence":
            ms = _ms_of(first.position)
            skipped = sum(fact.at[0] < ms for fact in self.model.facts)
        expected = last.facts[skipped:]
        read = self.world.run(
            self._replayed(
                server,
                since=first.position if since is not None else None,
                until=last.position if until is not None else None,
                order=event_pb2.ORDER_BACKWARDS if backwards else 0,
            )
        )
        assert len(read) == len(expected)
        for event, fact in zip(read, reversed(expected) if backwards else expected, strict=True):
            same(event, fact)

    @rule(
        server=SERVERS,
        moment=MAYBE_MOMENTS,
        globs=st.sampled_from(GLOBS),
        prefix=st.sampled_from(["", "a", "b."]),
        deleted=st.booleans(),
        keys_only=st.booleans(),
        size=SIZES,
    )
    def get_state(
        self,
        server: int,
        moment: Any,
        globs: tuple[str, ...],
        prefix: str,
        deleted: bool,
        keys_only: bool,
        size: int,
    ) -> None:
        asked = self.model.asked(moment)
        expected = [
            fact
            for key, fact in sorted(fold(asked.facts).items())
            if fits(key, globs) and key.startswith(prefix) and (deleted or not fact.deleted)
        ]
        fields: dict[str, Any] = {
            "project": self.project,
            "as_of": asked.position,
            "data_keys": globs,
            "prefix": prefix,
            "include_deleted": deleted,
            "view": state_service_pb2.STATE_VIEW_KEYS if keys_only else 0,
        }
        request = state_service_pb2.GetStateRequest(**fields, page_size=size)
        data: list[Any] = []
        as_of = None
        while True:
            page = self.call(server, "GetState", request)
            assert page.data_count == len(expected)
            assert as_of is None or page.as_of == as_of
            as_of = page.as_of
            assert len(page.data) == min(size, len(expected) - len(data))
            data += page.data
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        self._check_data(data, expected, keys_only)
        assert as_of is not None
        newest = asked.facts[-1].sequence if asked.facts else "0-0"
        assert as_of.sequence == newest
        streamed = self.world.run(self._streamed(server, fields))
        assert [d for message in streamed for d in message.data] == data
        assert {(m.as_of.sequence, m.data_count) for m in streamed} == {(newest, len(expected))}

    async def _streamed(self, server: int, fields: dict[str, Any]) -> list[Any]:
        request = state_service_pb2.StreamStateRequest(**fields)

        async def read() -> list[Any]:
            return [m async for m in self.world.apis[server].states.StreamState(request)]

        return await persistently(read)

    def _check_data(self, data: list[Any], expected: list[Fact], keys_only: bool) -> None:
        assert [d.data_key for d in data] == [fact.key for fact in expected]
        for datum, fact in zip(data, expected, strict=True):
            assert (datum.sequence, datum.revision) == (fact.sequence, fact.revision)
            assert datum.deleted == fact.deleted
            assert not datum.payload_omitted
            assert datum.HasField("event") != keys_only
            if not keys_only:
                same(datum.event, fact)

    @precondition(lambda self: self.model.facts)
    @rule(
        server=SERVERS,
        base=MOMENTS,
        later=MAYBE_MOMENTS,
        globs=st.sampled_from(GLOBS),
        keys_only=st.booleans(),
        size=SIZES,
    )
    def diff_states(
        self,
        server: int,
        base: Any,
        later: Any,
        globs: tuple[str, ...],
        keys_only: bool,
        size: int,
    ) -> None:
        one, other = self.model.asked(base), self.model.asked(later)
        was, is_now = (
            {key: fact for key, fact in fold(a.facts).items() if not fact.deleted}
            for a in (one, other)
        )
        expected = [
            key
            for key in sorted(was.keys() | is_now.keys())
            if was.get(key) != is_now.get(key) and fits(key, globs)
        ]
        request = state_service_pb2.DiffStatesRequest(
            project=self.project,
            base=one.position,
            target=other.position,
            data_keys=globs,
            view=state_service_pb2.STATE_VIEW_KEYS if keys_only else 0,
            page_size=size,
        )
        changes: list[Any] = []
        while True:
            page = self.call(server, "DiffStates", request)
            counts = (page.added_count, page.removed_count, page.changed_count)
            assert counts == (
                sum(key not in was for key in expected),
                sum(key not in is_now for key in expected),
                sum(key in was and key in is_now for key in expected),
            )
            changes += page.changes
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        assert [change.data_key for change in changes] == expected
        for change in changes:
            before, after = was.get(change.data_key), is_now.get(change.data_key)
            assert change.HasField("before") == (before is not None)
            assert change.HasField("after") == (after is not None)
            for datum, fact in ((change.before, before), (change.after, after)):
                if fact is not None:
                    self._check_data([datum], [fact], keys_only)
            assert change.HasField("patch") == (before is not None and after is not None)
            if before is not None and after is not None:
                assert change.kind == state_service_pb2.CHANGE_KIND_CHANGED
                check_patch(change.patch, before, after)

    @precondition(lambda self: any(fact.key for fact in self.model.facts))
    @rule(
        server=SERVERS,
        moment=MAYBE_MOMENTS,
        which=st.integers(0, 100),
        size=SIZES,
        payloads=st.booleans(),
    )
    def get_history(self, server: int, moment: Any, which: int, size: int, payloads: bool) -> None:
        asked = self.model.asked(moment)
        chain = [fact for fact in asked.facts if fact.key and fact.key == self._key(asked, which)]
        if not chain:
            return
        request = state_service_pb2.GetHistoryRequest(
            project=self.project,
            data_key=chain[0].key,
            as_of=asked.position,
            page_size=size,
            omit_payloads=not payloads,
        )
        revisions: list[Any] = []
        while True:
            page = self.call(server, "GetHistory", request)
            assert len(page.revisions) == min(size, len(chain) - len(revisions))
            assert not page.trimmed
            assert page.as_of.sequence == asked.facts[-1].sequence
            revisions += page.revisions
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        for revision, fact in zip(revisions, reversed(chain), strict=True):
            self._check_revision(revision, fact, chain, payload=payloads)

    def _key(self, asked: Asked, which: int) -> str:
        keys = sorted({fact.key for fact in asked.facts if fact.key})
        return keys[which % len(keys)] if keys else ""

    def _check_revision(
        self, revision: Any, fact: Fact, chain: list[Fact], *, payload: bool
    ) -> None:
        if payload:
            same(revision.event, fact)
        else:
            assert revision.event.payload == b""
            assert revision.event.sequence == fact.sequence
        assert revision.time.ToMilliseconds() == fact.at[0]
        before = chain[fact.revision - 2] if fact.revision > 1 else None
        assert revision.event.previous_sequence == (before.sequence if before else "")
        compared = before is not None and not before.deleted and not fact.deleted
        assert revision.HasField("patch") == compared
        if before is not None and compared:
            check_patch(revision.patch, before, fact)

    @precondition(lambda self: any(fact.key for fact in self.model.facts))
    @rule(server=SERVERS, which=st.integers(0, 100), number=st.integers(0, 300))
    def get_revision(self, server: int, which: int, number: int) -> None:
        asked = self.model.asked(None)
        key = self._key(asked, which)
        chain = [fact for fact in asked.facts if fact.key == key]
        fact = chain[number % len(chain)]
        request = state_service_pb2.GetRevisionRequest(
            project=self.project, data_key=key, revision=fact.revision
        )
        found = self.call(server, "GetRevision", request)
        self._check_revision(found.revision, fact, chain, payload=True)

    @precondition(lambda self: any(fact.key for fact in self.model.facts))
    @rule(server=SERVERS, moment=MAYBE_MOMENTS, which=st.integers(0, 100))
    def get_blame(self, server: int, moment: Any, which: int) -> None:
        asked = self.model.asked(moment)
        key = self._key(asked, which)
        chain = [fact for fact in asked.facts if fact.key and fact.key == key]
        if not chain or chain[-1].deleted:
            return
        request = state_service_pb2.GetBlameRequest(
            project=self.project, data_key=key, as_of=asked.position
        )
        found = self.call(server, "GetBlame", request)
        same(found.event, chain[-1])
        assert not found.truncated
        by_revision = {fact.revision: fact for fact in chain}
        for part in found.parts:
            fact = by_revision[part.revision]
            assert (part.sequence, part.publisher) == (fact.sequence, fact.publisher)
            assert part.time.ToMilliseconds() == fact.at[0]
        if chain[-1].text:
            lines = chain[-1].payload.decode().splitlines()
            assert [part.value for part in found.parts] == lines
            for part in found.parts:
                since = [fact for fact in chain if fact.revision >= part.revision]
                assert all(fact.text and not fact.deleted for fact in since)
                assert all(part.value in fact.payload.decode().splitlines() for fact in since)
            return
        trees = [{} if fact.deleted or fact.text else leaves(exact(fact.payload)) for fact in chain]
        assert [part.path for part in found.parts] == list(trees[-1])
        for part in found.parts:
            value = trees[-1][part.path]
            first = len(trees)
            while first > 1 and trees[first - 2].get(part.path) == value:
                first -= 1
            assert part.revision == first
            assert as_values(exact(part.value)) == value


@pytest.mark.timeout(600)
@pytest.mark.parametrize("histories", one_of(4, 40))
def test_every_read_of_the_past_is_the_fold_of_the_log(world: World, histories: int) -> None:
    History.world = world
    run_state_machine_as_test(
        History,
        settings=settings(
            max_examples=histories,
            stateful_step_count=40,
            derandomize=True,
            deadline=None,
            database=None,
            # Shrinking takes minutes here; allow it to understand a failure.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
