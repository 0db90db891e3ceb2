# Generated from protos/ by `make generate`.

"""The values of `contex.match` that stand for messages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from contex._values.events import (
    Context,
    Event,
    Match,
    MatchedEvent,
    context,
    event,
    match,
    matched_event,
)
from contex.methods import (
    ExplanationMethods,
    MatchAnswerMethods,
    MatchingStatusMethods,
)

if TYPE_CHECKING:
    from contex.v1 import (
        match_service_pb2,
    )

__all__ = [
    "BacktestProgress",
    "BacktestSummary",
    "Contribution",
    "Explanation",
    "Feedback",
    "MatchAnswer",
    "MatchingStatus",
    "NeedSummary",
    "PassageScore",
    "TermHit",
    "backtest_progress",
    "backtest_summary",
    "contribution",
    "explanation",
    "feedback",
    "match_answer",
    "matching_status",
    "need_summary",
    "passage_score",
    "term_hit",
]


@dataclass(frozen=True, slots=True)
class MatchAnswer(MatchAnswerMethods):
    """The data that answer the questions.

    Attributes:
        data: The data that match: each item once, best score first, with the questions it answers
            (need_index is the position of the question).
        sequence: The sequence as of which the data are returned.
        context: The data written out; set if max_context_tokens or context_format was given.
        omitted_count: Same as in `Registration`.
        questions: The questions, in their order.
    """

    data: tuple[MatchedEvent, ...]
    sequence: str
    context: Context | None = None
    omitted_count: int = 0
    questions: tuple[str, ...] = ()


def match_answer(
    message: match_service_pb2.MatchResponse, questions: tuple[str, ...] = ()
) -> MatchAnswer:
    """The `MatchAnswer` of a message."""
    return MatchAnswer(
        data=tuple(map(matched_event, message.data)),
        sequence=message.sequence,
        context=context(message.context) if message.HasField("context") else None,
        omitted_count=message.omitted_count,
        questions=questions,
    )


@dataclass(frozen=True, slots=True)
class Contribution:
    """One term of the log-odds.

    Attributes:
        name: Its name: "bias", "standing", "contrast", "lexical", "surplus"; of a relative score
            "share".
        value: Value of the feature.
        weight: Fitted weight.
        log_odds: value * weight.
        needed: The value with which the score would be the threshold, everything else being equal.
            None for "bias", for weights of 0, and of a relative score.
    """

    name: str
    value: float
    weight: float
    log_odds: float
    needed: float | None = None


def contribution(message: match_service_pb2.Contribution) -> Contribution:
    """The `Contribution` of a message."""
    return Contribution(
        name=message.name,
        value=message.value,
        weight=message.weight,
        log_odds=message.log_odds,
        needed=message.needed if message.HasField("needed") else None,
    )


@dataclass(frozen=True, slots=True)
class TermHit:
    """A word of the need.

    Attributes:
        word: The word as written in the need.
        stem: The word as compared: case-folded and stemmed.
        weight: Its share of the need's total weight, 0 to 1; rarer words in the project weigh more.
        hit: How much of that share the passage gets. 0 if it lacks the word.
    """

    word: str
    stem: str
    weight: float
    hit: float


def term_hit(message: match_service_pb2.TermHit) -> TermHit:
    """The `TermHit` of a message."""
    return TermHit(
        word=message.word,
        stem=message.stem,
        weight=message.weight,
        hit=message.hit,
    )


@dataclass(frozen=True, slots=True)
class PassageScore:
    """A passage and its score.

    Attributes:
        path: Where it is; see `Match.path`.
        text: Its text, at most 400 characters.
        score: Its score.
        cosine: Cosine of the need and the passage.
        lexical: Its lexical part; see `Match.lexical`.
    """

    path: str
    text: str
    score: float
    cosine: float
    lexical: float


def passage_score(message: match_service_pb2.PassageScore) -> PassageScore:
    """The `PassageScore` of a message."""
    return PassageScore(
        path=message.path,
        text=message.text,
        score=message.score,
        cosine=message.cosine,
        lexical=message.lexical,
    )


@dataclass(frozen=True, slots=True)
class Explanation(ExplanationMethods):
    """The parts of a score.

    Of an agent's need that is a filter there are none: the score is 1 or 0, the verdict says which
    parts of the filter the event passes and which it fails, `rank` is 0, and `contributions`,
    `terms` and `passages` are empty. Every event can be explained then, also one without a text. A
    threshold is refused with INVALID_FIELD.

    Attributes:
        event: The datum's event.
        need_match: The score and its parts, whether or not it reaches the threshold.
        matched: Whether it matches.
        verdict: One or two sentences on why it matches or what prevents it.
        contributions: The log-odds term by term; their sum is ln(score / (1 - score)).
        terms: The words of the need, in order.
        passages: The datum's passages with their scores, best first; at most 64.
        rank: Rank of the datum among the project's data for this need, from 1. 0 if the event is
            not the latest of its key.
        data_count: Number of live data items in the project.
    """

    event: Event
    need_match: Match
    matched: bool
    verdict: str
    contributions: tuple[Contribution, ...] = ()
    terms: tuple[TermHit, ...] = ()
    passages: tuple[PassageScore, ...] = ()
    rank: int = 0
    data_count: int = 0


def explanation(message: match_service_pb2.ExplainResponse) -> Explanation:
    """The `Explanation` of a message."""
    return Explanation(
        event=event(message.event),
        need_match=match(message.need_match),
        matched=message.matched,
        verdict=message.verdict,
        contributions=tuple(map(contribution, message.contributions)),
        terms=tuple(map(term_hit, message.terms)),
        passages=tuple(map(passage_score, message.passages)),
        rank=message.rank,
        data_count=message.data_count,
    )


@dataclass(frozen=True, slots=True)
class BacktestProgress:
    """Progress of a backtest.

    Attributes:
        sequence: The sequence up to which the log has been read.
        events_read: Number of events of the range read so far.
        events_total: Estimated total number of events to read.
        events_matched: Number of events that matched so far.
    """

    sequence: str
    events_read: int
    events_total: int
    events_matched: int


def backtest_progress(message: match_service_pb2.BacktestProgress) -> BacktestProgress:
    """The `BacktestProgress` of a message."""
    return BacktestProgress(
        sequence=message.sequence,
        events_read=message.events_read,
        events_total=message.events_total,
        events_matched=message.events_matched,
    )


@dataclass(frozen=True, slots=True)
class NeedSummary:
    """What a backtest found for one need.

    Attributes:
        events_matched: Number of events that it would have received.
        events_at_threshold: Number of events whose score reaches each of `THRESHOLDS`, after
            exclusions and min_delta: what other thresholds would have delivered.
    """

    events_matched: int
    events_at_threshold: tuple[int, ...] = ()


def need_summary(message: match_service_pb2.NeedSummary) -> NeedSummary:
    """The `NeedSummary` of a message."""
    return NeedSummary(
        events_matched=message.events_matched,
        events_at_threshold=tuple(message.events_at_threshold),
    )


@dataclass(frozen=True, slots=True)
class BacktestSummary:
    """What a backtest found.

    Attributes:
        events_judged: Number of events in the range that carry data, and of the service's own that
            a filter passed.
        events_matched: Number of events that would have been delivered.
        data_keys_matched: Number of distinct data keys among these.
        updates_held_back: Number of updates that min_delta held back.
        needs: One entry for each need, in the order of the request.
    """

    events_judged: int
    events_matched: int
    data_keys_matched: int
    updates_held_back: int
    needs: tuple[NeedSummary, ...] = ()


def backtest_summary(message: match_service_pb2.BacktestSummary) -> BacktestSummary:
    """The `BacktestSummary` of a message."""
    return BacktestSummary(
        events_judged=message.events_judged,
        events_matched=message.events_matched,
        data_keys_matched=message.data_keys_matched,
        updates_held_back=message.updates_held_back,
        needs=tuple(map(need_summary, message.needs)),
    )


@dataclass(frozen=True, slots=True)
class Feedback:
    """One judgement.

    Attributes:
        sequence: Sequence of the match_feedback event.
        time: When the feedback was given (UTC).
        agent_id: The agent that judged.
        need: The need, in the agent's words.
        event: The event that was judged.
        need_match: The match as scored when the feedback was given.
        useful: Whether the match was useful.
        comment: The comment.
    """

    sequence: str
    time: datetime
    agent_id: str
    need: str
    event: Event
    need_match: Match
    useful: bool
    comment: str = ""


def feedback(message: match_service_pb2.ExportFeedbackResponse) -> Feedback:
    """The `Feedback` of a message."""
    return Feedback(
        sequence=message.sequence,
        time=message.time.ToDatetime(tzinfo=UTC),
        agent_id=message.agent_id,
        need=message.need,
        event=event(message.event),
        need_match=match(message.need_match),
        useful=message.useful,
        comment=message.comment,
    )


@dataclass(frozen=True, slots=True)
class MatchingStatus(MatchingStatusMethods):
    """How a project is matched.

    Attributes:
        model: Identity of the model whose vectors are used now.
        configured_model: Identity of the model that the server is configured with. Differs from
            `model` while the project is being re-embedded.
        texts_embedded: Number of the project's texts already embedded with configured_model. 0
            unless the models differ.
        texts_total: Total number of the project's texts. 0 unless the models differ.
        data_indexed: Number of live data items in this server's index; grows while the index is
            being built.
        passages_indexed: Number of their passages.
        needs_indexed: Number of needs of the agents that listen on this server.
        index_bytes: Memory that the index takes on this server, in bytes.
        scorer: Identity of the formula and of its fitted weights.
        default_threshold: Threshold of needs and agents that set none.
        data_total: How many data items the index will have, about, while this server builds it:
            `data_indexed` of them are in it. 0 when it is built.
    """

    model: str
    configured_model: str
    texts_embedded: int
    texts_total: int
    data_indexed: int
    passages_indexed: int
    needs_indexed: int
    index_bytes: int
    scorer: str
    default_threshold: float
    data_total: int


def matching_status(message: match_service_pb2.GetMatchingStatusResponse) -> MatchingStatus:
    """The `MatchingStatus` of a message."""
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
        data_total=message.data_total,
    )
