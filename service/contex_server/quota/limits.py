"""What tenants and projects may use."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Limits:
    """`contex.v1.UsageLimits`, field by field; 0: no limit."""

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


NAMES = tuple(one.name for one in fields(Limits))
RATES = frozenset(name for name in NAMES if name.endswith("_per_second"))
UNLIMITED = Limits()


@dataclass(frozen=True, slots=True)
class Bounds:
    """What holds for a call.

    Attributes:
        tenant: Whose the project is.
        tenant_limits: Of all projects of the tenant together.
        project_limits: Of this one.
        is_open: Whether nothing is limited.
    """

    tenant: str
    tenant_limits: Limits = UNLIMITED
    project_limits: Limits = UNLIMITED
    is_open: bool = field(init=False)

    def __post_init__(self) -> None:
        is_open = self.tenant_limits == UNLIMITED == self.project_limits
        object.__setattr__(self, "is_open", is_open)

    def of(self, project: str, limit: str) -> int:
        """The limit of the project, or, with "", of the tenant."""
        value: int = getattr(self.project_limits if project else self.tenant_limits, limit)
        return value

    def limits_any(self, *limits: str) -> bool:
        """Whether one of these is limited."""
        return any(self.of("", limit) or self.of("-", limit) for limit in limits)


class LimitsOf(Protocol):
    """Whose a project is, and what may be used. Answered from memory, on every call: the same
    `Bounds` each time, for as long as they hold."""

    def limits_of(self, project: str) -> Bounds:
        """What holds for calls about a project."""

    def limits_of_tenant(self, tenant: str) -> Bounds:
        """What holds for calls that name no project; "" where the caller has no tenant."""


class NoLimits:
    """Everybody is of one tenant, which may use whatever there is."""

    def __init__(self, tenant: str = "default") -> None:
        self._bounds = Bounds(tenant)

    def limits_of(self, project: str) -> Bounds:
        """See `LimitsOf`."""
        return self._bounds

    def limits_of_tenant(self, tenant: str) -> Bounds:
        """See `LimitsOf`."""
        return self._bounds
