"""The one place where errors become gRPC statuses."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from contex_server.kernel.codes import Code, code_of
from contex_server.kernel.errors import ContexError

DOMAIN = "contex.dev"

_STATUS_CODES = {status.value[0]: status for status in grpc.StatusCode}


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: ContexError) -> None:
    """Ends the call with the error's status and details."""
    code = code_of(error.reason)
    info = error_details_pb2.ErrorInfo(
        reason=error.reason.value, domain=DOMAIN, metadata=error.metadata
    )
    details = [info]
    if error.field and code is Code.INVALID_ARGUMENT:
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
    status = status_pb2.Status(code=code, message=error.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    await context.abort(
        _STATUS_CODES[code],
        error.message,
        trailing_metadata=(("grpc-status-details-bin", status.SerializeToString()),),
    )
