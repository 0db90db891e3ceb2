"""Descriptions carry over: an update without one keeps the one that its datum has.

A publish is described and embedded before it is appended, so what its data's descriptions are is
assumed here: as this process left or found them, otherwise as the store has them. The function
that appends compares, in the order of the log; see docs/adr/0020.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple

from contex_server.kernel import event_codec
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.model import SUBJECT, Append, NewEvent, Sequence
from contex_server.log.port import DescriptionStore, EventLog

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


class Descriptions:
    """What the descriptions of data are taken to be."""

    def __init__(self, log: EventLog, store: DescriptionStore) -> None:
        self._log = log
        self._store = store
        self._known: dict[tuple[str, str], Current] = {}
        self._bytes = 0

    async def carry(self, append: Append, *, afresh: bool = False) -> None:
        """Gives each event that carries its datum's description that one, and tells for each
        what the append depends on and what it leaves.

        Args:
            afresh: Ask the store for every key: what was assumed is wrong.

        Raises:
            ContexError: STORE_UNAVAILABLE, ARCHIVE_UNAVAILABLE.
        """
        project, known = append.project, self._known
        keys = {
            event.data_key
            for event in append.events
            if event.carries and (afresh or (project, event.data_key) not in known)
        }
        learnt = await self._read(project, keys) if keys else {}
        planned: dict[str, Current] = {}
        for event in append.events:
            key = event.data_key
            if not key:
                continue
            current = _NONE
            if event.carries:
                found = planned.get(key) or learnt.get(key) or known.get((project, key))
                current = _carry(event, found or _NONE)
            elif not event.tombstone and event.description:
                current = Current(event.description, event.subject)
            event.described = current.stored
            planned[key] = current

    def appended(self, append: Append) -> None:
        """Remembers what an append has left."""
        project, known = append.project, self._known
        for event in append.events:
            key = event.data_key
            if not key:
                continue
            place, text = (project, key), "" if event.tombstone else event.description
            before = known.get(place)
            if before is None or before.text != text or (text and before.subject != event.subject):
                self._keep(place, Current(text, event.subject) if text else _NONE)

    def _keep(self, place: tuple[str, str], current: Current) -> None:
        known = self._known
        before = known.pop(place, None)
        if before is not None:
            self._bytes -= _size(before)
        known[place] = current
        self._bytes += _size(current)
        while self._bytes > _KNOWN_BYTES:
            self._bytes -= _size(known.pop(next(iter(known))))

    async def _read(self, project: str, keys: Iterable[str]) -> dict[str, Current]:
        """The descriptions as the store has them, or else the keys' latest events."""
        learnt: dict[str, Current] = {}
        unknown: dict[Sequence, str] = {}
        for key, (stored, latest) in (await self._store.of_keys(project, keys)).items():
            if stored is not None and stored[:1] != "D":
                learnt[key] = Current(stored[1:])
                self._keep((project, key), learnt[key])
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
