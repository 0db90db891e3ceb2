"""EventService: validate, call the domain, convert."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from contex.v1 import event_pb2, event_service_pb2

from contex_server.api.events import checks
from contex_server.api.shared import fields, wire
from contex_server.api.shared.cursors import Token, decode_position, encode_position
from contex_server.api.shared.ranges import log_range
from contex_server.audit.recorder import Audit
from contex_server.edge.grpc import Write
from contex_server.edge.identity import caller
from contex_server.edge.status import refusal
from contex_server.events.feed import Delivery
from contex_server.events.hub import Hub
from contex_server.events.presence import Presence
from contex_server.events.publisher import Publisher
from contex_server.events.stream import StreamLimits, stream
from contex_server.kernel import event_codec
from contex_server.kernel.config import Settings
from contex_server.kernel.drain import Drain
from contex_server.kernel.errors import ContexError, Reason, shutting_down
from contex_server.kernel.model import (
    BEGINNING,
    END_OF_TIME,
    Append,
    Appended,
    Durability,
    Entry,
    EventFilter,
    Sequence,
)
from contex_server.log.pages import check_readable, pages
from contex_server.log.port import Bounds, EventLog

T = TypeVar("T")

_OUTCOME_UNKNOWN = (Reason.STORE_UNAVAILABLE, Reason.INTERNAL)


class EventServicer:
    """See `protos/contex/v1/event_service.proto`."""

    def __init__(
        self,
        settings: Settings,
        log: EventLog,
        publisher: Publisher,
        hub: Hub,
        audit: Audit,
        presence: Presence,
        drain: Drain,
    ) -> None:
        self._settings = settings
        self._limits = settings.limits
        self._log = log
        self._publisher = publisher
        self._hub = hub
        self._audit = audit
        self._presence = presence
        self._drain = drain

    # -- writing -----------------------------------------------------------------

    async def publish(
        self, request: event_service_pb2.PublishRequest
    ) -> event_service_pb2.PublishResponse:
        """Publish."""
        return _published(await self._publisher.append(await self._prepare(request)))

    async def publish_stream(
        self,
        requests: AsyncIterator[event_service_pb2.PublishStreamRequest],
        write: Write,
    ) -> None:
        """PublishStream: batches are prepared side by side, appended and answered in order."""
        window = asyncio.Semaphore(self._limits.batches_in_flight)
        inbox: asyncio.Queue[_Batch[Append] | _End] = asyncio.Queue()
        outbox: asyncio.Queue[_Batch[Appended] | _End] = asyncio.Queue()
        tasks: set[asyncio.Task[Any]] = set()

        def start(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
            task = asyncio.create_task(work)
            tasks.add(task)
            return task

        async def read() -> None:
            end = _End(None)
            try:
                async for request in requests:
                    await window.acquire()
                    inbox.put_nowait(_Batch(request.request_id, start(self._prepare(request))))
            except Exception as error:
                end = _End(error)
            inbox.put_nowait(end)

        async def append() -> None:
            last: asyncio.Task[Appended] | None = None
            lane: Durability | None = None
            while isinstance(batch := await inbox.get(), _Batch):
                await asyncio.wait([batch.task])
                durability = _durability(batch.task)
                if last is not None and durability is not lane:
                    # The log keeps the order of appends of one durability.
                    await asyncio.wait([last])
                lane, last = durability, start(self._append(batch.task))
                tasks.discard(batch.task)
                outbox.put_nowait(_Batch(batch.request_id, last))
            outbox.put_nowait(batch)

        def stop() -> None:
            inbox.put_nowait(_End(shutting_down()))

        self._drain.add(stop)
        start(read())
        start(append())
        try:
            while isinstance(batch := await outbox.get(), _Batch):
                response = event_service_pb2.PublishStreamResponse(request_id=batch.request_id)
                try:
                    response.published.CopyFrom(_published(await batch.task))
                except ContexError as error:
                    if error.reason in _OUTCOME_UNKNOWN:
                        # "Refused" promises that nothing was appended. The client
                        # resends what is unanswered, with the same request ids.
                        raise
                    response.refused.CopyFrom(refusal(error))
                tasks.discard(batch.task)
                window.release()
                await write(response.SerializeToString())
            if batch.error is not None:
                raise batch.error
        finally:
            self._drain.remove(stop)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _prepare(self, request: checks.PublishLike) -> Append:
        return await self._publisher.prepare(checks.publish(request, caller(), self._limits))

    async def _append(self, prepared: asyncio.Task[Append]) -> Appended:
        return await self._publisher.append(prepared.result())

    # -- reading -----------------------------------------------------------------

    async def get_event(
        self, request: event_service_pb2.GetEventRequest
    ) -> event_service_pb2.GetEventResponse:
        """GetEvent."""
        project = fields.project(request.project)
        sequence = fields.sequence(request.sequence, "sequence")
        (entry,) = await self._log.get(project, [sequence])
        if entry is None:
            raise ContexError(
                Reason.EVENT_NOT_FOUND,
                f"no event of project {project!r} has sequence {sequence}",
                field="sequence",
            )
        return event_service_pb2.GetEventResponse(event=wire.event_message(entry))

    async def list_events(
        self, request: event_service_pb2.ListEventsRequest
    ) -> event_service_pb2.ListEventsResponse:
        """ListEvents."""
        project = fields.project(request.project)
        wanted = fields.event_filter(request.filter, self._limits)
        backwards = fields.is_backwards(request.order)
        size = fields.page_size(request.page_size, self._limits)
        after, until, bounds = await log_range(self._log, project, request)
        token = Token.EVENTS_PAGE
        if request.page_token:
            resume = decode_position(token, project, request.page_token, "page_token")
            after, until = _continue(bounds, after, until, resume, backwards)
        response = event_service_pb2.ListEventsResponse()
        scanned = held = 0
        source = pages(
            self._log,
            project,
            after,
            until,
            backwards=backwards,
            # What a filter leaves of a page is unknown; without one it is the page.
            max_events=size if wanted.is_open else self._settings.replay_page_events,
            wanted=wanted,
        )
        async with aclosing(source):
            async for page in source:
                for entry in page.entries:
                    full = len(response.events) == size or (
                        response.events and held + len(entry.body) > self._limits.page_bytes
                    )
                    if full or scanned >= self._limits.page_scanned_events:
                        response.next_page_token = encode_position(token, project, resume)
                        return response
                    scanned += 1
                    resume = entry.sequence
                    if self._passes(wanted, entry):
                        response.events.append(wire.event_message(entry))
                        held += len(entry.body)
        return response

    async def replay(self, request: event_service_pb2.ReplayRequest, write: Write) -> None:
        """Replay."""
        project = fields.project(request.project)
        wanted = fields.event_filter(request.filter, self._limits)
        backwards = fields.is_backwards(request.order)
        after, until, bounds = await log_range(self._log, project, request)
        # A cursor of one direction resumes nothing in the other.
        token = Token.BACKWARDS if backwards else Token.CURSOR
        if request.cursor:
            resume = decode_position(token, project, request.cursor, "cursor")
            after, until = _continue(bounds, after, until, resume, backwards)
        count = 0
        loop = asyncio.get_running_loop()
        checkpoint_s = self._settings.heartbeat_interval_ms / 1000
        last = loop.time()
        source = pages(
            self._log,
            project,
            after,
            until,
            backwards=backwards,
            max_events=self._settings.replay_page_events,
            wanted=wanted,
        )
        try:
            async with aclosing(source):
                async for page in source:
                    for entries in self._messages(wanted, page.entries):
                        batch = wire.batch_bytes(entries)
                        position = entries[-1].sequence
                        await write(wire.events_response(project, batch, position, token))
                        last = loop.time()
                        count += len(entries)
                    if page.entries and loop.time() - last >= checkpoint_s:
                        position = page.entries[-1].sequence
                        await write(wire.checkpoint_response(project, position, token))
                        last = loop.time()
                    if self._drain.started and not page.last:
                        raise shutting_down()
        finally:
            self._audit.exported(project, caller(), "Replay", count)

    async def subscribe(self, request: event_service_pb2.SubscribeRequest, write: Write) -> None:
        """Subscribe."""
        project = fields.project(request.project)
        wanted = fields.event_filter(request.filter, self._limits)
        heartbeat_s = fields.heartbeat_s(
            request.heartbeat_interval_ms, self._settings.heartbeat_interval_ms, self._limits
        )
        position = await self._start(project, request)

        async def select(entries: list[Entry]) -> list[Delivery]:
            return [Delivery(e.sequence, e) for e in entries if self._passes(wanted, e)]

        async with self._hub.channel(project) as channel, channel.feed(wanted) as feed:
            origin, end = caller(), position
            stream_id = self._audit.opened(project, origin, "Subscribe", position)
            messages = stream(
                self._log,
                project,
                feed,
                select,
                position,
                heartbeat_s=heartbeat_s,
                limits=StreamLimits(
                    self._settings.message_bytes, self._settings.replay_page_events
                ),
                drain=self._drain,
                wanted=wanted,
            )
            try:
                with self._presence.subscriber(project):
                    async with aclosing(messages):
                        async for message in messages:
                            await write(wire.stream_message(project, message, matched=False))
                            end = message.position
            finally:
                self._audit.closed(project, origin, "Subscribe", stream_id, end)

    async def _start(self, project: str, request: event_service_pb2.SubscribeRequest) -> Sequence:
        start = request.WhichOneof("start")
        if start is None or start == "from_beginning":
            return BEGINNING
        bounds = await self._log.bounds(project)
        if start == "from_end":
            return bounds.tail
        if start == "from_time":
            return fields.from_time(request.from_time)
        if start == "cursor":
            position = decode_position(Token.CURSOR, project, request.cursor, "cursor")
            if position.n == END_OF_TIME.n and position > bounds.tail:
                # The place before an instant, from a stream that started at that instant:
                # nothing has been published since, or the instant is still to come.
                return position
        else:
            position = fields.sequence(request.after_sequence, "after_sequence")
        check_readable(bounds, position)
        return position

    def _passes(self, wanted: EventFilter, entry: Entry) -> bool:
        return wanted.is_open or wanted.passes(event_codec.decode(entry))

    def _messages(self, wanted: EventFilter, entries: list[Entry]) -> Iterator[list[Entry]]:
        """The events that pass, in messages of bounded size."""
        if not wanted.is_open:
            entries = [entry for entry in entries if wanted.passes(event_codec.decode(entry))]
        start = size = 0
        for index, (_, body) in enumerate(entries):
            size += len(body)
            if size > self._settings.message_bytes and index > start:
                yield entries[start:index]
                start, size = index, len(body)
        if entries:
            yield entries[start:]


@dataclass(frozen=True, slots=True)
class _Batch(Generic[T]):
    """A batch of a stream, and what is being done with it."""

    request_id: str
    task: asyncio.Task[T]


@dataclass(frozen=True, slots=True)
class _End:
    """No batch comes any more, and why if it is not the client's wish."""

    error: Exception | None


def _durability(prepared: asyncio.Task[Append]) -> Durability | None:
    """Which way the batch goes; None for one that was refused."""
    return None if prepared.exception() else prepared.result().durability


def _published(appended: Appended) -> event_service_pb2.PublishResponse:
    first = appended.first
    return event_service_pb2.PublishResponse(
        receipts=[
            event_service_pb2.Receipt(sequence=f"{first.ms}-{first.n + i}", revision=revision)
            for i, revision in enumerate(appended.revisions)
        ],
        durability=event_pb2.Durability.ValueType(appended.durability),
        duplicate=appended.duplicate,
    )


def _continue(
    bounds: Bounds, after: Sequence, until: Sequence, resume: Sequence, backwards: bool
) -> tuple[Sequence, Sequence]:
    """What is left of a range after `resume` has been read; forwards it must have no gap."""
    if not backwards:
        check_readable(bounds, resume)
        return max(after, resume), until
    return after, min(until, resume.prev()) if resume > BEGINNING else BEGINNING
