"""Values of `contex.v1.MatchService`: what would match, why, and whether it was useful."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ._values.events import MatchedEvent, matched_event
from ._values.match import *

if TYPE_CHECKING:
    from .v1 import match_service_pb2


THRESHOLDS = tuple(step / 20 for step in range(1, 20))
"""0.05, 0.10, … 0.95: the thresholds at which a backtest counts events."""


def backtested(
    message: match_service_pb2.BacktestResponse,
) -> Iterator[MatchedEvent | BacktestProgress | BacktestSummary]:
    """The items in one message of a backtest."""
    match message.WhichOneof("message"):
        case "events":
            yield from map(matched_event, message.events.events)
        case "progress":
            yield backtest_progress(message.progress)
        case "summary":
            yield backtest_summary(message.summary)
