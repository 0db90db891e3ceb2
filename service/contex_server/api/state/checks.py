"""Checks every field of the requests about states and histories against its limit."""

from __future__ import annotations

from contex.v1 import state_service_pb2

from contex_server.api.shared import fields
from contex_server.kernel.config import Limits
from contex_server.kernel.errors import invalid_field
from contex_server.kernel.scope import Scope
from contex_server.state.state import Selection

SelectionLike = (
    state_service_pb2.GetStateRequest
    | state_service_pb2.StreamStateRequest
    | state_service_pb2.DiffStatesRequest
)


def selection(
    request: SelectionLike, limits: Limits, scope: Scope, *, deleted: bool = False
) -> Selection:
    """Which keys of a state are wanted, of those that the caller may see."""
    prefix = request.prefix
    if prefix:
        fields.part_of_key(prefix, "prefix")
    globs = fields.data_keys(request.data_keys, "data_keys", limits)
    return Selection(globs, prefix, deleted, scope)


def is_whole(view: int) -> bool:
    """Whether whole events are wanted, and not only keys."""
    if view not in (
        state_service_pb2.STATE_VIEW_UNSPECIFIED,
        state_service_pb2.STATE_VIEW_FULL,
        state_service_pb2.STATE_VIEW_KEYS,
    ):
        raise invalid_field("view", f"{view} is no StateView")
    return view != state_service_pb2.STATE_VIEW_KEYS


def after_data_key(value: str) -> str:
    """The data key to continue after, or ""."""
    return fields.part_of_key(value, "after_data_key") if value else ""


def revision(value: int) -> int:
    """The number of a revision."""
    if value < 1:
        raise invalid_field("revision", "must be at least 1")
    return value
