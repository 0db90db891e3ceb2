"""The one place where errors become gRPC statuses."""

from __future__ import annotations

import secrets
from typing import Any

import grpc
import structlog
from contex.v1 import error_reason_pb2, event_service_pb2
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from contex_server.kernel.errors import ContexError, Reason

log = structlog.get_logger(__name__)

DOMAIN = "contex.dev"

_CODES = {
    Reason.MALFORMED_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.INVALID_FIELD: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.PAYLOAD_TOO_LARGE: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.PAYLOAD_MALFORMED: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.EVENT_TYPE_RESERVED: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.CURSOR_INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.EVENT_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.DATA_KEY_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.AGENT_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.REVISION_CONFLICT: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.SEQUENCE_TRIMMED: grpc.StatusCode.OUT_OF_RANGE,
    Reason.SEQUENCE_IN_FUTURE: grpc.StatusCode.OUT_OF_RANGE,
    Reason.AGENT_CONFLICT: grpc.StatusCode.ABORTED,
    Reason.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.STORE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.STORE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.EMBEDDER_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.SHUTTING_DOWN: grpc.StatusCode.UNAVAILABLE,
    Reason.INTERNAL: grpc.StatusCode.INTERNAL,
    Reason.TIME_IN_FUTURE: grpc.StatusCode.OUT_OF_RANGE,
    Reason.REVISION_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.RECORDS_EXPIRED: grpc.StatusCode.OUT_OF_RANGE,
    Reason.FORMAT_UNAVAILABLE: grpc.StatusCode.UNIMPLEMENTED,
    Reason.ARCHIVE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.ARCHIVE_DAMAGED: grpc.StatusCode.DATA_LOSS,
    Reason.ARCHIVE_DISABLED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.LEGAL_HOLD: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.PROJECT_NOT_EMPTY: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.IMPORT_MALFORMED: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.IMPORT_IN_PROGRESS: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.MASTER_KEY_MISSING: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.KEY_UNAVAILABLE: grpc.StatusCode.FAILED_PRECONDITION,
}


def code_of(reason: Reason) -> grpc.StatusCode:
    """The canonical code of a reason, as `ErrorReason` documents it."""
    return _CODES[reason]


def as_contex_error(error: BaseException, method: str) -> ContexError:
    """Any exception as an error that may leave the server; a defect is logged, not told."""
    if isinstance(error, ContexError) and error.reason is not Reason.INTERNAL:
        return error
    error_id = secrets.token_hex(8)
    log.error("internal_error", method=method, error_id=error_id, exc_info=error)
    return ContexError(
        Reason.INTERNAL,
        f"internal error {error_id}; the server's log has the details",
        metadata={"error_id": error_id},
    )


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: ContexError) -> None:
    """Ends the call with the error's status and details."""
    code = code_of(error.reason)
    info = error_details_pb2.ErrorInfo(
        reason=error.reason.value, domain=DOMAIN, metadata=error.metadata
    )
    details = [info]
    if error.field and code is grpc.StatusCode.INVALID_ARGUMENT:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=error.field,
                        description=error.message.removeprefix(f"{error.field}: "),
                        reason=error.reason.value,
                    )
                ]
            )
        )
    if error.retry_after_ms is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(error.retry_after_ms)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code.value[0], message=error.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    await context.abort(
        code,
        error.message,
        trailing_metadata=(("grpc-status-details-bin", status.SerializeToString()),),
    )


def refusal(error: ContexError) -> event_service_pb2.Refusal:
    """The error as the answer to one batch of a stream that goes on."""
    reason = error_reason_pb2.ErrorReason.Value(f"ERROR_REASON_{error.reason.value}")
    return event_service_pb2.Refusal(
        code=code_of(error.reason).value[0],
        reason=reason,
        message=error.message,
        metadata=error.metadata,
        retry_delay_ms=error.retry_after_ms or 0,
    )
