"""Imports and exports, on Redis or Valkey.

ctx:{b}:p:<project>~<import>:import   string: how far an import is
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from contex_server.kernel.model import DATA_DELETED, KeyState, Sequence
from contex_server.log.redis.connections import Command
from contex_server.log.redis.keys import counted_keys, key, vectors_key
from contex_server.log.transfer import Restored

_SCAN_COUNT = 500
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
)


class RedisTransfer:
    """The part of `TransferLog` that is about imports and exports."""

    _audit_retention_ms: int

    async def _command(self, project: str, *command: Any) -> Any:
        raise NotImplementedError

    async def _commands(self, project: str, *commands: Command) -> list[Any]:
        raise NotImplementedError

    async def restore(
        self,
        project: str,
        expected: Sequence,
        events: Iterable[Restored],
        note: bytes = b"",
        *,
        archived: bool = False,
    ) -> bool:
        """See `TransferLog.restore`."""
        arguments = _arguments(list(events), archived)
        reply = await self._command(
            project,
            "FCALL",
            "contex1_restore",
            6,
            *counted_keys(project)[:4],
            key(project, "state"),
            key(project, "import"),
            str(expected),
            note,
            *arguments,
        )
        return bool(reply)

    async def repair_state(
        self,
        project: str,
        expected: Sequence,
        states: Mapping[str, KeyState | None],
        deleted: int | None,
    ) -> bool:
        """See `TransferLog.repair_state`."""
        arguments: list[Any] = [str(expected), "" if deleted is None else deleted]
        for name, state in states.items():
            arguments += (name, b"" if state is None else _state_value(state))
        reply = await self._command(
            project,
            "FCALL",
            "contex1_repair_state",
            3,
            key(project, "events"),
            key(project, "state"),
            key(project, "stats"),
            *arguments,
        )
        return bool(reply)

    async def drop_snapshot(self, project: str, sequence: Sequence) -> None:
        """See `TransferLog.drop_snapshot`."""
        await self._commands(
            project,
            ("HDEL", key(project, "snapshot-data"), str(sequence)),
            ("XDEL", key(project, "snapshots"), str(sequence)),
        )

    async def import_note(self, staged: str) -> bytes:
        """See `TransferLog.import_note`."""
        found: bytes | None = await self._command(staged, "GET", key(staged, "import"))
        return found or b""

    async def put_import_note(self, staged: str, note: bytes) -> None:
        """See `TransferLog.put_import_note`."""
        await self._command(staged, "SET", key(staged, "import"), note)

    async def restore_agents(
        self, project: str, agents: Mapping[str, tuple[bytes, Sequence]]
    ) -> int:
        """See `TransferLog.restore_agents`."""
        commands: list[Command] = []
        for agent_id, (record, cursor) in agents.items():
            commands.append(("HSETNX", key(project, "cursors"), agent_id, str(cursor)))
            commands.append(("HSETNX", key(project, "agents"), agent_id, record))
        replies = await self._commands(project, *commands) if commands else []
        return sum(replies[1::2])

    async def commit_import(
        self, project: str, staged: str, models: Iterable[str], action: bytes
    ) -> bool:
        """See `TransferLog.commit_import`."""
        reply = await self._command(
            project,
            "FCALL",
            "contex1_commit_import",
            3,
            key(project, "events"),
            key(staged, "events"),
            key(project, "audit"),
            action,
            self._audit_retention_ms,
            *_KINDS,
            *map(_vectors_kind, models),
        )
        return bool(reply)

    async def drop_import(self, staged: str, models: Iterable[str]) -> None:
        """See `TransferLog.drop_import`."""
        await self._command(
            staged,
            "FCALL",
            "contex1_drop_import",
            1,
            key(staged, "events"),
            *_KINDS,
            "import",
            *map(_vectors_kind, models),
        )

    async def all_vectors(self, project: str, model: str) -> AsyncIterator[dict[bytes, bytes]]:
        """See `TransferLog.all_vectors`."""
        cursor = b"0"
        while True:
            cursor, fields = await self._command(
                project, "HSCAN", vectors_key(project, model), cursor, "COUNT", _SCAN_COUNT
            )
            yield dict(zip(fields[::2], fields[1::2], strict=True))
            if cursor == b"0":
                return


def _arguments(events: list[Restored], archived: bool) -> list[Any]:
    """What `contex1_restore` takes of events; see transfer.lua."""
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
        deleted = event.event_type == DATA_DELETED
        arguments += (name, _state(event.revision, event.id, deleted, event.digest))
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
        for found in counts:
            arguments += found
        start = end
    return arguments


def _minute(event: Restored) -> int:
    return int(event.id.partition(b"-")[0]) // 60_000


def _vectors_kind(model: str) -> str:
    return vectors_key("", model).rpartition("::")[2]


def _state_value(state: KeyState) -> bytes:
    return _state(state.revision, str(state.sequence).encode(), state.deleted, state.digest)


def _state(revision: int, sequence: bytes, deleted: bool, digest: bytes) -> bytes:
    return b"%d %b %b%b" % (revision, sequence, b"D" if deleted else b"L", digest)
