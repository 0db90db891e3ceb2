"""Matches, answers, explanations and backtests as the API has them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from operator import add
from typing import Any, NamedTuple, TypeVar

from contex.v1 import event_pb2
from contex.v1 import match_service_pb2 as pb

from contex_server.api.shared import wire
from contex_server.api.shared.convert import convert
from contex_server.events.feed import Chunk, Delivery
from contex_server.kernel import event_codec
from contex_server.kernel.config import Settings
from contex_server.kernel.model import BEGINNING, Match, body_of, utf8_bytes
from contex_server.kernel.protobuf import field, timestamp
from contex_server.match.backtest import BacktestProgress, BacktestSummary
from contex_server.match.feedback import Judgement
from contex_server.match.queries import ExplainedMatch
from contex_server.match.result import MatchedDatum, MatchResult
from contex_server.matching.context import ContextFormat, render_one

# Tags: field number * 8 + wire type 2.
_MATCHED_MATCHES = 2 << 3 | 2
_MATCHED_CONTEXT = 4 << 3 | 2
_CONTEXT_OMITTED = bytes([5 << 3, 1])

T = TypeVar("T")

_INLINE_DATA = 100
"""That many data, each with some matches, take 5 ms."""
_EVENT_BYTES = 64
"""What an event takes in a batch besides its body and what is told of it, at most: its sequence,
tags and lengths."""
_ENVELOPE_BYTES = 1024
"""What a stream's message takes besides events: cursor, time, tags and lengths."""


def match_message(match: Match) -> event_pb2.Match:
    """Why an event reached a need."""
    if match.exact:
        return event_pb2.Match(
            need_index=match.need_index, need=match.need, score=match.score, need_id=match.need_id
        )
    return event_pb2.Match(
        need_index=match.need_index,
        need=match.need,
        score=match.score,
        need_id=match.need_id,
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
            omitted=[convert(event_pb2.OmittedDatum, datum) for datum in rendered.listed()],
            omitted_count=len(rendered.omitted),
            omitted_tokens=sum(datum.tokens for datum in rendered.omitted),
        )
    return {
        "data": map(datum_message, answer.data),
        "sequence": str(answer.sequence),
        "context": context,
        "omitted_count": answer.omitted,
    }


async def answered(response: Callable[..., T], answer: MatchResult, **fields: Any) -> T:
    """A response with an answer; a large one is put together in a thread."""

    def make() -> T:
        return response(**answer_fields(answer), **fields)

    return make() if len(answer.data) <= _INLINE_DATA else await asyncio.to_thread(make)


class BatchRoom(NamedTuple):
    """Bytes that a stream's message has for events.

    Attributes:
        several: For more than one.
        single: For a single one; a context beyond it is left out.
    """

    several: int
    single: int


def batch_room(settings: Settings) -> BatchRoom:
    """What messages of streams have room for."""
    most = settings.limits.response_message_bytes - _ENVELOPE_BYTES
    return BatchRoom(min(settings.message_bytes, most), most)


def matched_batches(
    chunk: Chunk, form: ContextFormat, room: BatchRoom
) -> Iterator[tuple[Chunk, bytes]]:
    """Serialised `contex.v1.MatchedEventBatch`es, each with what it carries; mostly one."""
    deliveries, told = chunk.deliveries, [delivery.told for delivery in chunk.deliveries]
    if form or any(delivery.matches for delivery in deliveries):
        told = [
            each.told + _also_told(each, form, room.single - len(each.entry.body) - _EVENT_BYTES)
            for each in deliveries
        ]
    entries = [delivery.entry for delivery in deliveries]
    sizes = list(map(add, map(len, map(body_of, entries)), map(len, told)))
    start = 0
    if sum(sizes) + _EVENT_BYTES * len(sizes) > room.several:
        size_bytes = 0
        for index, size in enumerate(sizes):
            size_bytes += size + _EVENT_BYTES
            if index > start and size_bytes > room.several:
                taken = slice(start, index)
                part = Chunk(deliveries[taken], deliveries[index - 1].position)
                yield part, wire.matched_batch_bytes(entries[taken], told[taken])
                start, size_bytes = index, size + _EVENT_BYTES
    rest = Chunk(deliveries[start:], chunk.position) if start else chunk
    yield rest, wire.matched_batch_bytes(entries[start:], told[start:])


def _also_told(delivery: Delivery, form: ContextFormat, max_bytes: int) -> bytes:
    """The matches of a backtest's delivery, and the event written out."""
    parts = [
        field(_MATCHED_MATCHES, match_message(match).SerializeToString())
        for match in delivery.matches
    ]
    if form:
        text = event_context(delivery, form, max_bytes - sum(map(len, parts)) - len(delivery.told))
        if text is None:
            parts.append(_CONTEXT_OMITTED)
        else:
            parts.append(field(_MATCHED_CONTEXT, text.encode()))
    return b"".join(parts)


def event_context(delivery: Delivery, form: ContextFormat, max_bytes: int) -> str | None:
    """An event written out in a form; None if that takes more bytes."""
    event = delivery.event or event_codec.decode(delivery.entry)
    text = render_one(event, form, delivery.change)
    return text if utf8_bytes(text) <= max_bytes else None


def explanation_message(explained: ExplainedMatch) -> pb.ExplainResponse:
    event, explanation = wire.event_message(explained.entry), explained.explanation
    match = match_message(explanation.match)
    return convert(pb.ExplainResponse, explanation, event=event, need_match=match)


def backtest_messages(
    part: Chunk | BacktestProgress | BacktestSummary, room: BatchRoom
) -> list[pb.BacktestResponse]:
    """What a backtest tells, in messages that have room for it."""
    match part:
        case Chunk():
            batch = event_pb2.MatchedEventBatch
            return [
                pb.BacktestResponse(events=batch.FromString(content))
                for _, content in matched_batches(part, ContextFormat.UNSPECIFIED, room)
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
