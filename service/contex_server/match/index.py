"""A project's data, the needs that are matched with them, and the latest event of each datum."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from contex_server.kernel.model import BEGINNING, SERVICE_TYPES, Agent, Event, KeyState, Match
from contex_server.kernel.model import Sequence as LogSequence
from contex_server.match.turns import Worker
from contex_server.matching.agent_needs import AgentNeeds, MatchesByAgent
from contex_server.matching.background import SnapshotDamaged
from contex_server.matching.data_index import DataIndex
from contex_server.matching.encoding import Encoding
from contex_server.matching.rules import Rule
from contex_server.state.fold import key_state_of

log = structlog.get_logger(__name__)

_LATEST_BYTES = 400
"""A datum's key and sequence, and their places in dictionaries."""


class Index:
    """The data of a project and the needs that are matched with them.

    Attributes:
        worker: Does whatever takes long here.
        latest: The latest event of each live datum, also of those without a text to compare.
    """

    def __init__(self, project: str, rule: Rule, worker: Worker) -> None:
        self.project = project
        self.rule = rule
        self.worker = worker
        self.data = rule.data()
        self.needs = AgentNeeds(rule.needs(self.data))
        self.latest: dict[str, LogSequence] = {}

    @property
    def nbytes(self) -> int:
        """Memory in bytes; may be asked while the index is being changed."""
        return self.data.nbytes + self.needs.nbytes + _LATEST_BYTES * len(self.latest)

    @property
    def judges_by(self) -> tuple[str, str, LogSequence, int]:
        """The model, the formula, the event since which the background holds, and how many data
        it sums up; all empty of a relative score."""
        data = self.data
        if not isinstance(data, DataIndex):
            return self.rule.scoring_model, "", BEGINNING, 0
        background = data.background
        return data.model_id, data.scorer.name, background.sequence, background.data

    def apply(self, states: Iterable[KeyState], encodings: dict[bytes, Encoding]) -> None:
        """Applies the latest events of data keys."""
        for state in states:
            self.apply_one(encodings, state)

    def apply_one(self, encodings: dict[bytes, Encoding], state: KeyState) -> None:
        """Applies the latest event of a data key."""
        encoding = None if state.deleted else encodings.get(state.digest)
        if encoding is None:
            change = self.data.remove(state.data_key)
        else:
            change = self.data.put(state.data_key, state.digest, encoding)
        if state.deleted:
            self.latest.pop(state.data_key, None)
        else:
            self.latest[state.data_key] = state.sequence
        self.needs.changed(change)

    def set_background(self, found: tuple[LogSequence, bytes] | None) -> None:
        """Scores against a stored background from here on; None: against the shipped one.

        So does one that is damaged: every process finds it so.
        """
        sequence, packed = found or (BEGINNING, None)
        try:
            self.rule.set_background(self.data, self.needs.texts, packed, sequence)
        except SnapshotDamaged as error:
            log.error(
                "background_damaged",
                project=self.project,
                sequence=str(sequence),
                error=str(error),
            )
            self.rule.set_background(self.data, self.needs.texts, None, BEGINNING)

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

        Two events of one text share their matches by words.
        """
        return self.needs.match(events, encodings, self.data)

    def match_alone(
        self,
        agent: Agent,
        needs: tuple[Encoding, ...],
        events: list[Event],
        encodings: dict[bytes, Encoding],
    ) -> list[tuple[Match, ...]]:
        """Matches events with one agent's needs, against the data as they are; applies none."""
        index = AgentNeeds(self.rule.needs(self.data))
        index.set_agent(agent, needs)
        matched = index.match(events, encodings, self.data)
        return [matches.get(agent.agent_id, ()) for matches in matched]


def data_states(events: Iterable[Event]) -> list[KeyState]:
    """The states of the data keys that events change."""
    return [
        key_state_of(event)
        for event in events
        if event.data_key and event.event_type not in SERVICE_TYPES
    ]
