"""The limits of tenants, as their records say."""

from __future__ import annotations

from contex_server.access.directory import Directory
from contex_server.access.policy import Policy
from contex_server.access.records import Tenant
from contex_server.quota.limits import Bounds, Limits, LimitsOf


class DirectoryLimits(LimitsOf):
    """The limits in the directory, as of its last look at the store."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._policy: Policy | None = None
        self._bounds: dict[str, Bounds] = {}

    def limits_of(self, project: str) -> Bounds:
        """See `LimitsOf`."""
        return self._bounds_of(self._directory.policy.tenant_of(project))

    def limits_of_tenant(self, tenant: str) -> Bounds:
        """See `LimitsOf`."""
        return self._bounds_of(self._directory.policy.tenants.get(tenant) or Tenant(tenant))

    def _bounds_of(self, tenant: Tenant) -> Bounds:
        if self._policy is not self._directory.policy:
            self._policy = self._directory.policy
            self._bounds.clear()
        bounds = self._bounds.get(tenant.name)
        if bounds is None:
            own, of_each = Limits(**tenant.limits), Limits(**tenant.project_limits)
            bounds = self._bounds[tenant.name] = Bounds(tenant.name, own, of_each)
        return bounds
