"""Keeps inboxes within their bounds.

What was acknowledged is kept as long as records of deliveries are. An inbox that is larger than its
bound is trimmed whether it was acknowledged or not. Of what is trimmed, the latest entry of each
data key goes to the inbox's base, in its place: whoever reads from before gets these, and is told
that deliveries are left out. So nobody is left with a datum that has changed since, and what an
agent knew is still the fold of base and inbox.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import structlog

from contex_server.inbox.behind import Retrying
from contex_server.inbox.entry import Head, is_of_datum, read
from contex_server.inbox.ledger import Ledger
from contex_server.inbox.roster import Roster
from contex_server.inbox.subscriber import Subscriber
from contex_server.kernel.config import Settings
from contex_server.kernel.inbox_ids import event_of, last_place
from contex_server.kernel.model import Change, Range, Sequence
from contex_server.kernel.slices import Slices
from contex_server.log.inboxes import InboxEntry, InboxSize, Trimmed, shard_of

log = structlog.get_logger(__name__)

_LOOK_S = 2.0
"""How often those inboxes are looked at that have grown."""
_LOOK_AT_ALL_S = 3_600.0
_TOGETHER = 500
_LEAST = 1_000
"""Old entries are trimmed once there are so many: the base is written anew each time."""
_MOST = 50_000
"""Entries that are trimmed in one go."""
_PAGE = 1_000
_LEFT = 0.5
"""What is left of an inbox that was larger than its bound."""


@dataclass(slots=True)
class _Base:
    """Of entries of an inbox those that make whoever reads them hold what all of them do.

    Attributes:
        latest: That of each data key.
        erased: Erasures by data key, with their revisions: a later one of an earlier revision
            leaves the others needed.
        registered: The latest change of needs.
    """

    latest: dict[str, InboxEntry] = field(default_factory=dict)
    erased: dict[str, list[tuple[int, InboxEntry]]] = field(default_factory=dict)
    registered: InboxEntry | None = None

    def add(self, entry: InboxEntry, head: Head) -> bool:
        """Adds the next entry; whether it is kept."""
        if is_of_datum(head):
            self.latest[head.data_key] = entry
        elif head.change is Change.ERASED:
            needed = [
                each for each in self.erased.get(head.data_key, []) if each[0] > head.revision
            ]
            self.erased[head.data_key] = [*needed, (head.revision, entry)]
        elif head.change is Change.REGISTERED:
            self.registered = entry
        else:
            return False
        return True

    def entries(self) -> list[InboxEntry]:
        """Those that are left, in their order."""
        kept = [*self.latest.values()]
        kept += [entry for some in self.erased.values() for _, entry in some]
        if self.registered is not None:
            kept.append(self.registered)
        return sorted(kept)


class Trimmer:
    """Trims the inboxes of the agents that a process decides for in a project."""

    def __init__(self, ledger: Ledger, roster: Roster, settings: Settings) -> None:
        self._ledger = ledger
        self._project = ledger.project
        self._reader = ledger.reader
        self._known = roster.known
        self._bound = settings.inbox_bytes
        self._kept_ms = settings.delivery_retention_ms if settings.delivery_records else 0
        self._looked = 0.0

    async def run(self, retrying: Retrying) -> None:
        """Looks at inboxes that have grown, and from time to time at all."""
        while True:
            await asyncio.sleep(_LOOK_S)
            await retrying(self._look_at_some)

    async def _look_at_some(self) -> None:
        now, ledger = time.monotonic(), self._ledger
        grown, ledger.grown = ledger.grown, {}
        if now - self._looked > _LOOK_AT_ALL_S:
            self._looked, grown = now, dict.fromkeys(self._known)
        agents = list(grown)
        for start in range(0, len(agents), _TOGETHER):
            await self._look(agents[start : start + _TOGETHER])

    async def _look(self, agent_ids: list[str]) -> None:
        sizes = await self._reader.store.sizes(self._project, agent_ids)
        oldest_ms = time.time_ns() // 1_000_000 - self._kept_ms
        for agent_id, size in sizes.items():
            subscriber = self._known.get(agent_id)
            if subscriber is None or size.first is None:
                continue
            if subscriber.awaited is not None:
                # What its registration has brought so far says where that goes on.
                self._ledger.grown[agent_id] = None
                continue
            too_large = size.size_bytes > self._bound
            if too_large or (size.length >= _LEAST and size.first.ms < oldest_ms):
                await self._trim(subscriber, size, oldest_ms)

    async def _trim(self, subscriber: Subscriber, size: InboxSize, oldest_ms: int) -> None:
        reader, project, agent_id = self._reader, self._project, subscriber.agent.agent_id
        stored = await reader.agents.agent(project, agent_id)
        end = await reader.store.inbox_end(project, agent_id)
        if stored is None:
            return
        acknowledged = await reader.kept_place(project, agent_id, stored.cursor)
        handed_out = await reader.store.handed_out(project, agent_id)
        # What consumers have, they may still settle.
        seen = acknowledged if handed_out is None else max(acknowledged, handed_out)
        before, first = end.trimmed, subscriber.first_place
        if before.upto <= first:
            before = Trimmed(first)  # That of an earlier agent of the id.
        excess = 0
        if size.size_bytes > self._bound:
            excess = int(size.length * (1 - _LEFT * self._bound / size.size_bytes))
        old = min(acknowledged, last_place(Sequence(max(oldest_ms, 1), 0).prev()))
        # What comes after that is written in part, and may be decided otherwise yet.
        span = Range(before.upto, last_place(end.position))
        taken = await self._oldest(agent_id, span, old, excess)
        if not taken or (len(taken) < _LEAST and not excess):
            return
        base, upto = await self._base(agent_id, first), taken[-1].id
        _, summed_up, dropped = before
        slices = Slices()
        for entry in taken:
            head = read(entry.body, event_of(entry.id))
            unread = entry.id > seen
            if is_of_datum(head):
                replaced = base.latest.get(head.data_key)
                summed_up += replaced is not None and replaced.id > seen
            dropped += not base.add(entry, head) and unread
            await slices.pause()
        entries = base.entries()
        trimmed = Trimmed(upto, summed_up, dropped)
        async with self._ledger.lock:
            shard = self._ledger.shards.get(shard_of(agent_id))
            known = self._known.get(agent_id)
            if shard is None or known is None or known.number != subscriber.number:
                return
            if known.awaited is not None:
                self._ledger.grown[agent_id] = None
                return
            if not await reader.store.trim(project, agent_id, shard, entries, trimmed):
                return
        if seen < upto:
            log.warning(
                "inbox_trimmed",
                project=project,
                agent_id=agent_id,
                size_bytes=size.size_bytes,
                upto=str(event_of(upto)),
                acknowledged=str(stored.cursor),
            )
        if len(taken) == _MOST:
            self._ledger.grown[agent_id] = None

    async def _oldest(
        self, agent_id: str, span: Range, old: Sequence, excess: int
    ) -> list[InboxEntry]:
        """The entries of a part that are to be trimmed: the first `excess`, and those that are
        old."""
        taken: list[InboxEntry] = []
        while len(taken) < _MOST:
            page = await self._reader.store.inbox(self._project, agent_id, span, _PAGE)
            for entry in page:
                if entry.id > old and len(taken) >= excess:
                    return taken
                taken.append(entry)
            if len(page) < _PAGE:
                break
            span = span.rest(page[-1].id)
        return taken

    async def _base(self, agent_id: str, after: Sequence) -> _Base:
        """The base of an inbox."""
        base = _Base()
        while page := await self._reader.store.base(self._project, agent_id, after, _PAGE):
            for entry in page:
                base.add(entry, read(entry.body, event_of(entry.id)))
            after = page[-1].id
        return base
