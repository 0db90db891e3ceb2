"""How far scores depend on what else a project holds, and on what came first.

Projects live here as they do in the service: each datum is matched when it is published, and the
background is taken anew at the set sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import orjson
from contex_server.kernel.model import BEGINNING, Agent, Need
from contex_server.matching.background import Prior, Snapshot
from contex_server.matching.encoding import Encoding
from contex_server.matching.rules import AbsoluteRule, Rule
from contex_server.matching.score import Scorer, Weights

from benchmarks.matching.encoded import Embeddings, Encoded
from benchmarks.matching.sets import SEED, DataSet, Document, Kind
from benchmarks.matching.sets import Need as JudgedNeed

NEAR = 0.03
"""Pairs this close to the threshold may be decided either way."""
COPIES = (1, 2, 5, 20)
_ORDERS = 5
_LOWEST = 0.02
_NO_FLOOR = 1e-4
"""For copies: with a floor, scores that are low anyway would seem not to move."""
_COPIED_NEED = "vulnerabilities in software we depend on"
_WORDS = ("Vulnerability", "Security flaw", "Security advisory", "Known weakness", "CVE")
_PACKAGES = (
    ("libpng-rs", "Heap overflow when a crafted PNG is decoded", "critical"),
    ("mailparse", "A crafted mail header lets an attacker run code", "high"),
    ("tarstream", "Path traversal: archives may overwrite any file", "high"),
    ("yamlite", "Loading untrusted YAML executes code", "critical"),
    ("httpwire", "Request smuggling through a doubled length header", "medium"),
    ("jwtkit", "Tokens signed with the wrong key are accepted", "critical"),
    ("regexy", "A slow pattern blocks the process for minutes", "medium"),
    ("zipfast", "Out of bounds read in the decompressor", "high"),
    ("sqlbridge", "SQL injection in the names of columns", "high"),
    ("xmlcore", "External entities disclose local files", "high"),
    ("tlsmini", "Expired certificates pass verification", "critical"),
    ("cookiejar2", "Cookies leak to other domains", "medium"),
    ("imgthumb", "Memory exhaustion by huge dimensions", "low"),
    ("csvflow", "Formula injection in exported cells", "low"),
    ("protolite", "Deep nesting overflows the stack", "medium"),
    ("ssh-agent-js", "Private keys stay in memory after use", "medium"),
    ("dnslookup", "Cache poisoning by predictable ids", "high"),
    ("pdfmake-core", "Script in annotations runs on opening", "high"),
    ("fontkit-c", "Integer overflow in glyph tables", "critical"),
    ("gitwrap", "Command injection through branch names", "critical"),
)


@dataclass(frozen=True, slots=True)
class Directions:
    """Scores of the same pairs by need and by datum."""

    difference: float  # the largest
    one_only: int  # pairs that one direction alone has
    pairs: int


@dataclass(frozen=True, slots=True)
class Steadiness:
    """What was measured of a rule.

    Attributes:
        first_copies: By number: how far a copy's score is at most from its score alone, where
            they are all that the project holds.
        late_copies: The same in a project of 100 other data.
        alone: The mean score of a copy that is all that the project holds.
        strangers: Share of decisions in a project of 50 data that 200 of another kind change.
        strangers_far: The same of pairs that are not near the threshold.
        orders: Share of delivered pairs that are decided differently in two orders.
        orders_far: The same of pairs that are not near the threshold.
    """

    first_copies: dict[int, float]
    late_copies: dict[int, float]
    alone: float
    strangers: float
    strangers_far: float
    orders: float
    orders_far: float
    directions: Directions


class Live:
    """A project to which data are published."""

    def __init__(
        self, rule: Rule, needs: Sequence[tuple[str, Encoding]], lowest: float = _LOWEST
    ) -> None:
        self.rule = rule
        self.data = rule.data()
        self.listening = rule.needs(self.data)
        self.needs = tuple(
            Need(text, at.to_bytes(16), lowest, 10_000) for at, (text, _) in enumerate(needs)
        )
        self.encodings = [encoding for _, encoding in needs]
        agent = Agent("agent", self.needs, lowest, 10_000, 0, 0)
        self.listening.set_agent(agent, self.encodings)
        self.delivered: dict[tuple[str, int], float] = {}

    def publish(self, data_key: str, encoding: Encoding) -> None:
        """Matches a datum and puts it in; takes the background anew where it is due."""
        digest = data_key.encode().rjust(16, b"\0")[-16:]
        self.listening.changed(self.data.put(data_key, digest, encoding))
        text = self.data.text(digest)
        (found,) = self.listening.scan([encoding])
        matched = self.listening.match(encoding, found, data_key, text.serial if text else None)
        for match in matched.get("agent", ()):
            self.delivered[data_key, match.need_index] = match.score
        if self.rule.size_due(self.data):
            snapshot = Snapshot.of(self.rule.texts(self.data), len(self.data)).pack()
            self.rule.set_background(self.data, self.listening, snapshot, BEGINNING)

    def scores(self) -> dict[tuple[str, int], float]:
        """The scores of all pairs now, but of those far below any threshold."""
        return {
            (key, match.need_index): match.score
            for key, matches in self.data.search(self.needs, self.encodings)
            for match in matches
        }


def measure_all(
    sets: Sequence[Encoded], embeddings: Embeddings, prior: Prior, weights: Weights
) -> Steadiness:
    """Measures the rule on the team sets, each in a project of its own."""
    (copies,) = embeddings.encode([_copies()])
    teams = [each for each in sets if each.set.kind is Kind.TEAM]
    rule = AbsoluteRule("benchmark", prior, Scorer(weights))
    threshold = weights.default_threshold

    def live(each: Encoded, lowest: float = _LOWEST) -> Live:
        texts = [need.text for need in each.set.needs]
        return Live(rule, list(zip(texts, each.needs, strict=True)), lowest)

    def copied() -> Live:
        return live(copies, _NO_FLOOR)

    others = teams[0].documents[:100]
    strangers = [_strangers(live, teams, at, threshold) for at in range(len(teams))]
    orders = [_orders(live, each, threshold) for each in teams]
    return Steadiness(
        {k: _moved(copied, copies, (), k)[0] for k in COPIES},
        {k: _moved(copied, copies, others, k)[0] for k in COPIES},
        _moved(copied, copies, (), COPIES[-1])[1],
        float(np.mean([all_ for all_, _ in strangers])),
        float(np.mean([far for _, far in strangers])),
        float(np.mean([all_ for all_, _ in orders])),
        float(np.mean([far for _, far in orders])),
        _directions(live, teams),
    )


def _moved(
    live: Callable[[], Live], copies: Encoded, others: Sequence[Encoding], count: int
) -> tuple[float, float]:
    """How far a copy's score is at most from its score alone, and the mean of those."""

    def scored(texts: Sequence[Encoding]) -> list[float]:
        project = live()
        for at, other in enumerate(others):
            project.publish(f"other {at}", other)
        for at, text in enumerate(texts):
            project.publish(f"copy {at}", text)
        scores = project.scores()
        return [scores.get((f"copy {at}", 0), 0.0) for at in range(len(texts))]

    texts = copies.documents[:count]
    alone = [scored([text])[0] for text in texts]
    moved = max(abs(a - b) for a, b in zip(scored(texts), alone, strict=True))
    return moved, float(np.mean(alone))


def _strangers(
    live: Callable[[Encoded], Live], teams: Sequence[Encoded], at: int, threshold: float
) -> tuple[float, float]:
    rng = np.random.default_rng(SEED + at)
    own = teams[at]
    project = live(own)
    for place in rng.permutation(len(own.documents))[:50].tolist():
        project.publish(f"own {place}", own.documents[place])
    before = project.scores()
    rest = [d for each in teams if each is not own for d in each.documents]
    for number, place in enumerate(rng.permutation(len(rest))[:200].tolist()):
        project.publish(f"stranger {number}", rest[place])
    after = {pair: score for pair, score in project.scores().items() if pair[0][:3] == "own"}
    pairs = before.keys() | after.keys()
    old, new = (np.array([x.get(pair, 0.0) for pair in pairs]) for x in (before, after))
    changed = (old >= threshold) != (new >= threshold)
    near = np.abs(old - threshold) < NEAR
    total = 50 * len(own.needs)
    return changed.sum() / total, changed[~near].sum() / (total - near.sum())


def _orders(
    live: Callable[[Encoded], Live], each: Encoded, threshold: float
) -> tuple[float, float]:
    rng = np.random.default_rng(SEED)
    found = []
    for _ in range(_ORDERS):
        project = live(each)
        for place in rng.permutation(len(each.documents)).tolist():
            project.publish(str(place), each.documents[place])
        found.append(project.delivered)
    differ, differ_far = [], []
    for first in range(_ORDERS):
        for second in range(first):
            a, b = found[first], found[second]
            either = [p for p in a.keys() | b.keys() if max(a.get(p, 0), b.get(p, 0)) >= threshold]
            pairs = np.array([(a.get(pair, 0.0), b.get(pair, 0.0)) for pair in either])
            different = (pairs >= threshold).sum(1) == 1
            far = (np.abs(pairs - threshold) >= NEAR).all(1)
            differ.append(different.mean())
            differ_far.append(different[far].mean())
    return float(np.mean(differ)), float(np.mean(differ_far))


def _directions(live: Callable[[Encoded], Live], teams: Sequence[Encoded]) -> Directions:
    difference, one_only, total = 0.0, 0, 0
    for each in teams:
        project = live(each)
        for at, document in enumerate(each.documents):
            project.publish(str(at), document)
        forth = project.scores()
        project.delivered.clear()
        for at, document in enumerate(each.documents):
            project.publish(str(at), document)  # Known: matched again, against what is there now.
        back = project.delivered
        both = forth.keys() & back.keys()
        difference = max(difference, *(abs(forth[pair] - back[pair]) for pair in both))
        one_only += len(forth.keys() ^ back.keys())
        total += len(forth)
    return Directions(difference, one_only, total)


def _copies() -> DataSet:
    """Data that say the same in other words: a vulnerability each."""
    documents = [
        Document(
            f"advisory/{2031_0040 + at}",
            f"{_WORDS[at % len(_WORDS)]} in our dependency {package}: {about}",
            orjson.dumps({"package": package, "severity": severity, "kind": "vulnerability"}),
            "application/json",
        )
        for at, (package, about, severity) in enumerate(_PACKAGES)
    ]
    need = JudgedNeed(_COPIED_NEED, tuple(range(len(documents))))
    return DataSet("copies", Kind.TEAM, True, tuple(documents), (need,))
