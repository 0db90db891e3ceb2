"""What a registration brings at once: all data that match its needs by then, and of those that the
agent held the ones that match no longer.

It needs the project's data, which the matcher of this process has. That may be ahead of the
registration: data that have changed since are judged by what they were then.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from contex_server.events.feed import Delivery
from contex_server.inbox.entry import Decision
from contex_server.inbox.holdings import DIGEST_BYTES, Holding
from contex_server.inbox.judgement import at_threshold, by_filters_alone, is_own, met_by
from contex_server.inbox.subscriber import Subscriber, encode_subscriber, watched
from contex_server.kernel import event_codec
from contex_server.kernel.inbox_ids import LAST_ENTRY, entry_of, inbox_id, last_place
from contex_server.kernel.model import (
    BEGINNING,
    DATA_EXPIRED,
    SERVICE_TYPES,
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
from contex_server.match.pool import MatcherPool
from contex_server.match.project_matcher import ProjectMatcher

if TYPE_CHECKING:
    from contex_server.inbox.decider import ProjectDecider

_PART = 256
"""Data that are decided in one step, for which live deciding waits."""


class _Datum(NamedTuple):
    """A datum as of the registration, and the needs that it comes near."""

    sequence: Sequence
    data_key: str
    near: tuple[Match, ...]


class _Revision(NamedTuple):
    """A datum's revision, and where the one before it is."""

    sequence: Sequence
    data_key: str
    before: Sequence | None


class Steps:
    """Puts registrations in force."""

    def __init__(self, decider: ProjectDecider, pool: MatcherPool) -> None:
        self._decider = decider
        self._pool = pool
        self._recent = _Recent(decider)

    async def take(self, subscribers: Iterable[Subscriber]) -> None:
        """Puts the awaited registrations of agents in force, with what they bring."""
        try:
            async with self._pool.matcher(self._decider.project) as matcher:
                for subscriber in sorted(subscribers, key=_registration):
                    await self._take(matcher, subscriber)
        finally:
            self._recent.forget()

    async def _take(self, matcher: ProjectMatcher, subscriber: Subscriber) -> None:
        decider, awaited = self._decider, subscriber.awaited
        assert awaited is not None
        agent, place = awaited.agent, awaited.event
        agent_id, shard = agent.agent_id, shard_of(agent.agent_id)
        is_new = subscriber.event == place
        near, version = await self._near(matcher, subscriber)
        held = set() if is_new else await self._held(shard, subscriber.number)
        gone = [name for name in held if name not in near]
        data = [*near.values(), *await self._as_of(place, gone)]
        data.sort()
        begun = await decider.store.inbox(
            decider.project,
            agent_id,
            Range(inbox_id(place).prev(), last_place(place)),
            LAST_ENTRY,
        )
        done = {d.event: d for d in await decider.decisions(subscriber, begun)}
        since = begun[-1].id if begun else last_place(place.prev())
        number = entry_of(since) if begun else 0
        if not (is_new or begun or awaited.missed):
            data.insert(0, _Datum(place, "", ()))
        parts = [data[start : start + _PART] for start in range(0, len(data), _PART)] or [[]]
        for part in parts:
            entries = await decider.engine.log.get(decider.project, [d.sequence for d in part])
            async with decider.deciding():
                draft = decider.draft()
                await decider.read_holders(draft, [d.data_key for d in part if d.data_key], [shard])
                for datum, entry in zip(part, entries, strict=True):
                    if entry is None:
                        continue
                    event = event_codec.decode(entry)
                    if datum.sequence == place:
                        decision = Decision(Change.REGISTERED, place, 0, "", ())
                        await decider.decided(draft, agent_id, place, 0, decision, _told(entry))
                        continue
                    holders = draft.holders[shard].setdefault(datum.data_key, {})
                    before = holders.get(subscriber.number)
                    if before is not None and before.last > event.revision:
                        continue  # A copy of the project has what was decided later.
                    if (told := done.get(datum.sequence)) is not None:
                        # A copy may have been taken of the inbox after what was held before.
                        held_now = _holding(event, before, told.change, told.matches)
                        if before is None or (before.last, before.held) != (
                            held_now.last,
                            held_now.held,
                        ):
                            holders[subscriber.number] = held_now
                            draft.changed.add((shard, datum.data_key))
                        continue
                    change = _change(datum, event, subscriber, before)
                    if change is None:
                        if before is not None and before.held and datum.near:
                            exact = by_filters_alone(met_by(datum.near, agent))
                            holders[subscriber.number] = before._replace(exact=exact)
                            draft.changed.add((shard, datum.data_key))
                        continue
                    met = change in (Change.MATCHED, Change.UPDATED)
                    matches = met_by(datum.near, agent) if met else ()
                    matches = at_threshold(matches, agent)
                    decision = Decision(
                        change,
                        event.sequence,
                        event.revision,
                        event.data_key,
                        matches,
                        version,
                    )
                    holders[subscriber.number] = _holding(event, before, change, matches)
                    draft.changed.add((shard, datum.data_key))
                    if met and is_own(event, agent):
                        continue  # It holds what it published itself, and does without being told.
                    number += 1
                    await decider.decided(draft, agent_id, place, number, decision, _told(entry))
                after = subscriber
                if part is parts[-1]:
                    after = subscriber.in_force()
                    draft.agents[agent_id] = Standing(encode_subscriber(after), place)
                await decider.write(draft)
                upto = inbox_id(place, number) if after is subscriber else last_place(place)
                decider.hand_over({agent_id}, draft, since, upto)
                since = upto
                if after is not subscriber:
                    decider.replace(after)
            await asyncio.sleep(0)

    async def _near(
        self, matcher: ProjectMatcher, subscriber: Subscriber
    ) -> tuple[dict[str, _Datum], int]:
        """The data that come near to the needs, as of the registration, and what they are judged
        by."""
        decider, awaited = self._decider, subscriber.awaited
        assert awaited is not None
        engine, agent, place = decider.engine, watched(awaited.agent), awaited.event
        async with matcher.index_at(place) as (index, position):
            needs = [replace(need, max_matches=len(index.latest) or 1) for need in agent.needs]
            latest = index.latest
            found = await engine.find(
                index, needs, lambda key: latest[key] <= place, registered=True
            )
            changed = await self._changed(place, position) if position > place else []
            matched: list[tuple[Match, ...]] = []
            if changed:
                encodings = await engine.encode_needs(index, agent.needs)
                texts = await engine.encode_events(index, changed)
                matched = await engine.work(index.match_alone, agent, encodings, changed, texts)
            of_index = chain(*matched, *[datum.matches for datum in found.worded])
            version = await decider.version(index, of_index, position)
        near = {
            datum.data_key: _Datum(datum.sequence, datum.data_key, datum.matches)
            for datum in await engine.matched(decider.project, found)
        }
        for event, matches in zip(changed, matched, strict=True):
            if matches:
                near[event.data_key] = _Datum(event.sequence, event.data_key, matches)
        return near, version

    async def _changed(self, after: Sequence, until: Sequence) -> list[Event]:
        """Of the data that have changed since, what they were before."""
        log, project = self._decider.engine.log, self._decider.project
        before = await self._recent.before(after, until)
        places = [place for place in before.values() if place is not None]
        events = [event_codec.decode(e) for e in await log.get(project, places) if e is not None]
        return [event for event in events if not event.deletes and event.erased is None]

    async def _held(self, shard: int, number: int) -> set[str]:
        """The data that an agent holds."""
        held: set[str] = set()
        async for name, holders in self._decider.all_holders(shard):
            holding = holders.get(number)
            if holding is not None and holding.held:
                held.add(name)
        return held

    async def _as_of(self, place: Sequence, names: list[str]) -> list[_Datum]:
        """The latest events of data as of a moment; of those that are still there."""
        decider, data = self._decider, []
        latest = await decider.engine.state.latest(decider.project, names)
        for name, state in latest.items():
            sequence: Sequence | None = state.sequence
            while sequence is not None and sequence > place:
                (entry,) = await decider.engine.log.get(decider.project, [sequence])
                sequence = None if entry is None else event_codec.decode(entry).previous_sequence
            if sequence is not None:
                data.append(_Datum(sequence, name, ()))
        return data


class _Recent:
    """The revisions in the part of the log between registrations and what the matcher knows.

    Of agents that register one after the other each has to know what has changed since, up to where
    the matcher is: read once, not once for each of them.
    """

    def __init__(self, decider: ProjectDecider) -> None:
        self._decider = decider
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
        log, project = self._decider.engine.log, self._decider.project
        source = pages(log, project, Range(self._until, until), max_events=_PART)
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


def _told(entry: Entry) -> Delivery:
    return Delivery(entry.sequence, entry)
