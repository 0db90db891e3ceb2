"""Which projects are encrypted as a whole: also the events that name no subject.

Publishing asks this each time, so the answer is kept. One number in the store tells every process
that it must ask again; it is read often enough that a change holds everywhere within `FRESH_S`.
"""

from __future__ import annotations

import asyncio
import time

from cachetools import LRUCache

from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.failures import Failures
from contex_server.log.keys import KeyStore
from contex_server.tiers.sealer import FRESH_S

_PROJECTS = 65_536
_LOOK_S = 0.4 * FRESH_S


class Encryption:
    """Which projects are encrypted."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self._known: LRUCache[str, bool] = LRUCache(_PROJECTS)
        self._version = 0
        self._sure_until = float("-inf")
        """Until when nothing that is known can have been changed for longer than `FRESH_S`."""
        self._failures = Failures("encryption_unknown")
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts noticing what other processes change. Until then, the store is asked each time."""
        self._loop = asyncio.create_task(self._run(), name="contex-encryption")

    async def close(self) -> None:
        """Stops noticing it."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)

    async def holds(self, project: str) -> bool:
        """Whether a project's events are to be encrypted.

        Raises:
            ContexError: STORE_UNAVAILABLE.
        """
        if time.monotonic() < self._sure_until:
            known: bool | None = self._known.get(project)
            if known is not None:
                return known
        version = self._version
        known = await self._store.is_encrypted(project)
        if version == self._version:  # Or it may have been asked for too early.
            self._known[project] = known
        return known

    async def change(self, project: str, *, enabled: bool, action: bytes) -> None:
        """Turns encryption on or off; returns when no process takes it to be off that is on.

        Raises:
            ContexError: STORE_UNAVAILABLE: it may hold, or may not; the call may be repeated.
        """
        await self._store.put_encrypted(project, enabled=enabled, action=action)
        await self._store.tell_encryption_changed()
        self._forget()
        if enabled:
            await asyncio.sleep(FRESH_S)

    def forget(self, project: str) -> None:
        """A project was deleted, or has another log."""
        self._version += 1
        self._known.pop(project, None)

    def _forget(self) -> None:
        self._version += 1
        self._known.clear()

    async def _run(self) -> None:
        told: int | None = None
        while True:
            began = time.monotonic()
            try:
                version = await self._store.encryption_version()
                if version != told:
                    self._forget()
                told, self._sure_until = version, began + FRESH_S
                self._failures.worked("")
            except ContexError as error:
                # The store is asked for each project meanwhile; that it is away is told elsewhere.
                if error.reason is not Reason.STORE_UNAVAILABLE:
                    self._failures.failed("", error)
            except Exception as error:
                self._failures.failed("", error)
            await asyncio.sleep(_LOOK_S)
