"""What a registration brings at once: all data that match its needs by then, and of those that the
agent held the ones that match no longer, or that it may not read any more.

It needs the project's data, which the matcher of this process has. That may be ahead of the
registration: data that have changed since are judged by what they were then.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace
from itertools import chain, islice
from typing import NamedTuple

from contex_server.inbox.entry import Decision
from contex_server.inbox.holdings import DIGEST_BYTES, Holding
from contex_server.inbox.judgement import at_threshold, by_filters_alone, is_own, met_by
from contex_server.inbox.ledger import Draft, Ledger, Made
from contex_server.inbox.roster import Roster
from contex_server.inbox.subscriber import Subscriber, encode_subscriber, watched
from contex_server.kernel import event_codec
from contex_server.kernel.inbox_ids import LAST_ENTRY, entry_of, inbox_id, last_place
from contex_server.kernel.model import (
    AGENT_REGISTERED,
    BEGINNING,
    DATA_EXPIRED,
    SERVICE_TYPES,
    Agent,
    Change,
    Entry,
    Event,
    Match,
    Range,
    Sequence,
)
from contex_server.kernel.slices import sliced
from contex_server.log.inboxes import Standing, shard_of
from contex_server.log.pages import pages
from contex_server.log.port import EventLog
from contex_server.match.engine import MatchEngine
from contex_server.match.pool import MatcherPool
from contex_server.match.project_matcher import ProjectMatcher

_PART = 256
"""Data that are decided in one write, for which live deciding waits."""
_TOGETHER = 64
"""Registrations that are looked at together."""


class _Datum(NamedTuple):
    """A datum as of the registration, and the needs that it comes near.

    Of one that is withheld there is the registration's own sequence.
    """

    sequence: Sequence
    data_key: str
    near: tuple[Match, ...]


class _Revision(NamedTuple):
    """A datum's revision, and where the one before it is."""

    sequence: Sequence
    data_key: str
    before: Sequence | None


class _Step:
    """What a registration brings.

    Args:
        begun: What the inbox has of it already: it was begun before.

    Attributes:
        data: Those that are still to be told, in the order of the log; that of its own event stands
            for the change of needs.
        done: What the inbox has already, by event and data key.
        number: The number of the inbox's last entry of it.
        since: The place of that.
        version: The number of what the data were judged by.
    """

    def __init__(self, subscriber: Subscriber, begun: list[tuple[Sequence, Decision]]) -> None:
        self.subscriber = subscriber
        self.data: list[_Datum] = []
        self.done = {(decision.event, decision.data_key): decision for _, decision in begun}
        self.since = begun[-1][0] if begun else last_place(self.place.prev())
        self.number = entry_of(self.since) if begun else 0
        self.version = 0

    @property
    def agent(self) -> Agent:
        """The registration."""
        assert self.subscriber.awaited is not None
        return self.subscriber.awaited.agent

    @property
    def place(self) -> Sequence:
        """Its event."""
        assert self.subscriber.awaited is not None
        return self.subscriber.awaited.event


class Steps:
    """Puts registrations in force."""

    def __init__(
        self, ledger: Ledger, roster: Roster, engine: MatchEngine, pool: MatcherPool
    ) -> None:
        self._ledger = ledger
        self._roster = roster
        self._engine = engine
        self._pool = pool
        self._recent = _Recent(engine.log, ledger.project)

    async def take(self, subscribers: Iterable[Subscriber]) -> None:
        """Puts the awaited registrations of agents in force, with what they bring."""
        ordered = sorted(subscribers, key=_registration)
        held = await self._held(s for s in ordered if not _is_new(s))
        try:
            async with self._pool.matcher(self._ledger.project) as matcher:
                for start in range(0, len(ordered), _TOGETHER):
                    some = ordered[start : start + _TOGETHER]
                    await self._take(await self._steps(matcher, some, held))
        finally:
            self._recent.forget()

    async def _take(self, steps: list[_Step]) -> None:
        """Takes some steps, those that bring little in one write."""
        together: list[_Step] = []
        room = _PART
        for step in steps:
            if len(step.data) > room:
                await self._write(together)
                together, room = [], _PART
            while len(step.data) > _PART:
                rest, step.data = step.data[_PART:], step.data[:_PART]
                await self._write([step], last=False)
                step.data = rest
            together.append(step)
            room -= len(step.data)
        await self._write(together)

    async def _steps(
        self, matcher: ProjectMatcher, subscribers: list[Subscriber], held: Mapping[str, set[str]]
    ) -> list[_Step]:
        begun, steps = await self._begun(subscribers), []
        for subscriber in subscribers:
            step = _Step(subscriber, begun[subscriber.agent.agent_id])
            near, step.version = await self._near(matcher, step)
            names, scope = held.get(step.agent.agent_id, set()), step.agent.scope
            withheld = {name for name in names if not scope.admits(name)}
            gone = [name for name in names - withheld if name not in near]
            step.data = [_Datum(step.place, name, ()) for name in sorted(withheld)]
            step.data += sorted([*near.values(), *await self._as_of(step.place, gone)])
            assert subscriber.awaited is not None
            if not (_is_new(subscriber) or step.done or subscriber.awaited.missed):
                step.data.insert(0, _Datum(step.place, "", ()))
            steps.append(step)
        return steps

    async def _begun(
        self, subscribers: list[Subscriber]
    ) -> dict[str, list[tuple[Sequence, Decision]]]:
        """What inboxes have already of steps that were begun."""
        ledger, begun = self._ledger, {}
        places = {s.agent.agent_id: _registration(s) for s in subscribers}
        spans = {
            agent_id: Range(inbox_id(place).prev(), last_place(place))
            for agent_id, place in places.items()
        }
        entries = await ledger.store.inboxes(ledger.project, spans, LAST_ENTRY)
        for subscriber in subscribers:
            found = entries[subscriber.agent.agent_id]
            decisions = await ledger.reader.decisions(ledger.project, subscriber.texts, found)
            told = zip([entry.id for entry in found], decisions, strict=True)
            begun[subscriber.agent.agent_id] = list(told)
        return begun

    async def _write(self, steps: list[_Step], *, last: bool = True) -> None:
        """Decides what steps bring, and unless more follows of it, puts them in force."""
        if not steps:
            return
        ledger = self._ledger
        sequences = [datum.sequence for step in steps for datum in step.data]
        stored = iter(await self._engine.log.get(ledger.project, sequences))
        entries = [list(islice(stored, len(step.data))) for step in steps]
        names = {datum.data_key for step in steps for datum in step.data if datum.data_key}
        shards = {shard_of(step.agent.agent_id) for step in steps}
        async with ledger.lock:
            draft = Draft()
            await ledger.read_holders(draft, names, shards)
            for step, found in zip(steps, entries, strict=True):
                for datum, entry in zip(step.data, found, strict=True):
                    if entry is not None:
                        await self._tell(step, datum, entry, draft)
                if last:
                    standing = Standing(encode_subscriber(step.subscriber.in_force()), step.place)
                    draft.agents[step.agent.agent_id] = standing
            await ledger.write(draft)
            for step in steps:
                upto = last_place(step.place) if last else inbox_id(step.place, step.number)
                members = {step.agent.agent_id: step.subscriber}
                ledger.hand_over(members, members, draft, step.since, upto)
                step.since = upto
                if last:
                    self._roster.replace(step.subscriber.in_force())
        await asyncio.sleep(0)

    async def _tell(self, step: _Step, datum: _Datum, entry: Entry, draft: Draft) -> None:
        """Decides what a step tells of a datum."""
        subscriber, agent, place = step.subscriber, step.agent, step.place
        event = event_codec.decode(entry)
        if datum.sequence == place and not datum.data_key:
            decision = Decision(Change.REGISTERED, place, 0, "", ())
            await self._ledger.decided(draft, subscriber, Made.of(decision, place, 0, entry))
            return
        shard = shard_of(agent.agent_id)
        holders = draft.holders[shard].setdefault(datum.data_key, {})
        before = holders.get(subscriber.number)

        def hold(holding: Holding) -> None:
            holders[subscriber.number] = holding
            draft.changed.add((shard, datum.data_key))

        if datum.sequence == place:
            if before is not None and before.held:
                hold(before._replace(held=False))
                step.number += 1
                name, last = datum.data_key, before.last
                decision = Decision(Change.WITHHELD, place, last, name, ())
                stub = event_codec.entry(Event(place, AGENT_REGISTERED, name, revision=last))
                made = Made.of(decision, place, step.number, stub)
                await self._ledger.decided(draft, subscriber, made)
            return
        if before is not None and before.last > event.revision:
            return  # A copy of the project has what was decided later.
        if event.erased is not None:
            datum = datum._replace(near=())  # Nor does it meet a need that asks for its key alone.
        if (done := step.done.get((datum.sequence, datum.data_key))) is not None:
            # A copy may have been taken of the inbox after what was held before.
            held = _holding(event, before, done.change, done.matches)
            if before is None or (before.last, before.held) != (held.last, held.held):
                hold(held)
            return
        change = _change(datum, event, subscriber, before)
        if change is None:
            if before is not None and before.held and datum.near:
                hold(before._replace(exact=by_filters_alone(met_by(datum.near, agent))))
            return
        met = change in (Change.MATCHED, Change.UPDATED)
        matches = at_threshold(met_by(datum.near, agent), agent) if met else ()
        hold(_holding(event, before, change, matches))
        if met and is_own(event, agent):
            return  # It holds what it published itself, and does without being told.
        step.number += 1
        decision = Decision(
            change, event.sequence, event.revision, event.data_key, matches, step.version
        )
        made = Made.of(decision, place, step.number, entry)
        await self._ledger.decided(draft, subscriber, made)

    async def _near(self, matcher: ProjectMatcher, step: _Step) -> tuple[dict[str, _Datum], int]:
        """The data that come near to the needs, as of the registration, and what they are judged
        by."""
        engine, agent, place = self._engine, watched(step.agent), step.place
        async with matcher.index_at(place) as (index, position):
            needs = [replace(need, max_matches=len(index.latest) or 1) for need in agent.needs]
            latest, admits = index.latest, agent.scope.admits
            found = await engine.find(
                index, needs, lambda key: latest[key] <= place and admits(key), registered=True
            )
            changed = await self._changed(place, position) if position > place else []
            changed = [event for event in changed if admits(event.data_key)]
            matched: list[tuple[Match, ...]] = []
            if changed:
                encodings = await engine.encode_needs(index, agent.needs)
                texts = await engine.encode_events(index, changed)
                matched = await engine.work(index.match_alone, agent, encodings, changed, texts)
            of_index = chain(*matched, *[datum.matches for datum in found.worded])
            version = await self._ledger.version(index, of_index, position)
        near = {
            datum.data_key: _Datum(datum.sequence, datum.data_key, datum.matches)
            for datum in await engine.matched(self._ledger.project, found)
        }
        for event, matches in zip(changed, matched, strict=True):
            if matches:
                near[event.data_key] = _Datum(event.sequence, event.data_key, matches)
        return near, version

    async def _changed(self, after: Sequence, until: Sequence) -> list[Event]:
        """Of the data that have changed since, what they were before."""
        before = await self._recent.before(after, until)
        places = [place for place in before.values() if place is not None]
        entries = await self._engine.log.get(self._ledger.project, places)
        events = [event_codec.decode(entry) for entry in entries if entry is not None]
        return [event for event in events if not event.deletes and event.erased is None]

    async def _held(self, subscribers: Iterable[Subscriber]) -> dict[str, set[str]]:
        """The data that agents hold, by agent."""
        agents = {(shard_of(s.agent.agent_id), s.number): s.agent.agent_id for s in subscribers}
        held: defaultdict[str, set[str]] = defaultdict(set)
        for shard in {shard for shard, _ in agents}:
            async for name, holders in self._ledger.all_holders(shard):
                for number, holding in holders.items():
                    if holding.held and (agent_id := agents.get((shard, number))) is not None:
                        held[agent_id].add(name)
        return held

    async def _as_of(self, place: Sequence, names: list[str]) -> list[_Datum]:
        """The latest events of data as of a moment; of those that are still there."""
        engine, project, data = self._engine, self._ledger.project, list[_Datum]()
        latest = await engine.state.latest(project, names)
        for name, state in latest.items():
            sequence: Sequence | None = state.sequence
            while sequence is not None and sequence > place:
                (entry,) = await engine.log.get(project, [sequence])
                sequence = None if entry is None else event_codec.decode(entry).previous_sequence
            if sequence is not None:
                data.append(_Datum(sequence, name, ()))
        return data


class _Recent:
    """The revisions in the part of the log between registrations and what the matcher knows.

    Of agents that register one after the other each has to know what has changed since, up to where
    the matcher is: read once, not once for each of them.
    """

    def __init__(self, log: EventLog, project: str) -> None:
        self._log = log
        self._project = project
        self._revisions: deque[_Revision] = deque()
        self._after = self._until = BEGINNING

    def forget(self) -> None:
        """Begins anew."""
        self._revisions.clear()
        self._after = self._until = BEGINNING

    async def before(self, after: Sequence, until: Sequence) -> dict[str, Sequence | None]:
        """The data that changed in a part of the log, and where their revisions before that are.

        Reads on if the part begins and ends no earlier than the one before.
        """
        if not self._after <= after <= self._until:
            self.forget()
            self._after = self._until = after
        while self._revisions and self._revisions[0].sequence <= after:
            self._revisions.popleft()
        self._after = after
        if self._until < until:
            await self._read(until)
        changed: dict[str, Sequence | None] = {}
        async for revision in sliced(self._revisions):
            if revision.sequence > until:
                break
            changed.setdefault(revision.data_key, revision.before)
        return changed

    async def _read(self, until: Sequence) -> None:
        source = pages(self._log, self._project, Range(self._until, until), max_events=_PART)
        async with aclosing(source):
            async for page in source:
                for entry in page.entries:
                    event = event_codec.decode(entry)
                    if event.data_key and event.event_type not in SERVICE_TYPES:
                        self._revisions.append(
                            _Revision(event.sequence, event.data_key, event.previous_sequence)
                        )
                    self._until = event.sequence
        self._until = until


def _is_new(subscriber: Subscriber) -> bool:
    """Whether an agent awaits its first registration."""
    return subscriber.event == _registration(subscriber)


def _registration(subscriber: Subscriber) -> Sequence:
    assert subscriber.awaited is not None
    return subscriber.awaited.event


def _change(
    datum: _Datum, event: Event, subscriber: Subscriber, before: Holding | None
) -> Change | None:
    """What a registration tells its agent of a datum."""
    awaited = subscriber.awaited
    assert awaited is not None
    holds = before is not None and before.held
    if awaited.missed and before is not None and holds and before.last < event.revision:
        change = Change.UPDATED
        if event.deletes:
            change = Change.EXPIRED if event.event_type == DATA_EXPIRED else Change.DELETED
        elif not datum.near:
            change = Change.LEFT
        return None if change in awaited.agent.muted else change
    if holds and not datum.near:
        left = Change.LEFT
        return None if event.deletes or left in awaited.agent.muted else left
    if holds or event.deletes or event.erased is not None:
        return None
    return Change.MATCHED if met_by(datum.near, awaited.agent) else None


def _holding(
    event: Event, before: Holding | None, change: Change, matches: tuple[Match, ...]
) -> Holding:
    """What an agent holds of a datum that a registration told it of."""
    return Holding(
        event.revision if before is None else before.first,
        event.revision,
        event.text_digest[:DIGEST_BYTES],
        change in (Change.MATCHED, Change.UPDATED),
        by_filters_alone(matches),
    )
