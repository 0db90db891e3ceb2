"""Methods of the values that are generated from messages, which inherit them."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from . import payload as payloads

if TYPE_CHECKING:
    from ._values.agents import Agent
    from ._values.events import Erasure, Event, EventFilter, Match, MatchedEvent, MatchKind
    from ._values.match import Contribution
    from ._values.state import Datum

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_WORDS = 1_000
"""Characters of a filter that is written out; servers cut it there."""

MatchesByNeed: TypeAlias = "dict[str, list[tuple[MatchedEvent, Match]]]"


def by_need(needs: Iterable[str], data: Iterable[MatchedEvent]) -> MatchesByNeed:
    """Groups data by need: the needs in their order, the data of each by best score first.

    Needs with the same text are one.
    """
    grouped: MatchesByNeed = {need: [] for need in needs}
    for datum in data:
        for match in {match.need: match for match in reversed(datum.matches)}.values():
            grouped.setdefault(match.need, []).append((datum, match))
    for matches in grouped.values():
        matches.sort(key=lambda pair: pair[1].score, reverse=True)
    return grouped


class EventMethods:
    __slots__ = ()
    sequence: str
    payload: bytes
    content_type: str
    erased: Erasure | None

    @property
    def value(self) -> object:
        """The payload decoded by its content type: a JSON value, `str` or `bytes`.

        None if it was erased.

        Raises:
            ValueError: The payload is not what its content type says.
        """
        if self.erased is not None:
            return None
        return payloads.decode(self.payload, self.content_type)

    @property
    def time(self) -> datetime:
        """When the store appended the event (UTC, in milliseconds)."""
        return _EPOCH + timedelta(milliseconds=int(self.sequence.partition("-")[0]))


class MatchedEventMethods:
    __slots__ = ()
    event: Event
    matches: tuple[Match, ...]
    kind: MatchKind | None

    @property
    def score(self) -> float:
        """The best score of its matches."""
        return max((match.score for match in self.matches), default=0.0)

    def apply_to(self, held: MutableMapping[str, MatchedEvent]) -> None:
        """Keeps a dict true, of what an agent holds by data key.

        With every delivery of a `listen` applied in its order, also those that come again, the dict
        has exactly what exists and meets the agent's needs.
        """
        key, revision, kind = self.event.data_key, self.event.revision, self.kind
        if not key or (key in held and held[key].event.revision > revision):
            return  # An erasure of revisions before the held one, or a delivery that comes again.
        if kind is None or kind.name in ("MATCHED", "UPDATED"):
            held[key] = cast("MatchedEvent", self)
        elif kind.name != "OTHER":
            held.pop(key, None)


class DecisionMethods:
    __slots__ = ()
    allowed: bool

    def __bool__(self) -> bool:
        return self.allowed


class EventFilterMethods:
    __slots__ = ()
    event_types: tuple[str, ...]
    data_keys: tuple[str, ...]
    publishers: tuple[str, ...]
    event_type_prefixes: tuple[str, ...]
    metadata: Mapping[str, str]
    exclude_service_events: bool

    @property
    def words(self) -> str:
        """The filter as `Match.need` has it, which may be cut: `key=orders/*, type=order.paid`."""
        words = self.written()
        return words if len(words) <= _MOST_WORDS else f"{words[: _MOST_WORDS - 1]}…"

    def written(self) -> str:
        """The whole filter, written out."""
        lists = {
            "key": self.data_keys,
            "type": self.event_types,
            "type-prefix": self.event_type_prefixes,
            "publisher": self.publishers,
            "meta": [f"{key}={value}" for key, value in self.metadata.items()],
        }
        parts = [f"{name}={value}" for name, values in lists.items() for value in sorted({*values})]
        if self.exclude_service_events:
            parts.append("no-service-events")
        return ", ".join(parts) or "everything"


class NeedMethods:
    __slots__ = ()
    text: str
    filter: EventFilter | None

    @property
    def words(self) -> str:
        """What `Match.need` has for it: the text, or the filter written out."""
        return self.text if self.filter is None else self.filter.words


class RegistrationMethods:
    __slots__ = ()
    agent: Agent
    data: tuple[MatchedEvent, ...]

    def by_need(self) -> MatchesByNeed:
        """Groups the data by need: the agent's needs in their order, best score first."""
        return by_need([need.words for need in self.agent.needs], self.data)


class MatchAnswerMethods:
    __slots__ = ()
    data: tuple[MatchedEvent, ...]
    questions: tuple[str, ...]

    def by_need(self) -> MatchesByNeed:
        """Groups the data by question: the questions in their order, best score first."""
        return by_need(self.questions, self.data)


class ExplanationMethods:
    __slots__ = ()
    contributions: tuple[Contribution, ...]

    @property
    def log_odds(self) -> float:
        """The sum of the contributions."""
        return sum(contribution.log_odds for contribution in self.contributions)


class MatchingStatusMethods:
    __slots__ = ()
    model: str
    configured_model: str
    data_total: int

    @property
    def is_embedding_anew(self) -> bool:
        """Whether the project is being re-embedded with another model."""
        return self.configured_model != self.model

    @property
    def is_indexing(self) -> bool:
        """Whether the server is building the project's index."""
        return self.data_total > 0


class PatchMethods:
    __slots__ = ()
    json_patch: str | None

    @property
    def operations(self) -> list[dict[str, Any]]:
        """The operations of the JSON Patch; empty if there is none."""
        operations: list[dict[str, Any]] = json.loads(self.json_patch or "[]")
        return operations


class StateMethods:
    __slots__ = ()
    data: tuple[Datum, ...]

    def __iter__(self) -> Iterator[Datum]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, data_key: str) -> Datum:
        """The datum of a key.

        Raises:
            KeyError: The key has no datum.
        """
        place = self._place(data_key)
        if place is None:
            raise KeyError(data_key)
        return self.data[place]

    def __contains__(self, data_key: object) -> bool:
        if isinstance(data_key, str):
            return self._place(data_key) is not None
        return data_key in self.data

    def _place(self, data_key: str) -> int | None:
        # Keys are ASCII, so their bytes sort like their characters.
        place = bisect_left(self.data, data_key, key=lambda datum: datum.data_key)
        found = place < len(self.data) and self.data[place].data_key == data_key
        return place if found else None
