"""All events of a project's log against the needs of all its agents, a batch at a time, without
the project's data, beside the matrix products alone.

Needs and texts are those of the team sets kept here, with the vectors of the built-in model.
There are more needs than those: further ones are mixed of two. A figure is the median of a run's
batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import count
from statistics import median
from typing import cast

import numpy as np
from contex_server.kernel.config import EmbedderSettings
from contex_server.kernel.model import BEGINNING, DATA_PUBLISHED, Agent, Event, Need
from contex_server.kernel.model import Sequence as LogSequence
from contex_server.match.index import Index
from contex_server.match.turns import Worker
from contex_server.matching.background import Snapshot, shipped_prior
from contex_server.matching.describe import describe
from contex_server.matching.embedders import create
from contex_server.matching.embedders.port import Embedder, Role, unit
from contex_server.matching.encoding import (
    Encoding,
    Recipe,
    as_stored,
    description_recipe,
    gist_recipe,
)
from contex_server.matching.rules import AbsoluteRule, absolute_scoring_model
from contex_server.matching.terms import once

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target
from benchmarks.matching.sets import OWN, Kind, load

NEEDS_EACH = 5
BATCH = 1_000
THRESHOLD = 0.7
"""So many needs of the same fifteen teams are alike: with the default, dozens meet each event."""
SHARING = 1_000


class Log:
    """Needs of all agents, and batches of events."""

    def __init__(self, rule: AbsoluteRule, texts: list[Encoding], needs: list[Encoding]) -> None:
        self.texts, self.needs = texts, needs
        self.index = Index("made up", rule, cast(Worker, None))
        packed = Snapshot.of(texts, len(texts)).pack()
        rule.set_background(self.index.data, self.index.needs, packed, BEGINNING)
        for at in range(0, len(needs), NEEDS_EACH):
            self.register(str(at), range(at, min(at + NEEDS_EACH, len(needs))))
        self._random = np.random.default_rng(3)
        self._digests = (number.to_bytes(16) for number in count())
        self._known = self.batch(2 * BATCH)

    def register(self, agent_id: str, places: Sequence[int], threshold: float = THRESHOLD) -> None:
        """Registers an agent with these needs."""
        wanted = tuple(Need(f"need {at}", at.to_bytes(16), threshold, 10) for at in places)
        agent = Agent(agent_id, wanted, threshold, 10, 0, 0)
        self.index.needs.set_agent(agent, [self.needs[at] for at in places])

    def batch(self, size: int, repeated: float = 0.0) -> list[tuple[Event, Encoding]]:
        """Events, of which a share repeats texts that are known."""
        again = int(size * repeated)
        chosen = self._random.integers(0, len(self.texts), size - again).tolist()
        events = []
        for at in chosen:
            digest, text = next(self._digests), self.texts[at]
            event = Event(LogSequence(1, 0), DATA_PUBLISHED, f"k{at}", text_digest=digest)
            events.append((event, Encoding(text.vectors, text.terms)))
        if again:
            known = self._random.integers(0, len(self._known), again).tolist()
            events += [self._known[at] for at in known]
        return events

    def match(self, batch: list[tuple[Event, Encoding]]) -> int:
        """Matches a batch; returns how many matches there are."""
        encodings = {event.text_digest: text for event, text in batch}
        matched = self.index.match_only([event for event, _ in batch], encodings)
        return sum(len(matches) for each in matched for matches in each.values())


async def run(bench: Bench) -> list[Figure]:
    """Microseconds for each event of a batch, of one process."""
    rule, texts, needs = await _encoded()
    figures: list[Figure] = []
    for size, most in ((bench.size(10_000, 500), 200.0), (bench.size(100_000, 1_000), 1_000.0)):
        bench.say(f"{size:,} needs")
        log = Log(rule, texts, _mixed(needs, size))
        figures += _events(bench, log, most)
    figures.append(_shared(bench, Log(rule, texts, _mixed(needs, bench.size(10_000, 500)))))
    return figures


def _events(bench: Bench, log: Log, most: float) -> list[Figure]:
    size = bench.size(BATCH, 50)
    rows = np.concatenate([need.vectors for need in log.needs])
    figures = []
    for repeated, texts in ((0.0, "all texts new"), (0.5, "half of the texts known")):
        ours, ceiling, found = [], [], 0
        log.match(log.batch(size, repeated))
        for _ in range(bench.runs):
            batches = [log.batch(size, repeated) for _ in range(3)]
            vectors = np.concatenate([text.vectors for _, text in batches[0]])
            ceiling.append(_us(lambda vectors=vectors: vectors @ rows.T) / size)
            took = []
            for batch in batches:
                start = time.perf_counter()
                found = log.match(batch)
                took.append((time.perf_counter() - start) * 1e6 / size)
            ours.append(median(took))
        figures.append(
            Figure(
                f"each event of {size:,}, {len(log.needs):,} needs, {texts}",
                "us",
                ours,
                ceiling,
                "numpy's cosines with all needs, on one core",
                Target("most", most),
                details={"matches of an event": found / size},
            )
        )
    return figures


def _shared(bench: Bench, log: Log) -> Figure:
    """Many agents share a need that most events meet."""
    size, sharing = bench.size(BATCH, 50), bench.size(SHARING, 10)
    for agent in range(sharing):
        log.register(f"sharing {agent}", [0], 1e-3)
    ours, found = [], 0
    for _ in range(bench.runs):
        batch = log.batch(size)
        start = time.perf_counter()
        found = log.match(batch)
        ours.append((time.perf_counter() - start) * 1e6 / size)
    name = f"each event of {size:,}, {sharing:,} agents with one need that most of them meet"
    return Figure(name, "us", ours, details={"matches of an event": found / size})


async def _encoded() -> tuple[AbsoluteRule, list[Encoding], list[Encoding]]:
    sets = [load(folder, Kind.TEAM, own=True) for folder in sorted(OWN.iterdir())]
    embedder = create(EmbedderSettings())
    await embedder.start()
    try:
        texts = [
            description_recipe(describe(d.data_key, d.description, d.payload, d.content_type))
            for each in sets
            for d in each.documents
        ]
        needs = [gist_recipe(need.text) for each in sets for need in each.needs]
        rule = AbsoluteRule(absolute_scoring_model(embedder.model_id), shipped_prior())
        of_data = await _embedded(embedder, texts, Role.DATUM)
        return rule, of_data, await _embedded(embedder, needs, Role.NEED)
    finally:
        await embedder.close()


async def _embedded(embedder: Embedder, recipes: list[Recipe], role: Role) -> list[Encoding]:
    encodings = []
    for recipe in recipes:
        encodings.append(as_stored(recipe.encoding(await embedder.embed(recipe.texts, role))))
    return encodings


def _mixed(needs: list[Encoding], size: int) -> list[Encoding]:
    """So many different needs."""
    random = np.random.default_rng(4)
    mixed = list(needs[:size])
    while len(mixed) < size:
        first, second = (needs[at] for at in random.integers(0, len(needs), 2))
        vectors = unit(first.vectors + random.uniform(0.2, 0.8) * second.vectors)
        words = [terms.ids[::2] for terms in (*first.terms, *second.terms)]
        terms = once(np.unique(np.concatenate(words)))
        mixed.append(as_stored(Encoding(vectors.astype(np.float32), (terms,))))
    return mixed


def _us(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e6
