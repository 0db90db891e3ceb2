"""The blocking side of a call that streams its answers and ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc

from .blocking import StreamCall, cancel
from .errors import ContexError, from_rpc_error
from .retry import Retry

T = TypeVar("T")


class SyncAnswerStream(Generic[T]):
    """`contex.AnswerStream` for code without asyncio: same promises, plain iteration.

    `close` may be called from another thread and ends an iteration that blocks.
    """

    def __init__(
        self,
        open_call: Callable[[], StreamCall[Any]],
        decode: Callable[[Any], Iterable[T]],
        retry: Callable[[], Retry] | None = None,
    ) -> None:
        self._open_call = open_call
        self._decode = decode
        self._retry = retry
        self._outage: Retry | None = None
        self._call: StreamCall[Any] | None = None
        self._items: Iterator[T] = iter(())
        self._ended = False
        self._closed = threading.Event()

    def close(self) -> None:
        """Ends the call; an iteration under way stops."""
        self._closed.set()
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
        while not self._closed.is_set():
            for item in self._items:
                return item
            message = None if self._ended else self._read()
            if message is None:
                self._ended = True
                break
            self._items = iter(self._decode(message))
        raise StopIteration

    def _read(self) -> Any:
        """Reads one message; `None` at the end."""
        while not self._closed.is_set():
            if self._call is None:
                self._call = self._open_call()
                if self._closed.is_set():  # close() has not seen this call
                    self._call.cancel()
            try:
                message = next(self._call, None)
            except grpc.RpcError as error:
                if self._closed.is_set():  # it was close() that cancelled the call
                    return None
                self._closed.wait(self._delay_after(from_rpc_error(error)))
            else:
                self._outage = None
                return message
        return None

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
