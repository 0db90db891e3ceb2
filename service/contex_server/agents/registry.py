"""Registrations: what agents need, and what each has acknowledged."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import partial
from typing import Self

from contex_server.agents.delivery_recorder import DeliveryRecorder
from contex_server.agents.expiry import unregistered_body
from contex_server.agents.visibility import Viewer
from contex_server.agents.waiting import COUNTED, AgentWaiters, Waited
from contex_server.inbox.deciders import Deciders
from contex_server.inbox.judgement import is_own
from contex_server.inbox.progress import AgentProgress, Passing, ProgressReader, Standpoint
from contex_server.kernel import event_codec
from contex_server.kernel.drain import Drain
from contex_server.kernel.errors import ContexError, Reason, agent_not_found, permission_denied
from contex_server.kernel.model import (
    AGENT_REGISTERED,
    AGENT_UNREGISTERED,
    Agent,
    Change,
    EventFilter,
    MinDelta,
    Need,
    Origin,
)
from contex_server.kernel.model import Sequence as LogSequence
from contex_server.kernel.scope import Scope
from contex_server.log.agents import AgentRecord, AgentStore, AgentWrite, AgentWritten
from contex_server.log.pages import check_readable, check_same_log
from contex_server.log.port import EventLog
from contex_server.match.agent_codec import (
    encode_agent,
    intact,
    make_need,
    registered_payload,
)
from contex_server.match.queries import MatchQueries
from contex_server.match.result import ContextBudget, MatchResult
from contex_server.matching.agent_needs import in_words
from contex_server.matching.embeddings import Embeddings

_TRIES = 5
_MAX_MATCHES = 10
"""Data that an answer returns for each need, unless a registration says otherwise."""
_SEARCHED = 500
"""Registrations that are read at a time for those that a caller may see."""
_EVERYONE = Viewer()
_COUNTED_IN_LISTS = 100
"""Entries of an inbox that are counted where a thousand agents are listed."""


@dataclass(frozen=True, slots=True)
class NeedSpec:
    """A need as a caller states it; None: as the agent has it. With a filter, the text is ""."""

    text: str
    threshold: float | None = None
    max_matches: int | None = None
    exclude: frozenset[str] = frozenset()
    filter: EventFilter | None = None

    @classmethod
    def of(cls, need: Need) -> Self:
        """How a need was stated."""
        text = need.text if need.filter is None else ""
        return cls(text, need.own_threshold, need.own_max_matches, need.exclude, need.filter)


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """What a caller sets of a registration; None: nothing.

    Attributes:
        min_delta: The new value in a tuple; (None,): every update counts.
    """

    needs: tuple[NeedSpec, ...] | None
    threshold: float | None
    max_matches: int | None
    min_delta: tuple[MinDelta | None] | None
    muted: frozenset[Change] | None = None
    exclude_own: bool | None = None
    ttl_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Rights:
    """Whose an agent is, and what it may read."""

    identity: str
    groups: frozenset[str]
    scope: Scope

    def given_to(self, agent: Agent) -> Agent:
        """An agent with these rights."""
        return replace(agent, identity=self.identity, groups=self.groups, scope=self.scope)


class Outcome(Enum):
    """What a registration did; see `contex.v1.RegistrationOutcome`."""

    REGISTERED = auto()
    CHANGED = auto()
    UNCHANGED = auto()


@dataclass(frozen=True, slots=True)
class Registered:
    """A registration as it stands.

    Attributes:
        contact_ms: When the agent was last in contact, unix milliseconds; 0: not known.
    """

    agent: Agent
    acknowledged: LogSequence
    contact_ms: int = 0

    @property
    def standpoint(self) -> Standpoint:
        """What its progress is asked by."""
        return Standpoint(self.agent.agent_id, self.agent.registered_ms, self.acknowledged)


@dataclass(frozen=True, slots=True)
class Registration:
    """A registration, and the data that match it."""

    registered: Registered
    answer: MatchResult
    resume: LogSequence
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class AgentRegistry:
    """Registers, changes and removes agents."""

    log: EventLog
    store: AgentStore
    embeddings: Embeddings
    queries: MatchQueries
    recorder: DeliveryRecorder
    deciders: Deciders
    progress: ProgressReader
    waiters: AgentWaiters
    default_threshold: float

    async def register(
        self,
        project: str,
        agent_id: str,
        spec: AgentSpec,
        *,
        last_seen: LogSequence | None,
        budget: ContextBudget,
        origin: Origin,
        scope: Scope,
        rights: Rights | None = None,
        viewer: Viewer = _EVERYONE,
    ) -> Registration:
        """See `AgentService.RegisterAgent`; needs and max_matches are required.

        Args:
            rights: The caller's; None where access is off: then they stay as they are.

        Raises:
            ContexError: SEQUENCE_TRIMMED, SEQUENCE_IN_FUTURE, AGENT_CONFLICT,
                EMBEDDER_UNAVAILABLE; PERMISSION_DENIED if another has the id, whom the viewer may
                not change.
        """
        if last_seen is not None:
            check_readable(await self.log.bounds(project), last_seen)
        default_threshold = self.default_threshold

        def change(current: Agent | None, now_ms: int) -> Agent:
            if current is not None and not viewer.may_change(current):
                raise permission_denied("RegisterAgent", project, viewer.identity)
            if current is not None and (same := _completed(current, spec)) is not None:
                agent = _changed(current, same, now_ms)
            else:
                registered_ms = current.registered_ms if current else now_ms
                new = Agent(agent_id, (), default_threshold, _MAX_MATCHES, registered_ms, now_ms)
                agent = _changed(new, spec, now_ms)
                if current is not None:
                    agent = Rights(current.identity, current.groups, current.scope).given_to(agent)
            return agent if rights is None else rights.given_to(agent)

        return await self._write(project, agent_id, change, last_seen, budget, origin, scope)

    async def update(
        self,
        project: str,
        agent_id: str,
        spec: AgentSpec,
        *,
        budget: ContextBudget,
        origin: Origin,
        scope: Scope,
        viewer: Viewer = _EVERYONE,
    ) -> Registration:
        """See `AgentService.UpdateAgent`.

        Raises:
            ContexError: AGENT_NOT_FOUND, AGENT_CONFLICT, EMBEDDER_UNAVAILABLE.
        """

        def change(current: Agent | None, now_ms: int) -> Agent:
            if current is None or not viewer.may_change(current):
                raise agent_not_found(project, agent_id)
            return _changed(current, spec, now_ms)

        return await self._write(project, agent_id, change, None, budget, origin, scope)

    async def get(self, project: str, agent_id: str, viewer: Viewer = _EVERYONE) -> Registered:
        """A registration that the viewer sees.

        Raises:
            ContexError: AGENT_NOT_FOUND.
        """
        stored = await self.store.agent(project, agent_id)
        if stored is None:
            raise agent_not_found(project, agent_id)
        for registered in _registered(project, [stored]):
            if viewer.sees(registered.agent):
                return registered
        raise agent_not_found(project, agent_id)

    async def progress_of(self, project: str, registered: Registered) -> AgentProgress:
        """How far an agent is."""
        standpoint = registered.standpoint
        return (await self.progress.read(project, [standpoint], COUNTED))[standpoint.agent_id]

    async def progress_of_all(
        self, project: str, registered: Iterable[Registered]
    ) -> dict[str, AgentProgress]:
        """How far some agents are, with a shorter count of what is not acknowledged."""
        standpoints = [each.standpoint for each in registered]
        return await self.progress.read(project, standpoints, _COUNTED_IN_LISTS)

    async def page(self, project: str, after: str, count: int, viewer: Viewer) -> list[Registered]:
        """The next `count` registrations by id, of those that the viewer sees."""
        found: list[Registered] = []
        asked = count if viewer.sees_all else _SEARCHED
        while len(found) < count:
            stored = await self.store.agents(project, after, asked)
            found += [each for each in _registered(project, stored) if viewer.sees(each.agent)]
            if len(stored) < asked:
                break
            after = stored[-1].agent_id
        return found[:count]

    async def give_rights(
        self, project: str, agent_id: str, rights: Callable[[Agent], Rights | None], origin: Origin
    ) -> bool:
        """Writes into the log what an agent may read from now on; returns whether that is new.

        Args:
            rights: Those that it is to have, by its registration; None: what it has.

        Raises:
            ContexError: AGENT_CONFLICT.
        """
        for _ in range(_TRIES):
            stored = await self.store.agent(project, agent_id)
            before = next((a for a, _ in intact(project, [stored] if stored else [])), None)
            if stored is None or before is None or (given := rights(before)) is None:
                return False
            agent = given.given_to(before)
            if agent == before:
                return False
            now_ms = max(time.time_ns() // 1_000_000, before.updated_ms + 1)
            agent = replace(agent, updated_ms=now_ms)
            write = _agent_write(project, agent, stored, before, None, origin)
            if await self.store.write_agent(write) is not None:
                self.deciders.hint(project)
                return True
        raise _conflict(agent_id)

    async def visible(self, project: str, viewer: Viewer) -> set[str]:
        """The ids of all agents that the viewer sees."""
        found: set[str] = set()
        after = ""
        while page := await self.page(project, after, _SEARCHED, viewer):
            found |= {each.agent.agent_id for each in page}
            after = page[-1].agent.agent_id
        return found

    async def unregister(self, project: str, agent_id: str, origin: Origin) -> LogSequence:
        """Removes a registration and its cursor; returns the event's sequence.

        Raises:
            ContexError: AGENT_NOT_FOUND, AGENT_CONFLICT.
        """
        body = unregistered_body(agent_id)
        for _ in range(_TRIES):
            stored = await self.store.agent(project, agent_id)
            if stored is None:
                raise agent_not_found(project, agent_id)
            removal = AgentWrite(
                project, agent_id, stored.record, b"", None, AGENT_UNREGISTERED, body, origin
            )
            written = await self.store.write_agent(removal)
            if written is not None:
                return written.sequence
        raise _conflict(agent_id)

    async def acknowledge(
        self,
        project: str,
        agent_id: str,
        sequence: LogSequence,
        origin: Origin,
        place: LogSequence | None = None,
    ) -> LogSequence:
        """Moves the durable cursor forward; returns its position.

        Args:
            place: Where the agent stands inside of what the event brought; None: after all of it.

        Raises:
            ContexError: AGENT_NOT_FOUND, SEQUENCE_IN_FUTURE, LOG_CHANGED.
        """
        bounds = await self.log.bounds(project)
        await check_same_log(self.log, project, bounds, sequence, readable=False)
        cursor = await self.store.acknowledge(project, agent_id, sequence, origin, place)
        if cursor is None:
            raise agent_not_found(project, agent_id)
        self.waiters.heard(project, {agent_id})
        return cursor

    async def wait(
        self,
        project: str,
        agent_id: str,
        event: LogSequence,
        passing: Passing,
        timeout_s: float,
        drain: Drain,
    ) -> Waited:
        """See `AgentService.WaitForAgent`.

        Raises:
            ContexError: AGENT_NOT_FOUND, SEQUENCE_IN_FUTURE, LOG_CHANGED, SHUTTING_DOWN.
        """
        bounds = await self.log.bounds(project)
        await check_same_log(self.log, project, bounds, event, readable=False)
        return await self.waiters.wait(project, agent_id, event, passing, timeout_s, drain)

    async def _write(
        self,
        project: str,
        agent_id: str,
        change: Callable[[Agent | None, int], Agent],
        cursor: LogSequence | None,
        budget: ContextBudget,
        origin: Origin,
        scope: Scope,
    ) -> Registration:
        for _ in range(_TRIES):
            stored = await self.store.agent(project, agent_id)
            now_ms = time.time_ns() // 1_000_000
            # One that is damaged is registered anew.
            before = next((a for a, _ in intact(project, [stored] if stored else [])), None)
            if before is not None:
                # Journals tell registrations apart by this time.
                now_ms = max(now_ms, before.updated_ms + 1)
            agent = change(before, now_ms)
            same = before is not None and agent == replace(before, updated_ms=agent.updated_ms)
            if stored is not None and before is not None and same and cursor is None:
                contact = await self.store.contact(project, [agent_id])
                if contact.gone:
                    continue
                tail = (await self.log.bounds(project)).tail
                written, agent = AgentWritten(tail, stored.cursor, contact.ms), before
                outcome = Outcome.UNCHANGED
                break
            # Embedded before the write: needs that can't be embedded are refused.
            model = await self.embeddings.scoring_model_of(project)
            await self.embeddings.of_needs(
                project, model, {need.digest: need.text for _, need in in_words(agent.needs)}
            )
            write = _agent_write(project, agent, stored, before, cursor, origin)
            outcome = Outcome.REGISTERED if stored is None else Outcome.CHANGED
            attempt = await self.store.write_agent(write)
            if attempt is not None:
                written = attempt
                self.deciders.hint(project)
                break
        else:
            raise _conflict(agent_id)
        answer = await self.queries.match_registered(
            project,
            agent.needs,
            at_least=written.sequence,
            budget=budget,
            scope=scope.intersect(agent.scope),
            leaves_out=partial(is_own, agent=agent) if agent.exclude_own else None,
        )
        await self.recorder.answered(
            project,
            agent,
            [(datum.event, datum.matches) for datum in answer.data],
        )
        registered = Registered(agent, written.cursor, written.contact_ms)
        return Registration(registered, answer, cursor or written.cursor, outcome)


def _agent_write(
    project: str,
    agent: Agent,
    stored: AgentRecord | None,
    before: Agent | None,
    cursor: LogSequence | None,
    origin: Origin,
) -> AgentWrite:
    payload = registered_payload(agent, before, cursor)
    return AgentWrite(
        project,
        agent.agent_id,
        stored.record if stored else b"",
        encode_agent(agent),
        cursor,
        AGENT_REGISTERED,
        event_codec.encode(AGENT_REGISTERED, payload, {}),
        origin,
        agent.ttl_ms,
    )


def _registered(project: str, records: Iterable[AgentRecord]) -> list[Registered]:
    """Registrations without those that are damaged."""
    return [
        Registered(agent, cursor, record.contact_ms)
        for record in records
        for agent, cursor in intact(project, [record])
    ]


def _conflict(agent_id: str) -> ContexError:
    return ContexError(
        Reason.AGENT_CONFLICT,
        f"agent {agent_id!r} is being changed by others at the same time",
        retry_after_ms=50,
    )


def _completed(agent: Agent, spec: AgentSpec) -> AgentSpec | None:
    """A registration by the needs that the agent has, with what it leaves open as it is; None if
    it names other needs."""
    needs = spec.needs or ()
    had = list(map(NeedSpec.of, agent.needs))
    if [(need.text, need.filter) for need in needs] != [(need.text, need.filter) for need in had]:
        return None
    completed = [
        NeedSpec(
            new.text,
            old.threshold if new.threshold is None else new.threshold,
            old.max_matches if new.max_matches is None else new.max_matches,
            new.exclude or old.exclude,
            new.filter,
        )
        for new, old in zip(needs, had, strict=True)
    ]
    return replace(spec, needs=tuple(completed))


def _changed(agent: Agent, spec: AgentSpec, now_ms: int) -> Agent:
    threshold = agent.threshold if spec.threshold is None else spec.threshold
    max_matches = agent.max_matches if spec.max_matches is None else spec.max_matches
    specs = spec.needs or map(NeedSpec.of, agent.needs)
    return replace(
        agent,
        needs=with_defaults(specs, threshold, max_matches),
        threshold=threshold,
        max_matches=max_matches,
        updated_ms=now_ms,
        min_delta=spec.min_delta[0] if spec.min_delta else agent.min_delta,
        muted=agent.muted if spec.muted is None else spec.muted,
        exclude_own=agent.exclude_own if spec.exclude_own is None else spec.exclude_own,
        ttl_ms=agent.ttl_ms if spec.ttl_ms is None else spec.ttl_ms,
    )


def with_defaults(
    specs: Iterable[NeedSpec], threshold: float, max_matches: int
) -> tuple[Need, ...]:
    """Needs; the agent's threshold and maximum fill what they leave out."""
    return tuple(
        make_need(
            spec.text,
            threshold,
            max_matches,
            own_threshold=spec.threshold,
            own_max_matches=spec.max_matches,
            exclude=spec.exclude,
            wanted=spec.filter,
        )
        for spec in specs
    )
