"""What the tests over sockets share: requests in one line, streams and errors as values."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, fields
from inspect import isawaitable
from pathlib import Path
from typing import Any, Self

import grpc
import numpy as np
from contex.v1 import (
    agent_service_pb2,
    agent_service_pb2_grpc,
    audit_service_pb2_grpc,
    error_reason_pb2,
    event_pb2,
    event_service_pb2,
    event_service_pb2_grpc,
    match_service_pb2_grpc,
    project_service_pb2,
    project_service_pb2_grpc,
    server_service_pb2_grpc,
    state_service_pb2_grpc,
    transfer_service_pb2_grpc,
)
from contex_server.log.store import Store
from contex_server.matching.embedders.port import Role, Vector
from contex_server.server import Server
from google.rpc import error_details_pb2, status_pb2

from tests.canaries import CANARY

DEADLINE_S = 30.0
"""How long anything may take that must happen; generous, for it only bounds a failure."""

P = "shop"

NewEvent = event_service_pb2.NewEvent
PublishRequest = event_service_pb2.PublishRequest
PublishStreamRequest = event_service_pb2.PublishStreamRequest
SubscribeRequest = event_service_pb2.SubscribeRequest
ReplayRequest = event_service_pb2.ReplayRequest
ListEventsRequest = event_service_pb2.ListEventsRequest
GetEventRequest = event_service_pb2.GetEventRequest
RegisterAgentRequest = agent_service_pb2.RegisterAgentRequest
UpdateAgentRequest = agent_service_pb2.UpdateAgentRequest
GetAgentRequest = agent_service_pb2.GetAgentRequest
ListAgentsRequest = agent_service_pb2.ListAgentsRequest
UnregisterAgentRequest = agent_service_pb2.UnregisterAgentRequest
ListenRequest = agent_service_pb2.ListenRequest
AcknowledgeRequest = agent_service_pb2.AcknowledgeRequest
EventFilter = event_pb2.EventFilter
EDGE_BEGINNING, EDGE_END = event_pb2.EDGE_BEGINNING, event_pb2.EDGE_END
Event = event_pb2.Event


class Api:
    """The services over one channel, by the generated stubs."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.events: Any = event_service_pb2_grpc.EventServiceStub(channel)
        self.agents: Any = agent_service_pb2_grpc.AgentServiceStub(channel)
        self.matches: Any = match_service_pb2_grpc.MatchServiceStub(channel)
        self.states: Any = state_service_pb2_grpc.StateServiceStub(channel)
        self.projects: Any = project_service_pb2_grpc.ProjectServiceStub(channel)
        self.transfers: Any = transfer_service_pb2_grpc.TransferServiceStub(channel)
        self.server: Any = server_service_pb2_grpc.ServerServiceStub(channel)
        self.audits: Any = audit_service_pb2_grpc.AuditServiceStub(channel)

    @classmethod
    def of(cls, server: Server, *options: tuple[str, Any]) -> Self:
        """A connection of its own to a server of this process."""
        return cls.at(server.port, *options)

    @classmethod
    def at(cls, port: int, *options: tuple[str, Any]) -> Self:
        """A connection of its own to a port."""
        alone = ("grpc.use_local_subchannel_pool", 1)
        return cls(grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[alone, *options]))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    async def publish(
        self,
        *events: event_service_pb2.NewEvent,
        project: str = P,
        timeout: float = DEADLINE_S,
        **fields: Any,
    ) -> list[str]:
        """Publishes events together; returns their sequences."""
        request = PublishRequest(project=project, events=events, **fields)
        response = await self.events.Publish(request, timeout=timeout)
        return [receipt.sequence for receipt in response.receipts]

    async def register(self, agent_id: str, *needs: str, project: str = P, **fields: Any) -> Any:
        """Registers an agent."""
        request = RegisterAgentRequest(
            project=project, agent_id=agent_id, needs=asked(*needs), **fields
        )
        return await self.agents.RegisterAgent(request, timeout=DEADLINE_S)

    def subscribe(self, project: str = P, **fields: Any) -> Stream:
        """Subscribes; the filter's fields may be given directly."""
        return Stream(self.events.Subscribe(SubscribeRequest(project=project, **_filter(fields))))

    def replay(self, project: str = P, **fields: Any) -> Stream:
        """Replays."""
        return Stream(self.events.Replay(ReplayRequest(project=project, **_filter(fields))))

    def listen(self, agent_id: str, project: str = P, **fields: Any) -> Stream:
        """Listens."""
        request = ListenRequest(project=project, agent_id=agent_id, **fields)
        return Stream(self.agents.Listen(request))

    async def page(self, project: str = P, **fields: Any) -> Any:
        """One page of events."""
        request = ListEventsRequest(project=project, **_filter(fields))
        return await self.events.ListEvents(request, timeout=DEADLINE_S)

    async def exists(self, project: str) -> bool:
        """Whether a project has had an event."""
        request = project_service_pb2.GetProjectRequest(project=project)
        return bool((await self.projects.GetProject(request, timeout=DEADLINE_S)).exists)

    async def log(self, project: str = P) -> list[event_pb2.Event]:
        """Every event of a project."""
        return (await self.replay(project).to_end()).events


def wrapped(store: Store, wrap: Callable[[Any], Any]) -> Store:
    """A store with each facet wrapped."""
    return Store(**{field.name: wrap(getattr(store, field.name)) for field in fields(Store)})


def _filter(fields: dict[str, Any]) -> dict[str, Any]:
    names = ("event_types", "data_keys", "publishers")
    given = {name: fields.pop(name) for name in names if name in fields}
    return fields | ({"filter": EventFilter(**given)} if given else {})


def event(
    key: str = "k", payload: bytes = CANARY.encode(), **fields: Any
) -> event_service_pb2.NewEvent:
    return NewEvent(data_key=key, payload=payload, **fields)


def own(event_type: str = "note", **fields: Any) -> event_service_pb2.NewEvent:
    """An event of the publisher's own type, about no datum."""
    return NewEvent(event_type=event_type, **{"payload": CANARY.encode(), **fields})


def after(sequence: str) -> event_pb2.Position:
    return event_pb2.Position(sequence=sequence)


def at_ms(unix_ms: int) -> event_pb2.Position:
    position = event_pb2.Position()
    position.time.FromMilliseconds(unix_ms)
    return position


def ms(sequence: str) -> int:
    return int(sequence.split("-")[0])


def order(sequence: str) -> tuple[int, int]:
    """A sequence as it compares."""
    first, _, second = sequence.partition("-")
    return int(first), int(second or 0)


class Stream:
    """A server stream as its reader sees it. Read by one task; nothing reads ahead."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.messages: list[Any] = []
        self.kinds: list[str] = []
        self.events: list[event_pb2.Event] = []
        self.matched: list[event_pb2.MatchedEvent] = []
        self.cursor = ""
        self.ended = False
        self._reading: asyncio.Future[Any] | None = None

    @property
    def sequences(self) -> list[str]:
        return [e.sequence for e in self.events]

    @property
    def keys(self) -> list[str]:
        return [e.data_key for e in self.events]

    @property
    def told(self) -> list[str]:
        """What each delivery told: "MATCHED", "UPDATED" and so on."""
        return [event_pb2.MatchKind.Name(m.kind).removeprefix("MATCH_KIND_") for m in self.matched]

    async def read(self, timeout: float = DEADLINE_S) -> Any:
        """The next message; None at the end. One that comes too late is not lost."""
        if self._reading is None:
            self._reading = asyncio.ensure_future(self.call.read())
        # Not wait_for: cancelling a read ends the call.
        done, _ = await asyncio.wait([self._reading], timeout=timeout)
        if not done:
            raise TimeoutError(f"no message for {timeout} s after {self.kinds[-5:]}")
        reading, self._reading = self._reading, None
        message = reading.result()
        if message is grpc.aio.EOF:
            self.ended = True
            return None
        kind = message.WhichOneof("message")
        self.messages.append(message)
        self.kinds.append(kind)
        if kind == "events":
            for item in message.events.events:
                if isinstance(item, event_pb2.MatchedEvent):
                    self.matched.append(item)
                    item = item.event
                self.events.append(item)
        assert message.cursor
        assert message.HasField("server_time")
        self.cursor = message.cursor
        return message

    async def until(self, holds: Callable[[Self], object], timeout: float = DEADLINE_S) -> Self:
        """Reads until something holds."""
        end = asyncio.get_running_loop().time() + timeout
        while not holds(self):
            left = end - asyncio.get_running_loop().time()
            assert await self.read(max(left, 0.01)) is not None, "the stream ended"
        return self

    async def live(self) -> Self:
        """Reads until it has caught up."""
        return await self.until(lambda stream: "caught_up" in stream.kinds)

    async def count(self, events: int) -> Self:
        """Reads until it has this many events."""
        return await self.until(lambda stream: len(stream.events) >= events)

    async def to_end(self) -> Self:
        """Reads to the end."""
        while await self.read() is not None:
            pass
        return self

    async def refusal(self) -> Refusal:
        """Reads to the error that ends it."""
        return await refusal(self.to_end())

    async def quiet(self, seconds: float = 0.3, *also: str) -> Self:
        """Reads for a while; only checkpoints, heartbeats and the kinds in `also` may come."""
        end = asyncio.get_running_loop().time() + seconds
        while (left := end - asyncio.get_running_loop().time()) > 0:
            try:
                await self.read(left)
            except TimeoutError:
                break
            assert self.kinds[-1] in ("checkpoint", "heartbeat", *also)
        return self

    async def cancel(self) -> None:
        """Cancels the call, as a client does that has seen enough."""
        self.call.cancel()
        await asyncio.gather(self.call.code(), return_exceptions=True)
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)


@dataclass(frozen=True)
class Refusal:
    """A refused call: what its status and details say."""

    code: str
    reason: str
    message: str
    metadata: dict[str, str]
    fields: list[str]
    retry_after_ms: int | None

    @classmethod
    def of(cls, error: grpc.aio.AioRpcError) -> Self:
        """Reads the error; it must be formed as `error_reason.proto` says."""
        trailers = dict(error.trailing_metadata() or ())
        raw = trailers.get("grpc-status-details-bin")
        assert raw is not None, f"no details: {error.code()} {error.details()}"
        status = status_pb2.Status.FromString(raw)
        assert status.code == error.code().value[0]
        assert status.message == error.details()
        infos: list[Any] = []
        fields: list[str] = []
        delay = None
        for detail in status.details:
            if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                infos.append(error_details_pb2.ErrorInfo.FromString(detail.value))
            elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                bad = error_details_pb2.BadRequest.FromString(detail.value)
                assert all(v.description for v in bad.field_violations)
                fields += [v.field for v in bad.field_violations]
            elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                delay = error_details_pb2.RetryInfo.FromString(detail.value)
        delay_ms = None if delay is None else delay.retry_delay.ToMilliseconds()
        pushback = trailers.get("grpc-retry-pushback-ms")
        assert pushback == (None if delay_ms is None else str(delay_ms))
        (info,) = infos
        assert info.domain == "contex.dev"
        assert f"ERROR_REASON_{info.reason}" in error_reason_pb2.ErrorReason.keys()  # noqa: SIM118
        assert error.code().name == documented_codes()[info.reason]
        assert "Traceback" not in status.message
        return cls(
            error.code().name,
            info.reason,
            status.message,
            dict(info.metadata),
            fields,
            delay_ms,
        )


async def refusal(call: Awaitable[Any]) -> Refusal:
    """The error that a call must end with."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return Refusal.of(error)
    raise AssertionError(f"it was not refused, but answered {answer!r:.500}")


def documented_codes() -> dict[str, str]:
    """From the comments of error_reason.proto: the gRPC code of each reason."""
    proto = Path(__file__).parents[2] / "protos/contex/v1/error_reason.proto"
    found = re.findall(r"// ([A-Z_]+)\. [^=]*?ERROR_REASON_([A-Z_]+) = ", proto.read_text())
    return {reason: code for code, reason in found}


async def eventually(holds: Callable[[], object], timeout: float = DEADLINE_S) -> None:
    """Waits until a condition holds; it may be a coroutine function."""
    async with asyncio.timeout(timeout):
        while True:
            answer = holds()
            if await answer if isawaitable(answer) else answer:
                return
            await asyncio.sleep(0.01)


def batches(items: Iterable[Any], size: int) -> list[list[Any]]:
    every = list(items)
    return [every[i : i + size] for i in range(0, len(every), size)]


_SALT = 38


def texts(agent: agent_service_pb2.Agent) -> list[str]:
    """What an agent needs."""
    return [need.text for need in agent.needs]


def in_stream(**fields: Any) -> event_service_pb2.PublishStreamRequest:
    """A batch of a stream."""
    return event_service_pb2.PublishStreamRequest(publish=PublishRequest(**fields))


def asked(*texts: str) -> list[agent_service_pb2.Need]:
    """Needs that have nothing but a text."""
    return [agent_service_pb2.Need(text=text) for text in texts]


class Words:
    """An embedder whose similarities can be told by eye: by the words that texts share.

    The cosine of two texts is the number of words they share over the geometric mean of
    how many each has. Digits are no words.
    """

    model_id = "words@1"
    dimension = 512
    max_tokens = 1_000

    @classmethod
    def place(cls, word: str) -> int:
        """The component of a word; those of the tests' words differ."""
        return zlib.crc32(word.encode(), _SALT) % cls.dimension

    def __init__(self) -> None:
        self.down = False
        self.delay_s = 0.0
        self.embedded: list[str] = []

    async def start(self) -> None:
        pass

    async def embed(self, texts: Any, role: Role) -> Vector:
        start = asyncio.get_running_loop().time()
        await asyncio.sleep(0)
        # In steps: what a test makes shorter is over sooner.
        while (left := start + self.delay_s - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(min(left, 0.05))
        if self.down:
            raise RuntimeError("the model is down")
        rows = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in zip(rows, texts, strict=True):
            self.embedded.append(text)
            for word in set(re.findall("[a-z]+", text.lower())):
                row[self.place(word)] = 1
            row /= max(1.0, float(np.linalg.norm(row)))
        return rows

    async def close(self) -> None:
        pass
