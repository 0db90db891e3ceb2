"""ProjectService: check, call the domain, convert."""

from __future__ import annotations

from contextlib import aclosing

from contex.v1 import project_service_pb2 as pb

from contex_server.api.projects import checks
from contex_server.api.shared import fields
from contex_server.api.shared.convert import convert
from contex_server.api.shared.servicer import Servicer
from contex_server.kernel.call import Call
from contex_server.kernel.model import END_OF_TIME
from contex_server.kernel.protobuf import timestamp
from contex_server.log.projects import Dimension, Tier
from contex_server.projects.activity import HOUR, rate, read_activity


class ProjectServicer(Servicer):
    SERVICE = pb.DESCRIPTOR.services_by_name["ProjectService"]

    async def get_stats(self, request: pb.GetStatsRequest, call: Call) -> pb.GetStatsResponse:
        bounds = await self._log.bounds(call.project)
        snapshot = await self._rooms.storage.snapshots.before(call.project, END_OF_TIME)
        streams = await self._rooms.events.presence.count(call.project, bounds.now_ms)
        hour = bounds.now_ms // 1000 // HOUR
        hours = (hour - 1, hour)
        store = self._rooms.storage.store.projects
        counts = await store.activity(call.project, Dimension.EVENT_TYPE, Tier.MINUTES, hours)
        usage = await self._rooms.projects.usage.of(call.project)
        archived, counters = usage.archived, usage.counters
        by_hour = zip((hour * HOUR for hour in hours), counts, strict=True)
        return pb.GetStatsResponse(
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
        self, request: pb.GetRetentionRequest, call: Call
    ) -> pb.GetRetentionResponse:
        room = self._rooms.projects
        own = await room.retentions.own(call.project)
        return pb.GetRetentionResponse(
            retention=convert(pb.Retention, own),
            effective=convert(pb.Retention, own.over(room.retentions.defaults)),
            has_archive=room.archiver is not None,
        )

    async def set_retention(
        self, request: pb.SetRetentionRequest, call: Call
    ) -> pb.SetRetentionResponse:
        effective = await self._rooms.projects.retention.change(
            call.project, checks.retention(request.retention), call.origin
        )
        return pb.SetRetentionResponse(effective=convert(pb.Retention, effective))

    async def remove_events(
        self, request: pb.RemoveEventsRequest, call: Call
    ) -> pb.RemoveEventsResponse:
        removed, first = await self._rooms.projects.retention.remove(
            call.project,
            fields.moment(request.before, "before"),
            fields.characters(request.reason, 1, self._limits.comment_chars, "reason"),
            call.origin,
        )
        return pb.RemoveEventsResponse(
            removed_count=removed, first_sequence=str(first) if first else ""
        )

    async def erase_data(self, request: pb.EraseDataRequest, call: Call) -> pb.EraseDataResponse:
        subject, data_key = checks.erasure(request)
        count, sequence, duplicate = await self._rooms.projects.eraser.erase(
            call.project,
            subject=subject,
            data_key=data_key,
            request_id=fields.request_id(request.request_id),
            reason=fields.characters(request.reason, 1, self._limits.comment_chars, "reason"),
            origin=call.origin,
        )
        return pb.EraseDataResponse(
            erased_count=count, sequence=str(sequence or ""), duplicate=duplicate
        )

    async def verify_project(self, request: pb.VerifyProjectRequest, call: Call) -> None:
        steps = self._rooms.projects.verification.verify(call.project, repair=request.repair)
        async with aclosing(steps):
            async for step in steps:
                response = convert(
                    pb.VerifyProjectResponse, step, event_count=step.events, total_count=step.total
                )
                await call.write(response.SerializeToString())

    async def get_activity(
        self, request: pb.GetActivityRequest, call: Call
    ) -> pb.GetActivityResponse:
        query = checks.activity(request, await self._log.bounds(call.project), self._limits)
        store = self._rooms.storage.store.projects
        activity = await read_activity(self._log, store, call.project, query)
        buckets = activity.buckets
        return convert(
            pb.GetActivityResponse,
            activity,
            start_time=timestamp(buckets.start * 1000),
            end_time=timestamp(buckets.stop * 1000),
            bucket_seconds=buckets.step,
            name_count=activity.names,
        )
