"""What the asyncio client asks about the past: states, histories, and what is on record."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import cast

from . import past_requests, past_responses
from .answer_stream import AnswerCall, AnswerStream
from .matching import AsyncMatching
from .moments import At
from .past import Blame, Datum, Moment, Revision, State, StateDiff
from .past_responses import StateProgress
from .records import (
    Activity,
    ActivityDimension,
    AgentContext,
    AuditAction,
    AuditFormat,
    AuditPiece,
    AuditRecord,
    Delivery,
    Stats,
)
from .retry import Retry
from .v1 import (
    agent_service_pb2,
    audit_service_pb2,
    project_service_pb2,
    state_service_pb2,
)


class StateStream(AnswerStream[Datum]):
    """The data of a state, as they arrive; after a lost connection it goes on by itself."""

    def __init__(
        self, open_call: Callable[[], AnswerCall], progress: StateProgress, timeout: float
    ) -> None:
        super().__init__(open_call, progress.take, lambda: Retry(timeout))
        self._progress = progress

    @property
    def as_of(self) -> Moment:
        """The moment.

        Raises:
            RuntimeError: Nothing has come yet.
        """
        if self._progress.as_of is None:
            raise RuntimeError("the moment is known once the first message has come")
        return self._progress.as_of

    @property
    def data_count(self) -> int:
        """How many data there are in all."""
        return self._progress.data_count


class AsyncHistory(AsyncMatching):
    """Questions about the past.

    A moment is a sequence, a time as RFC 3339 text with a zone, as an aware `datetime`, or in
    unix milliseconds. One that is still to come is refused (`TimeInFuture`, `OutOfRange`), and so
    is one before what can still be read (`SequenceTrimmed`, `RecordsExpired`).
    """

    async def get_state(
        self,
        project: str,
        *,
        as_of: At | None = None,
        data_keys: Iterable[str] = (),
        prefix: str = "",
        keys_only: bool = False,
        include_deleted: bool = False,
    ) -> State:
        """Returns a project's data as of a moment, all pages together.

        Args:
            project: The project.
            as_of: The moment; by default now.
            data_keys: Only data whose key fits one of these keys or globs.
            prefix: Only data whose key starts with this.
            keys_only: No events, only keys, revisions and sequences.
            include_deleted: Also deleted keys, with the event that deleted each.
        """
        request = past_requests.get_state(
            project,
            as_of=as_of,
            data_keys=data_keys,
            prefix=prefix,
            keys_only=keys_only,
            include_deleted=include_deleted,
        )
        return past_responses.state(
            [page async for page in self._pages(self._states.GetState, request)]
        )

    def stream_state(
        self,
        project: str,
        *,
        as_of: At | None = None,
        data_keys: Iterable[str] = (),
        prefix: str = "",
        keys_only: bool = False,
        include_deleted: bool = False,
    ) -> StateStream:
        """Streams the same, for large projects. Arguments as of `get_state`."""
        request = past_requests.stream_state(
            project,
            as_of=as_of,
            data_keys=data_keys,
            prefix=prefix,
            keys_only=keys_only,
            include_deleted=include_deleted,
        )
        self._check_open()

        def call() -> AnswerCall:
            return cast(AnswerCall, self._states.StreamState(request, metadata=self._metadata))

        stream = StateStream(call, StateProgress(request), self._timeout)
        self._streams.add(stream)
        return stream

    async def diff_states(
        self,
        project: str,
        base: At,
        target: At | None = None,
        *,
        data_keys: Iterable[str] = (),
        prefix: str = "",
        keys_only: bool = False,
        omit_patches: bool = False,
    ) -> StateDiff:
        """Returns what differs between two moments, all pages together.

        Args:
            project: The project.
            base: The earlier moment.
            target: The later one; by default now.
            data_keys: As of `get_state`, like `prefix`.
            prefix: See there.
            keys_only: No events before and after, only keys, revisions and sequences.
            omit_patches: No patches.
        """
        request = past_requests.diff_states(
            project,
            base,
            target,
            data_keys=data_keys,
            prefix=prefix,
            keys_only=keys_only,
            omit_patches=omit_patches,
        )
        return past_responses.diff(
            [page async for page in self._pages(self._states.DiffStates, request)]
        )

    def history(
        self,
        project: str,
        data_key: str,
        *,
        as_of: At | None = None,
        omit_patches: bool = False,
        omit_payloads: bool = False,
        page_size: int = 100,
    ) -> AsyncIterator[Revision]:
        """Iterates over the revisions of a data key, newest first.

        Args:
            project: The project.
            data_key: The key; also one that is deleted.
            as_of: The moment whose newest revision comes first; by default now.
            omit_patches: No patches.
            omit_payloads: No payloads.
            page_size: Revisions a call, 1 to 1,000.

        Raises:
            DataKeyNotFound: The key never had an event.
        """
        request = past_requests.history(
            project,
            data_key,
            as_of=as_of,
            omit_patches=omit_patches,
            omit_payloads=omit_payloads,
            page_size=page_size,
        )
        return self._history(request)

    async def get_revision(self, project: str, data_key: str, revision: int) -> Revision:
        """Returns one revision of a data key.

        Raises:
            DataKeyNotFound: The key never had an event.
            RevisionNotFound: It never had this revision.
        """
        request = state_service_pb2.GetRevisionRequest(
            project=project, data_key=data_key, revision=revision
        )
        response = await self._once(self._states.GetRevision, request)
        return past_responses.revision(response.revision)

    async def blame(self, project: str, data_key: str, *, as_of: At | None = None) -> Blame:
        """Tells for each field of a JSON datum, or line of a text, which event set it.

        Raises:
            DataKeyNotFound: The key is not there at the moment.
        """
        request = past_requests.blame(project, data_key, as_of)
        return past_responses.blame(await self._once(self._states.GetBlame, request))

    async def agent_context(
        self,
        project: str,
        agent_id: str,
        *,
        as_of: At | None = None,
        omit_payloads: bool = False,
        near_misses: int = 0,
    ) -> AgentContext:
        """Tells what an agent knew at a moment, what it did not, and why.

        Args:
            project: The project.
            agent_id: The agent.
            as_of: The moment; by default now.
            omit_payloads: No payloads.
            near_misses: How many data that nearly matched are listed too, up to 100.

        Raises:
            NotFound: The agent was not registered then.
            RecordsExpired: Records of that time are not kept.
        """
        request = past_requests.agent_context(
            project, agent_id, as_of=as_of, omit_payloads=omit_payloads, near_misses=near_misses
        )
        return past_responses.agent_context(await self._once(self._agents.GetAgentContext, request))

    def deliveries(
        self,
        project: str,
        *,
        sequence: str | None = None,
        agent_id: str | None = None,
        since: At | None = None,
        until: At | None = None,
        backwards: bool = False,
        page_size: int = 100,
    ) -> AsyncIterator[Delivery]:
        """Iterates over who was sent an event, or over what was sent to an agent.

        Args:
            project: The project.
            sequence: The event; or else:
            agent_id: The agent.
            since: Lower end of the time of sending; with an agent only, like the next two.
            until: Upper end, included.
            backwards: Newest first.
            page_size: Deliveries a call, 1 to 1,000.

        Raises:
            NotFound: There is no such event or agent.
            ValueError: Not exactly one of event and agent is given.
        """
        request = past_requests.deliveries(
            project,
            sequence=sequence,
            agent_id=agent_id,
            since=since,
            until=until,
            backwards=backwards,
            page_size=page_size,
        )
        return self._deliveries(request)

    def audit(
        self,
        project: str,
        *,
        since: At | None = None,
        until: At | None = None,
        actions: Iterable[AuditAction] = (),
        actors: Iterable[str] = (),
        agent_ids: Iterable[str] = (),
        data_keys: Iterable[str] = (),
        request_id: str = "",
        backwards: bool = False,
        page_size: int = 100,
    ) -> AsyncIterator[AuditRecord]:
        """Iterates over who did what, when and from where.

        Args:
            project: The project.
            since: Lower end of the time; by default the oldest record.
            until: Upper end, included; by default now.
            actions: Only these actions.
            actors: Only by these.
            agent_ids: Only about these agents.
            data_keys: Only about data whose key fits one of these keys or globs.
            request_id: Only of this request.
            backwards: Newest first.
            page_size: Records a call, 1 to 1,000.
        """
        request = past_requests.audit(
            project,
            since=since,
            until=until,
            actions=actions,
            actors=actors,
            agent_ids=agent_ids,
            data_keys=data_keys,
            request_id=request_id,
            backwards=backwards,
            page_size=page_size,
        )
        return self._records(request)

    def export_audit(
        self,
        project: str,
        format: AuditFormat = AuditFormat.CSV,
        *,
        since: At | None = None,
        until: At | None = None,
        actions: Iterable[AuditAction] = (),
        actors: Iterable[str] = (),
        agent_ids: Iterable[str] = (),
        data_keys: Iterable[str] = (),
        request_id: str = "",
    ) -> AnswerStream[AuditPiece]:
        """Streams the audit as a file, in pieces. Arguments as of `audit`.

        Raises:
            FormatUnavailable: The server lacks what the format needs.
        """
        request = past_requests.export_audit(
            project,
            format,
            since=since,
            until=until,
            actions=actions,
            actors=actors,
            agent_ids=agent_ids,
            data_keys=data_keys,
            request_id=request_id,
        )
        return self._answers(lambda: self._audit.ExportRecords, request, past_responses.audit_piece)

    async def stats(self, project: str) -> Stats:
        """Tells a project's size, positions and rate."""
        request = project_service_pb2.GetStatsRequest(project=project)
        return past_responses.stats(await self._once(self._projects.GetStats, request))

    async def activity(
        self,
        project: str,
        dimension: ActivityDimension = ActivityDimension.TOTAL,
        *,
        since: At | None = None,
        until: At | None = None,
        bucket_seconds: int = 0,
        names: Iterable[str] = (),
        top: int = 10,
        utc_offset_minutes: int = 0,
    ) -> Activity:
        """Tells how many events there were, over time, by what they have in common.

        Args:
            project: The project.
            dimension: By what they are counted.
            since: Lower end; by default 24 hours before the upper one, or the first event.
            until: Upper end, included; by default now.
            bucket_seconds: A multiple of 60, or from 3600 on of 3600; 0: chosen.
            names: Only these names or globs.
            top: How many names, 1 to 100.
            utc_offset_minutes: How far local time is ahead of UTC.
        """
        request = past_requests.activity(
            project,
            dimension,
            since=since,
            until=until,
            bucket_seconds=bucket_seconds,
            names=names,
            top=top,
            utc_offset_minutes=utc_offset_minutes,
        )
        return past_responses.activity(await self._once(self._projects.GetActivity, request))

    async def _history(
        self, request: state_service_pb2.GetHistoryRequest
    ) -> AsyncIterator[Revision]:
        async for page in self._pages(self._states.GetHistory, request):
            for revision in page.revisions:
                yield past_responses.revision(revision)

    async def _deliveries(
        self, request: agent_service_pb2.ListDeliveriesRequest
    ) -> AsyncIterator[Delivery]:
        async for page in self._pages(self._agents.ListDeliveries, request):
            for delivery in page.deliveries:
                yield past_responses.delivery(delivery)

    async def _records(
        self, request: audit_service_pb2.ListRecordsRequest
    ) -> AsyncIterator[AuditRecord]:
        async for page in self._pages(self._audit.ListRecords, request):
            for record in page.records:
                yield past_responses.audit_record(record)
