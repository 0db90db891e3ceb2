"""What a tenant or a project uses of each limit."""

from __future__ import annotations

from typing import NamedTuple

from contex_server.log.store import Store
from contex_server.quota.limits import NAMES, RATES, Bounds
from contex_server.quota.stored import STORED, StoredUse


class Used(NamedTuple):
    """One thing that is limited.

    Attributes:
        name: The field of `UsageLimits`.
        used: Of rates, the mean of the last minute.
        limit: 0: none.
        refused: Calls that were refused for it since it was first used.
    """

    name: str
    used: float
    limit: int
    refused: int


async def usage(store: Store, stored: StoredUse, bounds: Bounds, project: str = "") -> list[Used]:
    """What a project uses, or, with "", the tenant: one for each limit, in the order of the API.

    It is some seconds old.

    Raises:
        ContexError: STORE_UNAVAILABLE.
    """
    rates = await store.quota.used(bounds.tenant, project)
    refused = await store.quota.refused(bounds.tenant, project)
    streams = await store.quota.open_streams(bounds.tenant)
    counts = await stored.of(bounds, project)

    def used(name: str) -> float:
        if name in RATES:
            return rates.get(name, 0.0)
        return counts.get(name, 0) if name in STORED else streams.get(project, 0)

    return [Used(n, used(n), bounds.of(project, n), refused.get(n, 0)) for n in NAMES]
