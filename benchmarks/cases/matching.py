"""The scoring core without server or model: events against needs, and needs against data,
beside the cosines alone by numpy, which decide nothing yet.

Texts are made up; see `benchmarks/texts.py`. A figure is the median of a run's repetitions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import count
from statistics import median

import numpy as np
from contex_server.kernel.model import BEGINNING, Agent, Need
from contex_server.matching.background import Snapshot, shipped_prior
from contex_server.matching.encoding import Encoding
from contex_server.matching.rules import AbsoluteRule

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target
from benchmarks.texts import Texts

NEEDS_EACH = 5
BATCH = 64
BEST_OF = 1_000


class Project:
    """Data and needs."""

    def __init__(self, texts: Texts, data: int, needs: int) -> None:
        self.texts = texts
        self.rule = AbsoluteRule("made up", shipped_prior())
        self.index = self.rule.data()
        self.needs = self.rule.needs(self.index)
        self.digests = (number.to_bytes(16) for number in count())
        self.data = texts.data(data)
        self.put_ms = [
            _ms(lambda key=f"k{n}", text=text: self.index.put(key, next(self.digests), text))
            for n, text in enumerate(self.data)
        ]
        due = self.rule.size_due(self.index)
        snapshot = Snapshot.of(self.rule.texts(self.index), data).pack() if due else None
        self.rule.set_background(self.index, self.needs, snapshot, BEGINNING)
        self.encodings = texts.needs(needs)
        self.set_ms = [
            _ms(lambda at=at: self.needs.set_agent(*self.agent(at)))
            for at in range(0, needs, NEEDS_EACH)
        ]
        self.vectors = np.concatenate([need.vectors for need in self.encodings])

    def agent(self, at: int) -> tuple[Agent, list[Encoding]]:
        """The agent whose needs begin there."""
        encodings = self.encodings[at : at + NEEDS_EACH]
        threshold = self.rule.scorer.weights.default_threshold
        needs = tuple(
            Need(str(at + n), b"need" + (at + n).to_bytes(12), threshold, 10)
            for n in range(len(encodings))
        )
        return Agent(str(at), needs, threshold, 10, 0, 0), encodings

    def update(self, key: str, text: Encoding) -> int:
        """A new text for a datum, matched; returns how many agents it concerns."""
        self.needs.changed(self.index.put(key, next(self.digests), text))
        return self.match([(key, text)])

    def match(self, events: Sequence[tuple[str, Encoding]]) -> int:
        """Events whose texts are known, matched together."""
        found = 0
        pairs = self.needs.scan([text for _, text in events])
        for (key, text), likely in zip(events, pairs, strict=True):
            digest = self.index.digest_of(key)
            known = self.index.text(digest) if digest else None
            found += len(self.needs.match(text, likely, key, known.serial if known else None))
        return found


async def run(bench: Bench) -> list[Figure]:
    """Milliseconds of one thread, and bytes."""
    figures: list[Figure] = []
    for needs, sizes in (
        (bench.size(10_000, 500), (100, 1_000, bench.size(10_000, 1_000))),
        (bench.size(100_000, 1_000), (1_000,)),
    ):
        for data in sizes:
            bench.say(f"{needs:,} needs, {data:,} data")
            project = Project(Texts(1), data, needs)
            figures += _events(bench, project)
            if data == sizes[-1] and len(sizes) > 1:
                figures += _registrations(bench, project)
    figures += _best_of_many(bench)
    return figures


def _events(bench: Bench, project: Project) -> list[Figure]:
    data, needs = len(project.data), len(project.encodings)
    times = bench.size(40, 5)
    same, new, batches, ceiling, batch_ceiling = [], [], [], [], []
    for _ in range(bench.runs):
        known = [(f"k{n % data}", project.data[n % data]) for n in range(max(BATCH, times))]
        fresh = project.texts.data(times)
        project.match(known)
        ones = [known[n] for n in range(times)]
        same.append(median(_ms(lambda one=one: project.match([one])) for one in ones))
        ceiling.append(
            median(_ms(lambda text=text: project.vectors @ text.vectors[0]) for _, text in ones)
        )
        together = known[:BATCH]
        batches.append(
            median(_ms(lambda events=together: project.match(events)) for _ in range(3)) / BATCH
        )
        stacked = np.concatenate([text.vectors for _, text in together])
        batch_ceiling.append(
            median(_ms(lambda rows=stacked: project.vectors @ rows.T) for _ in range(3)) / BATCH
        )
        new.append(
            median(
                _ms(lambda n=n, text=text: project.update(f"k{n % data}", text))
                for n, text in enumerate(fresh)
            )
        )
        for n in range(min(times, data)):
            project.needs.changed(
                project.index.put(f"k{n}", next(project.digests), project.data[n])
            )
    where = f"against {needs:,} needs, {data:,} data"
    name = "numpy's cosines with all needs"
    most = Target("most", 10.0 if needs >= 100_000 else 1.5)
    return [
        Figure(f"one event {where}", "ms", same, ceiling, name, most),
        Figure(f"one event with a new text {where}", "ms", new, ceiling, name),
        Figure(
            f"each event of {BATCH} {where}",
            "ms",
            batches,
            batch_ceiling,
            name,
            Target("most", 2.0),
        ),
    ]


def _registrations(bench: Bench, project: Project) -> list[Figure]:
    index = project.index
    vectors = np.concatenate([text.vectors for text in project.data])
    ours, ceiling = [], []
    for number in range(bench.runs):
        agents = [project.agent((number * 10 + n) * NEEDS_EACH) for n in range(10)]
        wanted = [(agent.needs, encodings) for agent, encodings in agents]
        ours.append(median(_ms(lambda n=needs: index.search(*n)) for needs in wanted))
        queries = [np.concatenate([e.vectors for e in encodings]) for _, encodings in agents]
        ceiling.append(median(_ms(lambda q=q: vectors @ q.T) for q in queries))
    data, needs = len(project.data), len(project.encodings)
    return [
        Figure(
            f"registering {NEEDS_EACH} needs, {data:,} data",
            "ms",
            ours,
            ceiling,
            "numpy's cosines with all data",
            Target("most", 20.0),
        ),
        Figure("taking a datum in", "ms", [median(project.put_ms)]),
        Figure(
            f"an agent of {NEEDS_EACH} needs that starts to listen", "ms", [median(project.set_ms)]
        ),
        Figure(f"index for a datum, {data:,} data", "bytes", [index.nbytes / data]),
        Figure(f"index for a need, {needs:,} needs", "bytes", [project.needs.nbytes / needs]),
    ]


def _best_of_many(bench: Bench) -> list[Figure]:
    """A datum that is the best of many needs changes its text a little."""
    needs = bench.size(BEST_OF, 50)
    texts = Texts(2)
    project = Project(texts, bench.size(1_000, 200), needs)
    wanted = project.data[0]
    for at in range(0, needs, NEEDS_EACH):
        agent, encodings = project.agent(at)
        near = [Encoding(texts.near(wanted.vectors), need.terms) for need in encodings]
        project.needs.set_agent(
            Agent(agent.agent_id, tuple(_other(need) for need in agent.needs), 0.4, 10, 0, 0), near
        )
    ours, concerned = [], 0
    for _ in range(bench.runs):
        versions = [Encoding(texts.near(wanted.vectors), wanted.terms) for _ in range(5)]
        took = []
        for version in versions:
            start = time.perf_counter()
            concerned = project.update("k0", version)
            took.append((time.perf_counter() - start) * 1e3)
        ours.append(median(took))
    return [
        Figure(
            f"a new text of the best datum of {needs:,} needs",
            "ms",
            ours,
            details={"agents concerned": concerned},
        )
    ]


def _other(need: Need) -> Need:
    return Need(need.text, b"near" + need.digest[4:], 0.05, need.max_matches)


def _ms(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3
