"""Follows the logs of one bucket for any number of readers."""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from contex_server.kernel.backoff import Backoff
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.model import Entry, Sequence
from contex_server.log.port import Follower

log = structlog.get_logger(__name__)

_BACKOFF_S = (0.05, 2.0)

_TURNS = 6
"""Turns of the event loop between two polls. On an idle loop they take some 100 µs. On one that is
busy with delivering they let events gather in the store: 100 subscribers of a saturated project
get 2 events a message instead of 1.6, for about the same processor time a message."""


class Followed(Protocol):
    """What a tailer feeds: a project's channel."""

    project: str
    tail: Sequence

    def receive(self, entries: list[Entry]) -> None:
        """Takes new events, in log order, and moves the tail."""
        ...

    def fail(self, error: ContexError) -> None:
        """Ends everything that the channel feeds."""
        ...


class Tailer:
    """One task and one connection. An outage of the store only delays: ids are explicit."""

    def __init__(self, follower: Follower, bucket: int) -> None:
        self._follower = follower
        self._bucket = bucket
        self._followed: dict[str, Followed] = {}
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"contex-tailer-{bucket}")

    def add(self, followed: Followed) -> None:
        """Follows a project from its tail on."""
        self._followed[followed.project] = followed
        self._changed.set()

    def remove(self, followed: Followed) -> int:
        """Stops following a project; returns how many are left."""
        # The poll under way may still report it; that is ignored.
        self._followed.pop(followed.project, None)
        return len(self._followed)

    async def close(self) -> None:
        """Ends the task and closes the connection."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _hand_over(self, followed: Followed, entries: list[Entry]) -> None:
        try:
            followed.receive(entries)
        except Exception:
            # The log holds something that is not an event. Followers of the project have
            # to know; the other projects of the bucket go on.
            log.exception("tailer_failed", project=followed.project, first=entries[0].id)
            followed.fail(
                ContexError(Reason.INTERNAL, "the log holds an entry that is not an event")
            )
            await asyncio.sleep(_BACKOFF_S[1])

    async def _run(self) -> None:
        backoff = Backoff(*_BACKOFF_S)
        changed = asyncio.create_task(self._changed.wait())
        try:
            while True:
                if not self._followed:
                    await self._changed.wait()
                self._changed.clear()
                if changed.done():
                    changed = asyncio.create_task(self._changed.wait())
                positions = {p: followed.tail for p, followed in self._followed.items()}
                poll = asyncio.create_task(self._follower.poll(positions))
                try:
                    await asyncio.wait({poll, changed}, return_when=asyncio.FIRST_COMPLETED)
                    if not poll.done():
                        # A project came in: ask again, with it. Ids are explicit, so
                        # what the abandoned answer held is asked for again.
                        poll.cancel()
                        await asyncio.gather(poll, return_exceptions=True)
                        continue
                    received = poll.result()
                except ContexError as error:
                    log.warning("tailer_interrupted", bucket=self._bucket, error=error.message)
                    await backoff.wait()
                    continue
                finally:
                    poll.cancel()
                backoff.reset()
                for project, entries in received.items():
                    if entries and project in self._followed:
                        await self._hand_over(self._followed[project], entries)
                for _ in range(_TURNS):
                    await asyncio.sleep(0)
        finally:
            changed.cancel()
            await self._follower.close()
