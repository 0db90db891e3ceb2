"""Methods of `contex.v1.AuditService`: who did what, when and from where."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING

from contex.lazy import audit as values
from contex.lazy import audit_service_pb2, audit_service_pb2_grpc, wire

from .answer_stream import AnswerStream
from .calls import AsyncCalls

if TYPE_CHECKING:
    from contex.audit import AuditAction, AuditFormat, AuditPiece, AuditRecord
    from contex.wire import At


class AsyncAuditService(AsyncCalls):
    """See `AsyncClient`."""

    @property
    def _audit(self) -> audit_service_pb2_grpc.AuditServiceAsyncStub:
        return self._connection.stub(audit_service_pb2_grpc.AuditServiceStub)

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
            since: Lower end of the time; by default the oldest record.
            until: Upper end, included; by default now.
            actions: Only these actions.
            actors: Only actions of these actors.
            agent_ids: Only actions about these agents.
            data_keys: Only about data whose key is one of these or matches one of these globs.
            request_id: Only of this request.
            backwards: Newest first.
            page_size: Records per call, 1 to 1,000.
        """
        request = wire.message(
            audit_service_pb2.ListRecordsRequest,
            project=project,
            since=wire.position(since, "since"),
            until=wire.position(until, "until"),
            filter=values.audit_filter(actions, actors, agent_ids, data_keys, request_id),
            order=wire.order(backwards),
            page_size=page_size,
        )
        return self._listed(
            lambda: self._audit.ListRecords,
            request,
            lambda page: map(values.audit_record, page.records),
        )

    def export_audit(
        self,
        project: str,
        format: AuditFormat | None = None,
        *,
        since: At | None = None,
        until: At | None = None,
        actions: Iterable[AuditAction] = (),
        actors: Iterable[str] = (),
        agent_ids: Iterable[str] = (),
        data_keys: Iterable[str] = (),
        request_id: str = "",
    ) -> AnswerStream[AuditPiece]:
        """Streams the audit as a file, in pieces.

        Other arguments as in `audit`.

        Args:
            format: The format of the file; by default CSV.

        Raises:
            FormatUnavailable: The server lacks what the format needs.
        """
        request = wire.message(
            audit_service_pb2.ExportRecordsRequest,
            project=project,
            since=wire.position(since, "since"),
            until=wire.position(until, "until"),
            filter=values.audit_filter(actions, actors, agent_ids, data_keys, request_id),
            format=wire.enum_number(
                values.AuditFormat,
                format or values.AuditFormat.CSV,
                audit_service_pb2.AuditFormat,
                "format",
            ),
        )
        return self._answers(
            lambda metadata: self._audit.ExportRecords(request, metadata=metadata),
            lambda message: [values.audit_piece(message)],
        )
