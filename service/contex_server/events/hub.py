"""One tailer for each server of the store, one channel a project, one feed a filter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from contex_server.events.feed import Delivery, Feed
from contex_server.kernel import event_codec
from contex_server.kernel.backoff import Backoff
from contex_server.kernel.errors import ContexError, Reason, project_not_found
from contex_server.kernel.failures import Failures
from contex_server.kernel.model import Entry, EventFilter, Sequence
from contex_server.log.port import EventLog, Followed, Follower

log = structlog.get_logger(__name__)

_BACKOFF_S = (0.05, 2.0)

_TURNS, _MOST_TURNS = 6, 32
"""Turns of the event loop between two polls, and how many they are while others have work in them:
on a loop that is busy with delivering, events gather for the next message."""
_IDLE_TURN_S = 50e-6
"""A turn that takes less is one of an idle loop."""


class Dependent(Protocol):
    """What ends with a channel."""

    def fail(self, error: ContexError) -> None:
        """Ends it."""


@dataclass(slots=True, eq=False)
class Channel:
    """New events of a project, while somebody here follows it.

    Attributes:
        tail: The newest event that the tailer has seen.
        start: Where it began to follow.
        followed: Whether it is followed by now, or has failed.
        users: Number of holders that keep the channel open.
        depending: Others that end with it: feeds of other things than its events, and consumers.
    """

    project: str
    tail: Sequence
    feed_bytes: int
    users: int = 0
    start: Sequence = field(init=False)
    followed: asyncio.Event = field(default_factory=asyncio.Event)
    depending: set[Dependent] = field(default_factory=set)
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

    def take(self, followed: Followed) -> None:
        """Takes what the tailer has of the project."""
        self.followed.set()
        if followed.entries:
            self._receive(followed.entries)
        if followed.missed and followed.position > self.tail:
            self.tail = followed.position
            for feed in self._feeds.values():
                feed.reset(self.tail)

    def _receive(self, entries: list[Entry]) -> None:
        deliveries = [Delivery(entry.sequence, entry) for entry in entries]
        self.tail = event_codec.proven(entries[-1])
        for event_filter, feed in self._feeds.items():
            if event_filter.is_open:
                feed.extend(deliveries, self.tail)
            else:
                feed.extend([d for d in deliveries if self._passes(event_filter, d)], self.tail)

    def fail(self, error: ContexError) -> None:
        """Ends every feed; readers get the error."""
        self._error = error
        self.followed.set()
        for feed in (*self._feeds.values(), *self.depending):
            feed.fail(error)

    def _passes(self, event_filter: EventFilter, delivery: Delivery) -> bool:
        if delivery.event is None:
            delivery.event = event_codec.decode(delivery.entry)
        return event_filter.passes(delivery.event)


class Tailer:
    """One task and one follower. An outage of the store only delays: positions are explicit."""

    def __init__(
        self,
        follower: Follower,
        home: str,
        interrupted: dict[str, object],
        give_up: Callable[[Channel, Exception], None],
    ) -> None:
        """Starts it.

        Args:
            follower: Of projects of the home.
            home: Names it.
            interrupted: What interrupts each tailer of the process now, by home.
            give_up: Called with a channel that can't be followed any more, and why.
        """
        self._follower = follower
        self._home = home
        self._interrupted = interrupted
        self._give_up = give_up
        self._followed: dict[str, Channel] = {}
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"contex-tailer-{home}")

    def add(self, channel: Channel) -> None:
        """Follows a project from its tail on."""
        self._followed[channel.project] = channel
        self._changed.set()
        self._follower.wake()

    def remove(self, channel: Channel) -> int:
        """Stops following a project; returns how many are left."""
        # The poll under way may still report it; that is ignored.
        if self._followed.get(channel.project) is channel:
            del self._followed[channel.project]
            self._changed.set()
        return len(self._followed)

    async def close(self) -> None:
        """Ends the task and closes the connections."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._interrupted.pop(self._home, None)

    def _interrupt(self, error: Exception) -> None:
        """Logs what interrupts it, unless that is so for another."""
        kind: object = error.reason if isinstance(error, ContexError) else type(error)
        if kind not in self._interrupted.values():
            told: dict[str, object] = {"exc_info": error}
            if isinstance(error, ContexError):
                told = {"error": error.message}
            log.warning("tailer_interrupted", **told)
        self._interrupted[self._home] = kind

    async def _run(self) -> None:
        backoff, positions = Backoff(*_BACKOFF_S), dict[str, Sequence]()
        try:
            while True:
                if not self._followed:
                    await self._changed.wait()
                if self._changed.is_set():
                    self._changed.clear()
                    positions = {p: channel.tail for p, channel in self._followed.items()}
                try:
                    received = await self._follower.poll(positions)
                except Exception as error:
                    self._interrupt(error)
                    await backoff.wait()
                    continue
                backoff.reset()
                self._interrupted.pop(self._home, None)
                for project, followed in received.items():
                    channel = self._followed.get(project)
                    # The poll may have begun for an earlier channel of the project.
                    if channel is not None and channel.tail == positions[project]:
                        self._hand_over(channel, followed)
                        positions[project] = channel.tail
                await self._let_gather()
        finally:
            await self._follower.close()

    async def _let_gather(self) -> None:
        loop = asyncio.get_running_loop()
        for turn in range(1, _MOST_TURNS + 1):
            began = loop.time()
            await asyncio.sleep(0)
            if turn >= _TURNS and loop.time() - began < _IDLE_TURN_S:
                return

    def _hand_over(self, channel: Channel, followed: Followed) -> None:
        try:
            if followed.error is not None:
                raise followed.error
            channel.take(followed)
        except Exception as error:
            self._give_up(channel, error)


class Hub:
    """Opens channels and closes each with its last user.

    Attributes:
        channels: Of the projects that are followed.
        tailers: One for each home of projects that are followed.
    """

    def __init__(
        self,
        log: EventLog,
        *,
        feed_bytes: int,
        confirmed: bool,
        changed: Callable[[str, Sequence], None],
    ) -> None:
        """Follows nothing yet.

        Args:
            log: What is followed.
            feed_bytes: Size of each feed.
            confirmed: Whether only what is replicated is handed over, so a channel opens when its
                tail is.
            changed: Called with a project whose log is another one than before, and how far it was
                followed.
        """
        self._log = log
        self._feed_bytes = feed_bytes
        self._confirmed = confirmed
        self._changed = changed
        self._failures = Failures("tailer_failed")
        self.channels: dict[str, Channel] = {}
        self.tailers: dict[str, Tailer] = {}
        self._interrupted: dict[str, object] = {}
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
                home = self._log.home(project)
                if home not in self.tailers:
                    self.tailers[home] = Tailer(
                        self._log.follower(), home, self._interrupted, self._give_up
                    )
                self.tailers[home].add(channel)
        channel.users += 1
        try:
            if self._confirmed:
                await channel.followed.wait()
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

    def _give_up(self, channel: Channel, error: Exception) -> None:
        """Ends what follows a project whose log can't be followed; who comes later starts anew."""
        changed = isinstance(error, ContexError) and error.reason is Reason.LOG_CHANGED
        if changed:
            log.warning("log_changed", project=channel.project, followed_to=str(channel.tail))
        else:
            self._failures.failed(channel.project, error)
        if not isinstance(error, ContexError):
            told = "the log holds an entry that is not an event"
            error = ContexError(Reason.INTERNAL, told)
        if self.channels.get(channel.project) is channel:
            self._close(channel)
        channel.fail(error)
        if changed:
            self._changed(channel.project, channel.tail)

    def _close(self, channel: Channel) -> None:
        del self.channels[channel.project]
        home = self._log.home(channel.project)
        tailer = self.tailers.get(home)
        if tailer is not None and not tailer.remove(channel):
            del self.tailers[home]
            task = asyncio.create_task(tailer.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
