"""A small event service to test the client against: in memory, over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
from contex.v1 import (
    agent_service_pb2,
    agent_service_pb2_grpc,
    event_pb2,
    event_service_pb2,
    event_service_pb2_grpc,
    match_service_pb2,
    match_service_pb2_grpc,
)
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


def event(number: int) -> event_pb2.Event:
    return event_pb2.Event(
        sequence=f"{number}-0", event_type="data_published", data_key="k", payload=b"%d" % number
    )


def rich_status(
    code: grpc.StatusCode,
    message: str = "no",
    *,
    reason: str = "",
    metadata: dict[str, str] | None = None,
    retry_after: float | None = None,
    violations: tuple[tuple[str, str], ...] = (),
) -> status_pb2.Status:
    status = status_pb2.Status(code=code.value[0], message=message)
    details: list[error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo] = []
    if reason:
        details.append(
            error_details_pb2.ErrorInfo(reason=reason, domain="contex.dev", metadata=metadata or {})
        )
    if retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(retry_after * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if violations:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=f, description=d)
                    for f, d in violations
                ]
            )
        )
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def trailers(status: status_pb2.Status) -> tuple[tuple[str, bytes], ...]:
    return (("grpc-status-details-bin", status.SerializeToString()),)


class FakeEvents(event_service_pb2_grpc.EventServiceServicer):
    """A log of numbered events; streams break where `breaks` says so."""

    def __init__(self) -> None:
        self.agents = FakeAgents()
        self.log: list[event_pb2.Event] = []
        self.answers: dict[str, event_service_pb2.PublishResponse] = {}
        self.publish_attempts: list[str] = []
        self.requests: list[event_service_pb2.SubscribeRequest] = []
        self.lose_answers = 0
        """How many publishes are appended and then answered UNAVAILABLE."""
        self.break_after: list[int] = []
        """After how many messages the next streams break; then they don't."""
        self.hang = False
        self.mistaken = False
        """Whether answers to batches of a stream name another request."""
        self.stream_breaks_after: list[int] = []
        self.refuse: set[str] = set()
        self.changed = asyncio.Condition()

    async def _append(self, request) -> event_service_pb2.PublishResponse:
        if request.request_id in self.answers:
            answer = event_service_pb2.PublishResponse()
            answer.CopyFrom(self.answers[request.request_id])
            answer.duplicate = True
            return answer
        answer = event_service_pb2.PublishResponse(durability=event_pb2.DURABILITY_FSYNC)
        for new in request.events:
            stored = event(len(self.log) + 1)
            stored.data_key, stored.payload = new.data_key, new.payload
            stored.content_type, stored.publisher = new.content_type, request.publisher
            self.log.append(stored)
            answer.receipts.add(sequence=stored.sequence, revision=len(self.log))
        self.answers[request.request_id] = answer
        async with self.changed:
            self.changed.notify_all()
        return answer

    async def Publish(self, request, context):
        self.publish_attempts.append(request.request_id)
        answer = await self._append(request)
        if self.lose_answers:
            self.lose_answers -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        return answer

    async def PublishStream(self, requests, context):
        answered = 0
        limit = self.stream_breaks_after.pop(0) if self.stream_breaks_after else None
        async for request in requests:
            if self.hang:
                await asyncio.sleep(60)
            response = event_service_pb2.PublishStreamResponse(
                request_id="another" if self.mistaken else request.publish.request_id
            )
            if request.publish.events[0].data_key in self.refuse:
                response.refused.code = grpc.StatusCode.FAILED_PRECONDITION.value[0]
                response.refused.reason = "REVISION_CONFLICT"
                response.refused.metadata["actual_revision"] = "7"
            else:
                response.published.CopyFrom(await self._append(request.publish))
            if answered == limit:  # appended, but the answer is lost
                await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
            yield response
            answered += 1

    async def ListEvents(self, request, context):
        start = int(request.page_token or 0)
        end = start + request.page_size
        return event_service_pb2.ListEventsResponse(
            events=self.log[start:end], next_page_token=str(end) if end < len(self.log) else ""
        )

    async def Replay(self, request, context):
        position = int(request.cursor or 0)
        sent = 0
        limit = self.break_after.pop(0) if self.break_after else None
        while position < len(self.log):
            if sent == limit:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
            batch = self.log[position : position + 3]
            position += len(batch)
            message = event_service_pb2.ReplayResponse(cursor=str(position))
            message.events.events.extend(batch)
            yield message
            sent += 1

    async def Subscribe(self, request, context):
        self.requests.append(request)
        position = int(request.cursor or 0)
        if not request.cursor and request.edge == event_pb2.EDGE_END:
            position = len(self.log)
        sent, is_live = 0, False
        limit = self.break_after.pop(0) if self.break_after else None
        while True:
            if sent == limit:
                return  # a clean end is a break, too
            message = event_service_pb2.SubscribeResponse()
            if position < len(self.log):
                batch = self.log[position : position + 2]
                position += len(batch)
                message.events.events.extend(batch)
            elif not is_live:
                is_live = True
                message.caught_up.SetInParent()
            elif self.hang:
                await asyncio.sleep(60)
            else:
                async with self.changed:
                    while position >= len(self.log):
                        await self.changed.wait()
                continue
            message.cursor = str(position)
            yield message
            sent += 1


class FakeAgents(agent_service_pb2_grpc.AgentServiceServicer):
    def __init__(self) -> None:
        self.acknowledged: list[str] = []

    async def RegisterAgent(self, request, context):
        response = agent_service_pb2.RegisterAgentResponse(sequence="1-0", cursor="c")
        response.agent.agent_id = request.agent_id
        response.agent.needs.extend(request.needs)
        datum = response.data.add(event=event(1))
        datum.matches.add(need_index=0, need=request.needs[0].text, score=0.7)
        return response

    async def Acknowledge(self, request, context):
        self.acknowledged.append(request.sequence or f"cursor:{request.cursor}")
        return agent_service_pb2.AcknowledgeResponse(
            acknowledged_sequence=request.sequence or "7-0"
        )

    async def Listen(self, request, context):
        if request.agent_id == "changing":
            message = agent_service_pb2.ListenResponse(cursor="c1")
            message.events.events.append(matched(7, "n"))
            yield message
            message = agent_service_pb2.ListenResponse(cursor="c2")
            message.needs_changed.agent.needs.add(text="another")
            yield message
            message = agent_service_pb2.ListenResponse(cursor="c3")
            message.events.events.extend(matched(number, "another") for number in (5, 8, 9))
            yield message
            await asyncio.sleep(60)
        status = rich_status(
            grpc.StatusCode.NOT_FOUND,
            reason="AGENT_NOT_FOUND",
            metadata={"agent_id": request.agent_id},
        )
        await context.abort(grpc.StatusCode.NOT_FOUND, "no", trailers(status))
        yield


def matched(number: int, *needs: str, score: float = 0.5) -> event_pb2.MatchedEvent:
    message = event_pb2.MatchedEvent(event=event(number))
    for index, need in enumerate(needs):
        message.matches.add(need_index=index, need=need, score=score)
    return message


class FakeMatching(match_service_pb2_grpc.MatchServiceServicer):
    """Answers about nothing in particular; notes what it is asked."""

    def __init__(self) -> None:
        self.requests: list[object] = []
        self.unavailable = 0
        """How many calls are answered UNAVAILABLE first."""
        self.break_after: int | None = None
        """After how many messages a backtest breaks."""

    async def _take(self, request, context) -> None:
        self.requests.append(request)
        if self.unavailable:
            self.unavailable -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    async def Match(self, request, context):
        await self._take(request, context)
        response = match_service_pb2.MatchResponse(sequence="9-0")
        for number, question in enumerate(request.questions, 1):
            datum = response.data.add(event=event(number))
            datum.matches.add(need_index=number - 1, need=question.text, score=0.5)
        if request.context_format:
            response.context.format = request.context_format
            response.context.text = "written out"
            response.context.omitted.add(data_key="k", sequence="1-0", score=0.4, tokens=7)
        return response

    async def Explain(self, request, context):
        await self._take(request, context)
        if request.data_key == "missing":
            status = rich_status(
                grpc.StatusCode.NOT_FOUND,
                reason="DATA_KEY_NOT_FOUND",
                metadata={"data_key": "missing"},
            )
            await context.abort(grpc.StatusCode.NOT_FOUND, "no", trailers(status))
        response = match_service_pb2.ExplainResponse(event=event(1), verdict="fits", rank=2)
        response.need_match.parts.standing = 1.5
        response.contributions.add(name="bias", value=1, weight=-2, log_odds=-2)
        response.contributions.add(name="standing", value=1.5, weight=2, log_odds=3)
        response.terms.add(word="payments", stem="payment", weight=0.6, hit=0.5)
        response.passages.add(path="/a", text="words", score=0.7, cosine=0.6, lexical=0.5)
        return response

    async def Backtest(self, request, context):
        await self._take(request, context)
        first = match_service_pb2.BacktestResponse()
        first.progress.events_read, first.progress.events_total = 1, 2
        second = match_service_pb2.BacktestResponse()
        second.events.events.extend([matched(1, "need"), matched(2, "need")])
        last = match_service_pb2.BacktestResponse()
        last.summary.events_judged = 2
        last.summary.needs.add(events_matched=2, events_at_threshold=[2] * 10 + [0] * 9)
        for sent, message in enumerate((first, second, last)):
            if sent == self.break_after:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
            yield message

    async def RecordFeedback(self, request, context):
        await self._take(request, context)
        return match_service_pb2.RecordFeedbackResponse(sequence="10-0")

    async def ExportFeedback(self, request, context):
        await self._take(request, context)
        for number in range(1, 4):
            response = match_service_pb2.ExportFeedbackResponse(
                sequence=f"{number + 10}-0", agent_id="a", need="n", useful=number % 2 == 1
            )
            response.event.CopyFrom(event(number))
            response.time.FromMilliseconds(number)
            yield response

    async def GetMatchingStatus(self, request, context):
        await self._take(request, context)
        return match_service_pb2.GetMatchingStatusResponse(
            model="a", configured_model="b", texts_embedded=1, texts_total=4, default_threshold=0.3
        )


@contextlib.asynccontextmanager
async def serving(
    events: FakeEvents, port: int = 0, matching: FakeMatching | None = None
) -> AsyncIterator[int]:
    server = aio.server(options=[("grpc.so_reuseport", 0)])
    event_service_pb2_grpc.add_EventServiceServicer_to_server(events, server)
    agent_service_pb2_grpc.add_AgentServiceServicer_to_server(events.agents, server)
    match_service_pb2_grpc.add_MatchServiceServicer_to_server(matching or FakeMatching(), server)
    checks = health.aio.HealthServicer()
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)
