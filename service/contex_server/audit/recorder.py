"""Notes in the audit what leaves no trace by itself: streams of events, and data in bulk.

Publishes and registrations are noted by the store in the step that writes them, deliveries in
the agents' journals.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from uuid import uuid4

import orjson
import structlog

from contex_server.kernel.errors import ContexError
from contex_server.kernel.model import Origin, Sequence
from contex_server.log.audit import AuditStore

log = structlog.get_logger(__name__)

SUBSCRIBED, UNSUBSCRIBED, EXPORTED = "SUBSCRIBED", "UNSUBSCRIBED", "EXPORTED"
ADMINISTERED, IMPORTED = "ADMINISTERED", "IMPORTED"
_GATHER_S = 0.02
_BACKOFF_S = (0.1, 5.0)
_WAITING = 10_000
"""Notes that wait for a store that is away; the oldest are dropped then, and that is logged."""
_TOGETHER = 500
_CLOSE_S = 2.0


def action_note(
    action: str,
    origin: Origin,
    detail: str,
    *,
    sequence: Sequence | str = "",
    stream_id: str = "",
    count: int = 0,
) -> bytes:
    """An action as the audit has it; `projections.audit` reads it."""
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


class Audit:
    """Writes notes in the background: no call waits for them or fails with them."""

    def __init__(self, store: AuditStore) -> None:
        self._store = store
        self._waiting: deque[tuple[str, bytes]] = deque()
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
        """Notes that so many events, data or records left."""
        self._note(project, EXPORTED, origin, method, count=count)

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
            lost, _ = self._waiting.popleft()
            log.warning("audit_note_lost", project=lost)
        self._waiting.append((project, said))
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
        project = self._waiting[0][0]
        together = [note for of, note in self._waiting if of == project][:_TOGETHER]
        await self._store.note_actions(project, together)
        written = set(map(id, together))
        self._waiting = deque(item for item in self._waiting if id(item[1]) not in written)
