# Generated from _async/subscription.py by `make generate`.
"""A stream that outlives its connections; `resume.py` keeps its state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

from contex.errors import ContexError
from contex.lazy import wire

from .closing import Closeable
from .transport import Reader, StreamCall

if TYPE_CHECKING:
    from contex.agents import NeedsChanged, Resync
    from contex.resume import ResumableStream, StreamMessage, StreamRequest

T = TypeVar("T")


class Acknowledge(Protocol):
    """The client's `acknowledge`, of one agent."""

    def __call__(
        self,
        position: str | None = None,
        *,
        cursor: str | None = None,
        timeout: float | None = None,
    ) -> str:
        """Moves the agent's durable cursor forward."""


class SyncSubscription(Closeable, Generic[T]):
    """A stream of items that outlives its connections: iterate over it in a `with`.

    When the connection breaks, the server ends the stream, or nothing arrives for three heartbeat
    intervals, it reconnects (after a jittered wait of at most 5 s, or as long as the server asks
    for) and resumes after the last message it received: no item is missed and none comes twice.
    Because agents may start before servers do, it waits without limit for a server that can't be
    reached, also the first time. What a new connection would not mend is raised, for example
    `NotFound` or `SequenceTrimmed`.

    A stream whose start depends on when it is opened (`start="end"`, or a `listen` at the durable
    cursor) is opened by the call that returns it: whatever is published after that arrives.
    Where the start is given, it is opened by the first iteration, or by `open`.

    Interrupting a wait for the next item loses nothing: iterating again reconnects.

    One at a time may iterate, either over the subscription or over `messages()`.
    """

    def __init__(
        self,
        open_call: Callable[[StreamRequest], StreamCall[StreamMessage]],
        stream: ResumableStream[T],
        *,
        starts_now: bool = False,
        acknowledge: Acknowledge | None = None,
    ) -> None:
        self._open_call = open_call
        self._stream = stream
        self._starts_now = starts_now
        self._acknowledge = acknowledge
        self._acknowledged: tuple[str | None, str | None] = (None, None)
        self._durable: str | None = None
        self._first: StreamMessage | None = None
        self._reader: Reader[StreamMessage] = Reader(stream.silence_limit_s)

    @property
    def cursor(self) -> str | None:
        """Cursor of the last message whose items were all handed out; None before the first.

        It is safe to store once those items have been processed: `subscribe` or `listen` with it
        resumes after them.
        """
        return self._stream.cursor

    @property
    def position(self) -> str | None:
        """Sequence of the last item handed out; `after_sequence` with it resumes exactly there.

        It never moves back: earlier events that a registration brings leave it unchanged, and come
        again after it if it stands before the registration. `cursor` has no such exception.
        """
        return self._stream.position

    @property
    def caught_up(self) -> bool:
        """Whether the stream is live: everything in the log has been received."""
        return self._stream.caught_up

    @property
    def reconnects(self) -> int:
        """How often the connection was lost."""
        return self._stream.reconnects

    @property
    def fell_behind(self) -> int:
        """How often the server had to go back to the log because the stream was too slow."""
        return self._stream.fell_behind

    @property
    def needs_changed(self) -> NeedsChanged | None:
        """The last change of the agent's registration that the stream reported, if any."""
        return self._stream.needs_changed

    @property
    def resync(self) -> Resync | None:
        """What was left out when that was told last, to the stream of an agent."""
        return self._stream.resync

    def open(self) -> Self:
        """Opens the stream, if it is not open yet: whatever is published from now on arrives.

        It waits for the server like an iteration does, and raises the same errors.

        Returns:
            The subscription itself.
        """
        if not self._stream.started:
            # The first message has the cursor that all later calls resume from.
            self._first = self._receive()
        return self

    def next(self, timeout: float | None = None) -> T:
        """Waits for the next item, like an iteration.

        A wait that is given up loses nothing: the next one reconnects where it was.

        Args:
            timeout: Seconds that it may take; None for no limit.

        Raises:
            TimeoutError: Nothing arrived in this time.
            StopIteration: The stream has ended.
        """
        with self._reader.limited(timeout):
            return next(self)

    def acknowledge(self, *, timeout: float | None = None) -> str | None:
        """Acknowledges everything that was handed out: a `listen` without a start goes on after it.

        Call it when that has been processed, as often as you like: what is acknowledged already is
        not sent again. It also moves past what brought the agent nothing. What a registration
        brings is older than its place in the stream: of that, whole messages are acknowledged
        (about 1 MiB at most). Only for `listen`.

        Args:
            timeout: As in the client's `acknowledge`.

        Returns:
            Sequence of the durable cursor; None if nothing has been acknowledged yet.

        Raises:
            TypeError: It is a stream of `subscribe`, which has no durable cursor.
        """
        if self._acknowledge is None:
            raise TypeError("only a stream of `listen` can be acknowledged")
        cursor, sequence = handed_out = self._stream.handed_out
        if cursor is not None and cursor != self._acknowledged[0]:
            self._durable = self._acknowledge(cursor=cursor, timeout=timeout)
            self._acknowledged = (cursor, None)
        if sequence is not None and self._is_further(sequence):
            self._durable = self._acknowledge(sequence, timeout=timeout)
            self._acknowledged = handed_out
        return self._durable

    def _is_further(self, sequence: str) -> bool:
        """Whether the durable cursor may still be before a sequence."""
        order, durable = wire.sequence_order, self._durable
        return not durable or order(sequence) > order(durable)

    def messages(self) -> Iterator[StreamMessage]:
        """Iterates over the raw messages instead, checkpoints and heartbeats included."""
        while (message := self._receive()) is not None:
            self._stream.take_all()
            yield message

    def close(self) -> None:
        """Ends the stream; an iteration under way stops."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self.open() if self._starts_now else self

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        while (item := self._stream.take()) is None:
            if self._receive() is None:
                raise StopIteration
        return item

    def _receive(self) -> StreamMessage | None:
        """Receives one message, over as many calls as it takes; None at the end."""
        message, self._first = self._first, None
        if message is not None:
            return message
        stream = self._stream
        while not self._reader.closed and not stream.finished:
            delay: float | None
            try:
                message = self._reader.read(self._open)
            except TimeoutError:
                delay = stream.on_silence()
            except ContexError as error:
                delay = stream.on_error(error)
            else:
                if self._reader.closed:
                    break
                if message is not None:
                    stream.on_message(message)
                    return message
                delay = stream.on_end()
            if delay is not None:
                self._reader.pause(delay)
        return None

    def _open(self) -> StreamCall[StreamMessage]:
        return self._open_call(self._stream.request)
