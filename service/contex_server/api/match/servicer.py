"""MatchService: validate, call the domain, convert."""

from __future__ import annotations

from contextlib import aclosing

from contex.v1 import event_pb2, match_service_pb2

from contex_server.agents.registry import Agents, NeedSpec, with_defaults
from contex_server.api.agents.servicer import DEFAULT_MAX_MATCHES
from contex_server.api.shared import fields, need_fields, wire
from contex_server.api.shared.ranges import log_range
from contex_server.audit.recorder import Audit
from contex_server.edge.grpc import Write
from contex_server.edge.identity import caller
from contex_server.events.feed import Chunk
from contex_server.events.stream import split
from contex_server.kernel.config import Settings
from contex_server.kernel.errors import invalid_field
from contex_server.kernel.model import Need, Sequence
from contex_server.kernel.protobuf import timestamp
from contex_server.log.match import MatchStore
from contex_server.log.port import EventLog
from contex_server.match.backtest import Backtest, Backtests, Progress, Summary
from contex_server.match.feedback import Feedback, Judgement
from contex_server.match.matchers import Matchmaker
from contex_server.match.questions import Questions
from contex_server.match.reembedding import Reembedding
from contex_server.matching.explaining import Explanation


class MatchServicer:
    """See `protos/contex/v1/match_service.proto`."""

    def __init__(
        self,
        settings: Settings,
        log: EventLog,
        store: MatchStore,
        agents: Agents,
        questions: Questions,
        backtests: Backtests,
        feedback: Feedback,
        matchmaker: Matchmaker,
        reembedding: Reembedding,
        audit: Audit,
    ) -> None:
        self._settings = settings
        self._limits = settings.limits
        self._log = log
        self._store = store
        self._agents = agents
        self._questions = questions
        self._backtests = backtests
        self._feedback = feedback
        self._matchmaker = matchmaker
        self._reembedding = reembedding
        self._audit = audit

    async def match(
        self, request: match_service_pb2.MatchRequest
    ) -> match_service_pb2.MatchResponse:
        """Match."""
        limits = self._limits
        maximum = need_fields.max_matches(request.max_matches or DEFAULT_MAX_MATCHES, limits)
        answer = await self._questions.ask(
            fields.project(request.project),
            self._needs(
                need_fields.need_specs(request.questions, "questions", limits),
                need_fields.threshold(request),
                maximum,
            ),
            data_keys=fields.data_keys(request.data_keys, "data_keys", limits),
            as_of=fields.as_of(request.as_of, request.HasField("as_of")),
            budget=need_fields.budget(request, limits),
        )
        return match_service_pb2.MatchResponse(
            data=wire.data_messages(answer.data),
            sequence=str(answer.sequence),
            context=wire.context_message(answer.context),
        )

    async def explain(
        self, request: match_service_pb2.ExplainRequest
    ) -> match_service_pb2.ExplainResponse:
        """Explain."""
        project = fields.project(request.project)
        data_key, sequence = "", None
        match request.WhichOneof("datum"):
            case "data_key":
                data_key = fields.data_key(request.data_key)
            case "sequence":
                sequence = fields.sequence(request.sequence, "sequence")
            case _:
                raise invalid_field("datum", "a data key or a sequence is required")
        explained = await self._questions.explain(
            project,
            await self._need(project, request),
            data_key=data_key,
            sequence=sequence,
            as_of=fields.as_of(request.as_of, request.HasField("as_of")),
        )
        return _explanation(wire.event_message(explained.entry), explained.explanation)

    async def backtest(self, request: match_service_pb2.BacktestRequest, write: Write) -> None:
        """Backtest."""
        project, limits = fields.project(request.project), self._limits
        needs = self._needs(
            need_fields.need_specs(request.needs, "needs", limits),
            need_fields.threshold(request),
            1,
        )
        delta = need_fields.min_delta(request.min_delta, limits)
        since, until, _ = await log_range(self._log, project, request)
        asked = Backtest(project, needs, since, until, delta, not request.summary_only)
        async with aclosing(self._backtests.run(asked)) as parts:
            async for part in parts:
                for message in self._backtest_messages(part):
                    await write(message)

    def _backtest_messages(self, part: Chunk | Progress | Summary) -> list[bytes]:
        response = match_service_pb2.BacktestResponse
        match part:
            case Chunk():
                chunks = split(list(part.deliveries), part.position, self._settings.message_bytes)
                batches = [wire.matched_batch_bytes(chunk) for chunk in chunks]
                return [
                    response(
                        events=event_pb2.MatchedEventBatch.FromString(batch)
                    ).SerializeToString()
                    for batch in batches
                ]
            case Progress():
                progress = match_service_pb2.BacktestProgress(
                    sequence=str(part.sequence),
                    events_read=part.read,
                    events_total=part.total,
                    events_matched=part.matched,
                )
                return [response(progress=progress).SerializeToString()]
            case Summary():
                summary = match_service_pb2.BacktestSummary(
                    events_judged=part.judged,
                    events_matched=part.matched,
                    data_keys_matched=len(part.data_keys - {""}),
                    updates_held_back=part.held_back,
                    needs=[
                        match_service_pb2.NeedSummary(
                            events_matched=need.matched,
                            events_at_threshold=need.at_steps,
                            threshold=need.threshold,
                        )
                        for need in part.needs
                    ],
                )
                return [response(summary=summary).SerializeToString()]

    async def record_feedback(
        self, request: match_service_pb2.RecordFeedbackRequest
    ) -> match_service_pb2.RecordFeedbackResponse:
        """RecordFeedback."""
        sequence = await self._feedback.record(
            fields.project(request.project),
            fields.agent_id(request.agent_id),
            fields.sequence(request.sequence, "sequence"),
            request.need_index,
            useful=request.useful,
            comment=need_fields.comment(request.comment, self._limits),
            request_id=fields.request_id(request.request_id),
            origin=caller(),
        )
        return match_service_pb2.RecordFeedbackResponse(sequence=str(sequence))

    async def export_feedback(
        self, request: match_service_pb2.ExportFeedbackRequest, write: Write
    ) -> None:
        """ExportFeedback."""
        project = fields.project(request.project)
        since, until, _ = await log_range(self._log, project, request)
        count = 0
        try:
            async with aclosing(self._feedback.export(project, since, until)) as pages:
                async for page in pages:
                    for judgement in page:
                        await write(_judgement(judgement).SerializeToString())
                        count += 1
        finally:
            self._audit.exported(project, caller(), "ExportFeedback", count)

    async def get_matching_status(
        self, request: match_service_pb2.GetMatchingStatusRequest
    ) -> match_service_pb2.GetMatchingStatusResponse:
        """GetMatchingStatus."""
        project = fields.project(request.project)
        models = self._matchmaker.embeddings.models
        progress = await self._reembedding.progress(project)
        response = match_service_pb2.GetMatchingStatusResponse(
            model=await self._store.model(project) or models.configured_id,
            configured_model=models.configured_id,
            texts_embedded=progress.done,
            texts_total=progress.total,
            scorer=self._matchmaker.scorer.name,
            default_threshold=self._settings.match_threshold,
        )
        if response.model != response.configured_model:
            self._reembedding.consider(project, response.model)
        matcher = self._matchmaker.peek(project)
        if matcher is not None:
            await matcher.started()
            async with matcher.at(Sequence(0, 0)) as (index, _):
                response.data_indexed = len(index.data)
                response.passages_indexed = index.data.passages
                response.needs_indexed = index.needs.needs
                response.index_bytes = await self._matchmaker.work(
                    lambda: index.data.nbytes + index.needs.nbytes
                )
        return response

    def _needs(
        self, specs: tuple[NeedSpec, ...], threshold: float | None, maximum: int
    ) -> tuple[Need, ...]:
        lowest = self._settings.match_threshold if threshold is None else threshold
        return with_defaults(specs, lowest, maximum)

    async def _need(self, project: str, request: match_service_pb2.ExplainRequest) -> Need:
        threshold = need_fields.threshold(request)
        match request.WhichOneof("need"):
            case "text":
                text = need_fields.need(request.text, "text", self._limits)
                (need,) = self._needs((NeedSpec(text),), threshold, 1)
            case "agent_need":
                agent_id = fields.agent_id(request.agent_need.agent_id, "agent_need.agent_id")
                agent, _ = await self._agents.get(project, agent_id)
                index = request.agent_need.need_index
                if index >= len(agent.needs):
                    raise invalid_field(
                        "agent_need.need_index", f"must be below {len(agent.needs)}, not {index}"
                    )
                need = agent.needs[index]
                if threshold is not None:
                    spec = NeedSpec(need.text, exclude=need.exclude)
                    (need,) = self._needs((spec,), threshold, 1)
            case _:
                raise invalid_field("need", "a text or an agent's need is required")
        return need


def _explanation(
    event: event_pb2.Event, explanation: Explanation
) -> match_service_pb2.ExplainResponse:
    return match_service_pb2.ExplainResponse(
        event=event,
        match=wire.match_message(explanation.match),
        matched=explanation.matched,
        verdict=explanation.verdict,
        contributions=[
            match_service_pb2.Contribution(
                name=part.name, value=part.value, weight=part.weight, log_odds=part.log_odds
            )
            for part in explanation.contributions
        ],
        terms=[
            match_service_pb2.TermHit(
                word=term.word, stem=term.stem, weight=term.weight, hit=term.hit
            )
            for term in explanation.terms
        ],
        passages=[
            match_service_pb2.PassageScore(
                path=passage.path,
                text=passage.text,
                score=passage.score,
                cosine=passage.cosine,
                lexical=passage.lexical,
            )
            for passage in explanation.passages
        ],
        rank=explanation.rank,
        data_count=explanation.data_count,
    )


def _judgement(judgement: Judgement) -> match_service_pb2.ExportFeedbackResponse:
    return match_service_pb2.ExportFeedbackResponse(
        sequence=str(judgement.sequence),
        time=timestamp(judgement.sequence.ms),
        agent_id=judgement.agent_id,
        need=judgement.need,
        event=wire.event_message(judgement.judged),
        match=wire.match_message(judgement.match),
        useful=judgement.useful,
        comment=judgement.comment,
    )
