"""What the fields of an event may be: in a publish as in a file.

All functions raise `ContexError` with the field and its limit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from contex_server.kernel.config import Limits
from contex_server.kernel.errors import ContexError, Reason, invalid_field
from contex_server.kernel.model import DATA_PUBLISHED, DELETIONS, SUBJECT, Event, Sequence
from contex_server.kernel.names import DATA_KEY, EVENT_TYPE, PUBLISHER, SUBJECT_NAME

AHEAD_MS = 24 * 3600 * 1000
"""A stored event is no further in the future: those that are published have to come after it."""
MAX_NUMBER = 2**53
"""Of revisions, and of the events of one millisecond: the store's functions count no further."""
_DIGEST_BYTES = (0, 16)
_ELSE_BYTES = 64 * 1024
"""What an event has besides payload, description and metadata, with a margin."""

_CONTENT_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(?:[ \t]*;[\x20-\x7e]*)?")


def check_content_type(value: str, limits: Limits) -> None:
    """A content type; not for an empty one."""
    if len(value) > limits.content_type_chars or not _CONTENT_TYPE.fullmatch(value):
        raise invalid_field(
            "content_type",
            f"must be a media type of at most {limits.content_type_chars} characters",
        )


def check_description(value: str, limits: Limits) -> None:
    """A publisher's description."""
    if len(value) * 4 > limits.description_bytes:
        size = len(value.encode())
        if size > limits.description_bytes:
            raise invalid_field(
                "description", f"must be at most {limits.description_bytes} bytes, not {size}"
            )


def check_metadata(metadata: Mapping[str, str], limits: Limits, field: str = "metadata") -> None:
    """Metadata, of an event or in a filter; a subject must be one that can be erased by."""
    if len(metadata) > limits.metadata_entries:
        limit = f"must hold at most {limits.metadata_entries}, not {len(metadata)}"
        raise invalid_field(field, limit)
    for key in metadata:
        if not 1 <= len(key) <= limits.metadata_key_chars:
            raise invalid_field(
                field, f"keys must have 1 to {limits.metadata_key_chars} characters"
            )
    if SUBJECT in metadata and not SUBJECT_NAME.fits(metadata[SUBJECT]):
        raise invalid_field(field, f"the subject must be {SUBJECT_NAME.limit}")
    size = sum(len(k.encode()) + len(v.encode()) for k, v in metadata.items())
    if size > limits.metadata_bytes:
        raise invalid_field(
            field, f"must be at most {limits.metadata_bytes} bytes in all, not {size}"
        )


def check_payload(payload: bytes, limits: Limits) -> None:
    """A payload, by its size."""
    if len(payload) > limits.payload_bytes:
        raise too_large("payload", len(payload), limits.payload_bytes)


def too_large(field: str, size: int, limit: int) -> ContexError:
    """The refusal of something that is too large."""
    return ContexError(
        Reason.PAYLOAD_TOO_LARGE,
        f"{field}: {size} bytes, and the limit is {limit}",
        metadata={"size_bytes": str(size), "limit_bytes": str(limit)},
        field=field,
    )


def check_names(data_key: str, event_type: str, publisher: str) -> None:
    """The names that an event has; data must have a key."""
    if data_key or event_type == DATA_PUBLISHED or event_type in DELETIONS:
        DATA_KEY(data_key)
    EVENT_TYPE(event_type)
    if publisher:
        PUBLISHER(publisher)


def check_content(record: Event, limits: Limits, annotations: tuple[str, ...] = ()) -> None:
    """What an event carries; `annotations` are metadata that the service adds itself."""
    check_payload(record.payload, limits)
    check_description(record.description, limits)
    if record.metadata:
        own = {k: v for k, v in record.metadata.items() if k not in annotations}
        check_metadata(own, limits)
    if record.content_type:
        check_content_type(record.content_type, limits)
    if record.deletes and (record.payload or record.content_type):
        raise invalid_field("payload", "must be empty where data are deleted")


def check_validity(record: Event, now_ms: int, limits: Limits) -> None:
    """Until when an event is valid that is published anew; a time that has passed is none ahead."""
    if record.valid_until_ms is None:
        return
    if record.deletes:
        raise invalid_field("valid_until", "must be unset where data are deleted")
    if not record.data_key:
        raise invalid_field("valid_until", "needs a data_key")
    if record.valid_until_ms > now_ms + limits.max_valid_seconds * 1000:
        raise invalid_field(
            "valid_until", f"must be at most {limits.max_valid_seconds} seconds ahead"
        )


def check_place(record: Event, now_ms: int) -> None:
    """What the store gives an event: where it is imported or restored."""
    check_sequence(record.sequence, now_ms)
    if record.revision > MAX_NUMBER:
        raise invalid_field("revision", "must be at most 2^53")
    previous = record.previous_sequence
    if previous is not None and previous >= record.sequence:
        raise invalid_field("previous_sequence", f"must be before {record.sequence}")
    if len(record.text_digest) not in _DIGEST_BYTES:
        raise invalid_field("text_digest", f"must have {_DIGEST_BYTES[1]} bytes")


def check_sequence(sequence: Sequence, now_ms: int, field: str = "sequence") -> None:
    """The sequence of a stored event: what is published has to come after it."""
    if sequence.ms > now_ms + AHEAD_MS:
        raise invalid_field(field, f"{sequence} must be at most a day ahead of this server's clock")
    if sequence.n > MAX_NUMBER:
        raise invalid_field(field, f"{sequence} must have at most 2^53 after the dash")


def check_body(body: bytes, limits: Limits) -> None:
    """An event's bytes, with all that this version does not know."""
    limit = limits.payload_bytes + limits.description_bytes + limits.metadata_bytes + _ELSE_BYTES
    if len(body) > limit:
        raise too_large("event", len(body), limit)
