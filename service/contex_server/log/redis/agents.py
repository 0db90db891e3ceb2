"""Registrations and journals, on Redis or Valkey.

agents           hash: agent id -> registration
cursors          hash: agent id -> acknowledged sequence
contacts, ttls, leases  when agents were in contact and expire, see functions/agents.lua
journals         set: the agents that have a journal
journal:<agent>  stream: its journal, see functions/agents.lua
sent:<agent>     hash: what it was sent last of each key
streams:<agent>  hash: its open and recent streams
receivers:<seq>  string: who was sent an event, and where that is noted
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

import orjson

from contex_server.kernel.config import Settings
from contex_server.kernel.inbox_ids import inbox_id
from contex_server.kernel.model import SERVICE, Origin, Range, Sequence
from contex_server.log.agents import (
    AgentRecord,
    AgentStore,
    AgentWrite,
    AgentWritten,
    Contact,
    JournalStore,
    RestoredAgent,
    Sending,
    Sent,
)
from contex_server.log.audit import Note
from contex_server.log.expiry import Due
from contex_server.log.redis.audit import as_note
from contex_server.log.redis.client import Facet, fcall, pairs
from contex_server.log.redis.expiry import due_projects
from contex_server.log.redis.key_names import COUNTED, agent_kinds, parse_sequence

_MESSAGES = 128
_EVENTS = 512
"""Messages, and events in them, that are noted in one call: some 3 ms of the store's time."""
_RESTORED = 500
"""Registrations that are restored in one call."""


class RedisAgents(Facet, AgentStore):
    async def write_agent(self, write: AgentWrite) -> AgentWritten | None:
        project = write.project
        reply = await self._client.call(
            project,
            "contex2_agent",
            (*COUNTED, *agent_kinds(write.agent_id)),
            write.agent_id,
            write.expected,
            write.record,
            "" if write.cursor is None else str(write.cursor),
            write.event_type,
            write.body,
            str(write.origin),
            self._settings.audit_retention_ms,
            self._settings.delivery_retention_ms,
            self._settings.journal_entries,
            write.ttl_ms,
        )
        if reply is None:
            return None
        sequence, cursor, *contact_ms = reply
        sequence = parse_sequence(sequence)
        return AgentWritten(sequence, parse_sequence(cursor) if cursor else sequence, *contact_ms)

    async def agent(self, project: str, agent_id: str) -> AgentRecord | None:
        record, cursor, contact_ms = await self._client.commands(
            project, *(("HGET", kind, agent_id) for kind in ("agents", "cursors", "contacts"))
        )
        if record is None:
            return None
        return AgentRecord(agent_id, record, parse_sequence(cursor), int(contact_ms or 0))

    async def agents(self, project: str, after: str, count: int) -> list[AgentRecord]:
        ids = await self._client.command(project, "HKEYS", "agents")
        page = sorted(i for i in ids if i > after.encode())[:count]
        return list((await self.some_agents(project, [i.decode() for i in page])).values())

    async def some_agents(self, project: str, agent_ids: Iterable[str]) -> dict[str, AgentRecord]:
        page = list(agent_ids)
        if not page:
            return {}
        found = await self._client.commands(
            project, *(("HMGET", kind, *page) for kind in ("agents", "cursors", "contacts"))
        )
        return {
            agent_id: AgentRecord(agent_id, record, parse_sequence(cursor), int(contact_ms or 0))
            for agent_id, record, cursor, contact_ms in zip(page, *found, strict=True)
            if record is not None
        }

    async def acknowledge(
        self,
        project: str,
        agent_id: str,
        sequence: Sequence,
        origin: Origin = SERVICE,
        place: Sequence | None = None,
    ) -> Sequence | None:
        reply = await self._client.call(
            project,
            "contex3_acknowledge",
            (*agent_kinds(agent_id), "places"),
            agent_id,
            self._settings.delivery_retention_ms,
            self._settings.journal_entries,
            str(sequence),
            str(origin),
            "" if place is None else str(place),
            str(inbox_id(sequence) if place is None else place),
        )
        return None if reply is None else parse_sequence(reply)

    async def contact(self, project: str, agent_ids: Iterable[str]) -> Contact:
        kinds = ("agents", "contacts", "ttls")
        ms, shortest, gone = await self._client.call(project, "contex1_contact", kinds, *agent_ids)
        return Contact(ms, shortest, frozenset(agent_id.decode() for agent_id in gone))

    async def expiring(self) -> Due:
        return await due_projects(self._client, "leases")

    async def may_have_expired(self, project: str, count: int) -> list[str]:
        ((seconds, micros),) = await self._client.run(project, ("TIME",))
        ms = int(seconds) * 1000 + int(micros) // 1000
        command = ("ZRANGE", "leases", "-inf", ms, "BYSCORE", "LIMIT", 0, count)
        return [agent_id.decode() for agent_id in await self._client.command(project, *command)]

    async def expire_agents(
        self,
        project: str,
        bodies: Mapping[str, bytes],
        event_type: str,
        looked_ms: int,
        origin: Origin = SERVICE,
    ) -> list[str]:
        calls = [
            fcall(
                project,
                "contex1_expire_agent",
                (*COUNTED, *agent_kinds(agent_id)),
                agent_id,
                event_type,
                body,
                str(origin),
                self._settings.audit_retention_ms,
                self._settings.delivery_retention_ms,
                self._settings.journal_entries,
                looked_ms,
            )
            for agent_id, body in bodies.items()
        ]
        replies = await self._client.run(project, *calls)
        return [agent_id for agent_id, expired in zip(bodies, replies, strict=True) if expired]

    async def set_cursors(self, project: str, cursors: Mapping[str, Sequence]) -> None:
        if cursors:
            fields = chain.from_iterable((name, str(place)) for name, place in cursors.items())
            await self._client.command(project, "HSET", "cursors", *fields)

    async def restore_agents(self, project: str, agents: Mapping[str, RestoredAgent]) -> int:
        added, every = 0, iter(agents.items())
        while some := list(islice(every, _RESTORED)):
            arguments = [
                argument
                for agent_id, (record, cursor, ttl_ms) in some
                for argument in (agent_id, record, str(cursor), ttl_ms)
            ]
            kinds = ("agents", "cursors")
            added += await self._client.call(project, "contex1_restore_agents", kinds, *arguments)
        return added


class RedisJournals(Facet, JournalStore):
    async def note_sent(
        self, project: str, messages: Iterable[Sent], *, repeated: bool = False
    ) -> None:
        some: list[Sent] = []
        events = 0
        for sent in messages:
            if some and (len(some) == _MESSAGES or events + len(sent.events) > _EVENTS):
                await self._deliver(project, some, repeated)
                some, events = [], 0
            some.append(sent)
            events += len(sent.events)
        if some:
            await self._deliver(project, some, repeated)

    async def _deliver(self, project: str, messages: list[Sent], repeated: bool) -> None:
        sequences = {event.sequence for sent in messages for event in sent.events}
        places = {sequence: index for index, sequence in enumerate(sequences, 1)}
        kinds = (
            "activity",
            "activity-open",
            "journals",
            "agents",
            "cursors",
            *(f"receivers:{sequence}" for sequence in places),
            *(kind for sent in messages for kind in agent_kinds(sent.agent_id)[:3]),
        )
        arguments: list[Any] = [
            self._settings.delivery_retention_ms,
            self._settings.journal_entries,
            "R" if repeated else "",
            len(places),
        ]
        for sent in messages:
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
            for need in sent.needs:
                arguments += (need, 0)  # What is decided is counted, not what answers show of it.
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
        await self._client.call(project, "contex1_deliver", kinds, *arguments)

    async def note_sending(
        self, project: str, sendings: Iterable[Sending], *, repeated: bool = False
    ) -> None:
        for _, kinds, arguments in sending_calls(self._settings, sendings, repeated=repeated):
            await self._client.call(project, "contex1_sending", kinds, *arguments)

    async def sent(self, project: str, agent_id: str) -> dict[str, bytes]:
        stored = pairs(await self._client.command(project, "HGETALL", f"sent:{agent_id}"))
        # What is not of a datum begins with a control character.
        return {name.decode(): said for name, said in stored.items() if name[0] > 32}

    async def note_stream(
        self, project: str, agent_id: str, stream_id: str, start: Sequence | None, origin: Origin
    ) -> None:
        await self._client.call(
            project,
            "contex1_stream",
            agent_kinds(agent_id),
            agent_id,
            self._settings.delivery_retention_ms,
            self._settings.journal_entries,
            stream_id,
            "c" if start is None else "o",
            "" if start is None else str(start),
            str(origin),
        )

    async def journal(self, project: str, agent_id: str, span: Range, count: int) -> list[Note]:
        rows = await self._client.read(project, f"journal:{agent_id}", span, count)
        return [as_note(row) for row in rows]

    async def journal_notes(
        self, project: str, places: Iterable[tuple[str, Sequence]]
    ) -> list[Note | None]:
        commands = [
            ("XRANGE", f"journal:{agent_id}", str(place), str(place)) for agent_id, place in places
        ]
        replies = await self._client.commands(project, *commands)
        return [as_note(rows[0]) if rows else None for rows in replies]

    async def journals(self, project: str) -> list[str]:
        ids = await self._client.command(project, "SMEMBERS", "journals")
        return sorted(agent_id.decode() for agent_id in ids)

    async def receivers(self, project: str, sequence: Sequence) -> dict[str, list[Sequence]]:
        stored = await self._client.command(project, "GET", f"receivers:{sequence}")
        receivers: dict[str, list[Sequence]] = {}
        words = (stored or b"").decode().split()
        for agent_id, place in zip(words[::2], words[1::2], strict=True):
            receivers.setdefault(agent_id, []).append(Sequence.parse(place))
        return receivers


def sending_calls(
    settings: Settings, sendings: Iterable[Sending], *, repeated: bool = False
) -> Iterator[tuple[list[Sending], tuple[str, ...], tuple[Any, ...]]]:
    """The calls that note what is sent: what each notes, its kinds of keys, its arguments."""
    every = iter(sendings)
    while some := list(islice(every, _MESSAGES)):
        kinds = chain.from_iterable(agent_kinds(sending.agent_id)[:3] for sending in some)
        yield (
            some,
            ("agents", "cursors", "journals", *kinds),
            (
                settings.delivery_retention_ms,
                settings.journal_entries,
                "R" if repeated else "",
                *chain.from_iterable(
                    (agent_id, stream_id, f"{after.ms}-{after.n}", f"{upto.ms}-{upto.n}")
                    for agent_id, stream_id, after, upto in some
                ),
            ),
        )
