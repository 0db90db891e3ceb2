# Generated from _async/shared_stream.py by `make generate`.
"""The stream that the publishes of one client share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from copy import copy
from typing import TYPE_CHECKING

import grpc

from contex.errors import (
    ContexError,
    DeadlineExceeded,
    Internal,
    Unavailable,
    from_refusal,
    is_transient,
)
from contex.lazy import event_service_pb2

from .transport import Background, Event, Lock, Reader, Reply, StreamCall

if TYPE_CHECKING:
    from contex.v1.event_service_pb2 import (
        PublishOutcome,
        PublishRequest,
        PublishResponse,
        PublishStreamRequest,
        PublishStreamResponse,
    )

MAX_BYTES = 60_000
"""Bytes of a request: a server lets larger ones wait behind each other. A publish of more goes by a
call of its own."""
IDLE_S = 5.0
"""How long a stream stays open without a publish."""
_REQUESTS = 16
"""Unanswered requests: the server reads no more ahead."""
_LEAST, _MOST = 32, 64
"""Publishes of a request where many wait. It takes half of them, so that the server has something
to do while the answers to the others are taken and their callers go on."""


class SharedStream:
    """One PublishStream for the publishes of all callers, until it breaks or is idle.

    Each goes out at once; nothing waits for company. Of what is called at the same time, or while
    a request is being written, several go in one request, as many as the server has said that it
    takes. They are appended and answered in the order of the calls. What is on its way is bounded,
    by `_REQUESTS` of up to `MAX_BYTES`: beyond that callers wait for room, too.

    A stream that breaks is not opened again, and leaves its callers to themselves: each repeats
    what is unanswered by a call of its own, with the same request_id, and gets the errors of
    that. The next publish makes a new stream.

    Args:
        open_call: Opens the call with an iterator of requests.
    """

    def __init__(
        self,
        open_call: Callable[[Iterator[PublishStreamRequest]], StreamCall[PublishStreamResponse]],
    ) -> None:
        self._open_call = open_call
        self._reader: Reader[PublishStreamResponse] = Reader()
        self._lock = Lock()
        self._unsent: deque[_Publish] = deque()
        self._sent: deque[list[_Publish]] = deque()
        self._max_batches = 1
        self._answered = 0
        self._may_send = Event()
        self._work: list[Background] = []
        self.ended = False
        """Whether it takes no more publishes."""

    def publish(self, request: PublishRequest, timeout: float) -> PublishResponse:
        """Publishes what has a request_id and at most `MAX_BYTES`.

        Raises:
            ContexError: It was refused; or its outcome is unknown, and it may be repeated.
            RuntimeError: The client was closed before the answer came.
        """
        publish = _Publish(request)
        with self._lock:
            if self.ended:
                raise Unavailable("the stream has ended")
            self._unsent.append(publish)
            if not self._work:
                self._work = [Background(self._receive), Background(self._watch)]
        self._may_send.set()
        try:
            outcome = publish.reply.get(timeout)
        except TimeoutError:
            message = f"no answer for {timeout:g} s"
            raise DeadlineExceeded(message, grpc.StatusCode.DEADLINE_EXCEEDED) from None
        if outcome.WhichOneof("outcome") == "refused":
            raise from_refusal(outcome.refused)
        return outcome.published

    def close(self) -> None:
        """Ends it, and the waiting of its callers."""
        self._end(RuntimeError("the client was closed before the publish was answered"))
        for work in self._work:
            work.stop()

    def _receive(self) -> None:
        """Receives answers until the call ends."""
        failure: Exception = Unavailable("the server ended the stream")
        try:
            while (response := self._reader.read(self._open)) is not None:
                self._take(response)
        except Exception as error:
            failure = error
            if not isinstance(error, ContexError) or not is_transient(error):
                # It says nothing of a single publish, whose own call will tell.
                failure = Unavailable(f"the stream broke: {error}")
                failure.__cause__ = error
        finally:
            self._end(failure)

    def _watch(self) -> None:
        """Ends the stream where nothing was published for a while, or not answered."""
        while not self.ended:
            before = self._answered, bool(self._sent)
            self._reader.pause(IDLE_S)
            if before == (self._answered, bool(self._sent)):
                message = f"no answer for {IDLE_S:g} s"
                self._end(DeadlineExceeded(message, grpc.StatusCode.DEADLINE_EXCEEDED))

    def _open(self) -> StreamCall[PublishStreamResponse]:
        return self._open_call(self._requests())

    def _requests(self) -> Iterator[PublishStreamRequest]:
        while True:
            self._may_send.clear()
            with self._lock:
                if self.ended:
                    return
                publishes = self._next() if len(self._sent) < _REQUESTS else []
            if publishes:
                first, *more = [publish.request for publish in publishes]
                yield event_service_pb2.PublishStreamRequest(publish=first, more=more)
            else:
                self._may_send.wait()

    def _next(self) -> list[_Publish]:
        """Takes what the next request carries: what is still waited for, in the order of calls."""
        publishes: list[_Publish] = []
        left = MAX_BYTES
        count = min(self._max_batches, _MOST, max(_LEAST, len(self._unsent) // 2))
        while self._unsent and len(publishes) < count:
            publish = self._unsent[0]
            if publish.reply.is_awaited:
                left -= publish.request.ByteSize()
                if publishes and left < 0:
                    break
                publishes.append(publish)
            self._unsent.popleft()
        if publishes:
            self._sent.append(publishes)
        return publishes

    def _take(self, response: PublishStreamResponse) -> None:
        """Hands the answers to their callers."""
        outcomes: list[PublishStreamResponse | PublishOutcome] = [response, *response.more]
        with self._lock:
            publishes = self._sent.popleft() if self._sent else []
            self._max_batches = max(1, response.max_batches)
            self._answered += 1
        if self._unsent:
            self._may_send.set()
        ids = [outcome.request_id for outcome in outcomes]
        expected = [publish.request.request_id for publish in publishes]
        if ids != expected:
            with self._lock:
                self._sent.appendleft(publishes)
            raise Internal(f"got the answers to batches {ids}, expected those to {expected}")
        for publish, outcome in zip(publishes, outcomes, strict=True):
            publish.reply.put(outcome)

    def _end(self, failure: Exception) -> None:
        with self._lock:
            self.ended = True
            left = [publish for publishes in self._sent for publish in publishes]
            left += self._unsent
            self._sent.clear()
            self._unsent.clear()
        self._may_send.set()
        self._reader.close()
        for publish in left:
            error = copy(failure)
            error.__cause__ = failure.__cause__
            publish.reply.fail(error)


class _Publish:
    """A publish that waits for its answer."""

    __slots__ = ("reply", "request")

    def __init__(self, request: PublishRequest) -> None:
        self.request = request
        self.reply: Reply[PublishStreamResponse | PublishOutcome] = Reply()
