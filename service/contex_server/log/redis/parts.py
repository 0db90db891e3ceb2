"""Reads parts of the log whose bytes are bounded, in the store as well as here."""

from __future__ import annotations

import time
from typing import Any

from cachetools import LRUCache

from contex_server.kernel.model import END_OF_TIME, Entry, Range
from contex_server.log.port import Part
from contex_server.log.redis.client import Client, entries_of, fcall, range_command
from contex_server.log.redis.connections import Command
from contex_server.log.redis.key_names import key

_PLAIN_BYTES = 16 * 1024 * 1024
"""The largest answer that is asked for without a bound of bytes."""
_TRUSTED_S = 1.0
"""How long what is known of a project's largest event holds. Nobody appends `_PLAIN_BYTES` of
larger ones, and has them read at once, in that time."""


class PartReader:
    """Reads parts of logs.

    XRANGE takes no bound of bytes. It is used where the largest event of the project says that
    its answer is small: a function that stops in time costs the store four times as much.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._largest: LRUCache[str, tuple[int, float]] = LRUCache(10_000)

    async def read(
        self, project: str, span: Range, count: int, max_bytes: int, *more: Command
    ) -> tuple[Part, list[Any]]:
        """See `EventLog.read_part`; and the replies to further commands, run after the read."""
        events, stats = key(project, "events"), key(project, "stats")
        if span.backwards and span.until < END_OF_TIME:
            # XREVRANGE from before the first entry walks the whole stream: 30 ms and more.
            some = Range(until=span.until)
            if not (await self._client.run(project, range_command(events, some, 1)))[0]:
                return Part([], ended=True), await self._client.run(project, *more)
        asked = time.monotonic()
        answer_bytes = count * self._largest_of(project, asked)
        plain = count == 1 or answer_bytes <= _PLAIN_BYTES
        command = range_command(events, span, count)
        if not plain:
            name, _, start, end, _, _ = command
            arguments = (name, start, end, count, max_bytes)
            _, *rest = fcall(project, "contex1_read_part", ("events",), *arguments)
            command = ("FCALL_RO", *rest)
        rows, largest, *replies = await self._client.run(
            project, command, ("HGET", stats, "largest"), *more
        )
        if largest is not None:
            self._largest[project] = int(largest), asked
        if not plain:
            pairs = zip(rows[1::2], rows[2::2], strict=True)
            return Part([Entry(*pair) for pair in pairs], ended=rows[0] == 1), replies
        part = Part(entries_of(rows), ended=len(rows) < count)
        return part.within(max_bytes) if answer_bytes > max_bytes else part, replies

    def _largest_of(self, project: str, now: float) -> float:
        """The size of the project's largest event, or infinity if that is not known."""
        largest, at = self._largest.get(project, (0, 0.0))
        return largest if at and now - at < _TRUSTED_S else float("inf")
