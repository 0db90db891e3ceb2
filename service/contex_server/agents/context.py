"""What an agent knew at a moment, what it did not know, and why."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from contex_server.agents.journal import AgentKnowledge, DeliveredNeed, SentDatum, Stream
from contex_server.agents.journal_reader import (
    JournalReader,
    TextRoom,
    delivered_needs,
    need_texts,
)
from contex_server.agents.staleness import (
    HeldDatum,
    Staleness,
    StalenessReader,
    StaleReason,
)
from contex_server.agents.visibility import Viewer
from contex_server.inbox.judgement import is_own
from contex_server.inbox.subscriber import lowest
from contex_server.kernel import event_codec
from contex_server.kernel.errors import agent_not_found
from contex_server.kernel.inbox_ids import event_of
from contex_server.kernel.model import BEGINNING, Agent, Change, Entry, KeyState, Match, utf8_bytes
from contex_server.kernel.model import Sequence as LogSequence
from contex_server.kernel.scope import Scope
from contex_server.kernel.slices import sliced
from contex_server.log.port import EventLog
from contex_server.match.agent_codec import decode_agent
from contex_server.match.engine import MatchEngine
from contex_server.match.queries import MatchQueries, counted_in
from contex_server.match.result import MatchedDatum, Room
from contex_server.state.moments import Moment
from contex_server.state.reader import StateReader

_Matched = dict[str, tuple[LogSequence, tuple[Match, ...]]]
"""Of data that match or come near, the latest event and the needs, by key."""

_STREAMS = 10
_MAX_LISTED = 1_000
"""Maximum number of data listed as pending, and as held back."""
_FETCH = 64
_HEADS_BYTES = 128 * 1024
"""What each list of matched data has for those without payloads, once that for payloads is used."""
_NEED_BYTES = 24
_KNOWN_BYTES = 128
"""What a datum that was sent takes besides texts: sequences, numbers, times."""


class HeldBackReason(Enum):
    """Why a datum was not sent; see `contex.v1.HeldBackReason`."""

    MIN_DELTA = auto()
    EXCLUDED = auto()
    BELOW_THRESHOLD = auto()
    MUTED = auto()
    OWN = auto()


_HELD_BACK: dict[StaleReason | None, HeldBackReason] = {
    StaleReason.MIN_DELTA: HeldBackReason.MIN_DELTA,
    StaleReason.MUTED: HeldBackReason.MUTED,
}


@dataclass(frozen=True, slots=True)
class WithheldDatum:
    """What an agent had been sent of a datum that it may not read any more.

    Attributes:
        revision: The last one that was decided for it while it had the right.
        since: The registration since which it is withheld.
    """

    data_key: str
    revision: int
    since: LogSequence


@dataclass(frozen=True, slots=True)
class KnownDatum:
    """What an agent had been sent of a datum.

    Attributes:
        delivery: Its newest event that was sent.
        latest: Its latest event at the moment.
        entry: The event that was sent; None if it is left out or can't be read.
        staleness: What it had not been told; None: nothing.
    """

    delivery: SentDatum
    needs: tuple[DeliveredNeed, ...]
    acknowledged: bool
    latest: KeyState | None
    entry: Entry | None
    staleness: Staleness | None


@dataclass(frozen=True, slots=True)
class AgentContext:
    """What an agent knew; see `contex.v1.GetAgentContextResponse`.

    Attributes:
        known_omitted: How many known data there was no room for; the others likewise.
    """

    moment: Moment
    agent: Agent
    knowledge: AgentKnowledge
    known: list[KnownDatum]
    pending: list[MatchedDatum]
    held_back: list[tuple[HeldBackReason, MatchedDatum]]
    known_omitted: int
    pending_omitted: int
    held_back_omitted: int
    withheld: list[WithheldDatum]

    @property
    def streams(self) -> list[Stream]:
        """The newest streams, newest first."""
        streams = sorted(self.knowledge.streams.values(), key=lambda s: -s.opened_ms)
        return streams[:_STREAMS]


@dataclass(frozen=True, slots=True)
class _UnsentDatum:
    """A datum that matched or nearly did, and whose latest event was not sent.

    Attributes:
        reason: None if it simply had not reached the agent yet.
    """

    sequence: LogSequence
    matches: tuple[Match, ...]
    reason: HeldBackReason | None


@dataclass(frozen=True, slots=True)
class AgentContextReader:
    """Reads what agents knew."""

    log: EventLog
    states: StateReader
    journals: JournalReader
    staleness: StalenessReader
    queries: MatchQueries
    engine: MatchEngine
    answer_bytes: int

    async def get(
        self,
        project: str,
        agent_id: str,
        moment: Moment,
        *,
        payloads: bool,
        near_misses: int,
        viewer: Viewer,
    ) -> AgentContext:
        """See `AgentService.GetAgentContext`.

        Raises:
            ContexError: AGENT_NOT_FOUND, RECORDS_EXPIRED, EMBEDDER_UNAVAILABLE.
        """
        knowledge = await self.journals.knowledge_at(project, agent_id, moment.unix_ms)
        agent, scope = decode_agent(knowledge.record), viewer.scope
        if not viewer.sees(agent):  # It was another one's then.
            raise agent_not_found(project, agent_id)
        deliveries = {
            data_key: delivery
            async for data_key, delivery in sliced(knowledge.deliveries.items())
            # Later events of the same millisecond don't belong to this moment.
            if delivery.event <= moment.sequence and not delivery.deleted and scope.admits(data_key)
        }
        if not viewer.sees_all:
            sent = [delivery.event for delivery in deliveries.values()]
            knowledge.sent = max(sent, default=BEGINNING)
            knowledge.sent_ms = max((d.sent_ms for d in deliveries.values()), default=0)
        state = await self.states.at(project, moment.sequence)
        readable = scope.intersect(agent.scope)
        matched = await self._matched(project, agent, moment, near_misses, readable)
        held: dict[str, HeldDatum] = {}
        async for data_key, delivery in sliced(deliveries.items()):
            matches = matched[data_key][1] if data_key in matched else ()
            near = any(_is_near(agent, match, data_key) for match in matches)
            held[data_key] = HeldDatum(delivery, state.get(data_key), near)
        stale = await self.staleness.of(project, agent_id, knowledge, moment.sequence, held)
        unsent = await self._unsent(project, agent, matched, held, stale, near_misses)
        known, size_bytes = await asyncio.to_thread(
            _known, knowledge, held, stale, self.answer_bytes // 3
        )
        known = await self._with_times(project, agent_id, known)
        # What they leave is for events, a third for those of each list.
        max_bytes = (self.answer_bytes - size_bytes) // 3
        if payloads:
            known = await self._with_events(project, known, max_bytes)
        room = Room(max_bytes if payloads else 0, max_bytes + _HEADS_BYTES)
        pending = [datum for datum in unsent if datum.reason is None]
        held_back = [datum for datum in unsent if datum.reason is not None]
        fetched, pending_omitted = await self._fetch(project, pending, moment, room)
        fetched_back, held_back_omitted = await self._fetch(project, held_back, moment, room)
        return AgentContext(
            moment,
            agent,
            knowledge,
            known,
            [datum for _, datum in fetched],
            [(reason, datum) for reason, datum in fetched_back if reason is not None],
            len(deliveries) - len(known),
            pending_omitted,
            held_back_omitted,
            [
                WithheldDatum(data_key, delivery.revision, delivery.event)
                for data_key, delivery in sorted(knowledge.deliveries.items())
                if delivery.change == Change.WITHHELD and delivery.event <= moment.sequence
            ][:_MAX_LISTED],
        )

    async def _with_times(
        self, project: str, agent_id: str, known: list[KnownDatum]
    ) -> list[KnownDatum]:
        """The same with when each was sent."""
        places = [datum.delivery.place for datum in known if datum.delivery.place is not None]
        times = await self.journals.sent_times(project, agent_id, places)
        dated: list[KnownDatum] = []
        async for datum in sliced(known):
            place = datum.delivery.place
            if place is not None and place in times:
                datum = replace(datum, delivery=replace(datum.delivery, sent_ms=times[place]))
            dated.append(datum)
        return dated

    async def _with_events(
        self, project: str, known: list[KnownDatum], max_bytes: int
    ) -> list[KnownDatum]:
        """The same with the events that were sent, as far as these have room."""
        complete: list[KnownDatum] = []
        for start in range(0, len(known), _FETCH):
            part = known[start : start + _FETCH]
            entries = await self.log.get(project, [datum.delivery.event for datum in part])
            for datum, entry in zip(part, entries, strict=True):
                if entry is not None and len(entry.body) <= max_bytes:
                    max_bytes -= len(entry.body)
                    datum = replace(datum, entry=entry)
                complete.append(datum)
        return complete

    async def _matched(
        self, project: str, agent: Agent, moment: Moment, near_misses: int, scope: Scope
    ) -> _Matched:
        """The data that matched or came near at the moment, best first, by key."""
        engine = self.engine
        async with self.queries.index_at(project, moment.sequence) as (index, _):
            # Everything that comes near, excluded data too: it is sorted out later.
            wide_needs = [
                replace(
                    need,
                    threshold=need.threshold / 2 if near_misses else lowest(need.threshold),
                    max_matches=len(index.latest) or 1,
                    exclude=frozenset(),
                )
                for need in agent.needs
            ]
            found = await engine.find(index, wide_needs, scope.admits, registered=False)
        return {
            data_key: (
                sequence,
                tuple(
                    m._replace(threshold=agent.needs[m.need_index].threshold)
                    for m in counted_in(scope, matches)
                ),
            )
            async for data_key, sequence, matches in sliced(await engine.matched(project, found))
        }

    async def _unsent(
        self,
        project: str,
        agent: Agent,
        matched: _Matched,
        held: dict[str, HeldDatum],
        stale: dict[str, Staleness],
        near_misses: int,
    ) -> list[_UnsentDatum]:
        """The data that matched or nearly did at the moment, and had not been sent as they were."""
        unsent: list[_UnsentDatum] = []
        async for data_key, (sequence, matches) in sliced(matched.items()):
            datum = held.get(data_key)
            if datum is not None and datum.sent.event >= sequence:
                continue
            reached = tuple(match for match in matches if match.score >= match.threshold)
            met = tuple(m for m in reached if not agent.needs[m.need_index].excludes(data_key))
            if datum is not None and datum.near:
                met = tuple(match for match in matches if _is_near(agent, match, data_key))
            if met:
                if datum is None:
                    reason = await self._reason(project, agent, sequence)
                elif (staleness := stale.get(data_key)) is None:
                    reason = HeldBackReason.OWN  # It was not sent, and the agent knows it.
                elif (reason := _HELD_BACK.get(staleness.reason)) is None:
                    since = datum.sent.event
                    if await self.staleness.is_held_back(project, agent, sequence, since):
                        reason = HeldBackReason.MIN_DELTA
                unsent.append(_UnsentDatum(sequence, met, reason))
            elif reached:
                unsent.append(_UnsentDatum(sequence, reached, HeldBackReason.EXCLUDED))
            elif near_misses:
                near_misses -= 1
                unsent.append(_UnsentDatum(sequence, matches, HeldBackReason.BELOW_THRESHOLD))
        return unsent

    async def _reason(
        self, project: str, agent: Agent, sequence: LogSequence
    ) -> HeldBackReason | None:
        """Why a datum that matched and that the agent does not hold was not sent; None: it had not
        reached the agent yet."""
        if agent.exclude_own:
            (entry,) = await self.log.get(project, [sequence])
            if entry is not None and is_own(event_codec.decode(entry), agent):
                return HeldBackReason.OWN
        if await self.staleness.is_held_back(project, agent, sequence, BEGINNING):
            return HeldBackReason.MIN_DELTA
        return None

    async def _fetch(
        self, project: str, unsent: Sequence[_UnsentDatum], moment: Moment, room: Room
    ) -> tuple[list[tuple[HeldBackReason | None, MatchedDatum]], int]:
        """The first of the data, and how many there is no room for."""
        matched = [(datum.sequence, datum.matches) for datum in unsent[:_MAX_LISTED]]
        data = await self.engine.fetch(project, matched, moment.sequence, room)
        listed = [
            (datum.reason, fetched)
            for datum, fetched in zip(unsent, data, strict=False)
            if fetched is not None
        ]
        return listed, len(unsent) - len(data)


def _is_near(agent: Agent, match: Match, data_key: str) -> bool:
    """Whether a datum that an agent holds meets a need: down to the margin below its threshold."""
    need = agent.needs[match.need_index]
    least = need.threshold if match.exact else lowest(need.threshold)
    return match.score >= least and not need.excludes(data_key)


def _known(
    knowledge: AgentKnowledge,
    held: dict[str, HeldDatum],
    stale: dict[str, Staleness],
    max_bytes: int,
) -> tuple[list[KnownDatum], int]:
    """The data that an agent had been sent, by key, without events, as far as they have room.

    With them comes how many bytes they take.
    """
    texts = need_texts(knowledge.records.values()) | knowledge.texts
    known: list[KnownDatum] = []
    room, size_bytes = TextRoom(), 0
    for data_key in sorted(held):
        delivery, latest, _ = held[data_key]
        needs = delivered_needs(delivery, texts, room)
        size = _KNOWN_BYTES + utf8_bytes(data_key)
        size += sum(_NEED_BYTES + utf8_bytes(need.need) for need in needs)
        if size_bytes + size > max_bytes:
            break
        size_bytes += size
        # What a registration brought is acknowledged with that, however old its event is.
        place = delivery.place
        acknowledged = (delivery.event if place is None else event_of(place)) <= knowledge.cursor
        staleness = stale.get(data_key)
        known.append(KnownDatum(delivery, needs, acknowledged, latest, None, staleness))
    return known, size_bytes
