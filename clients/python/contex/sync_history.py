"""What the blocking client asks about the past; `history.py` documents the methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import cast

from . import past_requests, past_responses
from .blocking import StreamCall
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
from .sync_answer_stream import SyncAnswerStream
from .sync_matching import Matching
from .v1 import (
    agent_service_pb2,
    audit_service_pb2,
    project_service_pb2,
    state_service_pb2,
)

_Call = StreamCall[state_service_pb2.StreamStateResponse]


class SyncStateStream(SyncAnswerStream[Datum]):
    """`StateStream` for code without asyncio."""

    def __init__(
        self,
        open_call: Callable[[], _Call],
        progress: StateProgress,
        timeout: float,
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


class History(Matching):
    """Questions about the past.

    A moment is a sequence, a time as RFC 3339 text with a zone, as an aware `datetime`, or in
    unix milliseconds. One that is still to come is refused (`TimeInFuture`, `OutOfRange`), and so
    is one before what can still be read (`SequenceTrimmed`, `RecordsExpired`).
    """

    def get_state(
        self,
        project: str,
        *,
        as_of: At | None = None,
        data_keys: Iterable[str] = (),
        prefix: str = "",
        keys_only: bool = False,
        include_deleted: bool = False,
    ) -> State:
        """Returns a project's data as of a moment, all pages together."""
        request = past_requests.get_state(
            project,
            as_of=as_of,
            data_keys=data_keys,
            prefix=prefix,
            keys_only=keys_only,
            include_deleted=include_deleted,
        )
        return past_responses.state(list(self._pages(self._states.GetState, request)))

    def stream_state(
        self,
        project: str,
        *,
        as_of: At | None = None,
        data_keys: Iterable[str] = (),
        prefix: str = "",
        keys_only: bool = False,
        include_deleted: bool = False,
    ) -> SyncStateStream:
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

        def call() -> _Call:
            return cast(
                _Call,
                self._states.StreamState(request, metadata=self._metadata),
            )

        stream = SyncStateStream(call, StateProgress(request), self._timeout)
        self._streams.add(stream)
        return stream

    def diff_states(
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
        """Returns what differs between two moments, all pages together."""
        request = past_requests.diff_states(
            project,
            base,
            target,
            data_keys=data_keys,
            prefix=prefix,
            keys_only=keys_only,
            omit_patches=omit_patches,
        )
        return past_responses.diff(list(self._pages(self._states.DiffStates, request)))

    def history(
        self,
        project: str,
        data_key: str,
        *,
        as_of: At | None = None,
        omit_patches: bool = False,
        omit_payloads: bool = False,
        page_size: int = 100,
    ) -> Iterator[Revision]:
        """Iterates over the revisions of a data key, newest first."""
        request = past_requests.history(
            project,
            data_key,
            as_of=as_of,
            omit_patches=omit_patches,
            omit_payloads=omit_payloads,
            page_size=page_size,
        )
        return self._history(request)

    def get_revision(self, project: str, data_key: str, revision: int) -> Revision:
        """Returns one revision of a data key."""
        request = state_service_pb2.GetRevisionRequest(
            project=project, data_key=data_key, revision=revision
        )
        response = self._once(self._states.GetRevision, request)
        return past_responses.revision(response.revision)

    def blame(self, project: str, data_key: str, *, as_of: At | None = None) -> Blame:
        """Tells for each field of a JSON datum, or line of a text, which event set it."""
        request = past_requests.blame(project, data_key, as_of)
        return past_responses.blame(self._once(self._states.GetBlame, request))

    def agent_context(
        self,
        project: str,
        agent_id: str,
        *,
        as_of: At | None = None,
        omit_payloads: bool = False,
        near_misses: int = 0,
    ) -> AgentContext:
        """Tells what an agent knew at a moment, what it did not, and why."""
        request = past_requests.agent_context(
            project, agent_id, as_of=as_of, omit_payloads=omit_payloads, near_misses=near_misses
        )
        return past_responses.agent_context(self._once(self._agents.GetAgentContext, request))

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
    ) -> Iterator[Delivery]:
        """Iterates over who was sent an event, or over what was sent to an agent."""
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
    ) -> Iterator[AuditRecord]:
        """Iterates over who did what, when and from where."""
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
    ) -> SyncAnswerStream[AuditPiece]:
        """Streams the audit as a file, in pieces. Arguments as of `audit`."""
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
        return self._answers(self._audit.ExportRecords, request, past_responses.audit_piece)

    def stats(self, project: str) -> Stats:
        """Tells a project's size, positions and rate."""
        request = project_service_pb2.GetStatsRequest(project=project)
        return past_responses.stats(self._once(self._projects.GetStats, request))

    def activity(
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
        """Tells how many events there were, over time, by what they have in common."""
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
        return past_responses.activity(self._once(self._projects.GetActivity, request))

    def _history(self, request: state_service_pb2.GetHistoryRequest) -> Iterator[Revision]:
        for page in self._pages(self._states.GetHistory, request):
            for revision in page.revisions:
                yield past_responses.revision(revision)

    def _deliveries(self, request: agent_service_pb2.ListDeliveriesRequest) -> Iterator[Delivery]:
        for page in self._pages(self._agents.ListDeliveries, request):
            for delivery in page.deliveries:
                yield past_responses.delivery(delivery)

    def _records(self, request: audit_service_pb2.ListRecordsRequest) -> Iterator[AuditRecord]:
        for page in self._pages(self._audit.ListRecords, request):
            for record in page.records:
                yield past_responses.audit_record(record)
