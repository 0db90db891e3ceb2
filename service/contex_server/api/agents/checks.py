"""Checks every field of the requests about agents against its limit."""

from __future__ import annotations

from typing import Protocol

from contex.v1 import agent_service_pb2 as pb

from contex_server.agents.registry import AgentSpec, NeedSpec
from contex_server.api.match import checks
from contex_server.api.shared import fields
from contex_server.kernel.config import Limits
from contex_server.kernel.errors import invalid_field


class _OfAgent(Protocol):
    project: str
    agent_id: str


def ids(request: _OfAgent) -> tuple[str, str]:
    return fields.project(request.project), fields.agent_id(request.agent_id)


def agent_spec(
    request: pb.RegisterAgentRequest | pb.UpdateAgentRequest, limits: Limits
) -> AgentSpec:
    """What a registration sets or changes; a new one must have needs."""
    texts, specs = request.needs, request.need_specs
    if texts and specs:
        raise invalid_field("need_specs", "must be empty where needs are given")
    max_matches: int | None
    if isinstance(request, pb.RegisterAgentRequest):
        least, max_matches = 1, checks.max_matches(request, limits)
    else:
        least, max_matches = 0, checks.own_max_matches(request, limits)
    if specs:
        needs = checks.need_specs(specs, "need_specs", limits)
    else:
        fields.check_count("needs", len(texts), limits.needs_per_agent, at_least=least)
        needs = tuple(
            NeedSpec(checks.need(text, f"needs[{i}]", limits)) for i, text in enumerate(texts)
        )
    delta = None
    if request.HasField("min_delta"):
        delta = (checks.min_delta(request.min_delta, limits),)
    return AgentSpec(needs or None, checks.threshold(request), max_matches, delta)
