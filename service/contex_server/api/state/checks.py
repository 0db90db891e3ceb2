"""Checks the fields of the requests about states and histories; their page tokens."""

from __future__ import annotations

import zlib

from contex.v1 import state_service_pb2 as pb

from contex_server.api.shared import fields
from contex_server.api.shared.cursors import Token, decode_place, encode_place, invalid_token
from contex_server.kernel.config import Limits
from contex_server.kernel.scope import Scope
from contex_server.state.state import Selection

SelectionLike = pb.GetStateRequest | pb.StreamStateRequest | pb.DiffStatesRequest
Listing = pb.GetStateRequest | pb.DiffStatesRequest | pb.GetHistoryRequest


def selection(request: SelectionLike, limits: Limits, scope: Scope) -> Selection:
    """Which keys of a state to return, of those that the caller may see."""
    prefix = fields.key_prefix(request.prefix)
    globs = fields.key_glob.all_of(request.data_keys, "data_keys", limits)
    deleted = not isinstance(request, pb.DiffStatesRequest) and request.include_deleted
    return Selection(globs, prefix, deleted, scope)


def is_whole(view: int) -> bool:
    """Whether to return whole events, and not only keys."""
    return fields.enum(view, pb.StateView.DESCRIPTOR, "view") != pb.STATE_VIEW_KEYS


def page_token(token: Token, request: Listing, numbers: tuple[int, ...], last: str = "") -> str:
    """A token that carries some numbers, and the key to continue after."""
    return encode_place(token, request.project, (fingerprint(request), *numbers), last)


def read_page_token(token: Token, request: Listing, count: int) -> tuple[tuple[int, ...], str]:
    """Reads what `page_token` wrote with `count` numbers for the same request."""
    numbers, last = decode_place(
        token, request.project, request.page_token, "page_token", count + 1
    )
    if numbers[0] != fingerprint(request):
        raise invalid_token("page_token")
    return numbers[1:], last


def fingerprint(request: Listing) -> int:
    """A checksum of all fields that must not change from page to page."""
    same = type(request)()
    same.CopyFrom(request)  # type: ignore[arg-type]
    same.ClearField("page_token")
    same.ClearField("page_size")
    return zlib.crc32(same.SerializeToString(deterministic=True))
