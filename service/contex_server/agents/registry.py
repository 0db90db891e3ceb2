"""Registrations: what agents need, and how far each has got. Stored in the log's store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import orjson

from contex_server.agents.recorder import Recorder
from contex_server.kernel import event_codec
from contex_server.kernel.errors import ContexError, Reason, agent_not_found
from contex_server.kernel.model import (
    AGENT_REGISTERED,
    AGENT_UNREGISTERED,
    Agent,
    MinDelta,
    Need,
    Origin,
)
from contex_server.kernel.model import Sequence as LogSequence
from contex_server.kernel.scope import Scope
from contex_server.log.agents import AgentRecord, AgentStore, AgentWrite, AgentWritten
from contex_server.log.pages import check_readable
from contex_server.log.port import EventLog
from contex_server.match.questions import Answer, Budget, Questions
from contex_server.match.registration import (
    decode_agent,
    encode_agent,
    make_need,
    registered_payload,
)
from contex_server.matching.embeddings import Embeddings

_TRIES = 5


@dataclass(frozen=True, slots=True)
class NeedSpec:
    """A need as it was asked for; what is None is the agent's."""

    text: str
    threshold: float | None = None
    max_matches: int | None = None
    exclude: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a call says of a registration; None: nothing.

    Attributes:
        min_delta: A change of it: (None,) for all updates.
    """

    needs: tuple[NeedSpec, ...] | None
    threshold: float | None
    max_matches: int | None
    min_delta: tuple[MinDelta | None] | None


@dataclass(frozen=True, slots=True)
class Registration:
    """A registration, and the data that match it."""

    agent: Agent
    acknowledged: LogSequence
    answer: Answer
    resume: LogSequence


class Agents:
    """Registers, changes and removes agents."""

    def __init__(
        self,
        log: EventLog,
        store: AgentStore,
        embeddings: Embeddings,
        questions: Questions,
        recorder: Recorder,
        *,
        default_threshold: float,
    ) -> None:
        self._log = log
        self._store = store
        self._embeddings = embeddings
        self._questions = questions
        self._recorder = recorder
        self._default_threshold = default_threshold

    async def register(
        self,
        project: str,
        agent_id: str,
        wishes: Wishes,
        *,
        last_seen: LogSequence | None,
        budget: Budget,
        origin: Origin,
        scope: Scope,
    ) -> Registration:
        """See `AgentService.RegisterAgent`; needs and maximum are required.

        Raises:
            ContexError: SEQUENCE_TRIMMED, SEQUENCE_IN_FUTURE, AGENT_CONFLICT,
                EMBEDDER_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        if last_seen is not None:
            check_readable(await self._log.bounds(project), last_seen)
        threshold = self._default_threshold if wishes.threshold is None else wishes.threshold
        assert wishes.needs is not None
        assert wishes.max_matches is not None
        needs = with_defaults(wishes.needs, threshold, wishes.max_matches)
        max_matches = wishes.max_matches
        min_delta = wishes.min_delta[0] if wishes.min_delta is not None else None

        def change(current: Agent | None, now_ms: int) -> Agent:
            return Agent(
                agent_id=agent_id,
                needs=needs,
                threshold=threshold,
                max_matches=max_matches,
                registered_ms=current.registered_ms if current else now_ms,
                updated_ms=now_ms,
                min_delta=min_delta,
            )

        return await self._write(project, agent_id, change, last_seen, budget, origin, scope)

    async def update(
        self,
        project: str,
        agent_id: str,
        wishes: Wishes,
        *,
        budget: Budget,
        origin: Origin,
        scope: Scope,
    ) -> Registration:
        """See `AgentService.UpdateAgent`.

        Raises:
            ContexError: AGENT_NOT_FOUND, AGENT_CONFLICT, EMBEDDER_UNAVAILABLE,
                STORE_UNAVAILABLE.
        """

        def change(current: Agent | None, now_ms: int) -> Agent:
            if current is None:
                raise agent_not_found(project, agent_id)
            threshold = current.threshold if wishes.threshold is None else wishes.threshold
            maximum = current.max_matches if wishes.max_matches is None else wishes.max_matches
            specs = wishes.needs or tuple(map(spec_of, current.needs))
            return Agent(
                agent_id=agent_id,
                needs=with_defaults(specs, threshold, maximum),
                threshold=threshold,
                max_matches=maximum,
                registered_ms=current.registered_ms,
                updated_ms=now_ms,
                min_delta=wishes.min_delta[0] if wishes.min_delta else current.min_delta,
            )

        return await self._write(project, agent_id, change, None, budget, origin, scope)

    async def get(self, project: str, agent_id: str) -> tuple[Agent, LogSequence]:
        """A registration and its durable cursor.

        Raises:
            ContexError: AGENT_NOT_FOUND.
        """
        stored = await self._store.agent(project, agent_id)
        if stored is None:
            raise agent_not_found(project, agent_id)
        return decode_agent(stored.record), stored.cursor

    async def page(self, project: str, after: str, count: int) -> list[tuple[Agent, LogSequence]]:
        """The first `count` registrations with an id greater than `after`."""
        stored = await self._store.agents(project, after, count)
        return [(decode_agent(record.record), record.cursor) for record in stored]

    async def unregister(self, project: str, agent_id: str, origin: Origin) -> LogSequence:
        """Removes a registration and its cursor; returns the event's sequence.

        Raises:
            ContexError: AGENT_NOT_FOUND, AGENT_CONFLICT.
        """
        for _ in range(_TRIES):
            stored = await self._store.agent(project, agent_id)
            if stored is None:
                raise agent_not_found(project, agent_id)
            body = event_codec.encode(AGENT_UNREGISTERED, orjson.dumps({"agent_id": agent_id}), {})
            written = await self._store.write_agent(
                AgentWrite(
                    project,
                    agent_id,
                    stored.record,
                    b"",
                    None,
                    AGENT_UNREGISTERED,
                    body,
                    origin,
                )
            )
            if written is not None:
                return written.sequence
        raise _conflict(agent_id)

    async def acknowledge(
        self, project: str, agent_id: str, sequence: LogSequence, origin: Origin
    ) -> LogSequence:
        """Moves the durable cursor forward; returns where it stands.

        Raises:
            ContexError: AGENT_NOT_FOUND, SEQUENCE_IN_FUTURE.
        """
        bounds = await self._log.bounds(project)
        if sequence > bounds.tail:
            check_readable(bounds, sequence)
        stands = await self._store.acknowledge(project, agent_id, sequence, origin)
        if stands is None:
            raise agent_not_found(project, agent_id)
        return stands

    async def _write(
        self,
        project: str,
        agent_id: str,
        change: Callable[[Agent | None, int], Agent],
        cursor: LogSequence | None,
        budget: Budget,
        origin: Origin,
        scope: Scope,
    ) -> Registration:
        stored, agent, written = await self._compare_and_set(
            project, agent_id, change, cursor, origin
        )
        answer = await self._questions.now(
            project, agent.needs, at_least=written.sequence, budget=budget, scope=scope
        )
        acknowledged = written.cursor
        if cursor is None and stored is None and answer.sequence > acknowledged:
            # The answer already shows what was published while it was made.
            moved = await self._store.acknowledge(project, agent_id, answer.sequence)
            acknowledged = moved or acknowledged
        await self._recorder.answered(
            project,
            agent,
            [(event_codec.decode(datum.entry), datum.matches) for datum in answer.data],
        )
        return Registration(agent, acknowledged, answer, cursor or answer.sequence)

    async def _compare_and_set(
        self,
        project: str,
        agent_id: str,
        change: Callable[[Agent | None, int], Agent],
        cursor: LogSequence | None,
        origin: Origin,
    ) -> tuple[AgentRecord | None, Agent, AgentWritten]:
        for _ in range(_TRIES):
            stored = await self._store.agent(project, agent_id)
            now_ms = time.time_ns() // 1_000_000
            before = decode_agent(stored.record) if stored else None
            agent = change(before, now_ms)
            # Before the write: a registration whose needs can't be embedded is refused.
            model = await self._embeddings.model_of(project)
            await self._embeddings.of_needs(
                project, model, {need.digest: need.text for need in agent.needs}
            )
            written = await self._store.write_agent(
                AgentWrite(
                    project,
                    agent_id,
                    stored.record if stored else b"",
                    encode_agent(agent),
                    cursor,
                    AGENT_REGISTERED,
                    event_codec.encode(AGENT_REGISTERED, registered_payload(agent, before), {}),
                    origin,
                )
            )
            if written is not None:
                return stored, agent, written
        raise _conflict(agent_id)


def _conflict(agent_id: str) -> ContexError:
    return ContexError(
        Reason.AGENT_CONFLICT,
        f"agent {agent_id!r} is being changed by others at the same time",
        retry_after_ms=50,
    )


def with_defaults(
    specs: Iterable[NeedSpec], threshold: float, max_matches: int
) -> tuple[Need, ...]:
    """Needs with the agent's threshold and maximum where they have none of their own."""
    return tuple(
        make_need(
            spec.text,
            threshold,
            max_matches,
            own_threshold=spec.threshold,
            own_max_matches=spec.max_matches,
            exclude=spec.exclude,
        )
        for spec in specs
    )


def spec_of(need: Need) -> NeedSpec:
    """A need as it was asked for."""
    return NeedSpec(need.text, need.own_threshold, need.own_max_matches, need.exclude)
