"""Errors in the domain's terms; `edge/grpc.py` maps them to gRPC statuses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import ParamSpec, Self, TypeVar, cast

from contex_server.kernel.codes import Code

P = ParamSpec("P")
T = TypeVar("T")


class Reason(StrEnum):
    """The reasons of `contex.v1.ErrorReason`, which documents each, with their codes."""

    code: Code

    def __new__(cls, name: str, code: Code) -> Self:
        """A reason is its name; the code comes with it."""
        reason = str.__new__(cls, name)
        reason._value_ = name
        reason.code = code
        return reason

    MALFORMED_REQUEST = "MALFORMED_REQUEST", Code.INVALID_ARGUMENT
    INVALID_FIELD = "INVALID_FIELD", Code.INVALID_ARGUMENT
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE", Code.INVALID_ARGUMENT
    PAYLOAD_MALFORMED = "PAYLOAD_MALFORMED", Code.INVALID_ARGUMENT
    EVENT_TYPE_RESERVED = "EVENT_TYPE_RESERVED", Code.INVALID_ARGUMENT
    CURSOR_INVALID = "CURSOR_INVALID", Code.INVALID_ARGUMENT
    EVENT_NOT_FOUND = "EVENT_NOT_FOUND", Code.NOT_FOUND
    AGENT_NOT_FOUND = "AGENT_NOT_FOUND", Code.NOT_FOUND
    REVISION_CONFLICT = "REVISION_CONFLICT", Code.FAILED_PRECONDITION
    SEQUENCE_TRIMMED = "SEQUENCE_TRIMMED", Code.OUT_OF_RANGE
    SEQUENCE_IN_FUTURE = "SEQUENCE_IN_FUTURE", Code.OUT_OF_RANGE
    AGENT_CONFLICT = "AGENT_CONFLICT", Code.ABORTED
    OVERLOADED = "OVERLOADED", Code.RESOURCE_EXHAUSTED
    STORE_FULL = "STORE_FULL", Code.RESOURCE_EXHAUSTED
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE", Code.UNAVAILABLE
    EMBEDDER_UNAVAILABLE = "EMBEDDER_UNAVAILABLE", Code.UNAVAILABLE
    SHUTTING_DOWN = "SHUTTING_DOWN", Code.UNAVAILABLE
    INTERNAL = "INTERNAL", Code.INTERNAL
    DATA_KEY_NOT_FOUND = "DATA_KEY_NOT_FOUND", Code.NOT_FOUND
    TIME_IN_FUTURE = "TIME_IN_FUTURE", Code.OUT_OF_RANGE
    REVISION_NOT_FOUND = "REVISION_NOT_FOUND", Code.NOT_FOUND
    RECORDS_EXPIRED = "RECORDS_EXPIRED", Code.OUT_OF_RANGE
    FORMAT_UNAVAILABLE = "FORMAT_UNAVAILABLE", Code.UNIMPLEMENTED
    ARCHIVE_UNAVAILABLE = "ARCHIVE_UNAVAILABLE", Code.UNAVAILABLE
    ARCHIVE_DAMAGED = "ARCHIVE_DAMAGED", Code.DATA_LOSS
    ARCHIVE_DISABLED = "ARCHIVE_DISABLED", Code.FAILED_PRECONDITION
    LEGAL_HOLD = "LEGAL_HOLD", Code.FAILED_PRECONDITION
    PROJECT_NOT_EMPTY = "PROJECT_NOT_EMPTY", Code.FAILED_PRECONDITION
    IMPORT_MALFORMED = "IMPORT_MALFORMED", Code.INVALID_ARGUMENT
    IMPORT_IN_PROGRESS = "IMPORT_IN_PROGRESS", Code.FAILED_PRECONDITION
    MASTER_KEY_MISSING = "MASTER_KEY_MISSING", Code.FAILED_PRECONDITION
    KEY_UNAVAILABLE = "KEY_UNAVAILABLE", Code.FAILED_PRECONDITION
    PROJECT_NOT_FOUND = "PROJECT_NOT_FOUND", Code.NOT_FOUND
    RESPONSE_TOO_LARGE = "RESPONSE_TOO_LARGE", Code.FAILED_PRECONDITION
    LOG_CHANGED = "LOG_CHANGED", Code.DATA_LOSS
    CONSUMER_REPLACED = "CONSUMER_REPLACED", Code.ABORTED
    UNAUTHENTICATED = "UNAUTHENTICATED", Code.UNAUTHENTICATED
    PERMISSION_DENIED = "PERMISSION_DENIED", Code.PERMISSION_DENIED
    ACCESS_CHANGED = "ACCESS_CHANGED", Code.UNAVAILABLE
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED", Code.RESOURCE_EXHAUSTED
    ACCESS_NOT_FOUND = "ACCESS_NOT_FOUND", Code.NOT_FOUND
    ACCESS_IN_USE = "ACCESS_IN_USE", Code.FAILED_PRECONDITION


class ContexError(Exception):
    """A refusal with a machine-readable reason.

    Attributes:
        reason: Why, for programs.
        message: Why, for people.
        metadata: Facts about it, by the names that `ErrorReason` documents.
        field: The request field at fault, if one is; of several the first.
        retry_after_ms: When a retry may succeed; None if it can't.
        others: The refusals of other fields.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        metadata: dict[str, str] | None = None,
        field: str | None = None,
        retry_after_ms: int | None = None,
        others: Iterable[ContexError] = (),
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = metadata or {}
        self.field = field
        self.retry_after_ms = retry_after_ms
        self.others = tuple(others)

    @property
    def violations(self) -> list[tuple[str, str]]:
        """Every field at fault with its limit, where a request is outside its limits."""
        if self.reason.code is not Code.INVALID_ARGUMENT:
            return []
        own = [(self.field, self.message.removeprefix(f"{self.field}: "))] if self.field else []
        others = (one for other in self.others for one in other.violations)
        return [*own, *others][:_MOST_PROBLEMS]


class Checks:
    """Makes the checks of a request in a `with` block, and at its end refuses all that failed.

    A check that fails returns None for what it should, which must not be looked at in the block.

    Raises:
        ContexError: As the first check that failed, with the fields of the others.
    """

    def __init__(self) -> None:
        self._problems: dict[str | None, ContexError] = {}

    def __enter__(self) -> Self:
        return self

    def __call__(self, check: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Makes one check."""
        try:
            return check(*args, **kwargs)
        except ContexError as error:
            if error.reason.code is not Code.INVALID_ARGUMENT:
                raise
            self._note(error)
            return cast(T, None)

    def refuse(self, field: str, problem: str) -> None:
        """Notes that a field is outside its limits."""
        self._note(invalid_field(field, problem))

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ContexError) and error.reason.code is Code.INVALID_ARGUMENT:
            self._problems.setdefault(error.field, error)
        if self._problems and (error is None or isinstance(error, ContexError)):
            first, *others = self._problems.values()
            raise ContexError(
                first.reason,
                first.message,
                metadata=first.metadata,
                field=first.field,
                retry_after_ms=first.retry_after_ms,
                others=[*first.others, *others],
            ) from None

    def _note(self, error: ContexError) -> None:
        self._problems.setdefault(error.field, error)
        if len(self._problems) == _MOST_PROBLEMS:
            raise error


def all_of(checks: Iterable[Callable[[], object]]) -> None:
    """Makes all checks, as in a block of `Checks`."""
    with Checks() as check:
        for one in checks:
            check(one)


_MOST_PROBLEMS = 50


class StartupError(Exception):
    """The server can't start, for a reason that its operator can fix."""


def invalid_field(field: str, problem: str) -> ContexError:
    """A field is outside its limits; `problem` names the limit."""
    return ContexError(Reason.INVALID_FIELD, f"{field}: {problem}", field=field)


def log_changed(project: str, position: object, tail: object) -> ContexError:
    """A position is of another log than the one that there is; `tail` is where that ends."""
    return ContexError(
        Reason.LOG_CHANGED,
        f"the log of project {project!r} has changed: the event {position} that was read is not in "
        f"it, which ends at {tail}; the store lost events, came back from an older copy, or is "
        "another one",
        metadata={"sequence": str(position), "tail_sequence": str(tail)},
    )


def log_lost(project: str, last: object) -> ContexError:
    """The archive has events up to `last` that the store does not have."""
    return ContexError(
        Reason.LOG_CHANGED,
        f"the archive has events of project {project!r} up to {last} that the store does not have: "
        "an operator restores them (contex verify --repair) or does without (--set-aside)",
        metadata={"tail_sequence": str(last)},
    )


def project_not_found(project: str, deleted_ms: int = 0) -> ContexError:
    """There is no such project; with when one of this name was deleted, if it was."""
    if deleted_ms:
        time = datetime.fromtimestamp(deleted_ms / 1000, UTC).isoformat(timespec="milliseconds")
        deleted = time.replace("+00:00", "Z")
        return ContexError(
            Reason.PROJECT_NOT_FOUND,
            f"project {project!r} was deleted at {deleted}",
            metadata={"delete_time": deleted},
            field="project",
        )
    return ContexError(
        Reason.PROJECT_NOT_FOUND,
        f"there is no project {project!r}: nothing was ever published to it",
        field="project",
    )


def agent_not_found(project: str, agent_id: str) -> ContexError:
    """No such agent in the project."""
    return ContexError(
        Reason.AGENT_NOT_FOUND,
        f"agent {agent_id!r} is not registered in project {project!r}",
        metadata={"agent_id": agent_id},
        field="agent_id",
    )


def event_not_found(project: str, sequence: object) -> ContexError:
    """No event of the project has this sequence."""
    return ContexError(
        Reason.EVENT_NOT_FOUND,
        f"no event of project {project!r} has sequence {sequence}",
        field="sequence",
    )


def permission_denied(method: str, project: str, identity: str) -> ContexError:
    """The caller may not do this, whether what it names exists or not."""
    return ContexError(
        Reason.PERMISSION_DENIED,
        f"{identity!r} may not call {method} in project {project!r}",
        metadata={"identity": identity, "method": method, "project": project},
    )


def concealed(error: ContexError) -> ContexError:
    """An error as one is told who does not see the whole project: without where its log begins,
    and where it ends by now."""
    problem = _CONCEALED.get(error.reason)
    if error.reason is Reason.DATA_KEY_NOT_FOUND:
        problem = f"there is no datum {error.metadata['data_key']!r}"
    if problem is None:
        return error
    told = {k: v for k, v in error.metadata.items() if k not in _PLACES}
    return ContexError(
        error.reason,
        problem,
        metadata=told,
        field=error.field,
        retry_after_ms=error.retry_after_ms,
        others=map(concealed, error.others),
    )


_PLACES = {"earliest_sequence", "tail_sequence"}
_CONCEALED = {
    Reason.SEQUENCE_TRIMMED: "this can no longer be read",
    Reason.SEQUENCE_IN_FUTURE: "this is beyond the end of the log",
    Reason.LOG_CHANGED: "the log is not the one that was read",
}
"""What is said instead of a message that names the places."""


def store_unavailable(cause: object) -> ContexError:
    """The store can't be reached; the outcome of calls in flight is unknown."""
    return ContexError(
        Reason.STORE_UNAVAILABLE, f"the store is unavailable: {cause}", retry_after_ms=500
    )


def embedder_unavailable(cause: object) -> ContexError:
    """The embedding model failed."""
    return ContexError(
        Reason.EMBEDDER_UNAVAILABLE,
        f"the embedding model is unavailable: {cause}",
        retry_after_ms=1000,
    )


def shutting_down() -> ContexError:
    """The server is going away."""
    return ContexError(Reason.SHUTTING_DOWN, "the server is shutting down", retry_after_ms=200)
