# Generated from protos/ by `make generate`.

"""The values of `contex.access` that stand for messages."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from contex.methods import (
    DecisionMethods,
)

if TYPE_CHECKING:
    from contex.v1 import (
        access_service_pb2,
    )

__all__ = [
    "ApiKey",
    "Binding",
    "Credential",
    "Decision",
    "Grant",
    "GrantDecision",
    "NewKey",
    "Permission",
    "Role",
    "RotatedKey",
    "Tenant",
    "Usage",
    "UsageLimits",
    "UsageReport",
    "WhoAmI",
    "api_key",
    "binding",
    "decision",
    "grant",
    "grant_decision",
    "new_key",
    "role",
    "rotated_key",
    "tenant",
    "usage",
    "usage_limits",
    "usage_report",
    "who_am_i",
]


class Permission(enum.Enum):
    """What an identity may do.

    A role is a set of permissions; see AccessService. The option `access` of each RPC says which of
    them it takes.
    """

    PUBLISH = "publish"
    """Publish and delete data."""
    READ = "read"
    """Read events: one, in pages, as a replay, as a subscription."""
    LISTEN = "listen"
    """Receive what an agent gets, acknowledge it, and know what the agent knew."""
    REGISTER = "register"
    """Register, change and unregister agents."""
    MATCH = "match"
    """Ask what matches a need, and why; backtests and feedback."""
    STATE = "state"
    """Read the state at any moment, differences, histories and blame."""
    AUDIT = "audit"
    """Read the audit, what each agent was sent and what it knew."""
    EXPORT = "export"
    """Export a project's log."""
    IMPORT = "import"
    """Import a log."""
    ERASE = "erase"
    """Erase payloads, and remove old events."""
    ADMINISTER = "administer"
    """Delete projects; keys, bindings, and, for the whole deployment, roles and tenants."""
    OBSERVE = "observe"
    """See how large and how busy a project is: stats, activity, retention, usage, the status of
    matching.
    """
    OPERATE = "operate"
    """Set retention, verify and repair a project, give agents an identity."""
    OTHER = "other"
    """One that a newer server has added.

    It can't be asked for.
    """


class Credential(enum.Enum):
    """How an identity is proved."""

    API_KEY = "api_key"
    """By an API key."""
    TOKEN = "token"
    """By a token of an issuer."""
    CERTIFICATE = "certificate"
    """By a client certificate."""
    OTHER = "other"
    """One that a newer server has added.

    It can't be asked for.
    """


@dataclass(frozen=True, slots=True)
class Grant:
    """A role for projects and data keys.

    Attributes:
        role: Name of the role: "admin", "operator", "publisher", "consumer", "readonly", "auditor",
            or one that `set_role` made.
        projects: Globs over projects, of the identity's tenant: "*" stands for any characters, "?"
            for one. At least one, at most 32.
        data_keys: Globs over data keys, see `EventFilter.data_keys`. Empty: all, and events without
            one. At most 32.
    """

    role: str
    projects: tuple[str, ...]
    data_keys: tuple[str, ...] = ()


def grant(message: access_service_pb2.Grant) -> Grant:
    """The `Grant` of a message."""
    return Grant(
        role=message.role,
        projects=tuple(message.projects),
        data_keys=tuple(message.data_keys),
    )


@dataclass(frozen=True, slots=True)
class Binding:
    """What an identity may do.

    Attributes:
        identity: The identity, or "group:<issuer>:<group>"; 1 to 128 printable characters.
        tenant: The tenant that it belongs to; its grants hold for the tenant's projects alone.
            Empty: none, and they hold for all.
        grants: At most 32.
        update_time: When it was set last (UTC).
    """

    identity: str
    tenant: str
    grants: tuple[Grant, ...]
    update_time: datetime | None


def binding(message: access_service_pb2.Binding) -> Binding:
    """The `Binding` of a message."""
    return Binding(
        identity=message.identity,
        tenant=message.tenant,
        grants=tuple(map(grant, message.grants)),
        update_time=message.update_time.ToDatetime(tzinfo=UTC)
        if message.HasField("update_time")
        else None,
    )


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key, without its secret.

    Attributes:
        key_id: Identifies it: the part of the key after "ctx_".
        identity: Whom it stands for: a plain name, without ":", of 1 to 128 printable characters.
        tenant: The tenant that it belongs to; empty: none.
        name: What it is for, at most 256 characters.
        owner: Who answers for it, at most 256 characters.
        created_by: Who created it, and when.
        create_time: When it was created (UTC).
        expire_time: Until when it is valid (UTC). None: for ever.
        revoke_time: When it was revoked (UTC). None: it was not.
        last_use_time: When it was used last, to some 10 seconds; an open stream uses it (UTC).
            None: never.
        replaces_key_id: The key that was rotated to this one, if one was.
    """

    key_id: str
    identity: str
    tenant: str
    name: str
    owner: str
    created_by: str
    create_time: datetime
    expire_time: datetime | None
    revoke_time: datetime | None
    last_use_time: datetime | None
    replaces_key_id: str


def api_key(message: access_service_pb2.ApiKey) -> ApiKey:
    """The `ApiKey` of a message."""
    return ApiKey(
        key_id=message.key_id,
        identity=message.identity,
        tenant=message.tenant,
        name=message.name,
        owner=message.owner,
        created_by=message.created_by,
        create_time=message.create_time.ToDatetime(tzinfo=UTC),
        expire_time=message.expire_time.ToDatetime(tzinfo=UTC)
        if message.HasField("expire_time")
        else None,
        revoke_time=message.revoke_time.ToDatetime(tzinfo=UTC)
        if message.HasField("revoke_time")
        else None,
        last_use_time=message.last_use_time.ToDatetime(tzinfo=UTC)
        if message.HasField("last_use_time")
        else None,
        replaces_key_id=message.replaces_key_id,
    )


@dataclass(frozen=True, slots=True)
class NewKey:
    """A new key.

    Attributes:
        key: What there is to know about it.
        secret_key: The key itself: "ctx_<key_id>_<secret>". Keep it; it can't be shown again.
    """

    key: ApiKey
    secret_key: str = field(repr=False)


def new_key(message: access_service_pb2.CreateKeyResponse) -> NewKey:
    """The `NewKey` of a message."""
    return NewKey(
        key=api_key(message.key),
        secret_key=message.secret_key,
    )


@dataclass(frozen=True, slots=True)
class RotatedKey:
    """A new key in the place of another.

    Attributes:
        key: The new one.
        secret_key: The key itself.
        replaced: The old one, with the time until which it is valid.
    """

    key: ApiKey
    secret_key: str = field(repr=False)
    replaced: ApiKey


def rotated_key(message: access_service_pb2.RotateKeyResponse) -> RotatedKey:
    """The `RotatedKey` of a message."""
    return RotatedKey(
        key=api_key(message.key),
        secret_key=message.secret_key,
        replaced=api_key(message.replaced),
    )


@dataclass(frozen=True, slots=True)
class Role:
    """A set of permissions.

    Attributes:
        name: Its name: 1 to 64 letters, digits, "_", "." and "-".
        permissions: What it allows.
        description: What it is for, at most 256 characters.
        built_in: Whether it can't be changed.
    """

    name: str
    permissions: tuple[Permission, ...]
    description: str = ""
    built_in: bool = False


def role(message: access_service_pb2.Role) -> Role:
    """The `Role` of a message."""
    return Role(
        name=message.name,
        permissions=tuple(_PERMISSIONS.get(one, Permission.OTHER) for one in message.permissions),
        description=message.description,
        built_in=message.built_in,
    )


@dataclass(frozen=True, slots=True)
class UsageLimits:
    """What may be used.

    0 of any: no limit.

    Attributes:
        events_per_second: Events published, and their bytes (payload, key, description and
            metadata).
        bytes_per_second: Bytes of them.
        stored_events: Events that are stored, in the store and the archive.
        stored_bytes: Bytes of them.
        agents: Registered agents.
        needs: Needs of all of them.
        open_streams: Streams that are open at a time: Subscribe, Listen, Consume, PublishStream and
            all others.
        write_calls_per_second: Calls that write. A batch of a PublishStream counts as one.
        read_calls_per_second: Calls that read.
        admin_calls_per_second: Calls that administer.
        work_per_second: What metered calls look at: events, data, needs.
    """

    events_per_second: int = 0
    bytes_per_second: int = 0
    stored_events: int = 0
    stored_bytes: int = 0
    agents: int = 0
    needs: int = 0
    open_streams: int = 0
    write_calls_per_second: int = 0
    read_calls_per_second: int = 0
    admin_calls_per_second: int = 0
    work_per_second: int = 0


def usage_limits(message: access_service_pb2.UsageLimits) -> UsageLimits:
    """The `UsageLimits` of a message."""
    return UsageLimits(
        events_per_second=message.events_per_second,
        bytes_per_second=message.bytes_per_second,
        stored_events=message.stored_events,
        stored_bytes=message.stored_bytes,
        agents=message.agents,
        needs=message.needs,
        open_streams=message.open_streams,
        write_calls_per_second=message.write_calls_per_second,
        read_calls_per_second=message.read_calls_per_second,
        admin_calls_per_second=message.admin_calls_per_second,
        work_per_second=message.work_per_second,
    )


@dataclass(frozen=True, slots=True)
class Tenant:
    """Projects, keys and identities that belong together.

    Attributes:
        name: Its name: 1 to 64 letters, digits, "_", "." and "-".
        projects: Globs over its projects, which no project of another tenant may fit. At most 32.
        limits: What all of its projects may use together.
        project_limits: What each of its projects may use.
        description: What it is, at most 256 characters.
    """

    name: str
    projects: tuple[str, ...] = ()
    limits: UsageLimits | None = None
    project_limits: UsageLimits | None = None
    description: str = ""


def tenant(message: access_service_pb2.Tenant) -> Tenant:
    """The `Tenant` of a message."""
    return Tenant(
        name=message.name,
        projects=tuple(message.projects),
        limits=usage_limits(message.limits) if message.HasField("limits") else None,
        project_limits=usage_limits(message.project_limits)
        if message.HasField("project_limits")
        else None,
        description=message.description,
    )


@dataclass(frozen=True, slots=True)
class WhoAmI:
    """Who calls.

    Attributes:
        identity: The identity; empty where access is off.
        tenant: Its tenant; empty: none.
        credential: How it was proved.
        key_id: The key, if it was one.
        expire_time: Until when it is valid (UTC). None: for ever.
        groups: The groups that its token names.
        grants: All grants that count for it.
    """

    identity: str
    tenant: str
    credential: Credential | None
    key_id: str
    expire_time: datetime | None
    groups: tuple[str, ...]
    grants: tuple[Grant, ...]


def who_am_i(message: access_service_pb2.WhoAmIResponse) -> WhoAmI:
    """The `WhoAmI` of a message."""
    return WhoAmI(
        identity=message.identity,
        tenant=message.tenant,
        credential=_CREDENTIALS.get(message.credential, Credential.OTHER)
        if message.credential
        else None,
        key_id=message.key_id,
        expire_time=message.expire_time.ToDatetime(tzinfo=UTC)
        if message.HasField("expire_time")
        else None,
        groups=tuple(message.groups),
        grants=tuple(map(grant, message.grants)),
    )


@dataclass(frozen=True, slots=True)
class GrantDecision:
    """What a grant says.

    Attributes:
        identity: Whose it is: the identity, or a group.
        grant: The grant.
        allows: Whether it allows it.
        problem: Why not. Empty, if it does.
    """

    identity: str
    grant: Grant
    allows: bool
    problem: str


def grant_decision(message: access_service_pb2.GrantDecision) -> GrantDecision:
    """The `GrantDecision` of a message."""
    return GrantDecision(
        identity=message.identity,
        grant=grant(message.grant),
        allows=message.allows,
        problem=message.problem,
    )


@dataclass(frozen=True, slots=True)
class Decision(DecisionMethods):
    """A decision.

    Attributes:
        allowed: Whether it is allowed.
        reason: Why, in one sentence.
        data_keys: The data keys that it is allowed for: globs. Empty, where it is allowed: all.
        grants: What each grant of the identity says.
    """

    allowed: bool
    reason: str
    data_keys: tuple[str, ...]
    grants: tuple[GrantDecision, ...]


def decision(message: access_service_pb2.CheckAccessResponse) -> Decision:
    """The `Decision` of a message."""
    return Decision(
        allowed=message.allowed,
        reason=message.reason,
        data_keys=tuple(message.data_keys),
        grants=tuple(map(grant_decision, message.grants)),
    )


@dataclass(frozen=True, slots=True)
class Usage:
    """One thing that is limited.

    Attributes:
        name: The field of UsageLimits.
        used: What is used: of rates, the mean of the last minute.
        limit: The limit; 0: none.
        refused: Calls that were refused for it since it was first used.
    """

    name: str
    used: float
    limit: int
    refused: int


def usage(message: access_service_pb2.Usage) -> Usage:
    """The `Usage` of a message."""
    return Usage(
        name=message.name,
        used=message.used,
        limit=message.limit,
        refused=message.refused,
    )


@dataclass(frozen=True, slots=True)
class UsageReport:
    """What is used, beside what may be.

    Attributes:
        tenant: The tenant.
        project: The project, if one was asked for.
        usage: One for each limit that there is, also where none is set.
    """

    tenant: str
    project: str
    usage: tuple[Usage, ...]


def usage_report(message: access_service_pb2.GetUsageResponse) -> UsageReport:
    """The `UsageReport` of a message."""
    return UsageReport(
        tenant=message.tenant,
        project=message.project,
        usage=tuple(map(usage, message.usage)),
    )


_PERMISSIONS = {
    1: Permission.PUBLISH,
    2: Permission.READ,
    3: Permission.LISTEN,
    4: Permission.REGISTER,
    5: Permission.MATCH,
    6: Permission.STATE,
    7: Permission.AUDIT,
    8: Permission.EXPORT,
    9: Permission.IMPORT,
    10: Permission.ERASE,
    11: Permission.ADMINISTER,
    12: Permission.OBSERVE,
    13: Permission.OPERATE,
}

_CREDENTIALS = {1: Credential.API_KEY, 2: Credential.TOKEN, 3: Credential.CERTIFICATE}
