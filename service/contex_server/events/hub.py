"""One tailer for each bucket, one channel for each project, one feed for each filter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog

from contex_server.events.feed import Delivery, Feed
from contex_server.kernel import event_codec
from contex_server.kernel.backoff import Backoff
from contex_server.kernel.errors import ContexError, Reason, project_not_found
from contex_server.kernel.failures import Failures
from contex_server.kernel.model import Entry, EventFilter, Sequence
from contex_server.log.buckets import bucket_of
from contex_server.log.port import EventLog, Follower, Unfollowable

log = structlog.get_logger(__name__)

_BACKOFF_S = (0.05, 2.0)

_TURNS = 6
"""Turns of the event loop between two polls. On an idle loop they take some 100 µs. On one that is
busy with delivering they let events gather in the store: 100 subscribers of a saturated project
get 2 events a message instead of 1.6, for about the same processor time a message."""


@dataclass(slots=True, eq=False)
class Channel:
    """New events of a project, while somebody here follows it.

    Attributes:
        tail: The newest event that the tailer has seen.
        start: Where it began to follow.
        users: Number of holders that keep the channel open.
    """

    project: str
    tail: Sequence
    feed_bytes: int
    users: int = 0
    start: Sequence = field(init=False)
    _error: ContexError | None = None
    _feeds: dict[EventFilter, Feed] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.start = self.tail

    @asynccontextmanager
    async def feed(self, event_filter: EventFilter) -> AsyncIterator[Feed]:
        """The feed of a filter; it lives as long as it is used."""
        feed = self._feeds.get(event_filter)
        if feed is None:
            feed = self._feeds[event_filter] = Feed(self.tail, self.feed_bytes)
            feed.error = self._error
        feed.users += 1
        try:
            yield feed
        finally:
            feed.users -= 1
            if not feed.users:
                del self._feeds[event_filter]

    def receive(self, entries: list[Entry]) -> None:
        """Takes new events from the tailer, in log order."""
        deliveries = [Delivery(entry.sequence, entry) for entry in entries]
        if deliveries[0].sequence <= self.tail:
            # From a poll that began for an earlier channel of this project.
            deliveries = [d for d in deliveries if d.sequence > self.tail]
            if not deliveries:
                return
        self.tail = event_codec.proven(entries[-1])
        for event_filter, feed in self._feeds.items():
            if event_filter.is_open:
                feed.extend(deliveries, self.tail)
            else:
                feed.extend([d for d in deliveries if self._passes(event_filter, d)], self.tail)

    def fail(self, error: ContexError) -> None:
        """Ends every feed; readers get the error."""
        self._error = error
        for feed in self._feeds.values():
            feed.fail(error)

    def _passes(self, event_filter: EventFilter, delivery: Delivery) -> bool:
        if delivery.event is None:
            delivery.event = event_codec.decode(delivery.entry)
        return event_filter.passes(delivery.event)


class Tailer:
    """One task and one connection. An outage of the store only delays: ids are explicit."""

    def __init__(
        self, follower: Follower, bucket: int, failures: Failures, interrupted: dict[int, object]
    ) -> None:
        """Starts it; `interrupted` is what interrupts each tailer of the process now, by bucket."""
        self._follower = follower
        self._bucket = bucket
        self._failures = failures
        self._interrupted = interrupted
        self._followed: dict[str, Channel] = {}
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"contex-tailer-{bucket}")

    def add(self, channel: Channel) -> None:
        """Follows a project from its tail on."""
        self._followed[channel.project] = channel
        self._changed.set()

    def remove(self, channel: Channel) -> int:
        """Stops following a project; returns how many are left."""
        # The poll under way may still report it; that is ignored.
        self._followed.pop(channel.project, None)
        return len(self._followed)

    async def close(self) -> None:
        """Ends the task and closes the connection."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._interrupted.pop(self._bucket, None)

    def _hand_over(self, channel: Channel, entries: list[Entry]) -> None:
        try:
            channel.receive(entries)
        except Exception as error:
            self._give_up(channel, error)

    def _give_up(self, channel: Channel, error: Exception) -> None:
        """Ends what follows a project whose log can't be read; the others of the bucket go on."""
        self._failures.failed(channel.project, error)
        self.remove(channel)
        if not isinstance(error, ContexError):
            told = "the log holds an entry that is not an event"
            error = ContexError(Reason.INTERNAL, told)
        channel.fail(error)

    def _interrupt(self, error: Exception) -> None:
        """Logs what interrupts it, unless that is so for another: there may be 256 tailers."""
        kind: object = error.reason if isinstance(error, ContexError) else type(error)
        if kind not in self._interrupted.values():
            told: dict[str, object] = {"exc_info": error}
            if isinstance(error, ContexError):
                told = {"error": error.message}
            log.warning("tailer_interrupted", bucket=self._bucket, **told)
        self._interrupted[self._bucket] = kind

    async def _run(self) -> None:
        backoff = Backoff(*_BACKOFF_S)
        changed = asyncio.create_task(self._changed.wait())
        try:
            while True:
                if not self._followed:
                    await self._changed.wait()
                self._changed.clear()
                if changed.done():
                    changed = asyncio.create_task(self._changed.wait())
                positions = {p: followed.tail for p, followed in self._followed.items()}
                poll = asyncio.create_task(self._follower.poll(positions))
                try:
                    await asyncio.wait({poll, changed}, return_when=asyncio.FIRST_COMPLETED)
                    if not poll.done():
                        # A project came in: ask again, with it. Ids are explicit, so
                        # what the abandoned answer held is asked for again.
                        poll.cancel()
                        await asyncio.gather(poll, return_exceptions=True)
                        continue
                    received = poll.result()
                except Unfollowable as failure:
                    if failure.project in self._followed:
                        self._give_up(self._followed[failure.project], failure.error)
                    continue
                except Exception as error:
                    self._interrupt(error)
                    await backoff.wait()
                    continue
                finally:
                    poll.cancel()
                backoff.reset()
                self._interrupted.pop(self._bucket, None)
                for project, entries in received.items():
                    if entries and project in self._followed:
                        self._hand_over(self._followed[project], entries)
                for _ in range(_TURNS):
                    await asyncio.sleep(0)
        finally:
            changed.cancel()
            await self._follower.close()


class Hub:
    """Opens channels and closes each with its last user.

    Attributes:
        channels: Of the projects that are followed.
        tailers: One for each bucket that is followed.
    """

    def __init__(self, log: EventLog, *, feed_bytes: int) -> None:
        self._log = log
        self._feed_bytes = feed_bytes
        self._failures = Failures("tailer_failed")
        self.channels: dict[str, Channel] = {}
        self.tailers: dict[int, Tailer] = {}
        self._interrupted: dict[int, object] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def channel(self, project: str) -> AsyncIterator[Channel]:
        """The project's channel; it is followed from now on at the latest.

        Raises:
            ContexError: STORE_UNAVAILABLE.
        """
        channel = self.channels.get(project)
        if channel is None:
            tail = (await self._log.bounds(project)).tail
            channel = self.channels.get(project)  # Another may have been faster.
            if channel is None:
                channel = self.channels[project] = Channel(project, tail, self._feed_bytes)
                bucket = bucket_of(project)
                if bucket not in self.tailers:
                    self.tailers[bucket] = Tailer(
                        self._log.follower(bucket), bucket, self._failures, self._interrupted
                    )
                self.tailers[bucket].add(channel)
        channel.users += 1
        try:
            yield channel
        finally:
            channel.users -= 1
            if not channel.users and self.channels.get(project) is channel:
                self._close(channel)

    def deleted(self, project: str, last: Sequence) -> None:
        """Ends what follows a project that was deleted, and not what follows a later one."""
        channel = self.channels.get(project)
        if channel is not None and channel.start < last:
            self._close(channel)
            channel.fail(project_not_found(project, last.ms))

    async def close(self) -> None:
        """Stops every tailer."""
        tailers, self.tailers = list(self.tailers.values()), {}
        await asyncio.gather(*(tailer.close() for tailer in tailers), *self._closing)

    def _close(self, channel: Channel) -> None:
        del self.channels[channel.project]
        bucket = bucket_of(channel.project)
        tailer = self.tailers.get(bucket)
        if tailer is not None and not tailer.remove(channel):
            del self.tailers[bucket]
            task = asyncio.create_task(tailer.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
