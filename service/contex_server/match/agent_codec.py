"""Registrations as JSON, as they are stored and as events carry them; opaque to the log."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from contex_server.kernel.failures import Failures
from contex_server.kernel.model import (
    Agent,
    Change,
    Event,
    EventFilter,
    MinDelta,
    Need,
    Sequence,
)
from contex_server.kernel.scope import EVERYTHING as UNRESTRICTED
from contex_server.kernel.scope import Scope
from contex_server.log.agents import AgentRecord
from contex_server.match.filter_codec import (
    decode_filter,
    encode_filter,
    filter_digest,
    filter_words,
)
from contex_server.matching.describe import text_digest


def encode_agent(agent: Agent) -> bytes:
    """A registration as it is stored."""
    return orjson.dumps(
        {
            "agent_id": agent.agent_id,
            **_encode_needs(agent),
            "registered_ms": agent.registered_ms,
            "updated_ms": agent.updated_ms,
            "min_delta": _encode_min_delta(agent.min_delta),
            **_encode_wishes(agent),
        }
    )


_set_aside = Failures("agent_set_aside")


class AgentDamaged(ValueError):
    """A record is no registration."""


def decode_agent(record: bytes) -> Agent:
    """Reads what `encode_agent` wrote.

    Raises:
        AgentDamaged: It is nothing that `encode_agent` wrote.
    """
    try:
        fields = orjson.loads(record)
        fields["needs"] = _decode_needs(fields["needs"], fields["threshold"], fields["max_matches"])
        pointers = fields["min_delta"]
        fields["min_delta"] = None if pointers is None else MinDelta(tuple(pointers))
        fields["muted"] = frozenset(map(Change, fields.get("muted", ())))
        fields["groups"] = frozenset(fields.get("groups", ()))
        fields["scope"] = _decode_scope(fields.get("scope"))
        agent = Agent(**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AgentDamaged(f"no registration: {type(error).__name__}") from error
    if not _is_typed(agent):
        raise AgentDamaged("no registration: a field is of another type")
    return agent


def ttl_ms_of(record: bytes) -> int:
    """How long the agent of a registration may go without a contact; 0: for ever, as one whose
    registration is damaged."""
    try:
        return decode_agent(record).ttl_ms
    except AgentDamaged:
        return 0


def intact(project: str, records: Iterable[AgentRecord]) -> list[tuple[Agent, Sequence]]:
    """Registrations with their cursors, without those that are damaged: these are logged."""
    agents = []
    for record in records:
        try:
            agents.append((decode_agent(record.record), record.cursor))
        except AgentDamaged as error:
            _set_aside.failed(project, error)
    return agents


def _thresholds(agent: Agent) -> list[float]:
    return [need.threshold for need in agent.needs]


def _is_typed(agent: Agent) -> bool:
    numbers = (agent.max_matches, agent.registered_ms, agent.updated_ms, agent.ttl_ms)
    pointers = () if agent.min_delta is None else agent.min_delta.json_pointers
    return (
        all(type(number) is int for number in (*numbers, *(n.max_matches for n in agent.needs)))
        and all(type(n) in (int, float) for n in (agent.threshold, *_thresholds(agent)))
        and all(isinstance(text, str) for n in agent.needs for text in (n.text, *n.exclude))
        and all(isinstance(text, str) for text in (agent.agent_id, agent.identity, *pointers))
        and all(isinstance(text, str) for text in (*agent.groups, *(agent.scope.data_keys or ())))
        and isinstance(agent.exclude_own, bool)
    )


def make_need(
    text: str,
    threshold: float,
    max_matches: int,
    own_threshold: float | None = None,
    own_max_matches: int | None = None,
    exclude: Iterable[str] = (),
    wanted: EventFilter | None = None,
) -> Need:
    """A need; what it does not set itself it takes from its agent.

    With `wanted`, a filter, the text and the thresholds make no difference.
    """
    if wanted is not None:
        return Need(
            filter_words(wanted),
            filter_digest(wanted),
            1.0,
            max_matches if own_max_matches is None else own_max_matches,
            frozenset(exclude),
            None,
            own_max_matches,
            wanted,
        )
    return Need(
        text,
        text_digest(text),
        threshold if own_threshold is None else own_threshold,
        max_matches if own_max_matches is None else own_max_matches,
        frozenset(exclude),
        own_threshold,
        own_max_matches,
    )


def registered_payload(agent: Agent, before: Agent | None, after: Sequence | None) -> bytes:
    """The payload of an agent_registered event.

    `previous` holds the needs that it replaces, if they differ. `after` is the event from which on
    the past is to be decided for the agent; None: it begins with what matches now.
    """
    payload: dict[str, Any] = {
        "agent_id": agent.agent_id,
        "needs": [need.text for need in agent.needs],
        "threshold": agent.threshold,
        "max_matches": agent.max_matches,
        "need_specs": [_encode_need(need) for need in agent.needs],
        "min_delta": _encode_min_delta(agent.min_delta),
        "registered_ms": agent.registered_ms,
        "updated_ms": agent.updated_ms,
        **_encode_wishes(agent),
    }
    if after is not None:
        payload["after"] = str(after)
    if before is not None and before.needs != agent.needs:
        payload["previous"] = _encode_needs(before)
    return orjson.dumps(payload)


def agent_of_event(event: Event) -> tuple[Agent, Sequence | None]:
    """The registration that an agent_registered event tells of, and its `after`.

    `registered_ms` is 0 if the event is of a version that did not tell it.

    Raises:
        AgentDamaged: It is no such event.
    """
    try:
        fields = orjson.loads(event.payload)
        specs = fields.get("need_specs") or [[text, None, None, []] for text in fields["needs"]]
        threshold, most = fields["threshold"], fields["max_matches"]
        pointers, after = fields.get("min_delta"), fields.get("after")
        agent = Agent(
            fields["agent_id"],
            _decode_needs(specs, threshold, most),
            threshold,
            most,
            fields.get("registered_ms", 0),
            fields.get("updated_ms", event.sequence.ms),
            None if pointers is None else MinDelta(tuple(pointers)),
            frozenset(map(Change, fields.get("muted", ()))),
            fields.get("exclude_own", False),
            fields.get("ttl_ms", 0),
            fields.get("identity", ""),
            frozenset(fields.get("groups", ())),
            _decode_scope(fields.get("scope")),
        )
        position = None if after is None else Sequence.parse(after)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AgentDamaged(f"no registration: {type(error).__name__}") from error
    if not _is_typed(agent):
        raise AgentDamaged("no registration: a field is of another type")
    return agent, position


def registered_agent(payload: bytes) -> tuple[str, tuple[Need, ...] | None]:
    """The agent that an agent_registered event is about, and the needs that it replaced.

    The needs are None if there were none before, or the same.

    Raises:
        AgentDamaged: It is no payload of such an event.
    """
    try:
        fields = orjson.loads(payload)
        agent_id, previous = str(fields["agent_id"]), fields.get("previous")
        if previous is None:
            return agent_id, None
        needs = _decode_needs(previous["needs"], previous["threshold"], previous["max_matches"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AgentDamaged(f"no registration: {type(error).__name__}") from error
    return agent_id, needs


def _decode_needs(records: list[list[Any]], threshold: float, max_matches: int) -> tuple[Need, ...]:
    return tuple(_decode_need(record, threshold, max_matches) for record in records)


def _decode_need(record: list[Any], threshold: float, max_matches: int) -> Need:
    text, own_threshold, own_max_matches, exclude, *others = record
    if not others:
        return make_need(text, threshold, max_matches, own_threshold, own_max_matches, exclude)
    (wanted,) = map(decode_filter, others)
    return make_need("", threshold, max_matches, None, own_max_matches, exclude, wanted)


def _encode_needs(agent: Agent) -> dict[str, Any]:
    return {
        "needs": [_encode_need(need) for need in agent.needs],
        "threshold": agent.threshold,
        "max_matches": agent.max_matches,
    }


def _encode_wishes(agent: Agent) -> dict[str, Any]:
    """What earlier versions don't know, and set an agent aside for: only where it is wished."""
    wishes: dict[str, Any] = {}
    if agent.muted:
        wishes["muted"] = sorted(agent.muted)
    if agent.exclude_own:
        wishes["exclude_own"] = True
    if agent.ttl_ms:
        wishes["ttl_ms"] = agent.ttl_ms
    if agent.identity:
        wishes["identity"] = agent.identity
    if agent.groups:
        wishes["groups"] = sorted(agent.groups)
    if agent.scope.data_keys is not None:
        wishes["scope"] = sorted(agent.scope.data_keys)
    return wishes


def _decode_scope(globs: list[str] | None) -> Scope:
    return UNRESTRICTED if globs is None else Scope(frozenset(globs))


def _encode_need(need: Need) -> list[Any]:
    """Four values; with a filter five, which versions that don't know filters refuse to read."""
    if need.filter is not None:
        filter_record = encode_filter(need.filter)
        return ["", None, need.own_max_matches, sorted(need.exclude), filter_record]
    return [need.text, need.own_threshold, need.own_max_matches, sorted(need.exclude)]


def _encode_min_delta(min_delta: MinDelta | None) -> list[str] | None:
    return None if min_delta is None else list(min_delta.json_pointers)
