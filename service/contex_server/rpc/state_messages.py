"""States, changes, histories and blame, as the API has them."""

from __future__ import annotations

from collections.abc import Iterable

from contex.v1 import event_pb2, state_service_pb2

from contex_server.model import Entry
from contex_server.projections.blame import Part
from contex_server.projections.data import Change, Datum
from contex_server.projections.history import Revision
from contex_server.projections.patches import Patch
from contex_server.rpc import wire

_DATUM_BYTES = 64
"""What a message takes besides what is counted."""


def size_of(datum: Datum) -> int:
    """About how long its message is."""
    size = 2 * len(datum.state.data_key) + _DATUM_BYTES
    return size + len(datum.entry.body) if datum.entry is not None else size


def size_of_change(change: Change, *, whole: bool) -> int:
    """About how long its message is."""
    size = len(change.data_key) + _DATUM_BYTES
    if change.patch is not None:
        size += change.patch.nbytes
    for datum in (change.before, change.after):
        if datum is not None:
            size += size_of(datum) if whole else size_of(Datum(datum.state))
    return size


def datum_message(datum: Datum, *, omit_payload: bool = False) -> state_service_pb2.Datum:
    """A datum at a moment."""
    state = datum.state
    message = state_service_pb2.Datum(
        data_key=state.data_key,
        sequence=str(state.sequence),
        revision=state.revision,
        deleted=state.deleted,
        payload_omitted=omit_payload and datum.entry is not None,
    )
    if datum.entry is not None:
        message.event.CopyFrom(_event(datum.entry, payload=not omit_payload))
    return message


def change_message(
    change: Change, *, whole: bool, omit_payload: bool = False
) -> state_service_pb2.Change:
    """A datum that differs."""
    before, after = (
        None
        if datum is None
        else datum_message(datum if whole else Datum(datum.state), omit_payload=omit_payload)
        for datum in (change.before, change.after)
    )
    if before is None:
        kind = state_service_pb2.CHANGE_KIND_ADDED
    elif after is None:
        kind = state_service_pb2.CHANGE_KIND_REMOVED
    else:
        kind = state_service_pb2.CHANGE_KIND_CHANGED
    return state_service_pb2.Change(
        kind=kind,
        data_key=change.data_key,
        before=before,
        after=after,
        patch=patch_message(change.patch),
    )


def patch_message(patch: Patch | None) -> state_service_pb2.Patch | None:
    """What leads from one payload to another."""
    if patch is None:
        return None
    message = state_service_pb2.Patch(
        omitted=state_service_pb2.PatchOmitted.ValueType(patch.omitted)
    )
    if patch.json_patch:
        message.json_patch = patch.json_patch
    elif patch.unified_diff:
        message.unified_diff = patch.unified_diff
    return message


def revision_message(
    revision: Revision, *, payload: bool = True, omitted: bool = False
) -> state_service_pb2.Revision:
    """An event in a history; `omitted` if its payload had to be left out."""
    return state_service_pb2.Revision(
        event=_event(revision.entry, payload=payload and not omitted),
        time=wire.timestamp(revision.event.sequence.ms),
        patch=patch_message(revision.patch),
        payload_omitted=omitted,
    )


def part_messages(
    parts: Iterable[Part], max_bytes: int
) -> tuple[list[state_service_pb2.BlamedPart], bool]:
    """The parts of a datum, and whether all of them fit."""
    found: list[state_service_pb2.BlamedPart] = []
    held = 0
    for part in parts:
        event = part.event
        message = state_service_pb2.BlamedPart(
            path=part.path,
            value=part.value,
            sequence=str(event.sequence),
            revision=event.revision,
            time=wire.timestamp(event.sequence.ms),
            publisher=event.publisher,
        )
        held += message.ByteSize()
        if found and held > max_bytes:
            return found, False
        found.append(message)
    return found, True


def _event(entry: Entry, *, payload: bool) -> event_pb2.Event:
    message = wire.event_message(entry)
    if not payload:
        message.ClearField("payload")
    return message
