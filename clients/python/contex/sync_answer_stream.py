"""The blocking side of a call that streams its answers and can't be resumed."""

from __future__ import annotations

import time
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
        self._closed = False

    def close(self) -> None:
        """Ends the call; an iteration under way stops."""
        self._closed = True
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
        while not self._closed:
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
        while True:
            if self._call is None:
                self._call = self._open_call()
            try:
                message = next(self._call, None)
            except grpc.RpcError as error:
                if self._closed:  # it was close() that cancelled the call
                    return None
                failure = from_rpc_error(error)
                if self._retry is None:
                    self._ended = True
                    raise failure from error
                self._outage = self._outage or self._retry()
                try:
                    delay = self._outage.delay_after(failure)
                except ContexError:
                    self._ended = True
                    raise
                self._call = None
                time.sleep(delay)
            else:
                self._outage = None
                return message
