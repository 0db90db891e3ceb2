"""Matches, answers, explanations and backtests as the API has them."""

from __future__ import annotations

from typing import Any

from contex.v1 import event_pb2
from contex.v1 import match_service_pb2 as pb

from contex_server.api.shared import wire
from contex_server.api.shared.convert import convert
from contex_server.events.feed import Chunk, Delivery
from contex_server.events.stream import split
from contex_server.kernel.model import BEGINNING, Match
from contex_server.kernel.protobuf import field, timestamp
from contex_server.match.backtest import BacktestProgress, BacktestSummary
from contex_server.match.feedback import Judgement
from contex_server.match.queries import ExplainedMatch
from contex_server.match.result import MatchedDatum, MatchResult
from contex_server.matching.context import ContextFormat, render_one

# Tags: field number * 8 + wire type 2.
_BATCH_EVENTS = 1 << 3 | 2
_MATCHED_EVENT = 1 << 3 | 2
_MATCHED_MATCHES = 2 << 3 | 2
_MATCHED_CONTEXT = 4 << 3 | 2


def match_message(match: Match) -> event_pb2.Match:
    """Why an event reached a need."""
    return event_pb2.Match(
        need_index=match.need_index,
        need=match.need,
        score=match.score,
        path=match.path,
        passage=match.passage_text,
        parts=event_pb2.ScoreParts(
            cosine=match.cosine,
            threshold=match.threshold,
            model=match.model,
            background_mean=match.mean,
            background_deviation=match.deviation,
            standing=match.standing,
            lexical=match.lexical,
            share=match.share,
            background_passages=match.background_passages,
            background_sequence="0"
            if match.background_as_of == BEGINNING
            else str(match.background_as_of),
            scorer=match.scorer,
            usual_cosine=match.usual,
            coverage=match.coverage,
            expected_coverage=match.expected,
        ),
    )


def datum_message(datum: MatchedDatum) -> event_pb2.MatchedEvent:
    return event_pb2.MatchedEvent(
        event=wire.event_message(datum.entry),
        matches=map(match_message, datum.matches),
        payload_omitted=datum.payload_omitted,
    )


def answer_fields(answer: MatchResult) -> dict[str, Any]:
    """The data that match, and the answer rendered where that was asked for."""
    context = None
    if (rendered := answer.context) is not None:
        context = convert(
            event_pb2.PromptContext,
            rendered,
            format=event_pb2.ContextFormat.ValueType(rendered.form),
            token_counter=rendered.counter,
        )
    return {
        "data": map(datum_message, answer.data),
        "sequence": str(answer.sequence),
        "context": context,
    }


def matched_batch_bytes(chunk: Chunk, form: ContextFormat = ContextFormat.UNSPECIFIED) -> bytes:
    """A serialised `contex.v1.MatchedEventBatch`."""
    batch: list[bytes] = []
    for delivery in chunk.deliveries:
        parts = [field(_MATCHED_EVENT, wire.event_bytes(delivery.entry))]
        for match in delivery.matches:
            parts.append(field(_MATCHED_MATCHES, match_message(match).SerializeToString()))
        if text := event_context(delivery, form):
            parts.append(field(_MATCHED_CONTEXT, text.encode()))
        batch.append(field(_BATCH_EVENTS, b"".join(parts)))
    return b"".join(batch)


def event_context(delivery: Delivery, form: ContextFormat) -> str:
    """An event written out in a form; "" where no form was asked for."""
    return "" if delivery.event is None else render_one(delivery.event, form)


def explanation_message(explained: ExplainedMatch) -> pb.ExplainResponse:
    event, explanation = wire.event_message(explained.entry), explained.explanation
    match = match_message(explanation.match)
    return convert(pb.ExplainResponse, explanation, event=event, need_match=match)


def backtest_messages(
    part: Chunk | BacktestProgress | BacktestSummary, message_bytes: int
) -> list[pb.BacktestResponse]:
    """What a backtest tells, in messages of about `message_bytes`."""
    match part:
        case Chunk():
            chunks = split(list(part.deliveries), part.position, message_bytes)
            batch = event_pb2.MatchedEventBatch
            return [
                pb.BacktestResponse(events=batch.FromString(matched_batch_bytes(chunk)))
                for chunk in chunks
            ]
        case BacktestProgress():
            return [pb.BacktestResponse(progress=convert(pb.BacktestProgress, part))]
        case BacktestSummary():
            data_keys = len(part.data_keys - {""})
            summary = convert(pb.BacktestSummary, part, data_keys_matched=data_keys)
            return [pb.BacktestResponse(summary=summary)]


def judgement_message(judgement: Judgement) -> pb.ExportFeedbackResponse:
    return convert(
        pb.ExportFeedbackResponse,
        judgement,
        time=timestamp(judgement.sequence.ms),
        need_match=match_message(judgement.match),
    )
