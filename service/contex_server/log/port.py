"""The event log: the core of eight methods that every layer of it implements, and `read`.

What one capability needs beside it is a facet of its own, in `log/<capability>.py`.
`tests/contract` holds every implementation to these contracts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

from contex_server.kernel.byte_budget import ByteBudget
from contex_server.kernel.model import (
    BEGINNING,
    Append,
    Appended,
    Entry,
    EventFilter,
    Range,
    Sequence,
    body_bytes,
)

READ_BYTES = 1024 * 1024
"""About what is read at once."""


class Bounds(NamedTuple):
    """What can be read of a project.

    Attributes:
        first: The oldest event that can be read; None if the log is empty.
        tail: The newest event ever appended; "0-0" if there was none.
        trimmed: Whether events before `first` have been removed.
        length: Number of events that can be read.
        now_ms: The store's clock, unix milliseconds.
        added: Number of events ever appended.
        deleted: What ends the project of this name that was deleted last: the log began anew
            after it.
    """

    first: Sequence | None
    tail: Sequence
    trimmed: bool
    length: int = 0
    now_ms: int = 0
    added: int = 0
    deleted: Sequence = BEGINNING

    @property
    def exists(self) -> bool:
        """Whether the project has had an event, since it was deleted last."""
        return self.tail > self.deleted


class Part(NamedTuple):
    """The first events of a range, in its direction.

    Attributes:
        entries: At least one, unless `ended`.
        ended: Whether the range has no more.
    """

    entries: list[Entry]
    ended: bool

    @property
    def size(self) -> int:
        """Bytes of the events."""
        return body_bytes(self.entries)

    def within(self, max_bytes: int) -> Part:
        """As many of the events as `EventLog.read_part` returns."""
        for index, (_, body) in enumerate(self.entries):
            max_bytes -= len(body)
            if max_bytes <= 0 and index + 1 < len(self.entries):
                return Part(self.entries[: index + 1], ended=False)
        return self


class Followed(NamedTuple):
    """What follows an event of a project.

    Attributes:
        entries: In log order.
        position: Where to go on.
        error: Why the project has to be left out from now on.
        missed: What comes up to `position` is in the archive alone: the log is to be read instead.
    """

    entries: list[Entry]
    position: Sequence
    error: Exception | None = None
    missed: bool = False


class Follower(Protocol):
    """Waits for new events of projects of one home. Not shared between tasks."""

    async def poll(self, positions: Mapping[str, Sequence]) -> dict[str, Followed]:
        """Waits up to two seconds for events after the given position of each project.

        The positions are events that were read, or tails. A project whose log has no such event
        any more, though nobody has removed it, has the error LOG_CHANGED, whether or not there are
        newer ones; so has one with another event there after the store was away.

        Cancelling is safe: nothing is consumed until the result is returned.

        Raises:
            ContexError: STORE_UNAVAILABLE; the next poll reconnects.
        """

    def wake(self) -> None:
        """Makes a poll that waits return: the positions are to be others."""

    async def close(self) -> None:
        """Gives the connections back."""


class KeyDescription(NamedTuple):
    """What the store knows of a datum's description.

    Attributes:
        stored: As `NewEvent.described` gave it; "" if it has none, None if only its latest
            event tells.
        latest: The key's latest event; None if it never had one.
    """

    stored: str | None
    latest: Sequence | None


class DescriptionChanged(Exception):
    """Descriptions of data are not what a publish took them to be, or those of one that comes
    before it in its lane: nothing was appended.

    Attributes:
        actual: By data key, those that it took for others.
    """

    def __init__(self, actual: Mapping[str, KeyDescription]) -> None:
        super().__init__(f"descriptions have changed: {', '.join(actual)}")
        self.actual = actual


class EventLog(Protocol):
    """The immutable logs of all projects.

    Every method of this protocol and of the facets may raise `ContexError` with
    STORE_UNAVAILABLE; writes also with STORE_FULL. After STORE_UNAVAILABLE the outcome of a
    write is unknown.
    """

    @property
    def reading(self) -> ByteBudget:
        """What all readers of this process may hold of the log together, until they have passed it
        on."""

    async def append(self, append: Append) -> Appended:
        """Appends events, all or none, and returns once they are as durable as asked.

        Appends of one durability reach the log in the order of the calls.

        Raises:
            ContexError: REVISION_CONFLICT; OVERLOADED, in which case nothing was sent.
            DescriptionChanged: See there.
        """

    async def read_part(self, project: str, span: Range, count: int, max_bytes: int) -> Part:
        """The first events of a range, in its direction.

        Stops after `count` events, or once they have `max_bytes`; perhaps earlier.
        """

    def forget_keys(self, project: str) -> None:
        """Reads no more with the keys of subjects that are at hand: some were destroyed.

        A log without keys has none to forget.
        """
        return

    async def read(self, project: str, span: Range, count: int) -> list[Entry]:
        """The first `count` events of a range, in its direction; for few, whatever their size."""
        entries: list[Entry] = []
        while True:
            part = await self.read_part(project, span, count - len(entries), READ_BYTES)
            entries += part.entries
            if part.ended or len(entries) == count:
                return entries
            span = span.rest(entries[-1].sequence)

    async def narrow(self, project: str, span: Range, event_filter: EventFilter) -> Range:
        """The part of a range to read next for events that pass a filter.

        No event outside the returned range passes the filter, up to its far end in the
        direction of reading; the caller asks again for what lies beyond.
        """

    async def get(self, project: str, sequences: Iterable[Sequence]) -> list[Entry | None]:
        """The events with the given sequences; None where there is no such event."""

    async def bounds(self, project: str) -> Bounds:
        """What can be read of a project."""

    async def history(
        self, project: str, sequence: Sequence, count: int, max_bytes: int
    ) -> list[Entry]:
        """The event at a sequence and earlier events of the same data key, newest first.

        Stops after `count` events, once they exceed `max_bytes`, at the key's first event,
        or at an event that can no longer be read.
        """

    def home(self, project: str) -> str:
        """Names those that a project is followed together with; it stays the same."""

    def follower(self) -> Follower:
        """A new follower, of projects of one home."""


class StoreLog(EventLog, Protocol):
    """The store's own log, which stands for the connection to it."""

    @property
    def generation(self) -> int:
        """Grows whenever another server of the store may have taken over."""

    def hear(self, listener: Callable[[str, list[str]], None]) -> None:
        """Calls `listener` with a project that is followed here and the agents for which a process
        has decided something; none of them: for many."""

    async def probe(self) -> None:
        """Returns if a write would succeed, whatever project it is of. It waits for nothing."""

    async def close(self) -> None:
        """Writes what is pending, then closes every connection."""


class DescriptionStore(Protocol):
    """The current descriptions of data. See `EventLog` for errors."""

    async def of_keys(self, project: str, data_keys: Iterable[str]) -> dict[str, KeyDescription]:
        """What is known of each of some keys, though not all as of one moment."""


class PresenceStore(Protocol):
    """Which streams each server process has open. See `EventLog` for errors."""

    async def put_presence(self, project: str, owner: str, presence: str) -> None:
        """Publishes what a server process has open in a project; "" withdraws it."""

    async def presence(self, project: str) -> dict[str, str]:
        """What each server process published last."""
