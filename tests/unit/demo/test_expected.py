"""What the demo says of answers that a person would expect and that were not delivered."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from contex import Agent, Event, Explanation, Match, MatchedEvent, Registration, TermHit
from contex_demo.corpus import AgentPlan, Need
from contex_demo.expected import Expected, expected_answers, missed, undelivered

AGENT = AgentPlan("a", (Need("x"), Need("web page", frozenset({"k", "l", "gone"}))))
MATCH = Match(1, "web page", 0.1, 0.2, 0.2, "m", background_mean=0.1, background_deviation=0.05)
PUBLISHED = frozenset({"k", "l", "other"})


def event(key: str) -> Event:
    return Event("1-0", "data_published", key, b"1", "", "", "", {}, 1, "")


def explanation(*, matched: bool, rank: int, hit: float = 0.0) -> Explanation:
    terms = (TermHit("web", "web", 0.5, hit), TermHit("page", "page", 0.5, 0.0))
    return Explanation(event("l"), MATCH, matched, "", (), terms, (), rank, 30)


def registered(*keys: str) -> dict[str, Registration]:
    now = datetime.now(UTC)
    agent = Agent("a", (Need("x"), Need("web page")), 0.2, 10, now, now, "0")
    data = tuple(MatchedEvent(event(key), (MATCH,)) for key in keys)
    return {"a": Registration(agent, data, "1-0", "c")}


def test_only_what_is_published_is_expected() -> None:
    expected = expected_answers([AGENT], PUBLISHED)
    assert [(one.need_index, one.data_key) for one in expected] == [(1, "k"), (1, "l")]


def test_an_answer_counts_for_the_need_that_it_was_delivered_for() -> None:
    expected = expected_answers([AGENT], PUBLISHED)
    assert [one.data_key for one in undelivered(expected, registered("k", "other"))] == ["l"]
    assert list(undelivered(expected, registered("k", "l"))) == []
    elsewhere = registered("k", "l")
    data = tuple(
        replace(datum, matches=(replace(MATCH, need_index=0),)) for datum in elsewhere["a"].data
    )
    elsewhere["a"] = replace(elsewhere["a"], data=data)
    assert list(undelivered(expected, elsewhere)) == expected


def test_each_reason_is_told() -> None:
    one = Expected("a", 1, "web page", "l")
    told = missed(one, explanation(matched=False, rank=12), 10)
    assert (told.data_key, told.score, told.threshold, told.rank) == ("l", 0.1, 0.2, 12)
    assert told.reason == "cosine 0.20, usual are 0.10 ± 0.05; none of the words"
    told = missed(one, explanation(matched=False, rank=12, hit=0.5), 10)
    assert told.reason.endswith("of the words only web")
    assert "only the best 10" in missed(one, explanation(matched=True, rank=12), 10).reason
