"""What an event means to an agent, by its needs and by what it holds. Pure.

One rule decides, for whoever is online, catches up or comes back: what is delivered depends on the
event, on what the agent was sent before of its datum, and on its needs. A datum that an agent holds
is not judged anew while its text stays the same, and counts as met down to a margin below the
threshold. A filter has neither text nor threshold: whether it passes is asked of each event.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from contex_server.inbox.holdings import DIGEST_BYTES, Holding
from contex_server.kernel.model import (
    DATA_EXPIRED,
    MUTABLE,
    SERVICE_TYPES,
    Agent,
    Change,
    Event,
    Match,
    MinDelta,
)


class Judgement(NamedTuple):
    """What an event means to an agent.

    Attributes:
        change: What it is told; None: nothing.
        matches: The needs that are met.
        holding: What it holds of the datum then; None: what it held before.
    """

    change: Change | None
    matches: tuple[Match, ...]
    holding: Holding | None


NOTHING = Judgement(None, (), None)


@dataclass(frozen=True, slots=True)
class Occasion:
    """An event, and whether each agent's `min_delta` passes it.

    Attributes:
        held_back_by: Those of the agents' `min_delta`s that the event does not pass.
    """

    event: Event
    held_back_by: frozenset[MinDelta] = frozenset()

    def holds_back(self, agent: Agent) -> bool:
        """Whether the agent's `min_delta` holds the event back."""
        return agent.min_delta in self.held_back_by


def judge(
    occasion: Occasion, agent: Agent, near: tuple[Match, ...], before: Holding | None
) -> Judgement:
    """Judges an event for an agent.

    Args:
        occasion: The event.
        agent: The registration in force.
        near: The needs that it meets with the margin, best first.
        before: What the agent was sent of the datum.
    """
    event = occasion.event
    if not agent.scope.admits(event.data_key):
        return NOTHING  # Of what it held of it, the change of its rights has told.
    if event.event_type in SERVICE_TYPES:
        before = None  # It is no revision of a datum, whatever its key.
    holds = before is not None and before.held
    if before is not None and before.last >= event.revision > 0:
        return NOTHING  # It was sent this one, or a later one, out of order: by a registration.
    own = is_own(event, agent)
    if event.deletes:
        # Of what the agent does not hold, a deletion concerns it by a filter that passes it.
        exact = tuple([match for match in near if match.exact])
        if not holds and (own or not exact):
            return NOTHING
        change = Change.EXPIRED if event.event_type == DATA_EXPIRED else Change.DELETED
        return _told(event, agent, change, exact, before, own=own)
    if before is None or not holds:
        met = at_threshold(met_by(near, agent), agent)
        if not met:
            return NOTHING
        return _told(event, agent, Change.MATCHED, met, before, own=own)
    if before.exact:
        near = met_by(near, agent)  # No need in words was met whose margin would count.
    same = bool(event.text_digest) and before.digest == event.text_digest[:DIGEST_BYTES]
    stays = same and not before.exact
    if not near and not stays:
        return _told(event, agent, Change.LEFT, (), before, own=own)
    if occasion.holds_back(agent) and not own:
        return NOTHING
    near = at_threshold(near, agent)
    return _told(event, agent, Change.UPDATED, near, before, own=own, stays=stays)


def _told(
    event: Event,
    agent: Agent,
    change: Change,
    matches: tuple[Match, ...],
    before: Holding | None,
    *,
    own: bool,
    stays: bool = False,
) -> Judgement:
    """`stays`: it meets words as it did, for its text is the same."""
    if change in MUTABLE and change in agent.muted and not own:
        return NOTHING
    holding = None
    if event.data_key and event.event_type not in SERVICE_TYPES:
        held = change in (Change.MATCHED, Change.UPDATED)
        holding = Holding(
            event.revision if before is None else before.first,
            event.revision,
            event.text_digest[:DIGEST_BYTES],
            held,
            exact=held and not stays and by_filters_alone(matches),
        )
    return Judgement(None if own else change, matches, holding)


def is_own(event: Event, agent: Agent) -> bool:
    """Whether an agent is not told of an event because it published it itself."""
    if not agent.exclude_own:
        return False
    if event.publisher == agent.agent_id:
        return True
    # Others may claim its name, too.
    proved = bool(agent.identity) and event.publisher == agent.identity
    return proved and event.claimed_publisher == agent.agent_id


def met_by(near: tuple[Match, ...], agent: Agent) -> tuple[Match, ...]:
    """Of the needs that an event comes near to, those that it meets without the margin."""
    needs = agent.needs
    return tuple([m for m in near if m.score >= needs[m.need_index].threshold])


def by_filters_alone(matches: tuple[Match, ...]) -> bool:
    """Whether none of some matches is of a need in words; False where there are none."""
    return bool(matches) and all(match.exact for match in matches)


def at_threshold(matches: tuple[Match, ...], agent: Agent) -> tuple[Match, ...]:
    """Matches that name their needs' own thresholds."""
    needs = agent.needs
    return tuple([m._replace(threshold=needs[m.need_index].threshold) for m in matches])
