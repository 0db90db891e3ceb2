"""What the fields of an event may be, besides its names: in a publish as in a file.

All functions raise `ContexError` with the field and its limit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from contex_server.kernel.config import Limits
from contex_server.kernel.errors import ContexError, Reason, invalid_field
from contex_server.kernel.model import SUBJECT
from contex_server.kernel.names import SUBJECT_NAME

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
