"""Keeps what agents may read in step with the rights of their identities.

What an agent gets is a function of the log, so its rights are in the log, too: a change is written
there as a registration, by the process that decides for the agent. Until then nothing is sent that
its caller may not see any more, for that is looked at when it is sent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Protocol
from weakref import WeakSet

from contex_server.agents.registry import AgentRegistry, Rights
from contex_server.agents.visibility import LeavesOut, Viewer
from contex_server.inbox.decider import ProjectDecider
from contex_server.inbox.deciders import Deciders
from contex_server.kernel import globs
from contex_server.kernel.errors import ContexError, Reason, invalid_field
from contex_server.kernel.failures import Failures
from contex_server.kernel.model import SERVICE, Agent, Origin
from contex_server.kernel.scope import NOTHING, Scope
from contex_server.kernel.slices import sliced

_PAGE = 500
_LOOK_S = 1.0
_RETRY_MS = 200
_AGAIN_S = 10.0
"""How often agents are looked at again: a server that had not heard of a change yet may have
registered one with the rights of before."""


class AgentScopes(Protocol):
    """What agents of identities may read."""

    @property
    def version(self) -> int:
        """Another one means that something may have changed."""

    def watch(self, watcher: Callable[[], None]) -> None:
        """Calls something after each change."""

    def listens_to(self, identity: str, groups: frozenset[str], project: str) -> Scope:
        """What an identity, with some groups, may listen to in a project."""


class AgentRights:
    """What agents may read."""

    def __init__(self, registry: AgentRegistry, deciders: Deciders, scopes: AgentScopes) -> None:
        self._registry = registry
        self._deciders = deciders
        self._scopes = scopes
        self._seen = -1
        self._checked: WeakSet[ProjectDecider] = WeakSet()
        self._failures = Failures("rights_not_written")
        self._changed = asyncio.Event()
        scopes.watch(self._changed.set)

    def of(self, identity: str, groups: frozenset[str], project: str) -> Rights:
        """The rights of an identity's agents."""
        return Rights(identity, groups, self._scopes.listens_to(identity, groups, project))

    def leaves_out(self, project: str, agent: Agent, viewer: Viewer) -> LeavesOut | None:
        """What to ask before a stream leaves out what its agent gets; None if that is nobody's.

        Where the log says that the agent may not read it, it is told so, and gets it again when it
        may. Until the log says that, or where this server has not heard yet of a right that the
        log has, what is left out would be lost to the agent: its stream has to wait.
        """
        if viewer.identity != agent.identity or not agent.identity:
            return None
        if self.of(agent.identity, agent.groups, project).scope != viewer.scope:
            return None  # By its groups it differs from its agent, which lasts.

        async def leaves_out(data_keys: Iterable[str]) -> None:
            try:
                current = (await self._registry.get(project, agent.agent_id)).agent
            except ContexError as error:
                if error.reason is Reason.AGENT_NOT_FOUND:
                    return
                raise
            if current.identity != agent.identity:
                return
            if any(current.scope.admits(data_key) for data_key in data_keys):
                raise ContexError(
                    Reason.ACCESS_CHANGED,
                    f"what {viewer.identity!r} may see of {project!r} is changing: go on from the "
                    "cursor",
                    retry_after_ms=_RETRY_MS,
                )

        return leaves_out

    async def assign(
        self, project: str, glob: str, identity: str, origin: Origin, *, reassign: bool
    ) -> int:
        """Gives agents to an identity; returns how many.

        Args:
            glob: Which, by their ids.
            reassign: Also those that are another identity's.

        Raises:
            ContexError: INVALID_FIELD if it may listen to nothing, so that its agents would be no
                use; AGENT_CONFLICT.
        """
        rights = self.of(identity, frozenset(), project)
        if rights.scope == NOTHING:
            raise invalid_field("identity", f"{identity!r} may listen to nothing in {project!r}")

        def given(agent: Agent) -> Rights | None:
            return rights if reassign or not agent.identity else None

        count, after = 0, ""
        while page := await self._registry.page(project, after, _PAGE, Viewer()):
            for registered in page:
                agent_id = registered.agent.agent_id
                if globs.match(frozenset({glob}), agent_id):
                    given_now = await self._registry.give_rights(project, agent_id, given, origin)
                    count += int(given_now)
            after = page[-1].agent.agent_id
        return count

    async def run(self) -> None:
        """Writes what changes into the logs."""
        again = 0.0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._changed.wait()
            self._changed.clear()
            version, now = self._scopes.version, time.monotonic()
            if version != self._seen or now > again:
                self._checked.clear()
                again = now + _AGAIN_S
            self._seen = version
            for decider in self._deciders.all():
                if decider not in self._checked:
                    try:
                        await self._check(decider)
                        self._failures.worked(decider.project)
                    except Exception as error:
                        self._failures.failed(decider.project, error)

    async def _check(self, decider: ProjectDecider) -> None:
        project = decider.project
        if not decider.has_begun:
            return
        async for agent in sliced(decider.registrations):
            if agent.identity and self._current(agent, project) is not None:
                await self._registry.give_rights(
                    project, agent.agent_id, lambda agent: self._current(agent, project), SERVICE
                )
        self._checked.add(decider)

    def _current(self, agent: Agent, project: str) -> Rights | None:
        """The rights that an agent ought to have; None if it has them."""
        if not agent.identity:
            return None
        rights = self.of(agent.identity, agent.groups, project)
        return None if rights.scope == agent.scope else rights
