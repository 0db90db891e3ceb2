"""What requests of AccessService may say."""

from __future__ import annotations

from collections.abc import Iterable

from contex.v1 import access_pb2
from contex.v1 import access_service_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from contex_server.access.records import Binding, Grant, Role, Tenant
from contex_server.api.shared import fields
from contex_server.kernel.config import Limits
from contex_server.kernel.errors import Checks, invalid_field
from contex_server.kernel.names import Glob, Name, PrintableName

_TEXT_CHARS = 256
_MOST_GRANTS = 32
_MAX_LIMIT = 2**53
DAY_MS = 24 * 3_600_000
MAX_TTL_MS = 3_650 * DAY_MS
MAX_OVERLAP_MS = 90 * DAY_MS

identity = fields.identity
key_id = Name("key_id", 1, 64, "A-Z a-z 0-9")
role_name = Name("name", 1, 64, "A-Z a-z 0-9 _ . -", "a letter or digit")
tenant_name = Name("tenant", 1, 64, "A-Z a-z 0-9 _ . -", "a letter or digit")
project_glob = Glob("projects", 1, 64)
group = PrintableName("groups", 1, 256)


def text(value: str, field: str) -> str:
    """A remark, which may be empty."""
    return fields.characters(value, 0, _TEXT_CHARS, field)


def optional_identity(value: str, field: str = "identity") -> str:
    """An identity; "" for any."""
    return identity(value, field) if value else ""


def optional_tenant(value: str, field: str = "tenant") -> str:
    """A tenant; "" for none."""
    return tenant_name(value, field) if value else ""


def lasts_ms(value: Duration, low_ms: int, high_ms: int, field: str) -> int:
    """A time in milliseconds."""
    milliseconds = value.seconds * 1000 + value.nanos // 1_000_000
    if not 0 <= value.nanos < 1_000_000_000 or not low_ms <= milliseconds <= high_ms:
        problem = f"must be {low_ms / 1000:g} to {high_ms / 1000:,.0f} seconds"
        raise invalid_field(field, problem)
    return milliseconds


def grants(messages: Iterable[pb.Grant], limits: Limits, field: str) -> tuple[Grant, ...]:
    """The grants of an identity."""
    found = []
    with Checks() as check:
        given = list(messages)
        check(fields.check_count, field, len(given), _MOST_GRANTS)
        for index, message in enumerate(given[:_MOST_GRANTS]):
            name = f"{field}[{index}]"
            role = check(role_name, message.role, f"{name}.role")
            projects = check(project_glob.all_of, message.projects, f"{name}.projects", limits)
            if not message.projects:
                check.refuse(f"{name}.projects", "must hold at least one")
            keys = check(fields.key_glob.all_of, message.data_keys, f"{name}.data_keys", limits)
            found.append(Grant(role, projects, keys or None))
    return tuple(found)


def binding(message: pb.Binding, limits: Limits) -> Binding:
    """What an identity may do."""
    with Checks() as check:
        name = check(identity, message.identity, "binding.identity")
        tenant = check(optional_tenant, message.tenant, "binding.tenant")
        given = check(grants, message.grants, limits, "binding.grants")
    return Binding(name, tenant, given)


def role(message: pb.Role) -> Role:
    """A role."""
    with Checks() as check:
        name = check(role_name, message.name, "role.name")
        description = check(text, message.description, "role.description")
        if not message.permissions:
            check.refuse("role.permissions", "must hold at least one")
        permissions = frozenset(
            check(permission, number, f"role.permissions[{index}]")
            for index, number in enumerate(message.permissions)
        )
    return Role(name, permissions, description)


def permission(value: int, field: str) -> int:
    """A permission, by its number."""
    fields.enum(value, access_pb2.Permission.DESCRIPTOR, field, unspecified=False)
    return value


def tenant(message: pb.Tenant, limits: Limits) -> Tenant:
    """A tenant."""
    with Checks() as check:
        name = check(tenant_name, message.name, "tenant.name")
        projects = check(project_glob.all_of, message.projects, "tenant.projects", limits)
        description = check(text, message.description, "tenant.description")
        own = check(_usage_limits, message.limits, "tenant.limits")
        of_each = check(_usage_limits, message.project_limits, "tenant.project_limits")
    return Tenant(name, projects, own, of_each, description)


def _usage_limits(message: pb.UsageLimits, field: str) -> dict[str, int]:
    with Checks() as check:
        for descriptor, value in message.ListFields():
            check(fields.within, value, 0, _MAX_LIMIT, f"{field}.{descriptor.name}")
    return {descriptor.name: value for descriptor, value in message.ListFields()}
