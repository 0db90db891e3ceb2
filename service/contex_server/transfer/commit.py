"""Moves staged events into a project that they do not replace as a whole."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import groupby

from contex_server.events.publisher import Publisher
from contex_server.kernel import event_codec
from contex_server.kernel.failpoints import reached
from contex_server.kernel.model import (
    BEGINNING,
    DATA_DELETED,
    SUBJECT,
    Append,
    Entry,
    NewEvent,
    Origin,
    Range,
    Sequence,
)
from contex_server.log.pages import pages
from contex_server.log.transfer import Restored
from contex_server.tiers.storage import Storage
from contex_server.transfer.staging import Staging

_BATCH_EVENTS = 500


@dataclass(frozen=True, slots=True)
class ImportCommit:
    """Moves what an import has staged into its project, unless the staged project replaces the
    project as a whole (`Staging.commit`).

    Every method may raise `ContexError` with STORE_UNAVAILABLE or ARCHIVE_UNAVAILABLE.
    """

    storage: Storage
    publisher: Publisher
    staging: Staging
    project: str

    async def append(self, tail: Sequence, model: str) -> bool:
        """Appends the staged events after `tail`, with agents and the vectors of a model; returns
        False if somebody else has appended to the project."""
        project, staged = self.project, self.staging.project
        async for entries in self._staged_after(tail):
            batch = [
                await self.staging.seal(project, Restored.of(entry, event_codec.links(entry)))
                for entry in entries
            ]
            if not await self.storage.store.transfer.restore(project, tail, batch):
                return False
            tail = entries[-1].sequence
            reached("import-added")
        agents: dict[str, tuple[bytes, Sequence]] = {}
        after = ""
        while records := await self.storage.store.agents.agents(staged, after, _BATCH_EVENTS):
            after = records[-1].agent_id
            agents.update({a.agent_id: (a.record, a.cursor) for a in records})
        await self.storage.store.agents.restore_agents(project, agents)
        if model:
            async for encodings in self.storage.store.match.all_vectors(staged, model):
                await self.storage.store.match.put_vectors(project, model, encodings)
        return True

    async def replay(self, name: str, origin: Origin) -> tuple[str, str]:
        """Appends the staged events as new ones, except for those that were appended under the
        same name before.

        Returns:
            The first and the last of their new sequences; "" if there are none.
        """
        first = last = ""
        number = 0
        async for entries in self._staged_after(BEGINNING):
            # An append names one publisher.
            for publisher, run in groupby(map(_new_event, entries), lambda pair: pair[1]):
                number += 1
                events = [event for event, _ in run]
                key = f"import-{name}-{number}"
                append = Append(self.project, events, key, publisher=publisher, origin=origin)
                appended = await self.publisher.append(await self.publisher.prepare(append))
                reached("import-replayed")
                first = first or str(appended.first)
                end = appended.first
                for _ in events[1:]:
                    end = end.next()
                last = str(end)
            await self.staging.claim()
        return first, last

    async def _staged_after(self, after: Sequence) -> AsyncGenerator[list[Entry], None]:
        staged = self.staging.project
        tail = (await self.storage.log.bounds(staged)).tail
        source = pages(self.storage.log, staged, Range(after, tail), max_events=_BATCH_EVENTS)
        async with aclosing(source):
            async for page in source:
                if page.entries:
                    yield page.entries


def _new_event(entry: Entry) -> tuple[NewEvent, str]:
    """An event as it was published, and its publisher."""
    record = event_codec.decode(entry)
    bare = replace(record, revision=0, previous_sequence=None, text_digest=b"", opaque=False)
    event = NewEvent(
        event_codec.entry(bare).body,
        record.data_key,
        record.event_type,
        record.payload,
        record.content_type,
        record.description,
        record.event_type == DATA_DELETED,
        subject=record.metadata.get(SUBJECT, ""),
    )
    return event, record.publisher
