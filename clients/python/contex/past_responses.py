"""Turns answers about the past and the records into values, the same for both clients."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeVar

from .moments import instant
from .past import (
    Blame,
    BlamedPart,
    Change,
    ChangeKind,
    Datum,
    Moment,
    Patch,
    PatchOmitted,
    Revision,
    State,
    StateDiff,
)
from .records import (
    Activity,
    ActivitySeries,
    AgentContext,
    AgentStream,
    AuditAction,
    AuditPiece,
    AuditRecord,
    DeliveredNeed,
    Delivery,
    DeliveryKind,
    HeldBack,
    HeldBackReason,
    KnownDatum,
    Stats,
)
from .responses import agent, event, matched_event
from .v1 import (
    agent_service_pb2,
    audit_service_pb2,
    event_pb2,
    project_service_pb2,
    state_service_pb2,
)

E = TypeVar("E", bound=enum.Enum)


class _Names(Protocol):
    """An enumeration as it is generated."""

    def Name(self, number: Any) -> str:
        """The name of a value; ValueError for one that is not known."""


def moment(message: event_pb2.Moment) -> Moment:
    """The moment of an answer."""
    return Moment(message.sequence, instant(message.time))


def state(pages: list[state_service_pb2.GetStateResponse]) -> State:
    """The data of all pages."""
    data = tuple(datum(message) for page in pages for message in page.data)
    return State(data, moment(pages[0].as_of))


def datum(message: state_service_pb2.Datum) -> Datum:
    """A datum."""
    return Datum(
        message.data_key,
        message.sequence,
        message.revision,
        message.deleted,
        event(message.event) if message.HasField("event") else None,
        message.payload_omitted,
    )


class StateProgress:
    """Where a stream of a state stands, and how it goes on after a lost connection."""

    def __init__(self, request: state_service_pb2.StreamStateRequest) -> None:
        self.request = request
        self.as_of: Moment | None = None
        self.data_count = 0

    def take(self, message: state_service_pb2.StreamStateResponse) -> Iterator[Datum]:
        """The data of a message."""
        if self.as_of is None:  # later it would tell the time of the event, not the one asked for
            self.as_of = moment(message.as_of)
        self.data_count = message.data_count
        self.request.as_of.sequence = message.as_of.sequence
        if message.data:
            self.request.after_data_key = message.data[-1].data_key
        return iter([datum(one) for one in message.data])


def diff(pages: list[state_service_pb2.DiffStatesResponse]) -> StateDiff:
    """The changes of all pages."""
    first = pages[0]
    return StateDiff(
        tuple(_change(message) for page in pages for message in page.changes),
        moment(first.base),
        moment(first.target),
        first.added_count,
        first.removed_count,
        first.changed_count,
    )


def revision(message: state_service_pb2.Revision) -> Revision:
    """A revision."""
    return Revision(
        event(message.event),
        instant(message.time),
        _patch(message.patch) if message.HasField("patch") else None,
        message.payload_omitted,
    )


def blame(message: state_service_pb2.GetBlameResponse) -> Blame:
    """Who set what."""
    return Blame(
        event(message.event),
        tuple(
            BlamedPart(
                part.path,
                part.value,
                part.sequence,
                part.revision,
                instant(part.time),
                part.publisher,
            )
            for part in message.parts
        ),
        moment(message.as_of),
        message.truncated,
    )


def agent_context(message: agent_service_pb2.GetAgentContextResponse) -> AgentContext:
    """What an agent knew."""
    return AgentContext(
        as_of=moment(message.as_of),
        agent=agent(message.agent),
        known=tuple(map(_known, message.known)),
        pending=tuple(map(matched_event, message.pending)),
        held_back=tuple(
            HeldBack(
                _named(
                    HeldBackReason,
                    agent_service_pb2.HeldBackReason,
                    held.reason,
                    "HELD_BACK_REASON_",
                ),
                matched_event(held.data),
            )
            for held in message.held_back
        ),
        streams=tuple(
            AgentStream(
                stream.stream_id,
                instant(stream.opened_time),
                instant(stream.closed_time) if stream.HasField("closed_time") else None,
                stream.peer,
                stream.client,
                stream.start_sequence,
            )
            for stream in message.streams
        ),
        last_sent_time=instant(message.last_sent_time)
        if message.HasField("last_sent_time")
        else None,
        last_sent_sequence=message.last_sent_sequence,
    )


def delivery(message: agent_service_pb2.Delivery) -> Delivery:
    """A delivery."""
    return Delivery(
        agent_id=message.agent_id,
        sequence=message.sequence,
        data_key=message.data_key,
        revision=message.revision,
        time=instant(message.time),
        kind=_named(
            DeliveryKind,
            agent_service_pb2.DeliveryKind,
            message.kind,
            "DELIVERY_KIND_",
        ),
        resend=message.resend,
        needs=_needs(message.needs),
        position=message.position,
        stream_id=message.stream_id,
    )


def audit_record(message: audit_service_pb2.AuditRecord) -> AuditRecord:
    """A record of the audit."""
    return AuditRecord(
        record_id=message.record_id,
        time=instant(message.time),
        action=_named(
            AuditAction,
            audit_service_pb2.AuditAction,
            message.action,
            "AUDIT_ACTION_",
        ),
        actor=message.actor,
        actor_verified=message.actor_verified,
        peer=message.peer,
        client=message.client,
        request_id=message.request_id,
        agent_id=message.agent_id,
        data_key=message.data_key,
        sequence=message.sequence,
        revision=message.revision,
        event_type=message.event_type,
        count=message.count,
        stream_id=message.stream_id,
        detail=message.detail,
    )


def audit_piece(message: audit_service_pb2.ExportRecordsResponse) -> Iterator[AuditPiece]:
    """A piece of a file."""
    yield AuditPiece(message.data, message.record_count)


def stats(message: project_service_pb2.GetStatsResponse) -> Stats:
    """A project's size."""
    fields = {name: getattr(message, name) for name in Stats.__dataclass_fields__}
    return Stats(**{**fields, "warnings": tuple(message.warnings)})


def activity(message: project_service_pb2.GetActivityResponse) -> Activity:
    """How many events there were."""
    return Activity(
        series=tuple(map(_series, message.series)),
        total=_series(message.total),
        start_time=instant(message.start_time),
        end_time=instant(message.end_time),
        bucket_seconds=message.bucket_seconds,
        name_count=message.name_count,
        peak_hours=tuple(message.peak_hours),
        counted_since=message.counted_since,
    )


def _series(message: project_service_pb2.ActivitySeries) -> ActivitySeries:
    return ActivitySeries(message.name, message.total, tuple(message.counts))


def _change(message: state_service_pb2.Change) -> Change:
    name = state_service_pb2.ChangeKind.Name(message.kind).removeprefix("CHANGE_KIND_")
    return Change(
        ChangeKind[name],
        message.data_key,
        datum(message.before) if message.HasField("before") else None,
        datum(message.after) if message.HasField("after") else None,
        _patch(message.patch) if message.HasField("patch") else None,
    )


def _patch(message: state_service_pb2.Patch) -> Patch:
    form = message.WhichOneof("form")
    omitted = None
    if message.omitted:
        omitted = _named(
            PatchOmitted,
            state_service_pb2.PatchOmitted,
            message.omitted,
            "PATCH_OMITTED_",
        )
    return Patch(
        message.json_patch if form == "json_patch" else None,
        message.unified_diff if form == "unified_diff" else None,
        omitted,
    )


def _known(message: agent_service_pb2.KnownDatum) -> KnownDatum:
    return KnownDatum(
        data_key=message.data_key,
        sequence=message.sequence,
        revision=message.revision,
        sent_time=instant(message.sent_time),
        needs=_needs(message.needs),
        acknowledged=message.acknowledged,
        latest_sequence=message.latest_sequence,
        latest_revision=message.latest_revision,
        deleted=message.deleted,
        event=event(message.event) if message.HasField("event") else None,
    )


def _needs(messages: Iterable[agent_service_pb2.DeliveredNeed]) -> tuple[DeliveredNeed, ...]:
    return tuple(DeliveredNeed(need.need_index, need.need, need.score) for need in messages)


def _named(known: type[E], names: _Names, number: int, prefix: str) -> E:
    """The value of an enumeration; OTHER for what a newer server has added."""
    try:
        return known[names.Name(number).removeprefix(prefix)]
    except (ValueError, KeyError):
        return known["OTHER"]
