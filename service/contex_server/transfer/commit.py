"""Makes what an import has staged part of its project."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import groupby

from contex_server.audit.records import AuditAction, encode_action
from contex_server.events.publisher import Publisher
from contex_server.kernel import event_codec
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.failpoints import reached
from contex_server.kernel.model import (
    BEGINNING,
    SUBJECT,
    Append,
    Entry,
    Event,
    NewEvent,
    Origin,
    Range,
    Sequence,
)
from contex_server.kernel.slices import sliced
from contex_server.log.agents import RestoredAgent
from contex_server.log.pages import pages
from contex_server.log.transfer import Restored
from contex_server.match.agent_codec import ttl_ms_of
from contex_server.matching.background import Snapshot, size_reached
from contex_server.tiers.storage import Storage
from contex_server.transfer.request import Checkpoint, ImportMode, ImportRequest
from contex_server.transfer.staging import Staging

_BATCH_EVENTS = 500


@dataclass(frozen=True, slots=True)
class ImportCommit:
    """Makes what an import has staged part of its project.

    Every method may raise `ContexError` with STORE_UNAVAILABLE or ARCHIVE_UNAVAILABLE.
    """

    storage: Storage
    publisher: Publisher
    staging: Staging
    request: ImportRequest
    checkpoint: Checkpoint
    origin: Origin

    async def commit(self, tail: Sequence) -> None:
        """Replaces the project, or appends to it, as the request says.

        Args:
            tail: The end of the project when an exact import began.

        Raises:
            ContexError: PROJECT_NOT_EMPTY: somebody else has appended to the project.
        """
        store, project, report = self.storage.store, self.request.project, self.checkpoint.report
        exact = self.request.mode is ImportMode.EXACT
        if not exact:
            report.first, report.last = await self._replay()
        else:
            if tail > BEGINNING:
                committed = await self._append(tail)
            else:
                committed = await self.staging.commit(self.checkpoint.models, self._action())
            if not committed:
                raise not_empty(project, (await self.storage.log.bounds(project)).tail)
            reached("import-committed")
            retention = self.checkpoint.retention.encode()
            if retention and not await store.projects.retention(project):
                await store.projects.put_retention(project, retention, self._action())
        if tail > BEGINNING or not exact:
            await store.audit.note_actions(project, [self._action()])

    def _action(self) -> bytes:
        report = self.checkpoint.report
        source = f" of project {report.source}" if report.source else ""
        return encode_action(
            AuditAction.IMPORTED,
            self.origin,
            f"Import, {self.request.mode.name.lower()}{source}",
            sequence=report.last,
            count=report.imported,
        )

    async def _append(self, tail: Sequence) -> bool:
        """Appends the staged events after `tail`, with agents and vectors; returns False if
        somebody else has appended to the project."""
        project, staged, store = self.request.project, self.staging.project, self.storage.store
        encrypted = await self.storage.encryption.holds(project)
        async for entries in self._staged_after(tail):
            batch = [
                await self.staging.seal(project, restored, encrypted)
                for restored in (Restored.of(e, event_codec.links(e)) for e in entries)
            ]
            upto = entries[-1].sequence
            # Before their events: whoever follows the log looks for them there.
            added = await self._add_backgrounds(tail, upto)
            if not await store.transfer.restore(project, tail, batch):
                for model in self.checkpoint.models:
                    await store.match.drop_backgrounds(project, model, added)
                return False
            tail = upto
            reached("import-added")
        await self._count_backgrounds()
        # Before the agents, of which a decider would take it that nothing was decided.
        await store.inboxes.adopt_decisions(project, staged)
        agents: dict[str, RestoredAgent] = {}
        after = ""
        while records := await store.agents.agents(staged, after, _BATCH_EVENTS):
            after = records[-1].agent_id
            agents.update(
                {
                    a.agent_id: RestoredAgent(a.record, a.cursor, ttl_ms_of(a.record))
                    for a in records
                }
            )
        await store.agents.restore_agents(project, agents)
        for model in self.checkpoint.models:
            async for encodings in store.match.all_vectors(staged, model):
                await store.match.put_vectors(project, model, encodings)
        return True

    async def _add_backgrounds(self, after: Sequence, upto: Sequence) -> list[Sequence]:
        """Adds the staged backgrounds of the events in a range; returns their sequences."""
        match, added = self.storage.store.match, list[Sequence]()
        for model in self.checkpoint.models:
            staged = await match.backgrounds(self.staging.project, model)
            packed = {s: background for s, background in staged.items() if after < s <= upto}
            if packed:
                await match.put_backgrounds(self.request.project, model, packed, 0)
                added += packed
        return added

    async def _count_backgrounds(self) -> None:
        """Lets the store know the largest size that a background has been taken for."""
        project, match = self.request.project, self.storage.store.match
        for model in self.checkpoint.models:
            packed = await match.backgrounds(project, model)
            if packed:
                size = size_reached(max(Snapshot.unpack(p).data for p in packed.values()))
                await match.put_backgrounds(project, model, packed, size)

    async def _replay(self) -> tuple[str, str]:
        """Appends the staged events as new ones, except for those that this import has appended
        already.

        Returns:
            The first and the last of their new sequences; "" if there are none.
        """
        name = hashlib.sha256(self.staging.project.encode()).hexdigest()[:24]
        first = last = ""
        number = 0
        async for entries in self._staged_after(BEGINNING):
            # An append names one publisher.
            events = await self._new_events(entries)
            for publisher, run in groupby(events, lambda pair: pair[1]):
                number += 1
                append = Append(
                    self.request.project,
                    [event for event, _ in run],
                    f"import-{name}-{number}",
                    publisher=publisher,
                    origin=self.origin,
                )
                appended = await self.publisher.append(await self.publisher.prepare(append))
                reached("import-replayed")
                first = first or str(appended.first)
                last = str(Sequence(appended.first.ms, appended.first.n + len(append.events) - 1))
            await self.staging.claim()
        return first, last

    async def _new_events(self, entries: list[Entry]) -> list[tuple[NewEvent, str]]:
        """Events as they were published, with their publishers. Those that are valid up to some
        time expire if nothing in the file comes after them: otherwise that tells what did."""
        records = [event_codec.decode(entry) async for entry in sliced(entries)]
        expiring = {r.data_key for r in records if r.valid_until_ms is not None}
        latest = await self.storage.store.state.latest(self.staging.project, expiring)
        pairs = []
        async for record in sliced(records):
            event = _new_event(record)
            state = latest.get(record.data_key)
            if record.valid_until_ms is not None and state and state.sequence == record.sequence:
                event.validity = f"={record.valid_until_ms}"
            pairs.append((event, record.publisher))
        return pairs

    async def _staged_after(self, after: Sequence) -> AsyncGenerator[list[Entry], None]:
        staged = self.staging.project
        tail = (await self.storage.log.bounds(staged)).tail
        source = pages(self.storage.log, staged, Range(after, tail), max_events=_BATCH_EVENTS)
        async with aclosing(source):
            async for page in source:
                if page.entries:
                    yield page.entries


def _new_event(record: Event) -> NewEvent:
    """An event as it was published."""
    bare = replace(record, revision=0, previous_sequence=None, text_digest=b"", opaque=False)
    return NewEvent(
        event_codec.entry(bare).body,
        record.data_key,
        record.event_type,
        record.payload,
        record.content_type,
        record.description,
        record.deletes,
        subject=record.metadata.get(SUBJECT, ""),
    )


def not_empty(project: str, tail: Sequence) -> ContexError:
    """The refusal of an import into a project that has other events."""
    return ContexError(
        Reason.PROJECT_NOT_EMPTY,
        f"project {project!r} has events of its own, up to {tail}",
        metadata={"tail_sequence": str(tail)},
        field="start.project",
    )
