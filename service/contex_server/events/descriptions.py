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
        latest: The datum's latest event, where only that tells the description.
    """

    text: str = ""
    subject: str = ""
    latest: str = ""

    @property
    def stored(self) -> str:
        """As the store keeps it: one that is sealed only in a form that compares."""
        if not self.text or not self.subject:
            return self.text and f"T{self.text}"
        both = f"{self.subject}\0{self.text}".encode()
        return f"D{b64encode(blake2b(both, digest_size=12).digest()).decode()}"


_NONE = Current()
_NOTHING: Mapping[str, KeyDescription] = {}


class Descriptions:
    """What the descriptions of data are taken to be."""

    def __init__(self, log: EventLog, store: DescriptionStore) -> None:
        self._log = log
        self._store = store
        # By key and project, with what the store then keeps; the first were changed longest ago.
        self._known: dict[tuple[str, str], tuple[str, Current]] = {}
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
            key, text, subject = event.data_key, event.description, event.subject
            if event.carries:
                found = planned.get(key) or learnt.get(key)
                if found is None and (remembered := known.get((key, project))):
                    found = remembered[1]
                planned[key] = current = _carry(event, found or _NONE)
                event.described = current.stored
            elif key:
                if event.tombstone or not text:
                    event.described = ""
                elif not subject:
                    event.described = f"T{text}"
                else:
                    event.described = Current(text, subject).stored
                if carries:
                    planned[key] = Current(text, subject) if event.described else _NONE

    def appended(self, append: Append) -> None:
        """Remembers what an append has left."""
        project, known = append.project, self._known
        for event in append.events:
            if key := event.data_key:
                described, place = event.described, (key, project)
                before = known.get(place)
                if before is None or before[0] != described:
                    text = event.description if described else ""
                    self._keep(place, described, Current(text, event.subject if text else ""))

    def _keep(self, place: tuple[str, str], described: str, current: Current) -> None:
        known = self._known
        if before := known.pop(place, None):
            self._bytes -= _size(before[1])
        known[place] = described, current
        self._bytes += _size(current)
        while self._bytes > _KNOWN_BYTES:
            self._bytes -= _size(known.pop(next(iter(known)))[1])

    async def _learn(self, project: str, told: Mapping[str, KeyDescription]) -> dict[str, Current]:
        """The descriptions that the store has told, and from their latest events, others."""
        learnt: dict[str, Current] = {}
        unknown: dict[Sequence, str] = {}
        for key, (stored, latest) in told.items():
            if stored is not None and stored[:1] != "D":
                learnt[key] = Current(stored[1:])
                self._keep((key, project), stored, learnt[key])
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
                current = Current(event.description, subject, str(place))
            found.append((place, current))
        return found


def _carry(event: NewEvent, found: Current) -> Current:
    """Gives an event the description that was found, and returns what its datum has then.

    What is sealed for a person stays in events that are sealed for that person.
    """
    event.description = found.text if found.subject in ("", event.subject) else ""
    current = Current(event.description, event.subject) if event.description else _NONE
    if found.latest:
        event.was = f"@{found.latest}"
    else:
        stored = found.stored
        event.was = "=" if stored == current.stored else stored
    return current


def _size(current: Current) -> int:
    return _ENTRY_BYTES + 2 * len(current.text)
