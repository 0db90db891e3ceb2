"""Values of `contex.v1.StateService`: states, differences and histories."""

from __future__ import annotations

import enum
import json
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from . import events
from .events import Event, Moment
from .lazy import state_service_pb2, wire


@dataclass(frozen=True, slots=True)
class Datum:
    """A datum at a moment.

    Attributes:
        sequence: Its latest event.
        revision: Number of events it has had.
        deleted: Whether the latest event deleted it.
        event: The latest event; None if only keys were requested.
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
    """One of the payloads is not text."""
    TOO_LARGE = "too_large"
    """One of the payloads is larger than 256 KiB."""
    TRIMMED = "trimmed"
    """The previous event can no longer be read."""
    OTHER = "other"
    """A reason that this client does not know."""


@dataclass(frozen=True, slots=True)
class Patch:
    """The difference between two payloads; all None if they are equal.

    Attributes:
        json_patch: Between JSON payloads: a JSON Patch (RFC 6902), as JSON.
        unified_diff: Between other texts: a unified diff.
        omitted: Why there is neither.
    """

    json_patch: str | None = None
    unified_diff: str | None = None
    omitted: PatchOmitted | None = None

    @property
    def operations(self) -> list[dict[str, Any]]:
        """The operations of the JSON Patch; empty if there is none."""
        found: list[dict[str, Any]] = json.loads(self.json_patch or "[]")
        return found


@dataclass(frozen=True, slots=True)
class State:
    """A project's data at a moment: iterate over it, or look up a key.

    Attributes:
        data: The data, in the order of their keys.
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
            KeyError: The key has no datum.
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
        # Keys are ASCII, so their bytes sort like their characters.
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
        before: The datum before; None if there was none.
        after: The datum after; None if there is none.
        patch: From before to after, if there are both.
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
        changes: The data that differ, by key.
        added: Number of data that were added.
        removed: Number of data that were removed.
        changed: Number of data that were changed.
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
        time: When it was appended (UTC).
        patch: From the previous revision to this one, if both have a payload.
        payload_omitted: True if the payload was left out.
    """

    event: Event
    time: datetime
    patch: Patch | None = None
    payload_omitted: bool = False


@dataclass(frozen=True, slots=True)
class BlamedPart:
    """A part of a datum, and the event that set it.

    Attributes:
        path: A JSON pointer; in a text, the number of the line.
        value: The value as JSON, or the line.
        sequence: The event that set it last.
        revision: That event's revision.
        time: When it was published (UTC).
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
        parts: The parts, in the order of the payload.
        truncated: True if the search through the history ended before every part was found.
    """

    event: Event
    parts: tuple[BlamedPart, ...]
    as_of: Moment
    truncated: bool = False


def state(pages: Sequence[state_service_pb2.GetStateResponse]) -> State:
    """The data of all pages."""
    return State(
        tuple(one for page in pages for one in wire.to_values(Datum, page.data)),
        events.moment(pages[0].as_of),
    )


def diff(pages: Sequence[state_service_pb2.DiffStatesResponse]) -> StateDiff:
    """The changes of all pages."""
    first = pages[0]
    return StateDiff(
        tuple(one for page in pages for one in wire.to_values(Change, page.changes)),
        events.moment(first.base),
        events.moment(first.target),
        first.added_count,
        first.removed_count,
        first.changed_count,
    )


class StateProgress:
    """How far a stream of a state has come, and how it resumes after a lost connection."""

    def __init__(self, request: state_service_pb2.StreamStateRequest) -> None:
        self.request = request
        self.as_of: Moment | None = None
        self.data_count = 0

    def take(self, message: state_service_pb2.StreamStateResponse) -> Iterator[Datum]:
        """The data of a message; the request asks for those after them from now on."""
        if self.as_of is None:  # resumed calls report the event's time, not the one asked for
            self.as_of = events.moment(message.as_of)
        self.data_count = message.data_count
        self.request.as_of.sequence = message.as_of.sequence
        if message.data:
            self.request.after_data_key = message.data[-1].data_key
        return iter([*wire.to_values(Datum, message.data)])
