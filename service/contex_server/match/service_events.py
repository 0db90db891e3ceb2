"""What the service's own events hold, where they come from a file."""

from __future__ import annotations

from typing import Any

import orjson

from contex_server.kernel.errors import invalid_field
from contex_server.kernel.model import AGENT_REGISTERED, MATCH_FEEDBACK, Event, Sequence
from contex_server.match.agent_codec import registered_agent


def check_service_event(event_type: str, payload: bytes) -> None:
    """Checks the payload of an event that the service reads again.

    Raises:
        ContexError: INVALID_FIELD: It has not what the service writes.
    """
    try:
        if event_type == AGENT_REGISTERED:
            registered_agent(payload)
        elif event_type == MATCH_FEEDBACK:
            read_feedback(payload)
    except ValueError as error:
        raise invalid_field("payload", f"is none of {event_type}: {error}") from error


def readable_feedback(event: Event) -> dict[str, Any] | None:
    """The fields of a verdict; None if the event is none or is damaged, which `verify` names."""
    if event.event_type != MATCH_FEEDBACK:
        return None
    try:
        return read_feedback(event.payload)
    except ValueError:
        return None


def read_feedback(payload: bytes) -> dict[str, Any]:
    """The fields of a verdict.

    Raises:
        ValueError: It is none.
    """
    fields = orjson.loads(payload)
    if not isinstance(fields, dict):
        raise ValueError("no object")
    texts = [fields.get(name) for name in ("agent_id", "sequence", "data_key", "need", "comment")]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a text is missing")
    if not isinstance(fields.get("useful"), bool) or not isinstance(fields.get("match"), dict):
        raise ValueError("the verdict is missing")
    Sequence.parse(fields["sequence"])
    return fields
