"""ProjectService: check, call the domain, convert."""

from __future__ import annotations

from contextlib import aclosing

from contex.v1 import project_service_pb2

from contex_server.api.projects import checks, messages
from contex_server.api.shared import fields
from contex_server.events.presence import Presence
from contex_server.kernel.call import Call
from contex_server.kernel.config import Limits
from contex_server.kernel.model import END_OF_TIME
from contex_server.log.port import EventLog
from contex_server.log.projects import Dimension, ProjectStore, Tier
from contex_server.log.state import SnapshotReader
from contex_server.projects.activity import HOUR, rate, read_activity
from contex_server.projects.erasure import Eraser
from contex_server.projects.retention_admin import RetentionAdmin
from contex_server.projects.usage import UsageReader
from contex_server.projects.verification import Verification


class ProjectServicer:
    """See `protos/contex/v1/project_service.proto`."""

    SERVICE = project_service_pb2.DESCRIPTOR.services_by_name["ProjectService"]

    def __init__(
        self,
        log: EventLog,
        store: ProjectStore,
        snapshots: SnapshotReader,
        retention: RetentionAdmin,
        usages: UsageReader,
        eraser: Eraser,
        verification: Verification,
        presence: Presence,
        limits: Limits,
    ) -> None:
        self._log = log
        self._store = store
        self._snapshots = snapshots
        self._retention = retention
        self._usages = usages
        self._eraser = eraser
        self._verification = verification
        self._presence = presence
        self._limits = limits

    async def get_stats(
        self, request: project_service_pb2.GetStatsRequest, call: Call
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
        self, request: project_service_pb2.GetRetentionRequest, call: Call
    ) -> project_service_pb2.GetRetentionResponse:
        """GetRetention."""
        own, effective = await self._retention.retention(fields.project(request.project))
        return project_service_pb2.GetRetentionResponse(
            retention=messages.retention_message(own),
            effective=messages.retention_message(effective),
            has_archive=self._retention.has_archive,
        )

    async def set_retention(
        self, request: project_service_pb2.SetRetentionRequest, call: Call
    ) -> project_service_pb2.SetRetentionResponse:
        """SetRetention."""
        project = fields.project(request.project)
        effective = await self._retention.change(
            project, checks.retention(request.retention), call.origin
        )
        return project_service_pb2.SetRetentionResponse(
            effective=messages.retention_message(effective)
        )

    async def remove_events(
        self, request: project_service_pb2.RemoveEventsRequest, call: Call
    ) -> project_service_pb2.RemoveEventsResponse:
        """RemoveEvents."""
        project = fields.project(request.project)
        removed, first = await self._retention.remove(
            project,
            fields.moment(request.before, "before"),
            checks.reason(request.reason, self._limits),
            call.origin,
        )
        return project_service_pb2.RemoveEventsResponse(
            removed_count=removed, first_sequence=str(first) if first else ""
        )

    async def erase_data(
        self, request: project_service_pb2.EraseDataRequest, call: Call
    ) -> project_service_pb2.EraseDataResponse:
        """EraseData."""
        project = fields.project(request.project)
        subject, data_key = checks.erasure(request)
        count, sequence, duplicate = await self._eraser.erase(
            project,
            subject=subject,
            data_key=data_key,
            request_id=fields.request_id(request.request_id),
            reason=checks.reason(request.reason, self._limits),
            origin=call.origin,
        )
        return project_service_pb2.EraseDataResponse(
            erased_count=count, sequence=str(sequence or ""), duplicate=duplicate
        )

    async def verify_project(
        self, request: project_service_pb2.VerifyProjectRequest, call: Call
    ) -> None:
        """VerifyProject."""
        project = fields.project(request.project)
        steps = self._verification.verify(project, repair=request.repair)
        async with aclosing(steps):
            async for step in steps:
                await call.write(messages.verify_message(step))

    async def get_activity(
        self, request: project_service_pb2.GetActivityRequest, call: Call
    ) -> project_service_pb2.GetActivityResponse:
        """GetActivity."""
        project = fields.project(request.project)
        asked = checks.activity(request, await self._log.bounds(project), self._limits)
        found = await read_activity(self._log, self._store, project, asked)
        return messages.activity_message(found)
