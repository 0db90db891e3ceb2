"""Errors in the domain's terms; `edge/grpc.py` maps them to gRPC statuses."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """The reasons of `contex.v1.ErrorReason`, which documents each."""

    MALFORMED_REQUEST = "MALFORMED_REQUEST"
    INVALID_FIELD = "INVALID_FIELD"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    PAYLOAD_MALFORMED = "PAYLOAD_MALFORMED"
    EVENT_TYPE_RESERVED = "EVENT_TYPE_RESERVED"
    CURSOR_INVALID = "CURSOR_INVALID"
    EVENT_NOT_FOUND = "EVENT_NOT_FOUND"
    AGENT_NOT_FOUND = "AGENT_NOT_FOUND"
    REVISION_CONFLICT = "REVISION_CONFLICT"
    SEQUENCE_TRIMMED = "SEQUENCE_TRIMMED"
    SEQUENCE_IN_FUTURE = "SEQUENCE_IN_FUTURE"
    AGENT_CONFLICT = "AGENT_CONFLICT"
    OVERLOADED = "OVERLOADED"
    STORE_FULL = "STORE_FULL"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    EMBEDDER_UNAVAILABLE = "EMBEDDER_UNAVAILABLE"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    INTERNAL = "INTERNAL"
    DATA_KEY_NOT_FOUND = "DATA_KEY_NOT_FOUND"
    TIME_IN_FUTURE = "TIME_IN_FUTURE"
    REVISION_NOT_FOUND = "REVISION_NOT_FOUND"
    RECORDS_EXPIRED = "RECORDS_EXPIRED"
    FORMAT_UNAVAILABLE = "FORMAT_UNAVAILABLE"
    ARCHIVE_UNAVAILABLE = "ARCHIVE_UNAVAILABLE"
    ARCHIVE_DAMAGED = "ARCHIVE_DAMAGED"
    ARCHIVE_DISABLED = "ARCHIVE_DISABLED"
    LEGAL_HOLD = "LEGAL_HOLD"
    PROJECT_NOT_EMPTY = "PROJECT_NOT_EMPTY"
    IMPORT_MALFORMED = "IMPORT_MALFORMED"
    IMPORT_IN_PROGRESS = "IMPORT_IN_PROGRESS"
    MASTER_KEY_MISSING = "MASTER_KEY_MISSING"
    KEY_UNAVAILABLE = "KEY_UNAVAILABLE"


class ContexError(Exception):
    """A refusal with a machine-readable reason.

    Attributes:
        reason: Why, for programs.
        message: Why, for people.
        metadata: Facts about it, by the names that `ErrorReason` documents.
        field: The request field at fault, if one is.
        retry_after_ms: When a retry may succeed; None if it can't.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        metadata: dict[str, str] | None = None,
        field: str | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = metadata or {}
        self.field = field
        self.retry_after_ms = retry_after_ms


class StartupError(Exception):
    """The server can't start, for a reason that its operator can fix."""


def invalid_field(field: str, problem: str) -> ContexError:
    """A field is outside its limits; `problem` names the limit."""
    return ContexError(Reason.INVALID_FIELD, f"{field}: {problem}", field=field)


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


def store_unavailable(cause: object) -> ContexError:
    """The store can't be reached; the outcome of calls in flight is unknown."""
    return ContexError(
        Reason.STORE_UNAVAILABLE,
        f"the store is unavailable: {cause}",
        retry_after_ms=500,
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
