"""A call that streams its answers and ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, Self, TypeVar

import grpc

from contex.backoff import Retry
from contex.credentials import Shown
from contex.errors import ContexError

from .closing import AsyncCloseable
from .transport import Metadata, Reader, StreamCall

T = TypeVar("T")


class AnswerStream(AsyncCloseable, Generic[T]):
    """The answers of one call: iterate over them, in an `async with` if you may stop early.

    The call is made when iteration begins. If the server is unavailable then, it is tried a few
    times; a connection that breaks later is raised, because the answers belong together.
    Interrupting a wait for the next item ends the call.

    Args:
        open_call: Makes the call.
        decode: Returns the items in a message.
        shown: What each call says of who calls; one that is refused at first is made again if that
            is another key by then.
        retry: Given if `open_call` resumes after the last message that was decoded. Then a break
            is mended for as long as this allows, and interrupting a wait loses nothing.
    """

    def __init__(
        self,
        open_call: Callable[[Metadata], StreamCall[Any]],
        decode: Callable[[Any], Iterable[T]],
        shown: Shown,
        retry: Callable[[], Retry] | None = None,
    ) -> None:
        self._open_call = open_call
        self._decode = decode
        self._shown = shown
        self._may_renew = True
        self._retry = retry
        self._outage: Retry | None = None
        self._reader: Reader[Any] = Reader()
        self._items: Iterator[T] = iter(())
        self._begun = False
        self._ended = False

    async def close(self) -> None:
        """Ends the call; an iteration under way stops."""
        self._ended = True
        self._items = iter(())
        self._reader.close()

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
        """Reads one message; None at the end."""
        while not self._reader.closed:
            try:
                if self._begun and not self._reader.has_call and self._retry is None:
                    raise ContexError("a wait was cancelled", grpc.StatusCode.CANCELLED)
                self._begun = True
                message = await self._reader.read(self._open)
            except ContexError as error:
                if self._may_renew and self._shown.is_renewed(error):
                    self._may_renew = self._begun = False
                    continue
                await self._reader.pause(self._delay_after(error))
            else:
                self._outage = None
                self._may_renew = self._retry is not None
                return message
        return None

    def _open(self) -> StreamCall[Any]:
        return self._open_call(self._shown.metadata())

    def _delay_after(self, error: ContexError) -> float:
        """Seconds until the next call.

        Raises:
            ContexError: `error` itself, if there is none.
        """
        try:
            if self._retry is None:
                raise error
            self._outage = self._outage or self._retry()
            return self._outage.delay_after(error)
        except ContexError:
            self._ended = True
            raise
