"""A log whose readers see events as they were published, or that they were erased.

Single events come as every client can read them. Pages come as they are stored, damaged events
too: who reads them decodes every event, or checks them as it sends them (`api/shared/wire.py`).

What is read is charged to the call that it is read for; see `kernel/work.py`.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping
from typing import Any

from contex_server.kernel import event_codec
from contex_server.kernel.byte_budget import ByteBudget
from contex_server.kernel.errors import ContexError
from contex_server.kernel.failures import AWAY
from contex_server.kernel.model import Append, Appended, Entry, EventFilter, Range, Sequence
from contex_server.kernel.work import looked_at
from contex_server.log.port import Bounds, EventLog, Followed, Follower, Part
from contex_server.tiers.sealer import Sealer


class SealedLog(EventLog):
    """A log with its sealed events opened. Publishers seal; see `Sealer.seal`."""

    def __init__(self, below: EventLog, sealer: Sealer) -> None:
        self._below = below
        self._sealer = sealer

    @property
    def reading(self) -> ByteBudget:
        return self._below.reading

    def append(self, append: Append) -> Coroutine[Any, Any, Appended]:
        return self._below.append(append)  # Awaited by the caller: no frame of its own.

    async def read_part(self, project: str, span: Range, count: int, max_bytes: int) -> Part:
        part = await self._below.read_part(project, span, count, max_bytes)
        looked_at(len(part.entries))
        return part._replace(entries=await self._sealer.open(project, part.entries))

    def forget_keys(self, project: str) -> None:
        self._sealer.forget(project)

    async def narrow(self, project: str, span: Range, event_filter: EventFilter) -> Range:
        return await self._below.narrow(project, span, event_filter)

    async def get(self, project: str, sequences: Iterable[Sequence]) -> list[Entry | None]:
        entries = await self._below.get(project, sequences)
        looked_at(len(entries))
        stored = [event_codec.readable(entry) for entry in entries if entry is not None]
        opened = iter(await self._sealer.open(project, stored))
        return [None if entry is None else next(opened) for entry in entries]

    async def bounds(self, project: str) -> Bounds:
        return await self._below.bounds(project)

    async def history(
        self, project: str, sequence: Sequence, count: int, max_bytes: int
    ) -> list[Entry]:
        entries = await self._below.history(project, sequence, count, max_bytes)
        looked_at(len(entries))
        return await self._sealer.open(project, list(map(event_codec.readable, entries)))

    def home(self, project: str) -> str:
        return self._below.home(project)

    def follower(self) -> Follower:
        return _Follower(self._below.follower(), self._sealer)


class _Follower(Follower):
    def __init__(self, below: Follower, sealer: Sealer) -> None:
        self._below = below
        self._sealer = sealer

    async def poll(self, positions: Mapping[str, Sequence]) -> dict[str, Followed]:
        opened: dict[str, Followed] = {}
        for project, followed in (await self._below.poll(positions)).items():
            try:
                entries = await self._sealer.open(project, followed.entries)
                opened[project] = followed._replace(entries=entries)
            except Exception as error:
                if isinstance(error, ContexError) and error.reason in AWAY:
                    raise
                opened[project] = followed._replace(entries=[], error=error)
        return opened

    def wake(self) -> None:
        self._below.wake()

    async def close(self) -> None:
        await self._below.close()
