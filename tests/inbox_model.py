"""What agents' inboxes must hold, from the log and their registrations alone.

It shares no code with the server: each inbox is computed by going through the whole log once, with
what the agent was told of each datum in a dict. Payloads are `{"t": text, ...}`: the text is what
needs are compared with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from contex.v1 import event_pb2

MATCHED, UPDATED, LEFT, DELETED, EXPIRED = "MATCHED", "UPDATED", "LEFT", "DELETED", "EXPIRED"
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


@dataclass(frozen=True)
class Spec:
    """A registration as it was asked for.

    Attributes:
        needs: Texts with their thresholds.
        min_delta: Pointers, "" for the whole payload; None: everything is pushed.
        after: last_seen_sequence.
    """

    needs: tuple[tuple[str, float], ...]
    min_delta: tuple[str, ...] | None = None
    muted: frozenset[str] = frozenset()
    exclude_own: bool = False
    after: str | None = None


@dataclass
class Inbox:
    """The inbox of an agent, from one registration until it is unregistered.

    Attributes:
        begin: The sequence to read from in order to get all of it.
        places: For each delivery the event that brought it.
        held: What the agent takes to be there, with the text that it was last told.
    """

    begin: str
    told: list[Told] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    held: dict[str, str] = field(default_factory=dict)
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
        if not registered:
            found.append((place, {}))
            registered = True
        found[-1][1][event.sequence] = next(each)
    assert next(each, None) is None, "a registration is not in the log"
    return [
        _inbox(events, agent_id, events[place].sequence, regs, over.get(number), score)
        for number, (place, regs) in enumerate(found)
    ]


def _inbox(
    events: list[event_pb2.Event],
    agent_id: str,
    first: str,
    registrations: dict[str, Spec],
    over: str | None,
    score: Score,
) -> Inbox:
    spec = registrations[first]
    inbox = Inbox(first if spec.after is None else spec.after, is_over=over is not None)
    latest: dict[str, event_pb2.Event] = {}
    for event in events:
        if event.sequence == over:
            break
        if event.sequence == first:
            if spec.after is None:
                _step(inbox, event.sequence, spec, latest, score)
        elif event.sequence in registrations:
            before, spec = spec, registrations[event.sequence]
            if before.needs != spec.needs:
                inbox.told.append(Told(NEEDS_CHANGED))
                inbox.places.append(event.sequence)
                _step(inbox, event.sequence, spec, latest, score)
        elif is_fact(event):
            if order(event.sequence) > order(inbox.begin):
                _judge(inbox, event, agent_id, spec, latest, score)
            if event.data_key:
                latest[event.data_key] = event
    return inbox


def is_fact(event: event_pb2.Event) -> bool:
    """Whether an event is a publisher's, or ends a datum."""
    return event.event_type in ("data_published", "note", *_ENDS)


def text_of(event: event_pb2.Event) -> str:
    """What needs are compared with."""
    return str(json.loads(event.payload)["t"])


def near(spec: Spec, text: str, score: Score) -> tuple[int, ...]:
    """The needs that a text meets with the margin."""
    return tuple(
        number
        for number, (need, threshold) in enumerate(spec.needs)
        if score(need, text) >= threshold - min(_MARGIN, threshold / 3)
    )


def met(spec: Spec, text: str, score: Score) -> tuple[int, ...]:
    """The needs that a text meets."""
    return tuple(n for n, (need, level) in enumerate(spec.needs) if score(need, text) >= level)


def _tell(inbox: Inbox, at: str, kind: str, event: event_pb2.Event, needs: Any = ()) -> None:
    inbox.told.append(Told(kind, event.sequence, event.data_key, event.revision, tuple(needs)))
    inbox.places.append(at)


def _step(
    inbox: Inbox, at: str, spec: Spec, latest: dict[str, event_pb2.Event], score: Score
) -> None:
    """What needs bring at once, and what they let go."""
    for key, event in sorted(latest.items(), key=lambda item: order(item[1].sequence)):
        if event.event_type in _ENDS:
            continue
        text = text_of(event)
        if key in inbox.held:
            if not near(spec, text, score) and LEFT not in spec.muted:
                del inbox.held[key]
                _tell(inbox, at, LEFT, event)
        elif needs := met(spec, text, score):
            inbox.held[key] = text
            _tell(inbox, at, MATCHED, event, needs)


def _judge(
    inbox: Inbox,
    event: event_pb2.Event,
    agent_id: str,
    spec: Spec,
    latest: dict[str, event_pb2.Event],
    score: Score,
) -> None:
    key, own = event.data_key, spec.exclude_own and event.publisher == agent_id
    kind, needs = "", tuple[int, ...]()
    if event.event_type in _ENDS:
        if key in inbox.held:
            kind = _ENDS[event.event_type]
    elif not key or key not in inbox.held:
        if needs := met(spec, text_of(event), score):
            kind = MATCHED
    else:
        text = text_of(event)
        needs = near(spec, text, score)
        if not needs and inbox.held[key] != text:
            kind = LEFT
        elif own or not _is_held_back(spec, latest[key], event):
            kind = UPDATED
    if not kind or (kind in spec.muted and not own):
        return
    if kind in (MATCHED, UPDATED) and key:
        inbox.held[key] = text_of(event)
    else:
        inbox.held.pop(key, None)
    if not own:
        _tell(inbox, event.sequence, kind, event, needs)


def _is_held_back(spec: Spec, before: event_pb2.Event, event: event_pb2.Event) -> bool:
    if spec.min_delta is None or before.event_type in _ENDS or text_of(before) != text_of(event):
        return False
    one, other = json.loads(before.payload), json.loads(event.payload)
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
        elif each.kind != NEEDS_CHANGED:
            held.pop(each.data_key, None)
    return held
