"""PublishStream: batches are prepared side by side, appended and answered in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from contex.v1 import event_pb2
from contex.v1 import event_service_pb2 as pb

from contex_server.api.events import checks
from contex_server.api.shared import fields
from contex_server.events.publisher import Publisher
from contex_server.kernel.byte_budget import Share
from contex_server.kernel.call import Call
from contex_server.kernel.config import Limits
from contex_server.kernel.drain import Drain
from contex_server.kernel.errors import ContexError, Reason, shutting_down
from contex_server.kernel.model import Append, Appended, Durability, Lane

T = TypeVar("T")

_OUTCOME_UNKNOWN = (Reason.STORE_UNAVAILABLE, Reason.INTERNAL)


_Batch = tuple[str, asyncio.Task[T], Share]
"""The request id of a batch of the stream, what is being done with it, and the share it takes of
what is let in."""
_End = Exception | None
"""Why the stream takes no more batches; None if the client ended it."""


async def publish_all(
    requests: AsyncIterator[pb.PublishStreamRequest],
    call: Call,
    publisher: Publisher,
    limits: Limits,
    drain: Drain,
) -> None:
    """Publishes each batch of a stream and answers it.

    Raises:
        ContexError: STORE_UNAVAILABLE, INTERNAL: the outcome of what is unanswered is unknown;
            SHUTTING_DOWN once what was read has been answered; and what reading raises.
    """
    window = asyncio.Semaphore(limits.batches_in_flight)
    inbox: asyncio.Queue[_Batch[Append] | _End] = asyncio.Queue()
    outbox: asyncio.Queue[_Batch[Appended] | _End] = asyncio.Queue()
    tasks: set[asyncio.Task[Any]] = set()
    shares: set[Share] = set()

    def start(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        tasks.add(task)
        return task

    async def prepare(request: pb.PublishStreamRequest) -> Append:
        fields.project(request.publish.project)
        append = await checks.read_publish(request.publish, call.origin, limits)
        return await publisher.prepare(append)

    async def append(prepared: asyncio.Task[Append], earlier: set[asyncio.Task[Any]]) -> Appended:
        return await publisher.append(prepared.result(), earlier)

    async def read_all() -> None:
        end: _End = None
        try:
            async for request in requests:
                await window.acquire()
                shares.add(share := call.take_share())
                inbox.put_nowait((request.publish.request_id, start(prepare(request)), share))
        except Exception as error:
            end = error
        inbox.put_nowait(end)

    async def append_all() -> None:
        lane, turn = Lane(), 0
        unfinished: set[asyncio.Task[Any]] = set()
        before: Durability | None = None
        while isinstance(batch := await inbox.get(), tuple):
            request_id, prepared, share = batch
            await asyncio.wait([prepared])
            durability = None
            if not prepared.exception():
                durability = prepared.result().durability
                prepared.result().lane = lane
            if unfinished and (durability is not before or lane.turn != turn):
                # The log keeps the order only of appends of one durability, and not of those
                # that are repeated.
                await asyncio.wait(unfinished)
            before, turn = durability, lane.turn
            if durability is not None:
                prepared.result().turn = turn
            last = start(append(prepared, set(unfinished)))
            unfinished.add(last)
            last.add_done_callback(unfinished.discard)
            tasks.discard(prepared)
            outbox.put_nowait((request_id, last, share))
        outbox.put_nowait(batch)

    def stop() -> None:
        inbox.put_nowait(shutting_down())

    drain.add(stop)
    start(read_all())
    start(append_all())
    try:
        while isinstance(batch := await outbox.get(), tuple):
            request_id, appended, share = batch
            response = pb.PublishStreamResponse(request_id=request_id)
            try:
                put_published(response.published, await appended)
            except ContexError as error:
                if error.reason in _OUTCOME_UNKNOWN:
                    # "Refused" promises that nothing was appended. The client resends what
                    # is unanswered, with the same request ids.
                    raise
                response.refused.CopyFrom(_refusal_message(error))
            tasks.discard(appended)
            window.release()
            shares.discard(share)
            share.give_back()
            await call.write(response.SerializeToString())
        if batch is not None:
            raise batch
    finally:
        drain.remove(stop)
        for share in shares:
            share.give_back()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def put_published(message: pb.PublishResponse, appended: Appended) -> None:
    """Says where a publish went."""
    ms, n = appended.first
    add = message.receipts.add
    for index, revision in enumerate(appended.revisions):
        add(sequence=f"{ms}-{n + index}", revision=revision)
    message.durability = event_pb2.Durability.ValueType(appended.durability)
    message.duplicate = appended.duplicate


def _refusal_message(error: ContexError) -> pb.Refusal:
    """An error as the answer to one batch of a stream that goes on."""
    return pb.Refusal(
        code=error.reason.code,
        reason=error.reason.value,
        message=error.message,
        metadata=error.metadata,
        retry_delay_ms=error.retry_after_ms,
        field_violations=[
            pb.FieldViolation(field=field, description=problem)
            for field, problem in error.violations
        ],
    )
