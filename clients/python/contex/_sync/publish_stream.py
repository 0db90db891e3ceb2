# Generated from _async/publish_stream.py by `make generate`.
"""Publishing batch after batch over one stream; `publish_window.py` keeps its state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, Self

import grpc

from contex.errors import ContexError, DeadlineExceeded, Unavailable

from .closing import Closeable
from .transport import Background, Condition, Reader, Source, StreamCall, iterate

if TYPE_CHECKING:
    from contex.events import BatchResult, NewEvent
    from contex.publish_window import PublishWindow
    from contex.v1.event_service_pb2 import PublishStreamRequest, PublishStreamResponse


class WindowReader(Protocol):
    """Finds out for how many seconds the server remembers a request_id."""

    def __call__(self) -> float:
        """Never fails: what every server promises, if this one can't be asked."""


class SyncPublishStream(Closeable):
    """Publishes batches with many in flight; yields one `BatchResult` for each, in order.

    Use it in a `with` and iterate: batches are taken from the source, which is read in the
    background, only while fewer than `window` are unanswered, so nothing moves on unless the
    results are read. A refused batch is a result with its `error`, and the stream continues. After
    a broken connection the unanswered batches are sent again with their request_ids, which
    publishes nothing twice. That is safe for as long as the server remembers the ids: an outage
    of nine tenths of that (nine minutes, by default) with unanswered batches is raised.
    """

    def __init__(
        self,
        open_call: Callable[[Iterator[PublishStreamRequest]], StreamCall[PublishStreamResponse]],
        batches: Source[Sequence[NewEvent]],
        make_request: Callable[[Sequence[NewEvent]], PublishStreamRequest],
        window: PublishWindow,
        timeout: float,
        request_window_s: WindowReader,
    ) -> None:
        self._open_call = open_call
        self._batches = batches
        self._make_request = make_request
        self._window = window
        self._timeout = timeout
        self._request_window_s = request_window_s
        self._knows_window = False
        self._reader: Reader[PublishStreamResponse] = Reader(timeout)
        self._source: Background | None = None
        self._changed = Condition()
        self._call_number = 0
        self._exhausted = False
        self._failure: Exception | None = None

    @property
    def reconnects(self) -> int:
        """How often the connection was lost."""
        return self._window.reconnects

    def close(self) -> None:
        """Ends the stream. Batches that are unanswered may or may not have been published."""
        self._reader.close()
        if self._source is not None:
            self._source.stop()
        self._end_requests()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> BatchResult:
        if self._source is None:
            self._source = Background(self._pull)
        while not self._reader.closed:
            with self._changed:
                self._changed.wait_for(self._has_work)
            if self._reader.closed:
                break
            if self._window.is_empty:
                self.close()
                if self._failure is not None:
                    raise self._failure
                break
            response = self._receive()
            if response is not None:
                with self._changed:
                    result = self._window.on_response(response)
                    self._changed.notify_all()
                return result
        raise StopIteration

    def _has_work(self) -> bool:
        return not self._window.is_empty or self._exhausted or self._reader.closed

    def _wants_batch(self) -> bool:
        return self._window.has_room or self._reader.closed

    def _pull(self) -> None:
        """Fills the window from the source. It outlives the calls: a source can't be rewound."""
        try:
            batches = iterate(self._batches)
            while True:
                with self._changed:
                    self._changed.wait_for(self._wants_batch)
                if self._reader.closed:
                    return
                batch = next(batches, None)
                if batch is None:
                    break
                request = self._make_request(batch)
                with self._changed:
                    self._window.add(request)
                    self._changed.notify_all()
        except Exception as error:
            self._failure = error  # raised once everything before it is answered
        with self._changed:
            self._exhausted = True
            self._changed.notify_all()

    def _receive(self) -> PublishStreamResponse | None:
        """Receives one answer; None if the call broke and it is time for a new one."""
        if self._window.first and not self._knows_window:  # it has answered: it can be reached
            self._window.window_s = self._request_window_s()
            self._knows_window = True
        try:
            response = self._reader.read(self._open)
            if response is not None or self._reader.closed:
                return response
            error: ContexError = Unavailable(
                "the server ended the stream", grpc.StatusCode.UNAVAILABLE
            )
        except TimeoutError:
            message = f"no answer for {self._timeout:g} s"
            error = DeadlineExceeded(message, grpc.StatusCode.DEADLINE_EXCEEDED)
        except ContexError as failure:
            error = failure
        self._end_requests()
        self._reader.pause(self._window.on_break(error))
        return None

    def _open(self) -> StreamCall[PublishStreamResponse]:
        self._call_number += 1
        return self._open_call(self._requests(self._call_number))

    def _requests(self, call_number: int) -> Iterator[PublishStreamRequest]:
        """Every unanswered batch, for a new call, then each that is added."""
        number = self._window.first

        def is_dropped() -> bool:
            return call_number != self._call_number

        def has_work() -> bool:
            return is_dropped() or self._exhausted or number < self._window.end

        while True:
            with self._changed:
                self._changed.wait_for(has_work)
                if is_dropped() or number == self._window.end:
                    return
                request = self._window.get(number)
            number += 1
            yield request

    def _end_requests(self) -> None:
        """Ends the requests of the current call."""
        with self._changed:
            self._call_number += 1
            self._changed.notify_all()
