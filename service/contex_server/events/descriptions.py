"""Descriptions carry over: an update without one keeps the one that its datum has.

A publish is described and embedded before it is appended, so what its data's descriptions are is
assumed here: as this process left or found them, otherwise as the store has them. The function
that appends compares, in the order of the log; see docs/adr/0020.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from hashlib import blake2b
from typing import NamedTuple

from contex_server.kernel import event_codec
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.model import SUBJECT, Append, NewEvent, Sequence
from contex_server.log.port import DescriptionStore, EventLog, KeyDescription

_KNOWN_BYTES = 16 * 1024 * 1024
_ENTRY_BYTES = 300
"""What an entry takes beside its description."""
_PAGE = 50
"""Events that are read together: each may have 1 MiB."""


class Current(NamedTuple):
    """The description that a datum is taken to have.

    Attributes:
        subject: The person whose data the event names that has it.
        stored: As the store keeps it: one that is sealed only in a form that compares.
        latest: The datum's latest event, where only that tells the description.
    """

    text: str = ""
    subject: str = ""
    stored: str = ""
    latest: str = ""


_NONE = Current()
_NOTHING: Mapping[str, KeyDescription] = {}


class Descriptions:
    """What the descriptions of data are taken to be."""

    def __init__(self, log: EventLog, store: DescriptionStore) -> None:
        self._log = log
        self._store = store
        # By key and project; the first were changed longest ago.
        self._known: dict[tuple[str, str], Current] = {}
        self._bytes = 0

    async def carry(self, append: Append, actual: Mapping[str, KeyDescription] = _NOTHING) -> None:
        """Gives each event that carries its datum's description that one, and tells for each
        what the append depends on and what it leaves.

        Args:
            actual: What the store says of keys that were taken for something else.

        Raises:
            ContexError: STORE_UNAVAILABLE, ARCHIVE_UNAVAILABLE.
        """
        project, known = append.project, self._known
        carries = {event.data_key for event in append.events if event.carries}
        unknown = [key for key in carries if (key, project) not in known and key not in actual]
        if unknown:
            actual = {**actual, **await self._store.of_keys(project, unknown)}
        learnt = await self._learn(project, actual) if actual else {}
        planned: dict[str, Current] = {}
        for event in append.events:
            key = event.data_key
            if event.carries:
                found = planned.get(key) or learnt.get(key) or known.get((key, project), _NONE)
                planned[key] = _carry(event, found, append.encrypted)
            elif key:
                text = "" if event.tombstone else event.description
                event.described = _stored(text, event.subject, append.encrypted)
                if carries:
                    planned[key] = Current(text, event.subject, event.described) if text else _NONE

    def appended(self, append: Append) -> None:
        """Remembers what an append has left."""
        project, known = append.project, self._known
        for event in append.events:
            if key := event.data_key:
                described, place = event.described, (key, project)
                before = known.get(place)
                if before is None or before.stored != described:
                    left = Current(event.description, event.subject, described)
                    self._keep(place, left if described else _NONE)

    def _keep(self, place: tuple[str, str], current: Current) -> None:
        known = self._known
        if before := known.pop(place, None):
            self._bytes -= _size(before)
        known[place] = current
        self._bytes += _size(current)
        while self._bytes > _KNOWN_BYTES:
            self._bytes -= _size(known.pop(next(iter(known))))

    async def _learn(self, project: str, told: Mapping[str, KeyDescription]) -> dict[str, Current]:
        """The descriptions that the store has told, and from their latest events, others."""
        learnt: dict[str, Current] = {}
        unknown: dict[Sequence, str] = {}
        for key, (stored, latest) in told.items():
            if stored is not None and stored[:1] != "D":
                learnt[key] = Current(stored[1:], stored=stored)
                self._keep((key, project), learnt[key])
            elif latest is not None:
                unknown[latest] = key
        places = list(unknown)
        for start in range(0, len(places), _PAGE):
            for place, found in await self._read_events(project, places[start : start + _PAGE]):
                learnt[unknown[place]] = found
        # These are not kept: an erasure would not be noticed.
        return learnt

    async def _read_events(
        self, project: str, places: list[Sequence]
    ) -> list[tuple[Sequence, Current]]:
        try:
            entries = await self._log.get(project, places)
        except ContexError as error:
            if error.reason is not Reason.KEY_UNAVAILABLE:
                raise
            if len(places) == 1:
                # What can't be opened here can't be carried over here either.
                return [(places[0], Current(latest=str(places[0])))]
            return [pair for each in places for pair in await self._read_events(project, [each])]
        found = []
        for place, entry in zip(places, entries, strict=True):
            current = Current(latest=str(place))
            if entry is not None:
                event = event_codec.decode(entry)
                subject = event.metadata.get(SUBJECT, "")
                stored = _stored(event.description, subject, False)
                current = Current(event.description, subject, stored, str(place))
            found.append((place, current))
        return found


def _carry(event: NewEvent, found: Current, encrypted: bool) -> Current:
    """Gives an event the description that was found, and returns what its datum has then.

    What is sealed for a person stays in events that are sealed for that person.
    """
    current = found
    plain = encrypted and found.stored[:1] == "T"  # Since the project was not encrypted then.
    if plain or found.latest or (found.text and found.subject != event.subject):
        text = "" if found.subject and found.subject != event.subject else found.text
        stored = _stored(text, event.subject, encrypted)
        current = Current(text, event.subject, stored) if text else _NONE
    event.description, event.described = current.text, current.stored
    if found.latest:
        event.was = f"@{found.latest}"
    else:
        event.was = "=" if found.stored == current.stored else found.stored
    return current


def _stored(text: str, subject: str, encrypted: bool) -> str:
    """A description as the store keeps it."""
    if not text or not (subject or encrypted):
        return text and f"T{text}"
    both = f"{subject}\0{text}".encode()
    return f"D{b64encode(blake2b(both, digest_size=12).digest()).decode()}"


def _size(current: Current) -> int:
    return _ENTRY_BYTES + 2 * len(current.text)
