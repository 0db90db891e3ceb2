"""Checks every field of needs, questions and what is asked of their answers."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from functools import partial
from itertools import chain

from contex.v1 import agent_service_pb2 as agent_pb
from contex.v1 import event_pb2
from contex.v1 import match_service_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from contex_server.agents.registry import NeedSpec
from contex_server.api.shared import fields
from contex_server.kernel.config import Limits
from contex_server.kernel.errors import Checks, all_of, invalid_field
from contex_server.kernel.model import MUTABLE, Change, EventFilter, MinDelta
from contex_server.kernel.scope import EVERYTHING as UNRESTRICTED
from contex_server.match.agent_rules import check_ttl
from contex_server.match.result import ContextBudget
from contex_server.matching.context import ContextFormat

_DEFAULT_MAX_MATCHES = 10
MatchLike = pb.MatchRequest | pb.ExplainRequest | pb.BacktestRequest
RegisterLike = agent_pb.RegisterAgentRequest | agent_pb.UpdateAgentRequest
BudgetLike = RegisterLike | pb.MatchRequest


def needs(
    messages: SequenceOf[agent_pb.Need], field: str, limits: Limits, *, at_least: int = 1
) -> tuple[NeedSpec, ...]:
    """Needs with thresholds, maxima and exclusions of their own."""
    fields.check_count(field, len(messages), limits.needs_per_agent, at_least=at_least)
    specs = [partial(_need_spec, n, f"{field}[{i}]", limits) for i, n in enumerate(messages)]
    all_of(specs)
    size = sum(len(text.encode()) for message in messages for text in _texts(message))
    if size > limits.needs_bytes:
        raise invalid_field(field, f"must have at most {limits.needs_bytes} bytes, not {size}")
    return tuple(spec() for spec in specs)


def _texts(need: agent_pb.Need) -> Iterator[str]:
    """What the bytes of needs are counted of."""
    wanted = need.filter
    yield need.text
    yield from chain(need.exclude_data_keys, wanted.event_types, wanted.data_keys)
    yield from chain(wanted.publishers, wanted.event_type_prefixes)
    yield from chain.from_iterable(wanted.metadata.items())


def _need_spec(spec: agent_pb.Need, field: str, limits: Limits) -> NeedSpec:
    wanted: EventFilter | None = None
    with Checks() as check:
        if not spec.HasField("filter"):
            if not spec.text:
                limit = f"must have 1 to {limits.need_chars} characters, not 0"
                check.refuse(f"{field}.text", f"{limit}; or set a filter in its place")
            else:
                check(fields.characters, spec.text, 1, limits.need_chars, f"{field}.text")
            lowest = check(threshold, spec, f"{field}.threshold")
        else:
            name, lowest = f"{field}.filter", None
            wanted = check(fields.event_filter, spec.filter, limits, UNRESTRICTED, name)
            if spec.text:
                check.refuse(name, "must be unset where there is a text: it stands in its place")
            if spec.HasField("threshold"):
                check.refuse(
                    f"{field}.threshold", "must be unset with a filter, which has no score"
                )
        most = check(own_max_matches, spec, limits, f"{field}.max_matches")
        name = f"{field}.exclude_data_keys"
        excluded = check(fields.key_glob.all_of, spec.exclude_data_keys, name, limits)
    return NeedSpec(spec.text, lowest, most, excluded, wanted)


def min_delta(message: agent_pb.MinDelta, limits: Limits) -> MinDelta | None:
    """Which updates are pushed; None: all."""
    pointers = message.json_pointers
    fields.check_count("min_delta.json_pointers", len(pointers), limits.json_pointers)
    with Checks() as check:
        for index, pointer in enumerate(pointers):
            check(fields.json_pointer, pointer, f"min_delta.json_pointers[{index}]", limits)
    if not message.payload_changed and not pointers:
        return None
    return MinDelta(tuple(pointers))


def budget(request: BudgetLike, limits: Limits) -> ContextBudget:
    """How an answer is written out, and the most tokens that it may take."""
    tokens, most = None, limits.context_tokens
    with Checks() as check:
        if request.HasField("max_context_tokens"):
            tokens = check(fields.within, request.max_context_tokens, 1, most, "max_context_tokens")
        written = check(context_format, request.context_format)
    return ContextBudget(tokens, written)


def context_format(value: int) -> ContextFormat:
    return ContextFormat(fields.enum(value, event_pb2.ContextFormat.DESCRIPTOR, "context_format"))


def threshold(
    message: RegisterLike | MatchLike | agent_pb.Need, field: str = "threshold"
) -> float | None:
    """The lowest score that matches, if it is given."""
    if not message.HasField("threshold"):
        return None
    if not 0 < message.threshold <= 1:
        raise invalid_field(field, f"must be above 0 and at most 1, not {message.threshold}")
    return message.threshold


def registered_max_matches(request: agent_pb.RegisterAgentRequest, limits: Limits) -> int | None:
    """Maximum number of data that an answer returns for each need; None for 0."""
    return max_matches(request, limits) if request.max_matches else None


def muted(kinds: SequenceOf[int], field: str) -> frozenset[Change]:
    """The kinds of deliveries that an agent does without."""
    names = event_pb2.MatchKind.DESCRIPTOR
    for index, kind in enumerate(kinds):
        if kind not in MUTABLE:
            fields.enum(kind, names, f"{field}[{index}]", unspecified=False)
            raise invalid_field(f"{field}[{index}]", "must be UPDATED, LEFT, DELETED or EXPIRED")
    return frozenset(map(Change, kinds))


def ttl_ms(length: Duration, limits: Limits) -> int:
    """How long an agent may go without a contact, in whole milliseconds; 0: for ever."""
    if not (0 <= length.nanos < 1_000_000_000 and length.seconds >= 0):
        raise invalid_field("ttl", "must not be negative, with nanos from 0 to 999,999,999")
    if not length.seconds and length.nanos:
        raise invalid_field("ttl", f"must be 0, or from {limits.min_valid_seconds} seconds on")
    found = length.seconds * 1000 + length.nanos // 1_000_000
    check_ttl(found, limits)
    return found


def max_matches(request: pb.MatchRequest | agent_pb.RegisterAgentRequest, limits: Limits) -> int:
    """Maximum number of data that an answer returns for each need; 0 is the default."""
    value = request.max_matches or _DEFAULT_MAX_MATCHES
    return fields.within(value, 1, limits.max_matches, "max_matches")


def own_max_matches(
    message: agent_pb.Need | agent_pb.UpdateAgentRequest,
    limits: Limits,
    field: str = "max_matches",
) -> int | None:
    """The same, if it is given."""
    if not message.HasField("max_matches"):
        return None
    return fields.within(message.max_matches, 1, limits.max_matches, field)
