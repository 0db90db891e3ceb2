"""Values of `contex.v1.MatchService`: what would match, why, and whether it was useful."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import events
from ._values.events import Context
from ._values.match import *
from .events import MatchedEvent
from .methods import MatchesByNeed, by_need

if TYPE_CHECKING:
    from .v1 import match_service_pb2


THRESHOLDS = tuple(step / 20 for step in range(1, 20))
"""0.05, 0.10, … 0.95: the thresholds at which a backtest counts events."""


@dataclass(frozen=True, slots=True)
class MatchAnswer:
    """The data that answer questions.

    Attributes:
        data: The data, each once, best score first, with the questions that they answer.
        sequence: They are the state as of this sequence.
        context: The data as text, if a budget or a format was given.
        questions: The questions, in their order.
    """

    data: tuple[MatchedEvent, ...]
    sequence: str
    context: Context | None = None
    questions: tuple[str, ...] = ()

    def by_need(self) -> MatchesByNeed:
        """Groups the data by question: the questions in their order, best score first."""
        return by_need(self.questions, self.data)


def answer(
    message: match_service_pb2.MatchResponse, request: match_service_pb2.MatchRequest
) -> MatchAnswer:
    """The data that answer the questions of a request."""
    return MatchAnswer(
        tuple(map(events.matched_event, message.data)),
        message.sequence,
        events.context(message.context) if message.HasField("context") else None,
        tuple(question.text for question in request.questions),
    )


def backtested(
    message: match_service_pb2.BacktestResponse,
) -> Iterator[MatchedEvent | BacktestProgress | BacktestSummary]:
    """The items in one message of a backtest."""
    match message.WhichOneof("message"):
        case "events":
            yield from map(events.matched_event, message.events.events)
        case "progress":
            yield backtest_progress(message.progress)
        case "summary":
            yield backtest_summary(message.summary)
