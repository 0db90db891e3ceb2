"""MatchService: check, call the domain, convert."""

from __future__ import annotations

from contextlib import aclosing

from contex.v1 import match_service_pb2 as pb

from contex_server.agents.registry import NeedSpec, with_defaults
from contex_server.api.match import checks, messages
from contex_server.api.shared import fields
from contex_server.api.shared.ranges import log_range
from contex_server.kernel.call import Call
from contex_server.kernel.config import Settings
from contex_server.kernel.drain import Drain
from contex_server.kernel.errors import invalid_field
from contex_server.kernel.model import Need, Sequence
from contex_server.match.backtest import BacktestQuery
from contex_server.rooms import Rooms


class MatchServicer:
    """See `protos/contex/v1/match_service.proto`."""

    SERVICE = pb.DESCRIPTOR.services_by_name["MatchService"]

    def __init__(self, settings: Settings, rooms: Rooms, drain: Drain) -> None:
        self._settings = settings
        self._limits = settings.limits
        self._log = rooms.storage.log
        self._store = rooms.storage.store.match
        self._agents = rooms.agents.registry
        self._room = rooms.match
        self._audit = rooms.audit.writer

    async def match(self, request: pb.MatchRequest, call: Call) -> pb.MatchResponse:
        limits = self._limits
        maximum = checks.max_matches(request.max_matches or checks.DEFAULT_MAX_MATCHES, limits)
        project = fields.project(request.project)
        specs = checks.need_specs(request.questions, "questions", limits)
        answer = await self._room.queries.match(
            project,
            self._needs(specs, checks.threshold(request), maximum),
            data_keys=fields.data_keys(request.data_keys, "data_keys", limits),
            as_of=fields.as_of(request.as_of, request.HasField("as_of")),
            budget=checks.budget(request, limits),
            scope=call.scope,
        )
        return messages.answer_message(answer)

    async def explain(self, request: pb.ExplainRequest, call: Call) -> pb.ExplainResponse:
        project = fields.project(request.project)
        data_key, sequence = "", None
        match request.WhichOneof("datum"):
            case "data_key":
                data_key = fields.data_key(request.data_key)
            case "sequence":
                sequence = fields.sequence(request.sequence, "sequence")
            case _:
                raise invalid_field("datum", "a data key or a sequence is required")
        explained = await self._room.queries.explain(
            project,
            await self._need(project, request),
            data_key=data_key,
            sequence=sequence,
            as_of=fields.as_of(request.as_of, request.HasField("as_of")),
            scope=call.scope,
        )
        return messages.explanation_message(explained)

    async def backtest(self, request: pb.BacktestRequest, call: Call) -> None:
        project, limits = fields.project(request.project), self._limits
        specs = checks.need_specs(request.needs, "needs", limits)
        needs = self._needs(specs, checks.threshold(request), 1)
        delta = checks.min_delta(request.min_delta, limits)
        since, until, _ = await log_range(self._log, project, request)
        asked = BacktestQuery(
            project, needs, since, until, delta, not request.summary_only, call.scope
        )
        async with aclosing(self._room.backtests.run(asked)) as parts:
            async for part in parts:
                for message in messages.backtest_messages(part, self._settings.message_bytes):
                    await call.write(message)

    async def record_feedback(
        self, request: pb.RecordFeedbackRequest, call: Call
    ) -> pb.RecordFeedbackResponse:
        sequence = await self._room.feedback.record(
            fields.project(request.project),
            fields.agent_id(request.agent_id),
            fields.sequence(request.sequence, "sequence"),
            request.need_index,
            useful=request.useful,
            comment=checks.comment(request.comment, self._limits),
            request_id=fields.request_id(request.request_id),
            origin=call.origin,
            scope=call.scope,
        )
        return pb.RecordFeedbackResponse(sequence=str(sequence))

    async def export_feedback(self, request: pb.ExportFeedbackRequest, call: Call) -> None:
        project = fields.project(request.project)
        since, until, _ = await log_range(self._log, project, request)
        count = 0
        try:
            async with aclosing(
                self._room.feedback.export(project, since, until, call.scope)
            ) as pages:
                async for page in pages:
                    for judgement in page:
                        message = messages.judgement_message(judgement)
                        await call.write(message.SerializeToString())
                        count += 1
        finally:
            self._audit.exported(project, call.origin, call.method, count)

    async def get_matching_status(
        self, request: pb.GetMatchingStatusRequest, call: Call
    ) -> pb.GetMatchingStatusResponse:
        project = fields.project(request.project)
        models = self._room.pool.engine.embeddings.models
        progress = await self._room.reembedding.progress(project)
        response = pb.GetMatchingStatusResponse(
            model=await self._store.model(project) or models.configured_id,
            configured_model=models.configured_id,
            texts_embedded=progress.done,
            texts_total=progress.total,
            scorer=self._room.pool.engine.scorer.name,
            default_threshold=self._settings.match_threshold,
        )
        if response.model != response.configured_model:
            self._room.reembedding.start_if_outdated(project)
        matcher = self._room.pool.open_matcher(project)
        if matcher is not None:
            await matcher.started()
            async with matcher.index_at(Sequence(0, 0)) as (index, _):
                response.data_indexed = len(index.data)
                response.passages_indexed = index.data.passages
                response.needs_indexed = index.needs.needs
                response.index_bytes = await self._room.pool.engine.work(
                    lambda: index.data.nbytes + index.needs.nbytes
                )
        return response

    def _needs(
        self, specs: tuple[NeedSpec, ...], threshold: float | None, maximum: int
    ) -> tuple[Need, ...]:
        lowest = self._settings.match_threshold if threshold is None else threshold
        return with_defaults(specs, lowest, maximum)

    async def _need(self, project: str, request: pb.ExplainRequest) -> Need:
        threshold = checks.threshold(request)
        match request.WhichOneof("need"):
            case "text":
                text = checks.need(request.text, "text", self._limits)
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
