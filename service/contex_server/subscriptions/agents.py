"""Registrations: what agents need, and how far each has got. Stored in the log's store."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import orjson

from contex_server.errors import ContexError, Reason, agent_not_found
from contex_server.log.port import AgentRecord, AgentWrite, AgentWritten, EventLog
from contex_server.matching.embeddings import Embeddings
from contex_server.model import (
    AGENT_REGISTERED,
    AGENT_UNREGISTERED,
    Agent,
    Entry,
    EventCodec,
    Match,
    Need,
)
from contex_server.model import Sequence as LogSequence
from contex_server.subscriptions.agent_record import decode_agent, encode_agent
from contex_server.subscriptions.matchmaker import Datum, Matchmaker
from contex_server.subscriptions.pages import check_readable

_TRIES = 5
_FETCH = 64


@dataclass(frozen=True, slots=True)
class MatchedDatum:
    """A datum with its event, whole unless the answer would have grown too large."""

    entry: Entry
    matches: tuple[Match, ...]
    payload_omitted: bool


@dataclass(frozen=True, slots=True)
class Registration:
    """A registration, and the data that match it as of `sequence`."""

    agent: Agent
    acknowledged: LogSequence
    data: list[MatchedDatum]
    sequence: LogSequence
    resume: LogSequence


class Agents:
    """Registers, changes and removes agents."""

    def __init__(
        self,
        log: EventLog,
        codec: EventCodec,
        embeddings: Embeddings,
        matchmaker: Matchmaker,
        *,
        default_threshold: float,
        answer_bytes: int,
    ) -> None:
        self._log = log
        self._codec = codec
        self._embeddings = embeddings
        self._matchmaker = matchmaker
        self._default_threshold = default_threshold
        self._answer_bytes = answer_bytes

    async def register(
        self,
        project: str,
        agent_id: str,
        needs: Sequence[str],
        *,
        last_seen: LogSequence | None,
        threshold: float | None,
        max_matches: int,
    ) -> Registration:
        """See `AgentService.RegisterAgent`.

        Raises:
            ContexError: SEQUENCE_TRIMMED, SEQUENCE_IN_FUTURE, AGENT_CONFLICT,
                EMBEDDER_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        if last_seen is not None:
            check_readable(await self._log.bounds(project), last_seen)

        def change(current: Agent | None, now_ms: int) -> Agent:
            return Agent(
                agent_id=agent_id,
                needs=self._needs(needs),
                threshold=self._default_threshold if threshold is None else threshold,
                max_matches=max_matches,
                registered_ms=current.registered_ms if current else now_ms,
                updated_ms=now_ms,
            )

        return await self._write(project, agent_id, change, last_seen)

    async def update(
        self,
        project: str,
        agent_id: str,
        *,
        needs: Sequence[str],
        threshold: float | None,
        max_matches: int | None,
    ) -> Registration:
        """See `AgentService.UpdateAgent`.

        Raises:
            ContexError: AGENT_NOT_FOUND, AGENT_CONFLICT, EMBEDDER_UNAVAILABLE,
                STORE_UNAVAILABLE.
        """

        def change(current: Agent | None, now_ms: int) -> Agent:
            if current is None:
                raise agent_not_found(project, agent_id)
            return replace(
                current,
                needs=self._needs(needs) if needs else current.needs,
                threshold=current.threshold if threshold is None else threshold,
                max_matches=current.max_matches if max_matches is None else max_matches,
                updated_ms=now_ms,
            )

        return await self._write(project, agent_id, change, None)

    async def get(self, project: str, agent_id: str) -> tuple[Agent, LogSequence]:
        """A registration and its durable cursor.

        Raises:
            ContexError: AGENT_NOT_FOUND.
        """
        stored = await self._log.agent(project, agent_id)
        if stored is None:
            raise agent_not_found(project, agent_id)
        return decode_agent(stored.record), stored.cursor

    async def page(self, project: str, after: str, count: int) -> list[tuple[Agent, LogSequence]]:
        """The first `count` registrations with an id greater than `after`."""
        stored = await self._log.agents(project, after, count)
        return [(decode_agent(record.record), record.cursor) for record in stored]

    async def unregister(self, project: str, agent_id: str) -> LogSequence:
        """Removes a registration and its cursor; returns the event's sequence.

        Raises:
            ContexError: AGENT_NOT_FOUND, AGENT_CONFLICT.
        """
        for _ in range(_TRIES):
            stored = await self._log.agent(project, agent_id)
            if stored is None:
                raise agent_not_found(project, agent_id)
            body = self._codec.encode(AGENT_UNREGISTERED, orjson.dumps({"agent_id": agent_id}), {})
            written = await self._log.write_agent(
                AgentWrite(project, agent_id, stored.record, b"", None, body, {})
            )
            if written is not None:
                return written.sequence
        raise _conflict(agent_id)

    async def acknowledge(self, project: str, agent_id: str, sequence: LogSequence) -> LogSequence:
        """Moves the durable cursor forward; returns where it stands.

        Raises:
            ContexError: AGENT_NOT_FOUND, SEQUENCE_IN_FUTURE.
        """
        bounds = await self._log.bounds(project)
        if sequence > bounds.tail:
            check_readable(bounds, sequence)
        stands = await self._log.acknowledge(project, agent_id, sequence)
        if stands is None:
            raise agent_not_found(project, agent_id)
        return stands

    def _needs(self, needs: Sequence[str]) -> tuple[Need, ...]:
        return tuple(Need(text, self._embeddings.digest(text)) for text in needs)

    async def _write(
        self,
        project: str,
        agent_id: str,
        change: Callable[[Agent | None, int], Agent],
        cursor: LogSequence | None,
    ) -> Registration:
        stored, agent, written = await self._compare_and_set(project, agent_id, change, cursor)
        async with self._matchmaker.project(project) as matcher:
            vectors = await self._matchmaker.need_vectors(project, agent)
            found, sequence = await matcher.matching_data(agent, vectors, written.sequence)
        acknowledged = written.cursor
        if cursor is None and stored is None and sequence > acknowledged:
            # The answer already shows what was published while it was made.
            moved = await self._log.acknowledge(project, agent_id, sequence)
            acknowledged = moved or acknowledged
        data = await self._fetch(project, found)
        return Registration(agent, acknowledged, data, sequence, cursor or sequence)

    async def _compare_and_set(
        self,
        project: str,
        agent_id: str,
        change: Callable[[Agent | None, int], Agent],
        cursor: LogSequence | None,
    ) -> tuple[AgentRecord | None, Agent, AgentWritten]:
        for _ in range(_TRIES):
            stored = await self._log.agent(project, agent_id)
            now_ms = time.time_ns() // 1_000_000
            agent = change(decode_agent(stored.record) if stored else None, now_ms)
            # Before the write: a registration whose needs can't be embedded is refused.
            await self._matchmaker.need_vectors(project, agent)
            written = await self._log.write_agent(
                AgentWrite(
                    project,
                    agent_id,
                    stored.record if stored else b"",
                    encode_agent(agent),
                    cursor,
                    self._codec.encode(AGENT_REGISTERED, _event_payload(agent), {}),
                    {},
                )
            )
            if written is not None:
                return stored, agent, written
        raise _conflict(agent_id)

    async def _fetch(self, project: str, found: list[Datum]) -> list[MatchedDatum]:
        data: list[MatchedDatum] = []
        left = self._answer_bytes
        for start in range(0, len(found), _FETCH):
            part = found[start : start + _FETCH]
            entries = await self._log.get(project, [datum.sequence for datum in part])
            for entry, datum in zip(entries, part, strict=True):
                if entry is None:
                    continue
                omit = len(entry.body) > left
                if omit:
                    entry = self._codec.without_payload(entry)
                left -= len(entry.body)
                data.append(MatchedDatum(entry, datum.matches, omit))
        return data


def _conflict(agent_id: str) -> ContexError:
    return ContexError(
        Reason.AGENT_CONFLICT,
        f"agent {agent_id!r} is being changed by others at the same time",
        retry_after_ms=50,
    )


def _event_payload(agent: Agent) -> bytes:
    return orjson.dumps(
        {
            "agent_id": agent.agent_id,
            "needs": [need.text for need in agent.needs],
            "threshold": agent.threshold,
            "max_matches": agent.max_matches,
        }
    )
