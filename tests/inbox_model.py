"""What agents' inboxes must hold, from the log and their registrations alone.

It shares no code with the server: each inbox is computed by going through the whole log once, with
what the agent was told of each datum in a dict. Payloads are `{"t": text, ...}`: the text is what
needs are compared with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from contex.v1 import event_pb2

MATCHED, UPDATED, LEFT, DELETED, EXPIRED = "MATCHED", "UPDATED", "LEFT", "DELETED", "EXPIRED"
ERASED = "ERASED"
NEEDS_CHANGED = "NEEDS_CHANGED"
_MARGIN = 0.05
_ENDS = {"data_deleted": DELETED, "data_expired": EXPIRED}

Score = Callable[[str, str], float]
"""Of a need and a text."""


class Told(NamedTuple):
    """A delivery: what it tells, the event, its key and revision, and the needs that were met."""

    kind: str
    sequence: str = ""
    data_key: str = ""
    revision: int = 0
    needs: tuple[int, ...] = ()


class Filter(NamedTuple):
    """An exact need: each part that is not empty must fit; keys are globs."""

    keys: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    publishers: tuple[str, ...] = ()

    def passes(self, event: event_pb2.Event) -> bool:
        """Whether an event about data, or of a publisher's own type, is asked for."""
        return (
            (not self.keys or any(fnmatchcase(event.data_key, glob) for glob in self.keys))
            and (not self.types or event.event_type in self.types)
            and (not self.publishers or event.publisher in self.publishers)
        )


Need = str | Filter


@dataclass(frozen=True)
class Spec:
    """A registration as it was asked for.

    Attributes:
        needs: Texts with their thresholds, and filters.
        min_delta: Pointers, "" for the whole payload; None: everything is pushed.
        after: last_seen_sequence.
    """

    needs: tuple[tuple[Need, float], ...]
    min_delta: tuple[str, ...] | None = None
    muted: frozenset[str] = frozenset()
    exclude_own: bool = False
    after: str | None = None


class Held(NamedTuple):
    """A datum that an agent takes to be there.

    Attributes:
        text: As it was last told.
        exact: Whether it met filters alone.
    """

    text: str
    exact: bool


@dataclass
class Inbox:
    """The inbox of an agent, from one registration until it is unregistered, or asks for more of
    the past than its inbox has.

    Attributes:
        begin: The sequence to read from in order to get all of it.
        registrations: How many there are of it.
        places: For each delivery the event that brought it.
        held: What the agent takes to be there.
        sent: The first and the last revision of each datum that it was sent, or published itself.
        is_over: Whether nothing more is added.
    """

    begin: str
    registrations: int
    told: list[Told] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    held: dict[str, Held] = field(default_factory=dict)
    sent: dict[str, tuple[int, int]] = field(default_factory=dict)
    is_over: bool = False


def order(sequence: str) -> tuple[int, int]:
    """A sequence as it compares."""
    first, _, second = sequence.partition("-")
    return int(first), int(second or 0)


def inboxes(
    log: Iterable[event_pb2.Event], agent_id: str, specs: Iterable[Spec], score: Score
) -> list[Inbox]:
    """All inboxes that an agent of this id has had; `specs` are its registrations in turn."""
    events, each, found = list(log), iter(specs), list[tuple[int, dict[str, Spec]]]()
    over: dict[int, str] = {}
    registered = False
    for place, event in enumerate(events):
        if event.event_type not in ("agent_registered", "agent_unregistered"):
            continue
        if json.loads(event.payload)["agent_id"] != agent_id:
            continue
        if event.event_type == "agent_unregistered":
            over[len(found) - 1] = event.sequence
            registered = False
            continue
        spec = next(each)
        if (
            registered
            and spec.after is not None
            and order(spec.after) < order(_begin(found[-1][1]))
        ):
            over[len(found) - 1] = event.sequence
            registered = False
        if not registered:
            found.append((place, {}))
            registered = True
        found[-1][1][event.sequence] = spec
    assert next(each, None) is None, "a registration is not in the log"
    return [
        _inbox(events, agent_id, events[place].sequence, regs, over.get(number), score)
        for number, (place, regs) in enumerate(found)
    ]


def _begin(registrations: dict[str, Spec]) -> str:
    """Where an inbox begins that has these registrations."""
    first, spec = next(iter(registrations.items()))
    return first if spec.after is None else spec.after


def _inbox(
    events: list[event_pb2.Event],
    agent_id: str,
    first: str,
    registrations: dict[str, Spec],
    over: str | None,
    score: Score,
) -> Inbox:
    spec = registrations[first]
    inbox = Inbox(_begin(registrations), len(registrations), is_over=over is not None)
    erasures = {
        json.loads(event.payload)["request_id"]: event.sequence
        for event in events
        if event.event_type == "data_erased"
    }
    latest: dict[str, event_pb2.Event] = {}
    now = first  # What was erased before the agent began is judged without its payload.

    def seen(event: event_pb2.Event) -> event_pb2.Event:
        if event.HasField("erased") and order(erasures[event.erased.request_id]) > order(now):
            event = event_pb2.Event.FromString(event.SerializeToString())
            event.ClearField("erased")
        return event

    for event in events:
        now = max(now, event.sequence, key=order)
        if event.sequence == over:
            break
        if event.sequence == first:
            if spec.after is None:
                _step(inbox, event.sequence, agent_id, spec, map(seen, latest.values()), score)
        elif event.sequence in registrations:
            before, spec = spec, registrations[event.sequence]
            if before.needs != spec.needs:
                inbox.told.append(Told(NEEDS_CHANGED))
                inbox.places.append(event.sequence)
                _step(inbox, event.sequence, agent_id, spec, map(seen, latest.values()), score)
        elif event.event_type == "data_erased":
            if order(event.sequence) > order(inbox.begin):
                _erase(inbox, event)
        elif is_fact(event):
            if order(event.sequence) > order(inbox.begin):
                before_it = latest.get(event.data_key)
                previous = None if before_it is None else seen(before_it)
                _judge(inbox, seen(event), previous, agent_id, spec, score)
            if event.data_key:
                latest[event.data_key] = event
    return inbox


def is_fact(event: event_pb2.Event) -> bool:
    """Whether an event is a publisher's, or ends a datum."""
    return event.event_type in ("data_published", "note", *_ENDS)


def payload_of(event: event_pb2.Event) -> Mapping[str, Any]:
    """What was published; nothing of what is erased."""
    if event.HasField("erased"):
        return {}
    payload: dict[str, Any] = json.loads(event.payload)
    return payload


def text_of(event: event_pb2.Event) -> str:
    """What needs in words are compared with."""
    return str(payload_of(event).get("t", ""))


def near(spec: Spec, event: event_pb2.Event, score: Score) -> tuple[int, ...]:
    """The needs that an event meets with the margin."""
    return _meeting(spec, event, score, lambda level: level - min(_MARGIN, level / 3))


def met(spec: Spec, event: event_pb2.Event, score: Score) -> tuple[int, ...]:
    """The needs that an event meets."""
    return _meeting(spec, event, score, lambda level: level)


def _meeting(
    spec: Spec, event: event_pb2.Event, score: Score, least: Callable[[float], float]
) -> tuple[int, ...]:
    text = "" if event.event_type in _ENDS else text_of(event)
    return tuple(
        number
        for number, (need, threshold) in enumerate(spec.needs)
        if (
            need.passes(event)
            if isinstance(need, Filter)
            else text and score(need, text) >= least(threshold)
        )
    )


def _are_filters(spec: Spec, needs: tuple[int, ...]) -> bool:
    return bool(needs) and all(isinstance(spec.needs[number][0], Filter) for number in needs)


def _is_own(spec: Spec, event: event_pb2.Event, agent_id: str) -> bool:
    return spec.exclude_own and event.publisher == agent_id


def _tell(inbox: Inbox, at: str, kind: str, event: event_pb2.Event, needs: Any = ()) -> None:
    inbox.told.append(Told(kind, event.sequence, event.data_key, event.revision, tuple(needs)))
    inbox.places.append(at)


def _note(inbox: Inbox, event: event_pb2.Event, held: Held | None) -> None:
    """What the agent was sent of a datum, and whether it takes that to be there."""
    key = event.data_key
    if not key:
        return
    inbox.sent[key] = inbox.sent.get(key, (event.revision,))[0], event.revision
    if held is None:
        inbox.held.pop(key, None)
    else:
        inbox.held[key] = held


def _step(
    inbox: Inbox,
    at: str,
    agent_id: str,
    spec: Spec,
    latest: Iterable[event_pb2.Event],
    score: Score,
) -> None:
    """What needs bring at once, and what they let go."""
    for event in sorted(latest, key=lambda event: order(event.sequence)):
        key = event.data_key
        if event.event_type in _ENDS:
            continue
        is_there = not event.HasField("erased")
        if key in inbox.held:
            if is_there and near(spec, event, score):
                exact = _are_filters(spec, met(spec, event, score))
                inbox.held[key] = inbox.held[key]._replace(exact=exact)
            elif LEFT not in spec.muted:
                _note(inbox, event, None)
                _tell(inbox, at, LEFT, event)
        elif is_there and (needs := met(spec, event, score)):
            _note(inbox, event, Held(text_of(event), _are_filters(spec, needs)))
            if not _is_own(spec, event, agent_id):
                _tell(inbox, at, MATCHED, event, needs)


def _judge(
    inbox: Inbox,
    event: event_pb2.Event,
    previous: event_pb2.Event | None,
    agent_id: str,
    spec: Spec,
    score: Score,
) -> None:
    own, before = _is_own(spec, event, agent_id), inbox.held.get(event.data_key)
    if event.event_type in _ENDS:
        kind, needs = _ENDS[event.event_type], met(spec, event, score)
        if before is None and (own or not needs):
            return
    elif before is None:
        kind, needs = MATCHED, met(spec, event, score)
        if not needs:
            return
    else:
        needs = (met if before.exact else near)(spec, event, score)
        same = not event.HasField("erased") and before.text == text_of(event)
        stays = same and not before.exact
        if not needs and not stays:
            kind = LEFT
        elif own or not _is_held_back(spec, previous, event):
            kind = UPDATED
        else:
            return
    if kind in spec.muted and not own:
        return
    if kind in (MATCHED, UPDATED):
        exact = _are_filters(spec, needs) and not (kind == UPDATED and stays)
        _note(inbox, event, Held(text_of(event), exact))
    else:
        _note(inbox, event, None)
    if not own:
        _tell(inbox, event.sequence, kind, event, needs)


def _erase(inbox: Inbox, event: event_pb2.Event) -> None:
    for key, (first, last) in sorted(json.loads(event.payload)["data"].items()):
        if key not in inbox.sent:
            continue
        sent_first, sent_last = inbox.sent[key]
        if sent_first > last or sent_last < first:
            continue
        if sent_last <= last:
            inbox.held.pop(key, None)
        inbox.told.append(Told(ERASED, event.sequence, key, min(last, sent_last)))
        inbox.places.append(event.sequence)


def _is_held_back(
    spec: Spec,
    before: event_pb2.Event | None,
    event: event_pb2.Event,
) -> bool:
    if spec.min_delta is None or before is None or before.event_type in _ENDS:
        return False
    if text_of(before) != text_of(event):
        return False
    one, other = payload_of(before), payload_of(event)
    if "" in spec.min_delta:
        return bool(one == other)
    return all(one.get(p[1:]) == other.get(p[1:]) for p in spec.min_delta)


def told(item: event_pb2.MatchedEvent) -> Told:
    """A delivery as it came."""
    kind = event_pb2.MatchKind.Name(item.kind).removeprefix("MATCH_KIND_")
    event = item.event
    needs = tuple(sorted(match.need_index for match in item.matches))
    return Told(kind, event.sequence, event.data_key, event.revision, needs)


def fold(deliveries: Iterable[Told]) -> dict[str, int]:
    """What an agent holds that keeps the last delivery of each key: revisions by key."""
    held: dict[str, int] = {}
    for each in deliveries:
        if each.kind in (MATCHED, UPDATED) and each.data_key:
            held[each.data_key] = each.revision
        elif each.kind != ERASED or held.get(each.data_key, 0) <= each.revision:
            held.pop(each.data_key, None)
    return held
