"""The canonical code of every reason: numbers of google.rpc.Code, whatever the transport."""

from __future__ import annotations

from enum import IntEnum

from contex_server.kernel.errors import Reason


class Code(IntEnum):
    """See google/rpc/code.proto."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


_CODES = {
    Reason.MALFORMED_REQUEST: Code.INVALID_ARGUMENT,
    Reason.INVALID_FIELD: Code.INVALID_ARGUMENT,
    Reason.PAYLOAD_TOO_LARGE: Code.INVALID_ARGUMENT,
    Reason.PAYLOAD_MALFORMED: Code.INVALID_ARGUMENT,
    Reason.EVENT_TYPE_RESERVED: Code.INVALID_ARGUMENT,
    Reason.CURSOR_INVALID: Code.INVALID_ARGUMENT,
    Reason.EVENT_NOT_FOUND: Code.NOT_FOUND,
    Reason.DATA_KEY_NOT_FOUND: Code.NOT_FOUND,
    Reason.AGENT_NOT_FOUND: Code.NOT_FOUND,
    Reason.REVISION_CONFLICT: Code.FAILED_PRECONDITION,
    Reason.SEQUENCE_TRIMMED: Code.OUT_OF_RANGE,
    Reason.SEQUENCE_IN_FUTURE: Code.OUT_OF_RANGE,
    Reason.AGENT_CONFLICT: Code.ABORTED,
    Reason.OVERLOADED: Code.RESOURCE_EXHAUSTED,
    Reason.STORE_FULL: Code.RESOURCE_EXHAUSTED,
    Reason.STORE_UNAVAILABLE: Code.UNAVAILABLE,
    Reason.EMBEDDER_UNAVAILABLE: Code.UNAVAILABLE,
    Reason.SHUTTING_DOWN: Code.UNAVAILABLE,
    Reason.INTERNAL: Code.INTERNAL,
    Reason.TIME_IN_FUTURE: Code.OUT_OF_RANGE,
    Reason.REVISION_NOT_FOUND: Code.NOT_FOUND,
    Reason.RECORDS_EXPIRED: Code.OUT_OF_RANGE,
    Reason.FORMAT_UNAVAILABLE: Code.UNIMPLEMENTED,
    Reason.ARCHIVE_UNAVAILABLE: Code.UNAVAILABLE,
    Reason.ARCHIVE_DAMAGED: Code.DATA_LOSS,
    Reason.ARCHIVE_DISABLED: Code.FAILED_PRECONDITION,
    Reason.LEGAL_HOLD: Code.FAILED_PRECONDITION,
    Reason.PROJECT_NOT_EMPTY: Code.FAILED_PRECONDITION,
    Reason.IMPORT_MALFORMED: Code.INVALID_ARGUMENT,
    Reason.IMPORT_IN_PROGRESS: Code.FAILED_PRECONDITION,
    Reason.MASTER_KEY_MISSING: Code.FAILED_PRECONDITION,
    Reason.KEY_UNAVAILABLE: Code.FAILED_PRECONDITION,
}


def code_of(reason: Reason) -> Code:
    """The canonical code of a reason, as `ErrorReason` documents it."""
    return _CODES[reason]
