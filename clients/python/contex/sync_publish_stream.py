"""The blocking side of a publish stream; what it knows is in `publish_window.py`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self

import grpc

from .blocking import StreamCall, Watchdog, cancel
from .errors import ContexError, DeadlineExceeded, Unavailable, from_rpc_error
from .publish_stream import MakeRequest
from .publish_window import PublishWindow
from .v1 import event_service_pb2
from .values import BatchResult, NewEvent


class SyncPublishStream:
    """`contex.PublishStream` for code without asyncio: same promises, plain iteration.

    The source of the batches is read in a thread of gRPC's.
    """

    def __init__(
        self,
        open_call: Callable[
            [Iterator[event_service_pb2.PublishStreamRequest]],
            StreamCall[event_service_pb2.PublishStreamResponse],
        ],
        batches: Iterable[Sequence[NewEvent]],
        make_request: MakeRequest,
        window: PublishWindow,
        timeout: float,
    ) -> None:
        self._open_call = open_call
        self._source = iter(batches)
        self._source_lock = threading.Lock()
        self._make_request = make_request
        self._window = window
        self._timeout = timeout
        self._watchdog = Watchdog(timeout)
        self._call: StreamCall[event_service_pb2.PublishStreamResponse] | None = None
        self._call_number = 0
        self._changed = threading.Condition()
        self._exhausted = False
        self._failure: Exception | None = None
        self._closed = threading.Event()

    @property
    def reconnects(self) -> int:
        """How often the connection was lost."""
        return self._window.reconnects

    def close(self) -> None:
        """Ends the stream. Batches that are unanswered may or may not have been appended."""
        self._closed.set()
        self._watchdog.stop()
        self._drop_call()

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

    def __next__(self) -> BatchResult:
        while not self._closed.is_set():
            call = self._call
            if call is None:
                self._call_number += 1
                call = self._call = self._open_call(self._requests(self._call_number))
            with self._changed:
                self._changed.wait_for(self._has_work)
                if self._window.is_empty:
                    break
            response = self._receive(call)
            if response is not None:
                with self._changed:
                    result = self._window.on_response(response)
                    self._changed.notify_all()
                return result
        self.close()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        raise StopIteration

    def _has_work(self) -> bool:
        return not self._window.is_empty or self._exhausted or self._closed.is_set()

    def _receive(
        self, call: StreamCall[event_service_pb2.PublishStreamResponse]
    ) -> event_service_pb2.PublishStreamResponse | None:
        """Receives one answer; `None` if the call broke and it is time for a new one."""
        response = None
        error: ContexError = Unavailable("the server ended the stream", grpc.StatusCode.UNAVAILABLE)
        try:
            with self._watchdog.watch(call):
                response = next(call, None)
        except grpc.RpcError as rpc_error:
            error = from_rpc_error(rpc_error)
            if self._watchdog.barked:
                message = f"no answer for {self._timeout:g} s"
                error = DeadlineExceeded(message, grpc.StatusCode.DEADLINE_EXCEEDED)
        if response is None:
            self._drop_call()
            if not self._closed.is_set():
                self._closed.wait(self._window.on_break(error))
        return response

    def _requests(self, call_number: int) -> Iterator[event_service_pb2.PublishStreamRequest]:
        """Every unanswered batch, for a new call, then each that is added."""
        window = self._window
        with self._changed:
            number = window.first

        def is_dropped() -> bool:
            return call_number != self._call_number

        def has_work() -> bool:
            return is_dropped() or self._exhausted or number < window.end or window.has_room

        while True:
            with self._changed:
                self._changed.wait_for(has_work)
                if is_dropped():
                    return
                request = window.get(number) if number < window.end else None
                if request is None and self._exhausted:
                    return
            if request is None:
                self._pull(number)
            else:
                number += 1
                yield request

    def _pull(self, number: int) -> None:
        """Adds batch `number` from the source, unless the thread of a dropped call just did."""
        with self._source_lock:
            if self._exhausted or number < self._window.end or not self._window.has_room:
                return
            request = None
            try:
                batch = next(self._source, None)
                if batch is not None:
                    request = self._make_request(batch)
            except Exception as error:
                self._failure = error  # raised once everything before it is answered
            with self._changed:
                if request is None:
                    self._exhausted = True
                else:
                    self._window.add(request)
                self._changed.notify_all()

    def _drop_call(self) -> None:
        with self._changed:
            self._call_number += 1
            self._changed.notify_all()
        cancel(self._call)
        self._call = None
