"""When to try again, and for how long. No I/O: the callers call and sleep.

gRPC itself retries reads (see `channel.py`). Writes are retried by `Retry`, and only by it, so
that attempts don't multiply, that the server's RetryInfo is honoured, which gRPC does not read,
and that the caller's timeout bounds everything. Streams are resumed with `Backoff` alone.

This is ours rather than stamina's because importing stamina takes as long as half of gRPC, and it
has neither per-attempt deadlines that share a budget nor a server's RetryInfo below the jitter.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import grpc

from .errors import ContexError, Unauthenticated, is_transient

BASE_S = 0.05
CAP_S = 5.0

PROMISED_WINDOW_S = 600.0
"""How long every server remembers a request_id at the least; most say how long they do."""

_MAX_UNEXPLAINED_FAILURES = 5
_MIN_ATTEMPT_S = 1.0
_SPARE_S = 45.0
"""What an attempt leaves for others. Pings find a dead connection in 40 s, so that a longer attempt
is one that the server works on."""


def safe_s(window_s: float) -> float:
    """How long a request may be repeated whose id is remembered for `window_s`: a tenth is left for
    clocks and the network."""
    return 0.9 * window_s


class Backoff:
    """Exponential backoff with full jitter.

    The n-th wait is uniform in 0 … min(5 s, 50 ms · 2ⁿ), so that clients that lost a server
    together don't come back together. (Full jitter as in M. Brooker, "Exponential Backoff and
    Jitter", AWS Architecture Blog, 2015.)
    """

    def __init__(
        self,
        uniform: Callable[[float, float], float] = random.uniform,
        is_renewed: Callable[[ContexError], bool] = lambda error: False,
    ) -> None:
        self._uniform = uniform
        self._is_refused = False
        self.is_renewed = is_renewed
        """Whether a new call has other credentials than the one that was refused."""
        self.failures = 0
        """Failures in a row."""

    def reset(self) -> None:
        """Notes a success: the next wait is short again."""
        self.failures = 0
        self._is_refused = False

    def is_hopeless(self, error: ContexError) -> bool:
        """Whether the failure of a stream, after those in a row, is not a broken connection.

        A server that can't be reached will come back. An INTERNAL or UNKNOWN that repeats is a
        defect, which should be reported.
        """
        return (
            error.code is not grpc.StatusCode.UNAVAILABLE
            and not error.reason
            and self.failures >= _MAX_UNEXPLAINED_FAILURES
        )

    def may_resume(self, error: ContexError) -> bool:
        """Whether a stream goes on in a new call after this error.

        So it does once where its credentials have expired, for the new call has fresh ones if the
        client is able to get some; and where they were refused, and there are others by now.
        """
        if isinstance(error, Unauthenticated):
            if self._is_refused:
                return False
            self._is_refused = True
            return self.is_renewed(error) or error.cause == "EXPIRED"
        return is_transient(error) and not self.is_hopeless(error)

    def next_delay(self, retry_after: float | None = None) -> float:
        """Notes a failure.

        Args:
            retry_after: Seconds the server asked for. The jitter is added to them.

        Returns:
            Seconds to wait.
        """
        # The exponent is bounded so that a long outage can't overflow the float.
        ceiling = min(CAP_S, BASE_S * 2 ** min(self.failures, 16))
        self.failures += 1
        return (retry_after or 0.0) + self._uniform(0.0, ceiling)


class Retry:
    """The attempts of one call.

    Args:
        timeout: Seconds for all attempts and the waits between them.
        endless: Whether `timeout` limits each attempt instead, and their number is not limited.
        idempotent: Whether the call may be repeated when it is unknown whether it took effect.
            If not, it is repeated only after the server has refused it.
        backoff: Computes the waits between attempts.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        timeout: float,
        *,
        endless: bool = False,
        idempotent: bool = True,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._idempotent = idempotent
        self._backoff = backoff or Backoff()
        self._attempt_s = timeout if endless else None
        self._timeout_s = timeout
        now = clock()
        self._started = now
        self._deadline = now + timeout
        self.window_s = PROMISED_WINDOW_S
        """How long the server remembers the call's request_id."""

    @property
    def outlasts_window(self) -> bool:
        """Whether attempts might be made when the server has forgotten the call's request_id."""
        is_bounded = self._idempotent and self._attempt_s is None
        return is_bounded and self._timeout_s > safe_s(self.window_s)

    def attempt_timeout(self) -> float:
        """Seconds for the next attempt.

        Half of what is left, or all but `_SPARE_S`, so that an attempt that hangs leaves time for
        others; all of it if no second attempt would be made.
        """
        if self._attempt_s is not None:
            return self._attempt_s
        now = self._clock()
        left = max(0.0, self._deadline - now)
        attempt = min(left, max(left / 2, left - _SPARE_S, _MIN_ATTEMPT_S))
        return attempt if self._idempotent and now + attempt < self._last_retry else left

    @property
    def _last_retry(self) -> float:
        return min(self._deadline, self._started + safe_s(self.window_s))

    def delay_after(self, error: ContexError) -> float:
        """Notes a failed attempt.

        Returns:
            Seconds to wait before the next attempt.

        Raises:
            ContexError: `error` itself, if a retry can't help, is not safe, or would come too
                late.
        """
        refused = error.code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.ABORTED)
        if not is_transient(error) or not (self._idempotent or refused):
            raise error
        delay = self._backoff.next_delay(error.retry_after)
        if self._attempt_s is None and self._clock() + delay >= self._last_retry:
            raise error
        return delay
