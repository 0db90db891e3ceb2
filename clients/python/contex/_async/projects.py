"""Methods of `contex.v1.ProjectService`: which projects there are, how large they are and how long
they are kept; erasure, deletion, verification."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING

from contex.backoff import Retry
from contex.lazy import project_service_pb2, project_service_pb2_grpc, wire
from contex.lazy import projects as values

from .answer_stream import AnswerStream
from .calls import AsyncCalls

if TYPE_CHECKING:
    from contex.projects import (
        Activity,
        ActivityDimension,
        DeletedProject,
        Encryption,
        ErasedData,
        ProjectInfo,
        ProjectSummary,
        RemovedEvents,
        Retention,
        RetentionInfo,
        Stats,
        VerifyStep,
    )
    from contex.wire import At

_LONG_S = 600.0
"""Timeout of calls that rewrite what is stored, which may take minutes."""


class AsyncProjectService(AsyncCalls):
    """See `AsyncClient`."""

    @property
    def _projects(self) -> project_service_pb2_grpc.ProjectServiceAsyncStub:
        return self._connection.stub(project_service_pb2_grpc.ProjectServiceStub)

    def list_projects(
        self, name: str = "", *, page_size: int = 100
    ) -> AsyncIterator[ProjectSummary]:
        """Iterates over the projects in the order of their names, fetching page after page.

        Args:
            name: Only names that fit this glob, such as "shop*"; by default all.
        """
        request = wire.message(
            project_service_pb2.ListProjectsRequest, name=name, page_size=page_size
        )
        return self._listed(
            lambda: self._projects.ListProjects,
            request,
            lambda page: map(values.project_summary, page.projects),
        )

    async def project(self, project: str) -> ProjectInfo:
        """Returns whether a project exists, its size, how it is kept, and its last deletion."""
        request = wire.message(project_service_pb2.GetProjectRequest, project=project)
        return values.project_info(await self._once(self._projects.GetProject, request))

    async def delete_project(
        self, project: str, *, reason: str, request_id: str | None = None
    ) -> DeletedProject:
        """Removes a project for good, with everything that belongs to it but its audit.

        Args:
            reason: Why, for the audit.
            request_id: Makes the call idempotent; by default a fresh one.

        Raises:
            ProjectNotFound: There is no such project.
            FailedPrecondition: LEGAL_HOLD.
        """
        request = wire.message(
            project_service_pb2.DeleteProjectRequest,
            project=project,
            request_id=request_id or wire.new_request_id(),
            reason=reason,
        )
        response = await self._repeated(self._projects.DeleteProject, request, Retry(_LONG_S))
        return values.deleted_project(response)

    async def stats(self, project: str) -> Stats:
        """Returns a project's size, positions and rate.

        Raises:
            ProjectNotFound: There is no such project.
        """
        request = wire.message(project_service_pb2.GetStatsRequest, project=project)
        response = await self._once(self._projects.GetStats, request)
        return values.stats(response)

    async def activity(
        self,
        project: str,
        dimension: ActivityDimension | None = None,
        *,
        since: At | None = None,
        until: At | None = None,
        bucket_seconds: int = 0,
        names: Iterable[str] = (),
        top: int = 10,
        utc_offset_minutes: int = 0,
    ) -> Activity:
        """Counts events over time.

        Args:
            dimension: What they are counted by; by default all together.
            since: Lower end; by default 24 hours before the upper one, or the first event.
            until: Upper end, included; by default now.
            bucket_seconds: A multiple of 60, or of 3,600 from 3,600 on; 0: the server chooses.
            names: Only these names or globs.
            top: Maximum number of names, 1 to 100.
            utc_offset_minutes: How far local time is ahead of UTC.
        """
        request = wire.message(
            project_service_pb2.GetActivityRequest,
            project=project,
            dimension=wire.enum_number(
                values.ActivityDimension,
                dimension or values.ActivityDimension.TOTAL,
                project_service_pb2.ActivityDimension,
                "dimension",
            ),
            since=wire.position(since, "since"),
            until=wire.position(until, "until"),
            bucket_seconds=bucket_seconds,
            names=wire.several(names, "names"),
            top=top,
            utc_offset_minutes=utc_offset_minutes,
        )
        response = await self._once(self._projects.GetActivity, request)
        return values.activity(response)

    async def retention(self, project: str) -> RetentionInfo:
        """Returns how long a project is kept, and where."""
        request = wire.message(project_service_pb2.GetRetentionRequest, project=project)
        return values.retention_info(await self._once(self._projects.GetRetention, request))

    async def set_retention(self, project: str, retention: Retention) -> Retention:
        """Sets how long a project is kept, replacing all of its earlier settings.

        Returns:
            What is in effect now.
        """
        request = wire.message(
            project_service_pb2.SetRetentionRequest,
            project=project,
            retention=values.to_retention(retention),
        )
        response = await self._repeated(self._projects.SetRetention, request)
        return values.retention(response.effective)

    async def set_encryption(self, project: str, enabled: bool) -> Encryption:
        """Sets whether a project is encrypted at rest as a whole, for events from now on.

        Events that name a subject are encrypted in any case. Turning it on takes a second: then
        every server does it.

        Returns:
            How the project is encrypted now.

        Raises:
            FailedPrecondition: MASTER_KEY_MISSING.
        """
        request = wire.message(
            project_service_pb2.SetEncryptionRequest, project=project, enabled=enabled
        )
        response = await self._repeated(self._projects.SetEncryption, request)
        return values.encryption(response.encryption)

    async def remove_events(self, project: str, before: At, *, reason: str) -> RemovedEvents:
        """Permanently removes archived events before a place, in whole segments.

        Args:
            before: A sequence, a time with a zone, or unix milliseconds.
            reason: Why, for the audit.

        Raises:
            FailedPrecondition: LEGAL_HOLD, ARCHIVE_DISABLED.
        """
        request = wire.message(
            project_service_pb2.RemoveEventsRequest,
            project=project,
            before=wire.position(before, "before"),
            reason=reason,
        )
        response = await self._once(self._projects.RemoveEvents, request, timeout=_LONG_S)
        return values.removed_events(response)

    async def erase(
        self,
        project: str,
        *,
        subject: str | None = None,
        data_key: str | None = None,
        reason: str,
        request_id: str | None = None,
    ) -> ErasedData:
        """Makes payloads unreadable everywhere: those of a subject, or of a data key.

        Args:
            subject: All events whose metadata name this subject; or else:
            data_key: All events of this data key.
            reason: Why: it is recorded in every event that is erased.
            request_id: Makes the call idempotent; by default a fresh one.

        Raises:
            FailedPrecondition: LEGAL_HOLD, ARCHIVE_DISABLED.
            DataKeyNotFound: The data key never had an event.
            ValueError: Not exactly one of subject and data_key is given.
        """
        request = wire.message(
            project_service_pb2.EraseDataRequest,
            **wire.exactly_one(subject=subject, data_key=data_key),
            project=project,
            request_id=request_id or wire.new_request_id(),
            reason=reason,
        )
        response = await self._repeated(self._projects.EraseData, request, Retry(_LONG_S))
        return values.erased_data(response)

    def verify(
        self,
        project: str,
        *,
        repair: bool = False,
        set_aside: bool = False,
        all_deliveries: bool = False,
    ) -> AnswerStream[VerifyStep]:
        """Reads a project end to end and reports differences between copies of the same facts.

        Args:
            repair: Rebuild whatever can be derived from the rest.
            set_aside: Do without archived events that the store does not have; they are kept under
                other names.
            all_deliveries: Judge every delivery in the inboxes of agents, not only some.
        """
        request = wire.message(
            project_service_pb2.VerifyProjectRequest,
            project=project,
            repair=repair,
            set_aside=set_aside,
            all_deliveries=all_deliveries,
        )
        return self._answers(
            lambda metadata: self._projects.VerifyProject(request, metadata=metadata),
            lambda message: [values.verify_step(message)],
        )
