"""The state of a stream that survives its connections. No I/O: the subscriptions drive it.

A driver repeats: `take` an item; if there is none, open a call with `request` unless one is
open, read one message and pass it to `on_message`. When a call breaks, the driver passes the
error to `on_error`, or calls `on_end` or `on_silence`, drops the call and waits as long as told.

Why no item is lost or seen twice: messages are only taken whole, all items of one are handed out
before anything else is read, and a new call starts at the cursor of the last message taken.

What a registration brings an agent has its place where the registration is, but the events are
older. They leave `position` where it is: it would move back, and what came before would come again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast

import grpc

from .backoff import Backoff
from .errors import ContexError, Unavailable
from .lazy import agents, events, wire

if TYPE_CHECKING:
    from .agents import NeedsChanged, Resync
    from .events import Event, MatchedEvent
    from .v1 import agent_service_pb2, event_service_pb2

StreamRequest: TypeAlias = (
    "event_service_pb2.ReplayRequest"
    "| event_service_pb2.SubscribeRequest"
    "| agent_service_pb2.ListenRequest"
)
StreamMessage: TypeAlias = (
    "event_service_pb2.ReplayResponse"
    "| event_service_pb2.SubscribeResponse"
    "| agent_service_pb2.ListenResponse"
)

T = TypeVar("T")

DEFAULT_HEARTBEAT_S = 15.0
_MISSED_HEARTBEATS = 3


class ResumableStream(Generic[T]):
    """What is known about a stream across all its calls.

    Args:
        request: The first request. Later ones are the same but start at the cursor.
        decode: Converts one item of a message for the caller.
        reconnect: Whether a break is mended; if not, it is raised.
        ends: Whether the stream is complete when it ends (a replay); if not, that is a break.
        backoff: Computes the waits between calls.
        on_needs_changed: Called with a changed registration before what it brings is handed out.
        on_resync: Called when deliveries are left out from there on.
    """

    def __init__(
        self,
        request: StreamRequest,
        decode: Callable[[Any], T],
        *,
        reconnect: bool = True,
        ends: bool = False,
        backoff: Backoff | None = None,
        on_needs_changed: Callable[[NeedsChanged], object] | None = None,
        on_resync: Callable[[Resync], object] | None = None,
    ) -> None:
        self._request = request
        self._decode = decode
        self._reconnect = reconnect
        self._ends = ends
        self._backoff = backoff or Backoff()
        self._on_needs_changed = on_needs_changed
        self._on_resync = on_resync
        self._items: Iterator[T] = iter(())
        self._items_left = 0
        self._is_inside = False
        self._received_cursor: str | None = None
        self.cursor: str | None = None
        self.position: str | None = None
        self.caught_up = False
        self.finished = False
        self.reconnects = 0
        self.fell_behind = 0
        self.needs_changed: NeedsChanged | None = None
        self.resync: Resync | None = None

    def renew_with(self, is_renewed: Callable[[ContexError], bool]) -> None:
        """Says how to find out whether a new call has other credentials than a refused one."""
        self._backoff.is_renewed = is_renewed

    @property
    def started(self) -> bool:
        """Whether a message was received: from then on, where the stream starts is fixed."""
        return self._received_cursor is not None

    @property
    def request(self) -> StreamRequest:
        """The request of the next call."""
        if self._received_cursor is None:
            return self._request
        resumed = type(self._request)()
        resumed.CopyFrom(self._request)  # type: ignore[arg-type]
        resumed.cursor = self._received_cursor  # Where it started no longer matters.
        return resumed

    @property
    def handed_out(self) -> tuple[str | None, str | None]:
        """How far all was handed out: a message's cursor, and inside the next one a sequence."""
        return self.cursor, self.position if self._is_inside else None

    @property
    def silence_limit_s(self) -> float:
        """Seconds without a message after which a connection is considered broken."""
        interval_ms = getattr(self._request, "heartbeat_interval_ms", 0)
        return _MISSED_HEARTBEATS * (interval_ms / 1000 or DEFAULT_HEARTBEAT_S)

    def on_message(self, message: StreamMessage) -> None:
        """Takes a message. All items of the last one must have been taken."""
        self._backoff.reset()
        self._received_cursor = message.cursor or self._received_cursor
        kind = message.WhichOneof("message")
        if kind == "caught_up":
            self.caught_up = True
        elif kind == "fell_behind":
            self.caught_up = False
            self.fell_behind += 1
        batch = message.events.events if kind == "events" else ()
        self._items = map(self._decode, batch)
        self._items_left = len(batch)
        self._is_inside = False
        if not self._items_left:
            self.cursor = self._received_cursor
        if kind == "needs_changed":
            listened = cast("agent_service_pb2.ListenResponse", message)
            changed = self.needs_changed = agents.needs_changed(listened.needs_changed)
            if self._on_needs_changed is not None:
                self._on_needs_changed(changed)
        elif kind == "resync":
            listened = cast("agent_service_pb2.ListenResponse", message)
            left_out = self.resync = agents.resync(listened.resync)
            if self._on_resync is not None:
                self._on_resync(left_out)

    def take(self) -> T | None:
        """Hands out the next item of the last message; None if another must be read."""
        if not self._items_left:
            return None
        item = next(self._items)
        self._items_left -= 1
        self._move(cast("Event | MatchedEvent", item))
        if not self._items_left:
            self.cursor, self._is_inside = self._received_cursor, False
        return item

    def _move(self, item: Event | MatchedEvent) -> None:
        sequence = events.sequence_of(item)
        order, position = wire.sequence_order, self.position
        is_listening = isinstance(item, events.MatchedEvent)
        if not is_listening or position is None or order(sequence) > order(position):
            self.position, self._is_inside = sequence, True

    def take_all(self) -> None:
        """Marks all items of the last message as handed out."""
        while self.take() is not None:
            pass

    def on_error(self, error: ContexError) -> float:
        """Takes the error that a call ended with.

        Returns:
            Seconds to wait before the next call.

        Raises:
            ContexError: `error` itself, if a new call would not help.
        """
        if not (self._reconnect and self._backoff.may_resume(error)):
            raise error
        return self._broken(error.retry_after)

    def on_end(self) -> float | None:
        """Takes the end of a call without an error.

        Returns:
            Seconds to wait before the next call; None if the stream is complete.
        """
        if self._ends:
            self.finished = True
            return None
        if not self._reconnect:
            raise Unavailable("the server ended the stream", grpc.StatusCode.UNAVAILABLE)
        return self._broken(None)

    def on_silence(self) -> float:
        """Notes that nothing was received for `silence_limit_s`."""
        if not self._reconnect:
            raise Unavailable(
                f"no message for {self.silence_limit_s:g} s", grpc.StatusCode.UNAVAILABLE
            )
        return self._broken(None)

    def _broken(self, retry_after: float | None) -> float:
        self.caught_up = False
        self.reconnects += 1
        return self._backoff.next_delay(retry_after)
