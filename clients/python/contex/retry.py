"""When to repeat a call that changes something. No I/O: the clients call and sleep.

Reads are retried by gRPC itself (see `channel.py`). Writes are retried here, and only here, so
that attempts don't multiply, that the server's RetryInfo is honoured, which gRPC does not read,
and that the caller's timeout bounds it all.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import grpc

from .backoff import Backoff
from .errors import ContexError, is_transient

IDEMPOTENCY_WINDOW_S = 540.0
"""The server knows a request_id for ten minutes; a minute is left for clocks and the network."""

_MIN_ATTEMPT_S = 1.0


class Retry:
    """The attempts of one call.

    Args:
        timeout: Seconds for all attempts and the waits between them.
        idempotent: Whether the call may be repeated when it is unknown if it took effect. If
            not, it is repeated only after the server has refused it.
        backoff: Waits between attempts.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        timeout: float,
        *,
        idempotent: bool = True,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._idempotent = idempotent
        self._backoff = backoff or Backoff()
        now = clock()
        self._deadline = now + timeout
        self._last_retry = now + min(timeout, IDEMPOTENCY_WINDOW_S)

    def attempt_timeout(self) -> float:
        """Seconds for the next attempt.

        Half of what is left, so that an attempt that hangs leaves time for others; all of it
        where no second attempt would be made.
        """
        left = max(0.0, self._deadline - self._clock())
        if not self._idempotent:
            return left
        return min(left, max(left / 2, _MIN_ATTEMPT_S))

    def delay_after(self, error: ContexError) -> float:
        """Takes a failed attempt.

        Returns:
            Seconds to wait before the next attempt.

        Raises:
            ContexError: `error` itself, where a retry can't help, is not safe, or would come
                too late.
        """
        if not self._may_repeat(error):
            raise error
        delay = self._backoff.next_delay(error.retry_after)
        if self._clock() + delay >= self._last_retry:
            raise error
        return delay

    def _may_repeat(self, error: ContexError) -> bool:
        refused = error.code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.ABORTED)
        return is_transient(error) and (self._idempotent or refused)
