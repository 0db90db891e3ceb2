"""Methods of `contex.v1.MatchService`: what would match, why, and whether it was useful."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from contex.backoff import Retry
from contex.lazy import agents, events, match_service_pb2, match_service_pb2_grpc, wire
from contex.lazy import match as values

from .answer_stream import AnswerStream
from .calls import AsyncCalls

if TYPE_CHECKING:
    from contex.agents import MinDelta, Needed
    from contex.events import ContextFormat, Event, MatchedEvent
    from contex.match import (
        BacktestProgress,
        BacktestSummary,
        Explanation,
        Feedback,
        MatchAnswer,
        MatchingStatus,
    )
    from contex.wire import At


class AsyncMatchService(AsyncCalls):
    """See `AsyncClient`."""

    @property
    def _matching(self) -> match_service_pb2_grpc.MatchServiceAsyncStub:
        return self._connection.stub(match_service_pb2_grpc.MatchServiceStub)

    async def match(
        self,
        project: str,
        questions: Iterable[Needed],
        *,
        threshold: float | None = None,
        max_matches: int | None = None,
        data_keys: Iterable[str] = (),
        as_of: At | None = None,
        max_context_tokens: int | None = None,
        context_format: ContextFormat | None = None,
    ) -> MatchAnswer:
        """Finds the live data that answer questions, without registering anything.

        Args:
            questions: In plain words, as filters, or with options like those of needs.
            threshold: Lowest score that matches; by default the server's.
            max_matches: Maximum number of data to return for each question; by default 10.
            data_keys: Only data whose key matches one of these globs.
            as_of: Ask about the project as it was at this sequence or time; by default now.
            max_context_tokens: As in `register_agent`.
            context_format: As in `register_agent`.
        """
        request = wire.message(
            match_service_pb2.MatchRequest,
            project=project,
            questions=agents.to_needs(questions),
            threshold=threshold,
            max_matches=max_matches or 0,
            data_keys=wire.several(data_keys, "data_keys"),
            as_of=wire.position(as_of, "as_of"),
            max_context_tokens=max_context_tokens,
            context_format=events.to_context_format(context_format),
        )
        response = await self._once(self._matching.Match, request)
        return values.match_answer(response, tuple(agents.need(q).words for q in request.questions))

    async def explain(
        self,
        project: str,
        *,
        need: str | None = None,
        agent_id: str | None = None,
        need_index: int = 0,
        data_key: str | None = None,
        sequence: str | None = None,
        threshold: float | None = None,
        as_of: At | None = None,
    ) -> Explanation:
        """Takes the score of a need and a datum apart, whether or not they match.

        Args:
            need: The need in plain words; or else:
            agent_id: Use a need of this agent.
            need_index: Which of the agent's needs, from 0: with `sequence` of those by which the
                event was sent, with `as_of` of those that it had then. Give the text as `need`
                too, both from a match, and no change of the needs can make it another.
            data_key: The datum: the latest event of this key; or else:
            sequence: This very event.
            threshold: Lowest score that would match; by default the need's or the server's.
            as_of: The moment whose background applies, and whose datum if it is given by its key.

        Raises:
            DataKeyNotFound: The key has no datum at that moment.
            NotFound: There is no such agent or event.
            InvalidArgument: The agent has no such need, or one with another text.
            ValueError: Not exactly one need and one datum are given, or a time has no time zone.
        """
        chosen: dict[str, Any] = {"text": need}
        if agent_id is None:
            wire.exactly_one(need=need, agent_id=agent_id)
        else:
            agent_need = wire.message(
                match_service_pb2.AgentNeed,
                agent_id=agent_id,
                need_index=need_index,
                need="" if need is None else need,
            )
            chosen = {"agent_need": agent_need}
        request = wire.message(
            match_service_pb2.ExplainRequest,
            **chosen,
            **wire.exactly_one(data_key=data_key, sequence=sequence),
            project=project,
            threshold=threshold,
            as_of=wire.position(as_of, "as_of"),
        )
        response = await self._once(self._matching.Explain, request)
        return values.explanation(response)

    def backtest(
        self,
        project: str,
        needs: Iterable[Needed],
        *,
        threshold: float | None = None,
        since: At | None = None,
        until: At | None = None,
        min_delta: MinDelta | None = None,
        summary_only: bool = False,
    ) -> AnswerStream[MatchedEvent | BacktestProgress | BacktestSummary]:
        """Streams what needs would have received in a range of the log, in log order.

        Progress comes between the events, and a summary at the end.

        Args:
            needs: In plain words, or with options.
            threshold: Threshold of needs without one; by default the server's.
            since: Lower end, as in `list_events`. By default the beginning.
            until: Upper end. By default the end.
            min_delta: Which updates count; by default all.
            summary_only: No events, only progress and the summary.
        """
        request = wire.message(
            match_service_pb2.BacktestRequest,
            project=project,
            needs=agents.to_needs(needs),
            threshold=threshold,
            since=wire.position(since, "since"),
            until=wire.position(until, "until"),
            min_delta=agents.to_min_delta(min_delta),
            summary_only=summary_only,
        )
        return self._answers(
            lambda metadata: self._matching.Backtest(request, metadata=metadata),
            lambda message: values.backtested(message),
        )

    async def record_feedback(
        self,
        project: str,
        agent_id: str,
        event: str | Event | MatchedEvent,
        *,
        useful: bool,
        need_index: int | None = None,
        need: str | None = None,
        comment: str = "",
        request_id: str | None = None,
    ) -> str:
        """Records in the log whether a match was useful.

        Args:
            agent_id: The agent that judges.
            event: The event that matched, or its sequence.
            useful: Whether it was useful for the need.
            need_index: Which of the agent's needs it was for; by default the one that it met best,
                or the first if the event is given without its matches.
            need: The text of that need; by default the match's. Give it along with `need_index` for
                an event without its matches: positions change when the needs do.
            comment: A remark for people.
            request_id: As in `publish`.

        Returns:
            Sequence of the event that records it.

        Raises:
            NotFound: The agent is not registered, or there is no such event.
            InvalidArgument: The agent has no such need, or one with another text.
        """
        for match in event.matches if isinstance(event, events.MatchedEvent) else ():
            if need_index in (None, match.need_index) and need in (None, match.need):
                need_index, need = match.need_index, match.need
                break
        request = wire.message(
            match_service_pb2.RecordFeedbackRequest,
            project=project,
            agent_id=agent_id,
            sequence=events.sequence_of(event),
            need_index=0 if need_index is None else need_index,
            need="" if need is None else need,
            useful=useful,
            comment=comment,
            request_id=wire.new_request_id() if request_id is None else request_id,
        )
        retry = Retry(self._timeout, idempotent=bool(request.request_id))
        return (await self._repeated(self._matching.RecordFeedback, request, retry)).sequence

    def export_feedback(
        self, project: str, *, since: At | None = None, until: At | None = None
    ) -> AnswerStream[Feedback]:
        """Streams all feedback with the scores of the matches that it judges.

        Arguments and errors as in `list_events`.
        """
        request = wire.message(
            match_service_pb2.ExportFeedbackRequest,
            project=project,
            since=wire.position(since, "since"),
            until=wire.position(until, "until"),
        )
        return self._answers(
            lambda metadata: self._matching.ExportFeedback(request, metadata=metadata),
            lambda message: [values.feedback(message)],
        )

    async def matching_status(self, project: str) -> MatchingStatus:
        """Returns the model a project is matched by, and the progress of changing to another."""
        request = wire.message(match_service_pb2.GetMatchingStatusRequest, project=project)
        response = await self._once(self._matching.GetMatchingStatus, request)
        return values.matching_status(response)
