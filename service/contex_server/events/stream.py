"""Catch up, then follow live: the one loop behind Subscribe, Listen and deciders.

What is caught up with is a `Source`: the log, or an agent's inbox.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from collections.abc import Sequence as SequenceOf
from contextlib import aclosing
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NamedTuple

from contex_server.events.feed import Behind, Chunk, Delivery, Feed, Reader
from contex_server.kernel import event_codec
from contex_server.kernel.config import Settings
from contex_server.kernel.drain import Drain
from contex_server.kernel.errors import shutting_down
from contex_server.kernel.model import (
    BEGINNING,
    EVERYTHING,
    Change,
    Entry,
    EventFilter,
    Range,
    Sequence,
)
from contex_server.log.pages import check_same_log, pages
from contex_server.log.port import EventLog


class Kind(Enum):
    """What a stream message says; see event.proto."""

    EVENTS = auto()
    CAUGHT_UP = auto()
    FELL_BEHIND = auto()
    CHECKPOINT = auto()
    HEARTBEAT = auto()


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a stream.

    Attributes:
        position: Where the reader stands after it.
        chunk: The events, with EVENTS.
        tail: The newest known sequence, with FELL_BEHIND.
        last: With CHECKPOINT: the server is going away.
    """

    kind: Kind
    position: Sequence
    chunk: Chunk | None = None
    tail: Sequence | None = None
    last: bool = False


Show = Callable[[SequenceOf[Delivery]], Awaitable[list[Delivery]]]
"""What a reader who may not see everything is sent of some deliveries."""

Selector = Callable[[list[Entry]], Awaitable[list[Delivery]]]
"""Selects what the reader gets from a page of the log, in log order."""


class Selected(NamedTuple):
    """What a page of a source brings.

    Attributes:
        position: Everything up to here is in it, or was before.
        last: Whether the source held no more when the page was read.
        until: Where the feed has to come before the reader has caught up.
    """

    deliveries: list[Delivery]
    position: Sequence
    last: bool
    until: Sequence = BEGINNING


@dataclass(frozen=True, slots=True)
class Source:
    """Where a reader catches up.

    Attributes:
        pages: What comes after a position; with True, it has read up to there already, and a gap
            behind it is refused.
        check: Refuses a position that has no continuation any more.
        joins: Whether the feed has everything that comes after its floor by the time that a page is
            read, so that a reader goes on there as soon as it comes to that; otherwise it reads the
            source to its end first.
    """

    pages: Callable[[Sequence, bool], AsyncGenerator[Selected, None]]
    check: Callable[[Sequence], Awaitable[None]]
    joins: bool = True


def log_source(
    log: EventLog,
    project: str,
    feed: Feed,
    select: Selector,
    settings: Settings,
    event_filter: EventFilter = EVERYTHING,
) -> Source:
    """The events of a log that `select` passes, a subset of what the filter passes."""

    async def selected(position: Sequence, resumed: bool) -> AsyncGenerator[Selected, None]:
        # Where the feed waits for replicas, the log is not read beyond it.
        replicated = settings.feed_after == "replicated"
        source = pages(
            log,
            project,
            Range(position, feed.position) if replicated else Range(position),
            resumed=resumed,
            max_events=settings.replay_page_events,
            event_filter=event_filter,
        )
        async with aclosing(source):
            async for page in source:
                if page.entries:
                    position = event_codec.proven(page.entries[-1])
                yield Selected(await select(page.entries), position, page.last)

    async def check(position: Sequence) -> None:
        await check_same_log(log, project, await log.bounds(project), position)

    return Source(selected, check)


async def stream(
    source: Source,
    feed: Feed,
    position: Sequence,
    *,
    heartbeat_s: float,
    settings: Settings,
    drain: Drain,
    show: Show | None = None,
    conceals: bool = False,
) -> AsyncGenerator[Message, None]:
    """Everything after `position` that source and feed pass, without end.

    The feed must pass exactly what the source does. Of both, only what `show` has is yielded. With
    that, or if the stream `conceals`, positions prove no events but those that are yielded.

    Raises:
        ContexError: SHUTTING_DOWN after a final checkpoint; SEQUENCE_TRIMMED if the log
            was cut off in front of a reader that fell behind; LOG_CHANGED; STORE_UNAVAILABLE.
    """
    pulse = _Pulse(heartbeat_s)
    reader: Reader | None = None
    fell_behind, until = False, BEGINNING

    def message(
        kind: Kind, position: Sequence, chunk: Chunk | None = None, **others: Any
    ) -> Message:
        if conceals or show is not None:
            proven, position = position, _unproven(position, chunk)
            if chunk is not None and position is not proven:
                chunk = Chunk(chunk.deliveries, position)  # Not the one that others share.
        return Message(kind, position, chunk, **others)

    try:
        while True:
            # From the source, until the feed has everything that follows.
            while reader is None:
                floor, last = feed.floor, False
                async with aclosing(source.pages(position, fell_behind)) as source_pages:
                    async for page in source_pages:
                        selected, last, until = page.deliveries, page.last, page.until
                        if show is not None:
                            selected = await show(selected)
                        for chunk in split(selected, page.position, settings.message_bytes):
                            position = chunk.position
                            yield message(Kind.EVENTS, position, chunk)
                            pulse.sent()
                        position = max(position, page.position)
                        if drain.started:
                            yield message(Kind.CHECKPOINT, position, last=True)
                            raise shutting_down()
                        if pulse.due():
                            yield message(Kind.CHECKPOINT, position)
                            pulse.sent()
                        if not last and source.joins and feed.floor <= position:
                            break
                # The source was read to its end, so everything that the feed had seen is included.
                position = max(floor, position) if last else position
                reader = feed.attach(position)
            pulse.wake = reader.wake
            drain.add(reader.wake)
            announced = False
            try:
                while True:
                    live = reader.take(settings.message_bytes)
                    if live is not None:
                        position = live.position
                        if show is not None:
                            live = Chunk(await show(live.deliveries), position)
                            if not live.deliveries:
                                continue
                        yield message(Kind.EVENTS, position, live)
                        pulse.sent()
                        continue
                    if not announced and reader.has_reached(until):
                        announced, position = True, max(position, reader.position)
                        yield message(Kind.CAUGHT_UP, position)
                        pulse.sent()
                        continue  # There may be more by now, which a checkpoint would skip.
                    if drain.started:
                        yield message(Kind.CHECKPOINT, reader.position, last=True)
                        raise shutting_down()
                    await reader.wait()
                    if pulse.due():
                        moved = reader.position > position and reader.at_end
                        if moved:
                            position = reader.position
                        if reader.at_end:
                            yield message(Kind.CHECKPOINT if moved else Kind.HEARTBEAT, position)
                            pulse.sent()
            except Behind:
                fell_behind = True
                await source.check(position)
                yield message(Kind.FELL_BEHIND, position, tail=feed.position)
                pulse.sent()
            finally:
                drain.remove(reader.wake)
                reader.close()
                reader = None
    finally:
        pulse.close()


def data_key_of(delivery: Delivery) -> str:
    """What a delivery is about."""
    return (delivery.event or event_codec.decode(delivery.entry)).data_key


def _unproven(position: Sequence, chunk: Chunk | None) -> Sequence:
    """A position without the proof of its event, unless that has just been sent."""
    last = chunk.deliveries[-1] if chunk is not None and chunk.deliveries else None
    is_shown = (
        last is not None
        and last.instead is None
        and last.change is not Change.WITHHELD
        and last.position == position
    )
    return position if is_shown else Sequence(*position)


def split(deliveries: list[Delivery], end: Sequence, message_bytes: int) -> list[Chunk]:
    """Chunks of about `message_bytes`; the last one's position is `end`."""
    if not deliveries:
        return []
    chunks: list[list[Delivery]] = [[]]
    size = 0
    for delivery in deliveries:
        size += delivery.size
        alone = delivery.instead or (chunks[-1] and chunks[-1][0].instead)
        if chunks[-1] and (alone or size > message_bytes):
            chunks.append([])
            size = delivery.size
        chunks[-1].append(delivery)
    ends = (chunk[-1].position for chunk in chunks[:-1])
    return [Chunk(*each) for each in zip(chunks, (*ends, end), strict=True)]


class _Pulse:
    """Tells when nothing was sent for an interval, with one timer for the whole stream."""

    def __init__(self, interval_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._interval_s = interval_s
        self._last = self._loop.time()
        self.wake: Callable[[], None] = lambda: None
        self._timer = self._loop.call_later(interval_s, self._fire)

    def sent(self) -> None:
        self._last = self._loop.time()

    def due(self) -> bool:
        return self._loop.time() - self._last >= self._interval_s

    def close(self) -> None:
        self._timer.cancel()

    def _fire(self) -> None:
        left = self._last + self._interval_s - self._loop.time()
        if left <= 0:
            self.wake()
            left = self._interval_s
        self._timer = self._loop.call_later(left, self._fire)
