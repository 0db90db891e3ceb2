"""Page tokens of states, diffs and histories, each valid only for the request it was made for."""

from __future__ import annotations

import zlib

from contex.v1 import state_service_pb2

from contex_server.api.shared.cursors import Token, decode_place, encode_place, invalid_token

Listing = (
    state_service_pb2.GetStateRequest
    | state_service_pb2.DiffStatesRequest
    | state_service_pb2.GetHistoryRequest
)


def encode(token: Token, request: Listing, numbers: tuple[int, ...], last: str = "") -> str:
    """A token that carries some numbers, and the key to continue after."""
    return encode_place(token, request.project, (fingerprint(request), *numbers), last)


def decode(token: Token, request: Listing, count: int) -> tuple[tuple[int, ...], str]:
    """Reads what `encode` wrote with `count` numbers for the same request.

    Raises:
        ContexError: CURSOR_INVALID.
    """
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
