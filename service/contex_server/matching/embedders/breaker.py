"""A circuit breaker: spares an endpoint that keeps failing."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from contex_server.matching.embedders.port import EmbeddingFailed


class CircuitOpen(EmbeddingFailed):
    """Not tried, because it failed repeatedly a moment ago."""

    def __init__(self, retry_in_s: float) -> None:
        super().__init__(
            f"the embedding endpoint keeps failing; it is tried again in {retry_in_s:.1f} s"
        )
        self.retry_in_s = retry_in_s


class Breaker:
    """Counts failures and decides whether one more attempt may be made.

    Closed, it admits everything. After `failures` in a row it opens, and admits nothing for a
    time that doubles with every opening in a row. Then it admits one attempt as a probe, which
    closes it or opens it again.
    """

    def __init__(
        self,
        *,
        failures: int = 5,
        shortest_s: float = 1.0,
        longest_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Creates a closed breaker.

        Args:
            failures: Failures in a row that open it.
            shortest_s: The first opening lasts half of this to all of it.
            longest_s: Maximum duration of an opening.
            clock: Seconds.
            jitter: A number from 0 to 1, so that many servers don't return at once.
        """
        self._failures = failures
        self._shortest_s = shortest_s
        self._longest_s = longest_s
        self._clock = clock
        self._jitter = jitter
        self._failed = 0
        self._opened = 0
        self._until = 0.0
        self._probing = False

    def check(self) -> None:
        """Raises CircuitOpen if it is open, or a probe is under way."""
        if not self._opened:
            return
        left = self._until - self._clock()
        if left > 0 or self._probing:
            raise CircuitOpen(max(left, 0.0))

    def admit(self) -> bool:
        """Begins an attempt, which must be ended by one of the methods below.

        Returns:
            Whether this is the probe. Raises as `check` does.
        """
        self.check()
        self._probing = self._opened > 0
        return self._probing

    def succeeded(self) -> None:
        """An attempt succeeded: closed."""
        self._failed = self._opened = 0
        self._probing = False

    def failed(self) -> None:
        """An attempt failed."""
        if self._opened and not self._probing:
            return  # It began before the opening, and says nothing new.
        self._failed += 1
        if self._probing or self._failed >= self._failures:
            open_s = min(self._shortest_s * 2**self._opened, self._longest_s)
            self._until = self._clock() + open_s * (1 + self._jitter()) / 2
            self._opened += 1
        self._probing = False

    def abandoned(self) -> None:
        """An attempt ended inconclusively: cancelled, or refused for its content."""
        self._probing = False
