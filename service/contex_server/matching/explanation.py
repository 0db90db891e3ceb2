"""What an explanation of a score says, under any rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from contex_server.kernel.model import DATA_EXPIRED, SERVICE_TYPES, Event, Match, Need
from contex_server.matching.filter_index import exact_match


class Contribution(NamedTuple):
    """One term of the log-odds."""

    name: str
    value: float
    weight: float
    needed: float | None = None
    """The value with which the score would be the threshold, everything else being equal."""

    @property
    def log_odds(self) -> float:
        """What it adds to the log-odds."""
        return self.value * self.weight


@dataclass(frozen=True, slots=True)
class TermHit:
    """A word of the need: its share of the need's weight, and how much of that the passage gets."""

    word: str
    stem: str
    weight: float
    hit: float


@dataclass(frozen=True, slots=True)
class PassageScore:
    """A passage, with the score that the datum would have if it were the only one."""

    path: str
    text: str
    score: float
    cosine: float
    lexical: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """See `contex.v1.ExplainResponse`."""

    match: Match
    matched: bool
    verdict: str
    contributions: tuple[Contribution, ...]
    terms: tuple[TermHit, ...]
    passages: tuple[PassageScore, ...]
    rank: int  # of the datum for this need, from 1; 0 if the event is not its latest
    data_count: int


def listed(words: Sequence[str]) -> str:
    """Some words in quotes, and how many more there are."""
    quoted = [f'"{word}"' for word in words[:5]]
    more = f" and {len(words) - 5} more of its words" if len(words) > 5 else ""
    return ", ".join(quoted) + more


def decision(match: Match, event: Event, *, matched: bool, excluded: bool) -> str:
    """The sentence that says whether the event's datum matches, and by what."""
    score, threshold = f"{match.score:.2f}", f"{match.threshold:.2f}"
    what = "The datum deleted here" if event.deletes else "It"
    if event.event_type == DATA_EXPIRED:
        what = "The datum that expired here"
    if excluded:
        return f"{what} does not match: its key is one that the need excludes."
    if matched:
        return f"{what} matches: {score} reaches the threshold {threshold}."
    return f"{what} does not match: {score} is below the threshold {threshold}."


def counted(several: Iterable[set[str]], admits: Callable[[str], bool] | None) -> int:
    """How many data of some texts are admitted; None: all."""
    return sum(len(keys) if admits is None else sum(map(admits, keys)) for keys in several)


def explain_filter(need: Need, event: Event, data_count: int) -> Explanation:
    """Which parts of a need's filter an event passes, and which it fails."""
    wanted = need.filter
    assert wanted is not None
    parts = {
        "type": (wanted.limits_types, wanted.admits_type(event.event_type)),
        "data key": (bool(wanted.data_keys), wanted.admits_key(event.data_key)),
        "publisher": (bool(wanted.publishers), event.publisher in wanted.publishers),
        "metadata": (bool(wanted.metadata), wanted.metadata <= event.metadata.items()),
    }
    passed = [name for name, (is_limited, passes) in parts.items() if is_limited and passes]
    failed = [name for name, (is_limited, passes) in parts.items() if is_limited and not passes]
    excluded, matched = need.excludes(event.data_key), need.passes(event)
    if matched:
        verdict = f"It matches: it passes the filter{_by(passed)}."
    elif failed:
        verdict = f"It does not match: it fails the filter{_by(failed)}"
        verdict += f", and passes it{_by(passed)}." if passed else "."
    elif excluded:
        verdict = "It does not match: its key is one that the need excludes."
    else:
        assert event.event_type in SERVICE_TYPES
        verdict = f"It does not match: the filter does not name the service's {event.event_type!r}."
    match = exact_match(need, 0)
    match = match if matched else match._replace(score=0.0)
    return Explanation(match, matched, verdict, (), (), (), 0, data_count)


def _by(parts: Sequence[str]) -> str:
    *first, last = parts or ("",)
    named = f"{', '.join(first)} and {last}" if first else last
    return f" by its {named}" if named else ""
