"""What is delivered equals what a brute-force matcher finds in the log.

The matcher here shares no code with the server's: it keeps every vector and word of the
project's data, goes through all of them for each pair, and follows the formula in the guide.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
import zlib
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import Stemmer
from contex.v1 import agent_service_pb2, event_pb2
from contex_server.log.embedded import EmbeddedValkey
from contex_server.matching import background as background_module
from contex_server.matching.background import shipped_needs, shipped_prior, shipped_texts
from contex_server.matching.score import shipped_weights
from contex_server.matching.terms import STOP_WORDS

from tests.conftest import StartServer
from tests.integration.support import Api, P, UpdateAgentRequest, Words, event, order
from tests.thorough import one_of

WORDS = (
    *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "theta", "kappa", "lambda", "sigma"),
    *("omega", "orders", "stock", "prices", "payments", "weather", "invoices", "customers"),
    *("servers", "endpoints", "timeouts"),
)


def stems(text: str) -> list[str]:
    words = [w for w in re.findall(r"[a-z]+|\d+", text.lower()) if w not in STOP_WORDS]
    found: list[str] = Stemmer.Stemmer("english").stemWords(words)
    return found


def terms(text: str) -> Counter[int]:
    words = stems(text)
    counts = Counter(zlib.crc32(w.encode()) & 0x7FFFFFFF for w in words)
    for a, b in pairwise(words):
        counts[zlib.crc32(f"{a} {b}".encode()) | 0x80000000] += 1
    return counts


def vector(text: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    row = np.zeros(Words.dimension)
    for word in set(re.findall("[a-z]+", text.lower())):
        row[Words.place(word)] = 1
    return row / max(1.0, float(np.linalg.norm(row)))


def stored(row: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    halves = (row / np.linalg.norm(row)).astype(np.float16).astype(np.float64)
    unit: np.ndarray[Any, np.dtype[np.float64]] = halves / np.linalg.norm(halves)
    return unit


@dataclass
class Text:
    """A datum with one passage: key in words, description, one string of payload."""

    vector: np.ndarray[Any, np.dtype[np.float64]]
    terms: Counter[int]

    @classmethod
    def of(cls, key: str, description: str, payload: str) -> Text:
        title = key.replace(".", " ").replace("_", " ")
        brief = ". ".join(part for part in (title, description) if part)
        whole = ". ".join(part for part in (brief, payload) if part)
        counts: Counter[int] = Counter()
        for part, weight in ((title, 2), (description, 2), (payload, 1)):
            for term, count in terms(part).items():
                counts[term] += weight * count
        row = vector(whole)
        if payload:
            row = 0.35 * vector(brief) + 0.65 * row
        return cls(stored(row), counts)

    @property
    def length(self) -> int:
        return sum(self.counts.values())

    @property
    def counts(self) -> Counter[int]:
        return self.terms


@dataclass
class BruteForce:
    """The live data, and the score of any pair against a background."""

    data: dict[str, Text] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.weights = shipped_weights()
        self.prior = shipped_prior()
        rows = np.stack([vector(text) for text in shipped_texts()])
        self.prior_mean, self.prior_second = rows.mean(0), rows.T @ rows / len(rows)
        self.needs = np.stack([vector(text) for text in shipped_needs()])
        shares = zip(self.prior.term_ids.tolist(), self.prior.term_share.tolist(), strict=True)
        self.prior_share = dict(shares)
        self.backgrounds: dict[str, tuple[Text, ...]] = {"0": ()}

    def score(self, need: str, text: Text, background: str) -> float:
        """The probability, against the texts that were there when the background was taken."""
        w, usual = self.weights, []
        for each in self.backgrounds[background]:
            if all(float(each.vector @ one.vector) < 0.7 for one in usual):
                usual.append(each)
        own = len(usual) / (len(usual) + 60)
        q = stored(vector(need))
        having = Counter(term for each in usual for term in each.terms)
        shipped = float(q @ self.prior_mean)
        mean = shipped * (1 - own)
        variance = (float(q @ self.prior_second @ q) - shipped**2) * (1 - own)
        if usual:
            cosines = np.array([float(q @ each.vector) for each in usual])
            mean += own * float(cosines.mean())
            variance += own * float(cosines.var())
        deviation = math.sqrt(max(variance, 0.02**2))

        def share(term: int) -> float:
            count = having[term] if having[term] > 1 else 0
            shipped = self.prior_share.get(term, 0.0)
            return (1 - own) * shipped + own * count / (len(usual) or 1)

        def rarity(term: int) -> float:
            weight = math.sqrt(max(0.0, -math.log(min(1.0, share(term) + 0.0005))))
            return weight * (0.5 if term & 0x80000000 else 1.0)

        asked = {term: rarity(term) for term in terms(need)}
        coverage = expected = mass = 0.0
        different = sum(not term & 0x80000000 for term in text.terms)
        for term, weight in asked.items():
            count = text.terms.get(term, 0)
            if not term & 0x80000000:
                mass += weight
                coverage += weight * (count > 0)
                expected += weight * (1 - (1 - min(share(term), 0.99)) ** (different / 30))
        cosine = float(q @ text.vector)
        odds = (
            w.bias
            + w.standing * (cosine - mean) / deviation
            + w.contrast * (cosine - float(np.sort(self.needs @ text.vector)[-8:].mean()))
            + w.surplus * (coverage - expected) / (mass or 1.0)
        )
        return 1 / (1 + math.exp(-odds))


def text_of(message: event_pb2.Event) -> Text:
    payload = message.payload.decode().strip('"')
    return Text.of(message.data_key, message.description, payload)


class Expected:
    """Follows a log of small events and says what each is to some needs."""

    def __init__(self) -> None:
        self.brute = BruteForce()
        self.latest: dict[str, event_pb2.Event] = {}
        self.data_at: dict[str, tuple[Text, ...]] = {}

    def take(self, message: event_pb2.Event) -> Text | None:
        """Takes an event in; returns the text that it is matched by."""
        if message.event_type == "matching_background_changed":
            as_of = json.loads(message.payload)["as_of"]
            self.brute.backgrounds[message.sequence] = self.data_at[as_of]
        text = self._take(message)
        self.data_at[message.sequence] = tuple(self.brute.data.values())
        return text

    def _take(self, message: event_pb2.Event) -> Text | None:
        key = message.data_key
        if not key:
            return None
        if message.event_type == "data_deleted":
            return self.brute.data.pop(key, None)
        before = self.latest.get(key)
        self.latest[key] = message
        if before is not None and key in self.brute.data and same(before, message):
            return self.brute.data[key]
        text = self.brute.data[key] = text_of(message)
        return text


def same(one: event_pb2.Event, other: event_pb2.Event) -> bool:
    return (one.payload, one.description) == (other.payload, other.description)


@pytest.mark.parametrize("seed", one_of(*range(3)))
async def test_deliveries_equal_brute_force(
    start_server: StartServer, valkey: EmbeddedValkey, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background_module, "SIZES", (10, 100))  # The data have forty keys.
    randomly = random.Random(seed)

    def phrase(most: int = 4) -> str:
        return " ".join(randomly.sample(WORDS, randomly.randrange(1, most)))

    def change() -> Any:
        key = f"{randomly.choice(WORDS)}.{randomly.choice(WORDS)}"
        if randomly.random() < 0.15:
            return event(key, b"", tombstone=True)
        description = phrase() if randomly.random() < 0.5 else ""
        return event(key, b'"%s"' % phrase(6).encode(), description=description)

    def needs() -> list[agent_service_pb2.Need]:
        return [
            agent_service_pb2.Need(
                text=phrase(),
                threshold=randomly.choice([0.02, 0.2, 0.5, 0.9]),
                exclude_data_keys=[f"{randomly.choice(WORDS)}.*"]
                if randomly.random() < 0.3
                else [],
            )
            for _ in range(randomly.randrange(1, 4))
        ]

    server = await start_server(valkey.url, embedder=Words())
    delivered: dict[str, list[event_pb2.MatchedEvent]] = {f"a{n}": [] for n in range(4)}
    steps: dict[str, list[event_pb2.MatchedEvent]] = {name: [] for name in delivered}
    registered: dict[str, list[tuple[str, list[agent_service_pb2.Need]]]] = {}
    cursors: dict[str, str] = {}
    restarted = ""
    for life in range(2):
        async with Api.of(server) as api, Api.of(server) as writer:
            streams = {}
            for name in delivered:
                if life == 0:
                    specs = needs()
                    answer = await api.agents.RegisterAgent(
                        agent_service_pb2.RegisterAgentRequest(
                            project=P, agent_id=name, needs=specs
                        )
                    )
                    registered[name] = [(answer.sequence, specs)]
                    cursors[name] = answer.cursor
                streams[name] = await api.listen(
                    name, cursor=cursors[name], heartbeat_interval_ms=100
                ).live()
            for round_ in range(30):
                # One at a time: every event is judged by the data as of itself.
                for _ in range(randomly.randrange(1, 4)):
                    await writer.publish(change())
                    await asyncio.sleep(0.003)
                if round_ % 7 == 3:
                    name, specs = randomly.choice(list(delivered)), needs()
                    answer = await api.agents.UpdateAgent(
                        UpdateAgentRequest(project=P, agent_id=name, needs=specs)
                    )
                    registered[name].append((answer.sequence, specs))
            (end,) = await writer.publish(event(f"end.{life}", b'"zzz"'))
            for name, stream in streams.items():
                while order(tail := await position(stream)) < order(end):
                    pass
                assert tail
                changed = "0"
                for told in stream.messages:
                    if told.HasField("needs_changed"):
                        changed = cursor_sequence(told.cursor)
                    for m in told.events.events:
                        # What a change of needs brings is older than the change.
                        late = order(m.event.sequence) < order(changed)
                        (steps if late else delivered)[name].append(m)
                cursors[name] = stream.cursor
            restarted = restarted or end
        await server.stop()
        if life == 0:
            server = await start_server(valkey.url, embedder=Words())
    server = await start_server(valkey.url, embedder=Words())
    async with Api.of(server) as api:
        log = await api.log()

    expected = Expected()
    checked = 0
    for message in log:
        text = expected.take(message)
        if text is None or message.event_type == "data_deleted":
            continue
        background = list(expected.brute.backgrounds)[-1]
        for name, history in registered.items():
            if order(message.sequence) <= order(history[0][0]):
                continue
            specs = [s for at, s in history if order(at) < order(message.sequence)][-1]
            got = [d for d in delivered[name] if d.event.sequence == message.sequence]
            assert len(got) <= 1
            matches = {m.need_index: m for d in got for m in d.matches}
            for index, spec in enumerate(specs):
                score = expected.brute.score(spec.text, text, background)
                excluded = any(message.data_key.startswith(g[:-1]) for g in spec.exclude_data_keys)
                match = matches.get(index)
                checked += 1
                if match is not None:
                    assert match.score == pytest.approx(score, abs=1e-4)
                    assert match.parts.background_sequence == background
                    assert not excluded
                else:
                    assert excluded or score < spec.threshold + 1e-4
    assert checked > 300
    assert len(expected.brute.backgrounds) > 1
    assert sum(map(len, delivered.values())) > 25
    assert any(steps.values())


async def position(stream: Any) -> str:
    """Reads on and returns the last sequence that the stream has told."""
    await stream.read()
    last = stream.messages[-1]
    if last.HasField("events"):
        return str(last.events.events[-1].event.sequence)
    return cursor_sequence(last.cursor)


def cursor_sequence(cursor: str) -> str:
    import base64

    raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    ms, n = int.from_bytes(raw[5:13], "big"), int.from_bytes(raw[13:21], "big")
    return f"{ms}-{n}"
