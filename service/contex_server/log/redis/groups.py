"""Consumer groups, on Redis or Valkey; functions/groups.lua lists the keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from contex_server.kernel.inbox_ids import entry_of, event_of
from contex_server.kernel.model import SERVICE, Origin, Range, Sequence
from contex_server.kernel.slices import sliced
from contex_server.log.groups import (
    GROUP,
    NOBODY,
    Blocker,
    Claimed,
    ConsumerState,
    Demand,
    Gaps,
    GroupState,
    GroupStore,
    Outcome,
    Parked,
    Settled,
    Settlement,
    Taken,
    Verb,
)
from contex_server.log.inboxes import InboxEntry
from contex_server.log.redis.client import Facet, fcall, pairs
from contex_server.log.redis.connections import Command
from contex_server.log.redis.key_names import agent_kinds, parse_sequence

_IDS = 1_000
"""Parked deliveries that one call is about."""


class RedisGroups(Facet, GroupStore):
    async def open(
        self,
        project: str,
        agent_id: str,
        start: Sequence,
        consumer: str,
        stream_id: str,
        held: Iterable[str],
        *,
        again: bool = False,
    ) -> int | None:
        kinds = (f"group:{agent_id}",)
        place, event = f"{start.ms}-{start.n}", str(event_of(start))
        of = (agent_id, place, consumer, stream_id, "A" if again else "", event)
        epoch = await self._client.call(project, "contex1_open_group", kinds, *of, *held)
        return None if epoch is None else int(epoch)

    async def take(
        self,
        project: str,
        agent_id: str,
        epoch: int,
        demands: Iterable[Demand],
        *,
        most: int,
        tries: int,
        noted: bool,
    ) -> Taken | None:
        reply = await self._client.call(
            project,
            "contex1_take",
            (f"group:{agent_id}",),
            agent_id,
            epoch,
            most,
            self._settings.delivery_retention_ms,
            self._settings.journal_entries,
            int(noted),
            tries,
            *(part for demand in demands for part in demand),
        )
        if not reply:
            return None
        due, blocked, outstanding, superseded, dropped, removed, exhausted, position, *rows = reply
        tried = iter(exhausted)
        return Taken(
            [_claims(row) if isinstance(row, list) else None for row in rows],
            int(due) if due else None,
            bool(blocked),
            int(outstanding),
            Gaps(int(superseded), int(dropped), int(removed)),
            [(ref.decode(), int(attempt)) for ref, attempt in zip(tried, tried, strict=True)],
            parse_sequence(position),
        )

    async def settle(
        self,
        project: str,
        agent_id: str,
        epoch: int,
        settlements: Iterable[Settlement],
        *,
        cursor: Sequence | None = None,
        leaving: Iterable[tuple[str, str]] = (),
        parked: int,
    ) -> Settled | None:
        several = list(settlements)
        parts: list[Any] = [part for settlement in several for part in settlement]
        for consumer, stream_id in leaving:
            parts += ("l", consumer, stream_id, 0, "")
        if cursor is not None:
            place = f"{cursor.ms}-{cursor.n}" if entry_of(cursor) else ""
            parts += ("c", "", place, 0, str(event_of(cursor)))
        parks = any(settlement.verb is Verb.PARK for settlement in several)
        reply = await self._client.call(
            project,
            "contex1_park" if parks else "contex1_settle",
            (f"group:{agent_id}",),
            agent_id,
            epoch,
            parked,
            self._settings.delivery_retention_ms,
            self._settings.journal_entries,
            *parts,
        )
        if not reply:
            return None
        upto, *outcomes = reply
        return Settled(
            parse_sequence(upto) if upto else None, [Outcome(o) for o in outcomes[: len(several)]]
        )

    async def seek(
        self, project: str, agent_id: str, place: Sequence, origin: Origin = SERVICE
    ) -> int | None:
        inside = f"{place.ms}-{place.n}" if entry_of(place) else ""
        cleared: int | None = await self._client.call(
            project,
            "contex1_seek",
            (*agent_kinds(agent_id), "places", f"group:{agent_id}"),
            agent_id,
            self._settings.delivery_retention_ms,
            self._settings.journal_entries,
            str(event_of(place)),
            str(origin),
            inside,
            f"{place.ms}-{place.n}",
        )
        return cleared

    async def state(self, project: str, agent_id: str, most: int) -> GroupState | None:
        kinds = (f"group:{agent_id}",)
        reply = await self._client.call_read_only(
            project, "contex1_group_status", kinds, agent_id, most
        )
        if not reply:
            return None
        position, backlog, outstanding, delayed, waiting, parked, *rest = reply
        superseded, dropped, removed, oldest, now_ms, several = rest
        fields = iter(several)
        consumers = [
            ConsumerState(name.decode(), int(held), int(idle), int(oldest_ms))
            for name, held, idle, oldest_ms in zip(fields, fields, fields, fields, strict=True)
        ]
        return GroupState(
            parse_sequence(position),
            int(backlog),
            int(outstanding),
            int(delayed),
            int(waiting),
            int(parked),
            Gaps(int(superseded), int(dropped), int(removed)),
            parse_sequence(oldest) if oldest else None,
            int(now_ms),
            sorted(consumers),
        )

    async def blockers(self, project: str, agent_id: str, count: int) -> list[Blocker]:
        rows = await self._client.command(project, "ZRANGE", f"waiting:{agent_id}", 0, -1)
        waiting = Counter(row.partition(b"\0")[0] for row in rows or ())
        worst = [name for name, _ in waiting.most_common(count)]
        if not worst:
            return []
        fields = [b"k" + name for name in worst]
        refs = await self._client.command(project, "HMGET", f"busy:{agent_id}", *fields)
        heads = [(name, ref.decode()) for name, ref in zip(worst, refs, strict=True) if ref]
        streams = [
            (f"again:{agent_id}", ref[1:]) if ref[0] == "+" else (f"inbox:{agent_id}", ref)
            for _, ref in heads
        ]
        asks: list[Command] = [
            ("XPENDING", kind, GROUP, place, place, 1) for kind, place in streams
        ]
        asks += [("XRANGE", kind, place, place) for kind, place in streams]
        replies = iter(await self._client.commands(project, *asks) if asks else ())
        pending = list(islice(replies, len(heads)))
        found = []
        for (name, ref), claims, entries in zip(heads, pending, replies, strict=True):
            if claims:
                _, owner, _, attempt = claims[0]
                place = entries[0][1][1] if ref[0] == "+" and entries else ref.lstrip("+").encode()
                holder = "" if owner.decode() == NOBODY else owner.decode()
                found.append(
                    Blocker(
                        name.decode(), waiting[name], parse_sequence(place), holder, int(attempt)
                    )
                )
        return found

    async def parked(
        self, project: str, agent_id: str, after: Sequence, count: int
    ) -> list[Parked]:
        rows = await self._client.read(project, f"parked:{agent_id}", Range(after), count)
        return [_parked(row) async for row in sliced(rows or ())]

    async def count_parked(self, project: str, agent_id: str) -> int:
        return int(await self._client.command(project, "XLEN", f"parked:{agent_id}"))

    async def carried(self, project: str, agent_id: str) -> list[Parked]:
        again, parked = await self._client.commands(
            project, *(("XRANGE", f"{kind}:{agent_id}", "-", "+") for kind in ("again", "parked"))
        )
        several = [_parked(row) for row in parked or ()]
        for place, stored in again or ():
            fields = pairs(stored)
            if fields[b"k"] == b"R":
                entry = InboxEntry(parse_sequence(fields[b"o"]), fields[b"d"])
                several.append(Parked(parse_sequence(place), entry, 0, "", "S"))
        found: list[Parked] = []
        for each in sorted(several):
            least = found[-1].id.next() if found else each.id
            found.append(each._replace(id=max(each.id, least)))
        return found

    async def restore(self, staged: str, parked: Mapping[str, Iterable[Parked]]) -> None:
        for agent_id, several in parked.items():
            every = iter(several)
            while some := list(islice(every, _IDS)):
                parts = [
                    part
                    for place, entry, attempts, consumer, why in some
                    for part in (str(place), str(entry.id), attempts, consumer, why, entry.body)
                ]
                kinds = (f"parked:{agent_id}",)
                await self._client.call(staged, "contex1_restore_parked", kinds, *parts)

    async def redrive(self, project: str, agent_id: str, ids: Iterable[Sequence]) -> int:
        return await self._unpark(project, agent_id, "R", ids)

    async def drop(self, project: str, agent_id: str, ids: Iterable[Sequence]) -> int:
        return await self._unpark(project, agent_id, "D", ids)

    async def _unpark(self, project: str, agent_id: str, verb: str, ids: Iterable[Sequence]) -> int:
        every, found = iter(ids), 0
        while some := list(islice(every, _IDS)):
            places = [f"{place.ms}-{place.n}" for place in some]
            call = fcall(project, "contex1_unpark", (f"group:{agent_id}",), agent_id, verb, *places)
            (count,) = await self._client.run(project, call)
            found += int(count)
        return found


def _parked(row: Any) -> Parked:
    place, stored = row
    fields = pairs(stored)
    entry = InboxEntry(parse_sequence(fields[b"o"]), fields[b"d"])
    consumer, why = fields[b"c"].decode(), fields[b"w"].decode()
    return Parked(parse_sequence(place), entry, int(fields[b"n"]), consumer, why)


def _claims(row: list[Any]) -> list[Claimed]:
    parts = iter(row)
    return [
        Claimed(
            ref.decode(), InboxEntry(parse_sequence(place), body), int(attempt), redriven == b"R"
        )
        for ref, place, attempt, redriven, body in zip(*[parts] * 5, strict=True)
    ]
