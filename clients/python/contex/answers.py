"""What `MatchService` answers: frozen dataclasses like those of `values.py`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from .values import Context, Event, Match, MatchedEvent, MatchesByNeed, by_need

THRESHOLDS = tuple(step / 20 for step in range(1, 20))
"""0.05, 0.10, … 0.95: those that a backtest counts events at."""


@dataclass(frozen=True, slots=True)
class MatchAnswer:
    """The data that answer some questions.

    Attributes:
        data: Each once, best score first, with the questions it answers.
        sequence: They are the state as of this sequence.
        context: The data written out, where a budget or a format was given.
        questions: The questions, in their order.
    """

    data: tuple[MatchedEvent, ...]
    sequence: str
    context: Context | None = None
    questions: tuple[str, ...] = ()

    def by_need(self) -> MatchesByNeed:
        """Groups the data by question: every question in its order, best score first."""
        return by_need(self.questions, self.data)


@dataclass(frozen=True, slots=True)
class Contribution:
    """One term of a score's log-odds.

    Attributes:
        name: Which: `"bias"`, `"standing"`, `"cosine"`, `"lexical"`, …
        value: The feature's value.
        weight: The fitted weight.
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
        word: As it stands in the need.
        stem: As it is compared: folded and stemmed.
        weight: How rare it is: its share of the need's weight, 0 to 1.
        hit: How much of that share the passage gets; 0 where it lacks the word.
    """

    word: str
    stem: str
    weight: float
    hit: float


@dataclass(frozen=True, slots=True)
class PassageScore:
    """A passage of a datum and its score.

    Attributes:
        path: Where it lies; see `Match.path`.
        text: Its words, 400 characters at most.
        score: Its score.
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
    """Why a need and a datum match or don't.

    Attributes:
        event: The datum's event.
        match: The score and its parts, whether or not it reaches the threshold.
        matched: Whether it matches.
        verdict: In one or two sentences: why, or what keeps it from it.
        contributions: The log-odds, term by term; they add up to ln(score / (1 - score)).
        terms: The words of the need, in its order.
        passages: Passages of the datum, best first; 64 at most.
        rank: Place of the datum among the project's data for this need, from 1; 0 where the
            event is not its key's latest.
        data_count: How many data the project has.
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
        sequence: Up to here the log has been read.
        events_read: Events read so far, those before the range included.
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
        events_matched: Events it would have received.
        events_at_threshold: Events whose score reaches each of `THRESHOLDS`: what other
            thresholds would have brought.
    """

    events_matched: int
    events_at_threshold: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class BacktestSummary:
    """What a backtest found; its last item.

    Attributes:
        events_judged: Events of data in the range.
        events_matched: Those that would have been delivered.
        data_keys_matched: Different data keys among them.
        updates_held_back: Updates that `min_delta` held back.
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
        sequence: Sequence of the event that notes it.
        time: When it was given (UTC).
        agent_id: Who judged.
        need: The need, in the agent's words.
        event: The event that was judged.
        match: The match as it was scored when it was judged.
        useful: The verdict.
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
        model: Identity of the model whose vectors decide now.
        configured_model: Identity of the model that the server is configured with.
        texts_embedded: Texts embedded with `configured_model`; 0 unless the models differ.
        texts_total: How many there are in all; 0 unless the models differ.
        data_indexed: Live data in the server's index.
        passages_indexed: Passages of these.
        needs_indexed: Needs of agents that listen at the server.
        index_bytes: What the index takes in the server's memory.
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
        """Whether the project is on its way to another model."""
        return self.configured_model != self.model
