"""Number of open streams in the whole deployment: each process reports its own."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import NamedTuple
from uuid import uuid4

import structlog

from contex_server.kernel.errors import ContexError
from contex_server.kernel.failures import Failures
from contex_server.log.port import PresenceStore

log = structlog.get_logger(__name__)

_SAY_S = 5.0
_SOON_S = 0.2
_VALID_MS = 15_000
_FORGET_MS = 3_600_000


class Open(NamedTuple):
    """Open streams of a project."""

    subscribers: int
    listeners: int


class Presence:
    """Counts the streams of this process and reports them."""

    def __init__(self, store: PresenceStore) -> None:
        self._store = store
        self._owner = f"{os.getpid()}-{uuid4().hex[:12]}"
        self._open: dict[str, list[int]] = {}
        self._said: set[str] = set()
        self._failures = Failures("presence_unsaid")
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="contex-presence")

    def subscriber(self, project: str) -> AbstractContextManager[None]:
        """A Subscribe stream, while the block lasts."""
        return self._stream(project, 0)

    def listener(self, project: str) -> AbstractContextManager[None]:
        """A Listen stream, while the block lasts."""
        return self._stream(project, 1)

    async def count(self, project: str, now_ms: int) -> Open:
        """The open streams of all processes; their reports may be some seconds old.

        Raises:
            ContexError: STORE_UNAVAILABLE.
        """
        subscribers, listeners = self._open.get(project, [0, 0])
        for owner, said in (await self._store.presence(project)).items():
            at_ms, theirs, listening = map(int, said.split(" "))
            if owner == self._owner:
                continue
            if now_ms - at_ms <= _VALID_MS:
                subscribers += theirs
                listeners += listening
            elif now_ms - at_ms > _FORGET_MS:
                await self._store.put_presence(project, owner, "")
        return Open(subscribers, listeners)

    async def close(self) -> None:
        """Withdraws the reports."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        with suppress(ContexError):
            for project in self._said:
                await self._store.put_presence(project, self._owner, "")

    @contextmanager
    def _stream(self, project: str, kind: int) -> Iterator[None]:
        counts = self._open.setdefault(project, [0, 0])
        counts[kind] += 1
        self._changed.set()
        try:
            yield
        finally:
            counts[kind] -= 1
            if not any(counts) and self._open.get(project) is counts:
                del self._open[project]
            self._changed.set()

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_SAY_S if self._open else None):
                    await self._changed.wait()
            await asyncio.sleep(_SOON_S)
            self._changed.clear()
            try:
                await self._say()
            except ContexError as error:
                log.debug("presence_unsaid", error=error.message)

    async def _say(self) -> None:
        now_ms = time.time_ns() // 1_000_000
        for project, (subscribers, listeners) in tuple(self._open.items()):
            with self._failures.isolated(project):
                said = f"{now_ms} {subscribers} {listeners}"
                await self._store.put_presence(project, self._owner, said)
                self._said.add(project)
        for project in self._said - self._open.keys():
            self._said.discard(project)
            with self._failures.isolated(project):
                await self._store.put_presence(project, self._owner, "")
