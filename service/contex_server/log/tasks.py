"""Tasks that one process in the whole deployment does for a project."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from typing import Protocol
from uuid import uuid4

from contex_server.kernel.errors import ContexError

HOLD_MS = 10_000


class TaskStore(Protocol):
    """Which process does which task. See `EventLog` for errors."""

    async def claim(self, project: str, task: str, owner: str, ttl_ms: int) -> bool:
        """Takes or renews a task; returns whether `owner` holds it for the next `ttl_ms`.

        With 0, `owner` gives it back if it still holds it.
        """


class Claims:
    """Claims of one kind of task, for any project.

    The holder renews a claim by asking for it again, before each step that only the holder may
    take. A claim that isn't renewed for `hold_ms` may pass to another process.

    Args:
        hold_ms: How long a claim lasts without renewal.

    Attributes:
        owner: Identifies this holder; unique.
    """

    def __init__(self, store: TaskStore, task: str, *, hold_ms: int = HOLD_MS) -> None:
        self.owner = f"{os.getpid()}-{uuid4().hex[:12]}"
        self._store = store
        self._task = task
        self._hold_ms = hold_ms
        self._at: dict[str, float] = {}
        """When each project was claimed last."""

    def sure_of(self, project: str) -> bool:
        """Whether this owner holds a project for at least half of `hold_ms` more."""
        return time.monotonic() < self._at.get(project, -1e9) + self._hold_ms / 2_000

    async def take(self, project: str, *, afresh: bool = False) -> bool:
        """Takes or renews a project; returns whether it is held for at least half of `hold_ms`.

        With `afresh` the store is always asked, and the claim then lasts the full `hold_ms`:
        for use after a step that may have taken long.
        """
        now = time.monotonic()
        if afresh or not self.sure_of(project):
            if not await self._store.claim(project, self._task, self.owner, self._hold_ms):
                self.lost(project)
                return False
            self._at[project] = now
        return True

    def lost(self, project: str) -> None:
        """Records that another process holds a project now."""
        self._at.pop(project, None)

    async def give_back(self, project: str) -> None:
        """Releases a project at once, if the store can be reached."""
        if self._at.pop(project, None) is not None:
            with suppress(ContexError):
                await self._store.claim(project, self._task, self.owner, 0)

    async def give_all_back(self) -> None:
        """Releases all projects."""
        await asyncio.gather(*map(self.give_back, tuple(self._at)))
