"""Moves staged events into a project that they do not replace as a whole."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
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
    Sequence,
)
from contex_server.log.pages import pages
from contex_server.log.port import EventLog
from contex_server.log.store import Store
from contex_server.log.transfer import Restored
from contex_server.transfer.staging import Staging

_BATCH_EVENTS = 500


class ImportCommit:
    """Moves what an import has staged into its project, unless the staged project replaces the
    project as a whole (`Staging.commit`).

    Every method may raise `ContexError` with STORE_UNAVAILABLE or ARCHIVE_UNAVAILABLE.

    Args:
        event_log: All events.
        store: Where they are put.
        publisher: Appends them as new ones.
        staging: The staged project.
        project: The project.
    """

    def __init__(
        self,
        event_log: EventLog,
        store: Store,
        publisher: Publisher,
        staging: Staging,
        project: str,
    ) -> None:
        self._log = event_log
        self._store = store
        self._publisher = publisher
        self._staging = staging
        self._project = project

    async def append(self, tail: Sequence, model: str) -> bool:
        """Appends the staged events after `tail`, with agents and the vectors of a model.

        Returns:
            False if somebody else has appended to the project.
        """
        project, staged = self._project, self._staging.project
        async for entries in self._staged_after(tail):
            batch = [
                await self._staging.seal(project, Restored.of(entry, event_codec.links(entry)))
                for entry in entries
            ]
            if not await self._store.transfer.restore(project, tail, batch):
                return False
            tail = entries[-1].sequence
            reached("import-added")
        agents: dict[str, tuple[bytes, Sequence]] = {}
        after = ""
        while records := await self._store.agents.agents(staged, after, _BATCH_EVENTS):
            after = records[-1].agent_id
            agents.update({a.agent_id: (a.record, a.cursor) for a in records})
        await self._store.agents.restore_agents(project, agents)
        if model:
            async for encodings in self._store.match.all_vectors(staged, model):
                await self._store.match.put_vectors(project, model, encodings)
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
                append = Append(self._project, events, key, publisher=publisher, origin=origin)
                appended = await self._publisher.append(await self._publisher.prepare(append))
                reached("import-replayed")
                first = first or str(appended.first)
                end = appended.first
                for _ in events[1:]:
                    end = end.next()
                last = str(end)
            await self._staging.claim()
        return first, last

    async def set_retention(self, retention: bytes, action: bytes) -> None:
        """Sets the retention of the project, unless it has one of its own."""
        if retention and not await self._store.projects.retention(self._project):
            await self._store.projects.put_retention(self._project, retention, action)

    async def _staged_after(self, after: Sequence) -> AsyncGenerator[list[Entry], None]:
        staged = self._staging.project
        tail = (await self._log.bounds(staged)).tail
        source = pages(self._log, staged, after, tail, max_events=_BATCH_EVENTS)
        async with aclosing(source):
            async for page in source:
                if page.entries:
                    yield page.entries


def _new_event(entry: Entry) -> tuple[NewEvent, str]:
    """An event as it was published, and its publisher."""
    record = event_codec.record(entry)
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
