"""Places in an agent's inbox.

An inbox is a stream whose entries have ids that follow from what brought them: entry 0 of an event
is that event itself, as far as it concerns the agent. Some events bring many deliveries: a
registration brings what matches its needs by then, an erasure a notice for each datum. These are
entries 1, 2, … of that event. So an id is an event's sequence with the number of the entry, and
writing an entry again changes nothing. Ids are `Sequence`s in order to be compared with each other;
`{ms}-{n}` of an event becomes `{ms}-{n * 2^20 + entry}`.
"""

from __future__ import annotations

from contex_server.kernel.model import BEGINNING, END_OF_TIME, Proven, Sequence

_BITS = 20
_sequence = tuple.__new__
LAST_ENTRY = (1 << _BITS) - 1
"""The most that an event can bring one agent."""
LAST_N = (1 << 64 - _BITS) - 1
"""The greatest second part of a sequence that keeps its place; greater ones count as this one."""


def inbox_id(event: Sequence, entry: int = 0) -> Sequence:
    """The place of an entry of an event; keeps the event's proof."""
    if event == END_OF_TIME:
        return END_OF_TIME
    place = Sequence(event.ms, min(event.n, LAST_N) << _BITS | entry)
    return Proven.of(place, event.proof) if isinstance(event, Proven) else place


def last_place(event: Sequence) -> Sequence:
    """The place after which nothing comes that an event brings; keeps the event's proof."""
    return inbox_id(event, LAST_ENTRY)


def event_of(place: Sequence) -> Sequence:
    """The event whose entry is at a place; keeps its proof."""
    event = _sequence(Sequence, (place[0], place[1] >> _BITS))
    return Proven.of(event, place.proof) if type(place) is Proven else event


def decided_upto(place: Sequence) -> Sequence:
    """The last event of which an inbox that is known up to a place has all that it brings."""
    event = event_of(place)
    return event if event == BEGINNING or place == last_place(event) else event.prev()


def kept_place(acknowledged: Sequence, inside: Sequence | None) -> Sequence:
    """Where an agent goes on that has acknowledged an event; `inside`, if it is of that event, is
    the part of what that brought up to which it has."""
    if inside is not None and event_of(inside) == acknowledged:
        return inside
    return inbox_id(acknowledged)


def entry_of(place: Sequence) -> int:
    """The number of the entry at a place."""
    return place.n & LAST_ENTRY
