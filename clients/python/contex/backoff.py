"""How long to wait before trying again."""

from __future__ import annotations

import random
from collections.abc import Callable

BASE_S = 0.05
CAP_S = 5.0


class Backoff:
    """Exponential backoff with full jitter.

    The n-th wait is uniform in 0 … min(5 s, 50 ms · 2ⁿ): clients that lost a server together
    don't come back together. (Full jitter as in M. Brooker, "Exponential Backoff and Jitter",
    AWS Architecture Blog, 2015.)
    """

    def __init__(self, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._uniform = uniform
        self.failures = 0
        """Failures in a row."""

    def reset(self) -> None:
        """Something got through: the next wait is a short one again."""
        self.failures = 0

    def next_delay(self, retry_after: float | None = None) -> float:
        """Counts a failure.

        Args:
            retry_after: What the server asked for, seconds. It comes first, the jitter on top.

        Returns:
            Seconds to wait.
        """
        # The exponent is bounded so that a long outage can't overflow the float.
        ceiling = min(CAP_S, BASE_S * 2 ** min(self.failures, 16))
        self.failures += 1
        return (retry_after or 0.0) + self._uniform(0.0, ceiling)
