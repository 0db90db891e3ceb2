"""What a registration may be, where it is not made here: as in a request."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from contex_server.kernel.config import Limits
from contex_server.kernel.errors import invalid_field
from contex_server.kernel.event_rules import check_metadata
from contex_server.kernel.model import Agent, EventFilter, Need
from contex_server.kernel.names import AGENT_ID, EVENT_TYPE, KEY_GLOB, PUBLISHER, TYPE_PREFIX
from contex_server.matching.delta import parse_pointer

_MAX_MS = 253_402_300_799_999
"""The end of the year 9999."""


def check_agent(agent: Agent, agent_id: str, limits: Limits) -> None:
    """Checks every field against its limit.

    Raises:
        ContexError: INVALID_FIELD.
    """
    AGENT_ID(agent_id)
    if agent.agent_id != agent_id:
        raise invalid_field("agent_id", f"{agent_id!r} is registered as another one")
    _check_count("needs", len(agent.needs), 1, limits.needs_per_agent)
    for index, need in enumerate(agent.needs):
        _check_need(need, f"needs[{index}]", limits)
    size = sum(len(text.encode()) for need in agent.needs for text in texts_of(need))
    if size > limits.needs_bytes:
        raise invalid_field("needs", f"must have at most {limits.needs_bytes} bytes, not {size}")
    _check_scores(agent.threshold, agent.max_matches, "", limits)
    if not 0 <= agent.registered_ms <= agent.updated_ms <= _MAX_MS:
        raise invalid_field("updated_ms", "must be after registered_ms, and before the year 10000")
    check_ttl(agent.ttl_ms, limits)
    if agent.min_delta is not None:
        pointers = agent.min_delta.json_pointers
        _check_count("min_delta", len(pointers), 0, limits.json_pointers)
        for pointer in pointers:
            _check_count("min_delta", len(pointer), 0, limits.json_pointer_chars)
            try:
                parse_pointer(pointer)
            except ValueError as error:
                raise invalid_field("min_delta", f"must be JSON pointers: {error}") from None


def check_ttl(ttl_ms: int, limits: Limits) -> None:
    """Checks how long an agent may go without a contact.

    Raises:
        ContexError: INVALID_FIELD.
    """
    low, high = limits.min_valid_seconds, limits.max_valid_seconds
    if ttl_ms and not low * 1000 <= ttl_ms <= high * 1000:
        raise invalid_field("ttl", f"must be 0, or from {low} to {high} seconds")


def texts_of(need: Need) -> Iterator[str]:
    """What the bytes of an agent's needs are counted of."""
    yield from need.exclude
    if need.filter is None:
        yield need.text
        return
    wanted = need.filter
    yield from chain(wanted.event_types, wanted.data_keys, wanted.publishers, wanted.type_prefixes)
    yield from chain.from_iterable(wanted.metadata)


def _check_need(need: Need, field: str, limits: Limits) -> None:
    if need.filter is not None:
        _check_filter(need.filter, f"{field}.filter", limits)
    else:
        _check_count(f"{field}.text", len(need.text), 1, limits.need_chars)
        if not need.text.strip():
            raise invalid_field(f"{field}.text", "must not be blank")
    _check_scores(need.threshold, need.max_matches, f"{field}.", limits)
    _check_count(f"{field}.exclude", len(need.exclude), 0, limits.filter_entries)
    for glob in need.exclude:
        KEY_GLOB(glob, f"{field}.exclude")


def _check_filter(wanted: EventFilter, field: str, limits: Limits) -> None:
    EVENT_TYPE.all_of(sorted(wanted.event_types), f"{field}.event_types", limits)
    KEY_GLOB.all_of(sorted(wanted.data_keys), f"{field}.data_keys", limits)
    PUBLISHER.all_of(sorted(wanted.publishers), f"{field}.publishers", limits)
    TYPE_PREFIX.all_of(wanted.type_prefixes, f"{field}.event_type_prefixes", limits)
    check_metadata(dict(wanted.metadata), limits, f"{field}.metadata")


def _check_scores(threshold: float, max_matches: int, prefix: str, limits: Limits) -> None:
    if not 0 < threshold <= 1:
        raise invalid_field(f"{prefix}threshold", "must be above 0 and at most 1")
    _check_count(f"{prefix}max_matches", max_matches, 1, limits.max_matches)


def _check_count(field: str, count: int, low: int, high: int) -> None:
    if not low <= count <= high:
        raise invalid_field(field, f"must be {low} to {high}, not {count}")
