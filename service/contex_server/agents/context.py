"""What an agent knew at a moment, what it did not, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import partial

from contex_server.agents.journal import Knowledge, Known, Stream
from contex_server.agents.journals import Journals, Why, texts_of, why
from contex_server.kernel import event_codec
from contex_server.kernel.model import (
    BEGINNING,
    Agent,
    Entry,
    Event,
    KeyState,
    Match,
)
from contex_server.kernel.model import Sequence as LogSequence
from contex_server.kernel.scope import Scope
from contex_server.log.port import EventLog
from contex_server.match.matchers import Matchmaker
from contex_server.match.questions import MatchedDatum, Questions
from contex_server.match.registration import decode_agent
from contex_server.matching.answers import Found, answer
from contex_server.state.moments import Moment
from contex_server.state.state import State
from contex_server.state.states import States

_STREAMS = 10
_LISTED = 1_000
"""Data that are listed as pending or held back, each."""
_UPDATES = 64
"""Updates of a datum that are looked through for one that was worth pushing."""
_UPDATES_BYTES = 4 * 1024 * 1024
_FETCH = 64


class Held(Enum):
    """Why a datum was not sent; see `contex.v1.HeldBackReason`."""

    MIN_DELTA = auto()
    EXCLUDED = auto()
    BELOW_THRESHOLD = auto()
    ANSWER_FULL = auto()


@dataclass(frozen=True, slots=True)
class KnownDatum:
    """What an agent had been sent of a datum.

    Attributes:
        latest: The datum as it was at the moment.
        entry: The event that it had been sent; None if it is left out or can't be read.
    """

    data_key: str
    known: Known
    needs: tuple[Why, ...]
    acknowledged: bool
    latest: KeyState | None
    entry: Entry | None


@dataclass(frozen=True, slots=True)
class AgentContext:
    """What an agent knew; see `contex.v1.GetAgentContextResponse`."""

    moment: Moment
    agent: Agent
    knowledge: Knowledge
    known: list[KnownDatum]
    pending: list[MatchedDatum]
    held_back: list[tuple[Held | None, MatchedDatum]]

    @property
    def streams(self) -> list[Stream]:
        """The newest streams, newest first."""
        streams = sorted(self.knowledge.streams.values(), key=lambda s: -s.opened_ms)
        return streams[:_STREAMS]


@dataclass(frozen=True, slots=True)
class _Judged:
    """A datum that matched or nearly did, and was not sent as it was."""

    sequence: LogSequence
    matches: tuple[Match, ...]
    held: Held | None


class AgentContexts:
    """Answers what agents knew."""

    def __init__(
        self,
        event_log: EventLog,
        states: States,
        journals: Journals,
        questions: Questions,
        matchmaker: Matchmaker,
        *,
        answer_bytes: int,
    ) -> None:
        self._log = event_log
        self._states = states
        self._journals = journals
        self._questions = questions
        self._matchmaker = matchmaker
        self._answer_bytes = answer_bytes

    async def get(
        self,
        project: str,
        agent_id: str,
        moment: Moment,
        *,
        payloads: bool,
        near_misses: int,
        scope: Scope,
    ) -> AgentContext:
        """See `AgentService.GetAgentContext`.

        Raises:
            ContexError: AGENT_NOT_FOUND, RECORDS_EXPIRED, EMBEDDER_UNAVAILABLE,
                STORE_UNAVAILABLE.
        """
        knowledge = await self._journals.knowledge(project, agent_id, moment.unix_ms)
        agent = decode_agent(knowledge.record)
        known = {
            data_key: held
            for data_key, held in knowledge.known.items()
            # What was sent of later events of the same millisecond is not of this moment.
            if held.event <= moment.sequence and not held.deleted and scope.admits(data_key)
        }
        state = await self._states.at(project, moment.sequence)
        judged = await self._judged(project, agent, knowledge, known, moment, near_misses, scope)
        room = self._answer_bytes // 3 if payloads else 0
        pending = [datum for datum in judged if datum.held is None]
        held_back = [datum for datum in judged if datum.held is not None]
        return AgentContext(
            moment,
            agent,
            knowledge,
            await self._known(project, knowledge, known, state, room),
            [datum for _, datum in await self._told(project, pending[:_LISTED], moment, room)],
            await self._told(project, held_back[:_LISTED], moment, room),
        )

    async def _known(
        self,
        project: str,
        knowledge: Knowledge,
        known: dict[str, Known],
        state: State,
        room: int,
    ) -> list[KnownDatum]:
        texts = texts_of(knowledge.records.values()) | knowledge.texts
        keys = sorted(known)
        entries: dict[str, Entry] = {}
        for start in range(0, len(keys) if room else 0, _FETCH):
            some = keys[start : start + _FETCH]
            found = await self._log.get(project, [known[data_key].event for data_key in some])
            for data_key, entry in zip(some, found, strict=True):
                if entry is not None and len(entry.body) <= room:
                    entries[data_key] = entry
                    room -= len(entry.body)
        return [
            KnownDatum(
                data_key,
                known[data_key],
                why(known[data_key].needs, texts, known[data_key].registration),
                known[data_key].event <= knowledge.cursor,
                state.get(data_key),
                entries.get(data_key),
            )
            for data_key in keys
        ]

    async def _judged(
        self,
        project: str,
        agent: Agent,
        knowledge: Knowledge,
        known: dict[str, Known],
        moment: Moment,
        near_misses: int,
        scope: Scope,
    ) -> list[_Judged]:
        """The data at the moment that match or nearly do, and that it had not been sent so."""
        async with self._questions.index(project, moment.sequence) as (index, position):
            services = self._matchmaker
            encodings = await services.embeddings.of_questions(
                project, index.model.id, {need.digest: need.text for need in agent.needs}
            )
            # Everything that comes near, also what is excluded: it is sorted out below.
            wide = [
                (
                    replace(
                        need,
                        threshold=need.threshold / 2 if near_misses else need.threshold,
                        max_matches=len(index.data) or 1,
                        exclude=frozenset(),
                    ),
                    encodings[need.digest],
                )
                for need in agent.needs
            ]
            found: Found = await services.work(
                partial(answer, index.data, services.scorer, index.model.id, wide, position)
            )
            latest = {data_key: index.latest[data_key] for data_key, _ in found}
        judged: list[_Judged] = []
        for data_key, wide_matches in found:
            if not scope.admits(data_key):
                continue
            sequence = latest[data_key]
            held = known.get(data_key)
            if held is not None and held.event >= sequence:
                continue
            matches = tuple(
                replace(match, threshold=agent.needs[match.need_index].threshold)
                for match in wide_matches
            )
            reached = [match for match in matches if match.score >= match.threshold]
            wanted = tuple(
                match for match in reached if not agent.needs[match.need_index].excludes(data_key)
            )
            if wanted:
                reason = await self._reason(project, agent, knowledge, held, sequence)
                judged.append(_Judged(sequence, wanted, reason))
            elif reached:
                judged.append(_Judged(sequence, tuple(reached), Held.EXCLUDED))
            elif near_misses:
                near_misses -= 1
                judged.append(_Judged(sequence, matches, Held.BELOW_THRESHOLD))
        return judged

    async def _reason(
        self,
        project: str,
        agent: Agent,
        knowledge: Knowledge,
        held: Known | None,
        sequence: LogSequence,
    ) -> Held | None:
        """Why a datum that matches was not sent; None: it had not reached the agent yet."""
        if agent.min_delta is not None and not await self._was_worth(
            project, agent, held.event if held else BEGINNING, sequence
        ):
            return Held.MIN_DELTA
        if held is None and knowledge.registered and sequence < knowledge.registered:
            return Held.ANSWER_FULL
        return None

    async def _was_worth(
        self, project: str, agent: Agent, since: LogSequence, sequence: LogSequence
    ) -> bool:
        """Whether one of a datum's events after `since` was worth pushing."""
        entries = await self._log.history(project, sequence, _UPDATES, _UPDATES_BYTES)
        for entry in entries:
            if entry.sequence <= since:
                return False
            event: Event = event_codec.decode(entry)
            if await self._matchmaker.is_worth(project, agent, event):
                return True
        return False

    async def _told(
        self, project: str, judged: Sequence[_Judged], moment: Moment, room: int
    ) -> list[tuple[Held | None, MatchedDatum]]:
        told: list[tuple[Held | None, MatchedDatum]] = []
        for start in range(0, len(judged), _FETCH):
            some = judged[start : start + _FETCH]
            entries = await self._log.get(project, [datum.sequence for datum in some])
            for datum, entry in zip(some, entries, strict=True):
                if entry is None:
                    continue
                event = event_codec.decode(entry)
                matches = await self._matchmaker.explained(
                    project, event, datum.matches, moment.sequence
                )
                omit = len(entry.body) > room
                if omit:
                    entry = event_codec.without_payload(entry)
                else:
                    room -= len(entry.body)
                told.append((datum.held, MatchedDatum(entry, matches, omit)))
        return told
