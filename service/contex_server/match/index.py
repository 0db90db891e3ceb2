"""A project's data, the needs that are matched with them, and the latest event of each datum."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import structlog
from cachetools import LRUCache

from contex_server.kernel.model import (
    BEGINNING,
    SERVICE_TYPES,
    Agent,
    Event,
    KeyState,
    Match,
    Need,
)
from contex_server.kernel.model import Sequence as LogSequence
from contex_server.match.turns import Worker
from contex_server.matching.background import SnapshotDamaged
from contex_server.matching.changes import SearchResult
from contex_server.matching.encoding import Encoding
from contex_server.matching.rules import Needs, Rule
from contex_server.state.fold import key_state_of

log = structlog.get_logger(__name__)

_LATEST_BYTES = 400
"""A datum's key and sequence, and their places in dictionaries."""

_KEPT = 50_000
"""What is kept of scans, in needs found: many updates of a datum leave its text as it was."""
_KEPT_BYTES = 400
"""A need found and its match."""

MatchesByAgent = dict[str, tuple[Match, ...]]


class Index:
    """The data of a project and the needs that are matched with them.

    Attributes:
        worker: Does whatever takes long here.
    """

    def __init__(self, project: str, rule: Rule, worker: Worker) -> None:
        self.project = project
        self.rule = rule
        self.worker = worker
        self.data = rule.data()
        self.needs = rule.needs(self.data)
        self.latest: dict[str, LogSequence] = {}
        # By digest, and the version of the needs that it holds for.
        self._scanned: LRUCache[bytes, Any] = LRUCache(_KEPT, _size_of)
        self._scanned_version = 0

    @property
    def nbytes(self) -> int:
        """Memory in bytes; may be asked while the index is being changed."""
        indexes = self.data.nbytes + self.needs.nbytes
        kept = _KEPT_BYTES * int(self._scanned.currsize)
        return indexes + kept + _LATEST_BYTES * len(self.latest)

    def apply(self, states: Iterable[KeyState], encodings: dict[bytes, Encoding]) -> None:
        """Applies the latest events of data keys."""
        for state in states:
            self.apply_one(encodings, state)

    def apply_one(self, encodings: dict[bytes, Encoding], state: KeyState) -> None:
        """Applies the latest event of a data key."""
        encoding = encodings.get(state.digest)
        if state.deleted or encoding is None:
            change = self.data.remove(state.data_key)
            self.latest.pop(state.data_key, None)
        else:
            change = self.data.put(state.data_key, state.digest, encoding)
            self.latest[state.data_key] = state.sequence
        self.needs.changed(change)

    def set_background(self, found: tuple[LogSequence, bytes] | None) -> None:
        """Scores against a stored background from here on; None: against the shipped one.

        So does one that is damaged: every process finds it so.
        """
        sequence, packed = found or (BEGINNING, None)
        try:
            self.rule.set_background(self.data, self.needs, packed, sequence)
        except SnapshotDamaged as error:
            log.error(
                "background_damaged",
                project=self.project,
                sequence=str(sequence),
                error=str(error),
            )
            self.rule.set_background(self.data, self.needs, None, BEGINNING)

    def match(self, events: list[Event], encodings: dict[bytes, Encoding]) -> list[MatchesByAgent]:
        """Applies events, in log order, and matches each with the needs of all agents.

        All of them are judged against the data as of the last one.
        """
        self.apply(data_states(events), encodings)
        return self.match_only(events, encodings)

    def match_only(
        self, events: list[Event], encodings: dict[bytes, Encoding]
    ) -> list[MatchesByAgent]:
        """Matches events with the needs of all agents, against the data as they are; applies none.

        Two events of one text share their matches.
        """
        return self._match(self.needs, self._scan, events, encodings)

    def match_alone(
        self,
        agent: Agent,
        needs: tuple[Encoding, ...],
        events: list[Event],
        encodings: dict[bytes, Encoding],
    ) -> list[tuple[Match, ...]]:
        """Matches events with one agent's needs, against the data as they are; applies none."""
        index = self.rule.needs(self.data)
        index.set_agent(agent, needs)
        matched = self._match(index, partial(_scanned, index), events, encodings)
        return [matches.get(agent.agent_id, ()) for matches in matched]

    def search_new(
        self,
        now: tuple[Sequence[Need], Sequence[Encoding]],
        before: tuple[Sequence[Need], Sequence[Encoding]],
        until: LogSequence,
    ) -> SearchResult:
        """The data that the needs of now match and those of before did not, up to `until`."""

        def is_older(data_key: str) -> bool:
            return self.latest[data_key] <= until

        needs, encodings = before
        everything = [replace(need, max_matches=len(self.data) or 1) for need in needs]
        matched = {key for key, _ in self.data.search(everything, encodings, is_older)}
        return self.data.search(*now, lambda key: is_older(key) and key not in matched)

    def _scan(self, texts: dict[bytes, Encoding]) -> dict[bytes, Any]:
        """What the scan of the needs returns of each text."""
        if self._scanned_version != self.needs.version:
            self._scanned.clear()
            self._scanned_version = self.needs.version
        found = {digest: self._scanned[digest] for digest in texts if digest in self._scanned}
        new = {digest: text for digest, text in texts.items() if digest not in found}
        scanned = _scanned(self.needs, new)
        for digest, each in scanned.items():
            if _size_of(each) < _KEPT:
                self._scanned[digest] = each
        return found | scanned

    def _match(
        self,
        needs: Needs,
        scan: Callable[[dict[bytes, Encoding]], dict[bytes, Any]],
        events: list[Event],
        encodings: dict[bytes, Encoding],
    ) -> list[MatchesByAgent]:
        matched: list[MatchesByAgent] = [{} for _ in events]
        if not needs.needs:
            return matched
        texts = {d: encodings[d] for e in events if (d := e.text_digest) in encodings}
        found = scan(texts)
        for place, event in enumerate(events):
            digest = event.text_digest
            if digest in texts:
                text = self.data.text(digest)
                matched[place] = needs.match(
                    texts[digest], found[digest], event.data_key, text.serial if text else None
                )
        return matched


def _size_of(found: Any) -> int:
    return 1 + len(found)


def _scanned(needs: Needs, texts: dict[bytes, Encoding]) -> dict[bytes, Any]:
    return dict(zip(texts, needs.scan(list(texts.values())), strict=True))


def data_states(events: Iterable[Event]) -> list[KeyState]:
    """The states of the data keys that events change."""
    return [
        key_state_of(event)
        for event in events
        if event.data_key and event.event_type not in SERVICE_TYPES
    ]
