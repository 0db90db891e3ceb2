"""The asyncio side of a call that streams its answers and ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeAlias, TypeVar

import grpc
from grpc import aio

from .errors import ContexError, from_rpc_error
from .retry import Retry

T = TypeVar("T")

AnswerCall: TypeAlias = "aio.UnaryStreamCall[Any, Any]"


class AnswerStream(Generic[T]):
    """The answers of one call: iterate over them, in an `async with` where you may stop early.

    The call is made at the first iteration. A server that is unavailable then is tried a few
    times; a connection that breaks later is raised, because the answers belong together.
    Cancelling a wait for the next item ends the call.

    Args:
        open_call: Makes the call.
        decode: What a message holds.
        retry: Given where `open_call` goes on after what was decoded. Then a break is mended,
            for as long as this allows, and a wait that is cancelled loses nothing.
    """

    def __init__(
        self,
        open_call: Callable[[], AnswerCall],
        decode: Callable[[Any], Iterable[T]],
        retry: Callable[[], Retry] | None = None,
    ) -> None:
        self._open_call = open_call
        self._decode = decode
        self._retry = retry
        self._outage: Retry | None = None
        self._call: AnswerCall | None = None
        self._items: Iterator[T] = iter(())
        self._ended = False
        self._closed = asyncio.Event()

    async def close(self) -> None:
        """Ends the call; an iteration under way stops."""
        self._closed.set()
        self._ended = True
        self._items = iter(())
        if self._call is not None:
            self._call.cancel()

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
        while True:
            for item in self._items:
                return item
            message = None if self._ended else await self._read()
            if message is None:
                self._ended = True
                raise StopAsyncIteration
            self._items = iter(self._decode(message))

    async def _read(self) -> Any:
        """Reads one message; `None` at the end."""
        while not self._closed.is_set():
            try:
                message = await self._attempt()
            except ContexError as error:
                await self._pause(self._delay_after(error))
            else:
                self._outage = None
                return message
        return None

    async def _attempt(self) -> Any:
        if self._call is None:
            self._call = self._open_call()
        elif self._call.cancelled():
            raise ContexError("the wait for it was cancelled", grpc.StatusCode.CANCELLED)
        try:
            message = await self._call.read()
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._closed.is_set() or (task is not None and task.cancelling()):
                self._call.cancel()
                if self._retry is not None:
                    self._call = None  # the next wait makes another call
                raise
            return None  # nobody cancelled this task: it was close() that cancelled the call
        return None if message is aio.EOF else message

    def _delay_after(self, error: ContexError) -> float:
        """Seconds until the next call.

        Raises:
            ContexError: `error` itself, where there is none.
        """
        try:
            if self._retry is None:
                raise error
            self._outage = self._outage or self._retry()
            delay = self._outage.delay_after(error)
        except ContexError:
            self._ended = True
            raise
        self._call = None
        return delay

    async def _pause(self, delay: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._closed.wait()
