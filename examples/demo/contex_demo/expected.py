"""The answers that a person would expect: which were not delivered at registration, and why.

Pure: values in, findings out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from contex import Explanation, Registration

from contex_demo.corpus import AgentPlan


@dataclass(frozen=True, slots=True)
class Expected:
    """An answer that a need should get."""

    agent_id: str
    need_index: int
    need: str
    data_key: str


@dataclass(frozen=True, slots=True)
class Missed:
    """An expected answer that was not delivered; `rank` is its place among all data, from 1."""

    agent_id: str
    need: str
    data_key: str
    score: float
    threshold: float
    rank: int
    reason: str


def expected_answers(agents: Iterable[AgentPlan], published: frozenset[str]) -> list[Expected]:
    """The answers of all needs that have been published."""
    return [
        Expected(agent.agent_id, index, need.text, key)
        for agent in agents
        for index, need in enumerate(agent.needs)
        for key in sorted(need.answers & published)
    ]


def undelivered(
    expected: Iterable[Expected], registrations: Mapping[str, Registration]
) -> Iterator[Expected]:
    """Those that are not among the matches of their need."""
    delivered = {
        (agent_id, match.need_index, matched.event.data_key)
        for agent_id, registration in registrations.items()
        for matched in registration.data
        for match in matched.matches
    }
    for one in expected:
        if (one.agent_id, one.need_index, one.data_key) not in delivered:
            yield one


def missed(expected: Expected, explanation: Explanation, max_matches: int) -> Missed:
    """An expected answer with the score and the reason of its explanation.

    Args:
        expected: The answer.
        explanation: Its explanation as of the registration: a background that changed since then
            may have changed the score.
        max_matches: How many data an answer has for each need.
    """
    match = explanation.need_match
    return Missed(
        expected.agent_id,
        expected.need,
        expected.data_key,
        match.score,
        match.threshold,
        explanation.rank,
        _reason(explanation, max_matches),
    )


def _reason(explanation: Explanation, max_matches: int) -> str:
    match = explanation.need_match
    if explanation.matched:
        return f"it matches, and an answer has only the best {max_matches}"
    words = [term.word for term in explanation.terms if term.hit > 0 and " " not in term.word]
    has = "of the words only " + ", ".join(words) if words else "none of the words"
    return (
        f"cosine {match.cosine:.2f}, usual are {match.background_mean:.2f} ± "
        f"{match.background_deviation:.2f}; {has}"
    )
