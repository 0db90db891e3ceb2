"""A server with enough data that a step shows which grows with them, and calls to it as bytes.

The server runs in the loop that is measured, calls come from another thread.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
import orjson
from contex.v1 import agent_service_pb2, event_service_pb2
from contex_server.access import records as access_records
from contex_server.access.records import ApiKey, Binding, Grant, Record, Tenant, encode
from contex_server.api.events import checks
from contex_server.kernel.config import Limits, Settings
from contex_server.kernel.model import BEGINNING, Origin, Range, Sequence
from contex_server.log.access import Write
from contex_server.log.groups import Parked
from contex_server.matching.embedders.port import Role, Vector
from contex_server.server import Server
from google.protobuf.message import Message

from tests.budgets.meter import Cost
from tests.conftest import running_store
from tests.integration.hostile.scene import METHODS

P = "budget"
AGENT = "agent.000"
AGENTS = 100
EAGER = 4
"""Of these, the first."""
MIB = 1024 * 1024
BATCH = 1_000
TEXTS = 100
"""How many texts the events of a batch have."""
DEADLINE_S = 300.0
_LARGE_BYTES = MIB - 4096

LIMITS = Limits()


class Vectors:
    """An embedder that costs next to nothing: a text's vector is one of some random ones."""

    model_id = "vectors@1"
    dimension = 64
    max_tokens = 256

    def __init__(self) -> None:
        rows = np.random.default_rng(1).standard_normal((1024, self.dimension), np.float32)
        self._rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)

    async def start(self) -> None:
        pass

    async def embed(self, texts: Any, role: Role) -> Vector:
        await asyncio.sleep(0)
        places = [zlib.crc32(text.encode()) % len(self._rows) for text in texts]
        return cast(Vector, self._rows[places])

    async def close(self) -> None:
        pass


def large(content_type: str) -> bytes:
    """A payload of nearly 1 MiB."""
    row = "Blue running shoes for the autumn collection, number"
    lines: dict[str, Callable[[int], str]] = {
        "application/json": lambda n: orjson.dumps({"name": f"{row} {n}", "n": n}).decode(),
        "application/yaml": lambda n: f'row_{n}: {{name: "{row} {n}", n: {n}}}',
        "application/toml": lambda n: f'row_{n} = {{name = "{row} {n}", n = {n}}}',
        "application/xml": lambda n: f"<row n='{n}'><name>{row} {n}</name></row>",
        "text/csv": lambda n: f"{n},{row} {n},{n * n}",
        "text/markdown": lambda n: f"## Part {n}\n\n{row} {n}.\n",
        "text/plain": lambda n: f"{row} {n}.",
    }
    ends = {"application/json": ("[", "]", ","), "application/xml": ("<rows>", "</rows>", "\n")}
    head, foot, between = ends.get(content_type, ("", "", "\n"))
    written, size, n = [], 0, 0
    while True:
        line = lines[content_type](n)
        size += len(line) + len(between)
        if size > _LARGE_BYTES:
            return f"{head}{between.join(written)}{foot}".encode()
        written.append(line)
        n += 1


TYPES = (
    *("application/json", "application/yaml", "application/toml", "application/xml"),
    *("text/csv", "text/markdown", "text/plain"),
)


def large_event(key: str, content_type: str) -> event_service_pb2.NewEvent:
    return event_service_pb2.NewEvent(
        data_key=key, payload=large(content_type), content_type=content_type
    )


def small_event(key: str, n: int) -> event_service_pb2.NewEvent:
    payload = orjson.dumps({"name": f"item {n % 500}", "price": n})
    return event_service_pb2.NewEvent(data_key=key, payload=payload)


def some_needs(count: int) -> list[agent_service_pb2.Need]:
    return [agent_service_pb2.Need(text=f"prices of item {n} of the shop") for n in range(count)]


def _until(ended: threading.Event, raws: list[bytes]) -> Iterator[bytes]:
    yield from raws
    ended.wait()


class Scene:
    """A server and its project of many keys.

    Attributes:
        keys: How many keys the project has.
        sequences: The first of each batch, and the last of all.
        late: After it come three large events.
        exports: Files of the project, by format.
        large: A key with two revisions of 1 MiB of JSON.
    """

    large = "large/application/json"

    def __init__(self, server: Server, channel: grpc.Channel, keys: int) -> None:
        self.server = server
        self.keys = keys
        self.sequences: list[str] = []
        self.late = ""
        self.exports: dict[int, bytes] = {}
        self.serial = 0
        self.key_id = ""
        self.channel = channel

    async def call(
        self,
        rpc: str,
        requests: Iterable[Message],
        until: Callable[[bytes], bool] | None = None,
        cost: Cost | None = None,
    ) -> list[bytes]:
        """Sends requests; the answers up to one that fits `until`; with `cost`, only their size."""
        raws = [request.SerializeToString() for request in requests]
        return await asyncio.to_thread(self._call, rpc, raws, until, cost)

    def _call(
        self,
        rpc: str,
        raws: list[bytes],
        until: Callable[[bytes], bool] | None,
        cost: Cost | None,
    ) -> list[bytes]:
        answers = []
        for answer in self._answers(rpc, raws):
            if cost is None:
                answers.append(answer)
            else:
                cost.answer_mib += len(answer) / MIB
            if until is not None and until(answer):
                break
        return answers

    def _answers(self, rpc: str, raws: list[bytes]) -> Iterator[bytes]:
        method, channel = METHODS[rpc], self.channel
        stream: Any
        path = f"/{method.containing_service.full_name}/{rpc}"
        if rpc == "Consume":
            # It lasts as long as the client has something to say.
            ended = threading.Event()
            stream = channel.stream_stream(path)(_until(ended, raws), timeout=DEADLINE_S)
            try:
                yield from stream
            finally:
                ended.set()
                stream.cancel()
        elif method.client_streaming:
            yield from channel.stream_stream(path)(iter(raws), timeout=DEADLINE_S)
        elif method.server_streaming:
            stream = channel.unary_stream(path)(raws[0], timeout=DEADLINE_S)
            try:
                yield from stream
            finally:
                stream.cancel()
        else:
            yield channel.unary_unary(path)(raws[0], timeout=DEADLINE_S)

    async def park(self) -> None:
        """Parks some deliveries of the agent."""
        store = self.server.rooms.groups.store
        await store.drop(
            P, AGENT, [each.id for each in await store.parked(P, AGENT, BEGINNING, BATCH)]
        )
        entries = await self.server.rooms.inbox.reader.store.inbox(P, AGENT, Range(), BATCH)
        parked = [
            Parked(Sequence(time.time_ns() // 1_000_000, n), entry, 1, "w", "C")
            for n, entry in enumerate(entries)
        ]
        await store.restore(P, {AGENT: parked})

    def next_number(self) -> int:
        """Another number."""
        self.serial += 1
        return self.serial

    async def fill_access(self) -> None:
        """5,000 keys and bindings, groups with many grants, and 500 tenants whose projects' globs
        have to be looked at in full; by the store itself, and only what is not there."""
        admin = self.server.rooms.access
        number = self.next_number()
        self.key_id = f"{number:016x}"
        records: list[Record] = [
            ApiKey(self.key_id, "rotated", "", "0" * 64),
            access_records.Role("unused", frozenset({1})),
            Tenant("unused", frozenset({"unused"})),
            Binding(f"listener.{number}", "", (Grant("consumer", frozenset({"*"})),)),
        ]
        if "identity.04999" not in admin.directory.policy.bindings:
            grant = Grant("readonly", frozenset({"shop"}), frozenset({"a/*", "b"}))
            many = tuple(
                Grant(
                    "readonly",
                    frozenset(f"{n:02}-*-{glob}" for glob in range(4)),
                    frozenset(f"{n:02}/*/{glob}" for glob in range(4)),
                )
                for n in range(32)
            )
            for n in range(5_000):
                name = f"identity.{n:05}"
                records += (
                    ApiKey(f"f{n:015x}", name, "", "0" * 64, "a name", "an owner"),
                    Binding(name, "", (grant,)),
                )
            records += [Binding(f"group:corp:{n}", "", many) for n in range(32)]
            records += [
                Tenant(f"t{n}", frozenset(f"*x*y?{glob:02}*of-{n:03}" for glob in range(32)))
                for n in range(500)
            ]
        changes = {
            record.record_name: Write(admin.directory.stored(record.record_name), encode(record))
            for record in records
        }
        assert await admin.admin.store.write(changes, b"") is not None
        await admin.directory.refresh()
        # Found once, until tenants change: 20 ms and more, of 16,000 globs that begin with a star.
        admin.directory.policy.tenant_of(P)

    async def publish(
        self, events: Iterable[event_service_pb2.NewEvent], project: str = P
    ) -> list[str]:
        """Publishes a batch; its sequences."""
        request = event_service_pb2.PublishRequest(project=project, events=events)
        (answer,) = await self.call("Publish", [request])
        receipts = event_service_pb2.PublishResponse.FromString(answer).receipts
        return [receipt.sequence for receipt in receipts]

    async def load(self) -> None:
        """Fills the project: agents first, while nothing matches them."""
        for n in range(AGENTS):
            # The first ones get everything, and the others nothing: deciding goes on while calls
            # are measured.
            threshold = 0.001 if n < EAGER else 1.0
            request = agent_service_pb2.RegisterAgentRequest(
                project=P, agent_id=f"agent.{n:03}", needs=some_needs(4), threshold=threshold
            )
            await self.call("RegisterAgent", [request])
        await self._append_small()
        for content_type in TYPES:
            (sequence,) = await self.publish([large_event(f"large/{content_type}", content_type)])
            self.late = sequence if content_type == "text/csv" else self.late
        changed = orjson.dumps([*orjson.loads(large("application/json"))[1:], {"name": "new"}])
        self.sequences += await self.publish(
            [event_service_pb2.NewEvent(data_key=self.large, payload=changed)]
        )

    async def _append_small(self) -> None:
        """Appends the small events by the log itself: ten keys at a time share an encoding."""
        publisher, log = self.server.rooms.events.publisher, self.server.rooms.storage.log
        for start in range(0, self.keys, BATCH):
            events = [small_event(f"item/{n:06}", n) for n in range(start, start + BATCH)]
            request = event_service_pb2.PublishRequest(project=P, events=events)
            append = checks.publish(request, Origin("loader"), LIMITS)
            described = replace(append, events=append.events[:: len(append.events) // TEXTS])
            await publisher.prepare(described)
            for n, event in enumerate(append.events):
                event.digest, event.payload = described.events[n % TEXTS].digest, b""
            append.model, append.vectors = described.model, described.vectors
            appended = await log.append(append)
            self.sequences.append(str(appended.first))


async def decided(server: Server) -> None:
    """Returns when everything is decided for all agents, which is no part of what is measured."""
    deciders, log = server.rooms.inbox.deciders, server.rooms.storage.log
    inboxes = server.rooms.storage.store.inboxes
    tail = (await log.bounds(P)).tail
    while True:
        end = await inboxes.inbox_end(P, "agent.000")
        if len(deciders) and not deciders.agents_behind and end.position >= tail:
            return
        await asyncio.sleep(0.05)


@asynccontextmanager
async def running(keys: int) -> AsyncIterator[Scene]:
    """A project that another server has loaded, for the `async with` block."""
    with tempfile.TemporaryDirectory(prefix="ctx") as directory:
        async with running_store(Path(directory)) as store:
            async with _serving(store.url, Path(directory), index_idle_s=0.05) as (server, channel):
                scene = Scene(server, channel, keys)
                await scene.load()
                await decided(server)
            async with _serving(store.url, Path(directory)) as (server, channel):
                scene.server, scene.channel = server, channel
                await decided(server)
                # Collecting garbage between the rows then looks at little.
                gc.collect()
                gc.freeze()
                try:
                    yield scene
                finally:
                    gc.unfreeze()


@asynccontextmanager
async def _serving(
    url: str, directory: Path, **settings: Any
) -> AsyncIterator[tuple[Server, grpc.Channel]]:
    chosen = Settings(
        port=0, data_dir=directory, create_master_key=True, shutdown_grace_s=1.0, **settings
    )
    server = await Server.start(chosen, url, embedder=Vectors())
    options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    try:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}", options) as channel:
            yield server, channel
    finally:
        await server.stop()
