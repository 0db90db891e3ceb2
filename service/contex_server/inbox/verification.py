"""Judges what was decided: whether inboxes say what follows from the log, and holders what follows
from inboxes, and whether needs score again what was recorded.

An inbox may have lost its beginning, or only its end is looked at. What an agent was sent before
that of a datum, its holders say: the first revision, and the last.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from contex_server.inbox.entry import Decision
from contex_server.inbox.holdings import Holding, unpack_holders
from contex_server.inbox.reader import InboxReader
from contex_server.inbox.subscriber import Subscriber, lowest
from contex_server.kernel import event_codec
from contex_server.kernel.inbox_ids import entry_of, event_of, inbox_id, last_place
from contex_server.kernel.model import (
    AGENT_REGISTERED,
    DATA_ERASED,
    DATA_EXPIRED,
    SERVICE_TYPES,
    Agent,
    Change,
    Event,
    Match,
    Need,
    Range,
    Sequence,
)
from contex_server.kernel.slices import sliced
from contex_server.log.inboxes import InboxEntry, shard_of
from contex_server.match.agent_codec import make_need
from contex_server.match.engine import MatchEngine
from contex_server.match.index import Index
from contex_server.matching.rules import is_absolute

_SAMPLED_ENTRIES, _SAMPLED_AGENTS = 100, 1_000
"""Of so many agents as many of the newest deliveries each are judged, unless all are."""
_PAGE = 200
_ATTEMPTS = 5
"""How often an agent's holders are compared with its inbox, while both go on changing."""
_NEEDS = 32
"""Needs that are scored together."""
_TOLERANCE = 1e-5
"""Scores are recorded with six digits."""
_LOWEST = 1e-6


class DeliveryFinding(NamedTuple):
    """A delivery that is not what follows; both as people read them."""

    place: str
    detail: str


class DeliveryProgress(NamedTuple):
    """How many deliveries were judged, and what was found."""

    deliveries: int
    finding: DeliveryFinding | None = None


@dataclass(slots=True)
class _Known:
    """What an agent was told of a datum last, as far as its inbox was read.

    Attributes:
        place: The entry that told it.
        held: Whether it takes the datum to be there.
    """

    place: Sequence
    revision: int
    held: bool


@dataclass(slots=True)
class _Unseen:
    """An update of a datum of which the inbox says nothing before."""

    place: Sequence
    decision: Decision


@dataclass(slots=True)
class _Inbox:
    """What an agent's inbox adds up to."""

    subscriber: Subscriber
    known: dict[str, _Known] = field(default_factory=dict)
    unseen: dict[str, _Unseen] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Judged:
    """A delivery with its event, if that is there."""

    place: Sequence
    decision: Decision
    event: Event | None


@dataclass(frozen=True, slots=True)
class DeliveryVerification:
    """Judges the inboxes of projects."""

    reader: InboxReader

    @property
    def _engine(self) -> MatchEngine:
        return self.reader.engine

    async def verify(
        self, project: str, *, everything: bool
    ) -> AsyncGenerator[DeliveryProgress, None]:
        """Judges deliveries; reports findings, and the number of deliveries after each page.

        Args:
            everything: All of them; otherwise the newest of some agents.
        """
        count, indexes = 0, dict[Sequence, Index]()
        ids = sorted(await self.reader.store.standings(project))
        if not everything:
            ids = ids[:: max(1, -(-len(ids) // _SAMPLED_AGENTS))]
        for agent_id in ids:
            subscriber = await self.reader.subscriber(project, agent_id)
            if subscriber is None:
                continue
            findings: list[DeliveryFinding] = []
            for _ in range(_ATTEMPTS):
                trimmed = await self._trimmed(project, agent_id)
                judged, findings = 0, []
                async for judged, found in self._judge(project, subscriber, indexes, everything):
                    findings += found
                    yield DeliveryProgress(count + judged)
                # Between two pages it may have let go of what comes between them.
                if not findings or trimmed == await self._trimmed(project, agent_id):
                    break
            count += judged
            for finding in findings:
                yield DeliveryProgress(count, finding)

    async def _judge(
        self,
        project: str,
        subscriber: Subscriber,
        indexes: dict[Sequence, Index],
        everything: bool,
    ) -> AsyncGenerator[tuple[int, list[DeliveryFinding]], None]:
        """Judges an agent's inbox: after each page, how many deliveries, and what was found."""
        inbox, agent_id, count = _Inbox(subscriber), subscriber.agent.agent_id, 0
        upto = await self._decided(project, agent_id)
        trimmed = await self._trimmed(project, agent_id)
        # What comes before is an earlier agent's of its id.
        position = inbox_id(subscriber.begin)
        if not everything:
            position = max(position, await self._start(project, agent_id, upto))
        while True:
            based = position < trimmed
            page = await self._read(project, inbox, Range(position, upto), based=based)
            if not page and not based:
                break
            position = page[-1].place if page else trimmed
            count += len(page)
            problems = [
                (judged.place, problem)
                async for judged in sliced(page)
                if (problem := await self._problem(project, inbox, judged))
            ]
            problems += await self._misscored(project, inbox, page, indexes)
            yield count, [_finding(agent_id, *problem) for problem in problems]
        yield count, [found async for found in self._holders(project, inbox, upto)]

    async def _trimmed(self, project: str, agent_id: str) -> Sequence:
        """Up to where an inbox is trimmed."""
        return (await self.reader.store.inbox_end(project, agent_id)).trimmed.upto

    async def _decided(self, project: str, agent_id: str) -> Sequence:
        """The place up to which an inbox is decided; what comes after may still be filled."""
        end = await self.reader.store.inbox_end(project, agent_id)
        return last_place(end.position)

    async def _start(self, project: str, agent_id: str, upto: Sequence) -> Sequence:
        """Before the newest entries."""
        newest = Range(until=upto, backwards=True)
        entries = await self.reader.store.inbox(project, agent_id, newest, _SAMPLED_ENTRIES)
        return entries[-1].id.prev() if entries else upto

    async def _read(
        self, project: str, inbox: _Inbox, span: Range, *, based: bool = False
    ) -> list[_Judged]:
        """The next deliveries of an inbox, or of its base."""
        if span.is_empty:
            return []
        reader, subscriber = self.reader, inbox.subscriber
        agent_id = subscriber.agent.agent_id
        if based:
            entries = await reader.store.base(project, agent_id, span.after, _PAGE)
        else:
            entries = await reader.store.inbox(project, agent_id, span, _PAGE)
        decisions = await self._decisions(project, subscriber, entries)
        events = await reader.log.get(project, [decision.event for decision in decisions])
        return [
            _Judged(place, decision, None if entry is None else event_codec.decode(entry))
            for (place, _), decision, entry in zip(entries, decisions, events, strict=True)
        ]

    async def _decisions(
        self, project: str, subscriber: Subscriber, entries: list[InboxEntry]
    ) -> list[Decision]:
        return await self.reader.decisions(project, subscriber.texts, entries)

    # -- What follows from the log ---------------------------------------------------------------

    async def _problem(self, project: str, inbox: _Inbox, judged: _Judged) -> str:
        """What is wrong with a delivery; "" if nothing is. Adds it to what the agent knows."""
        place, decision, event = judged.place, judged.decision, judged.event
        change = decision.change
        if not entry_of(place) and event_of(place) != decision.event:
            return f"it stands at {event_of(place)}, and is of {decision.event}"
        if event is None:
            bounds = await self.reader.log.bounds(project)
            removed = bounds.trimmed and (bounds.first is None or decision.event < bounds.first)
            if not removed:
                return f"the log has no event {decision.event}"
        elif change is Change.REGISTERED or event_codec.is_damaged(event):
            return ""
        elif change is Change.ERASED:
            if event.event_type != DATA_ERASED:
                return f"{decision.event} erases nothing"
        elif change is Change.WITHHELD:
            if event.event_type != AGENT_REGISTERED:
                return f"{decision.event} withholds nothing"
        else:
            problem = _of_event(decision, event)
            if problem:
                return problem
            problem = _of_needs(inbox.subscriber.agent, decision, event)
            if problem:
                return problem
        without_content = change in (Change.ERASED, Change.WITHHELD)
        if not decision.data_key or (event and not without_content and _of_service(event)):
            return ""
        known = inbox.known.get(decision.data_key)
        problem, excused = _follow(inbox, place, decision)
        if excused and event is not None and known is not None:
            agent_id = inbox.subscriber.agent.agent_id
            # What a registration tells of is the datum itself, which may be the agent's own.
            since = event.sequence if entry_of(place) else event.previous_sequence
            if await self._own_since(project, agent_id, since, known.revision):
                return ""
        return problem

    # -- Scores ----------------------------------------------------------------------------------

    async def _misscored(
        self,
        project: str,
        inbox: _Inbox,
        page: Iterable[_Judged],
        indexes: dict[Sequence, Index],
    ) -> list[tuple[Sequence, str]]:
        """Deliveries whose needs score otherwise by the model and background that they name, where
        these are at hand."""
        by_background: defaultdict[Sequence, list[_Judged]] = defaultdict(list)
        for judged in page:
            event, worded = judged.event, _worded(judged.decision)
            if event is not None and event.erased is None and worded:
                by_background[worded[0].background_as_of].append(judged)
        found: list[tuple[Sequence, str]] = []
        for background, several in by_background.items():
            if background not in indexes:
                indexes[background] = await self._engine.new_index(project, as_of=background)
            index = indexes[background]
            at_hand = [j for j in several if _judges(index, _worded(j.decision)[0])]
            found += await self._scored_otherwise(index, inbox.subscriber, at_hand)
        return found

    async def _scored_otherwise(
        self, index: Index, subscriber: Subscriber, several: list[_Judged]
    ) -> list[tuple[Sequence, str]]:
        texts = {m.need_id: m.need for j in several for m in _worded(j.decision)}
        known = {need_id: text for need_id, text in texts.items() if text}
        needs = {need_id: make_need(text, _LOWEST, 1) for need_id, text in known.items()}
        events = {j.decision.event: j.event for j in several if j.event is not None}
        if not needs or not events:
            return []
        order = [*events]
        records = [event for event in events.values() if event is not None]
        encodings = await self._engine.encode_events(index, records)
        scores: list[dict[str, float]] = [{} for _ in order]
        every = [*needs.values()]
        for start in range(0, len(every), _NEEDS):
            agent = _asking(subscriber.agent, every[start : start + _NEEDS])
            encoded = await self._engine.encode_needs(index, agent.needs, registered=False)
            matched = await self._engine.work(index.match_alone, agent, encoded, records, encodings)
            for found, matches in zip(scores, matched, strict=True):
                found.update((match.need_id, match.score) for match in matches)
        by_event = dict(zip(order, scores, strict=True))
        found_otherwise: list[tuple[Sequence, str]] = []
        for judged in several:
            assert judged.event is not None
            if judged.event.text_digest not in encodings:
                continue
            for match in _worded(judged.decision):
                need = needs.get(match.need_id)
                if need is None:
                    continue
                score = by_event[judged.decision.event].get(match.need_id, 0.0)
                if need.id != match.need_id or abs(score - match.score) > _TOLERANCE:
                    problem = f"{match.need!r:.60} scores {score:.6f}, not {match.score:.6f}"
                    found_otherwise.append((judged.place, problem))
        return found_otherwise

    # -- Holders ---------------------------------------------------------------------------------

    async def _holders(
        self, project: str, inbox: _Inbox, upto: Sequence
    ) -> AsyncGenerator[DeliveryFinding, None]:
        """Compares what an agent is known to hold with what its inbox says, as far as both say
        something, and while more may come."""
        agent_id = inbox.subscriber.agent.agent_id
        names = [*(inbox.known.keys() | inbox.unseen.keys())]
        for start in range(0, len(names), _PAGE):
            some, unlike = names[start : start + _PAGE], dict[str, tuple[Sequence, str]]()
            for attempt in range(_ATTEMPTS):
                held = await self._held(project, inbox.subscriber, some)
                unlike = {
                    name: found
                    for name in some
                    if (found := await self._unlike(project, inbox, name, held.get(name)))
                }
                # What is held was read last: the inbox has what it says.
                end = await self._decided(project, agent_id)
                if not unlike or (attempt and end == upto):
                    break
                await self._read_on(project, inbox, Range(upto, end))
                some, upto = [*unlike], end
            for place, problem in unlike.values():
                yield _finding(agent_id, place, problem)

    async def _held(
        self, project: str, subscriber: Subscriber, names: list[str]
    ) -> dict[str, Holding]:
        """What an agent is known to hold of some data."""
        shard = shard_of(subscriber.agent.agent_id)
        stored = await self.reader.store.holders(project, [shard], names)
        found: dict[str, Holding] = {}
        for name, packed in stored[shard].items():
            holding = unpack_holders(packed).get(subscriber.number)
            if holding is not None:
                found[name] = holding
        return found

    async def _read_on(self, project: str, inbox: _Inbox, span: Range) -> None:
        """Follows what was added to an inbox meanwhile."""
        while page := await self._read(project, inbox, span):
            for judged in page:
                await self._problem(project, inbox, judged)
            span = span.rest(page[-1].place)

    async def _unlike(
        self, project: str, inbox: _Inbox, name: str, holding: Holding | None
    ) -> tuple[Sequence, str] | None:
        """How what is known of who holds a datum differs from an inbox, and the entry to name."""
        known, unseen = inbox.known.get(name), inbox.unseen.get(name)
        place = known.place if known is not None else unseen.place if unseen is not None else None
        if place is None:
            return None
        if holding is None:
            return place, f"it is not known that the agent was sent {name}"
        if unseen is not None and holding.first > unseen.decision.revision:
            change = unseen.decision.change.name
            return unseen.place, f"{change} of {name}, which it was not sent before"
        if known is None:
            return None
        if holding.last < known.revision:
            return place, f"it is known to hold revision {holding.last} of {name}, an earlier one"
        if holding.last == known.revision and holding.held != known.held:
            holds = "holds" if holding.held else "does not hold"
            return place, f"it is known that it {holds} {name}"
        if holding.last > known.revision and not await self._is_own(
            project, inbox.subscriber.agent.agent_id, name, holding.last
        ):
            return place, f"it is known to hold revision {holding.last} of {name}, a later one"
        return None

    async def _is_own(self, project: str, agent_id: str, name: str, revision: int) -> bool:
        """Whether an agent published a revision itself, and so may not have been sent it."""
        state = (await self._engine.state.latest(project, [name])).get(name)
        if state is None or state.revision < revision:
            return False
        return await self._own_since(project, agent_id, state.sequence, revision - 1)

    async def _own_since(
        self, project: str, agent_id: str, sequence: Sequence | None, revision: int
    ) -> bool:
        """Whether one of the events of a datum from one on back to a revision, without that, was
        published by an agent. One that can't be read any more may have been."""
        while sequence is not None:
            (entry,) = await self.reader.log.get(project, [sequence])
            if entry is None:
                return True
            event = event_codec.decode(entry)
            if event.revision <= revision:
                return False
            if event.publisher == agent_id:
                return True
            sequence = event.previous_sequence
        return False


def _finding(agent_id: str, place: Sequence, problem: str) -> DeliveryFinding:
    number = entry_of(place)
    which = f" (delivery {number} of it)" if number else ""
    return DeliveryFinding(f"{agent_id} {event_of(place)}", f"{problem}{which}")


def _of_service(event: Event) -> bool:
    """Whether an event is no revision of a datum, whatever its key."""
    return event.event_type in SERVICE_TYPES


def _of_event(decision: Decision, event: Event) -> str:
    """What a delivery says of its event that is not so."""
    if (decision.data_key, decision.revision) != (event.data_key, event.revision):
        said = f"revision {decision.revision} of {decision.data_key}"
        return f"it is of {said}, the event of revision {event.revision} of {event.data_key}"
    expires = event.event_type == DATA_EXPIRED
    match decision.change:
        case Change.DELETED:
            follows = event.deletes and not expires
        case Change.EXPIRED:
            follows = expires
        case Change.LEFT:
            follows = not event.deletes and not decision.matches
        case _:
            follows = not event.deletes
    return "" if follows else f"{decision.change.name} of an event of type {event.event_type}"


def _of_needs(agent: Agent, decision: Decision, event: Event) -> str:
    """What a delivery says of needs that can't be, as far as its record and the agent tell."""
    filters = {need.id: need for need in agent.needs if need.filter is not None}
    for match in decision.matches:
        if match.exact:
            need = filters.get(match.need_id)
            # Of what was erased since, it isn't known.
            if need is not None and event.erased is None and not need.passes(event):
                return f"{match.need!r:.60} does not let it pass"
        else:
            updates = decision.change is Change.UPDATED
            least = lowest(match.threshold) if updates else match.threshold
            if match.score < least - _TOLERANCE:
                return f"{match.need!r:.60} scores {match.score:.4f}, and needs {least:.4f}"
    if decision.change is Change.MATCHED and not decision.matches:
        return "MATCHED, and no need is met"
    return ""


def _follow(inbox: _Inbox, place: Sequence, decision: Decision) -> tuple[str, bool]:
    """Adds a delivery to what its agent knows; returns what does not follow from that, and whether
    an event that the agent published itself, and was not told of, would account for it."""
    name, change, revision = decision.data_key, decision.change, decision.revision
    known = inbox.known.get(name)
    if change is Change.ERASED:
        # What it was sent later stays.
        if known is not None and known.revision <= revision:
            inbox.known[name] = _Known(place, revision, held=False)
        return "", False
    held = change in (Change.MATCHED, Change.UPDATED)
    inbox.known[name] = _Known(place, revision, held)
    if known is None:
        if change in (Change.UPDATED, Change.LEFT):
            inbox.unseen.setdefault(name, _Unseen(place, decision))
        return "", False
    again = revision == known.revision and not entry_of(place)
    if revision < known.revision or again:
        return f"revision {revision} of {name} after {known.revision}", False
    if known.held and change is Change.MATCHED:
        return f"MATCHED of {name}, which it holds", True
    if not known.held and change in (Change.UPDATED, Change.LEFT, Change.WITHHELD):
        return f"{change.name} of {name}, which it does not hold", True
    return "", False


def _worded(decision: Decision) -> list[Match]:
    """The needs in words that were met by an absolute score; a relative one depends on what the
    data were at that moment."""
    return [m for m in decision.matches if not m.exact and is_absolute(m.model)]


def _judges(index: Index, match: Match) -> bool:
    """Whether an index judges by what a match was judged by."""
    by = (match.model, match.scorer, match.background_as_of, match.background_passages)
    return index.judges_by == by


def _asking(agent: Agent, needs: list[Need]) -> Agent:
    """An agent with these needs alone."""
    return Agent(agent.agent_id, tuple(needs), _LOWEST, 1, 0, 0)
