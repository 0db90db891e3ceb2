"""What an index keeps of a text's scan never outlives the needs and the background it is of."""

from __future__ import annotations

from typing import cast

from contex_server.kernel.model import Agent, Event, Need, Sequence
from contex_server.match.index import Index
from contex_server.match.turns import Worker
from contex_server.matching.background import Snapshot
from contex_server.matching.rules import AbsoluteRule
from contex_server.matching.score import Scorer, Weights

from tests.unit.matching.corpora import Corpus, absolute_prior

WEIGHTS = Weights("test", -2.0, 1.0, 1.5, 2.5, 0.3)


def _index() -> Index:
    rule = AbsoluteRule("test#2", absolute_prior(), Scorer(WEIGHTS))
    return Index("p", rule, cast(Worker, None))


def test_what_is_kept_of_a_text_follows_needs_and_background() -> None:
    corpus = Corpus(1)
    texts = {b"%d" % at: corpus.text() for at in range(20)}
    needs = [corpus.need() for _ in range(12)]
    events = [
        Event(Sequence(at + 1, 0), "data_published", f"k{at}", text_digest=b"%d" % (at % 20))
        for at in range(40)
    ]
    agents = [
        Agent(f"a{at}", (Need(f"{at}", b"%d" % at, 0.2, 10),), 0.2, 10, 0, 0) for at in range(12)
    ]
    index, has = _index(), dict[str, int]()
    snapshot: bytes | None = None

    def checked() -> int:
        afresh = _index()
        if snapshot is not None:
            afresh.set_background((Sequence(9, 0), snapshot))
        for at in has.values():
            afresh.needs.set_agent(agents[at], [needs[at]])
        expected = afresh.match_only(events, texts)
        for _ in range(2):
            matched = index.match_only(events, texts)
            assert [each.keys() for each in matched] == [each.keys() for each in expected]
            assert index.match_only(events[:3], texts) == matched[:3]
        assert index.nbytes > 0
        return sum(len(each) for each in expected)

    met = []
    for at in range(12):
        index.needs.set_agent(agents[at], [needs[at]])
        has[f"a{at}"] = at
        met.append(checked())
    index.needs.remove_agent("a3")
    del has["a3"]
    met.append(checked())
    snapshot = Snapshot.of(list(texts.values()), 20).pack()
    index.set_background((Sequence(9, 0), snapshot))
    met.append(checked())
    assert min(met[1:]) > 0
    assert len(set(met)) > 8
