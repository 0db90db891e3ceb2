"""Replaying a range at the pace at which it was written."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, suppress
from itertools import accumulate
from typing import NamedTuple

from contex_server.kernel import event_codec
from contex_server.kernel.config import Settings
from contex_server.kernel.drain import Drain
from contex_server.kernel.errors import shutting_down
from contex_server.kernel.model import BEGINNING, Entry, EventFilter, Range, Sequence, body_of
from contex_server.log.pages import check_same_log, pages
from contex_server.log.port import EventLog

_KEEP_S = 1.0
"""How long events that were read may wait until they are due. What waits longer is read again: long
pauses hold no memory, and nothing is sent that was erased in them."""
_SLOW_PAGE = 64
"""Events that are read at a time after such a pause: more would be read in vain again and again."""
_HELD_BACK_S = 1.0
"""A reader that takes longer to take a message than this holds the replay back."""


class Pace:
    """When each event of a replay is due, in seconds of a clock that never goes back.

    Every time follows from the first one, so that what sending takes does not add up.

    Args:
        speed: How many seconds of the log pass in one.
        max_pause_s: The longest pause between two events.
    """

    def __init__(self, speed: float, max_pause_s: float) -> None:
        self._speed = speed
        self._max_pause_s = max_pause_s
        self._last_ms: int | None = None
        self._last_due_s = 0.0

    def due_s(self, unix_ms: int, now_s: float) -> float:
        """When an event of this time is due, after those that were sent; the first one is now."""
        if self._last_ms is None:
            return now_s
        gap_s = abs(unix_ms - self._last_ms) / 1000 / self._speed
        return self._last_due_s + min(gap_s, self._max_pause_s)

    def sent(self, unix_ms: int, now_s: float) -> None:
        """Goes on from an event of this time."""
        self._last_due_s = self.due_s(unix_ms, now_s)
        self._last_ms = unix_ms

    def shift(self, seconds: float) -> None:
        """Puts off everything that is left."""
        self._last_due_s += seconds


class Step(NamedTuple):
    """What a paced replay comes to next.

    Attributes:
        place: Where the reader stands after it.
        entries: Events that are due together; none: a sign of life.
        moved: Whether `place` is not that of the step before.
    """

    place: Sequence
    entries: list[Entry]
    moved: bool = True


class PacedReplay:
    """A range of a log, each event of it when it is due.

    Args:
        passing: Selects the events that the reader gets, which set the pace.
        event_filter: Passes all that `passing` selects, and saves reading much else.
    """

    def __init__(
        self,
        log: EventLog,
        project: str,
        span: Range,
        passing: Callable[[list[Entry]], Awaitable[list[Entry]]],
        pace: Pace,
        *,
        event_filter: EventFilter,
        settings: Settings,
        drain: Drain,
    ) -> None:
        self._log = log
        self._project = project
        self._span = span
        self._passing = passing
        self._pace = pace
        self._filter = event_filter
        self._settings = settings
        self._drain = drain
        self._heartbeat_s = settings.heartbeat_interval_ms / 1000
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._place: Sequence = BEGINNING
        self._last_step_s = self._loop.time()
        self._due_s: float | None = None

    async def steps(self) -> AsyncGenerator[Step, None]:
        """All of it, with a sign of life after each heartbeat interval without an event.

        Raises:
            ContexError: SHUTTING_DOWN, in a pause too; SEQUENCE_TRIMMED, LOG_CHANGED and what else
                reading raises.
        """
        last: Sequence = BEGINNING
        self._drain.add(self._stopped.set)
        try:
            async with aclosing(self._parts()) as steps:
                async for step in steps:
                    began_s = self._loop.time()
                    yield step._replace(moved=step.place != last)
                    last, self._last_step_s = step.place, self._loop.time()
                    held_back_s = self._last_step_s - began_s
                    if held_back_s > _HELD_BACK_S:
                        self._pace.shift(held_back_s)
        finally:
            self._drain.remove(self._stopped.set)

    async def _parts(self) -> AsyncGenerator[Step, None]:
        """Reads, pauses and reads on."""
        log, project, resumed = self._log, self._project, False
        while True:
            async with aclosing(self._part(resumed)) as steps:
                async for step in steps:
                    yield step
            if self._due_s is None:
                return
            async with aclosing(self._pause(self._due_s)) as steps:
                async for step in steps:
                    yield step
            bounds, readable = await log.bounds(project), not self._span.backwards
            await check_same_log(log, project, bounds, self._place, readable=readable)
            self._span, resumed = self._span.rest(self._place), True

    async def _part(self, resumed: bool) -> AsyncGenerator[Step, None]:
        """What is left, up to a pause that is too long to keep what was read: `_due_s` is when the
        event after it is due, and None at the end."""
        self._due_s = None
        max_events = self._settings.replay_page_events
        if resumed and self._filter.is_open:
            max_events = min(_SLOW_PAGE, max_events)
        source = pages(
            self._log,
            self._project,
            self._span,
            resumed=resumed,
            max_events=max_events,
            event_filter=self._filter,
        )
        async with aclosing(source):
            async for page in source:
                read_s = self._loop.time()
                waiting = await self._passing(page.entries)
                start = at = 0
                while start < len(waiting):
                    end, due_s = self._take_due(waiting, start)
                    for entries in batches(waiting[start:end], self._settings.message_bytes):
                        self._place = event_codec.proven(entries[-1])
                        yield Step(self._place, entries)
                    start = end
                    if due_s is None:
                        continue
                    at = page.entries.index(waiting[start], at)
                    if at:
                        self._place = event_codec.proven(page.entries[at - 1])
                    if due_s - read_s > _KEEP_S:
                        self._due_s = due_s
                        return
                    async with aclosing(self._pause(due_s)) as steps:
                        async for step in steps:
                            yield step
                if page.entries:
                    self._place = event_codec.proven(page.entries[-1])
                    if self._is_silent:
                        yield Step(self._place, [])
                if self._drain.started and not page.last:
                    raise shutting_down()

    def _take_due(self, waiting: list[Entry], start: int) -> tuple[int, float | None]:
        """The end of those from `start` on that are due, and when the next one is, if there is."""
        now_s = self._loop.time()
        for end in range(start, len(waiting)):
            unix_ms = waiting[end].sequence.ms
            due_s = self._pace.due_s(unix_ms, now_s)
            if due_s > now_s:
                return end, due_s
            self._pace.sent(unix_ms, now_s)
        return len(waiting), None

    async def _pause(self, until_s: float) -> AsyncGenerator[Step, None]:
        while self._loop.time() < until_s:
            if self._is_silent:
                yield Step(self._place, [])
                continue
            beat_s = self._last_step_s + self._heartbeat_s
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(until_s, beat_s)):
                    await self._stopped.wait()
            if self._drain.started:
                raise shutting_down()

    @property
    def _is_silent(self) -> bool:
        return self._loop.time() - self._last_step_s >= self._heartbeat_s


def batches(entries: list[Entry], message_bytes: int) -> Iterator[list[Entry]]:
    """Events in batches of bounded size."""
    ends = list(accumulate(map(len, map(body_of, entries))))
    start = sent = 0
    while start < len(entries):
        end = bisect_right(ends, sent + message_bytes, start)
        end = max(end, start + 1)
        yield entries[start:end]
        start, sent = end, ends[end - 1]
