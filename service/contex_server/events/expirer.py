"""Lets facts and agents expire: appends the event that says so when their time has come.

Of the processes that look, the first to claim a project's task does it. The store decides what has
expired, so an event is written once even if two processes have a claim one after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.failpoints import reached
from contex_server.kernel.failures import Failures
from contex_server.kernel.growth import Growth
from contex_server.log.expiry import Expiring
from contex_server.log.tasks import Claims, TaskStore

log = structlog.get_logger(__name__)

_LOOK_S = 1.0
"""Longest time between two looks: a fact that another process appended is noticed within it."""
_SHORTEST_S = 0.1
_HOLD_MS = 1_000
"""Short, so that after a process was killed another one goes on in time."""
_BATCH = 500
"""Facts that expire in one call, in some 5 ms during which the store serves nobody else."""


def _ignored() -> None:
    pass


class Expirer:
    """Looks once a second, and when the next thing is due, whose time has come.

    Args:
        expiring: What expires.
        growth: Is told of the projects that grow by it.
        task: Names what is done for a project by one process at a time.
        interrupted: Is called whenever something that is due can't expire.
    """

    def __init__(
        self,
        expiring: Expiring,
        tasks: TaskStore,
        growth: Growth,
        *,
        task: str = "expire",
        interrupted: Callable[[], None] = _ignored,
    ) -> None:
        self._expiring = expiring
        self._growth = growth
        self._task = task
        self._interrupted = interrupted
        self._claims = Claims(tasks, task, hold_ms=_HOLD_MS)
        self._failures = Failures("expiry_failed")
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts looking; what was due while no server ran expires at once."""
        self._loop = asyncio.create_task(self._run(), name=f"contex-{self._task}")

    async def close(self) -> None:
        """Stops, perhaps before everything that is due has expired."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        await self._claims.give_all_back()

    async def _run(self) -> None:
        told: Reason | None = None
        while True:
            wait_s = _LOOK_S
            try:
                due = await self._expiring.due()
                for project in due.projects:
                    with self._failures.isolated(project):
                        await self._expire(project)
                if due.next_ms is not None:
                    wait_s = min(max(due.next_ms / 1000, _SHORTEST_S), _LOOK_S)
                told = None
            except ContexError as error:
                if error.reason != told:  # Not with every attempt: there is one a second.
                    told = error.reason
                    log.warning("expiry_interrupted", error=error.message)
            except Exception:
                log.exception("expiry_interrupted")
            await asyncio.sleep(wait_s)

    async def _expire(self, project: str) -> None:
        """Lets everything of a project expire that is due, unless another process does."""
        try:
            await self._growth.admit(project)
            more = True
            while more and await self._claims.take(project):
                expired, more = await self._expiring.expire(project, _BATCH)
                reached("facts-expired")
                if expired:
                    log.debug("expired", task=self._task, project=project, count=expired)
                    self._growth.grown(project)
            await self._claims.give_back(project)
        except Exception:
            self._interrupted()
            raise
