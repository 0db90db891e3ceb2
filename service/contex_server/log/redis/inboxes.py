"""Deciders and inboxes, on Redis or Valkey; functions/inboxes.lua lists the keys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from itertools import chain, count, islice
from random import randrange
from typing import Any

import structlog

from contex_server.kernel.model import BEGINNING, Range, Sequence
from contex_server.log.agents import Sending
from contex_server.log.groups import GROUP
from contex_server.log.inboxes import (
    SHARDS,
    Backlog,
    CarriedDecisions,
    DecidingState,
    InboxEnd,
    InboxEntry,
    InboxPart,
    InboxPosition,
    InboxSize,
    InboxStore,
    OutOfOrder,
    Shard,
    ShardDecisions,
    Standing,
    Trimmed,
    Unread,
    shard_of,
)
from contex_server.log.redis.agents import sending_calls
from contex_server.log.redis.client import (
    Facet,
    fcall,
    fcall_read_only,
    pairs,
    range_command,
)
from contex_server.log.redis.connections import Command
from contex_server.log.redis.key_names import key, parse_sequence, projects_key

log = structlog.get_logger(__name__)

_BUCKETS = 64
_ENTRIES = 2_000
"""Entries of inboxes that are filled in one call: some 4 ms of the store's time."""
_SCANNED = 500
_COUNTED = 20
"""Inboxes whose entries are counted in one call: some 1 ms of the store's time."""
_MEMBERS = "ctx:{0}:deciders"
_entry = _sequence = tuple.__new__


class RedisInboxes(Facet, InboxStore):
    async def with_agents(self, *, everywhere: bool = False) -> list[str]:
        found: list[str] = []
        for buckets in self._client.buckets(_BUCKETS):
            listed = projects_key if everywhere else _with_agents_key
            commands = [("SMEMBERS", listed(bucket)) for bucket in buckets]
            replies = await self._client.run_in(buckets[0], *commands)
            # What an import has staged is decided once it is a project.
            names = [name.decode() for members in replies for name in members if b"~" not in name]
            if everywhere and names:
                asked = [("EXISTS", key(name, "agents")) for name in names]
                there = []
                for start in range(0, len(asked), _ENTRIES):
                    there += await self._client.run_in(buckets[0], *asked[start : start + _ENTRIES])
                names = [name for name, one in zip(names, there, strict=True) if one]
            found += names
        return found

    async def count_agents(self, project: str) -> int:
        return int(await self._client.command(project, "HLEN", "agents"))

    async def take(self, project: str, owner: str, shards: Iterable[int]) -> dict[int, Shard]:
        wanted = list(shards)
        kinds = ("deciding", "events", "agents")
        reply = await self._client.call(project, "contex1_take_shards", kinds, owner, *wanted)
        if reply is None:
            return {}
        taken = [Shard(int(e), parse_sequence(p)) for e, p in zip(*[iter(reply)] * 2, strict=True)]
        return dict(zip(wanted, taken, strict=True))

    async def standings(self, project: str) -> dict[str, tuple[bytes, Sequence | None]]:
        decided, deciding = await self._client.commands(
            project, ("HGETALL", "decided"), ("HGETALL", "deciding")
        )
        own = _own_positions(pairs(deciding))
        return {
            (name := agent_id.decode()): (record, own.get(name))
            for agent_id, record in pairs(decided).items()
        }

    async def standing(self, project: str, agent_id: str) -> Standing:
        return _standing(*await self._client.run(project, *_asks_standing(project, agent_id)))

    async def holders(
        self, project: str, shards: Iterable[int], data_keys: Iterable[str]
    ) -> dict[int, dict[str, bytes]]:
        asked, keys = list(shards), list(data_keys)
        if not keys:
            return {shard: {} for shard in asked}
        commands = [("HMGET", f"holders:{shard}", *keys) for shard in asked]
        replies = await self._client.commands(project, *commands)
        return {
            shard: {name: held for name, held in zip(keys, reply, strict=True) if held is not None}
            for shard, reply in zip(asked, replies, strict=True)
        }

    async def all_holders(self, project: str, shard: int) -> AsyncIterator[dict[str, bytes]]:
        async for chunk in self._client.scan(project, f"holders:{shard}", _SCANNED):
            yield {name.decode(): value for name, value in chunk}

    async def decide(
        self, project: str, owner: str, decisions: Mapping[int, ShardDecisions]
    ) -> bool:
        *first, last = [*_filling(decisions)] or [{}]
        for entries in first:
            if not await self._decide(project, owner, decisions, entries, commit=False):
                return False
        return await self._decide(project, owner, decisions, last, commit=True)

    async def _decide(
        self,
        project: str,
        owner: str,
        decisions: Mapping[int, ShardDecisions],
        entries: Mapping[str, list[InboxEntry]],
        *,
        commit: bool,
        kind: str = "inbox",
    ) -> bool:
        kinds = [
            *("deciding", "decided"),
            *(f"holders:{shard}" for shard in decisions),
            *(f"{kind}:{agent_id}" for agent_id in entries),
        ]
        arguments: list[Any] = [len(decisions)]
        agents: list[Any] = []
        for shard, decided in decisions.items():
            position = decided.position if commit else None
            holders = decided.holders if commit else {}
            arguments += (shard, decided.epoch, "" if position is None else str(position), owner)
            arguments.append(len(holders))
            for pair in holders.items():
                arguments += pair
            if commit:
                for agent_id, (record, position, _, anew, _) in decided.agents.items():
                    own = "" if position is None else f"{'!' * anew}{position}"
                    agents += (agent_id, b"-" if record is None else record, own)
        counts = [
            argument
            for decided in decisions.values()
            for name, count in (decided.counts if commit else {}).items()
            for argument in (f"n{name}", count)
        ]
        arguments += (len(agents) // 3, *agents, len(counts) // 2, *counts)
        for agent_id, several in entries.items():
            arguments += (agent_id, len(several))
            for (ms, n), body in several:
                arguments += (f"{ms}-{n}", body)
        if not decisions:
            return await self._client.attempt(project, "contex1_decide", kinds, *arguments)
        calls = [fcall(project, "contex2_decide", kinds, *arguments)]
        noting: list[tuple[ShardDecisions, list[Sending]]] = []
        for shard, decided in decisions.items() if commit else ():
            for part, kinds_of, of in sending_calls(self._settings, decided.sendings):
                noting.append((decided, part))
                noted = shard, decided.epoch, str(decided.position), *of
                calls.append(
                    fcall(project, "contex2_sending_decided", ("deciding", *kinds_of), *noted)
                )
        # What is decided holds, whether the notes were taken or refused.
        (done, *lost), *replies = await self._client.run(project, *calls, required=1)
        for (decided, part), reply in zip(noting, replies, strict=True):
            if isinstance(reply, Exception) or not reply:
                decided.unnoted.update(part)
        if lost:
            agent_id, place, last = (part.decode() for part in lost)
            log.error(
                "decision_out_of_order",
                project=project,
                agent_id=agent_id,
                place=place,
                last=last,
                lost=bool(done),
            )
            if not done:
                raise OutOfOrder(f"{place} is decided after {last} for {agent_id}")
        return bool(done)

    async def numbers(self, project: str, count: int) -> int:
        return int(await self._client.call(project, "contex1_numbers", ("deciding",), count))

    async def versions(self, project: str) -> dict[int, bytes]:
        stored = pairs(await self._client.command(project, "HGETALL", "decisions"))
        return {int(number): version for number, version in stored.items()}

    async def add_version(self, project: str, version: bytes) -> int:
        while True:
            known = await self.versions(project)
            for number, one in known.items():
                if one == version:
                    return number
            # Unlike those of an earlier project of the name, which others may still know.
            number = max(known) + 1 if known else randrange(1 << 14, 1 << 20)
            await self._client.command(project, "HSETNX", "decisions", number, version)

    async def inbox_part(
        self, project: str, agent_id: str, after: Sequence, count: int
    ) -> InboxPart:
        # In one turn, and in this order.
        asks = (
            _asks_end(project, agent_id),
            range_command(key(project, f"inbox:{agent_id}"), Range(after), count),
            *_asks_standing(project, agent_id),
        )
        ends, rows, *standing = await self._client.run(project, *asks)
        end = _end(ends)
        if not (based := after < end.trimmed.upto):
            return InboxPart(end, based, _entries(rows), _standing(*standing))
        asks_base = range_command(key(project, f"base:{agent_id}"), Range(after), count)
        rows, *standing = await self._client.run(
            project, asks_base, *_asks_standing(project, agent_id)
        )
        return InboxPart(end, based, _entries(rows), _standing(*standing))

    async def inbox(self, project: str, agent_id: str, span: Range, count: int) -> list[InboxEntry]:
        rows = await self._client.read(project, f"inbox:{agent_id}", span, count)
        return _entries(rows)

    async def inboxes(
        self, project: str, spans: Mapping[str, Range], count: int
    ) -> dict[str, list[InboxEntry]]:
        commands = [range_command(f"inbox:{agent}", span, count) for agent, span in spans.items()]
        replies = await self._client.commands(project, *commands)
        return {agent: _entries(rows) for agent, rows in zip(spans, replies, strict=True)}

    async def inbox_end(self, project: str, agent_id: str) -> InboxEnd:
        (reply,) = await self._client.run(project, _asks_end(project, agent_id))
        return _end(reply)

    async def sizes(self, project: str, agent_ids: Iterable[str]) -> dict[str, InboxSize]:
        agents = list(agent_ids)
        commands: list[Command] = []
        for agent_id in agents:
            name = key(project, f"inbox:{agent_id}")
            commands += [("MEMORY", "USAGE", name), ("XLEN", name)]
            commands.append(("XRANGE", name, "-", "+", "COUNT", 1))
        replies = iter(await self._client.run(project, *commands))
        return {
            agent_id: InboxSize(
                int(size or 0), int(length), parse_sequence(rows[0][0]) if rows else None
            )
            for agent_id, size, length, rows in zip(agents, replies, replies, replies, strict=True)
        }

    async def handed_out(self, project: str, agent_id: str) -> Sequence | None:
        inbox, group = key(project, f"inbox:{agent_id}"), key(project, f"group:{agent_id}")
        groups, base = await self._client.run(
            project, ("XINFO", "GROUPS", inbox), ("HGET", group, "base")
        )
        for fields in map(pairs, groups or ()):
            if fields[b"name"] == GROUP.encode():
                return parse_sequence(base or fields[b"last-delivered-id"])
        return None

    async def base(
        self, project: str, agent_id: str, after: Sequence, count: int
    ) -> list[InboxEntry]:
        return _entries(await self._client.read(project, f"base:{agent_id}", Range(after), count))

    async def trim(
        self,
        project: str,
        agent_id: str,
        shard: Shard,
        base: Iterable[InboxEntry],
        trimmed: Trimmed,
    ) -> bool:
        held = shard_of(agent_id), shard.epoch
        kinds = ("deciding", f"base-new:{agent_id}", f"base:{agent_id}", f"inbox:{agent_id}")
        left = iter(base)
        part = list(islice(left, _ENTRIES))
        for number in count():
            entries = chain.from_iterable((str(place), body) for place, body in part)
            begins = int(number == 0)
            if not await self._client.attempt(
                project, "contex1_fill_base", kinds[:2], *held, begins, *entries
            ):
                return False
            part = list(islice(left, _ENTRIES))
            if not part:
                break
        counts = trimmed.summed_up, trimmed.dropped
        return await self._client.attempt(
            project, "contex1_trim_inbox", kinds, *held, agent_id, str(trimmed.upto), *counts
        )

    async def positions(self, project: str, agent_ids: Iterable[str]) -> dict[str, InboxPosition]:
        ids = list(agent_ids)
        if not ids:
            return {}
        deciding, own, trimmed, records, places = await self._client.commands(
            project,
            ("HMGET", "deciding", *(f"s{shard}" for shard in range(SHARDS))),
            ("HMGET", "deciding", *(f"a{agent_id}" for agent_id in ids)),
            ("HMGET", "deciding", *(f"t{agent_id}" for agent_id in ids)),
            ("HMGET", "decided", *ids),
            ("HMGET", "places", *ids),
        )
        shards = [parse_sequence(held.split()[1]) if held else BEGINNING for held in deciding]
        several = zip(ids, own, trimmed, records, places, strict=True)
        return {
            agent_id: InboxPosition(
                record or b"",
                parse_sequence(position) if position else shards[shard_of(agent_id)],
                bool(position),
                parse_sequence(place) if place else None,
                _trimmed(upto).upto,
            )
            for agent_id, position, upto, record, place in several
        }

    async def backlog(
        self,
        project: str,
        positions: Iterable[Sequence],
        places: Mapping[str, Sequence],
        most: int,
    ) -> Backlog:
        asked = list(dict.fromkeys(positions))
        every = iter(places.items())
        calls = [fcall_read_only(project, "contex1_undecided", ("events",), *map(str, asked))]
        while some := list(islice(every, _COUNTED)):
            kinds = [f"{part}:{agent_id}" for agent_id, _ in some for part in ("base", "inbox")]
            after = [f"{place.ms}-{place.n}" for _, place in some]
            calls.append(fcall_read_only(project, "contex1_unread", kinds, most, *after))
        (now_ms, *firsts), *told = await self._client.run(project, *calls)
        counted = [pair for reply in told for pair in zip(*[iter(reply)] * 2, strict=True)]
        return Backlog(
            int(now_ms),
            {
                position: parse_sequence(first) if first else None
                for position, first in zip(asked, firsts, strict=True)
            },
            {
                agent_id: Unread(
                    parse_sequence(first) if first else None, min(count, most), count > most
                )
                for agent_id, (first, count) in zip(places, counted, strict=True)
            },
        )

    async def place(self, project: str, agent_id: str) -> Sequence | None:
        stored = await self._client.command(project, "HGET", "places", agent_id)
        return None if stored is None else parse_sequence(stored)

    async def places(self, project: str, agent_ids: Iterable[str]) -> dict[str, Sequence]:
        ids = list(agent_ids)
        if not ids:
            return {}
        stored = await self._client.command(project, "HMGET", "places", *ids)
        found = zip(ids, stored, strict=True)
        return {name: parse_sequence(place) for name, place in found if place is not None}

    async def deciding_state(self, project: str) -> DecidingState:
        kinds = ("deciding", "decided", "agents")
        deciding, decided, agents = await self._client.call_read_only(
            project, "contex1_deciding_state", kinds
        )
        fields = pairs(deciding)
        return DecidingState(
            {
                int(name[1:]): parse_sequence(held.split()[1])
                for name, held in fields.items()
                if name[:1] == b"s"
            },
            _own_positions(fields),
            int(fields.get(b"numbers", 0)),
            {agent_id.decode(): record for agent_id, record in pairs(decided).items()},
            frozenset(agent_id.decode() for agent_id in agents),
        )

    async def restore_decisions(self, staged: str, part: CarriedDecisions, epoch: int) -> None:
        if part.anew:
            await self._client.call(staged, "contex1_drop_decisions", ("decided",))
        deciding: dict[str, str | int] = {
            f"s{shard}": f"{epoch} {position} -" for shard, position in part.shards.items()
        }
        deciding |= {f"a{agent_id}": str(position) for agent_id, position in part.own.items()}
        deciding |= {
            f"t{agent_id}": f"{upto} {summed_up} {dropped}"
            for agent_id, (upto, summed_up, dropped) in part.trimmed.items()
        }
        if part.numbers:
            deciding["numbers"] = part.numbers
        hashes: dict[str, Mapping[Any, Any]] = {
            "deciding": deciding,
            "decided": part.records,
            "decisions": part.versions,
            "places": {agent_id: str(place) for agent_id, place in part.places.items()},
            **{f"holders:{shard}": holders for shard, holders in part.holders.items()},
        }
        for kind, values in hashes.items():
            fields = list(chain.from_iterable(values.items()))
            for start in range(0, len(fields), 2 * _ENTRIES):
                some = fields[start : start + 2 * _ENTRIES]
                await self._client.command(staged, "HSET", kind, *some)
        for kind, inboxes in (("inbox", part.entries), ("base", part.base)):
            for entries in _filling({0: ShardDecisions(0, entries=inboxes)}):
                await self._decide(staged, "", {}, entries, commit=False, kind=kind)

    async def adopt_decisions(self, project: str, staged: str) -> bool:
        keys = (key(project, "deciding"), key(staged, "deciding"), key(project, "agents"))
        call = ("FCALL", "contex1_adopt_decisions", len(keys), *keys)
        (adopted,) = await self._client.run(project, call)
        return bool(adopted)

    async def join(self, member: str, ttl_ms: int) -> list[str]:
        call = ("FCALL", "contex1_join", 1, _MEMBERS, member, ttl_ms)
        (members,) = await self._client.run_in(0, call)
        return [name.decode() for name in members]


def _asks_end(project: str, agent_id: str) -> Command:
    kinds = ("deciding", f"inbox:{agent_id}")
    return fcall_read_only(project, "contex2_inbox_end", kinds, agent_id, shard_of(agent_id))


def _end(reply: Any) -> InboxEnd:
    last, position, own, trimmed = reply
    return InboxEnd(parse_sequence(last), parse_sequence(own or position), _trimmed(trimmed))


def _asks_standing(project: str, agent_id: str) -> tuple[Command, Command]:
    return (
        ("HGET", key(project, "decided"), agent_id),
        ("HMGET", key(project, "deciding"), f"a{agent_id}", f"t{agent_id}", f"f{agent_id}"),
    )


def _standing(record: bytes | None, of_agent: list[bytes | None]) -> Standing:
    own, trimmed, asked = of_agent
    position = None if own is None else parse_sequence(own)
    asked_for = None if asked is None else parse_sequence(asked)
    return Standing(record or b"", position, _trimmed(trimmed), asked=asked_for)


def _trimmed(stored: bytes | None) -> Trimmed:
    if not stored:
        return Trimmed()
    upto, summed_up, dropped = stored.split(b" ")
    return Trimmed(parse_sequence(upto), int(summed_up), int(dropped))


def _with_agents_key(bucket: int) -> str:
    return f"ctx:{{{bucket}}}:with-agents"


def _own_positions(deciding: Mapping[bytes, bytes]) -> dict[str, Sequence]:
    return {
        name[1:].decode(): parse_sequence(position)
        for name, position in deciding.items()
        if name[:1] == b"a"
    }


def _entries(rows: Any) -> list[InboxEntry]:
    entries = []
    for place, fields in rows or ():
        ms, n = place.split(b"-")
        entries.append(_entry(InboxEntry, (_sequence(Sequence, (int(ms), int(n))), fields[1])))
    return entries


def _filling(decisions: Mapping[int, ShardDecisions]) -> Iterator[dict[str, list[InboxEntry]]]:
    """The entries of all inboxes, as many as one call takes at a time."""
    part: dict[str, list[InboxEntry]] = {}
    size = 0
    for decided in decisions.values():
        for agent_id, entries in decided.entries.items():
            left = iter(entries)
            while some := list(islice(left, _ENTRIES - size)):
                part.setdefault(agent_id, []).extend(some)
                size += len(some)
                if size == _ENTRIES:
                    yield part
                    part, size = {}, 0
    if part:
        yield part
