"""The calls under way, and the door that a shutdown closes."""

from __future__ import annotations

import asyncio
from typing import Any

from contex_server.edge.incoming import Incoming, Rest
from contex_server.kernel.drain import Drain
from contex_server.kernel.errors import shutting_down


class Calls:
    """The calls under way."""

    def __init__(self, drain: Drain) -> None:
        self._drain = drain
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def active(self) -> int:
        """How many calls are being handled."""
        return len(self._tasks)

    async def finished(self, timeout_s: float) -> bool:
        """Waits until no call is left; False if some still run after the timeout."""
        # grpc.aio's stop() may return before its handlers have ended.
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout_s)
        return not self._tasks

    async def track(self, call: Incoming, rest: Rest) -> Any:
        """Link: knows of the call while it runs."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            return await rest(call)
        finally:
            self._tasks.discard(task)

    async def refuse_when_draining(self, call: Incoming, rest: Rest) -> Any:
        """Link: refuses new calls with SHUTTING_DOWN once the shutdown has begun."""
        if self._drain.started:
            raise shutting_down()
        return await rest(call)
