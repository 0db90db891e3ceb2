"""What `StateService` answers: states, differences, histories; frozen dataclasses."""

from __future__ import annotations

import enum
import json
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .values import Event


@dataclass(frozen=True, slots=True)
class Moment:
    """The moment that an answer is as of.

    Attributes:
        sequence: The newest event that counts; `"0-0"` where there was none yet.
        time: The instant that was meant (UTC).
    """

    sequence: str
    time: datetime


@dataclass(frozen=True, slots=True)
class Datum:
    """A datum at a moment.

    Attributes:
        data_key: Its key.
        sequence: Its latest event.
        revision: How many events it has had.
        deleted: Whether the latest deleted it.
        event: The latest event; None where only keys were asked for.
        payload_omitted: True if the payload was too large for the answer.
    """

    data_key: str
    sequence: str
    revision: int
    deleted: bool
    event: Event | None = None
    payload_omitted: bool = False


class PatchOmitted(enum.Enum):
    """Why there is no patch although the payloads differ."""

    BINARY = "binary"
    """One of the payloads is no text."""
    TOO_LARGE = "too_large"
    """One of the payloads is larger than 256 KiB."""
    TRIMMED = "trimmed"
    """The event before can no longer be read."""
    OTHER = "other"
    """For a reason that this client does not know."""


@dataclass(frozen=True, slots=True)
class Patch:
    """What leads from one payload to another; all None where they are equal.

    Attributes:
        json_patch: Between JSON payloads: a JSON Patch (RFC 6902), as JSON.
        unified_diff: Between other texts.
        omitted: Why there is neither.
    """

    json_patch: str | None = None
    unified_diff: str | None = None
    omitted: PatchOmitted | None = None

    @property
    def operations(self) -> list[dict[str, Any]]:
        """The operations of the JSON Patch; empty if it is none."""
        found: list[dict[str, Any]] = json.loads(self.json_patch or "[]")
        return found


@dataclass(frozen=True, slots=True)
class State:
    """A project's data at a moment: iterate over it, or ask for a key.

    Attributes:
        data: In the order of their keys.
        as_of: The moment.
    """

    data: tuple[Datum, ...]
    as_of: Moment

    def __iter__(self) -> Iterator[Datum]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, data_key: str) -> Datum:
        """The datum of a key.

        Raises:
            KeyError: It is not there.
        """
        place = self._place(data_key)
        if place is None:
            raise KeyError(data_key)
        return self.data[place]

    def __contains__(self, data_key: object) -> bool:
        if isinstance(data_key, str):
            return self._place(data_key) is not None
        return data_key in self.data

    def _place(self, data_key: str) -> int | None:
        # Keys are ASCII: their bytes have the order of their characters.
        place = bisect_left(self.data, data_key, key=lambda datum: datum.data_key)
        found = place < len(self.data) and self.data[place].data_key == data_key
        return place if found else None


class ChangeKind(enum.Enum):
    """What happened to a datum between two moments."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Change:
    """A datum that differs between two moments.

    Attributes:
        kind: How.
        data_key: Its key.
        before: As it was; None where it was not there.
        after: As it is; None where it is not there.
        patch: From before to after, where both are there.
    """

    kind: ChangeKind
    data_key: str
    before: Datum | None
    after: Datum | None
    patch: Patch | None = None


@dataclass(frozen=True, slots=True)
class StateDiff:
    """What differs between two moments.

    Attributes:
        changes: By key.
        base: The earlier moment.
        target: The later one.
        added: How many data were added, ...
        removed: ... removed, ...
        changed: ... and changed.
    """

    changes: tuple[Change, ...]
    base: Moment
    target: Moment
    added: int
    removed: int
    changed: int


@dataclass(frozen=True, slots=True)
class Revision:
    """One event of a data key, in its history.

    Attributes:
        event: The event.
        time: When it was appended (UTC).
        patch: From the revision before to this one, where both have a payload.
        payload_omitted: True if the payload was left out.
    """

    event: Event
    time: datetime
    patch: Patch | None = None
    payload_omitted: bool = False


@dataclass(frozen=True, slots=True)
class BlamedPart:
    """A part of a datum, and the event that made it what it is.

    Attributes:
        path: A JSON pointer; in text, the number of the line.
        value: The value as JSON, or the line.
        sequence: The event that set it last.
        revision: Its revision.
        time: When that was (UTC).
        publisher: Who published it.
    """

    path: str
    value: str
    sequence: str
    revision: int
    time: datetime
    publisher: str


@dataclass(frozen=True, slots=True)
class Blame:
    """Who set what in a datum.

    Attributes:
        event: The datum's latest event.
        parts: In the order of the payload.
        as_of: The moment.
        truncated: True where the walk back ended before every part was found.
    """

    event: Event
    parts: tuple[BlamedPart, ...]
    as_of: Moment
    truncated: bool = False
