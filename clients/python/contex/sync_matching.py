"""What the blocking client asks `MatchService`; `matching.py` documents the methods."""

from __future__ import annotations

from collections.abc import Iterable

from . import requests, responses
from .answers import (
    BacktestProgress,
    BacktestSummary,
    Explanation,
    Feedback,
    MatchAnswer,
    MatchingStatus,
)
from .moments import At
from .retry import Retry
from .sync_answer_stream import SyncAnswerStream
from .sync_calls import Calls
from .v1 import match_service_pb2
from .values import ContextFormat, Event, MatchedEvent, MinDelta, Need


class Matching(Calls):
    """Questions about matching: what would match, why, and was it useful."""

    def match(
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
        """Finds the live data that answer questions, without registering anything."""
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
        return responses.answer(self._once(self._matching.Match, request), request)

    def explain(
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
        """Takes the score of a need and a datum apart, whether or not they match."""
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
        return responses.explanation(self._once(self._matching.Explain, request))

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
    ) -> SyncAnswerStream[MatchedEvent | BacktestProgress | BacktestSummary]:
        """Streams what needs would have received in a range of the log, in log order."""
        request = requests.backtest(
            project,
            needs,
            threshold=threshold,
            since=since,
            until=until,
            min_delta=min_delta,
            summary_only=summary_only,
        )
        return self._answers(self._matching.Backtest, request, responses.backtested)

    def record_feedback(
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
        """Notes in the log whether a match was useful."""
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
        return self._repeated(self._matching.RecordFeedback, request, retry).sequence

    def export_feedback(
        self,
        project: str,
        *,
        since: At | None = None,
        until: At | None = None,
    ) -> SyncAnswerStream[Feedback]:
        """Streams all feedback with what the judged matches were made of."""
        request = requests.export_feedback(project, since=since, until=until)
        return self._answers(self._matching.ExportFeedback, request, responses.feedback)

    def matching_status(self, project: str) -> MatchingStatus:
        """Tells which model a project is matched by, and how far a change of it has come."""
        request = match_service_pb2.GetMatchingStatusRequest(project=project)
        return responses.matching_status(self._once(self._matching.GetMatchingStatus, request))
