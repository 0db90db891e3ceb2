# Generated from protos/ by `make generate`.

"""The values of `contex.projects` that stand for messages."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contex.v1 import (
        project_service_pb2,
    )

__all__ = [
    "Activity",
    "ActivityDimension",
    "ActivitySeries",
    "DeletedProject",
    "Deletion",
    "Encryption",
    "ErasedData",
    "Finding",
    "FindingKind",
    "ProjectInfo",
    "ProjectSummary",
    "RemovedEvents",
    "Retention",
    "RetentionInfo",
    "Stats",
    "VerifyStep",
    "VerifySummary",
    "activity",
    "activity_series",
    "deleted_project",
    "deletion",
    "encryption",
    "erased_data",
    "finding",
    "project_info",
    "project_summary",
    "removed_events",
    "retention",
    "retention_info",
    "stats",
    "verify_step",
    "verify_summary",
]


@dataclass(frozen=True, slots=True)
class ProjectSummary:
    """A project in a list.

    See `Stats` for the numbers.

    Attributes:
        project: The project's name.
        event_count: Number of events that can be read.
        first_sequence: The oldest event that can be read; empty if there is none.
        last_sequence: The newest event ever appended.
        event_bytes: Size in the log of the events appended since counted_since, in bytes.
    """

    project: str
    event_count: int
    first_sequence: str
    last_sequence: str
    event_bytes: int


def project_summary(message: project_service_pb2.ProjectSummary) -> ProjectSummary:
    """The `ProjectSummary` of a message."""
    return ProjectSummary(
        project=message.project,
        event_count=message.event_count,
        first_sequence=message.first_sequence,
        last_sequence=message.last_sequence,
        event_bytes=message.event_bytes,
    )


@dataclass(frozen=True, slots=True)
class Stats:
    """A project's size and positions.

    Attributes:
        event_count: Number of events that can be read.
        first_sequence: The oldest event that can be read; empty if there is none.
        last_sequence: The newest event ever appended; "0-0" if there is none.
        event_bytes: Size in the log of the events appended since counted_since, in bytes.
        data_key_count: Number of live data items.
        deleted_key_count: Number of keys whose latest event is a deletion or an expiry.
        agent_count: Number of registered agents.
        subscriber_count: Number of open `subscribe` streams in the whole deployment. Can lag by a
            few seconds.
        listener_count: Number of open `listen` streams in the whole deployment. Can lag by a few
            seconds.
        events_per_second: Events per second, averaged over the last minute.
        snapshot_sequence: The newest snapshot; empty if there is none.
        snapshot_count: Number of snapshots.
        snapshot_bytes: Size of the snapshots, in bytes.
        archived_sequence: Everything up to this sequence has been moved to the archive. Empty if
            nothing has.
        counted_since: The sequence from which appended events are counted: "0-0" is the beginning;
            later for a project that is older than the counters.
        store_event_count: Number of events in the store. The others are only in the archive.
        archive_event_count: Number of events in the archive. The newest of them can be in the store
            too.
        archive_bytes: Size of the archive's objects, in bytes.
        segment_count: Number of segments made so far.
        removed_event_count: Number of events that were permanently removed.
        warnings: Problems and removals that are coming up, in plain words, such as "the store holds
            1,600,000 events and should hold 1,000,000: is the archive reachable?".
        compacted_event_count: Number of events whose payloads were permanently removed by
            Retention.keep_revisions.
    """

    event_count: int
    first_sequence: str
    last_sequence: str
    event_bytes: int
    data_key_count: int
    deleted_key_count: int
    agent_count: int
    subscriber_count: int
    listener_count: int
    events_per_second: float
    snapshot_sequence: str
    snapshot_count: int
    snapshot_bytes: int
    archived_sequence: str
    counted_since: str
    store_event_count: int
    archive_event_count: int
    archive_bytes: int
    segment_count: int
    removed_event_count: int
    warnings: tuple[str, ...]
    compacted_event_count: int


def stats(message: project_service_pb2.GetStatsResponse) -> Stats:
    """The `Stats` of a message."""
    return Stats(
        event_count=message.event_count,
        first_sequence=message.first_sequence,
        last_sequence=message.last_sequence,
        event_bytes=message.event_bytes,
        data_key_count=message.data_key_count,
        deleted_key_count=message.deleted_key_count,
        agent_count=message.agent_count,
        subscriber_count=message.subscriber_count,
        listener_count=message.listener_count,
        events_per_second=message.events_per_second,
        snapshot_sequence=message.snapshot_sequence,
        snapshot_count=message.snapshot_count,
        snapshot_bytes=message.snapshot_bytes,
        archived_sequence=message.archived_sequence,
        counted_since=message.counted_since,
        store_event_count=message.store_event_count,
        archive_event_count=message.archive_event_count,
        archive_bytes=message.archive_bytes,
        segment_count=message.segment_count,
        removed_event_count=message.removed_event_count,
        warnings=tuple(message.warnings),
        compacted_event_count=message.compacted_event_count,
    )


class ActivityDimension(enum.Enum):
    """What events are grouped by."""

    TOTAL = "total"
    """All events together."""
    DATA_KEY = "data_key"
    """By data key.

    Events without a data key are left out.
    """
    EVENT_TYPE = "event_type"
    """By event type."""
    PUBLISHER = "publisher"
    """By publisher; "" if the event names none."""
    NEED = "need"
    """By need: the number of events delivered for it, counted at the time of delivery, without
    resends.

    The name of a series is "{agent_id}: {need}".
    """


@dataclass(frozen=True, slots=True)
class ActivitySeries:
    """The counts of one name.

    Attributes:
        name: The data key, type, publisher or need; "" for all together.
        total: Number of events in the range.
        counts: Number of events in each bucket, oldest first.
    """

    name: str
    total: int
    counts: tuple[int, ...]


def activity_series(message: project_service_pb2.ActivitySeries) -> ActivitySeries:
    """The `ActivitySeries` of a message."""
    return ActivitySeries(
        name=message.name,
        total=message.total,
        counts=tuple(message.counts),
    )


@dataclass(frozen=True, slots=True)
class Activity:
    """The number of events over time.

    Attributes:
        series: The names with the most events, in descending order; ties are ordered by name.
        total: All events of the range with the requested names.
        start_time: Where the first bucket begins (UTC).
        end_time: Where the last bucket ends (UTC).
        bucket_seconds: Length of a bucket in seconds.
        name_count: Number of names with events, including those not returned.
        peak_hours: 24 numbers: events in the range by hour of the local day, 0 to 23.
        counted_since: The sequence from which events are counted; see ``Stats`.counted_since`.
    """

    series: tuple[ActivitySeries, ...]
    total: ActivitySeries
    start_time: datetime
    end_time: datetime
    bucket_seconds: int
    name_count: int
    peak_hours: tuple[int, ...]
    counted_since: str


def activity(message: project_service_pb2.GetActivityResponse) -> Activity:
    """The `Activity` of a message."""
    return Activity(
        series=tuple(map(activity_series, message.series)),
        total=activity_series(message.total),
        start_time=message.start_time.ToDatetime(tzinfo=UTC),
        end_time=message.end_time.ToDatetime(tzinfo=UTC),
        bucket_seconds=message.bucket_seconds,
        name_count=message.name_count,
        peak_hours=tuple(message.peak_hours),
        counted_since=message.counted_since,
    )


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a project's events are kept, and where.

    A limit of None means the server's default, 0 means no limit.

    Attributes:
        store_seconds: Move events older than this from the store to the archive, in seconds; at
            most 3,155,760,000 (100 years). With several store limits, the first one reached
            applies.
        store_events: Move the oldest events to the archive when the store holds more events than
            this.
        store_bytes: Move the oldest events to the archive when the store holds more bytes than
            this.
        archive_seconds: Permanently remove archived events older than this, in seconds; at most
            3,155,760,000 (100 years).
        legal_hold: Legal hold: nothing is removed or erased, whatever other settings say.
        keep_revisions: Permanently remove the payload and the description of an archived event once
            its data key has this number of later events; at most 1,000,000. The event itself stays,
            and its `erased` says why it is empty, so the log has no gap. Events that are still in
            the store keep theirs: the store limits say for how long.
    """

    store_seconds: int | None = None
    store_events: int | None = None
    store_bytes: int | None = None
    archive_seconds: int | None = None
    legal_hold: bool = False
    keep_revisions: int | None = None


def retention(message: project_service_pb2.Retention) -> Retention:
    """The `Retention` of a message."""
    return Retention(
        store_seconds=message.store_seconds if message.HasField("store_seconds") else None,
        store_events=message.store_events if message.HasField("store_events") else None,
        store_bytes=message.store_bytes if message.HasField("store_bytes") else None,
        archive_seconds=message.archive_seconds if message.HasField("archive_seconds") else None,
        legal_hold=message.legal_hold,
        keep_revisions=message.keep_revisions if message.HasField("keep_revisions") else None,
    )


@dataclass(frozen=True, slots=True)
class RetentionInfo:
    """How long a project's events are kept, and where.

    Attributes:
        own: The project's own settings.
        effective: The settings in effect, server defaults included. Every limit is set.
        has_archive: Whether the server has an archive. Without one, nothing leaves the store.
    """

    own: Retention
    effective: Retention
    has_archive: bool


def retention_info(message: project_service_pb2.GetRetentionResponse) -> RetentionInfo:
    """The `RetentionInfo` of a message."""
    return RetentionInfo(
        own=retention(message.retention),
        effective=retention(message.effective),
        has_archive=message.has_archive,
    )


@dataclass(frozen=True, slots=True)
class Deletion:
    """A deletion of a project.

    Attributes:
        delete_time: When (UTC).
        identity: Who, by the name that the caller gave itself.
        request_id: The call's request_id.
        reason: Why.
        event_count: Number of events that could be read before.
    """

    delete_time: datetime
    identity: str
    request_id: str
    reason: str
    event_count: int


def deletion(message: project_service_pb2.Deletion) -> Deletion:
    """The `Deletion` of a message."""
    return Deletion(
        delete_time=message.delete_time.ToDatetime(tzinfo=UTC),
        identity=message.identity,
        request_id=message.request_id,
        reason=message.reason,
        event_count=message.event_count,
    )


@dataclass(frozen=True, slots=True)
class Encryption:
    """How a project's payloads are encrypted at rest.

    Attributes:
        enabled: Whether events are encrypted that name no subject. Those that do always are.
        master_key_id: The master key that wraps the project's keys from now on. Empty: the server
            has none.
        keys_to_rewrap: Number of keys that an earlier master key still wraps. They are wrapped anew
            in the background; at 0 that key is not needed any more.
    """

    enabled: bool
    master_key_id: str
    keys_to_rewrap: int


def encryption(message: project_service_pb2.Encryption) -> Encryption:
    """The `Encryption` of a message."""
    return Encryption(
        enabled=message.enabled,
        master_key_id=message.master_key_id,
        keys_to_rewrap=message.keys_to_rewrap,
    )


@dataclass(frozen=True, slots=True)
class ProjectInfo:
    """What there is of a project.

    Attributes:
        project: The project's name.
        exists: Whether it has had an event, since it was deleted last.
        stats: Size and positions, as GetStats returns them. None if it does not exist.
        retention: How long its events are kept, and whether it is on legal hold. Can be set before
            the project exists.
        model: The rule that its matches are scored by and its model. Empty until the first text is
            matched.
        deletion: Its last deletion. None if there was none.
        encryption: Whether and how its payloads are encrypted at rest.
    """

    project: str
    exists: bool
    stats: Stats | None
    retention: RetentionInfo
    model: str
    deletion: Deletion | None
    encryption: Encryption | None = None


def project_info(message: project_service_pb2.GetProjectResponse) -> ProjectInfo:
    """The `ProjectInfo` of a message."""
    return ProjectInfo(
        project=message.project,
        exists=message.exists,
        stats=stats(message.stats) if message.HasField("stats") else None,
        retention=retention_info(message.retention),
        model=message.model,
        deletion=deletion(message.deletion) if message.HasField("deletion") else None,
        encryption=encryption(message.encryption) if message.HasField("encryption") else None,
    )


@dataclass(frozen=True, slots=True)
class DeletedProject:
    """The project is gone.

    Attributes:
        deletion: What was deleted, and when.
        duplicate: True if the request_id was seen before; this is then the first response again.
    """

    deletion: Deletion
    duplicate: bool


def deleted_project(message: project_service_pb2.DeleteProjectResponse) -> DeletedProject:
    """The `DeletedProject` of a message."""
    return DeletedProject(
        deletion=deletion(message.deletion),
        duplicate=message.duplicate,
    )


@dataclass(frozen=True, slots=True)
class RemovedEvents:
    """What was removed.

    Attributes:
        removed_count: Number of events removed.
        first_sequence: The oldest event that can be read now; empty if there is none.
    """

    removed_count: int
    first_sequence: str


def removed_events(message: project_service_pb2.RemoveEventsResponse) -> RemovedEvents:
    """The `RemovedEvents` of a message."""
    return RemovedEvents(
        removed_count=message.removed_count,
        first_sequence=message.first_sequence,
    )


@dataclass(frozen=True, slots=True)
class ErasedData:
    """What was erased.

    Attributes:
        erased_count: Number of events erased.
        sequence: The "data_erased" event that records it. Empty if there was nothing to erase.
        duplicate: True if the request_id was seen before; this is then the first response again.
    """

    erased_count: int
    sequence: str
    duplicate: bool


def erased_data(message: project_service_pb2.EraseDataResponse) -> ErasedData:
    """The `ErasedData` of a message."""
    return ErasedData(
        erased_count=message.erased_count,
        sequence=message.sequence,
        duplicate=message.duplicate,
    )


class FindingKind(enum.Enum):
    """What an inconsistency is about."""

    SEGMENT = "segment"
    """An object of the archive is missing, damaged or misplaced."""
    ARCHIVE_AHEAD = "archive_ahead"
    """The archive has events that the store does not know."""
    EVENT = "event"
    """An event is missing, out of order, or not linked to the previous event of its key."""
    STATE = "state"
    """The stored state of a key is not what its events add up to."""
    SNAPSHOT = "snapshot"
    """A snapshot differs from the state at its sequence."""
    COUNTER = "counter"
    """A counter is wrong."""
    VECTOR = "vector"
    """The vector of a datum is missing.

    It is computed when it is needed.
    """
    DELIVERY = "delivery"
    """A delivery in an agent's inbox is not what follows from the log, what the agent is known to
    hold is not what its inbox adds up to, or a need scores otherwise than was recorded.
    """
    OTHER = "other"
    """One that a newer server has added.

    It can't be asked for.
    """


@dataclass(frozen=True, slots=True)
class Finding:
    """An inconsistency.

    Attributes:
        kind: What the inconsistency is about.
        place: Where it is: a sequence, a data key, or the name of an object or counter. Of a
            delivery, the agent and the sequence of the event that brought it, with a space between
            them.
        detail: What is wrong, in plain words.
        repairable: Whether it can be repaired from what is left.
        repaired: Whether it was repaired.
    """

    kind: FindingKind
    place: str
    detail: str
    repairable: bool
    repaired: bool


def finding(message: project_service_pb2.Finding) -> Finding:
    """The `Finding` of a message."""
    return Finding(
        kind=_FINDING_KINDS.get(message.kind, FindingKind.OTHER),
        place=message.place,
        detail=message.detail,
        repairable=message.repairable,
        repaired=message.repaired,
    )


@dataclass(frozen=True, slots=True)
class VerifySummary:
    """What was verified.

    Attributes:
        as_of_sequence: The log was verified up to this sequence.
        event_count: Number of events verified.
        segment_count: Number of segments verified.
        snapshot_count: Number of snapshots verified.
        data_key_count: Number of data keys verified.
        finding_count: Number of inconsistencies found.
        repaired_count: Number of inconsistencies repaired.
        delivery_count: Number of deliveries judged.
    """

    as_of_sequence: str
    event_count: int
    segment_count: int
    snapshot_count: int
    data_key_count: int
    finding_count: int
    repaired_count: int
    delivery_count: int


def verify_summary(message: project_service_pb2.VerifySummary) -> VerifySummary:
    """The `VerifySummary` of a message."""
    return VerifySummary(
        as_of_sequence=message.as_of_sequence,
        event_count=message.event_count,
        segment_count=message.segment_count,
        snapshot_count=message.snapshot_count,
        data_key_count=message.data_key_count,
        finding_count=message.finding_count,
        repaired_count=message.repaired_count,
        delivery_count=message.delivery_count,
    )


@dataclass(frozen=True, slots=True)
class VerifyStep:
    """Progress of a verification, a finding, or the summary.

    Attributes:
        event_count: Number of events read so far.
        total_count: Total number of events.
        finding: An inconsistency, if this item reports one.
        summary: What was verified. Only in the last item.
        delivery_count: Number of deliveries judged so far.
    """

    event_count: int
    total_count: int
    finding: Finding | None
    summary: VerifySummary | None
    delivery_count: int


def verify_step(message: project_service_pb2.VerifyProjectResponse) -> VerifyStep:
    """The `VerifyStep` of a message."""
    return VerifyStep(
        event_count=message.event_count,
        total_count=message.total_count,
        finding=finding(message.finding) if message.HasField("finding") else None,
        summary=verify_summary(message.summary) if message.HasField("summary") else None,
        delivery_count=message.delivery_count,
    )


_FINDING_KINDS = {
    1: FindingKind.SEGMENT,
    2: FindingKind.ARCHIVE_AHEAD,
    3: FindingKind.EVENT,
    4: FindingKind.STATE,
    5: FindingKind.SNAPSHOT,
    6: FindingKind.COUNTER,
    7: FindingKind.VECTOR,
    8: FindingKind.DELIVERY,
}
