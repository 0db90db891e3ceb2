"""What a call looks at: counted where events, data and needs pass by, charged to whom it works for.

A scan is never cut: what it looks at is charged as it goes, and the next call pays, or, in a stream
that is `throttled`, its next page.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

MOST_PAUSE_S = 1.0
"""How long a stream sleeps before it looks again whether it still owes."""


class Meter:
    """Charges what one call looks at.

    Args:
        owner: Whom it is charged to.
        charge: Takes a number of units.
        owed_s: How long until what was charged is paid for; 0: nothing is owed.
        throttled: Whether the call waits for that between its pages.
    """

    __slots__ = ("_charge", "_owed_s", "_task", "_throttled", "owner", "units")

    def __init__(
        self,
        owner: str,
        charge: Callable[[int], None],
        owed_s: Callable[[], float],
        *,
        throttled: bool,
    ) -> None:
        self.owner = owner
        self._charge = charge
        self._owed_s = owed_s
        self._throttled = throttled
        self._task: asyncio.Task[object] | None = asyncio.current_task()
        self.units = 0

    def add(self, units: int) -> None:
        """Charges units; nothing once the call is over: what it started may go on for others."""
        if self._task is not None:
            self.units += units
            self._charge(units)

    @property
    def waits(self) -> bool:
        """Whether the next page has to wait. Only in the call's own task: work that was begun for
        it may be shared with others."""
        return self._throttled and self._task is asyncio.current_task() and self._owed_s() > 0

    async def pace(self) -> None:
        """Waits until everything is paid for."""
        while self.waits:  # noqa: ASYNC110 - ends with time
            await asyncio.sleep(min(self._owed_s(), MOST_PAUSE_S))

    def close(self) -> None:
        """The call is over."""
        self._task = None


_METER: ContextVar[Meter | None] = ContextVar("contex_meter", default=None)


@contextmanager
def metered(meter: Meter) -> Iterator[None]:
    """Charges the `with` block, and the tasks that it starts, as long as it lasts."""
    token = _METER.set(meter)
    try:
        yield
    finally:
        meter.close()
        _METER.reset(token)


def owner() -> str:
    """Whom the work of this task is charged to; "" if nobody is."""
    meter = _METER.get()
    return "" if meter is None else meter.owner


def looked_at(units: int) -> None:
    """Counts events, data or needs that were looked at."""
    meter = _METER.get()
    if meter is not None and units:
        meter.add(units)


def must_wait() -> bool:
    """Whether `pace` would wait: what is to be read next should not be read ahead."""
    meter = _METER.get()
    return meter is not None and meter.waits


async def pace() -> None:
    """Between two pages of a scan: waits while the call owes for what it has looked at. Call it
    while nothing is held that others wait for."""
    meter = _METER.get()
    if meter is not None:
        await meter.pace()
