"""The filters of the agents that listen here: finds those that an event passes.

Each filter is filed under the entries of one of its parts, the one whose places hold the fewest
filters so far: exact keys, types, publishers and entries of metadata are looked up as they are,
globs and prefixes of types by what they begin with, or end with, or else contain. Only what an
event finds there is tested. Filters with none of these (`*`, or nothing at all) are tested with
every event.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from contex_server.kernel import globs
from contex_server.kernel.model import Agent, Event, EventFilter, Match, Need
from contex_server.matching.changes import best_first

_ROW_BYTES = 1_500
"""A filter, its places, and what these are found by."""
_AGENT_BYTES = 500
"""A match that is made ready for an agent."""

_Place = tuple[str, str]
"""A kind of lookup, and what is looked up."""
_ANYTHING: _Place = ("any", "")


def exact_match(need: Need, need_index: int) -> Match:
    """What is said of any event that passes a need's filter."""
    return exact_match_of(need_index, need.text, need.id)


def exact_match_of(need_index: int, words: str, need_id: str) -> Match:
    """The same of a need that is known by its id, and by its filter written out."""
    return Match(
        need_index=need_index,
        need=words,
        score=1.0,
        passage=0,
        cosine=0.0,
        standing=0.0,
        lexical=0.0,
        share=0.0,
        mean=0.0,
        deviation=0.0,
        threshold=1.0,
        model="",
        scorer="",
        background_passages=0,
        need_id=need_id,
        exact=True,
    )


class _Row:
    """A filter, where it is filed, and who has it."""

    __slots__ = ("_excluding", "_plain", "places", "wanted")

    def __init__(self, wanted: EventFilter, places: list[_Place]) -> None:
        self.wanted = wanted
        self.places = places
        self._plain: dict[str, tuple[Match, ...]] = {}
        self._excluding: dict[str, list[tuple[Need, Match]]] = {}

    def __bool__(self) -> bool:
        return bool(self._plain or self._excluding)

    def set_agent(self, agent_id: str, needs: list[tuple[int, Need]]) -> None:
        """Adds an agent, with its needs of this filter and their positions."""
        matches = [(need, exact_match(need, index)) for index, need in needs]
        if any(need.exclude for need, _ in matches):
            self._excluding[agent_id] = matches
        else:
            self._plain[agent_id] = tuple(match for _, match in matches)

    def remove_agent(self, agent_id: str) -> None:
        """Removes an agent."""
        self._plain.pop(agent_id, None)
        self._excluding.pop(agent_id, None)

    def matches(self, data_key: str) -> dict[str, tuple[Match, ...]]:
        """By agent, what an event of this key meets that passes the filter."""
        if not self._excluding:
            return self._plain
        met = dict(self._plain)
        for agent_id, needs in self._excluding.items():
            if matches := tuple(match for need, match in needs if not need.excludes(data_key)):
                met[agent_id] = matches
        return met


class FilterIndex:
    """Needs that are filters, by agent. Not for use by several threads at once.

    A filter that several agents share is one row.
    """

    def __init__(self) -> None:
        self._rows: dict[bytes, _Row] = {}
        self._needs: dict[str, list[bytes]] = {}
        self._filed: defaultdict[str, dict[str, dict[bytes, None]]] = defaultdict(dict)
        self._lengths: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self._matches = 0

    @property
    def needs(self) -> int:
        """Number of different filters."""
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Approximate memory in bytes."""
        return _ROW_BYTES * len(self._rows) + _AGENT_BYTES * self._matches

    def set_agent(self, agent: Agent) -> None:
        """Adds the filters of an agent, or replaces them."""
        self.remove_agent(agent.agent_id)
        needs = [(i, need) for i, need in enumerate(agent.needs) if need.filter is not None]
        if not needs:
            return
        by_digest: defaultdict[bytes, list[tuple[int, Need]]] = defaultdict(list)
        for index, need in needs:
            by_digest[need.digest].append((index, need))
        for digest, alike in by_digest.items():
            row = self._rows.get(digest)
            if row is None:
                wanted = alike[0][1].filter
                assert wanted is not None
                row = self._rows[digest] = self._file(digest, wanted)
            row.set_agent(agent.agent_id, alike)
        self._needs[agent.agent_id] = [need.digest for _, need in needs]
        self._matches += len(needs)

    def remove_agent(self, agent_id: str) -> None:
        """Removes an agent's filters, if it has any."""
        digests = self._needs.pop(agent_id, [])
        self._matches -= len(digests)
        for digest in set(digests):
            row = self._rows[digest]
            row.remove_agent(agent_id)
            if not row:
                del self._rows[digest]
                self._unfile(digest, row)

    def match(self, event: Event) -> dict[str, tuple[Match, ...]]:
        """By agent, the needs whose filters an event passes, in their order."""
        met: dict[str, tuple[Match, ...]] = {}
        for digest in self._candidates(event):
            row = self._rows[digest]
            if not row.wanted.passes_as_need(event):
                continue
            matches = row.matches(event.data_key)
            if not met:
                met = dict(matches)
                continue
            for agent_id, more in matches.items():
                before = met.get(agent_id)
                met[agent_id] = more if before is None else best_first([*before, *more])
        return met

    def _file(self, digest: bytes, wanted: EventFilter) -> _Row:
        ways = [list(dict.fromkeys(places)) for places in _ways(wanted)]
        places = min(ways, key=lambda way: sum(map(self._crowd, way)), default=[_ANYTHING])
        for kind, text in places:
            self._filed[kind].setdefault(text, {})[digest] = None
            self._lengths[kind][len(text)] += 1
        return _Row(wanted, places)

    def _unfile(self, digest: bytes, row: _Row) -> None:
        for kind, text in row.places:
            filed = self._filed[kind]
            del filed[text][digest]
            if not filed[text]:
                del filed[text]
            lengths = self._lengths[kind]
            lengths[len(text)] -= 1
            if not lengths[len(text)]:
                del lengths[len(text)]

    def _crowd(self, place: _Place) -> int:
        return len(self._filed[place[0]].get(place[1], ()))

    def _candidates(self, event: Event) -> Iterable[bytes]:
        """The filters that an event may pass."""
        found: dict[bytes, None] = {}
        for kind, text in self._lookups(event):
            found.update(self._filed[kind].get(text, {}))
        return found

    def _lookups(self, event: Event) -> Iterator[_Place]:
        key, event_type = event.data_key, event.event_type
        yield _ANYTHING
        yield "type", event_type
        yield "publisher", event.publisher
        for length in self._lengths["type_start"]:
            yield "type_start", event_type[:length]
        if key:
            yield "key", key
            for length in self._lengths["key_start"]:
                yield "key_start", key[:length]
            for length in self._lengths["key_end"]:
                yield "key_end", key[-length:]
            for text in self._filed["key_part"]:
                if text in key:
                    yield "key_part", text
        if self._filed["entry"]:
            for item in event.metadata.items():
                yield "entry", _entry(*item)


def _ways(wanted: EventFilter) -> Iterator[list[_Place]]:
    """The places that a filter may be filed under, in several ways: whatever passes it comes to
    one of the places of each."""
    if wanted.data_keys:
        keys = list(map(_key_place, wanted.data_keys))
        if _ANYTHING not in keys:
            yield keys
    for key, value in wanted.metadata:
        yield [("entry", _entry(key, value))]
    if wanted.publishers:
        yield [("publisher", name) for name in wanted.publishers]
    if wanted.names_types:
        types = [("type", event_type) for event_type in wanted.event_types]
        yield [*types, *(("type_start", prefix) for prefix in wanted.type_prefixes)]


def _key_place(glob: str) -> _Place:
    exact = globs.exact(glob)
    if exact is not None:
        return "key", exact
    start, end = globs.literal(glob), globs.ending(glob)
    if start or end:
        return ("key_start", start) if len(start) >= len(end) else ("key_end", end)
    middle = globs.longest(glob)
    return ("key_part", middle) if middle else _ANYTHING


def _entry(key: str, value: str) -> str:
    return f"{len(key)}:{key}{value}"
