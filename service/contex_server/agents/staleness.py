"""Why what an agent held of a datum was out of date, and what it was to be told.

What was decided and not sent is in its inbox. Of what was decided to be nothing, the registration
in force and the revisions tell why.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

import orjson

from contex_server.agents.journal import AgentKnowledge, SentDatum
from contex_server.agents.journal_reader import JournalReader
from contex_server.inbox.entry import Decision
from contex_server.inbox.judgement import is_own
from contex_server.kernel import event_codec
from contex_server.kernel.inbox_ids import event_of
from contex_server.kernel.model import (
    BEGINNING,
    DATA_ERASED,
    DATA_EXPIRED,
    Agent,
    Change,
    Event,
    KeyState,
    Range,
    Sequence,
)
from contex_server.kernel.slices import sliced
from contex_server.log.port import READ_BYTES, EventLog
from contex_server.match.agent_codec import decode_agent
from contex_server.match.engine import MatchEngine

_UPDATES = 64
"""Updates of a datum that are searched for one that passes the agent's `min_delta`."""
_UPDATES_BYTES = 4 * 1024 * 1024
_FETCH = 64
_SEARCHED = 4_096
"""Events that are not decided yet and are searched for erasures."""


class StaleReason(Enum):
    """Why an agent had not been told of a change; see `contex.v1.StaleReason`."""

    ON_ITS_WAY = auto()
    UNDECIDED = auto()
    MIN_DELTA = auto()
    MUTED = auto()


class Staleness(NamedTuple):
    """What an agent had not been told of a datum.

    Attributes:
        reason: None if no record says why.
        pending: What it was to be told, or would have been; None where that is not decided.
    """

    reason: StaleReason | None
    pending: Change | None


class HeldDatum(NamedTuple):
    """A datum that an agent had been sent.

    Attributes:
        sent: Its newest event that was sent.
        latest: Its latest event at the moment; None if it has none.
        near: Whether it met the agent's needs at the moment, with the margin.
    """

    sent: SentDatum
    latest: KeyState | None
    near: bool

    @property
    def newer(self) -> Sequence | None:
        """Its latest event, if that is not the one that was sent."""
        if self.latest is None or self.latest.sequence <= self.sent.event:
            return None
        return self.latest.sequence


@dataclass(frozen=True, slots=True)
class StalenessReader:
    """Tells which of the data that agents held were stale, and why."""

    log: EventLog
    journals: JournalReader
    engine: MatchEngine

    async def of(
        self,
        project: str,
        agent_id: str,
        knowledge: AgentKnowledge,
        until: Sequence,
        held: Mapping[str, HeldDatum],
    ) -> dict[str, Staleness]:
        """The data that were stale at a moment, of those that an agent held, by key."""
        # Asked first: what is read then has everything that is decided by there.
        decided = (await self.journals.inboxes.store.inbox_end(project, agent_id)).position
        inbox = await self.journals.unsent(project, agent_id, knowledge, until)
        unsent = {
            name: decision.change
            for name, decision in inbox.items()
            if name in held and _is_news(decision, held[name].sent)
        }
        subscriber = await self.journals.inboxes.subscriber(project, agent_id)
        steps = [] if subscriber is None else [s for s in subscriber.steps if s <= until]
        erased = await self._erased(project, Range(decided, until))
        registrations = Registrations(agent_id, knowledge)
        newer = {
            name: datum.newer
            for name, datum in held.items()
            if datum.newer is not None and name not in unsent
        }
        stale: dict[str, Staleness] = {}
        async for name in sliced(held):
            if (change := unsent.get(name)) is not None:
                stale[name] = Staleness(StaleReason.ON_ITS_WAY, change)
            elif name in erased:
                stale[name] = Staleness(StaleReason.UNDECIDED, Change.ERASED)
            elif name not in newer:
                found = _let_go(held[name], registrations, steps, decided)
                if found is not None:
                    stale[name] = found
        names = list(newer.keys() - stale.keys())
        for start in range(0, len(names), _FETCH):
            part = names[start : start + _FETCH]
            entries = await self.log.get(project, [newer[name] for name in part])
            for name, entry in zip(part, entries, strict=True):
                if entry is None:
                    stale[name] = Staleness(None, None)
                    continue
                found = await self._of_newer(
                    project, registrations, held[name], event_codec.decode(entry), decided
                )
                if found is not None:
                    stale[name] = found
        return stale

    async def _erased(self, project: str, span: Range) -> Collection[str]:
        """The data of which revisions are erased by events in a range."""
        erased: set[str] = set()
        left = _SEARCHED
        while left > 0 and not span.is_empty:
            part = await self.log.read_part(project, span, left, READ_BYTES)
            async for entry in sliced(part.entries):
                event = event_codec.decode(entry)
                if event.event_type == DATA_ERASED:
                    fields = orjson.loads(event.payload)
                    erased.update(fields.get("data", {}))
                    erased.update([fields["data_key"]] if "data_key" in fields else [])
            if part.ended or not part.entries:
                break
            left -= len(part.entries)
            span = span.rest(part.entries[-1].sequence)
        return erased

    async def _of_newer(
        self,
        project: str,
        registrations: Registrations,
        datum: HeldDatum,
        event: Event,
        decided: Sequence,
    ) -> Staleness | None:
        """What an agent had not been told of an event that its inbox does not have."""
        agent = registrations.at(event.sequence)
        if is_own(event, agent):
            return None
        kind = None
        if event.deletes:
            kind = Change.EXPIRED if event.event_type == DATA_EXPIRED else Change.DELETED
        if event.sequence > decided:
            return Staleness(StaleReason.UNDECIDED, kind)
        if kind is not None:
            return Staleness(StaleReason.MUTED if kind in agent.muted else None, kind)
        stays = datum.near or await self._is_same_text(project, datum.sent, event)
        if not stays and Change.LEFT in agent.muted:
            return Staleness(StaleReason.MUTED, Change.LEFT)
        if await self.is_held_back(project, agent, event.sequence, datum.sent.event):
            return Staleness(StaleReason.MIN_DELTA, Change.UPDATED)
        reason = StaleReason.MUTED if Change.UPDATED in agent.muted else None
        return Staleness(reason, Change.UPDATED)

    async def _is_same_text(self, project: str, sent: SentDatum, event: Event) -> bool:
        (entry,) = await self.log.get(project, [sent.event])
        if entry is None or not event.text_digest:
            return False
        return event_codec.decode(entry).text_digest == event.text_digest

    async def is_held_back(
        self, project: str, agent: Agent, sequence: Sequence, since: Sequence
    ) -> bool:
        """Whether an agent's `min_delta` holds back all events of a datum after one, up to another
        one; what the agent published itself it knows."""
        if agent.min_delta is None:
            return False
        for entry in await self.log.history(project, sequence, _UPDATES, _UPDATES_BYTES):
            if entry.sequence <= since:
                return True
            event = event_codec.decode(entry)
            if is_own(event, agent):
                return True
            if await self.engine.is_significant(project, agent, event):
                return False
        return True


class Registrations:
    """The registrations of an agent that are on record."""

    def __init__(self, agent_id: str, knowledge: AgentKnowledge) -> None:
        self.agent_id = agent_id
        self.latest = knowledge.registered or BEGINNING
        self._made = sorted(knowledge.records)
        self._agents = [decode_agent(knowledge.records[made]) for made in self._made]

    def at(self, event: Sequence) -> Agent:
        """The one that was in force at an event; the first one on record if that is later."""
        before = [a for made, a in zip(self._made, self._agents, strict=True) if made <= event.ms]
        return before[-1] if before else self._agents[0]


def _is_news(decision: Decision, sent: SentDatum) -> bool:
    """Whether an entry of an inbox tells more than the answer of a registration has told."""
    return decision.change not in (Change.MATCHED, Change.UPDATED) or decision.event > sent.event


def _let_go(
    datum: HeldDatum, registrations: Registrations, steps: Iterable[Sequence], decided: Sequence
) -> Staleness | None:
    """Whether other needs let go of a datum that has not changed since it was sent."""
    if datum.near or (datum.latest is not None and datum.latest.deleted):
        return None
    if registrations.latest > decided:
        return Staleness(StaleReason.UNDECIDED, Change.LEFT)
    sent = datum.sent
    since = sent.event if sent.place is None else event_of(sent.place)
    for step in steps:
        if step > since and Change.LEFT in registrations.at(step).muted:
            return Staleness(StaleReason.MUTED, Change.LEFT)
    return None
