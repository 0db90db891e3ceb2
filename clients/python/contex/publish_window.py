"""The unanswered batches of a publish stream. No I/O: the publish streams drive it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc

from . import events
from .backoff import PROMISED_WINDOW_S, Backoff, safe_s
from .errors import ContexError, Internal
from .events import BatchResult

if TYPE_CHECKING:
    from .v1 import event_service_pb2


class PublishWindow:
    """A bounded run of batches that have no answer yet, numbered from 0 in their order.

    A batch is in the window from before it is first sent until it is answered. So whatever a
    broken call leaves unanswered is sent again on the next one, in order and with the same
    request_ids: a batch that had been published is answered as a duplicate, none is published
    twice.

    Args:
        size: Maximum number of unanswered batches.
        backoff: Computes the waits between calls.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        size: int,
        *,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if size < 1:
            raise ValueError(f"window must be at least 1, not {size}")
        self._size = size
        self._backoff = backoff or Backoff()
        self._clock = clock
        self._unanswered: deque[tuple[event_service_pb2.PublishStreamRequest, float]] = deque()
        self.first = 0
        """Number of the oldest unanswered batch."""
        self.reconnects = 0
        self.window_s = PROMISED_WINDOW_S
        """How long the server remembers a request_id."""

    @property
    def end(self) -> int:
        """Number of the next batch to be added."""
        return self.first + len(self._unanswered)

    @property
    def has_room(self) -> bool:
        """Whether another batch may be added."""
        return len(self._unanswered) < self._size

    @property
    def is_empty(self) -> bool:
        """Whether every batch is answered."""
        return not self._unanswered

    def add(self, request: event_service_pb2.PublishStreamRequest) -> None:
        """Adds a batch."""
        self._unanswered.append((request, self._clock()))

    def get(self, number: int) -> event_service_pb2.PublishStreamRequest:
        """An unanswered batch by its number."""
        return self._unanswered[number - self.first][0]

    def on_response(self, response: event_service_pb2.PublishStreamResponse) -> BatchResult:
        """Takes the next answer.

        Raises:
            Internal: It is not the answer to the oldest unanswered batch.
        """
        expected = self._unanswered[0][0].publish.request_id if self._unanswered else "none"
        if response.request_id != expected:
            raise Internal(
                f"got the answer to batch {response.request_id!r}, expected {expected!r}",
                grpc.StatusCode.INTERNAL,
            )
        self._backoff.reset()
        self._unanswered.popleft()
        self.first += 1
        return events.batch_result(response)

    def on_break(self, error: ContexError) -> float:
        """Takes the error that a call ended with.

        Returns:
            Seconds to wait before the next call.

        Raises:
            ContexError: `error` itself, if a new call would not help, or if the server may have
                forgotten the request_ids, so that a batch could be published twice.
        """
        if not self._backoff.may_resume(error):
            raise error
        delay = self._backoff.next_delay(error.retry_after)
        if self._unanswered:
            age_s = self._clock() - self._unanswered[0][1]
            if age_s + delay > safe_s(self.window_s):
                raise error
        self.reconnects += 1
        return delay
