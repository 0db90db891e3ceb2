"""Records in the audit what leaves no other trace: streams, bulk reads, refused calls.

The store itself records publishes and registrations in the step that writes them, and deliveries
in the agents' journals.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import uuid4

import structlog
from cachetools import LRUCache

from contex_server.audit.records import AuditAction, encode_action
from contex_server.kernel.backoff import Backoff
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.failures import Failures
from contex_server.kernel.model import BEGINNING, UNKNOWN, Origin, Sequence
from contex_server.log.access import ACCESS
from contex_server.log.audit import AuditStore
from contex_server.log.port import EventLog

log = structlog.get_logger(__name__)

_GATHER_S = 0.02
_BACKOFF_S = (0.1, 5.0)
_MAX_QUEUED = 10_000
"""Notes that wait while the store is away; beyond that the oldest are dropped, and logged."""
_BATCH = 500
_CLOSE_S = 2.0

REFUSED_BURST, REFUSED_EVERY_S = 20, 10.0
"""Records of refused calls in a project, of each process: this many at once, then one in this
many seconds. A client that is refused all the time adds 8,640 of them a day, about 2 MiB."""
REFUSED_BURST_ALL, REFUSED_EVERY_ALL_S = 200, 1.0
"""The same for all projects together, so that inventing project names gains a client nothing."""
_REFUSED_PROJECTS = 1_000
"""Maximum number of projects whose refusals are counted."""


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
    of_refusal: bool


@dataclass(slots=True)
class _Refusals:
    """Recent refusals in a project; `unrecorded` calls are counted in no record yet."""

    allowance: _Allowance = field(
        default_factory=lambda: _Allowance(REFUSED_BURST, REFUSED_EVERY_S)
    )
    unrecorded: int = 0
    last: tuple[Origin, str] = (UNKNOWN, "")


class AuditWriter:
    """Writes notes in the background: no call waits for them or fails because of them."""

    def __init__(self, event_log: EventLog, store: AuditStore) -> None:
        self._log = event_log
        self._store = store
        self._queue: deque[_Note] = deque()
        self._refusals: LRUCache[str, _Refusals] = LRUCache(_REFUSED_PROJECTS)
        self._allowance = _Allowance(REFUSED_BURST_ALL, REFUSED_EVERY_ALL_S)
        self._failures = Failures("audit_failed")
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task = asyncio.create_task(self._run(), name="contex-audit")

    def stream_opened(self, project: str, origin: Origin, method: str, start: Sequence) -> str:
        """Records that a stream was opened at a position; returns the stream's id."""
        stream_id = uuid4().hex[:16]
        self._enqueue(
            project, AuditAction.SUBSCRIBED, origin, method, sequence=start, stream_id=stream_id
        )
        return stream_id

    def stream_closed(
        self, project: str, origin: Origin, method: str, stream_id: str, end: Sequence
    ) -> None:
        """Records that a stream has ended, and at which position."""
        self._enqueue(
            project, AuditAction.UNSUBSCRIBED, origin, method, sequence=end, stream_id=stream_id
        )

    def withheld(
        self,
        project: str,
        origin: Origin,
        method: str,
        agent_id: str,
        last: Sequence,
        count: int,
    ) -> None:
        """Records that deliveries of an agent were settled which the caller may not see."""
        detail = f"{method}: withheld from {agent_id}"
        self._enqueue(project, AuditAction.REFUSED, origin, detail, sequence=last, count=count)

    def exported(self, project: str, origin: Origin, method: str, count: int) -> None:
        """Records that a number of events, data or records were read in bulk."""
        self._enqueue(project, AuditAction.EXPORTED, origin, method, count=count)

    def refused(self, project: str, origin: Origin, method: str, reason: str) -> None:
        """Records that a call was refused, at a bounded rate.

        The record's count is the number of the project's refused calls since the previous
        record, this one included.
        """
        refusals = self._refusals.setdefault(project, _Refusals())
        refusals.unrecorded += 1
        refusals.last = origin, f"{method}: {reason}"
        if refusals.allowance.take() and self._allowance.take():
            self._record_refusals(project, refusals)

    def _record_refusals(self, project: str, refusals: _Refusals) -> None:
        count, refusals.unrecorded = refusals.unrecorded, 0
        self._enqueue(project, AuditAction.REFUSED, *refusals.last, count=count)

    async def close(self) -> None:
        """Writes what is queued and counted, unless the store is away."""
        for project, refusals in self._refusals.items():
            if refusals.unrecorded:
                self._record_refusals(project, refusals)
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._idle.wait()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _enqueue(
        self, project: str, action: AuditAction, origin: Origin, detail: str, **fields: Any
    ) -> None:
        if len(self._queue) >= _MAX_QUEUED:
            lost = self._queue.popleft()
            log.warning("audit_note_lost", project=lost.project)
        note = encode_action(action, origin, detail, **fields)
        self._queue.append(_Note(project, note, action is AuditAction.REFUSED))
        self._idle.clear()
        self._wake.set()

    async def _run(self) -> None:
        backoff = Backoff(*_BACKOFF_S)
        while True:
            await self._wake.wait()
            await asyncio.sleep(_GATHER_S)
            try:
                while self._queue:
                    await self._write()
                backoff.reset()
                self._wake.clear()
                self._idle.set()
            except ContexError as error:
                log.warning("audit_interrupted", error=error.message, waiting=len(self._queue))
                await backoff.wait()

    async def _write(self) -> None:
        """Writes a batch of notes of one project."""
        project = self._queue[0].project
        batch = [note for note in self._queue if note.project == project][:_BATCH]
        with self._failures.isolated(project, Reason.STORE_FULL):
            await self._write_batch(project, batch)
        # Notes of a project that takes none are lost: others wait behind them.
        done = set(map(id, batch))
        self._queue = deque(note for note in self._queue if id(note) not in done)

    async def _write_batch(self, project: str, batch: list[_Note]) -> None:
        refusals = [note.body for note in batch if note.of_refusal]
        # Refused calls are only recorded in projects that exist: they must not create any.
        exists = project == ACCESS or (await self._log.bounds(project)).tail > BEGINNING
        if refusals and exists:
            await self._store.note_refusals(project, refusals)
        if len(refusals) < len(batch):
            actions = [note.body for note in batch if not note.of_refusal]
            await self._store.note_actions(project, actions)
