"""Delays between the attempts of a background task."""

from __future__ import annotations

import asyncio
import random


class Backoff:
    """Exponential delays with jitter: each is between a half and the whole of a value that
    doubles from one attempt to the next.

    Args:
        first_s: The value for the first delay, in seconds.
        max_s: Its maximum.
    """

    def __init__(self, first_s: float, max_s: float) -> None:
        self._first_s = self._value_s = first_s
        self._max_s = max_s

    def reset(self) -> None:
        """Begins anew, after a success."""
        self._value_s = self._first_s

    def next_s(self) -> float:
        """The next delay, in seconds."""
        value_s, self._value_s = self._value_s, min(2 * self._value_s, self._max_s)
        return random.uniform(value_s / 2, value_s)

    async def wait(self) -> None:
        """Waits for the next delay."""
        await asyncio.sleep(self.next_s())
