"""ProjectService: validate, call the domain, convert."""

from __future__ import annotations

from contextlib import aclosing

from contex.v1 import event_pb2, project_service_pb2

from contex_server.api.projects.messages import reason, retention_message, retention_of
from contex_server.api.projects.verification import step_message
from contex_server.api.shared import fields
from contex_server.edge.grpc import Write
from contex_server.edge.identity import caller
from contex_server.events.presence import Presence
from contex_server.kernel.config import Limits
from contex_server.kernel.errors import invalid_field
from contex_server.kernel.model import BEGINNING, END_OF_TIME, Sequence
from contex_server.kernel.protobuf import timestamp
from contex_server.log.port import Bounds, EventLog
from contex_server.log.projects import Dimension, ProjectStore, Tier
from contex_server.log.state import SnapshotReader
from contex_server.projects.activity import (
    DAY,
    HOUR,
    MINUTE,
    By,
    Question,
    Series,
    Total,
    rate,
    read_activity,
)
from contex_server.projects.erasure import Eraser
from contex_server.projects.retention import Keeping
from contex_server.projects.usage import Usages
from contex_server.projects.verification import Verification
from contex_server.state.moments import check_not_in_future

_TOP, _MAX_TOP = 10, 100
_MAX_BUCKET_S = 366 * DAY
_OFFSET_MINUTES = 24 * 60
_NAME_CHARS = 1_200
_DIMENSIONS: dict[int, By] = {
    project_service_pb2.ACTIVITY_DIMENSION_UNSPECIFIED: Total.TOTAL,
    project_service_pb2.ACTIVITY_DIMENSION_TOTAL: Total.TOTAL,
    project_service_pb2.ACTIVITY_DIMENSION_DATA_KEY: Dimension.DATA_KEY,
    project_service_pb2.ACTIVITY_DIMENSION_EVENT_TYPE: Dimension.EVENT_TYPE,
    project_service_pb2.ACTIVITY_DIMENSION_PUBLISHER: Dimension.PUBLISHER,
    project_service_pb2.ACTIVITY_DIMENSION_NEED: Dimension.NEED,
}


class ProjectServicer:
    """See `protos/contex/v1/project_service.proto`."""

    def __init__(
        self,
        log: EventLog,
        store: ProjectStore,
        snapshots: SnapshotReader,
        keeping: Keeping,
        usages: Usages,
        eraser: Eraser,
        verification: Verification,
        presence: Presence,
        limits: Limits,
    ) -> None:
        self._log = log
        self._store = store
        self._snapshots = snapshots
        self._keeping = keeping
        self._usages = usages
        self._eraser = eraser
        self._verification = verification
        self._presence = presence
        self._limits = limits

    async def get_stats(
        self, request: project_service_pb2.GetStatsRequest
    ) -> project_service_pb2.GetStatsResponse:
        """GetStats."""
        project = fields.project(request.project)
        bounds = await self._log.bounds(project)
        snapshot = await self._snapshots.before(project, END_OF_TIME)
        streams = await self._presence.count(project, bounds.now_ms)
        hour = bounds.now_ms // 1000 // HOUR
        hours = (hour - 1, hour)
        counts = await self._store.activity(project, Dimension.EVENT_TYPE, Tier.MINUTES, hours)
        usage = await self._usages.of(project)
        archived, counters = usage.archived, usage.counters
        by_hour = zip((hour * HOUR for hour in hours), counts, strict=True)
        return project_service_pb2.GetStatsResponse(
            event_count=bounds.length,
            first_sequence=str(bounds.first) if bounds.first else "",
            last_sequence=str(bounds.tail),
            event_bytes=counters.bytes,
            data_key_count=counters.keys - counters.deleted,
            deleted_key_count=counters.deleted,
            agent_count=counters.agents,
            subscriber_count=streams.subscribers,
            listener_count=streams.listeners,
            events_per_second=rate(bounds.now_ms, by_hour),
            snapshot_sequence=str(snapshot.sequence) if snapshot else "",
            snapshot_count=counters.snapshots,
            snapshot_bytes=counters.snapshot_bytes,
            archived_sequence=str(archived.last) if archived.segments else "",
            counted_since=str(counters.counted_since),
            store_event_count=usage.store_events,
            archive_event_count=archived.events,
            archive_bytes=archived.size,
            segment_count=archived.segments,
            removed_event_count=archived.removed,
            warnings=usage.warnings,
        )

    async def get_retention(
        self, request: project_service_pb2.GetRetentionRequest
    ) -> project_service_pb2.GetRetentionResponse:
        """GetRetention."""
        own, effective = await self._keeping.retention(fields.project(request.project))
        return project_service_pb2.GetRetentionResponse(
            retention=retention_message(own),
            effective=retention_message(effective),
            has_archive=self._keeping.has_archive,
        )

    async def set_retention(
        self, request: project_service_pb2.SetRetentionRequest
    ) -> project_service_pb2.SetRetentionResponse:
        """SetRetention."""
        project = fields.project(request.project)
        effective = await self._keeping.change(project, retention_of(request.retention), caller())
        return project_service_pb2.SetRetentionResponse(effective=retention_message(effective))

    async def remove_events(
        self, request: project_service_pb2.RemoveEventsRequest
    ) -> project_service_pb2.RemoveEventsResponse:
        """RemoveEvents."""
        project = fields.project(request.project)
        removed, first = await self._keeping.remove(
            project,
            fields.moment(request.before, "before"),
            reason(request.reason, self._limits),
            caller(),
        )
        return project_service_pb2.RemoveEventsResponse(
            removed_count=removed, first_sequence=str(first) if first else ""
        )

    async def erase_data(
        self, request: project_service_pb2.EraseDataRequest
    ) -> project_service_pb2.EraseDataResponse:
        """EraseData."""
        project = fields.project(request.project)
        subject = data_key = ""
        match request.WhichOneof("target"):
            case "subject":
                subject = fields.subject(request.subject, "subject")
            case "data_key":
                data_key = fields.data_key(request.data_key)
            case _:
                raise invalid_field("target", "must be a subject or a data_key")
        if not request.request_id:
            raise invalid_field("request_id", "must not be empty")
        count, sequence, duplicate = await self._eraser.erase(
            project,
            subject=subject,
            data_key=data_key,
            request_id=fields.request_id(request.request_id),
            reason=reason(request.reason, self._limits),
            origin=caller(),
        )
        return project_service_pb2.EraseDataResponse(
            erased_count=count, sequence=str(sequence or ""), duplicate=duplicate
        )

    async def verify_project(
        self, request: project_service_pb2.VerifyProjectRequest, write: Write
    ) -> None:
        """VerifyProject."""
        project = fields.project(request.project)
        steps = self._verification.verify(project, repair=request.repair)
        async with aclosing(steps):
            async for step in steps:
                await write(step_message(step))

    async def get_activity(
        self, request: project_service_pb2.GetActivityRequest
    ) -> project_service_pb2.GetActivityResponse:
        """GetActivity."""
        project = fields.project(request.project)
        asked = self._question(request, await self._log.bounds(project))
        found = await read_activity(self._log, self._store, project, asked)
        buckets = found.buckets
        return project_service_pb2.GetActivityResponse(
            series=map(_series, found.series),
            total=_series(found.total),
            start_time=timestamp(buckets.start * 1000),
            end_time=timestamp(buckets.end * 1000),
            bucket_seconds=buckets.bucket_s,
            name_count=found.names,
            peak_hours=found.peak_hours,
            counted_since=str(found.counted_since),
        )

    def _question(
        self, request: project_service_pb2.GetActivityRequest, bounds: Bounds
    ) -> Question:
        now_ms = bounds.now_ms
        by = _DIMENSIONS.get(request.dimension)
        if by is None:
            raise invalid_field("dimension", f"{request.dimension} is no ActivityDimension")
        until_ms = self._ms(request.until, "until", now_ms) if request.HasField("until") else now_ms
        since_ms = max(0, until_ms - DAY * 1000)
        if bounds.first is not None and not bounds.trimmed:
            since_ms = min(max(since_ms, bounds.first.ms), until_ms)
        if request.HasField("since"):
            since_ms = self._ms(request.since, "since", now_ms)
            if since_ms > until_ms:
                raise invalid_field("since", "must not be after until")
        length = request.bucket_seconds
        unit = HOUR if length >= HOUR else MINUTE
        if length % unit or length > _MAX_BUCKET_S:
            raise invalid_field(
                "bucket_seconds",
                f"must be a multiple of {unit} and at most {_MAX_BUCKET_S}, not {length}",
            )
        names = list(request.names)
        if by is Total.TOTAL and names:
            raise invalid_field("names", "must be empty where all events are counted together")
        if len(names) > self._limits.filter_entries:
            raise invalid_field("names", f"must have at most {self._limits.filter_entries} entries")
        for index, name in enumerate(names):
            if not 1 <= len(name) <= _NAME_CHARS:
                raise invalid_field(f"names[{index}]", f"must have 1 to {_NAME_CHARS} characters")
        if request.top > _MAX_TOP:
            raise invalid_field("top", f"must be 0 to {_MAX_TOP}, not {request.top}")
        offset = request.utc_offset_minutes
        if abs(offset) > _OFFSET_MINUTES:
            raise invalid_field(
                "utc_offset_minutes", f"must be -{_OFFSET_MINUTES} to {_OFFSET_MINUTES}"
            )
        return Question(
            by,
            since_ms,
            until_ms,
            length,
            frozenset(names),
            request.top or _TOP,
            offset * MINUTE,
        )

    def _ms(self, position: event_pb2.Position, field: str, now_ms: int) -> int:
        moment = fields.moment(position, field)
        if isinstance(moment, Sequence):
            return 0 if moment == BEGINNING else moment.ms
        check_not_in_future(moment.unix_ms, now_ms)
        return moment.unix_ms


def _series(series: Series) -> project_service_pb2.ActivitySeries:
    return project_service_pb2.ActivitySeries(
        name=series.name, total=series.total, counts=series.counts
    )
