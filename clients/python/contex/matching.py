"""What the asyncio client asks `MatchService`."""

from __future__ import annotations

from collections.abc import Iterable

from . import requests, responses
from .answer_stream import AnswerStream
from .answers import (
    BacktestProgress,
    BacktestSummary,
    Explanation,
    Feedback,
    MatchAnswer,
    MatchingStatus,
)
from .calls import AsyncCalls
from .moments import At
from .retry import Retry
from .v1 import match_service_pb2
from .values import ContextFormat, Event, MatchedEvent, MinDelta, Need


class AsyncMatching(AsyncCalls):
    """Questions about matching: what would match, why, and was it useful."""

    async def match(
        self,
        project: str,
        questions: Iterable[str | Need],
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
            project: The project.
            questions: In plain words, or with options of their own, as needs have them.
            threshold: Lowest score that matches; by default the server's.
            max_matches: How many data to return for each question; by default 10.
            data_keys: Only data whose key fits one of these globs.
            as_of: Ask about the project as it was at this sequence or time; by default now.
            max_context_tokens: As of `register_agent`.
            context_format: As of `register_agent`.

        Raises:
            ValueError: A time has no time zone.
        """
        request = requests.match(
            project,
            questions,
            threshold=threshold,
            max_matches=max_matches,
            data_keys=data_keys,
            as_of=as_of,
            max_context_tokens=max_context_tokens,
            context_format=context_format,
        )
        return responses.answer(await self._once(self._matching.Match, request), request)

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
            project: The project.
            need: The need in plain words; or else:
            agent_id: Take a need of this agent.
            need_index: Which of the agent's, from 0.
            data_key: The datum: the latest event of this key; or else:
            sequence: This very event.
            threshold: Lowest score that would match; by default the need's or the server's.
            as_of: The moment whose background applies, and whose datum where it is named by key.

        Raises:
            DataKeyNotFound: The key has no datum at that moment.
            NotFound: There is no such agent or event.
            ValueError: Not exactly one need and one datum are given, or a time has no time zone.
        """
        request = requests.explain(
            project,
            need=need,
            agent_id=agent_id,
            need_index=need_index,
            data_key=data_key,
            sequence=sequence,
            threshold=threshold,
            as_of=as_of,
        )
        return responses.explanation(await self._once(self._matching.Explain, request))

    def backtest(
        self,
        project: str,
        needs: Iterable[str | Need],
        *,
        threshold: float | None = None,
        since: At | None = None,
        until: At | None = None,
        min_delta: MinDelta | None = None,
        summary_only: bool = False,
    ) -> AnswerStream[MatchedEvent | BacktestProgress | BacktestSummary]:
        """Streams what needs would have received in a range of the log, in log order.

        Between the events it tells how far it has come, and at the end sums up.

        Args:
            project: The project.
            needs: In plain words, or with options.
            threshold: Threshold of needs without one; by default the server's.
            since: Lower end, as of `list_events`. By default the beginning.
            until: Upper end. By default the end.
            min_delta: Which updates count; by default all.
            summary_only: No events, only progress and the summary.

        Raises:
            ValueError: A time has no time zone.
        """
        request = requests.backtest(
            project,
            needs,
            threshold=threshold,
            since=since,
            until=until,
            min_delta=min_delta,
            summary_only=summary_only,
        )
        return self._answers(lambda: self._matching.Backtest, request, responses.backtested)

    async def record_feedback(
        self,
        project: str,
        agent_id: str,
        event: str | Event | MatchedEvent,
        *,
        useful: bool,
        need_index: int | None = None,
        comment: str = "",
        request_id: str | None = None,
    ) -> str:
        """Notes in the log whether a match was useful.

        Args:
            project: The project.
            agent_id: The agent that judges.
            event: The event that matched, or its sequence.
            useful: Whether it was of use for the need.
            need_index: Which of the agent's needs it was to meet; by default the one that it met
                best, or the first where only the event is given.
            comment: A remark for people.
            request_id: As of `publish`.

        Returns:
            Sequence of the event that notes it.

        Raises:
            NotFound: The agent is not registered, or there is no such event.
        """
        request = requests.record_feedback(
            project,
            agent_id,
            event,
            need_index=need_index,
            useful=useful,
            comment=comment,
            request_id=request_id,
        )
        retry = Retry(self._timeout, idempotent=bool(request.request_id))
        return (await self._repeated(self._matching.RecordFeedback, request, retry)).sequence

    def export_feedback(
        self,
        project: str,
        *,
        since: At | None = None,
        until: At | None = None,
    ) -> AnswerStream[Feedback]:
        """Streams all feedback with what the judged matches were made of.

        Arguments and errors as of `list_events`.
        """
        request = requests.export_feedback(project, since=since, until=until)
        return self._answers(lambda: self._matching.ExportFeedback, request, responses.feedback)

    async def matching_status(self, project: str) -> MatchingStatus:
        """Tells which model a project is matched by, and how far a change of it has come."""
        request = match_service_pb2.GetMatchingStatusRequest(project=project)
        return responses.matching_status(
            await self._once(self._matching.GetMatchingStatus, request)
        )
