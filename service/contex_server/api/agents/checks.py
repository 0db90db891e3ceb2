"""Checks every field of the requests about agents against its limit."""

from __future__ import annotations

from contex_server.agents.registry import NeedSpec, Wishes
from contex_server.api.match import checks
from contex_server.api.shared import fields
from contex_server.kernel.config import Limits
from contex_server.kernel.errors import invalid_field

_NEAR_MISSES = 100


def wishes(request: checks.RegisterLike, limits: Limits, *, required: bool) -> Wishes:
    """What a call says of a registration."""
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
    return Wishes(
        needs=needs or None,
        threshold=checks.threshold(request),
        max_matches=None,
        min_delta=(checks.min_delta(request.min_delta, limits),)
        if request.HasField("min_delta")
        else None,
    )


def near_misses(value: int) -> int:
    """How many data that nearly matched are listed."""
    if value > _NEAR_MISSES:
        raise invalid_field("near_misses", f"must be at most {_NEAR_MISSES}, not {value}")
    return value
