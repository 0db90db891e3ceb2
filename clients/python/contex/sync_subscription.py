"""The blocking side of a resumable stream; what it knows is in `resume.py`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

import grpc

from .blocking import StreamCall, Watchdog, cancel
from .errors import ContexError, from_rpc_error
from .resume import ResumableStream, StreamMessage, StreamRequest
from .values import NeedsChanged

T = TypeVar("T")


class SyncSubscription(Generic[T]):
    """`contex.Subscription` for code without asyncio: same promises, plain iteration.

    `close` may be called from another thread and ends an iteration that blocks.
    """

    def __init__(
        self,
        open_call: Callable[[StreamRequest], StreamCall[StreamMessage]],
        stream: ResumableStream[T],
    ) -> None:
        self._open_call = open_call
        self._stream = stream
        self._call: StreamCall[StreamMessage] | None = None
        self._closed = threading.Event()
        self._watchdog = Watchdog(stream.silence_limit_s)

    @property
    def cursor(self) -> str | None:
        """Cursor of the last message that was handed out whole; `None` before the first."""
        return self._stream.cursor

    @property
    def position(self) -> str | None:
        """Sequence of the last item handed out."""
        return self._stream.position

    @property
    def caught_up(self) -> bool:
        """Whether the stream is live."""
        return self._stream.caught_up

    @property
    def reconnects(self) -> int:
        """How often the connection was lost."""
        return self._stream.reconnects

    @property
    def fell_behind(self) -> int:
        """How often the server had to read for this stream from the log again."""
        return self._stream.fell_behind

    @property
    def needs_changed(self) -> NeedsChanged | None:
        """The last change of the agent's registration that the stream has told."""
        return self._stream.needs_changed

    def messages(self) -> Iterator[StreamMessage]:
        """Iterates over the raw messages instead, checkpoints and heartbeats included."""
        while (message := self._receive()) is not None:
            self._stream.take_all()
            yield message

    def close(self) -> None:
        """Ends the stream; an iteration under way stops."""
        self._closed.set()
        self._watchdog.stop()
        cancel(self._call)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        while (item := self._stream.take()) is None:
            if self._receive() is None:
                raise StopIteration
        return item

    def _receive(self) -> StreamMessage | None:
        stream = self._stream
        while not self._closed.is_set() and not stream.finished:
            message, error = None, None
            try:
                if self._call is None:
                    self._call = self._open_call(stream.request)
                with self._watchdog.watch(self._call):
                    message = next(self._call, None)
            except grpc.RpcError as rpc_error:
                error = from_rpc_error(rpc_error)
            finally:
                if message is None:
                    cancel(self._call)
                    self._call = None
            if self._closed.is_set():
                break
            if message is not None:
                stream.on_message(message)
                return message
            delay = self._broken(error)
            if delay is not None:
                self._closed.wait(delay)
        return None

    def _broken(self, error: ContexError | None) -> float | None:
        if error is None:
            return self._stream.on_end()
        if self._watchdog.barked:
            return self._stream.on_silence()
        return self._stream.on_error(error)
