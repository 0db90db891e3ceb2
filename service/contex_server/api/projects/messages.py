"""Retention, as the API has it."""

from __future__ import annotations

from contex.v1 import project_service_pb2

from contex_server.kernel.config import Limits
from contex_server.kernel.errors import invalid_field
from contex_server.projects.policy import Retention

_LIMITED = ("store_seconds", "store_events", "store_bytes", "archive_seconds")
_MAX_SECONDS = 3_155_760_000
_MAX_COUNT = 2**53


def retention_message(retention: Retention) -> project_service_pb2.Retention:
    """A retention."""
    return project_service_pb2.Retention(
        store_seconds=retention.store_seconds,
        store_events=retention.store_events,
        store_bytes=retention.store_bytes,
        archive_seconds=retention.archive_seconds,
        legal_hold=retention.legal_hold,
    )


def retention_of(message: project_service_pb2.Retention) -> Retention:
    """Reads a retention."""
    values: dict[str, int] = {}
    for name in _LIMITED:
        if message.HasField(name):  # type: ignore[arg-type]
            value = getattr(message, name)
            limit = _MAX_SECONDS if name.endswith("seconds") else _MAX_COUNT
            if value > limit:
                raise invalid_field(f"retention.{name}", f"must be at most {limit}, not {value}")
            values[name] = value
    return Retention(**values, legal_hold=message.legal_hold)


def reason(value: str, limits: Limits) -> str:
    """Why something is removed."""
    if not 1 <= len(value) <= limits.comment_chars or not value.strip():
        raise invalid_field("reason", f"must have 1 to {limits.comment_chars} characters")
    return value
