"""What a batch of events meets is, to the last bit, what each event meets when judged alone."""

from __future__ import annotations

import random
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from contex_server.kernel.model import Agent, Match, Need
from contex_server.kernel.model import Sequence as LogSequence
from contex_server.matching import need_index as need_index_module
from contex_server.matching.background import Snapshot
from contex_server.matching.changes import best_first
from contex_server.matching.data_index import DataIndex
from contex_server.matching.encoding import Encoding
from contex_server.matching.measure import measure
from contex_server.matching.need_index import NeedIndex
from contex_server.matching.rules import AbsoluteRule
from contex_server.matching.score import Scorer, Weights, probability
from contex_server.matching.terms import NO_TERMS

from tests.unit.matching.corpora import Corpus, absolute_prior

WEIGHTS = Weights("test", -2.0, 1.0, 1.5, 2.5, 0.3)
Matched = dict[str, tuple[Match, ...]]


class Agents:
    """Agents whose needs are drawn from a few, with settings of their own."""

    def __init__(self, seed: int, needs: int) -> None:
        self.randomly = random.Random(seed)
        corpus = Corpus(seed)
        self.encodings = [corpus.need() for _ in range(needs)]
        self.encodings[0] = Encoding(self.encodings[0].vectors, (NO_TERMS,))
        self.encodings[1] = replace(self.encodings[1], foreign=True)
        self.has: dict[str, tuple[Agent, list[Encoding]]] = {}

    def change(self, index: NeedIndex, agent_id: str) -> None:
        """Gives an agent other needs, or removes it."""
        if agent_id in self.has and self.randomly.random() < 0.3:
            del self.has[agent_id]
            index.remove_agent(agent_id)
            return
        chosen = self.randomly.choices(range(len(self.encodings)), k=self.randomly.randrange(1, 6))
        needs = tuple(
            Need(
                f"need {at}",
                b"%d" % at,
                self.randomly.choice([0.05, 0.3, 0.3, 0.6]),
                10,
                self.randomly.choice([frozenset(), frozenset(), frozenset({"k1*"})]),
            )
            for at in chosen
        )
        encodings = [self.encodings[at] for at in chosen]
        self.has[agent_id] = Agent(agent_id, needs, 0.3, 10, 0, 0), encodings
        index.set_agent(*self.has[agent_id])

    def judged_alone(
        self, index: NeedIndex, data: DataIndex, text: Encoding, data_key: str
    ) -> Matched:
        """What the agents get of a text, need by need.

        A need's mean and deviation are the index's: computed for other needs together they may
        differ in the last bit.
        """
        matched = {}
        for agent_id, (agent, encodings) in self.has.items():
            found = []
            for at, (need, encoding) in enumerate(zip(agent.needs, encodings, strict=True)):
                baseline = index._baselines[index._row_of[need.digest]]
                vectors = encoding.vectors[:1]
                passages = measure(vectors, [baseline], text, data.background, data.scorer)
                measured = passages.best(data.scorer)
                (parts,) = measured.parts(np.array([0]))
                assert parts.score == float(probability(measured.log_odds[0]))
                if parts.score >= need.threshold and not need.excludes(data_key):
                    found.append(data.match_of(need, at, baseline, parts))
            if found:
                matched[agent_id] = best_first(found)
        return matched


@pytest.mark.parametrize("seed", range(4))
def test_a_batch_meets_what_each_event_meets_alone(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (("ROWS", 16), ("PASSAGES", 7)):
        monkeypatch.setattr(need_index_module, f"_BLOCK_{name}", size)
    monkeypatch.setattr(need_index_module, "_WORDS_PASSAGES", 3)
    monkeypatch.setattr(need_index_module, "_PAIRS_PER_STEP", 5)
    prior = replace(absolute_prior(), latin_only=True)
    rule = AbsoluteRule("test#2", prior, Scorer(WEIGHTS))
    data = rule.data()
    index, agents, corpus = rule.needs(data), Agents(seed, 40), Corpus(seed + 100)
    texts = [corpus.text(1 + at % 4) for at in range(30)]
    texts[3] = Encoding(texts[3].vectors[:1], (NO_TERMS,))
    met = 0
    for turn in range(6):
        for agent in range(12):
            agents.change(index, f"a{agent}")
        if turn % 2:
            packed = Snapshot.of(texts[: 10 * turn], 10 * turn).pack()
            rule.set_background(data, index, packed, LogSequence(turn, 0))
        keys = [f"k{at}" for at in range(len(texts))]
        found = index.scan(texts)
        for key, text, each in zip(keys, texts, found, strict=True):
            matched = index.match(text, each, key, None)
            assert matched == agents.judged_alone(index, data, text, key)
            met += len(matched)
    assert met > 100
    for agent_id in list(agents.has):
        index.remove_agent(agent_id)
    assert (len(index), index.needs) == (0, 0)


def test_agents_with_the_same_need_share_a_match() -> None:
    rule = AbsoluteRule("test#2", absolute_prior(), Scorer(WEIGHTS))
    index, corpus = rule.needs(rule.data()), Corpus(3)
    need, text = corpus.need(), corpus.text()
    for at in range(5):
        threshold = 1e-6 if at else 2e-6
        wanted = (Need("need", b"need", threshold, 10),)
        index.set_agent(Agent(f"a{at}", wanted, threshold, 10, 0, 0), [need])
    (found,) = index.scan([text])
    matched = index.match(text, found, "key", None)
    assert matched.keys() == {"a0", "a1", "a2", "a3", "a4"}
    assert len({id(match) for (match,) in matched.values()}) == 2
    assert matched["a0"][0].threshold == 2e-6


def test_a_batch_of_any_size_takes_no_more_memory_than_a_block() -> None:
    rule = AbsoluteRule("test#2", absolute_prior(), Scorer(WEIGHTS))
    index, corpus = rule.needs(rule.data()), Corpus(5)
    encodings = [corpus.need() for _ in range(600)]
    needs = tuple(Need(f"{at}", b"%d" % at, 1.0, 10) for at in range(len(encodings)))
    index.set_agent(Agent("a", needs, 1.0, 10, 0, 0), encodings)
    texts = [corpus.text() for _ in range(512)]

    def peak(batch: list[Encoding]) -> int:
        tracemalloc.start()
        index.scan(batch)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak_bytes

    # One block, and the products of the next.
    assert peak(texts * 8) < 3 * peak(texts)
