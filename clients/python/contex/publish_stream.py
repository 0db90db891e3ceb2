"""The asyncio side of a publish stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from types import TracebackType
from typing import Self, TypeAlias, cast

import grpc
from grpc import aio

from .errors import ContexError, DeadlineExceeded, Unavailable, from_rpc_error
from .publish_window import PublishWindow
from .v1 import event_service_pb2
from .values import BatchResult, NewEvent

Call: TypeAlias = (
    "aio.StreamStreamCall[event_service_pb2.PublishStreamRequest, "
    "event_service_pb2.PublishStreamResponse]"
)
Batches = Iterable[Sequence[NewEvent]] | AsyncIterable[Sequence[NewEvent]]
MakeRequest = Callable[[Sequence[NewEvent]], event_service_pb2.PublishStreamRequest]


class PublishStream:
    """Appends batches with many in flight; yields one `BatchResult` for each, in order.

    Use it in an `async with` and iterate: batches are taken from the source only while fewer
    than `window` are unanswered, so nothing moves on unless the results are read. A refused
    batch is a result with its `error`, and the stream goes on. A broken connection is mended and
    the unanswered batches are sent again with their request_ids, which appends nothing twice.
    That is safe for as long as the server remembers the ids: an outage of more than nine minutes
    with unanswered batches is raised.
    """

    def __init__(
        self,
        open_call: Callable[[], Call],
        batches: Batches,
        make_request: MakeRequest,
        window: PublishWindow,
        timeout: float,
    ) -> None:
        self._open_call = open_call
        self._batches = batches
        self._make_request = make_request
        self._window = window
        self._timeout = timeout
        self._call: Call | None = None
        self._source: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()
        self._exhausted = False
        self._failure: Exception | None = None
        self._closed = False

    @property
    def reconnects(self) -> int:
        """How often the connection was lost."""
        return self._window.reconnects

    async def close(self) -> None:
        """Ends the stream. Batches that are unanswered may or may not have been appended."""
        self._closed = True
        await self._drop_call()
        if self._source is not None:
            self._source.cancel()
            await asyncio.gather(self._source, return_exceptions=True)
        async with self._changed:
            self._changed.notify_all()

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

    async def __anext__(self) -> BatchResult:
        if self._source is None:
            self._source = asyncio.create_task(self._pull())
        while not self._closed:
            async with self._changed:
                await self._changed.wait_for(self._has_work)
            if self._closed:
                break
            if self._window.is_empty:
                await self._drop_call()
                self._closed = True
                if self._failure is not None:
                    raise self._failure
                break
            response = await self._receive()
            if response is not None:
                async with self._changed:
                    result = self._window.on_response(response)
                    self._changed.notify_all()
                return result
        raise StopAsyncIteration

    def _has_work(self) -> bool:
        return not self._window.is_empty or self._exhausted or self._closed

    async def _pull(self) -> None:
        """Fills the window from the source. Outlives the calls: a source can't be rewound."""
        try:
            async for batch in _aiter(self._batches):
                request = self._make_request(batch)
                async with self._changed:
                    await self._changed.wait_for(lambda: self._window.has_room)
                    self._window.add(request)
                    self._changed.notify_all()
        except Exception as error:
            self._failure = error  # raised once everything before it is answered
        async with self._changed:
            self._exhausted = True
            self._changed.notify_all()

    async def _receive(self) -> event_service_pb2.PublishStreamResponse | None:
        """Receives one answer; `None` if the call broke and it is time for a new one."""
        try:
            if self._call is None:
                self._call = self._open_call()
                self._writer = asyncio.create_task(self._write(self._call))
            async with asyncio.timeout(self._timeout):
                response = await self._call.read()
            if response is not aio.EOF:
                return cast(event_service_pb2.PublishStreamResponse, response)
            error: ContexError = Unavailable(
                "the server ended the stream", grpc.StatusCode.UNAVAILABLE
            )
        except TimeoutError:
            message = f"no answer for {self._timeout:g} s"
            error = DeadlineExceeded(message, grpc.StatusCode.DEADLINE_EXCEEDED)
        except grpc.RpcError as rpc_error:
            error = from_rpc_error(rpc_error)
        except asyncio.CancelledError:
            await self._drop_call()
            task = asyncio.current_task()
            if not self._closed or (task is not None and task.cancelling()):
                raise
            return None
        await self._drop_call()
        await asyncio.sleep(self._window.on_break(error))
        return None

    async def _write(self, call: Call) -> None:
        """Sends every unanswered batch over a new call, then each that is added."""
        number = self._window.first

        def has_work() -> bool:
            return number < self._window.end or self._exhausted

        try:
            while True:
                async with self._changed:
                    await self._changed.wait_for(has_work)
                if number == self._window.end:
                    await call.done_writing()
                    return
                await call.write(self._window.get(number))
                number += 1
        except (grpc.RpcError, asyncio.InvalidStateError):
            return  # the reader learns why the call broke

    async def _drop_call(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)


async def _aiter(batches: Batches) -> AsyncIterator[Sequence[NewEvent]]:
    if isinstance(batches, AsyncIterable):
        async for batch in batches:
            yield batch
    else:
        for batch in batches:
            yield batch
