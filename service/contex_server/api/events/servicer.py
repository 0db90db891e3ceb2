"""EventService: check, call the domain, convert."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial

from contex.v1 import event_pb2
from contex.v1 import event_service_pb2 as pb

from contex_server.api.events import checks
from contex_server.api.events.pipeline import publish_all, put_published
from contex_server.api.shared import fields, ranges, wire
from contex_server.api.shared.cursors import Token, encode_position
from contex_server.api.shared.servicer import Servicer
from contex_server.events.feed import Delivery
from contex_server.events.pace import Pace, PacedReplay, batches
from contex_server.events.stream import Message, log_source, stream
from contex_server.kernel import event_codec
from contex_server.kernel.call import Call
from contex_server.kernel.errors import Checks, Reason, event_not_found, shutting_down
from contex_server.kernel.model import Entry, EventFilter, Range, Sequence
from contex_server.kernel.names import PROJECT
from contex_server.kernel.right_of_way import RIGHT_OF_WAY
from contex_server.kernel.slices import sliced
from contex_server.log.pages import pages

Send = Callable[[int, Sequence, list[Entry]], Awaitable[None]]
"""Sends a message of a replay: its kind, where the reader stands after it, its events."""


class EventServicer(Servicer):
    SERVICE = pb.DESCRIPTOR.services_by_name["EventService"]

    async def publish(self, request: pb.PublishRequest, call: Call) -> pb.PublishResponse:
        publisher = self._rooms.events.publisher
        with RIGHT_OF_WAY.taken():
            append = await checks.read_publish(request, call.origin, self._limits, call.scope)
            prepared = await publisher.prepare(append)
            response = pb.PublishResponse()
            put_published(response, await publisher.append(prepared))
        return response

    async def publish_stream(
        self, requests: AsyncIterator[pb.PublishStreamRequest], call: Call
    ) -> None:
        def refused(project: str, reason: Reason) -> None:
            if PROJECT.fits(project):
                self._audit.refused(project, call.origin, call.method, reason)

        publisher = self._rooms.events.publisher
        await publish_all(requests, call, publisher, self._limits, self._drain, refused)

    async def get_event(self, request: pb.GetEventRequest, call: Call) -> pb.GetEventResponse:
        sequence = fields.sequence(request.sequence, "sequence")
        (entry,) = await self._log.get(call.project, [sequence])
        if entry is None or not _passes(EventFilter(scope=call.scope), entry):
            raise event_not_found(call.project, sequence)
        return pb.GetEventResponse(event=wire.event_message(entry))

    async def list_events(self, request: pb.ListEventsRequest, call: Call) -> pb.ListEventsResponse:
        token = Token.EVENTS_PAGE
        with Checks() as check:
            event_filter = check(fields.event_filter, request.filter, self._limits, call.scope)
            size = check(fields.page_size, request.page_size, self._limits)
            span = check(fields.span, request, order=request.order)
            position = check(ranges.resumed, request, token, call.realm)
        span = await ranges.remaining(self._log, request, span, position, call.scope)
        response = pb.ListEventsResponse()
        scanned = size_bytes = 0
        last: Entry | None = None
        # How much of a page passes a filter is unknown; without a filter all of it does.
        count = size if event_filter.is_open else self._settings.replay_page_events
        source = pages(self._log, call.project, span, max_events=count, event_filter=event_filter)
        async with aclosing(source):
            async for page in source:
                async for entry in sliced(page.entries):
                    full = len(response.events) == size or (
                        response.events and size_bytes + len(entry.body) > self._limits.page_bytes
                    )
                    if full or scanned >= self._limits.page_scanned_events:
                        place = event_codec.proven(last) if last else span.after
                        response.next_page_token = encode_position(token, call.realm, place)
                        return response
                    if not event_codec.is_admitted(entry, call.scope):
                        continue
                    scanned += 1
                    last = entry
                    if _passes(event_filter, entry):
                        response.events.append(wire.event_message(entry))
                        size_bytes += len(entry.body)
        return response

    async def replay(self, request: pb.ReplayRequest, call: Call) -> None:
        # A cursor of one direction resumes nothing in the other.
        token = Token.BACKWARDS if request.order == event_pb2.ORDER_BACKWARDS else Token.CURSOR
        with Checks() as check:
            event_filter = check(fields.event_filter, request.filter, self._limits, call.scope)
            span = check(fields.span, request, order=request.order)
            position = check(ranges.resumed, request, token, call.realm)
            pace = check(checks.pace, request, self._limits)
        span = await ranges.remaining(self._log, request, span, position, call.scope)
        count = 0

        async def send(kind: int, place: Sequence, entries: list[Entry]) -> None:
            nonlocal count
            if not call.scope.is_open and not (entries and entries[-1].sequence == place):
                place = Sequence(*place)  # It proves no event that is not sent.
            content = wire.batch_bytes(entries) if entries else b""
            await call.write(wire.response(call.project, kind, content, place, token))
            count += len(entries)

        try:
            if pace is None:
                await self._replay(call.project, span, event_filter, send)
            else:
                await self._replay_paced(call.project, span, event_filter, pace, send)
        finally:
            self._audit.exported(call.project, call.origin, call.method, count)

    async def _replay(
        self, project: str, span: Range, event_filter: EventFilter, send: Send
    ) -> None:
        loop = asyncio.get_running_loop()
        checkpoint_s = self._settings.heartbeat_interval_ms / 1000
        last = loop.time()
        max_events = self._settings.replay_page_events
        source = pages(self._log, project, span, max_events=max_events, event_filter=event_filter)
        async with aclosing(source):
            async for page in source:
                passing = await _passing(event_filter, page.entries)
                for entries in batches(passing, self._settings.message_bytes):
                    await send(wire.RESPONSE_EVENTS, event_codec.proven(entries[-1]), entries)
                    last = loop.time()
                if page.entries and loop.time() - last >= checkpoint_s:
                    place = event_codec.proven(page.entries[-1])
                    await send(wire.RESPONSE_CHECKPOINT, place, [])
                    last = loop.time()
                if self._drain.started and not page.last:
                    raise shutting_down()

    async def _replay_paced(
        self, project: str, span: Range, event_filter: EventFilter, pace: Pace, send: Send
    ) -> None:
        replay = PacedReplay(
            self._log,
            project,
            span,
            partial(_passing, event_filter),
            pace,
            event_filter=event_filter,
            settings=self._settings,
            drain=self._drain,
        )
        async with aclosing(replay.steps()) as steps:
            async for step in steps:
                progress = wire.RESPONSE_CHECKPOINT if step.moved else wire.RESPONSE_HEARTBEAT
                kind = wire.RESPONSE_EVENTS if step.entries else progress
                await send(kind, step.place, step.entries)

    async def subscribe(self, request: pb.SubscribeRequest, call: Call) -> None:
        with Checks() as check:
            event_filter = check(fields.event_filter, request.filter, self._limits, call.scope)
            heartbeat_s = check(fields.heartbeat_s, request.heartbeat_interval_ms, self._settings)
            start = check(ranges.start, request)
        position = end = await ranges.start_of(self._log, request, start, call.scope)

        async def select(entries: list[Entry]) -> list[Delivery]:
            return [Delivery(e.sequence, e) for e in await _passing(event_filter, entries)]

        room = self._rooms.events
        async with room.hub.channel(call.project) as channel, channel.feed(event_filter) as feed:
            stream_id = self._audit.stream_opened(call.project, call.origin, call.method, position)
            past = log_source(self._log, call.project, feed, select, self._settings, event_filter)
            source = stream(
                past,
                feed,
                position,
                heartbeat_s=heartbeat_s,
                settings=self._settings,
                drain=self._drain,
                conceals=not call.scope.is_open,  # The filter leaves out what is hidden.
            )
            try:
                with room.presence.subscriber(call.project):
                    async with aclosing(source):
                        async for message in source:
                            await call.write(subscribe_response(call.project, message))
                            end = message.position
            finally:
                self._audit.stream_closed(call.project, call.origin, call.method, stream_id, end)


def _passes(event_filter: EventFilter, entry: Entry) -> bool:
    return event_filter.is_open or event_filter.passes(event_codec.decode(entry))


async def _passing(event_filter: EventFilter, entries: list[Entry]) -> list[Entry]:
    if event_filter.is_open:
        return entries
    return [entry async for entry in sliced(entries) if _passes(event_filter, entry)]


def subscribe_response(project: str, message: Message) -> bytes:
    """A serialised SubscribeResponse; events are rendered once for all readers of a chunk."""
    chunk = message.chunk
    if chunk is None:
        return wire.bare_response(project, message)
    if chunk.rendered is None:
        batch = wire.batch_bytes([delivery.entry for delivery in chunk.deliveries])
        chunk.rendered = wire.response(
            project, wire.RESPONSE_EVENTS, batch, message.position, Token.CURSOR
        )
    return chunk.rendered
