# Generated from protos/ by `make generate`.

"""The values of `contex.state` that stand for messages."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from contex._values.events import (
    Event,
    Moment,
    event,
    moment,
)
from contex.methods import (
    PatchMethods,
    StateMethods,
)

if TYPE_CHECKING:
    from contex.v1 import (
        state_service_pb2,
    )

__all__ = [
    "Blame",
    "BlamedPart",
    "Change",
    "ChangeKind",
    "Datum",
    "Patch",
    "PatchOmitted",
    "Revision",
    "State",
    "StateDiff",
    "blame",
    "blamed_part",
    "change",
    "datum",
    "patch",
    "revision",
    "state",
    "state_diff",
]


@dataclass(frozen=True, slots=True)
class Datum:
    """A datum at a moment.

    Attributes:
        data_key: Its key.
        sequence: Its latest event.
        revision: Number of events that the key has had.
        deleted: Whether the latest event is a deletion or an expiry.
        event: The latest event. None with `keys_only`, or if it can no longer be read.
        payload_omitted: True if the payload was left out because the response would have grown
            beyond 2 MiB; read it with `get_event`.
    """

    data_key: str
    sequence: str
    revision: int
    deleted: bool
    event: Event | None = None
    payload_omitted: bool = False


def datum(message: state_service_pb2.Datum) -> Datum:
    """The `Datum` of a message."""
    return Datum(
        data_key=message.data_key,
        sequence=message.sequence,
        revision=message.revision,
        deleted=message.deleted,
        event=event(message.event) if message.HasField("event") else None,
        payload_omitted=message.payload_omitted,
    )


class PatchOmitted(enum.Enum):
    """Why a patch was omitted."""

    BINARY = "binary"
    """One of the payloads is not text."""
    TOO_LARGE = "too_large"
    """One of the payloads is larger than 256 KiB."""
    TRIMMED = "trimmed"
    """The previous event can no longer be read."""
    ERASED = "erased"
    """One of the payloads was erased, or removed by the project's retention: see `Event.erased`."""
    OTHER = "other"
    """One that a newer server has added.

    It can't be asked for.
    """


@dataclass(frozen=True, slots=True)
class Patch(PatchMethods):
    """The difference between two payloads.

    Attributes:
        json_patch: For JSON payloads: a JSON Patch (RFC 6902).
        unified_diff: For other text payloads: a unified diff with three lines of context.
        omitted: Why there is no patch although the payloads differ.
    """

    json_patch: str | None = None
    unified_diff: str | None = None
    omitted: PatchOmitted | None = None


def patch(message: state_service_pb2.Patch) -> Patch:
    """The `Patch` of a message."""
    return Patch(
        json_patch=message.json_patch if message.HasField("json_patch") else None,
        unified_diff=message.unified_diff if message.HasField("unified_diff") else None,
        omitted=_PATCH_OMITTEDS.get(message.omitted, PatchOmitted.OTHER)
        if message.omitted
        else None,
    )


class ChangeKind(enum.Enum):
    """What happened to a datum between two moments."""

    ADDED = "added"
    """The datum exists at the later moment but not at the earlier one."""
    REMOVED = "removed"
    """The datum exists at the earlier moment but not at the later one."""
    CHANGED = "changed"
    """The revisions differ.

    If the payload is the same, the patch is empty.
    """


@dataclass(frozen=True, slots=True)
class Change:
    """A datum that differs.

    Attributes:
        kind: What happened to it.
        data_key: Its key.
        before: The datum at the earlier moment. None if it did not exist.
        after: The datum at the later moment. None if it did not exist.
        patch: From `before` to `after`. None if one of them is None, or with omit_patches.
    """

    kind: ChangeKind
    data_key: str
    before: Datum | None
    after: Datum | None
    patch: Patch | None = None


def change(message: state_service_pb2.Change) -> Change:
    """The `Change` of a message."""
    return Change(
        kind=_CHANGE_KINDS[message.kind],
        data_key=message.data_key,
        before=datum(message.before) if message.HasField("before") else None,
        after=datum(message.after) if message.HasField("after") else None,
        patch=patch(message.patch) if message.HasField("patch") else None,
    )


@dataclass(frozen=True, slots=True)
class StateDiff:
    """What differs between two moments.

    Attributes:
        changes: The changes, ordered by the bytes of their keys.
        base: The earlier moment.
        target: The later moment.
        added: Number of data items added, on all pages together.
        removed: Number of data items removed, on all pages together.
        changed: Number of data items changed, on all pages together.
    """

    changes: tuple[Change, ...]
    base: Moment
    target: Moment
    added: int
    removed: int
    changed: int


def state_diff(message: state_service_pb2.DiffStatesResponse) -> StateDiff:
    """The `StateDiff` of a message."""
    return StateDiff(
        changes=tuple(map(change, message.changes)),
        base=moment(message.base),
        target=moment(message.target),
        added=message.added_count,
        removed=message.removed_count,
        changed=message.changed_count,
    )


@dataclass(frozen=True, slots=True)
class State(StateMethods):
    """A project's data at a moment: iterate over its `Datum`s, or look up one by its key.

    Attributes:
        data: The data, ordered by the bytes of their keys.
        as_of: The moment.
    """

    data: tuple[Datum, ...]
    as_of: Moment


def state(message: state_service_pb2.GetStateResponse) -> State:
    """The `State` of a message."""
    return State(
        data=tuple(map(datum, message.data)),
        as_of=moment(message.as_of),
    )


@dataclass(frozen=True, slots=True)
class Revision:
    """One event of a data key, in its history.

    Attributes:
        event: The event, with publisher, revision and previous_sequence.
        time: When it was appended (UTC).
        patch: From the previous revision to this one. None for the first revision, and for
            deletions, expiries and the revisions that follow them, which have nothing to compare
            with.
        payload_omitted: True if the payload was left out because the response would have grown
            beyond 2 MiB.
    """

    event: Event
    time: datetime
    patch: Patch | None = None
    payload_omitted: bool = False


def revision(message: state_service_pb2.Revision) -> Revision:
    """The `Revision` of a message."""
    return Revision(
        event=event(message.event),
        time=message.time.ToDatetime(tzinfo=UTC),
        patch=patch(message.patch) if message.HasField("patch") else None,
        payload_omitted=message.payload_omitted,
    )


@dataclass(frozen=True, slots=True)
class BlamedPart:
    """A part of a datum, and the event that set it.

    Attributes:
        path: In JSON: the JSON pointer (RFC 6901) of a scalar, or of an empty object or array. In
            text: the number of the line, "1", "2", …
        value: The value as JSON, or the text of the line.
        sequence: The event that last set it to this value.
        revision: Revision of that event.
        time: When that event was appended (UTC).
        publisher: Who published that event.
        claimed_publisher: The name that the publisher gave itself, if it proved another one.
    """

    path: str
    value: str
    sequence: str
    revision: int
    time: datetime
    publisher: str
    claimed_publisher: str


def blamed_part(message: state_service_pb2.BlamedPart) -> BlamedPart:
    """The `BlamedPart` of a message."""
    return BlamedPart(
        path=message.path,
        value=message.value,
        sequence=message.sequence,
        revision=message.revision,
        time=message.time.ToDatetime(tzinfo=UTC),
        publisher=message.publisher,
        claimed_publisher=message.claimed_publisher,
    )


@dataclass(frozen=True, slots=True)
class Blame:
    """Which event set which part of a datum.

    Attributes:
        event: The datum's latest event.
        parts: The parts, in the order of the payload. A payload that is not text is one part with
            an empty path and value.
        as_of: The moment.
        truncated: True if the result is incomplete. Either the search stopped before it had found
            every part, after 10,000 revisions, 64 MiB or 10 seconds, or at the oldest readable
            revision, which is the one after a revision whose payload was erased or removed; the
            remaining parts are then attributed to the oldest revision seen, and may be older. Or
            the datum has more parts than a response holds, 10,000 or 2 MiB; only the first ones are
            then returned.
    """

    event: Event
    parts: tuple[BlamedPart, ...]
    as_of: Moment
    truncated: bool = False


def blame(message: state_service_pb2.GetBlameResponse) -> Blame:
    """The `Blame` of a message."""
    return Blame(
        event=event(message.event),
        parts=tuple(map(blamed_part, message.parts)),
        as_of=moment(message.as_of),
        truncated=message.truncated,
    )


_PATCH_OMITTEDS = {
    1: PatchOmitted.BINARY,
    2: PatchOmitted.TOO_LARGE,
    3: PatchOmitted.TRIMMED,
    4: PatchOmitted.ERASED,
}

_CHANGE_KINDS = {1: ChangeKind.ADDED, 2: ChangeKind.REMOVED, 3: ChangeKind.CHANGED}
