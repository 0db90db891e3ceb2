"""Live events: a bounded window of the newest ones, shared by any number of readers.

A feed holds the newest events that pass one selector, in a ring bounded in bytes. Readers
are positions in the ring, so a subscriber costs no buffer of its own, and readers at the
same position are handed the same `Chunk`, which is rendered once. A reader that the ring
has overtaken is told so and goes back to the log.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from contex_server.kernel import event_codec
from contex_server.kernel.errors import ContexError
from contex_server.kernel.inbox_ids import entry_of
from contex_server.kernel.model import Agent, Change, Entry, Event, Match, Proven, Sequence

_SHARED_CHUNKS = 8

Part = tuple[SequenceOf[Sequence], bytes]
"""The places of the deliveries that a message carries, and its bytes."""


class Resync(NamedTuple):
    """From here on, deliveries are left out; see `contex.v1.Resync`."""

    superseded: int
    dropped: int


@dataclass(slots=True, eq=False)
class Delivery:
    """An event on its way to readers.

    Attributes:
        sequence: Where it stands among what the reader is sent: the event's sequence, or the id of
            the entry in an inbox.
        entry: The event as it lies in the log.
        matches: In a backtest: the needs that it meets.
        event: The decoded event, once it was needed.
        change: In an agent's feed: what it tells the agent. None in others.
        told: In an agent's feed: the same with the needs that it meets, as fields of
            `contex.v1.MatchedEvent`.
        instead: What is sent instead of the event, as a message of its own: an agent's registration
            from here on, or that deliveries are left out.
        rendered: If several agents' feeds share it: the messages that begin with it, by format,
            position and what else they have. None if they don't.
    """

    sequence: Sequence
    entry: Entry
    matches: tuple[Match, ...] = ()
    event: Event | None = None
    change: Change | None = None
    told: bytes = b""
    instead: Agent | Resync | None = None
    rendered: dict[Hashable, list[Part]] | None = None
    _size: int = field(default=0, init=False)
    _position: Sequence | None = field(default=None, init=False)

    def keep(self, name: Hashable, parts: list[Part]) -> None:
        """Keeps messages that begin with this for other feeds, if it is shared; a few at most.

        Neither they nor their name may refer to it: it would stay in memory.
        """
        if self.rendered is not None and len(self.rendered) < _SHARED_CHUNKS:
            self.rendered[name] = parts

    @property
    def position(self) -> Sequence:
        """Where a reader stands once it has this; made once."""
        if self._position is None:
            if isinstance(self.instead, Resync):
                self._position = self.sequence
            elif self.change is None:
                self._position = event_codec.proven(self.entry)
            elif entry_of(self.sequence):
                # The entry's event is another one than that which brought it.
                self._position = self.sequence
            else:
                self._position = Proven.of(self.sequence, event_codec.proof(self.entry))
        return self._position

    @property
    def size(self) -> int:
        """Approximate bytes, in memory and in a message; counted once."""
        if not self._size:
            self._size = 64 + len(self.entry.body) + len(self.told)
            if self.matches:
                self._size += sum([match.nbytes for match in self.matches])
        return self._size


@dataclass(slots=True, eq=False)
class Chunk:
    """Deliveries that go out together, mostly as one message.

    Attributes:
        deliveries: In log order; may be empty. What is sent instead of events is
            alone in its chunk.
        position: Everything up to here has been delivered, with this chunk.
        rendered: The message's bytes, rendered on first use.
        parts: In an agent's feed, by format: the messages that it makes, each with the places of
            what it carries. Nothing in them refers to the chunk: it would stay in memory.
    """

    deliveries: SequenceOf[Delivery]
    position: Sequence
    rendered: bytes | None = None
    parts: dict[int, list[Part]] = field(default_factory=dict)

    @property
    def instead(self) -> Agent | Resync | None:
        """What is sent instead of events."""
        return self.deliveries[0].instead if self.deliveries else None


class Behind(Exception):
    """The reader's next event has left the ring; it must be read from the log."""


@dataclass(slots=True, eq=False)
class Feed:
    """The newest events that pass one selector.

    Attributes:
        position: Every event up to here has been seen.
        reached: Likewise, and all that each of them brought.
        floor: Readers at or after this position are served from the ring alone.
    """

    position: Sequence
    max_bytes: int
    reached: Sequence = field(init=False)
    floor: Sequence = field(init=False)
    error: ContexError | None = None
    """Why the feed ended; readers raise it once they have drained the ring."""
    users: int = 0
    """Number of holders that keep the feed open."""
    buffered_bytes: int = 0
    """Bytes in the ring."""
    readers: set[Reader] = field(default_factory=set)
    awaited: dict[Reader, Sequence] = field(default_factory=dict)
    """Readers that wait until a position is reached, also without deliveries."""
    on_awaited: Callable[[], None] | None = None
    """Called when a reader begins to do so."""
    _ring: deque[Delivery] = field(default_factory=deque)
    _first: int = 0
    """Index of the ring's first delivery, counted from the feed's beginning."""
    _idle: int = 0
    """Readers waiting at the end of the ring."""
    _chunks: dict[tuple[int, int, int], Chunk] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.floor = self.reached = self.position

    def begin(self, position: Sequence) -> None:
        """Lets a feed that nobody reads yet begin after a position."""
        self.position = self.floor = self.reached = position

    def extend(
        self,
        deliveries: SequenceOf[Delivery],
        position: Sequence,
        reached: Sequence | None = None,
    ) -> None:
        """Adds deliveries, in log order, and moves the position; wakes waiting readers.

        Args:
            reached: The position, unless that is inside of what an event brings.
        """
        if deliveries:
            if self._idle == len(self.readers):
                self._drop(len(self._ring), self.position)
            self._ring.extend(deliveries)
            self.buffered_bytes += sum(delivery.size for delivery in deliveries)
            while self.buffered_bytes > self.max_bytes and len(self._ring) > 1:
                self._drop(1, self._ring[0].sequence)
        self.position = position
        self.reached = max(self.reached, position if reached is None else reached)
        if deliveries:
            for reader in tuple(self.readers):
                reader.wake()
        elif self.awaited:
            for reader, awaited in self.awaited.items():
                if awaited <= self.reached:
                    reader.wake()

    def reset(self, position: Sequence, reached: Sequence | None = None) -> None:
        """Empties the ring after events up to `position` were missed; readers fall behind."""
        self._first += 1  # A reader at the end has missed something too.
        self._drop(len(self._ring), position)
        self.position = position
        self.reached = max(self.reached, position if reached is None else reached)
        for reader in tuple(self.readers):
            reader.wake()

    def fail(self, error: ContexError) -> None:
        """Ends the feed: readers get `error` after what is in the ring."""
        self.error = error
        for reader in tuple(self.readers):
            reader.wake()

    def attach(self, position: Sequence) -> Reader | None:
        """A reader of what comes after `position`, or None if the log must be read."""
        if position < self.floor:
            return None
        skip = 0
        for delivery in self._ring:
            if delivery.sequence > position:
                break
            skip += 1
        return Reader(self, self._first + skip, position)

    def _drop(self, count: int, floor: Sequence) -> None:
        if count == len(self._ring):
            self._ring.clear()
            self.buffered_bytes = 0
        else:
            for _ in range(count):
                self.buffered_bytes -= self._ring.popleft().size
        self._first += count
        self.floor = max(self.floor, floor)
        self._chunks.clear()

    def _chunk(self, start: int, max_bytes: int) -> Chunk | None:
        """The deliveries from index `start` that fit into one message."""
        end = self._first + len(self._ring)
        if start == end:
            return None
        shared = self._chunks.get((start, end, max_bytes))
        if shared is not None:
            return shared
        taken: list[Delivery] = []
        size = 0
        for delivery in islice(self._ring, start - self._first, None):
            size += delivery.size
            alone = delivery.instead or (taken and taken[0].instead)
            if taken and (size > max_bytes or alone):
                break
            taken.append(delivery)
        complete = start + len(taken) == end
        last = self.position if complete else taken[-1].position
        chunk = Chunk(taken, last)
        if len(self._chunks) >= _SHARED_CHUNKS:
            self._chunks.pop(next(iter(self._chunks)))
        self._chunks[start, end, max_bytes] = chunk
        return chunk


class Reader:
    """One reader's position in a feed; must be closed."""

    __slots__ = ("_after", "_feed", "_next", "_waiting")

    def __init__(self, feed: Feed, index: int, after: Sequence) -> None:
        self._feed = feed
        self._next = index
        self._after = after
        self._waiting: asyncio.Future[None] | None = None
        feed.readers.add(self)

    @property
    def at_end(self) -> bool:
        """Whether there is nothing to take."""
        return self._next == self._feed._first + len(self._feed._ring)

    @property
    def position(self) -> Sequence:
        """For a reader at the end: everything up to here has been seen."""
        return max(self._after, self._feed.position)

    def take(self, max_bytes: int) -> Chunk | None:
        """The next deliveries, in one message of about `max_bytes`; None if there are none.

        Raises:
            Behind: The ring no longer holds them.
            ContexError: The feed has ended.
        """
        feed = self._feed
        if self._next < feed._first:
            raise Behind
        chunk = feed._chunk(self._next, max_bytes)
        if chunk is None:
            if feed.error is not None:
                raise feed.error
            return None
        self._next += len(chunk.deliveries)
        if chunk.deliveries[0].sequence <= self._after:
            # It attached ahead of the feed: what it read from the log comes again.
            late = [d for d in chunk.deliveries if d.sequence > self._after]
            if not late:
                return self.take(max_bytes)
            return Chunk(late, chunk.position)
        return chunk

    def has_reached(self, position: Sequence) -> bool:
        """Whether the feed has come to a position; if not, `wait` also ends when it has."""
        reached = self._feed.reached >= position
        if reached:
            self._feed.awaited.pop(self, None)
        elif self not in self._feed.awaited:
            self._feed.awaited[self] = position
            if self._feed.on_awaited is not None:
                self._feed.on_awaited()
        return reached

    def skip(self) -> Sequence:
        """Leaves out what is in the ring; returns the feed's position, where it goes on."""
        self._next = self._feed._first + len(self._feed._ring)
        self._after = self._feed.position
        return self._after

    async def wait(self) -> None:
        """Returns when there may be something to take, or after `wake`."""
        feed = self._feed
        if not self.at_end:
            return
        self._waiting = asyncio.get_running_loop().create_future()
        feed._idle += 1
        try:
            await self._waiting
        finally:
            if self._waiting.cancelled():
                feed._idle -= 1
            self._waiting = None

    def wake(self) -> None:
        """Makes `wait` return."""
        if self._waiting is not None and not self._waiting.done():
            # Counted at once, since it has something to take before its task runs.
            self._feed._idle -= 1
            self._waiting.set_result(None)

    def close(self) -> None:
        """Leaves the feed."""
        self._feed.readers.discard(self)
        self._feed.awaited.pop(self, None)
