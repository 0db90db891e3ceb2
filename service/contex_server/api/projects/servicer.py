"""ProjectService: check, call the domain, convert."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from contex.v1 import project_service_pb2 as pb

from contex_server.access.roles import Permission
from contex_server.api.projects import checks
from contex_server.api.shared import cursors, fields
from contex_server.api.shared.convert import convert
from contex_server.api.shared.cursors import Token
from contex_server.api.shared.servicer import Servicer
from contex_server.kernel.call import Call
from contex_server.kernel.errors import Checks
from contex_server.kernel.failures import Failures
from contex_server.kernel.model import END_OF_TIME
from contex_server.kernel.protobuf import timestamp
from contex_server.log.projects import Deletion, Dimension, Tier
from contex_server.projects.activity import HOUR, rate, read_activity

_SEES_SIZE = frozenset({int(Permission.OBSERVE), int(Permission.READ)})


class ProjectServicer(Servicer):
    SERVICE = pb.DESCRIPTOR.services_by_name["ProjectService"]
    _unlisted = Failures("project_damaged")

    async def list_projects(
        self, request: pb.ListProjectsRequest, call: Call
    ) -> pb.ListProjectsResponse:
        with Checks() as check:
            size = check(fields.page_size, request.page_size, self._limits)
            after = check(cursors.decode_text, Token.PROJECTS_PAGE, "", request.page_token)
            fits = check(checks.project_filter, request.name, self._known(call))
        names = await self._rooms.storage.store.projects.names(after, fits, size + 1)
        summaries = await asyncio.gather(
            *(self._summary(name, self._sees_size(call, name)) for name in names[:size])
        )
        response = pb.ListProjectsResponse(projects=filter(None, summaries))
        if len(names) > size:
            response.next_page_token = cursors.encode_text(Token.PROJECTS_PAGE, "", names[size - 1])
        return response

    def _known(self, call: Call) -> Callable[[str], bool]:
        """Whether the caller may know of a project: it has some right there."""
        policy = self._rooms.access.directory.policy
        return lambda project: policy.knows(call.principal, project)

    def _sees_size(self, call: Call, project: str) -> bool:
        policy = self._rooms.access.directory.policy
        scope = policy.scope(call.principal, _SEES_SIZE, project)
        return scope is not None and scope.is_open

    async def _summary(self, project: str, sees_size: bool) -> pb.ProjectSummary | None:
        """What a list tells of a project: its name alone to who may not see how large it is, and
        where what is stored is damaged."""
        with self._unlisted.isolated(project):
            bounds = await self._log.bounds(project)
            if not bounds.exists:
                return None
            if not sees_size:
                return pb.ProjectSummary(project=project)
            counters = await self._rooms.storage.store.projects.counters(project)
            return pb.ProjectSummary(
                project=project,
                event_count=bounds.length,
                first_sequence=str(bounds.first) if bounds.first else "",
                last_sequence=str(bounds.tail),
                event_bytes=counters.bytes,
            )
        return pb.ProjectSummary(project=project)

    async def get_project(self, request: pb.GetProjectRequest, call: Call) -> pb.GetProjectResponse:
        project, store = call.project, self._rooms.storage.store
        exists = (await self._log.bounds(project)).exists
        if not call.scope.is_open:
            retention = await self._retention(project)
            return pb.GetProjectResponse(project=project, exists=exists, retention=retention)
        deletion = await store.projects.deletion(project)
        return pb.GetProjectResponse(
            project=project,
            exists=exists,
            stats=await self._stats(project) if exists else None,
            retention=await self._retention(project),
            model=await store.match.model(project),
            deletion=None if deletion is None else _deletion(deletion),
            encryption=await self._encryption(project),
        )

    async def delete_project(
        self, request: pb.DeleteProjectRequest, call: Call
    ) -> pb.DeleteProjectResponse:
        with Checks() as check:
            request_id = check(checks.required_request_id, request.request_id)
            reason = check(checks.reason, request.reason, self._limits)
        deletion, duplicate = await self._rooms.projects.deleter.delete(
            call.project,
            request_id=request_id,
            reason=reason,
            origin=call.origin,
        )
        return pb.DeleteProjectResponse(deletion=_deletion(deletion), duplicate=duplicate)

    async def get_stats(self, request: pb.GetStatsRequest, call: Call) -> pb.GetStatsResponse:
        return await self._stats(call.project)

    async def _stats(self, project: str) -> pb.GetStatsResponse:
        bounds = await self._log.bounds(project)
        snapshot = await self._rooms.storage.snapshots.before(project, END_OF_TIME)
        streams = await self._rooms.events.presence.count(project, bounds.now_ms)
        hour = bounds.now_ms // 1000 // HOUR
        hours = (hour - 1, hour)
        store = self._rooms.storage.store.projects
        counts = await store.activity(project, Dimension.EVENT_TYPE, Tier.MINUTES, hours)
        usage = await self._rooms.projects.usage.of(project)
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
            compacted_event_count=archived.compacted,
        )

    async def get_retention(
        self, request: pb.GetRetentionRequest, call: Call
    ) -> pb.GetRetentionResponse:
        return await self._retention(call.project)

    async def _retention(self, project: str) -> pb.GetRetentionResponse:
        room = self._rooms.projects
        own = await room.retentions.own(project)
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

    async def set_encryption(
        self, request: pb.SetEncryptionRequest, call: Call
    ) -> pb.SetEncryptionResponse:
        encryption = self._rooms.projects.encryption
        await encryption.change(call.project, enabled=request.enabled, origin=call.origin)
        return pb.SetEncryptionResponse(encryption=await self._encryption(call.project))

    async def _encryption(self, project: str) -> pb.Encryption:
        return convert(pb.Encryption, await self._rooms.projects.encryption.of(project))

    async def remove_events(
        self, request: pb.RemoveEventsRequest, call: Call
    ) -> pb.RemoveEventsResponse:
        with Checks() as check:
            before = check(fields.moment, request.before, "before")
            reason = check(checks.reason, request.reason, self._limits)
        removed, first = await self._rooms.projects.retention.remove(
            call.project, before, reason, call.origin
        )
        return pb.RemoveEventsResponse(
            removed_count=removed, first_sequence=str(first) if first else ""
        )

    async def erase_data(self, request: pb.EraseDataRequest, call: Call) -> pb.EraseDataResponse:
        with Checks() as check:
            target = check(checks.erasure, request)
            request_id = check(checks.required_request_id, request.request_id)
            reason = check(checks.reason, request.reason, self._limits)
        subject, data_key = target
        count, sequence, duplicate = await self._rooms.projects.eraser.erase(
            call.project,
            subject=subject,
            data_key=data_key,
            request_id=request_id,
            reason=reason,
            origin=call.origin,
        )
        return pb.EraseDataResponse(
            erased_count=count, sequence=str(sequence or ""), duplicate=duplicate
        )

    async def verify_project(self, request: pb.VerifyProjectRequest, call: Call) -> None:
        steps = self._rooms.projects.verification.verify(
            call.project,
            repair=request.repair,
            set_aside=request.set_aside,
            all_deliveries=request.all_deliveries,
        )
        async with aclosing(steps):
            async for step in steps:
                response = convert(
                    pb.VerifyProjectResponse,
                    step,
                    event_count=step.events,
                    total_count=step.total,
                    delivery_count=step.deliveries,
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


def _deletion(deletion: Deletion) -> pb.Deletion:
    return pb.Deletion(
        delete_time=timestamp(deletion.unix_ms),
        identity=deletion.identity,
        request_id=deletion.request_id,
        reason=deletion.reason,
        event_count=deletion.events,
    )
