"""Receipts, refusals and stream messages of events as the API has them."""

from __future__ import annotations

from contex.v1 import error_reason_pb2, event_pb2
from contex.v1 import event_service_pb2 as pb

from contex_server.api.shared import wire
from contex_server.events.feed import Chunk
from contex_server.events.stream import Message
from contex_server.kernel.codes import code_of
from contex_server.kernel.errors import ContexError
from contex_server.kernel.model import Appended


def published_message(appended: Appended) -> pb.PublishResponse:
    """Where a publish went."""
    first = appended.first
    return pb.PublishResponse(
        receipts=[
            pb.Receipt(sequence=f"{first.ms}-{first.n + i}", revision=revision)
            for i, revision in enumerate(appended.revisions)
        ],
        durability=event_pb2.Durability.ValueType(appended.durability),
        duplicate=appended.duplicate,
    )


def refusal_message(error: ContexError) -> pb.Refusal:
    """An error as the answer to one batch of a stream that goes on."""
    reason = error_reason_pb2.ErrorReason.Value(f"ERROR_REASON_{error.reason.value}")
    return pb.Refusal(
        code=code_of(error.reason),
        reason=reason,
        message=error.message,
        metadata=error.metadata,
        retry_delay_ms=error.retry_after_ms or 0,
    )


def subscribe_response(project: str, message: Message) -> bytes:
    """A serialised SubscribeResponse."""
    return wire.stream_response(project, message, _batch)


def _batch(chunk: Chunk) -> tuple[int, bytes]:
    return wire.RESPONSE_EVENTS, wire.batch_bytes(delivery.entry for delivery in chunk.deliveries)
