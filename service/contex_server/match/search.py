"""Which of an index's data some needs match: words by their encodings, filters by key and event.

What the index alone can tell is found while it is unchanged (`find`). Filters of more than keys
are then judged by the latest event of each datum, newest first, until each has what it asks for
(`complete`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np

from contex_server.kernel import event_codec, globs
from contex_server.kernel.model import Event, Match, Need
from contex_server.kernel.model import Sequence as LogSequence
from contex_server.kernel.slices import sliced
from contex_server.log.port import EventLog
from contex_server.match.index import Index
from contex_server.matching.agent_needs import in_words, repositioned
from contex_server.matching.changes import best_first
from contex_server.matching.encoding import Encoding
from contex_server.matching.filter_index import exact_match

T = TypeVar("T")
_PAGE_EVENTS = 32
_INLINE_DATA = 1_000
"""More than these are put in order in a thread."""


class Datum(NamedTuple):
    """A datum that matches: its key, its latest event, and why."""

    data_key: str
    sequence: LogSequence
    matches: tuple[Match, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What an index alone can tell, and what is left to be judged.

    Attributes:
        worded: What those in words match, best first.
        exact: What filters of keys alone match, by key.
        unjudged: The other filters, with their positions.
        candidates: The data that these may match, newest first. In lists of their own, as pairs
            would take the garbage collector seconds where there are 500,000.
        sequences: Their latest events.
    """

    worded: list[Datum]
    exact: dict[str, Datum] = field(default_factory=dict)
    unjudged: list[tuple[int, Need]] = field(default_factory=list)
    candidates: list[str] = field(default_factory=list)
    sequences: list[LogSequence] = field(default_factory=list)


def find(
    index: Index,
    needs: Sequence[Need],
    encodings: Sequence[Encoding],
    admits: Callable[[str], bool],
) -> Found:
    """What some needs match of the data whose keys are admitted.

    Args:
        encodings: Of those in words, in their order.
    """
    found = Found(_worded(index, needs, encodings, admits))
    filters = [(at, need) for at, need in enumerate(needs) if need.filter is not None]
    if not filters:
        return found
    newest = _newest_first(index.latest, [need for _, need in filters], admits)
    for at, need in filters:
        assert need.filter is not None
        if not need.filter.by_key_alone:
            found.unjudged.append((at, need))
            continue
        left, match = need.max_matches, exact_match(need, at)
        for key in newest:
            if _admits_key(need, key):
                _add(found.exact, key, index.latest[key], match)
                left -= 1
                if not left:
                    break
    if found.unjudged:
        keys = _admitted(newest, [need for _, need in found.unjudged])
        found.candidates.extend(keys)
        found.sequences.extend(map(index.latest.__getitem__, keys))
    return found


async def complete(log: EventLog, project: str, found: Found) -> list[Datum]:
    """All data that match: those of filters first, newest first, then the others, best first."""
    worded, exact = found.worded, dict(found.exact)
    if found.unjudged:
        await _judge(log, project, found, exact)
    if len(exact) <= _INLINE_DATA:
        return _merged(worded, exact)
    return await asyncio.to_thread(_merged, worded, exact)


def _merged(worded: list[Datum], exact: dict[str, Datum]) -> list[Datum]:
    if not exact:
        return worded
    for datum in worded:
        if datum.data_key in exact:
            for match in datum.matches:
                _add(exact, datum.data_key, datum.sequence, match)
    first = sorted(exact.values(), key=lambda datum: datum.sequence, reverse=True)
    return [*first, *(datum for datum in worded if datum.data_key not in exact)]


def _worded(
    index: Index,
    needs: Sequence[Need],
    encodings: Sequence[Encoding],
    admits: Callable[[str], bool],
) -> list[Datum]:
    worded = in_words(needs)
    if not worded:
        return []
    texts = [need for _, need in worded]
    result = index.data.search(texts, encodings, admits)
    if len(worded) < len(needs):
        positions = [at for at, _ in worded]
        result = [(key, repositioned(matches, positions)) for key, matches in result]
    return [Datum(key, index.latest[key], matches) for key, matches in result]


async def _judge(log: EventLog, project: str, found: Found, exact: dict[str, Datum]) -> None:
    """Adds what the filters match that have to see the events."""
    left = {at: need.max_matches for at, need in found.unjudged}
    matches = {at: exact_match(need, at) for at, need in found.unjudged}
    for keys, sequences in zip(_pages(found.candidates), _pages(found.sequences), strict=True):
        events = await _events(log, project, sequences)
        for key, sequence, event in zip(keys, sequences, events, strict=True):
            if event is None or event.erased is not None:
                continue
            for at, need in found.unjudged:
                if left[at] and need.passes(event):
                    left[at] -= 1
                    _add(exact, key, sequence, matches[at])
        if not any(left.values()):
            return


async def _events(
    log: EventLog, project: str, sequences: Sequence[LogSequence]
) -> list[Event | None]:
    entries = await log.get(project, sequences)
    return [None if e is None else event_codec.decode(e) async for e in sliced(entries)]


def _admits_key(need: Need, data_key: str) -> bool:
    assert need.filter is not None
    return need.filter.admits_key(data_key) and not need.excludes(data_key)


def _add(exact: dict[str, Datum], data_key: str, sequence: LogSequence, match: Match) -> None:
    matches = exact[data_key].matches if data_key in exact else ()
    exact[data_key] = Datum(data_key, sequence, best_first([*matches, match]))


def _newest_first(
    latest: dict[str, LogSequence], needs: Sequence[Need], admits: Callable[[str], bool]
) -> list[str]:
    """The keys that some filters admit, newest first. Sorted by numpy, which lets others run."""
    exact = [globs.exact(glob) for need in needs for glob in _globs(need)]
    candidates: Iterable[str] = latest
    if all(map(_globs, needs)) and None not in exact:
        candidates = {key for key in exact if key in latest}
    keys = _admitted((key for key in candidates if admits(key)), needs)
    ms = np.fromiter((latest[key].ms for key in keys), np.uint64, len(keys))
    n = np.fromiter((latest[key].n for key in keys), np.uint64, len(keys))
    return [keys[at] for at in np.lexsort((n, ms))[::-1].tolist()]


def _admitted(keys: Iterable[str], needs: Sequence[Need]) -> list[str]:
    """The keys that one of some filters admits."""
    if not all(_globs(need) or need.exclude for need in needs):
        return list(keys)
    return [key for key in keys if any(_admits_key(need, key) for need in needs)]


def _globs(need: Need) -> frozenset[str]:
    assert need.filter is not None
    return need.filter.data_keys


def _pages(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _PAGE_EVENTS):
        yield items[start : start + _PAGE_EVENTS]
