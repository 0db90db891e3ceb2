"""The link that keeps calls within the limits of their tenants.

What a call counts as is in the option `access` of its method, see protos/contex/v1/access.proto:

    calls     every call, when it comes; of a PublishStream, each batch, as the Publish it could be
    events    of Publish, before anything is appended: all of them or none
    streams   from when they are open until they end
    stored    what a publish, a registration or an import adds
    work      metered calls, by what they look at: those that owe are refused, or, if they answer
              with a stream, wait between pages; see kernel/work.py

Calls with a stream of requests pass when their first request is here: before that nobody knows the
project.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any

from contex_server.access.rules import CallClass, Reach, Rule
from contex_server.edge.incoming import Incoming, Rest
from contex_server.kernel.names import PROJECT
from contex_server.quota.keeper import (
    ADMIN,
    BYTES,
    EVENTS,
    PLACES,
    READS,
    WORK,
    WRITES,
    QuotaKeeper,
)
from contex_server.quota.limits import Bounds

TenantOf = Callable[[Incoming], str]
"""The tenant of who calls, for calls that name no project; "" if they have none."""

_CALLS = {
    CallClass.WRITE: WRITES,
    CallClass.READ: READS,
    CallClass.ADMIN: ADMIN,
}
_AT = tuple(PLACES[_CALLS[one]] if one in _CALLS else 0 for one in CallClass)
_EVENTS, _BYTES = PLACES[EVENTS], PLACES[BYTES]


class QuotaLink:
    """See the module.

    Args:
        tenant_of: See `TenantOf`.
    """

    def __init__(self, keeper: QuotaKeeper, tenant_of: TenantOf = lambda _call: "") -> None:
        self._keeper = keeper
        self._tenant_of = tenant_of

    async def __call__(self, call: Incoming, rest: Rest) -> Any:
        """Link: refuses what exceeds a limit with QUOTA_EXCEEDED."""
        if call.duplex:
            call.admit_publish = self._keeper.publish_batch
            async with (
                AsyncExitStack() as stack,
                aclosing(self._requests(call, call.request, stack)) as requests,
            ):
                call.request = requests
                return await rest(call)
        keeper, rule = self._keeper, call.rule
        uses = keeper.by_project.get(call.project)
        if uses is not None and rule is not None and not (rule.metered or call.streams):
            # Most calls where nothing is limited: a microsecond.
            at = _AT[rule.call_class]
            if at and keeper.limits.limits_of(call.project).is_open:
                uses[at] += 1
                if call.method == "Publish":
                    uses[_EVENTS] += len(call.request.events)
                    uses[_BYTES] += call.size
                return await rest(call)
        bounds, project = self._bounds(call)
        await self._pass(call, bounds, project)
        if not call.streams:
            return await self._measured(call, rest, bounds, project)
        async with keeper.stream(bounds, project):
            return await self._measured(call, rest, bounds, project)

    async def _requests(
        self, call: Incoming, requests: AsyncIterator[Any], stack: AsyncExitStack
    ) -> AsyncGenerator[Any, None]:
        """The requests of a stream, which passes with the first."""
        passed = False
        async for request in requests:
            if not passed:
                bounds, project = self._bounds(call)
                await self._pass(call, bounds, project)
                await stack.enter_async_context(self._keeper.stream(bounds, project))
                passed = True
            yield request

    def _bounds(self, call: Incoming) -> tuple[Bounds, str]:
        """What holds for a call, and the project that it counts for."""
        project = call.project
        # Those of the deployment may name a project of somebody else.
        if _rule(call).reach is not Reach.DEPLOYMENT and PROJECT.fits(project):
            return self._keeper.limits.limits_of(project), project
        return self._keeper.limits.limits_of_tenant(self._tenant_of(call)), ""

    async def _pass(self, call: Incoming, bounds: Bounds, project: str) -> None:
        """Counts a call, and what it is about to store."""
        keeper, request = self._keeper, call.request
        if call.method == "Publish":
            await keeper.publish(bounds, project, len(request.events), call.size)
            return
        rule, costs = _rule(call), {}
        if call.method != "PublishStream" and rule.call_class in _CALLS:
            costs[_CALLS[rule.call_class]] = 1
        if rule.metered and not call.streams:
            costs[WORK] = 1
        if costs:
            await keeper.take(bounds, project, costs)
        if bounds.is_open:
            return
        if call.method == "RegisterAgent":
            needs = len(request.needs)
            await keeper.register(bounds, project, request.agent_id, needs, new=True)
        elif call.method == "UpdateAgent" and request.needs:
            needs = len(request.needs)
            await keeper.register(bounds, project, request.agent_id, needs, new=False)

    async def _measured(self, call: Incoming, rest: Rest, bounds: Bounds, project: str) -> Any:
        """The rest, charged with what it looks at, if the method is metered."""
        if not _rule(call).metered:
            return await rest(call)
        with self._keeper.metered(bounds, project, throttled=call.streams):
            return await rest(call)


def _rule(call: Incoming) -> Rule:
    return call.rule or _NOTHING


_NOTHING = Rule(frozenset(), Reach.ANYTHING, CallClass.NONE, metered=False)
