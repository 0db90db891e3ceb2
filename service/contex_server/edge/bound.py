"""The bound on messages: what no client could receive is not sent, but refused.

Servicers cut and split what they return so that it fits; this is for what they can't, such as an
event that was published under a larger limit.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
from contex.v1 import event_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from contex_server.kernel.errors import ContexError, Reason

log = structlog.get_logger(__name__)


def bound(method: MethodDescriptor, max_bytes: int) -> Callable[[bytes], bytes]:
    """Returns serialised responses of a method as they are.

    Raises:
        ContexError: RESPONSE_TOO_LARGE, with how to get past the message on a stream.
    """
    message_class = message_factory.GetMessageClass(method.output_type)

    def check(message: bytes) -> bytes:
        if len(message) <= max_bytes:
            return message
        place = _place(message_class.FromString(message))
        name = method.full_name
        log.error("response_too_large", method=name, size_bytes=len(message), **place)
        metadata = {"size_bytes": str(len(message)), "limit_bytes": str(max_bytes), **place}
        problem = f"the response has {len(message)} bytes, and at most {max_bytes} are sent"
        if "cursor" in place:
            problem += '; resume after it with the "cursor" of this error'
        raise ContexError(Reason.RESPONSE_TOO_LARGE, problem, metadata=metadata)

    return check


def _place(message: Message) -> dict[str, str]:
    """Where a message of a stream stands: the position after it, and its first event."""
    cursor, sequence = getattr(message, "cursor", ""), _first_sequence(message)
    return {name: value for name, value in (("cursor", cursor), ("sequence", sequence)) if value}


def _first_sequence(message: Message) -> str:
    if isinstance(message, event_pb2.Event):
        return message.sequence
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for inner in value if field.is_repeated else (value,):
            if sequence := _first_sequence(inner):
                return sequence
    return ""
