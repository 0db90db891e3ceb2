"""MatchService: check, call the domain, convert."""

from __future__ import annotations

from contextlib import aclosing

from contex.v1 import match_service_pb2 as pb

from contex_server.agents.needs import NeedReference
from contex_server.agents.registry import NeedSpec, with_defaults
from contex_server.agents.visibility import Viewer, visible_among
from contex_server.api.match import checks, messages
from contex_server.api.shared import fields
from contex_server.api.shared.ranges import log_range
from contex_server.api.shared.servicer import Servicer
from contex_server.kernel.call import Call
from contex_server.kernel.errors import Checks, invalid_field
from contex_server.kernel.model import Need, Sequence
from contex_server.match.backtest import BacktestQuery
from contex_server.match.feedback import Sees
from contex_server.state.moments import MomentQuery, resolve_moment


class MatchServicer(Servicer):
    SERVICE = pb.DESCRIPTOR.services_by_name["MatchService"]

    async def match(self, request: pb.MatchRequest, call: Call) -> pb.MatchResponse:
        limits = self._limits
        with Checks() as check:
            maximum = check(checks.max_matches, request, limits)
            specs = check(checks.needs, request.questions, "questions", limits)
            threshold = check(checks.threshold, request)
            data_keys = check(fields.key_glob.all_of, request.data_keys, "data_keys", limits)
            as_of = check(fields.optional_moment, request)
            budget = check(checks.budget, request, limits)
        answer = await self._rooms.match.queries.match(
            call.project,
            self._needs(specs, threshold, maximum),
            data_keys=data_keys,
            as_of=as_of,
            budget=budget,
            scope=call.scope,
        )
        return await messages.answered(pb.MatchResponse, answer)

    async def explain(self, request: pb.ExplainRequest, call: Call) -> pb.ExplainResponse:
        data_key = ""
        with Checks() as check:
            if request.WhichOneof("datum") is None:
                check.refuse("datum", "a data key or a sequence is required")
            if request.HasField("data_key"):
                data_key = check(fields.data_key, request.data_key)
            sequence = check(fields.optional_sequence, request)
            threshold = check(checks.threshold, request)
            asked = check(self._asked, request)
            as_of = check(fields.optional_moment, request)
        explained = await self._rooms.match.queries.explain(
            call.project,
            await self._need(call, asked, sequence, as_of, threshold),
            data_key=data_key,
            sequence=sequence,
            as_of=as_of,
            scope=call.scope,
        )
        response = messages.explanation_message(explained)
        response.need_match.need_index = request.agent_need.need_index
        return response

    async def backtest(self, request: pb.BacktestRequest, call: Call) -> None:
        limits = self._limits
        with Checks() as check:
            specs = check(checks.needs, request.needs, "needs", limits)
            threshold = check(checks.threshold, request)
            delta = check(checks.min_delta, request.min_delta, limits)
            span = check(fields.span, request)
        needs = self._needs(specs, threshold, 1)
        span, _ = await log_range(self._log, request, span)
        events = not request.summary_only
        caller = call.origin.identity or call.origin.peer
        query = BacktestQuery(call.project, needs, span, delta, events, call.scope, caller)
        room = messages.batch_room(self._settings)
        async with aclosing(self._rooms.match.backtests.run(query)) as parts:
            async for part in parts:
                for message in messages.backtest_messages(part, room):
                    await call.write(message.SerializeToString())

    async def record_feedback(
        self, request: pb.RecordFeedbackRequest, call: Call
    ) -> pb.RecordFeedbackResponse:
        most = self._limits.comment_chars
        with Checks() as check:
            judged = check(fields.sequence, request.sequence, "sequence")
            comment = check(fields.characters, request.comment, 0, most, "comment")
            request_id = check(fields.request_id, request.request_id)
            reference = check(self._reference, request)
        sequence = await self._rooms.match.feedback.record(
            call.project,
            reference.agent_id,
            judged,
            reference.index,
            await self._rooms.agents.needs.get(
                call.project, reference, event=judged, as_of=None, viewer=Viewer.of(call)
            ),
            useful=request.useful,
            comment=comment,
            request_id=request_id,
            origin=call.origin,
            scope=call.scope,
        )
        return pb.RecordFeedbackResponse(sequence=str(sequence))

    async def export_feedback(self, request: pb.ExportFeedbackRequest, call: Call) -> None:
        span, _ = await log_range(self._log, request, fields.span(request))
        count = 0
        try:
            pages = self._rooms.match.feedback.export(
                call.project, span, call.scope, self._sees(call)
            )
            async with aclosing(pages):
                async for page in pages:
                    for judgement in page:
                        message = messages.judgement_message(judgement)
                        await call.write(message.SerializeToString())
                        count += 1
        finally:
            self._audit.exported(call.project, call.origin, call.method, count)

    async def get_matching_status(
        self, request: pb.GetMatchingStatusRequest, call: Call
    ) -> pb.GetMatchingStatusResponse:
        room = self._rooms.match
        models = room.pool.engine.embeddings.models
        progress = await room.reembedding.progress(call.project)
        scoring_model = (
            await self._rooms.storage.store.match.model(call.project) or models.configured_id
        )
        response = pb.GetMatchingStatusResponse(
            model=scoring_model,
            configured_model=models.configured_id,
            texts_embedded=progress.done,
            texts_total=progress.total,
            scorer=models.scorer_of(scoring_model),
            default_threshold=self._settings.match_threshold,
        )
        if response.model != response.configured_model:
            room.reembedding.start_if_outdated(call.project)
        matcher = room.pool.open_matcher(call.project)
        index = None if matcher is None else matcher.index
        if index is not None:
            response.data_indexed = len(index.data)
            response.passages_indexed = index.data.passages
            response.needs_indexed = index.needs.needs
            response.index_bytes = index.nbytes
        if matcher is not None and matcher.data_total:
            response.data_total = max(matcher.data_total, response.data_indexed)
        return response

    def _sees(self, call: Call) -> Sees | None:
        """Tells which of some agents the caller sees; None: all that there are, and were."""
        viewer, agents = Viewer.of(call), self._rooms.storage.store.agents
        if viewer.sees_all:
            return None
        return lambda agent_ids: visible_among(agents, call.project, agent_ids, viewer)

    def _needs(
        self, specs: tuple[NeedSpec, ...], threshold: float | None, maximum: int
    ) -> tuple[Need, ...]:
        lowest = self._settings.match_threshold if threshold is None else threshold
        return with_defaults(specs, lowest, maximum)

    def _reference(
        self, message: pb.RecordFeedbackRequest | pb.AgentNeed, prefix: str = ""
    ) -> NeedReference:
        most = self._limits.need_chars
        with Checks() as check:
            agent_id = check(fields.agent_id, message.agent_id, f"{prefix}agent_id")
            need = check(fields.characters, message.need, 0, most, f"{prefix}need")
        return NeedReference(agent_id, message.need_index, need, prefix)

    def _asked(self, request: pb.ExplainRequest) -> str | NeedReference:
        match request.WhichOneof("need"):
            case "text":
                return fields.characters(request.text, 1, self._limits.need_chars, "text")
            case "agent_need":
                return self._reference(request.agent_need, "agent_need.")
        raise invalid_field("need", "a text or an agent's need is required")

    async def _need(
        self,
        call: Call,
        asked: str | NeedReference,
        event: Sequence | None,
        as_of: MomentQuery,
        threshold: float | None,
    ) -> Need:
        if isinstance(asked, str):
            spec = NeedSpec(asked)
        else:
            if as_of is not None:
                as_of = (await resolve_moment(self._log, call.project, as_of)).sequence
            need = await self._rooms.agents.needs.get(
                call.project,
                asked,
                event=event,
                as_of=as_of,
                viewer=Viewer.of(call),
            )
            if threshold is None:
                return need
            if need.filter is not None:
                problem = "must be unset for a need that is a filter, which has no score"
                raise invalid_field("threshold", problem)
            spec = NeedSpec(need.text, exclude=need.exclude)
        (need,) = self._needs((spec,), threshold, 1)
        return need
