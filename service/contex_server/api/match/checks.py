"""Checks every field of needs, questions and what is asked of their answers."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

from contex.v1 import agent_service_pb2 as agent_pb
from contex.v1 import match_service_pb2 as pb

from contex_server.agents.registry import NeedSpec
from contex_server.api.shared import fields
from contex_server.kernel.config import Limits
from contex_server.kernel.errors import invalid_field
from contex_server.kernel.model import MinDelta
from contex_server.match.result import ContextBudget
from contex_server.matching.context import ContextFormat
from contex_server.matching.delta import parse_pointer

DEFAULT_MAX_MATCHES = 10
MatchLike = pb.MatchRequest | pb.ExplainRequest | pb.BacktestRequest
RegisterLike = agent_pb.RegisterAgentRequest | agent_pb.UpdateAgentRequest
BudgetLike = RegisterLike | pb.MatchRequest


def need_specs(
    specs: SequenceOf[agent_pb.Need], field: str, limits: Limits
) -> tuple[NeedSpec, ...]:
    """Needs with thresholds, maxima and exclusions of their own; at least one."""
    fields.check_count(field, len(specs), limits.needs_per_agent, at_least=1)
    found = []
    for index, spec in enumerate(specs):
        name = f"{field}[{index}]"
        need(spec.text, f"{name}.text", limits)
        lowest, own_max = threshold(spec, f"{name}.threshold"), None
        if spec.HasField("max_matches"):
            own_max = max_matches(spec.max_matches, limits, f"{name}.max_matches")
        globs = fields.data_keys(spec.exclude_data_keys, f"{name}.exclude_data_keys", limits)
        found.append(NeedSpec(spec.text, lowest, own_max, globs))
    return tuple(found)


def min_delta(message: agent_pb.MinDelta, limits: Limits) -> MinDelta | None:
    """Which updates are pushed; None: all."""
    pointers = message.json_pointers
    fields.check_count("min_delta.json_pointers", len(pointers), limits.json_pointers)
    for index, pointer in enumerate(pointers):
        field = f"min_delta.json_pointers[{index}]"
        if len(pointer) > limits.json_pointer_chars:
            raise invalid_field(field, f"must have at most {limits.json_pointer_chars} characters")
        try:
            parse_pointer(pointer)
        except ValueError as error:
            raise invalid_field(field, f"must be a JSON pointer (RFC 6901): {error}") from None
    if not message.payload_changed and not pointers:
        return None
    return MinDelta(tuple(pointers))


def budget(request: BudgetLike, limits: Limits) -> ContextBudget:
    """How an answer is written out, and the most tokens that it may take."""
    tokens = None
    if request.HasField("max_context_tokens"):
        tokens = request.max_context_tokens
        if not 1 <= tokens <= limits.context_tokens:
            raise invalid_field(
                "max_context_tokens", f"must be 1 to {limits.context_tokens}, not {tokens}"
            )
    return ContextBudget(tokens, context_format(request.context_format))


def context_format(value: int) -> ContextFormat:
    """How data are written out."""
    try:
        return ContextFormat(value)
    except ValueError:
        raise invalid_field("context_format", f"{value} is no ContextFormat") from None


def threshold(
    message: RegisterLike | MatchLike | agent_pb.Need, field: str = "threshold"
) -> float | None:
    """The lowest score that matches, if it is given."""
    if not message.HasField("threshold"):
        return None
    if not 0 < message.threshold <= 1:
        raise invalid_field(field, f"must be above 0 and at most 1, not {message.threshold}")
    return message.threshold


def need(text: str, field: str, limits: Limits) -> str:
    """One need in words."""
    if not text.strip() or len(text) > limits.need_chars:
        raise invalid_field(
            field,
            f"must have 1 to {limits.need_chars} characters and not be blank, "
            f"not {len(text)} characters",
        )
    return text


def comment(value: str, limits: Limits) -> str:
    """A remark for people."""
    if len(value) > limits.comment_chars:
        raise invalid_field(
            "comment", f"must have at most {limits.comment_chars} characters, not {len(value)}"
        )
    return value


def max_matches(value: int, limits: Limits, field: str = "max_matches") -> int:
    """Maximum number of data that an answer returns for each need."""
    if not 1 <= value <= limits.max_matches:
        raise invalid_field(field, f"must be 1 to {limits.max_matches}, not {value}")
    return value
