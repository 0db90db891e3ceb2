"""PublishStream: batches are prepared side by side, appended and answered in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
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
from contex_server.kernel.errors import ContexError, Reason, concealed, shutting_down
from contex_server.kernel.model import Append, Appended, Durability, Lane
from contex_server.kernel.right_of_way import RIGHT_OF_WAY

T = TypeVar("T")

_OUTCOME_UNKNOWN = (Reason.STORE_UNAVAILABLE, Reason.INTERNAL)


Refused = Callable[[str, Reason], None]
"""Told of each batch that is refused: its project, and why."""


async def publish_all(
    requests: AsyncIterator[pb.PublishStreamRequest],
    call: Call,
    publisher: Publisher,
    limits: Limits,
    drain: Drain,
    refused: Refused,
) -> None:
    """Publishes the batches of each request of a stream and answers it.

    Raises:
        ContexError: STORE_UNAVAILABLE, INTERNAL: the outcome of what is unanswered is unknown;
            SHUTTING_DOWN once what was read has been answered; INVALID_FIELD for too many batches
            in a request; and what reading raises.
    """
    pipeline = _Pipeline(call, publisher, limits, refused)

    async def read_all() -> None:
        async for request in requests:
            await pipeline.begin(request)

    def stop() -> None:
        reader.cancel()

    reader = asyncio.create_task(read_all())
    drain.add(stop)
    try:
        await asyncio.wait([reader, pipeline.failed], return_when=asyncio.FIRST_COMPLETED)
        if reader.done() and not pipeline.failed.done():
            await pipeline.answered()
        if pipeline.failed.done():
            pipeline.failed.result()
        if drain.started and reader.cancelled():
            raise shutting_down()
        reader.result()
    finally:
        drain.remove(stop)
        reader.cancel()
        await pipeline.close()
        await asyncio.gather(reader, return_exceptions=True)


class _Pipeline:
    """The batches of a stream: prepared side by side, appended and answered in order.

    Attributes:
        failed: Has the error that ends the stream, once there is one.
    """

    def __init__(self, call: Call, publisher: Publisher, limits: Limits, refused: Refused) -> None:
        self._call = call
        self._publisher = publisher
        self._limits = limits
        self._refused = refused
        self._window = asyncio.Semaphore(limits.batches_in_flight)
        self._shares: set[Share] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._last: _Turn | None = None
        self._lane = Lane()
        self._lane_turn = 0
        self._durability: Durability | None = None
        self._appending: set[asyncio.Task[Any]] = set()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def begin(self, request: pb.PublishStreamRequest) -> None:
        """Begins with a request, once there is room for it.

        Raises:
            ContexError: INVALID_FIELD.
        """
        await self._window.acquire()
        fields.check_count("more", len(request.more), self._limits.batches_per_request - 1)
        self._shares.add(share := self._call.take_share())
        before, self._last = self._last, _Turn()
        self._start(self._handle(request, share, before, self._last))

    async def answered(self) -> None:
        """Waits until everything that was begun is answered, or has failed."""
        if self._last is not None:
            answered = self._last.answered
            await asyncio.wait([answered, self.failed], return_when=asyncio.FIRST_COMPLETED)

    async def close(self) -> None:
        """Ends what is not answered."""
        for share in self._shares:
            share.give_back()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not self.failed.done():
            self.failed.cancel()

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _handle(
        self, request: pb.PublishStreamRequest, share: Share, before: _Turn | None, turn: _Turn
    ) -> None:
        try:
            with RIGHT_OF_WAY.taken():
                response = await self._response(request, before, turn)
            if before is not None:
                await before.answered
            self._window.release()
            self._shares.discard(share)
            share.give_back()
            await self._call.write(response.SerializeToString())
            turn.answered.set_result(None)
        except Exception as error:
            if before is not None:
                await before.answered  # What comes before it may yet be answered.
            if not self.failed.done():
                self.failed.set_exception(error)

    async def _response(
        self, request: pb.PublishStreamRequest, before: _Turn | None, turn: _Turn
    ) -> pb.PublishStreamResponse:
        started = time.perf_counter()
        batches = [request.publish, *request.more]
        if request.more:
            preparing = [self._start(self._prepare(batch)) for batch in batches]
            prepared = await asyncio.gather(*preparing)
        else:
            prepared = [await self._prepare(request.publish)]
        if before is not None:
            await before.appending
        appends = [await self._append(one, alone=not request.more) for one in prepared]
        # Whoever waits for it goes on when this waits: a single append is under way by then.
        turn.appending.set_result(None)
        response = pb.PublishStreamResponse(max_batches=self._limits.batches_per_request)
        outcomes: list[pb.PublishStreamResponse | pb.PublishOutcome]
        outcomes = [response, *(response.more.add() for _ in request.more)]
        for outcome, batch, append in zip(outcomes, batches, appends, strict=True):
            outcome.request_id = batch.request_id
            code, reason = "OK", ""
            try:
                if isinstance(append, ContexError):
                    raise append
                put_published(outcome.published, await append)
            except ContexError as error:
                if error.reason in _OUTCOME_UNKNOWN:
                    # "Refused" promises that nothing was appended. The client resends what is
                    # unanswered, with the same request ids.
                    raise
                told = error if self._call.scope.is_open else concealed(error)
                outcome.refused.CopyFrom(_refusal_message(told))
                self._refused(batch.project, error.reason)
                code, reason = error.reason.code.name, error.reason.value
            self._call.count("Publish", code, reason, time.perf_counter() - started)
        return response

    async def _prepare(self, batch: pb.PublishRequest) -> Append | ContexError:
        try:
            fields.project(batch.project)
            scope = self._call.admit(batch.project)
            append = await checks.read_publish(batch, self._call.origin, self._limits, scope)
            await self._call.admit_publish(batch.project, len(batch.events), batch.ByteSize())
            return await self._publisher.prepare(append)
        except ContexError as error:
            return error

    async def _append(
        self, append: Append | ContexError, *, alone: bool
    ) -> ContexError | Coroutine[Any, Any, Appended] | asyncio.Task[Appended]:
        """What appends behind everything before it; or why it was refused."""
        if isinstance(append, ContexError):
            return append
        if self._appending and (
            append.durability is not self._durability or self._lane.turn != self._lane_turn
        ):
            # The log keeps the order only of appends of one durability, and not of those that
            # are repeated.
            await asyncio.wait(self._appending)
        self._durability, self._lane_turn = append.durability, self._lane.turn
        append.lane, append.turn = self._lane, self._lane_turn
        work = self._publisher.append(append, set(self._appending))
        appending = asyncio.current_task() if alone else self._start(work)
        assert appending is not None
        self._appending.add(appending)
        appending.add_done_callback(self._appending.discard)
        return work if alone else appending


class _Turn:
    """How far a request of the stream is: whoever comes next waits for it."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.appending: asyncio.Future[None] = loop.create_future()
        self.answered: asyncio.Future[None] = loop.create_future()


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
