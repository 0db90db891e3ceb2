"""What is kept beside the log, on Redis or Valkey: snapshots, counts, journals, the audit.

ctx:{b}:p:<project>:snapshots           stream: the snapshots, by the sequence they are as of
ctx:{b}:p:<project>:snapshot-data       hash: that sequence -> the snapshot
ctx:{b}:p:<project>:stats               hash: what was appended, in all
ctx:{b}:p:<project>:activity:<d>:h|d<n> hash: counts of an hour or a day, by a dimension
ctx:{b}:p:<project>:audit               stream: who did what
ctx:{b}:p:<project>:journals            set: the agents that have a journal
ctx:{b}:p:<project>:journal:<agent>     stream: its journal, see functions/journal.lua
ctx:{b}:p:<project>:sent:<agent>        hash: what it was sent last of each key
ctx:{b}:p:<project>:streams:<agent>     hash: its open and recent streams
ctx:{b}:p:<project>:receivers:<seq>     hash: who was sent an event, and where it is noted
ctx:{b}:p:<project>:presence            hash: what each server process has open
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from contex_server.log.connections import Command
from contex_server.log.port import (
    Counters,
    Dimension,
    Note,
    Sent,
    SnapshotInfo,
    Tier,
)
from contex_server.log.redis_keys import agent_keys, key, parse_sequence
from contex_server.model import Origin, Sequence

_MESSAGES = 256
"""Messages that are noted in one write: some 10 ms of the store's time."""


class RedisRecords:
    """The part of `EventLog` that is about records."""

    def __init__(
        self, audit_retention_ms: int, delivery_retention_ms: int, journal_entries: int
    ) -> None:
        self._audit_retention_ms = audit_retention_ms
        self._delivery_retention_ms = delivery_retention_ms
        self._journal_entries = journal_entries

    async def _command(self, project: str, *command: Any) -> Any:
        raise NotImplementedError

    async def _commands(self, project: str, *commands: Command) -> list[Any]:
        raise NotImplementedError

    # -- snapshots ---------------------------------------------------------------

    async def put_snapshot(self, project: str, info: SnapshotInfo, snapshot: bytes) -> bool:
        """See `EventLog.put_snapshot`."""
        reply = await self._command(
            project,
            "FCALL",
            "contex1_snapshot",
            2,
            key(project, "snapshots"),
            key(project, "snapshot-data"),
            str(info.sequence),
            snapshot,
            f"{info.events} {info.bytes} {info.keys}",
        )
        return bool(reply)

    async def snapshot_before(self, project: str, until: Sequence) -> SnapshotInfo | None:
        """See `EventLog.snapshot_before`."""
        name = key(project, "snapshots")
        rows = await self._command(project, "XREVRANGE", name, str(until), "-", "COUNT", 1)
        return _snapshot_info(rows[0]) if rows else None

    async def snapshots(self, project: str, after: Sequence, count: int) -> list[SnapshotInfo]:
        """See `EventLog.snapshots`."""
        name = key(project, "snapshots")
        rows = await self._command(project, "XRANGE", name, f"({after}", "+", "COUNT", count)
        return [_snapshot_info(row) for row in rows]

    async def snapshot(self, project: str, sequence: Sequence) -> bytes | None:
        """See `EventLog.snapshot`."""
        found: bytes | None = await self._command(
            project, "HGET", key(project, "snapshot-data"), str(sequence)
        )
        return found

    # -- counts ------------------------------------------------------------------

    async def counters(self, project: str) -> Counters:
        """See `EventLog.counters`."""
        stats, keys, agents = await self._commands(
            project,
            ("HMGET", key(project, "stats"), "events", "bytes", "deleted", "since"),
            ("HLEN", key(project, "state")),
            ("HLEN", key(project, "agents")),
        )
        events, size, deleted, since = stats
        return Counters(
            events=int(events or 0),
            bytes=int(size or 0),
            keys=keys,
            deleted=int(deleted or 0),
            agents=agents,
            counted_since=parse_sequence(since or b"0-0"),
        )

    async def activity(
        self, project: str, dimension: Dimension, tier: Tier, numbers: Iterable[int]
    ) -> list[dict[bytes, bytes]]:
        """See `EventLog.activity`."""
        commands = [
            ("HGETALL", key(project, f"activity:{dimension}:{tier}{number}")) for number in numbers
        ]
        replies = await self._commands(project, *commands) if commands else []
        return [
            reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
            for reply in replies
        ]

    # -- journals ----------------------------------------------------------------

    async def note_sent(self, project: str, messages: Iterable[Sent]) -> None:
        """See `EventLog.note_sent`."""
        commands = [self._deliver(project, sent) for sent in messages]
        for start in range(0, len(commands), _MESSAGES):
            await self._commands(project, *commands[start : start + _MESSAGES])

    def _deliver(self, project: str, sent: Sent) -> Command:
        receivers = [key(project, f"receivers:{event.sequence}") for event in sent.events]
        return (
            "FCALL",
            "contex1_deliver",
            7 + len(receivers),
            *agent_keys(project, sent.agent_id),
            key(project, "activity"),
            *receivers,
            sent.agent_id,
            self._delivery_retention_ms,
            self._journal_entries,
            sent.stream_id,
            sent.number,
            sent.kind,
            sent.registration,
            str(sent.position),
            orjson.dumps(sent.needs),
            len(sent.needs),
            *sent.needs,
            *(
                part
                for event in sent.events
                for part in (
                    str(event.sequence),
                    event.data_key,
                    event.revision,
                    "D" if event.deleted else "L",
                    ",".join(f"{index}:{score:.4g}" for index, score in event.needs) or "-",
                )
            ),
        )

    async def note_stream(
        self, project: str, agent_id: str, stream_id: str, start: Sequence | None, origin: Origin
    ) -> None:
        """See `EventLog.note_stream`."""
        await self._command(
            project,
            "FCALL",
            "contex1_stream",
            6,
            *agent_keys(project, agent_id),
            agent_id,
            self._delivery_retention_ms,
            self._journal_entries,
            stream_id,
            "c" if start is None else "o",
            "" if start is None else str(start),
            str(origin),
        )

    async def journal(
        self, project: str, agent_id: str, after: Sequence, until: Sequence, count: int
    ) -> list[Note]:
        """See `EventLog.journal`."""
        name = key(project, f"journal:{agent_id}")
        return await self._notes(project, "XRANGE", name, f"({after}", str(until), count)

    async def journal_back(
        self, project: str, agent_id: str, until: Sequence, after: Sequence, count: int
    ) -> list[Note]:
        """See `EventLog.journal_back`."""
        name = key(project, f"journal:{agent_id}")
        return await self._notes(project, "XREVRANGE", name, str(until), f"({after}", count)

    async def journal_notes(
        self, project: str, places: Iterable[tuple[str, Sequence]]
    ) -> list[Note | None]:
        """See `EventLog.journal_notes`."""
        commands = [
            ("XRANGE", key(project, f"journal:{agent_id}"), str(place), str(place))
            for agent_id, place in places
        ]
        replies = await self._commands(project, *commands) if commands else []
        return [_note(rows[0]) if rows else None for rows in replies]

    async def journals(self, project: str) -> list[str]:
        """See `EventLog.journals`."""
        found = await self._command(project, "SMEMBERS", key(project, "journals"))
        return sorted(agent_id.decode() for agent_id in found)

    async def receivers(self, project: str, sequence: Sequence) -> dict[str, list[Sequence]]:
        """See `EventLog.receivers`."""
        found = await self._command(project, "HGETALL", key(project, f"receivers:{sequence}"))
        pairs = found.items() if isinstance(found, dict) else zip(*[iter(found)] * 2, strict=True)
        return {
            agent_id.decode(): [parse_sequence(place) for place in places.split(b" ")]
            for agent_id, places in pairs
        }

    # -- the audit ---------------------------------------------------------------

    async def note_actions(self, project: str, actions: Iterable[bytes]) -> None:
        """See `EventLog.note_actions`."""
        name = key(project, "audit")
        commands: list[Command] = [("XADD", name, "*", "x", action) for action in actions]
        if commands:
            await self._commands(project, *commands)

    async def audit(self, project: str, after: Sequence, until: Sequence, count: int) -> list[Note]:
        """See `EventLog.audit`."""
        name = key(project, "audit")
        return await self._notes(project, "XRANGE", name, f"({after}", str(until), count)

    async def audit_back(
        self, project: str, until: Sequence, after: Sequence, count: int
    ) -> list[Note]:
        """See `EventLog.audit_back`."""
        name = key(project, "audit")
        return await self._notes(project, "XREVRANGE", name, str(until), f"({after}", count)

    async def _notes(
        self, project: str, command: str, name: str, start: str, end: str, count: int
    ) -> list[Note]:
        rows = await self._command(project, command, name, start, end, "COUNT", count)
        return [_note(row) for row in rows]

    # -- presence ----------------------------------------------------------------

    async def put_presence(self, project: str, owner: str, presence: str) -> None:
        """See `EventLog.put_presence`."""
        name = key(project, "presence")
        if presence:
            await self._command(project, "HSET", name, owner, presence)
        else:
            await self._command(project, "HDEL", name, owner)

    async def presence(self, project: str) -> dict[str, str]:
        """See `EventLog.presence`."""
        found = await self._command(project, "HGETALL", key(project, "presence"))
        pairs = found.items() if isinstance(found, dict) else zip(*[iter(found)] * 2, strict=True)
        return {owner.decode(): said.decode() for owner, said in pairs}


def _note(row: Any) -> Note:
    place, fields = row
    return Note(parse_sequence(place), dict(zip(fields[::2], fields[1::2], strict=True)))


def _snapshot_info(row: Any) -> SnapshotInfo:
    place, fields = row
    events, size, keys, stored = map(int, fields[1].split(b" "))
    return SnapshotInfo(parse_sequence(place), events, size, keys, stored)
