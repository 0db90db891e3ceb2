"""The index of filters finds what testing every filter would find."""

from __future__ import annotations

import time
from dataclasses import replace

from contex_server.kernel.model import (
    AGENT_REGISTERED,
    DATA_DELETED,
    DATA_PUBLISHED,
    SERVICE_TYPES,
    Agent,
    Event,
    EventFilter,
    Need,
    Sequence,
)
from contex_server.match.agent_codec import make_need
from contex_server.matching.filter_index import FilterIndex
from hypothesis import given
from hypothesis import strategies as st

KEYS = ("", "a", "ab", "abc", "orders/1", "orders/12", "x/orders", "o*", "b?c", "ab\\c")
GLOBS = (
    *("*", "?", "a", "a*", "ab*", "a?c", "*c", "?b*", "orders/*", "*/orders", "o*1", "*r*"),
    *("o\\*", "b\\?c", "ab\\\\c", "*\\*", "\\a*"),
)
TYPES = (DATA_PUBLISHED, DATA_DELETED, "order.paid", "order.sent", "ping", *sorted(SERVICE_TYPES))
PREFIXES = ("o", "order.", "data_", "agent_", "match", "ping")
PUBLISHERS = ("", "p", "q")
ENTRIES = (("k", "v"), ("k", "w"), ("l", "v"), ("", "kv"))


def several(values: tuple[str, ...]) -> st.SearchStrategy[frozenset[str]]:
    return st.frozensets(st.sampled_from(values), max_size=3)


filters = st.builds(
    EventFilter,
    several(TYPES),
    several(GLOBS),
    several(PUBLISHERS),
    type_prefixes=several(PREFIXES).map(lambda found: tuple(sorted(found))),
    metadata=st.lists(st.sampled_from(ENTRIES), max_size=2).map(
        lambda e: frozenset(dict(e).items())
    ),
    without_service=st.booleans(),
)
needs = st.builds(
    lambda wanted, exclude: make_need("", 0.5, 10, exclude=exclude, wanted=wanted),
    filters,
    several(GLOBS),
)
agents = st.lists(st.tuples(st.sampled_from("abcd"), st.lists(needs, max_size=4)), max_size=12)
events = st.builds(
    Event,
    st.just(Sequence(1, 0)),
    st.sampled_from(TYPES),
    st.sampled_from(KEYS),
    publisher=st.sampled_from(PUBLISHERS),
    metadata=st.lists(st.sampled_from(ENTRIES)).map(dict),
)


def agent_of(agent_id: str, *needs: Need) -> Agent:
    return Agent(agent_id, needs, 0.5, 10, 1, 1)


def wants(need: Need, event: Event) -> bool:
    assert need.filter is not None
    if not need.filter.passes(event) or need.excludes(event.data_key):
        return False
    by_prefix = event.event_type.startswith(need.filter.type_prefixes or ("\0",))
    is_named = event.event_type in need.filter.event_types or by_prefix
    return event.event_type not in SERVICE_TYPES or is_named


@given(agents, st.lists(events, max_size=5))
def test_it_finds_what_each_filter_passes(
    changes: list[tuple[str, list[Need]]], events: list[Event]
) -> None:
    index = FilterIndex()
    registered: dict[str, Agent] = {}
    for agent_id, needs in changes:
        if needs:
            registered[agent_id] = agent_of(agent_id, *needs)
            index.set_agent(registered[agent_id])
        else:
            registered.pop(agent_id, None)
            index.remove_agent(agent_id)
    for event in events:
        expected = {
            agent_id: [i for i, need in enumerate(agent.needs) if wants(need, event)]
            for agent_id, agent in registered.items()
        }
        found = {
            agent_id: [match.need_index for match in matches]
            for agent_id, matches in index.match(event).items()
        }
        assert found == {agent_id: met for agent_id, met in expected.items() if met}
    for agent_id in registered:
        index.remove_agent(agent_id)
    assert (index.needs, index.nbytes) == (0, 0)
    assert not any(index._filed.values())
    assert not any(index._lengths.values())


def test_a_match_says_which_need() -> None:
    index = FilterIndex()
    need = make_need("", 0.5, 10, wanted=EventFilter(frozenset({"order.paid"})))
    words = make_need("orders", 0.5, 10)
    index.set_agent(agent_of("a", words, need, need))
    (first, second) = index.match(Event(Sequence(1, 0), "order.paid"))["a"]
    assert (first.need_index, second.need_index) == (1, 2)
    assert (first.need, first.need_id, first.score) == ("type=order.paid", need.id, 1.0)
    assert index.needs == 1


def test_a_registration_is_not_for_who_asked_for_everything() -> None:
    index = FilterIndex()
    for agent_id, wanted in {
        "everything": EventFilter(),
        "named": EventFilter(frozenset({AGENT_REGISTERED})),
        "prefix": EventFilter(type_prefixes=("agent_",)),
        "both": EventFilter(frozenset({AGENT_REGISTERED}), without_service=True),
    }.items():
        index.set_agent(agent_of(agent_id, make_need("", 0.5, 10, wanted=wanted)))
    event = Event(Sequence(1, 0), AGENT_REGISTERED)
    assert sorted(index.match(event)) == ["named", "prefix"]
    assert sorted(index.match(replace(event, event_type="ping"))) == ["everything"]


def test_few_of_many_filters_are_tested() -> None:
    """10,000 agents with a filter each, of several kinds: an event is tested with those at its
    places alone, whichever part of their filters tells them apart."""
    index = FilterIndex()
    kinds = (
        lambda n: EventFilter(data_keys=frozenset({f"key/{n}"})),
        lambda n: EventFilter(data_keys=frozenset({f"team{n}/*"})),
        lambda n: EventFilter(data_keys=frozenset({f"*.{n}x"})),
        lambda n: EventFilter(data_keys=frozenset({f"*.{n}.*"})),
        lambda n: EventFilter(frozenset({f"type.{n}"})),
        lambda n: EventFilter(data_keys=frozenset({"key/*"}), publishers=frozenset({f"p{n}"})),
        lambda n: EventFilter(frozenset({"ping"}), metadata=frozenset({("n", str(n))})),
    )
    for n in range(10_000):
        wanted = kinds[n % len(kinds)](n)
        index.set_agent(agent_of(f"a{n}", make_need("", 0.5, 10, wanted=wanted)))
    event = Event(Sequence(1, 0), "ping", "key/7", publisher="p5", metadata={"n": "6"})
    assert sorted(index.match(event)) == ["a5", "a6", "a7"]
    assert len([*index._candidates(event)]) < 10
    start = time.process_time()
    for _ in range(100):
        index.match(event)
    assert time.process_time() - start < 0.5
