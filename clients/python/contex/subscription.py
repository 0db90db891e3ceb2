"""The asyncio side of a resumable stream."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Generic, Self, TypeAlias, TypeVar, cast

import grpc
from grpc import aio

from .errors import from_rpc_error
from .resume import ResumableStream, StreamMessage, StreamRequest
from .values import NeedsChanged

T = TypeVar("T")

StreamCall: TypeAlias = "aio.UnaryStreamCall[StreamRequest, StreamMessage]"


class Subscription(Generic[T]):
    """A stream of items that outlives its connections: iterate over it in an `async with`.

    When the connection breaks, the server ends the stream, or nothing is heard for three
    heartbeat intervals, it connects again (after a jittered wait of at most 5 s, or what the
    server asks for) and goes on after the last message it received: no item is missed and none
    comes twice. A server that is not there, also at the first connection, is waited for without
    limit, because agents may start before servers do; bound it with `asyncio.timeout`. What a
    new connection would not mend is raised, for example `NotFound` or `SequenceTrimmed`.

    Cancelling a wait for the next item loses nothing: iterating on connects again.

    One task at a time may iterate, either over the subscription or over `messages()`.
    """

    def __init__(
        self, open_call: Callable[[StreamRequest], StreamCall], stream: ResumableStream[T]
    ) -> None:
        self._open_call = open_call
        self._stream = stream
        self._call: StreamCall | None = None
        self._closed = asyncio.Event()

    @property
    def cursor(self) -> str | None:
        """Cursor of the last message that was handed out whole; `None` before the first.

        Safe to store once the items handed out so far are dealt with: `subscribe` or `listen`
        with it repeats nothing but the part of a message that was handed out half.
        """
        return self._stream.cursor

    @property
    def position(self) -> str | None:
        """Sequence of the last item handed out; `after_sequence` with it resumes exactly.

        It never moves back: what a change of the needs brings from before leaves it as it is.
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
        """How often the server had to read for this stream from the log again."""
        return self._stream.fell_behind

    @property
    def needs_changed(self) -> NeedsChanged | None:
        """The last change of the agent's registration that the stream has told; `None`: none."""
        return self._stream.needs_changed

    def messages(self) -> AsyncIterator[StreamMessage]:
        """Iterates over the raw messages instead, checkpoints and heartbeats included."""
        return self._messages()

    async def close(self) -> None:
        """Ends the stream; an iteration under way stops."""
        self._closed.set()
        self._drop_call()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while (item := self._stream.take()) is None:
            if await self._receive() is None:
                raise StopAsyncIteration
        return item

    async def _messages(self) -> AsyncIterator[StreamMessage]:
        while (message := await self._receive()) is not None:
            self._stream.take_all()
            yield message

    async def _receive(self) -> StreamMessage | None:
        """Receives one message, over as many calls as it takes; `None` at the end."""
        stream = self._stream
        while not self._closed.is_set() and not stream.finished:
            try:
                message = await self._read()
            except TimeoutError:
                delay: float | None = stream.on_silence()
            except grpc.RpcError as error:
                delay = stream.on_error(from_rpc_error(error))
            else:
                if self._closed.is_set():
                    break
                if message is not None:
                    stream.on_message(message)
                    return message
                delay = stream.on_end()
            if delay is not None:
                await self._pause(delay)
        return None

    async def _read(self) -> StreamMessage | None:
        """Reads from the call, which is open afterwards only if a message is returned."""
        message: object = aio.EOF
        try:
            if self._call is None:
                self._call = self._open_call(self._stream.request)
            # A read that is cancelled, as by this timeout, cancels its call.
            async with asyncio.timeout(self._stream.silence_limit_s):
                message = await self._call.read()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._closed.is_set() or (task is not None and task.cancelling()):
                raise
            # Nobody cancelled this task: it was close() that cancelled the call.
        finally:
            if message is aio.EOF:
                self._drop_call()
        return None if message is aio.EOF else cast(StreamMessage, message)

    async def _pause(self, delay: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._closed.wait()

    def _drop_call(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None
