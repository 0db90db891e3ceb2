"""Values of `contex.v1.MatchService`: what would match, why, and whether it was useful."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from . import events
from .events import Context, Event, Match, MatchedEvent, MatchesByNeed, by_need
from .lazy import wire

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


@dataclass(frozen=True, slots=True)
class Contribution:
    """One term of a score's log-odds.

    Attributes:
        name: The term: `"bias"`, `"standing"`, `"cosine"`, `"lexical"`, …
        value: The feature's value.
        log_odds: Their product.
    """

    name: str
    value: float
    weight: float
    log_odds: float


@dataclass(frozen=True, slots=True)
class TermHit:
    """A word of a need.

    Attributes:
        word: The word as the need has it.
        stem: The form that is compared: folded and stemmed.
        weight: How rare it is, as its share of the need's weight, 0 to 1.
        hit: How much of that share the passage gets; 0 if it lacks the word.
    """

    word: str
    stem: str
    weight: float
    hit: float


@dataclass(frozen=True, slots=True)
class PassageScore:
    """A passage of a datum and its score.

    Attributes:
        path: Where it is; see `Match.path`.
        text: Its text, up to 400 characters.
        cosine: Cosine of the need and the passage.
        lexical: Its lexical part; see `Match.lexical`.
    """

    path: str
    text: str
    score: float
    cosine: float
    lexical: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a need and a datum match, or don't.

    Attributes:
        match: The score and its parts, whether or not it reaches the threshold.
        verdict: In one or two sentences, why it matches or what prevents it.
        contributions: The log-odds, term by term; they add up to ln(score / (1 - score)).
        terms: The words of the need, in its order.
        passages: Up to 64 passages of the datum, best first.
        rank: Rank of the datum among the project's data for this need, from 1; 0 if the event is
            not its key's latest.
        data_count: Number of data in the project.
    """

    event: Event
    match: Match
    matched: bool
    verdict: str
    contributions: tuple[Contribution, ...] = ()
    terms: tuple[TermHit, ...] = ()
    passages: tuple[PassageScore, ...] = ()
    rank: int = 0
    data_count: int = 0

    @property
    def log_odds(self) -> float:
        """The sum of the contributions."""
        return sum(contribution.log_odds for contribution in self.contributions)


@dataclass(frozen=True, slots=True)
class BacktestProgress:
    """How far a backtest has come.

    Attributes:
        sequence: The log has been read up to here.
        events_read: Events read so far, including those before the range.
        events_total: Events to read in all, as an estimate.
        events_matched: Events that matched so far.
    """

    sequence: str
    events_read: int
    events_total: int
    events_matched: int


@dataclass(frozen=True, slots=True)
class NeedSummary:
    """What a backtest found for one need.

    Attributes:
        events_matched: Number of events it would have received.
        events_at_threshold: Number of events whose score reaches each of `THRESHOLDS`: what it
            would have received with other thresholds.
    """

    events_matched: int
    events_at_threshold: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class BacktestSummary:
    """What a backtest found. It is the last item.

    Attributes:
        events_judged: Events of data in the range.
        events_matched: Those that would have been delivered.
        data_keys_matched: Number of distinct data keys among them.
        updates_held_back: Number of updates that `min_delta` held back.
        needs: For each need, in the order of the request.
    """

    events_judged: int
    events_matched: int
    data_keys_matched: int
    updates_held_back: int
    needs: tuple[NeedSummary, ...] = ()


@dataclass(frozen=True, slots=True)
class Feedback:
    """One judgement of a match.

    Attributes:
        sequence: Sequence of the event that records it.
        time: When it was given (UTC).
        agent_id: Who judged.
        need: The need, in the agent's words.
        event: The event that was judged.
        match: The match with its score at the time of the judgement.
        comment: A remark for people.
    """

    sequence: str
    time: datetime
    agent_id: str
    need: str
    event: Event
    match: Match
    useful: bool
    comment: str = ""


@dataclass(frozen=True, slots=True)
class MatchingStatus:
    """How a project is matched.

    Attributes:
        model: Identity of the model whose vectors are in use.
        configured_model: Identity of the model that the server is configured with.
        texts_embedded: Texts embedded with `configured_model`; 0 unless the models differ.
        texts_total: Texts to embed in all; 0 unless the models differ.
        data_indexed: Number of live data in the server's index.
        passages_indexed: Number of their passages.
        needs_indexed: Number of needs of agents that listen on this server.
        index_bytes: Size of the index in the server's memory.
        scorer: Identity of the formula and its fitted weights.
        default_threshold: Threshold of needs and agents that don't set their own.
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

    @property
    def is_embedding_anew(self) -> bool:
        """Whether the project is being re-embedded with another model."""
        return self.configured_model != self.model


def answer(
    message: match_service_pb2.MatchResponse, request: match_service_pb2.MatchRequest
) -> MatchAnswer:
    """The data that answer the questions of a request."""
    return MatchAnswer(
        tuple(map(events.matched_event, message.data)),
        message.sequence,
        events.context(message),
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
            yield wire.to_value(BacktestProgress, message.progress)
        case "summary":
            yield wire.to_value(BacktestSummary, message.summary)
