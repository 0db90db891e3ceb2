"""A log whose readers see events as they were published, or that they were erased."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

from contex_server.kernel.model import Entry, Sequence
from contex_server.log.layer import LogLayer
from contex_server.log.port import EventLog, Follower
from contex_server.tiers.sealer import Sealer


def with_sealing(log: EventLog, sealer: Sealer) -> EventLog:
    """The log with its sealed events opened."""
    return cast(EventLog, _SealedLog(log, sealer))


class _SealedLog(LogLayer):
    """See `EventLog`."""

    def __init__(self, below: EventLog, sealer: Sealer) -> None:
        super().__init__(below)
        self._sealer = sealer

    async def read(self, project: str, after: Sequence, until: Sequence, count: int) -> list[Entry]:
        """See `EventLog.read`."""
        return await self._sealer.open(
            project, await self._below.read(project, after, until, count)
        )

    async def read_back(
        self, project: str, until: Sequence, after: Sequence, count: int
    ) -> list[Entry]:
        """See `EventLog.read_back`."""
        return await self._sealer.open(
            project, await self._below.read_back(project, until, after, count)
        )

    async def get(self, project: str, sequences: Iterable[Sequence]) -> list[Entry | None]:
        """See `EventLog.get`."""
        entries = await self._below.get(project, sequences)
        there = await self._sealer.open(project, [e for e in entries if e is not None])
        opened = iter(there)
        return [None if entry is None else next(opened) for entry in entries]

    async def history(
        self, project: str, sequence: Sequence, count: int, max_bytes: int
    ) -> list[Entry]:
        """See `EventLog.history`."""
        return await self._sealer.open(
            project, await self._below.history(project, sequence, count, max_bytes)
        )

    def follower(self, bucket: int) -> Follower:
        """See `EventLog.follower`."""
        return _Follower(self._below.follower(bucket), self._sealer)


class _Follower:
    def __init__(self, below: Follower, sealer: Sealer) -> None:
        self._below = below
        self._sealer = sealer

    async def poll(self, positions: Mapping[str, Sequence]) -> dict[str, list[Entry]]:
        """See `Follower.poll`."""
        received = await self._below.poll(positions)
        return {
            project: await self._sealer.open(project, entries)
            for project, entries in received.items()
        }

    async def close(self) -> None:
        """See `Follower.close`."""
        await self._below.close()
