"""Imports, on Redis or Valkey.

import  string, of a staged project: how far the import is
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from typing import Any

from contex_server.kernel.model import DELETIONS, Sequence
from contex_server.kernel.right_of_way import heavily
from contex_server.log.redis.client import Facet
from contex_server.log.redis.key_names import COUNTED, backgrounds_kind, key, vectors_kind
from contex_server.log.redis.state import state_value
from contex_server.log.transfer import Restored, TransferStore

_KINDS = (
    "events",
    "state",
    "stats",
    "activity-open",
    "matching",
    "agents",
    "cursors",
    "snapshots",
    "snapshot-data",
    "archive",
    "segments",
    "retention",
    "subjects",
    "expiring",
    "contacts",
    "ttls",
    "leases",
)


class RedisTransfer(Facet, TransferStore):
    async def restore(
        self,
        project: str,
        expected: Sequence,
        events: Iterable[Restored],
        note: bytes = b"",
        *,
        archived: bool = False,
    ) -> bool:
        arguments = await heavily(_arguments, list(events), archived)
        return await self._client.attempt(
            project,
            "contex2_restore",
            (*COUNTED[:4], "state", "import"),
            str(expected),
            note,
            *arguments,
        )

    async def import_note(self, staged: str) -> bytes:
        note: bytes | None = await self._client.command(staged, "GET", "import")
        return note or b""

    async def put_import_note(self, staged: str, note: bytes) -> None:
        await self._client.command(staged, "SET", "import", note)

    async def commit_import(
        self, project: str, staged: str, models: Iterable[str], action: bytes
    ) -> bool:
        (committed,) = await self._client.run(
            project,
            (
                *("FCALL", "contex1_commit_import", 3),
                *(key(project, "events"), key(staged, "events"), key(project, "audit")),
                *(action, self._settings.audit_retention_ms),
                *(*_KINDS, *_kinds_of(models)),
            ),
        )
        return bool(committed)

    async def drop_import(self, staged: str, models: Iterable[str]) -> None:
        await self._client.call(
            staged,
            "contex1_drop_import",
            ("events",),
            *_KINDS,
            "import",
            *_kinds_of(models),
        )


def _kinds_of(models: Iterable[str]) -> list[str]:
    """The kinds of keys that there are for each model."""
    return [kind(model) for model in models for kind in (vectors_kind, backgrounds_kind)]


def _arguments(events: list[Restored], archived: bool) -> list[Any]:
    """What `contex2_restore` takes of events; see transfer.lua."""
    size = sum([len(event.body) for event in events])
    arguments: list[Any] = [events[0].id, events[-1].id, len(events), size]
    if archived:
        arguments.append(0)
    else:
        arguments.append(len(events))
        for event in events:
            arguments += event[:2]
    latest = {event.data_key: event for event in events if event.data_key}
    arguments.append(len(latest))
    for name, event in latest.items():
        deleted = event.event_type in DELETIONS
        value = state_value(event.revision, event.id, deleted, event.digest)
        until_ms = "" if event.valid_until_ms is None else event.valid_until_ms
        arguments += (name, value, until_ms)
    start = 0
    while start < len(events):
        minute = _minute(events[start])
        end = bisect_right(events, minute, start, key=_minute)
        counts: list[tuple[str, int]] = []
        for dimension, names in (
            ("k", [event.data_key for event in events[start:end] if event.data_key]),
            ("t", [event.event_type for event in events[start:end]]),
            ("p", [event.publisher for event in events[start:end]]),
        ):
            counts += [(dimension + name, count) for name, count in Counter(names).items()]
        arguments += (minute * 60_000, len(counts))
        for pair in counts:
            arguments += pair
        start = end
    return arguments


def _minute(event: Restored) -> int:
    return int(event.id.partition(b"-")[0]) // 60_000
