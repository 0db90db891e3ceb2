"""A service with canned answers to run commands against, over a real socket."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
from contex.v1 import (
    agent_service_pb2,
    agent_service_pb2_grpc,
    event_pb2,
    match_service_pb2,
    match_service_pb2_grpc,
)

NEED = "which payment providers can we use?"


def event(key: str = "payments.yaml", number: int = 1) -> event_pb2.Event:
    return event_pb2.Event(
        sequence=f"176400000012{number}-0",
        event_type="data_published",
        data_key=key,
        payload=b'{"providers":["stripe","adyen"]}',
        description="Payment providers",
        revision=3,
    )


def matched(key: str = "payments.yaml", number: int = 1) -> event_pb2.MatchedEvent:
    message = event_pb2.MatchedEvent(event=event(key, number), context=f"# {key}")
    message.matches.append(match())
    return message


def match(*, relative: bool = False) -> event_pb2.Match:
    message = event_pb2.Match(
        need_index=0, need=NEED, score=0.83, path="/providers/0-1", passage="stripe adyen"
    )
    parts = message.parts
    parts.cosine, parts.threshold, parts.model, parts.scorer = 0.61, 0.35, "minilm", "s1"
    parts.background_mean, parts.background_deviation, parts.standing = 0.2, 0.1, 2.41
    parts.background_passages, parts.background_sequence = 900, "5-0"
    if relative:
        parts.lexical, parts.share = 0.42, -1.2
    else:
        parts.usual_cosine, parts.coverage, parts.expected_coverage = 0.05, 0.8, 0.12
    return message


def context() -> event_pb2.PromptContext:
    message = event_pb2.PromptContext(
        text="- data_key: payments.yaml",
        format=event_pb2.CONTEXT_FORMAT_YAML,
        tokens=120,
        token_counter="estimate",
        omitted_count=3,
        omitted_tokens=21_000,
    )
    message.omitted.add(data_key="big", sequence="7-0", score=0.4, tokens=9000)
    return message


def agent(request: Any) -> agent_service_pb2.Agent:
    message = agent_service_pb2.Agent(
        agent_id=request.agent_id, threshold=0.35, max_matches=10, acknowledged_sequence="1-0"
    )
    message.needs.extend(getattr(request, "needs", ()))
    return message


class Agents(agent_service_pb2_grpc.AgentServiceServicer):
    """Registers whatever it is asked to; a stream brings events and a change of the needs."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.filters: list[str] = []
        """The data keys of a need that is a filter, which each agent has then."""

    def RegisterAgent(self, request, _context):
        self.requests.append(request)
        response = agent_service_pb2.RegisterAgentResponse(
            agent=agent(request), data=[matched()], sequence="9-0", cursor="c"
        )
        if request.agent_id == "known":
            response.outcome = agent_service_pb2.REGISTRATION_OUTCOME_UNCHANGED
        if request.context_format or request.HasField("max_context_tokens"):
            response.context.CopyFrom(context())
        return response

    def UpdateAgent(self, request, _context):
        self.requests.append(request)
        return agent_service_pb2.UpdateAgentResponse(agent=agent(request), sequence="9-0")

    def GetAgent(self, request, _context):
        response = agent_service_pb2.GetAgentResponse(agent=agent(request))
        response.agent.needs.add(
            text=NEED,
            threshold=0.5,
            max_matches=3,
            exclude_data_keys=["test/*", "tmp/*"],
            id="0a1b2c3d",
        )
        response.agent.needs.add(text="weather")
        if self.filters:
            response.agent.needs.add(max_matches=3).filter.data_keys.extend(self.filters)
        response.agent.min_delta.json_pointers.extend(["/price", ""])
        response.agent.muted_kinds.append(event_pb2.MATCH_KIND_EXPIRED)
        response.agent.exclude_own = True
        return response

    def Listen(self, request, context):
        self.requests.append(request)
        first = agent_service_pb2.ListenResponse(cursor="c1")
        first.events.events.append(matched("new", 5))
        first.events.events[0].kind = event_pb2.MATCH_KIND_UPDATED
        yield first
        changed = agent_service_pb2.ListenResponse(cursor="c2")
        changed.needs_changed.agent.needs.add(text="another")
        yield changed
        brought = agent_service_pb2.ListenResponse(cursor="c3")
        brought.events.events.append(matched("old", 2))
        brought.events.events[0].kind = event_pb2.MATCH_KIND_MATCHED
        left = brought.events.events.add(kind=event_pb2.MATCH_KIND_LEFT)
        left.event.CopyFrom(matched("new", 5).event)
        yield brought
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait(30)

    def Acknowledge(self, request, _context):
        self.requests.append(request)
        return agent_service_pb2.AcknowledgeResponse(acknowledged_sequence=request.sequence)


class Matching(match_service_pb2_grpc.MatchServiceServicer):
    """Answers about one datum."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.texts_embedded: list[int] = []
        """What the next questions for the status tell; then it is done."""
        self.data_indexed: list[int] = []
        """The same of an index that is being built."""

    def Match(self, request, _context):
        self.requests.append(request)
        response = match_service_pb2.MatchResponse(sequence="9-0", data=[matched()])
        if request.max_matches == 100:
            self._add_many(response, len(request.questions))
        if request.context_format or request.HasField("max_context_tokens"):
            response.context.CopyFrom(context())
        if request.max_context_tokens == 1:
            del response.data[:]
        return response

    @staticmethod
    def _add_many(response: match_service_pb2.MatchResponse, questions: int) -> None:
        """Three data for each question but the last, which gets a full answer: 0.90, 0.89, …."""
        del response.data[:]
        for index in range(questions):
            scores = (
                [0.9, 0.61, 0.2] if index < questions - 1 else [0.9 - i / 200 for i in range(100)]
            )
            for score in scores:
                datum = matched(f"k{score:.3f}")
                datum.matches[0].need_index, datum.matches[0].score = index, score
                response.data.append(datum)

    def Explain(self, request, _context):
        """Of the key "relative" as earlier versions scored."""
        self.requests.append(request)
        relative = request.data_key == "relative"
        response = match_service_pb2.ExplainResponse(
            event=event(),
            need_match=match(relative=relative),
            matched=True,
            rank=1,
            data_count=1200,
        )
        response.verdict = "Two words of three hit, far above the project's other data."
        contributions = response.contributions
        contributions.add(name="bias", value=1, weight=-3.1, log_odds=-3.1)
        if relative:
            contributions.add(name="standing", value=2.41, weight=1.5, log_odds=3.615)
            contributions.add(name="lexical", value=0.42, weight=2.55, log_odds=1.071)
        else:
            contributions.add(name="standing", value=2.41, weight=1, log_odds=2.41, needed=0.2)
            contributions.add(name="contrast", value=0.56, weight=1, log_odds=0.56, needed=-1.6)
            contributions.add(name="surplus", value=0.68, weight=2.5, log_odds=1.7, needed=1.25)
        response.terms.add(word="payment", stem="payment", weight=0.5, hit=0.4)
        response.terms.add(word="providers", stem="provid", weight=0.3, hit=0.3)
        response.terms.add(word="use", stem="use", weight=0.2, hit=0)
        response.passages.add(
            path="/providers/0-1", text="stripe adyen", score=0.83, cosine=0.61, lexical=0.42
        )
        response.passages.add(text="payments Payment providers", score=0.7, cosine=0.5)
        return response

    def Backtest(self, request, _context):
        self.requests.append(request)
        response = match_service_pb2.BacktestResponse()
        response.progress.events_read, response.progress.events_total = 10, 40
        yield response
        if not request.summary_only:
            response = match_service_pb2.BacktestResponse()
            response.events.events.append(matched())
            yield response
        response = match_service_pb2.BacktestResponse()
        response.progress.events_read = response.progress.events_total = 40
        yield response
        summary = match_service_pb2.BacktestSummary(
            events_judged=40, events_matched=12, data_keys_matched=4, updates_held_back=2
        )
        counts = [40 - 2 * step for step in range(19)]
        for _ in request.needs:
            summary.needs.add(events_matched=25, events_at_threshold=counts)
        yield match_service_pb2.BacktestResponse(summary=summary)

    def RecordFeedback(self, request, _context):
        self.requests.append(request)
        return match_service_pb2.RecordFeedbackResponse(sequence="10-0")

    def ExportFeedback(self, request, _context):
        self.requests.append(request)
        for useful in (True, False):
            response = match_service_pb2.ExportFeedbackResponse(
                sequence="10-0", agent_id="a", need=NEED, event=event(), need_match=match()
            )
            response.useful, response.comment = useful, "seen"
            response.time.FromMilliseconds(1764000000000)
            yield response

    def GetMatchingStatus(self, request, _context):
        response = match_service_pb2.GetMatchingStatusResponse(
            model="old", configured_model="new", scorer="s1", default_threshold=0.33
        )
        response.data_indexed, response.passages_indexed, response.index_bytes = 1200, 3400, 5 << 20
        if self.texts_embedded:
            response.texts_embedded, response.texts_total = self.texts_embedded.pop(0), 400
        else:
            response.model = "new"
        if self.data_indexed:
            response.data_indexed, response.data_total = self.data_indexed.pop(0), 1200
        return response


@contextlib.contextmanager
def serving() -> Iterator[tuple[str, Agents, Matching]]:
    """Its target, and what answers."""
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    agents, matching = Agents(), Matching()
    agent_service_pb2_grpc.add_AgentServiceServicer_to_server(agents, server)
    match_service_pb2_grpc.add_MatchServiceServicer_to_server(matching, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", agents, matching
    finally:
        server.stop(0).wait()
