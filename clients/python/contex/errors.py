"""Typed exceptions, one for each way a call can fail.

An error of the service carries a reason (see `contex.v1.ErrorReason`). An error without one comes
from the transport or from a proxy on the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import grpc

from .tls import handshake_problem

if TYPE_CHECKING:
    from google.protobuf import any_pb2

    from .agents import AgentProgress
    from .v1 import event_service_pb2

_NO_ANSWER = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_DETAILS = "grpc-status-details-bin"
UNREACHABLE = "SERVER_UNREACHABLE"
"""Why a call is unavailable if the server did not say so itself."""

_REASON_PREFIX = "ERROR_REASON_"
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


class ContexError(Exception):
    """A call was refused, or did not get through.

    Attributes:
        message: A text for people.
        code: The canonical gRPC code.
        reason: Name of the `ErrorReason` without its prefix; `SERVER_UNREACHABLE` if nothing
            answered, and empty if another error does not come from the service.
        metadata: Facts about the error, such as `actual_revision`.
        retry_after: Seconds to wait before a retry, if the server asked for that.
        violations: The fields that were refused, each with a description of what is allowed.
    """

    def __init__(
        self,
        message: str = "",
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        violations: Iterable[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after
        self.violations = tuple(violations)

    def __str__(self) -> str:
        return f"{self.reason or self.code.name}: {self.message}"


class InvalidArgument(ContexError):
    """The request is wrong; `violations` names the fields. Fix it instead of retrying."""


class NotFound(ContexError):
    """There is no such project, event, agent or datum."""


class ProjectNotFound(NotFound):
    """The project has never had an event, or was deleted since. It begins with its first event."""

    @property
    def delete_time(self) -> str:
        """When it was deleted, RFC 3339; empty if it never was."""
        return self.metadata.get("delete_time", "")


class DataKeyNotFound(NotFound):
    """The data key has no event, or is deleted, at the moment asked about."""

    @property
    def data_key(self) -> str:
        """The key that has no datum."""
        return self.metadata.get("data_key", "")


class RevisionNotFound(NotFound):
    """The data key never had this revision."""

    @property
    def actual_revision(self) -> int:
        """Its newest revision."""
        return int(self.metadata.get("actual_revision", "0"))


class AccessNotFound(NotFound):
    """There is no such key, binding, role or tenant, or the caller does not administer it."""

    @property
    def kind(self) -> str:
        """What there is none of: "key", "binding", "role" or "tenant"."""
        return self.metadata.get("kind", "")

    @property
    def name(self) -> str:
        """Its name."""
        return self.metadata.get("name", "")


class Unauthenticated(ContexError):
    """The call has no valid credentials. Give the client an `api_key` or a `token`."""

    @property
    def cause(self) -> str:
        """What is wrong with them: "MISSING", "INVALID", "EXPIRED" or "REVOKED"."""
        return self.metadata.get("cause", "")


class PermissionDenied(ContexError):
    """The caller may not do this here, whether what it named exists or not.

    `access.can` says why.
    """

    @property
    def identity(self) -> str:
        """Who called."""
        return self.metadata.get("identity", "")

    @property
    def method(self) -> str:
        """The RPC."""
        return self.metadata.get("method", "")

    @property
    def project(self) -> str:
        """Where."""
        return self.metadata.get("project", "")


class FailedPrecondition(ContexError):
    """The system is not in the state that the call requires."""


class RevisionConflict(FailedPrecondition):
    """Somebody else published first: read the datum again, then decide again."""

    @property
    def data_key(self) -> str:
        """The key whose revision is not the expected one."""
        return self.metadata.get("data_key", "")

    @property
    def actual_revision(self) -> int:
        """The key's revision."""
        return int(self.metadata.get("actual_revision", "0"))

    @property
    def actual_state(self) -> str:
        """What the key is: "absent", "present" or "deleted"; empty if the server is older."""
        return self.metadata.get("actual_state", "")


class ClaimLost(FailedPrecondition):
    """A delivery is no longer this consumer's: somebody else may have it.

    Nothing was changed. Only if the connection broke before the answer came, and was away for
    longer than the claim lasted, it may have been: the message says so.
    """

    @property
    def delivery_id(self) -> str:
        """Names the delivery and its attempt."""
        return self.metadata.get("delivery_id", "")


class AccessInUse(FailedPrecondition):
    """The role or tenant is in use."""

    @property
    def kind(self) -> str:
        """What it is: "role" or "tenant"."""
        return self.metadata.get("kind", "")

    @property
    def name(self) -> str:
        """Its name."""
        return self.metadata.get("name", "")

    @property
    def used_by(self) -> str:
        """What uses it."""
        return self.metadata.get("used_by", "")


class OutOfRange(ContexError):
    """The position lies outside the log."""


class SequenceTrimmed(OutOfRange):
    """The position is older than the oldest event that can still be read.

    Start at `earliest_sequence`, knowing that events were missed.
    """

    @property
    def earliest_sequence(self) -> str:
        """The oldest position that can still be read from."""
        return self.metadata.get("earliest_sequence", "")


class TimeInFuture(OutOfRange):
    """The time lies in the future, by the store's clock."""


class RecordsExpired(OutOfRange):
    """Records of that time are no longer kept, or recording had not begun."""

    @property
    def earliest_time(self) -> str:
        """The earliest time that can be asked about, RFC 3339."""
        return self.metadata.get("earliest_time", "")


class Aborted(ContexError):
    """Others changed the same thing at the same time. A retry can succeed."""


class ConsumerReplaced(Aborted):
    """Another stream has begun that consumes under the same name for the agent."""


class ResourceExhausted(ContexError):
    """The server or its store has no capacity for this now."""


class QuotaExceeded(ResourceExhausted):
    """A limit of the tenant or the project is reached.

    Where it is a rate, `retry_after` says when it allows the call, which the client has waited for
    within its timeout. Any other stays reached until something is removed, or the limit is raised.
    """

    @property
    def limit(self) -> str:
        """The field of `UsageLimits`."""
        return self.metadata.get("limit", "")

    @property
    def value(self) -> int:
        """How much it allows."""
        return int(self.metadata.get("value", "0"))

    @property
    def tenant(self) -> str:
        """Whose limit it is."""
        return self.metadata.get("tenant", "")

    @property
    def project(self) -> str:
        """The project, if it is the limit of each of the tenant's projects."""
        return self.metadata.get("project", "")


class Unavailable(ContexError):
    """The server, or something it needs, can't be reached.

    Its reason is `SERVER_UNREACHABLE` if the error does not come from the service.
    """

    def __init__(
        self,
        message: str = "",
        code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        violations: Iterable[tuple[str, str]] = (),
    ) -> None:
        reason = reason or UNREACHABLE
        super().__init__(message, code, reason, metadata, retry_after, violations)


class AccessChanged(Unavailable):
    """What the caller of a stream may see has changed: it goes on from its cursor in a new call.

    Streams do so by themselves.
    """


class DeadlineExceeded(ContexError):
    """The answer did not arrive in time; whether the call took effect is unknown."""


def not_passed(
    agent_id: str, sequence: str, timeout: float, progress: AgentProgress
) -> DeadlineExceeded:
    """What is raised where an agent was waited for in vain."""
    more = "at least " if progress.has_more_unacknowledged else ""
    decided = progress.decided_sequence or "nothing"
    return DeadlineExceeded(
        f"{agent_id} has not passed {sequence} within {timeout:g} s: {more}"
        f"{progress.unacknowledged_count:,} unacknowledged, decided up to {decided}",
        grpc.StatusCode.DEADLINE_EXCEEDED,
    )


class Unimplemented(ContexError):
    """The server can't do this: it is older, or was installed without an extra."""


class FormatUnavailable(Unimplemented):
    """The server was installed without the extra that this format needs."""

    @property
    def extra(self) -> str:
        """The extra that its operator has to install."""
        return self.metadata.get("extra", "")


class Internal(ContexError):
    """A defect of the service; `metadata["error_id"]` finds it in the server's log."""


class DataLoss(ContexError):
    """Stored data are missing or damaged; `metadata` says which."""


_BY_CODE: dict[grpc.StatusCode, type[ContexError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRange,
    grpc.StatusCode.ABORTED: Aborted,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.INTERNAL: Internal,
    grpc.StatusCode.DATA_LOSS: DataLoss,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
}
_BY_REASON: dict[str, type[ContexError]] = {
    "ACCESS_CHANGED": AccessChanged,
    "ACCESS_IN_USE": AccessInUse,
    "ACCESS_NOT_FOUND": AccessNotFound,
    "CONSUMER_REPLACED": ConsumerReplaced,
    "DATA_KEY_NOT_FOUND": DataKeyNotFound,
    "FORMAT_UNAVAILABLE": FormatUnavailable,
    "PROJECT_NOT_FOUND": ProjectNotFound,
    "QUOTA_EXCEEDED": QuotaExceeded,
    "RECORDS_EXPIRED": RecordsExpired,
    "REVISION_CONFLICT": RevisionConflict,
    "REVISION_NOT_FOUND": RevisionNotFound,
    "SEQUENCE_TRIMMED": SequenceTrimmed,
    "TIME_IN_FUTURE": TimeInFuture,
}


def from_rpc_error(error: grpc.RpcError, route: str = "") -> ContexError:
    """The typed exception for a failed call of either client; `error` is its cause.

    Args:
        error: The failure.
        route: The way to the server, if it is not direct: gRPC names the proxy alone.
    """
    reason, metadata, retry_after = "", dict[str, str](), None
    violations: list[tuple[str, str]] = []
    for detail in _details(error):
        # Imported here because few programs see such an error, and fewer as their first answer.
        from google.rpc import error_details_pb2

        info = error_details_pb2.ErrorInfo()
        retry = error_details_pb2.RetryInfo()
        bad_request = error_details_pb2.BadRequest()
        if detail.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
        elif detail.Unpack(bad_request):
            violations += [(v.field, v.description) for v in bad_request.field_violations]
    code, message = error.code(), error.details() or ""
    if not reason and code is grpc.StatusCode.UNAVAILABLE:
        problem = handshake_problem(message)
        message = f"{problem}: {message}" if problem else message
    if route and not reason and code in _NO_ANSWER:
        message = f"no answer from {route}: {message}"
    typed = _kind(code, reason)(message, code, reason, metadata, retry_after, violations)
    typed.__cause__ = error
    return typed


def from_refusal(refusal: event_service_pb2.Refusal) -> ContexError:
    """The typed exception for a batch that a publish stream refused."""
    code, reason = _CODES.get(refusal.code, grpc.StatusCode.UNKNOWN), refusal.reason
    retry_after = refusal.retry_delay_ms / 1000 if refusal.HasField("retry_delay_ms") else None
    violations = [(v.field, v.description) for v in refusal.field_violations]
    return _kind(code, reason)(
        refusal.message, code, reason, refusal.metadata, retry_after, violations
    )


def is_transient(error: ContexError) -> bool:
    """Whether the same call can succeed later.

    True for what the service declares retryable and for what the transport reports when a
    connection breaks: HTTP/2 resets arrive as INTERNAL, UNKNOWN or CANCELLED, without a reason.
    """
    if error.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return True
    if isinstance(error, ConsumerReplaced):
        return False
    if isinstance(error, QuotaExceeded) and error.retry_after is None:
        return False  # not a rate: time alone does not help
    if error.code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.ABORTED):
        # Without a reason it is the transport's own "message too large".
        return bool(error.reason) or error.retry_after is not None
    return not error.reason and error.code in (
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.CANCELLED,
    )


def _kind(code: grpc.StatusCode, reason: str) -> type[ContexError]:
    return _BY_REASON.get(reason) or _BY_CODE.get(code, ContexError)


def _details(error: grpc.RpcError) -> Iterable[any_pb2.Any]:
    """The details of a `google.rpc.Status`, if there is a valid one of this error."""
    metadata: Any = error.trailing_metadata()  # an iterable of pairs from both kinds of calls
    for key, value in metadata or ():
        if key != _DETAILS:
            continue
        from google.protobuf.message import DecodeError
        from google.rpc import status_pb2

        try:
            status = status_pb2.Status.FromString(value)
        except DecodeError:
            return ()
        if status.code == error.code().value[0]:
            details: Iterable[any_pb2.Any] = status.details
            return details
    return ()
