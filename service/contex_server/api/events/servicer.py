"""EventService: check, call the domain, convert."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

from contex.v1 import event_service_pb2 as pb

from contex_server.api.events import checks, messages
from contex_server.api.events.pipeline import publish_all
from contex_server.api.shared import fields, ranges, wire
from contex_server.api.shared.cursors import Token, decode_position, encode_position
from contex_server.events.feed import Delivery
from contex_server.events.stream import StreamLimits, stream
from contex_server.kernel import event_codec
from contex_server.kernel.call import Call
from contex_server.kernel.config import Settings
from contex_server.kernel.drain import Drain
from contex_server.kernel.errors import event_not_found, shutting_down
from contex_server.kernel.model import Entry, EventFilter, Range
from contex_server.log.pages import pages
from contex_server.rooms import Rooms


class EventServicer:
    """See `protos/contex/v1/event_service.proto`."""

    SERVICE = pb.DESCRIPTOR.services_by_name["EventService"]

    def __init__(self, settings: Settings, rooms: Rooms, drain: Drain) -> None:
        self._settings = settings
        self._limits = settings.limits
        self._stream_limits = StreamLimits(settings.message_bytes, settings.replay_page_events)
        self._log = rooms.storage.log
        self._publisher = rooms.events.publisher
        self._hub = rooms.events.hub
        self._presence = rooms.events.presence
        self._audit = rooms.audit.writer
        self._drain = drain

    async def publish(self, request: pb.PublishRequest, call: Call) -> pb.PublishResponse:
        prepared = await self._publisher.prepare(checks.publish(request, call.origin, self._limits))
        return messages.published_message(await self._publisher.append(prepared))

    async def publish_stream(
        self, requests: AsyncIterator[pb.PublishStreamRequest], call: Call
    ) -> None:
        await publish_all(requests, call, self._publisher, self._limits, self._drain)

    async def get_event(self, request: pb.GetEventRequest, call: Call) -> pb.GetEventResponse:
        project = fields.project(request.project)
        sequence = fields.sequence(request.sequence, "sequence")
        (entry,) = await self._log.get(project, [sequence])
        if entry is None or not _passes(EventFilter(scope=call.scope), entry):
            raise event_not_found(project, sequence)
        return pb.GetEventResponse(event=wire.event_message(entry))

    async def list_events(self, request: pb.ListEventsRequest, call: Call) -> pb.ListEventsResponse:
        project = fields.project(request.project)
        wanted = fields.event_filter(request.filter, self._limits, call.scope)
        backwards = fields.is_backwards(request.order)
        size = fields.page_size(request.page_size, self._limits)
        after, until, bounds = await ranges.log_range(self._log, project, request)
        token = Token.EVENTS_PAGE
        if request.page_token:
            resume = decode_position(token, project, request.page_token, "page_token")
            after, until = ranges.remaining(bounds, after, until, resume, backwards=backwards)
        response = pb.ListEventsResponse()
        scanned = held = 0
        # How much of a page passes a filter is unknown; without a filter all of it does.
        most = size if wanted.is_open else self._settings.replay_page_events
        span = Range(after, until, backwards)
        source = pages(self._log, project, span, max_events=most, event_filter=wanted)
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
                    if _passes(wanted, entry):
                        response.events.append(wire.event_message(entry))
                        held += len(entry.body)
        return response

    async def replay(self, request: pb.ReplayRequest, call: Call) -> None:
        project = fields.project(request.project)
        wanted = fields.event_filter(request.filter, self._limits, call.scope)
        backwards = fields.is_backwards(request.order)
        after, until, bounds = await ranges.log_range(self._log, project, request)
        # A cursor of one direction resumes nothing in the other.
        token = Token.BACKWARDS if backwards else Token.CURSOR
        if request.cursor:
            resume = decode_position(token, project, request.cursor, "cursor")
            after, until = ranges.remaining(bounds, after, until, resume, backwards=backwards)
        count = 0
        loop = asyncio.get_running_loop()
        checkpoint_s = self._settings.heartbeat_interval_ms / 1000
        last = loop.time()
        most = self._settings.replay_page_events
        span = Range(after, until, backwards)
        source = pages(self._log, project, span, max_events=most, event_filter=wanted)
        try:
            async with aclosing(source):
                async for page in source:
                    for entries in self._batches(wanted, page.entries):
                        batch = wire.batch_bytes(entries)
                        position = entries[-1].sequence
                        await call.write(
                            wire.response(project, wire.RESPONSE_EVENTS, batch, position, token)
                        )
                        last = loop.time()
                        count += len(entries)
                    if page.entries and loop.time() - last >= checkpoint_s:
                        position = page.entries[-1].sequence
                        await call.write(
                            wire.response(project, wire.RESPONSE_CHECKPOINT, b"", position, token)
                        )
                        last = loop.time()
                    if self._drain.started and not page.last:
                        raise shutting_down()
        finally:
            self._audit.exported(project, call.origin, call.method, count)

    async def subscribe(self, request: pb.SubscribeRequest, call: Call) -> None:
        project = fields.project(request.project)
        wanted = fields.event_filter(request.filter, self._limits, call.scope)
        heartbeat_s = fields.heartbeat_s(request.heartbeat_interval_ms, self._settings)
        position = end = await ranges.start_of(self._log, project, request)

        async def select(entries: list[Entry]) -> list[Delivery]:
            return [Delivery(e.sequence, e) for e in entries if _passes(wanted, e)]

        async with self._hub.channel(project) as channel, channel.feed(wanted) as feed:
            stream_id = self._audit.stream_opened(project, call.origin, call.method, position)
            source = stream(
                self._log,
                project,
                feed,
                select,
                position,
                heartbeat_s=heartbeat_s,
                limits=self._stream_limits,
                drain=self._drain,
                wanted=wanted,
            )
            try:
                with self._presence.subscriber(project):
                    async with aclosing(source):
                        async for message in source:
                            await call.write(messages.subscribe_response(project, message))
                            end = message.position
            finally:
                self._audit.stream_closed(project, call.origin, call.method, stream_id, end)

    def _batches(self, wanted: EventFilter, entries: list[Entry]) -> Iterator[list[Entry]]:
        """The events that pass, in batches of bounded size."""
        if not wanted.is_open:
            entries = [entry for entry in entries if _passes(wanted, entry)]
        start = size = 0
        for index, (_, body) in enumerate(entries):
            size += len(body)
            if size > self._settings.message_bytes and index > start:
                yield entries[start:index]
                start, size = index, len(body)
        if entries:
            yield entries[start:]


def _passes(wanted: EventFilter, entry: Entry) -> bool:
    return wanted.is_open or wanted.passes(event_codec.decode(entry))
