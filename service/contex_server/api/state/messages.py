"""States, changes, histories and blame as the API has them."""

from __future__ import annotations

from collections.abc import Iterable

from contex.v1 import event_pb2
from contex.v1 import state_service_pb2 as pb

from contex_server.api.shared import wire
from contex_server.kernel.model import Entry, utf8_bytes
from contex_server.kernel.protobuf import timestamp
from contex_server.state.blame import BlamedPart
from contex_server.state.diff import Change, Datum
from contex_server.state.history import BlameResult, Revision
from contex_server.state.moments import Moment
from contex_server.state.patch import Patch

_DATUM_BYTES = 64
"""What a message takes besides what is counted."""


def moment_message(moment: Moment) -> event_pb2.Moment:
    return event_pb2.Moment(sequence=str(moment.sequence), time=timestamp(moment.unix_ms))


def size_of(datum: Datum) -> int:
    """About how long its message is."""
    size = 2 * utf8_bytes(datum.state.data_key) + _DATUM_BYTES
    return size + len(datum.entry.body) if datum.entry is not None else size


def size_of_change(change: Change, *, whole: bool) -> int:
    """About how long its message is."""
    size = utf8_bytes(change.data_key) + _DATUM_BYTES
    if change.patch is not None:
        size += change.patch.nbytes
    for datum in (change.before, change.after):
        if datum is not None:
            size += size_of(datum) if whole else size_of(Datum(datum.state))
    return size


def fill_datum(message: pb.Datum, datum: Datum, *, omit_payload: bool = False) -> None:
    """A datum at a moment. (Filling in place spares two copies of the event.)"""
    state = datum.state
    message.data_key = state.data_key
    message.sequence = str(state.sequence)
    message.revision = state.revision
    if state.deleted:
        message.deleted = True
    if datum.entry is not None:
        _fill_event(message.event, datum.entry, payload=not omit_payload)
        message.payload_omitted = omit_payload


def fill_change(
    message: pb.Change, change: Change, *, whole: bool, omit_payload: bool = False
) -> None:
    message.data_key = change.data_key
    if change.before is None:
        message.kind = pb.CHANGE_KIND_ADDED
    elif change.after is None:
        message.kind = pb.CHANGE_KIND_REMOVED
    else:
        message.kind = pb.CHANGE_KIND_CHANGED
    for side, datum in ((message.before, change.before), (message.after, change.after)):
        if datum is not None:
            fill_datum(side, datum if whole else Datum(datum.state), omit_payload=omit_payload)
    if change.patch is not None:
        _fill_patch(message.patch, change.patch)


def fill_revision(
    message: pb.Revision, revision: Revision, *, payload: bool = True, omitted: bool = False
) -> None:
    """An event in a history; `omitted` if its payload had to be left out."""
    _fill_event(message.event, revision.entry, payload=payload and not omitted)
    message.time.FromMilliseconds(revision.event.sequence.ms)
    if revision.patch is not None:
        _fill_patch(message.patch, revision.patch)
    message.payload_omitted = omitted


def _fill_patch(message: pb.Patch, patch: Patch) -> None:
    message.SetInParent()
    if patch.json_patch:
        message.json_patch = patch.json_patch
    elif patch.unified_diff:
        message.unified_diff = patch.unified_diff
    elif patch.omitted:
        message.omitted = pb.PatchOmitted.ValueType(patch.omitted)


def _fill_event(message: event_pb2.Event, entry: Entry, *, payload: bool) -> None:
    message.MergeFromString(wire.event_bytes(entry))
    if not payload:
        message.ClearField("payload")


def blame_message(blamed: BlameResult, moment: Moment, max_bytes: int) -> pb.GetBlameResponse:
    parts, whole = part_messages(blamed.parts, max_bytes)
    return pb.GetBlameResponse(
        event=wire.event_message(blamed.newest.entry),
        parts=parts,
        as_of=moment_message(moment),
        truncated=blamed.truncated or not whole,
    )


def part_messages(parts: Iterable[BlamedPart], max_bytes: int) -> tuple[list[pb.BlamedPart], bool]:
    """The parts of a datum, and whether all of them fit."""
    messages: list[pb.BlamedPart] = []
    size_bytes = 0
    for part in parts:
        event = part.event
        message = pb.BlamedPart(
            path=part.path,
            value=part.value,
            sequence=str(event.sequence),
            revision=event.revision,
            time=timestamp(event.sequence.ms),
            publisher=event.publisher,
            claimed_publisher=event.claimed_publisher,
        )
        size_bytes += message.ByteSize()
        if size_bytes > max_bytes:
            return messages, False
        messages.append(message)
    return messages, True
