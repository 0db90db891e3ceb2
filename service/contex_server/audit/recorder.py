"""Notes in the audit what leaves no other trace: streams of events, data in bulk, refused calls.

Publishes and registrations are noted by the store in the step that writes them, deliveries in
the agents' journals.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import uuid4

import orjson
import structlog
from cachetools import LRUCache

from contex_server.kernel.errors import ContexError
from contex_server.kernel.model import BEGINNING, Origin, Sequence
from contex_server.log.audit import AuditStore
from contex_server.log.port import EventLog

log = structlog.get_logger(__name__)

SUBSCRIBED, UNSUBSCRIBED, EXPORTED = "SUBSCRIBED", "UNSUBSCRIBED", "EXPORTED"
ADMINISTERED, IMPORTED, REFUSED = "ADMINISTERED", "IMPORTED", "REFUSED"
_GATHER_S = 0.02
_BACKOFF_S = (0.1, 5.0)
_WAITING = 10_000
"""Maximum number of notes that wait while the store is away. Beyond it the oldest are dropped,
which is logged."""
_TOGETHER = 500
_CLOSE_S = 2.0

REFUSED_BURST, REFUSED_EVERY_S = 20, 10.0
"""Records of refused calls in a project: this many at once, then one in this many seconds. A
client that is refused all the time adds 8,640 of them a day, about 2 MiB."""
REFUSED_BURST_ALL, REFUSED_EVERY_ALL_S = 200, 1.0
"""The same for all projects together, so that inventing project names gains a client nothing."""
_REFUSED_PROJECTS = 1_000
"""Projects whose refusals are remembered."""


def action_note(
    action: str,
    origin: Origin,
    detail: str,
    *,
    sequence: Sequence | str = "",
    stream_id: str = "",
    count: int = 0,
) -> bytes:
    """An action as the audit has it; `audit/trail.py` reads it."""
    return orjson.dumps(
        {
            "action": action,
            "origin": list(origin),
            "detail": detail,
            "sequence": str(sequence),
            "stream_id": stream_id,
            "count": count,
        }
    )


class _Allowance:
    """Grants a burst, and then one more in each interval."""

    def __init__(self, burst: int, every_s: float) -> None:
        self._burst = self._left = float(burst)
        self._every_s = every_s
        self._at = time.monotonic()

    def take(self) -> bool:
        """Whether one more is granted."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) / self._every_s)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class _Note(NamedTuple):
    project: str
    body: bytes
    of_refused: bool


@dataclass(slots=True)
class _Refused:
    """What was refused in a project lately; `unrecorded` calls have no record of their own."""

    allowance: _Allowance = field(
        default_factory=lambda: _Allowance(REFUSED_BURST, REFUSED_EVERY_S)
    )
    unrecorded: int = 0


class Audit:
    """Writes notes in the background: no call waits for them or fails with them."""

    def __init__(self, event_log: EventLog, store: AuditStore) -> None:
        self._log = event_log
        self._store = store
        self._waiting: deque[_Note] = deque()
        self._refused: LRUCache[str, _Refused] = LRUCache(_REFUSED_PROJECTS)
        self._refused_all = _Allowance(REFUSED_BURST_ALL, REFUSED_EVERY_ALL_S)
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task = asyncio.create_task(self._run(), name="contex-audit")

    def opened(self, project: str, origin: Origin, method: str, start: Sequence) -> str:
        """Notes that a stream was opened at a position; returns the id it is given."""
        stream_id = uuid4().hex[:16]
        self._note(project, SUBSCRIBED, origin, method, sequence=start, stream_id=stream_id)
        return stream_id

    def closed(
        self, project: str, origin: Origin, method: str, stream_id: str, end: Sequence
    ) -> None:
        """Notes that a stream has ended, and where it stood."""
        self._note(project, UNSUBSCRIBED, origin, method, sequence=end, stream_id=stream_id)

    def exported(self, project: str, origin: Origin, method: str, count: int) -> None:
        """Notes how many events, data or records left."""
        self._note(project, EXPORTED, origin, method, count=count)

    def refused(self, project: str, origin: Origin, method: str, reason: str) -> None:
        """Notes that a call was refused, at a bounded rate.

        The record's count is the number of refused calls of the project since the record
        before, this one included.
        """
        refused = self._refused.setdefault(project, _Refused())
        refused.unrecorded += 1
        if refused.allowance.take() and self._refused_all.take():
            count, refused.unrecorded = refused.unrecorded, 0
            self._note(project, REFUSED, origin, f"{method}: {reason}", count=count)

    async def close(self) -> None:
        """Writes what waits, unless the store is away."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._idle.wait()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _note(
        self,
        project: str,
        action: str,
        origin: Origin,
        detail: str,
        *,
        sequence: Sequence | str = "",
        stream_id: str = "",
        count: int = 0,
    ) -> None:
        said = action_note(
            action, origin, detail, sequence=sequence, stream_id=stream_id, count=count
        )
        if len(self._waiting) >= _WAITING:
            lost = self._waiting.popleft()
            log.warning("audit_note_lost", project=lost.project)
        self._waiting.append(_Note(project, said, action == REFUSED))
        self._idle.clear()
        self._wake.set()

    async def _run(self) -> None:
        delay = _BACKOFF_S[0]
        while True:
            await self._wake.wait()
            await asyncio.sleep(_GATHER_S)
            try:
                while self._waiting:
                    await self._write()
                delay = _BACKOFF_S[0]
                self._wake.clear()
                self._idle.set()
            except ContexError as error:
                log.warning("audit_interrupted", error=error.message, waiting=len(self._waiting))
                await asyncio.sleep(delay)
                delay = min(2 * delay, _BACKOFF_S[1])

    async def _write(self) -> None:
        project = self._waiting[0].project
        together = [note for note in self._waiting if note.project == project][:_TOGETHER]
        bodies = [note.body for note in together if not note.of_refused]
        if len(bodies) < len(together) and (await self._log.bounds(project)).tail > BEGINNING:
            # Only then: a refused call brings no project into being.
            bodies = [note.body for note in together]
        await self._store.note_actions(project, bodies)
        written = set(map(id, together))
        self._waiting = deque(note for note in self._waiting if id(note) not in written)
