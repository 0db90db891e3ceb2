"""Tasks that one process in the whole deployment does for a project, as their owner sees them."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from uuid import uuid4

from contex_server.kernel.errors import ContexError
from contex_server.log.port import EventLog

HOLD_MS = 10_000


class Claims:
    """One kind of task, for any project.

    It is renewed by whoever asks whether they still have it, before each step that must not be
    taken without. Who doesn't ask for `hold_ms` may have lost it to another.

    Args:
        event_log: Where it is known who has which.
        task: The task's name.
        hold_ms: How long one that is not renewed stays its owner's.

    Attributes:
        owner: Whose they are, unlike that of any other.
    """

    def __init__(self, event_log: EventLog, task: str, *, hold_ms: int = HOLD_MS) -> None:
        self.owner = f"{os.getpid()}-{uuid4().hex[:12]}"
        self._log = event_log
        self._task = task
        self._hold_ms = hold_ms
        self._at: dict[str, float] = {}
        """When each was claimed last."""

    def sure_of(self, project: str) -> bool:
        """Whether a project's is this owner's for another half of `hold_ms` at least."""
        return time.monotonic() < self._at.get(project, -1e9) + self._hold_ms / 2_000

    async def take(self, project: str, *, afresh: bool = False) -> bool:
        """Takes or keeps a project's; whether it is this owner's for half of `hold_ms` at least.

        With `afresh` the store is asked, and it is for all of it: after what may have taken
        longer.

        Raises:
            ContexError: STORE_UNAVAILABLE.
        """
        now = time.monotonic()
        if afresh or not self.sure_of(project):
            if not await self._log.claim(project, self._task, self.owner, self._hold_ms):
                self.lost(project)
                return False
            self._at[project] = now
        return True

    def lost(self, project: str) -> None:
        """Notes that another has it by now."""
        self._at.pop(project, None)

    async def give_back(self, project: str) -> None:
        """Lets others have it at once, if the store can be reached."""
        if self._at.pop(project, None) is not None:
            with suppress(ContexError):
                await self._log.disclaim(project, self._task, self.owner)

    async def give_all_back(self) -> None:
        """The same for all of them."""
        await asyncio.gather(*map(self.give_back, tuple(self._at)))
