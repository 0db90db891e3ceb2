"""Values of `contex.v1.AccessService`: keys, grants, roles, tenants, and what they allow."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ._values.access import *
from .lazy import access_pb2, access_service_pb2, wire

if TYPE_CHECKING:
    from collections.abc import Iterable


def to_grant(grant: Grant) -> access_service_pb2.Grant:
    """The message for a grant."""
    if not isinstance(grant, Grant):
        raise TypeError(f"expected a Grant, not {type(grant).__name__} {grant!r}")
    return wire.message(
        access_service_pb2.Grant,
        role=grant.role,
        projects=wire.several(grant.projects, "projects"),
        data_keys=wire.several(grant.data_keys, "data_keys"),
    )


def to_grants(grants: Iterable[Grant]) -> list[access_service_pb2.Grant]:
    """The messages for grants."""
    return wire.each(wire.several(grants, "grants"), to_grant, "grants")


def to_limits(limits: UsageLimits | None) -> access_service_pb2.UsageLimits | None:
    """The message for limits; None for None."""
    if limits is None:
        return None
    return wire.message(access_service_pb2.UsageLimits, **asdict(limits))


def permission_number(permission: object, name: str) -> access_pb2.Permission.ValueType:
    """The number of a permission, which an argument of this name gives.

    Raises:
        ValueError: There is no such permission.
    """
    return wire.enum_number(Permission, permission, access_pb2.Permission, name)


def question(what: Permission | str, **fields: Any) -> access_service_pb2.CheckAccessRequest:
    """The message that asks about a permission, such as "read", or an RPC, such as "GetState"."""
    kind = access_service_pb2.CheckAccessRequest
    if isinstance(what, Permission) or what in [one.value for one in Permission]:
        return wire.message(kind, permission=permission_number(what, "what"), **fields)
    return wire.message(kind, method=what, **fields)
