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

from collections import Counter
from collections.abc import Iterable
from typing import Any

import orjson
from redis.exceptions import ResponseError

from contex_server.kernel.model import Origin, Sequence
from contex_server.log.port import (
    Counters,
    Dimension,
    Note,
    Sent,
    SnapshotInfo,
    Tier,
)
from contex_server.log.redis.connections import Command, translate
from contex_server.log.redis.keys import agent_keys, key, parse_sequence

_MESSAGES = 128
_EVENTS = 512
"""Messages, and events in them, that are noted in one call: some 3 ms of the store's time."""
_SCAN_COUNT = 1_000
_STATS = ("bytes", "deleted", "since", "snapshots", "snapshot_bytes")


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
            3,
            key(project, "snapshots"),
            key(project, "snapshot-data"),
            key(project, "stats"),
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
        commands: list[Command] = [
            ("HMGET", key(project, "stats"), *_STATS),
            ("HLEN", key(project, "state")),
            ("HLEN", key(project, "agents")),
        ]
        stream: Command = ("XINFO", "STREAM", key(project, "events"))
        try:
            stats, keys, agents, info = await self._commands(project, *commands, stream)
            added = int(_pairs(info)[b"entries-added"])
        except ResponseError as error:
            if "no such key" not in str(error):
                raise translate(error) from error
            stats, keys, agents = await self._commands(project, *commands)
            added = 0
        size, deleted, since, snapshots, snapshot_bytes = stats
        return Counters(
            events=added,
            bytes=int(size or 0),
            keys=keys,
            deleted=int(deleted or 0),
            agents=agents,
            counted_since=parse_sequence(since or b"0-0"),
            snapshots=int(snapshots or 0),
            snapshot_bytes=int(snapshot_bytes or 0),
        )

    async def activity(
        self, project: str, dimension: Dimension, tier: Tier, numbers: Iterable[int]
    ) -> list[dict[bytes, bytes]]:
        """See `EventLog.activity`."""
        wanted = list(numbers)
        if tier is Tier.MINUTES:
            return await self._hours(project, dimension, wanted)
        commands = [("HGETALL", key(project, f"activity:{dimension}:{day}")) for day in wanted]
        # First the hours that are open: what is added to its day meanwhile comes twice, and
        # that can be told.
        open_hours = await self._open_hours(project)
        hours = [hour for hour in open_hours if hour // 24 in set(wanted)]
        counts = await self._hours(project, dimension, hours)
        replies = await self._commands(project, *commands) if commands else []
        days = {day: _pairs(reply) for day, reply in zip(wanted, replies, strict=True)}
        for hour, names in zip(hours, counts, strict=True):
            day, slot = days[hour // 24], hour % 24
            for name, value in names.items():
                if not _has_slot(day.get(name, b""), slot):
                    total = sum(int(part.partition(b":")[2]) for part in value.split(b" "))
                    day[name] = b"%d:%d %s" % (slot, total, day.get(name, b""))
        return [{name: value.rstrip() for name, value in days[day].items()} for day in wanted]

    async def _open_hours(self, project: str) -> list[int]:
        found = await self._command(project, "SMEMBERS", key(project, "activity-open"))
        return sorted(map(int, found))

    async def _hours(
        self, project: str, dimension: Dimension, hours: list[int]
    ) -> list[dict[bytes, bytes]]:
        commands = [("HGETALL", key(project, f"activity:{hour}")) for hour in hours]
        replies = await self._commands(project, *commands) if commands else []
        letter = dimension.value.encode()
        return [
            {name[1:]: value for name, value in _pairs(reply).items() if name.startswith(letter)}
            for reply in replies
        ]

    async def roll_up(self, project: str) -> int:
        """See `EventLog.roll_up`."""
        time = await self._command(project, "TIME")
        now = int(time[0]) // 3600
        over = [hour for hour in await self._open_hours(project) if hour < now]
        for hour in over:
            await self._roll_up(project, hour)
            await self._command(
                project,
                "FCALL",
                "contex1_rolled_up",
                2,
                key(project, "activity"),
                key(project, "activity-open"),
                hour,
            )
        return len(over)

    async def _roll_up(self, project: str, hour: int) -> None:
        cursor = b"0"
        while True:
            cursor, fields = await self._command(
                project, "HSCAN", key(project, f"activity:{hour}"), cursor, "COUNT", _SCAN_COUNT
            )
            totals: dict[str, list[Any]] = {}
            for name, value in zip(fields[::2], fields[1::2], strict=True):
                total = sum(int(part.partition(b":")[2]) for part in value.split(b" "))
                totals.setdefault(chr(name[0]), []).extend((name[1:], total))
            for letter, counts in totals.items():
                await self._command(
                    project,
                    "FCALL",
                    "contex1_roll_up",
                    1,
                    key(project, f"activity:{letter}:{hour // 24}"),
                    hour % 24,
                    *counts,
                )
            if cursor == b"0":
                return

    # -- journals ----------------------------------------------------------------

    async def note_sent(
        self, project: str, messages: Iterable[Sent], *, repeated: bool = False
    ) -> None:
        """See `EventLog.note_sent`."""
        some: list[Sent] = []
        events = 0
        for sent in messages:
            if some and (len(some) == _MESSAGES or events + len(sent.events) > _EVENTS):
                await self._command(project, *self._deliver(project, some, repeated))
                some, events = [], 0
            some.append(sent)
            events += len(sent.events)
        if some:
            await self._command(project, *self._deliver(project, some, repeated))

    def _deliver(self, project: str, messages: list[Sent], repeated: bool) -> Command:
        sequences = {event.sequence for sent in messages for event in sent.events}
        places = {sequence: index for index, sequence in enumerate(sequences, 1)}
        agents = (agent_keys(project, sent.agent_id)[:3] for sent in messages)
        keys = (
            key(project, "activity"),
            key(project, "activity-open"),
            key(project, "journals"),
            key(project, "agents"),
            key(project, "cursors"),
            *(key(project, f"receivers:{sequence}") for sequence in places),
            *(name for names in agents for name in names),
        )
        arguments: list[Any] = [
            self._delivery_retention_ms,
            self._journal_entries,
            "R" if repeated else "",
            len(places),
        ]
        for sent in messages:
            met = Counter(index for event in sent.events for index, _ in event.needs)
            arguments += (
                sent.agent_id,
                sent.stream_id or "-",
                sent.number,
                sent.kind,
                sent.registration,
                str(sent.position),
                orjson.dumps(sent.needs),
                len(sent.needs),
            )
            for index, need in enumerate(sent.needs):
                arguments += (need, met[index])
            arguments.append(len(sent.events))
            for event in sent.events:
                ms, n = event.sequence
                mark = "D" if event.deleted else "L"
                arguments += (
                    places[event.sequence],
                    event.revision,
                    f"{ms}-{n} {event.revision} {mark}",
                    ",".join([f"{index}:{score:.4g}" for index, score in event.needs]) or "-",
                    event.data_key,
                )
        return ("FCALL", "contex1_deliver", len(keys), *keys, *arguments)

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
        found = await self._command(project, "GET", key(project, f"receivers:{sequence}"))
        receivers: dict[str, list[Sequence]] = {}
        words = (found or b"").decode().split()
        for agent_id, place in zip(words[::2], words[1::2], strict=True):
            receivers.setdefault(agent_id, []).append(Sequence.parse(place))
        return receivers

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
        return {owner.decode(): said.decode() for owner, said in _pairs(found).items()}


def _pairs(reply: Any) -> dict[bytes, bytes]:
    """A hash, as either version of the protocol has it."""
    return dict(reply if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True))


def _has_slot(value: bytes, slot: int) -> bool:
    return any(part.partition(b":")[0] == b"%d" % slot for part in value.split(b" "))


def _note(row: Any) -> Note:
    place, fields = row
    return Note(parse_sequence(place), dict(zip(fields[::2], fields[1::2], strict=True)))


def _snapshot_info(row: Any) -> SnapshotInfo:
    place, fields = row
    events, size, keys, stored = map(int, fields[1].split(b" "))
    return SnapshotInfo(parse_sequence(place), events, size, keys, stored)
