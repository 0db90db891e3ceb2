"""Checks every field of the requests about agents against its limit."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from contex.v1 import agent_service_pb2 as pb

from contex_server.agents.registry import AgentSpec, NeedSpec
from contex_server.api.match import checks
from contex_server.api.shared import fields
from contex_server.api.shared.cursors import Token, decode_position
from contex_server.kernel.config import Limits
from contex_server.kernel.errors import invalid_field
from contex_server.kernel.model import Sequence

_NEAR_MISSES = 100


class _OfAgent(Protocol):
    project: str
    agent_id: str


def ids(request: _OfAgent) -> tuple[str, str]:
    """The project and the agent."""
    return fields.project(request.project), fields.agent_id(request.agent_id)


def registration(
    request: pb.RegisterAgentRequest, limits: Limits
) -> tuple[AgentSpec, Sequence | None]:
    """What a registration asks for, and the last event that the agent has seen."""
    last_seen = None
    if request.HasField("last_seen_sequence"):
        last_seen = fields.sequence(request.last_seen_sequence, "last_seen_sequence")
    spec = _spec(request, limits, required=True)
    maximum = checks.max_matches(request.max_matches or checks.DEFAULT_MAX_MATCHES, limits)
    return replace(spec, max_matches=maximum), last_seen


def change(request: pb.UpdateAgentRequest, limits: Limits) -> AgentSpec:
    """What is to change in a registration."""
    spec = _spec(request, limits, required=False)
    if not request.HasField("max_matches"):
        return spec
    return replace(spec, max_matches=checks.max_matches(request.max_matches, limits))


def start(project: str, request: pb.ListenRequest, acknowledged: Sequence) -> Sequence:
    """The position after which a stream begins; by default what the agent has acknowledged."""
    match request.WhichOneof("start"):
        case "cursor":
            return decode_position(Token.CURSOR, project, request.cursor, "cursor")
        case "after_sequence":
            return fields.sequence(request.after_sequence, "after_sequence")
        case _:
            return acknowledged


def position(project: str, request: pb.AcknowledgeRequest) -> Sequence:
    """The position that an agent acknowledges."""
    match request.WhichOneof("position"):
        case "cursor":
            return decode_position(Token.CURSOR, project, request.cursor, "cursor")
        case "sequence":
            return fields.sequence(request.sequence, "sequence")
        case _:
            raise invalid_field("position", "a cursor or a sequence is required")


def delivered_event(request: pb.ListDeliveriesRequest) -> Sequence:
    """The event whose receivers are listed."""
    for field in ("since", "until"):
        if request.HasField(field):
            raise invalid_field(field, "must be unset where a sequence is given")
    return fields.sequence(request.sequence, "sequence")


def _spec(request: checks.RegisterLike, limits: Limits, *, required: bool) -> AgentSpec:
    texts, specs = list(request.needs), list(request.need_specs)
    if texts and specs:
        raise invalid_field("need_specs", "must be empty where needs are given")
    if specs:
        needs = checks.need_specs(specs, "need_specs", limits)
    else:
        fields.check_count("needs", len(texts), limits.needs_per_agent, at_least=int(required))
        for index, text in enumerate(texts):
            checks.need(text, f"needs[{index}]", limits)
        needs = tuple(NeedSpec(text) for text in texts)
    delta = None
    if request.HasField("min_delta"):
        delta = (checks.min_delta(request.min_delta, limits),)
    return AgentSpec(
        needs=needs or None, threshold=checks.threshold(request), max_matches=None, min_delta=delta
    )


def near_misses(value: int) -> int:
    """Maximum number of near misses that are listed."""
    if value > _NEAR_MISSES:
        raise invalid_field("near_misses", f"must be at most {_NEAR_MISSES}, not {value}")
    return value
