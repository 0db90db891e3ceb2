"""Turns protobuf responses into values, the same for both clients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC

from . import errors
from .answers import (
    BacktestProgress,
    BacktestSummary,
    Contribution,
    Explanation,
    Feedback,
    MatchAnswer,
    MatchingStatus,
    NeedSummary,
    PassageScore,
    TermHit,
)
from .moments import instant
from .v1 import agent_service_pb2, event_pb2, event_service_pb2, match_service_pb2
from .values import (
    Agent,
    BatchResult,
    Context,
    ContextFormat,
    Durability,
    Erasure,
    Event,
    Match,
    MatchedEvent,
    MinDelta,
    Need,
    NeedsChanged,
    OmittedDatum,
    Receipt,
    Registration,
)

# Not in here: unspecified, and what a newer server has added.
_FORMATS = {
    event_pb2.ContextFormat.Value(f"CONTEXT_FORMAT_{known.name}"): known for known in ContextFormat
}


def receipts(response: event_service_pb2.PublishResponse) -> tuple[Receipt, ...]:
    """One receipt for each event of a publish."""
    durability = _durability(response.durability)
    return tuple(
        Receipt(receipt.sequence, receipt.revision, durability, response.duplicate)
        for receipt in response.receipts
    )


def batch_result(response: event_service_pb2.PublishStreamResponse) -> BatchResult:
    """The answer to one batch of a publish stream."""
    if response.WhichOneof("outcome") == "refused":
        return BatchResult(response.request_id, error=errors.from_refusal(response.refused))
    published = response.published
    return BatchResult(response.request_id, receipts(published), published.duplicate)


def event(message: event_pb2.Event) -> Event:
    """An event."""
    return Event(
        sequence=message.sequence,
        event_type=message.event_type,
        data_key=message.data_key,
        payload=message.payload,
        content_type=message.content_type,
        description=message.description,
        publisher=message.publisher,
        metadata=dict(message.metadata),
        revision=message.revision,
        previous_sequence=message.previous_sequence,
        opaque=message.opaque,
        erased=_erasure(message.erased) if message.HasField("erased") else None,
    )


def _erasure(message: event_pb2.Erased) -> Erasure:
    return Erasure(
        instant(message.time), message.request_id, message.reason, message.payload_digest
    )


def matched_event(message: event_pb2.MatchedEvent, *, backfilled: bool = False) -> MatchedEvent:
    """An event with its matches."""
    return MatchedEvent(
        event=event(message.event),
        matches=tuple(_match(match) for match in message.matches),
        payload_omitted=message.payload_omitted,
        context=message.context,
        backfilled=backfilled,
    )


def agent(message: agent_service_pb2.Agent) -> Agent:
    """A registration."""
    min_delta = message.min_delta
    return Agent(
        agent_id=message.agent_id,
        needs=tuple(message.needs),
        threshold=message.threshold,
        max_matches=message.max_matches,
        registered_time=message.registered_time.ToDatetime(tzinfo=UTC),
        updated_time=message.updated_time.ToDatetime(tzinfo=UTC),
        acknowledged_sequence=message.acknowledged_sequence,
        need_specs=tuple(_need(need) for need in message.need_specs),
        min_delta=MinDelta(min_delta.payload_changed, tuple(min_delta.json_pointers))
        if message.HasField("min_delta")
        else None,
    )


def registered(message: agent_service_pb2.RegisterAgentResponse) -> Registration:
    """A registration with its data and where to listen from."""
    return Registration(
        agent(message.agent),
        _data(message.data),
        message.sequence,
        message.cursor,
        _context(message),
    )


def updated(message: agent_service_pb2.UpdateAgentResponse) -> Registration:
    """A changed registration with its data."""
    return Registration(
        agent(message.agent),
        _data(message.data),
        message.sequence,
        cursor="",
        context=_context(message),
    )


def needs_changed(message: agent_service_pb2.NeedsChanged) -> NeedsChanged:
    """A change of a registration that a stream tells."""
    data = tuple(matched_event(datum, backfilled=True) for datum in message.data)
    return NeedsChanged(agent(message.agent), data)


def answer(
    message: match_service_pb2.MatchResponse, request: match_service_pb2.MatchRequest
) -> MatchAnswer:
    """The data that answer the questions of a request."""
    questions = tuple(question.text for question in request.questions)
    return MatchAnswer(_data(message.data), message.sequence, _context(message), questions)


def explanation(message: match_service_pb2.ExplainResponse) -> Explanation:
    """A score, taken apart."""
    return Explanation(
        event=event(message.event),
        match=_match(message.match),
        matched=message.matched,
        verdict=message.verdict,
        contributions=tuple(
            Contribution(term.name, term.value, term.weight, term.log_odds)
            for term in message.contributions
        ),
        terms=tuple(TermHit(t.word, t.stem, t.weight, t.hit) for t in message.terms),
        passages=tuple(
            PassageScore(p.path, p.text, p.score, p.cosine, p.lexical) for p in message.passages
        ),
        rank=message.rank,
        data_count=message.data_count,
    )


def backtested(
    message: match_service_pb2.BacktestResponse,
) -> Iterator[MatchedEvent | BacktestProgress | BacktestSummary]:
    """What one message of a backtest brings."""
    match message.WhichOneof("message"):
        case "events":
            yield from map(matched_event, message.events.events)
        case "progress":
            progress = message.progress
            yield BacktestProgress(
                progress.sequence,
                progress.events_read,
                progress.events_total,
                progress.events_matched,
            )
        case "summary":
            summary = message.summary
            yield BacktestSummary(
                summary.events_judged,
                summary.events_matched,
                summary.data_keys_matched,
                summary.updates_held_back,
                tuple(
                    NeedSummary(need.events_matched, tuple(need.events_at_threshold))
                    for need in summary.needs
                ),
            )


def feedback(message: match_service_pb2.ExportFeedbackResponse) -> Iterator[Feedback]:
    """The judgement that one message of an export brings."""
    yield Feedback(
        sequence=message.sequence,
        time=message.time.ToDatetime(tzinfo=UTC),
        agent_id=message.agent_id,
        need=message.need,
        event=event(message.event),
        match=_match(message.match),
        useful=message.useful,
        comment=message.comment,
    )


def matching_status(message: match_service_pb2.GetMatchingStatusResponse) -> MatchingStatus:
    """How a project is matched."""
    return MatchingStatus(
        model=message.model,
        configured_model=message.configured_model,
        texts_embedded=message.texts_embedded,
        texts_total=message.texts_total,
        data_indexed=message.data_indexed,
        passages_indexed=message.passages_indexed,
        needs_indexed=message.needs_indexed,
        index_bytes=message.index_bytes,
        scorer=message.scorer,
        default_threshold=message.default_threshold,
    )


def _data(messages: Iterable[event_pb2.MatchedEvent]) -> tuple[MatchedEvent, ...]:
    return tuple(map(matched_event, messages))


def _match(message: event_pb2.Match) -> Match:
    parts = message.parts
    return Match(
        need_index=message.need_index,
        need=message.need,
        score=message.score,
        cosine=parts.cosine,
        threshold=parts.threshold,
        model=parts.model,
        path=message.path,
        passage=message.passage,
        background_mean=parts.background_mean,
        background_deviation=parts.background_deviation,
        standing=parts.standing,
        lexical=parts.lexical,
        background_passages=parts.background_passages,
        background_sequence=parts.background_sequence,
        scorer=parts.scorer,
        share=parts.share,
    )


def _need(message: agent_service_pb2.Need) -> Need:
    return Need(
        text=message.text,
        threshold=message.threshold if message.HasField("threshold") else None,
        max_matches=message.max_matches if message.HasField("max_matches") else None,
        exclude_data_keys=tuple(message.exclude_data_keys),
    )


def _context(
    message: agent_service_pb2.RegisterAgentResponse
    | agent_service_pb2.UpdateAgentResponse
    | match_service_pb2.MatchResponse,
) -> Context | None:
    if not message.HasField("context"):
        return None
    context = message.context
    return Context(
        text=context.text,
        format=_FORMATS.get(context.format),
        tokens=context.tokens,
        token_counter=context.token_counter,
        omitted=tuple(
            OmittedDatum(datum.data_key, datum.sequence, datum.score, datum.tokens)
            for datum in context.omitted
        ),
    )


def _durability(durability: event_pb2.Durability.ValueType) -> Durability:
    # A level that a newer server added includes all that this client knows.
    return Durability(min(durability, Durability.REPLICATED)) if durability else Durability.FSYNC
