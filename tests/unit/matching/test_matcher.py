from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from contex_server.matching.matcher import DataIndex, NeedIndex
from contex_server.matching.score import CosineScorer
from contex_server.model import Agent, Match, Need
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from numpy.typing import NDArray

DIMENSION = 8
TEXTS = 25
Vectors = NDArray[np.float32]


def _codebook() -> Vectors:
    rows = np.random.default_rng(3).standard_normal((TEXTS, DIMENSION)).astype(np.float32)
    # Texts that differ and mean the same: ties.
    rows[1], rows[2] = rows[0], rows[0]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


VECTORS = _codebook()
texts = st.integers(0, TEXTS - 1)


def digest(text: int) -> bytes:
    return text.to_bytes(16)


def agent(agent_id: str, needs: list[int], threshold: float = 0.3, max_matches: int = 5) -> Agent:
    described = tuple(Need(f"need {text}", digest(text)) for text in needs)
    return Agent(agent_id, described, threshold, max_matches, 0, 0)


def vectors(needs: list[int]) -> Vectors:
    return VECTORS[needs].reshape(-1, DIMENSION)


def need_index(*agents: tuple[Agent, list[int]]) -> NeedIndex:
    index = NeedIndex(DIMENSION, CosineScorer(), "model")
    for each, needs in agents:
        index.set_agent(each, vectors(needs))
    return index


def data_index(**data: int) -> DataIndex:
    index = DataIndex(DIMENSION, CosineScorer(), "model")
    for key, text in data.items():
        index.put(key, digest(text), VECTORS[text])
    return index


def cosine(need: int, text: int) -> float:
    wide = VECTORS.astype(np.float64)
    return float(np.clip(wide[need] @ wide[text], -1, 1))


def expected_matches(of: Agent, needs: list[int], text: int) -> list[tuple[int, float]]:
    pairs = [(i, max(cosine(need, text), 0.0)) for i, need in enumerate(needs)]
    return sorted(
        ((i, s) for i, s in pairs if s >= of.threshold), key=lambda pair: (-pair[1], pair[0])
    )


def pairs(matches: tuple[Match, ...]) -> list[tuple[int, float]]:
    return [(match.need_index, match.score) for match in matches]


agents = st.builds(
    lambda needs, threshold, k: (needs, threshold, k),
    st.lists(texts, min_size=1, max_size=6),
    st.sampled_from([0.01, 0.2, 0.35, 0.6, 1.0]),
    st.integers(1, 6),
)


class NeedsAgainstBruteForce(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.index = NeedIndex(DIMENSION, CosineScorer(), "model")
        self.model: dict[str, tuple[Agent, list[int]]] = {}

    @rule(agent_id=st.sampled_from("abcdef"), drawn=agents)
    def set_agent(self, agent_id: str, drawn: tuple[list[int], float, int]) -> None:
        needs, threshold, k = drawn
        made = agent(agent_id, needs, threshold, k)
        self.index.set_agent(made, vectors(needs))
        self.model[agent_id] = made, needs

    @rule(agent_id=st.sampled_from("abcdef"))
    def remove_agent(self, agent_id: str) -> None:
        self.index.remove_agent(agent_id)
        self.model.pop(agent_id, None)

    @rule(events=st.lists(texts, max_size=12))
    def match(self, events: list[int]) -> None:
        found = self.index.match(vectors(events))
        assert len(found) == len(events)
        for event, by_agent in zip(events, found, strict=True):
            expected = {
                agent_id: matches
                for agent_id, (made, needs) in self.model.items()
                if (matches := expected_matches(made, needs, event))
            }
            assert {a: pairs(m) for a, m in by_agent.items()} == expected

    @invariant()
    def counts_agents(self) -> None:
        assert len(self.index) == len(self.model)


class DataAgainstBruteForce(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.index = DataIndex(DIMENSION, CosineScorer(), "model")
        self.model: dict[str, int] = {}

    @rule(key=st.sampled_from("abcdefghijkl"), text=texts)
    def put(self, key: str, text: int) -> None:
        self.index.put(key, digest(text), VECTORS[text])
        self.model[key] = text

    @rule(key=st.sampled_from("abcdefghijkl"))
    def remove(self, key: str) -> None:
        self.index.remove(key)
        self.model.pop(key, None)

    @rule(drawn=agents)
    def search(self, drawn: tuple[list[int], float, int]) -> None:
        needs, threshold, k = drawn
        made = agent("x", needs, threshold, k)
        expected: dict[str, list[tuple[int, float]]] = {}
        for i, need in enumerate(needs):
            scored = [(key, max(cosine(need, text), 0.0)) for key, text in self.model.items()]
            ranked = sorted((-s, key) for key, s in scored if s >= threshold)
            for negated, key in ranked[:k]:
                expected.setdefault(key, []).append((i, -negated))
        for matches in expected.values():
            matches.sort(key=lambda pair: (-pair[1], pair[0]))
        order = sorted(expected, key=lambda key: (-expected[key][0][1], key))
        found = self.index.search(made, vectors(needs))
        assert [(key, pairs(matches)) for key, matches in found] == [
            (key, expected[key]) for key in order
        ]

    @invariant()
    def counts_data(self) -> None:
        assert len(self.index) == len(self.model)
        for text in range(TEXTS):
            assert self.index.has_digest(digest(text)) == (text in self.model.values())


for machine in (NeedsAgainstBruteForce, DataAgainstBruteForce):
    machine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestNeeds = NeedsAgainstBruteForce.TestCase
TestData = DataAgainstBruteForce.TestCase


@given(
    needs=st.lists(texts, min_size=1, max_size=6),
    text=texts,
    crowd=st.lists(texts, max_size=40),
    threshold=st.floats(0.01, 1),
)
@settings(deadline=None)
def test_both_ways_give_the_same_matches(
    needs: list[int], text: int, crowd: list[int], threshold: float
) -> None:
    made = agent("a", needs, threshold, 100)
    by_need = need_index((made, needs), (agent("b", [0, *crowd]), [0, *crowd]))
    by_datum = data_index(datum=text, **{f"other{i}": other for i, other in enumerate(crowd)})
    pushed = by_need.match(vectors([text, *crowd]))[0].get("a", ())
    pulled = dict(by_datum.search(made, vectors(needs))).get("datum", ())
    assert pushed == pulled


def test_a_match_says_why() -> None:
    made = agent("a", [3, 0], threshold=0.9)
    ((found,),) = (need_index((made, [3, 0])).match(vectors([0]))[0].values(),)
    assert found == (Match(1, "need 0", pytest.approx(1.0), pytest.approx(1.0), 0.9, "model"),)


def test_agents_with_their_own_threshold_share_a_need() -> None:
    near = int(np.argsort(-(VECTORS[4] @ VECTORS.T))[1])
    score = cosine(4, near)
    lax, strict = agent("lax", [4], score - 0.01), agent("strict", [4], score + 0.01)
    index = need_index((lax, [4]), (strict, [4]))
    assert index.match(vectors([near]))[0].keys() == {"lax"}
    assert index.match(vectors([4]))[0].keys() == {"lax", "strict"}
    index.remove_agent("lax")
    assert index.match(vectors([near, 4])) == [
        {},
        {"strict": index.match(vectors([4]))[0]["strict"]},
    ]


def test_equal_scores_are_taken_by_key() -> None:
    index = data_index(e=0, d=1, c=2, b=0, a=1)
    found = index.search(agent("x", [0], max_matches=3), vectors([0]))
    assert [key for key, _ in found] == ["a", "b", "c"]


def test_nothing_is_found_in_empty_indexes() -> None:
    assert need_index().match(vectors([0, 1])) == [{}, {}]
    assert need_index((agent("a", [0]), [0])).match(vectors([])) == []
    assert data_index().search(agent("a", [0]), vectors([0])) == []


def test_misshapen_vectors_are_refused_and_change_nothing() -> None:
    index = need_index((agent("a", [0]), [0]))
    before = index.match(vectors([0]))
    with pytest.raises(ValueError, match="need vectors"):
        index.set_agent(agent("a", [0, 1]), vectors([0]))
    data = data_index(a=0)
    with pytest.raises(ValueError, match="index of 8"):
        data.put("a", digest(1), np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="need vectors"):
        data.search(agent("a", [0, 1]), vectors([0]))
    assert index.match(vectors([0])) == before
    assert len(data) == 1
    assert data.has_digest(digest(0))
    assert not data.has_digest(digest(1))


def test_an_agent_keeps_what_its_replacement_needs_too() -> None:
    index = need_index((agent("a", [0, 3]), [0, 3]))
    index.set_agent(dataclasses.replace(agent("a", [3, 4]), threshold=0.99), vectors([3, 4]))
    found = index.match(vectors([0, 3, 4]))
    assert [[m.need_index for ms in f.values() for m in ms] for f in found] == [[], [0], [1]]
