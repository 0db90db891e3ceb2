"""The needs' index finds what comparing every pair finds, whatever the history."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from contex_server.kernel.model import Agent, Need
from contex_server.matching.encoding import Encoding, as_stored, unit
from contex_server.matching.relative.background import Model
from contex_server.matching.relative.data_index import DataIndex
from contex_server.matching.relative.need_index import NeedIndex
from contex_server.matching.relative.score import Scorer, shipped_weights
from contex_server.matching.terms import terms_of

from tests.thorough import one_of
from tests.unit.matching.corpora import DIMENSION, Corpus, prior
from tests.unit.matching.relative.brute_force import BruteForce

PRIOR = prior()
SHIPPED = shipped_weights()
# More lenient weights than the shipped ones, so that more pairs are near their threshold.
LENIENT = replace(SHIPPED, prior_passages=10.0, bias=1.0)
STRANGE = (terms_of((("quartz xylophone zephyr", 1),)),)

Event = tuple[str, bytes, Encoding]


class Project:
    """Both indexes, beside everything that they were told."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.data = DataIndex(Model("model", PRIOR), scorer)
        self.needs = NeedIndex(self.data)
        self.texts: dict[str, tuple[bytes, Encoding]] = {}
        self.agents: dict[str, tuple[Agent, list[Encoding]]] = {}

    def put(self, key: str, digest: bytes, text: Encoding) -> Event:
        self.texts[key] = digest, text
        self.needs.changed(self.data.put(key, digest, text))
        return key, digest, text

    def remove(self, key: str) -> Event:
        self.needs.changed(self.data.remove(key))
        return key, *self.texts.pop(key)

    def set_agent(self, agent: Agent, encodings: list[Encoding]) -> None:
        self.agents[agent.agent_id] = agent, encodings
        self.needs.set_agent(agent, encodings)

    def remove_agent(self, agent_id: str) -> None:
        self.agents.pop(agent_id, None)
        self.needs.remove_agent(agent_id)

    def deliver(self, events: list[Event]) -> list[dict[tuple[str, int], float]]:
        """What the index finds: for each event the scores by agent and need."""
        pairs = self.needs.scan([text for _, _, text in events])
        delivered = []
        for (key, digest, encoding), found in zip(events, pairs, strict=True):
            text = self.data.text(digest)
            matches = self.needs.match(encoding, found, key, text.serial if text else None)
            delivered.append(
                {(a, m.need_index): m.score for a, found in matches.items() for m in found}
            )
        return delivered

    def truth(self) -> BruteForce:
        return BruteForce(dict(self.texts.values()).values(), PRIOR, self.scorer.weights)

    def check(self, events: list[Event]) -> int:
        """Compares what is delivered with all pairs; returns how many matches there were."""
        truth, matches = self.truth(), 0
        for (key, _, text), found in zip(events, self.deliver(events), strict=True):
            for agent_id, (agent, encodings) in self.agents.items():
                for index, (need, encoding) in enumerate(zip(agent.needs, encodings, strict=True)):
                    score = truth.score(encoding, text)
                    delivered = found.pop((agent_id, index), None)
                    if delivered is None:
                        assert score < need.threshold + 1e-6 or need.excludes(key)
                    else:
                        assert delivered == pytest.approx(score, abs=1e-6)
                        assert delivered >= need.threshold
                        assert not need.excludes(key)
                        matches += 1
            assert not found
        return matches


class World:
    """A random history."""

    def __init__(self, seed: int, keys: int, scorer: Scorer) -> None:
        self.randomly, self.corpus = random.Random(seed), Corpus(seed)
        self.numbers = np.random.default_rng(seed)
        self.keys = keys
        self.project = Project(scorer)

    def agent(self, name: str) -> None:
        known = [n for agent, _ in self.project.agents.values() for n in agent.needs]
        encoded = {
            need.digest: encoding
            for agent, encodings in self.project.agents.values()
            for need, encoding in zip(agent.needs, encodings, strict=True)
        }
        needs, encodings = [], []
        for _ in range(self.randomly.randrange(1, 5)):
            if known and self.randomly.random() < 0.3:
                digest = self.randomly.choice(known).digest
                encoding = encoded[digest]
            elif self.project.texts and self.randomly.random() < 0.3:
                _, near = self.randomly.choice(list(self.project.texts.values()))
                digest = self.randomly.randbytes(16)
                encoding = Encoding(near.vectors[:1], self.corpus.need().terms)
            else:
                digest, encoding = self.randomly.randbytes(16), self.corpus.need()
            threshold = self.randomly.choice([0.02, 0.1, 0.25, 0.4, 0.7, 0.95])
            exclude = frozenset({"k1*"}) if self.randomly.random() < 0.2 else frozenset()
            needs.append(Need(digest.hex(), digest, threshold, 10, exclude))
            encodings.append(encoding)
        self.project.set_agent(Agent(name, tuple(needs), 0.5, 10, 0, 0), encodings)

    def text(self) -> tuple[bytes, Encoding]:
        texts, chance = self.project.texts, self.randomly.random()
        if texts and chance < 0.1:
            return self.randomly.choice(list(texts.values()))
        if texts and chance < 0.3:
            _, before = self.randomly.choice(list(texts.values()))
            noise = 0.02 * self.numbers.normal(size=before.vectors.shape).astype(np.float32)
            return self.randomly.randbytes(16), as_stored(
                Encoding(unit(before.vectors + noise), before.terms)
            )
        if texts and chance < 0.35:
            _, before = self.randomly.choice(list(texts.values()))
            return self.randomly.randbytes(16), Encoding(before.vectors, before.terms)
        noise = self.randomly.choice([0.1, 1.0, 1.0, 2.0])
        passages = self.randomly.choice([1, 1, 1, 1, 3, 10])
        return self.randomly.randbytes(16), self.corpus.text(passages, noise)

    def event(self) -> Event:
        key, chance = f"k{self.randomly.randrange(self.keys)}", self.randomly.random()
        if key in self.project.texts and chance < 0.15:
            return self.project.remove(key)
        if key in self.project.texts and chance < 0.3:
            return self.project.put(key, *self.project.texts[key])
        return self.project.put(key, *self.text())


@pytest.mark.parametrize("weights", [SHIPPED, LENIENT], ids=["shipped", "lenient"])
@pytest.mark.parametrize(
    ("seed", "keys"), one_of((4, 20), (1, 1), (2, 3), (3, 8), (5, 60), (6, 150))
)
def test_matches_are_those_of_all_pairs(seed: int, keys: int, weights: object) -> None:
    world = World(seed, keys, Scorer(LENIENT if weights is LENIENT else SHIPPED))
    randomly, project, matches = world.randomly, world.project, 0
    for name in range(6):
        world.agent(f"a{name}")
    for step in range(90):
        count = randomly.choice([1, 1, 1, 2, 5, 12])
        matches += project.check([world.event() for _ in range(count)])
        chance = randomly.random()
        if chance < 0.1:
            world.agent(f"a{randomly.randrange(8)}")
        elif chance < 0.13:
            project.remove_agent(f"a{randomly.randrange(8)}")
        elif chance < 0.16:
            for key in list(project.texts)[randomly.randrange(4) :]:
                project.remove(key)
        elif chance < 0.19:
            # Taken in without being scanned, as when an index is brought up to date.
            for _ in range(randomly.randrange(3 * keys)):
                world.event()
        if step == 45:
            for name in list(project.agents):
                project.remove_agent(name)
            for name in range(6):
                world.agent(f"b{name}")
    assert matches > 30


def test_a_project_that_grows_fast_and_is_emptied() -> None:
    world = World(7, 400, Scorer(LENIENT))
    project = world.project
    for name in range(4):
        world.agent(f"a{name}")
    matches = 0
    for start in range(0, 400, 50):
        grown = [project.put(f"k{n}", *world.text()) for n in range(start, start + 50)]
        matches += project.check(grown[::5])
        world.agent(f"a{start // 100}")
    for keep in (100, 10, 2, 0):
        gone = [project.remove(key) for key in list(project.texts)[keep:]]
        matches += project.check(gone[::10] + [(k, *t) for k, t in list(project.texts.items())[:5]])
    assert matches > 30


def test_texts_that_are_all_but_the_need_itself() -> None:
    """They move its mean and deviation as far as any can, and then they go."""
    world = World(8, 30, Scorer(SHIPPED))
    project, need = world.project, world.corpus.need()
    for threshold in (0.02, 0.4, 0.9):
        wanted = Need(str(threshold), b"n" * 16, threshold, 10)
        project.set_agent(Agent(f"a{threshold}", (wanted,), 0.5, 10, 0, 0), [need])

    def close() -> tuple[bytes, Encoding]:
        noise = world.numbers.normal(size=(1, DIMENSION)) * world.randomly.choice([0, 0.001, 0.1])
        vectors = unit((need.vectors + noise).astype(np.float32))
        return world.randomly.randbytes(16), as_stored(Encoding(vectors, need.terms))

    matches = project.check([project.put("k0", *close())])
    for count in (1, 2, 5, 30):
        matches += project.check([project.put(f"k{n}", *close()) for n in range(count)])
    for keep in (12, 3, 2, 1):
        gone = [project.remove(key) for key in list(project.texts)[keep:]]
        matches += project.check([*gone[:3], *((k, *t) for k, t in project.texts.items())])
    matches += project.check([project.put("k0", *world.text()), project.put("k1", *close())])
    assert matches > 10


@pytest.mark.parametrize("seed", one_of(*range(3)))
def test_how_events_are_cut_into_chunks_changes_no_score(seed: int) -> None:
    """Given that the project is the same when they are matched."""
    world = World(seed, 40, Scorer(LENIENT))
    for name in range(6):
        world.agent(f"a{name}")
    for _ in range(100):
        world.event()
    project = world.project
    events = [(key, *text) for key, text in project.texts.items()]
    together = project.deliver(events)
    apart = [project.deliver([event])[0] for event in events]
    other = Project(project.scorer)
    for agent, encodings in project.agents.values():
        other.set_agent(agent, encodings)
    for event in reversed(events):
        other.put(*event)
        other.deliver([event])
    elsewhere = other.deliver(events)
    assert any(together)
    for scores in (apart, elsewhere):
        for one, same in zip(together, scores, strict=True):
            assert one == pytest.approx(same, abs=1e-12)


def test_a_pair_has_the_same_score_at_a_registration_and_live() -> None:
    world = World(5, 150, Scorer(LENIENT))
    project, encoding = world.project, world.corpus.need()
    need = Need("n", b"n" * 16, 1e-6, 500)
    project.set_agent(Agent("a", (need,), 1e-6, 500, 0, 0), [encoding])
    for n in range(150):
        project.put(f"k{n}", *world.text())
    found = project.data.search([need], [encoding])
    registered = {key: matches[0].score for key, matches in found}
    assert len(registered) > 20
    for key, text in project.texts.items():
        (live,) = project.deliver([(key, *text)])
        assert live.get(("a", 0)) == pytest.approx(registered.get(key), abs=1e-9)


@pytest.mark.parametrize("seed", one_of(*range(3)))
def test_an_unrelated_datum_moves_no_score_by_much(seed: int) -> None:
    world = World(seed, 200, Scorer(SHIPPED))
    project, corpus = world.project, world.corpus
    needs = [Need(str(n), bytes([n] * 16), 1e-9, 10) for n in range(30)]
    project.set_agent(Agent("a", tuple(needs), 0.5, 10, 0, 0), [corpus.need() for _ in needs])
    events = [project.put(f"k{n}", n.to_bytes(16), corpus.text()) for n in range(200)]
    before = project.deliver(events)
    row = np.random.default_rng(seed).normal(size=(1, DIMENSION)).astype(np.float32)
    project.put("stranger", b"s" * 16, as_stored(Encoding(unit(row), STRANGE)))
    after = project.deliver(events)
    moved = [
        abs(score - now.get(pair, 0.0))
        for was, now in zip(before, after, strict=True)
        for pair, score in was.items()
    ]
    assert max(moved) < 0.02


def test_agents_share_needs_and_give_them_up() -> None:
    world = World(1, 5, Scorer(LENIENT))
    project, encoding = world.project, world.corpus.need()
    shared = Need("n", b"n" * 16, 0.02, 10)
    event = project.put("k", b"d" * 16, Encoding(encoding.vectors, encoding.terms))
    project.set_agent(
        Agent("a", (shared, replace(shared, threshold=0.5)), 0.5, 10, 0, 0), [encoding] * 2
    )
    project.set_agent(Agent("b", (shared,), 0.5, 10, 0, 0), [encoding])
    assert project.needs.needs == 1
    assert len(project.needs) == 2
    assert project.check([event]) == 3
    project.remove_agent("a")
    project.remove_agent("a")
    assert project.check([event]) == 1
    project.set_agent(Agent("b", (), 0.5, 10, 0, 0), [])
    assert project.needs.needs == 0
    assert project.deliver([event]) == [{}]
