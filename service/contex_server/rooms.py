"""All rooms of a server, built in the order in which they depend on each other."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from contex_server.access.room import AccessRoom, open_access
from contex_server.agents.room import AgentsRoom, open_agents
from contex_server.audit.room import AuditRoom, open_audit
from contex_server.events.room import EventsRoom, open_events
from contex_server.groups.room import GroupsRoom, open_groups
from contex_server.inbox.room import InboxRoom, open_inbox
from contex_server.kernel.config import Settings
from contex_server.kernel.growth import Growth
from contex_server.match.room import MatchRoom, open_match
from contex_server.matching.embedders.port import Embedder
from contex_server.matching.embeddings import Embeddings
from contex_server.matching.models import open_models
from contex_server.projects.room import ProjectsRoom, open_projects
from contex_server.quota.limits import LimitsOf
from contex_server.quota.room import QuotaRoom, open_quota
from contex_server.quota.tenants import DirectoryLimits
from contex_server.state.room import StateRoom, open_state
from contex_server.tiers.storage import Storage, open_storage
from contex_server.transfer.room import TransferRoom, open_transfer


@dataclass(frozen=True, slots=True)
class Rooms:
    """The rooms, by capability, and where the events are."""

    storage: Storage
    access: AccessRoom
    events: EventsRoom
    state: StateRoom
    match: MatchRoom
    inbox: InboxRoom
    agents: AgentsRoom
    groups: GroupsRoom
    audit: AuditRoom
    projects: ProjectsRoom
    quota: QuotaRoom
    transfer: TransferRoom


async def open_rooms(
    settings: Settings,
    store_url: str,
    stack: AsyncExitStack,
    embedder: Embedder | None,
    previous: tuple[Embedder, ...],
    limits: LimitsOf | None,
) -> Rooms:
    """Builds every room. The stack closes them, the last one first and the store at the end.

    Raises:
        StartupError: The store, the archive, a key or a model can't be used.
    """
    storage = await open_storage(settings, store_url, stack)
    access = await open_access(settings, storage.store.access, stack)
    models = await open_models(settings, stack, embedder, previous)
    timeout_s = settings.embed_timeout_ms / 1000
    embeddings = Embeddings(storage.log, storage.store.match, models, timeout_s=timeout_s)
    growth = Growth()
    events = open_events(settings, storage, embeddings, growth, stack)
    state = open_state(settings, storage, growth, stack)
    match = open_match(settings, storage, embeddings, events.hub, state.reader, stack)
    inbox = open_inbox(settings, storage, events.hub, match, growth, stack)
    agents = open_agents(
        settings,
        storage,
        embeddings,
        state.reader,
        match,
        inbox,
        growth,
        access.directory,
        stack,
    )
    groups = open_groups(settings, storage, events.hub, inbox, agents, stack)
    audit = open_audit(storage, agents.journals, stack)
    projects = await open_projects(
        settings, storage, embeddings, state.reader, inbox.reader, growth, stack
    )
    quota = open_quota(storage, limits or DirectoryLimits(access.directory), stack)
    transfer = open_transfer(
        storage, events.publisher, projects, growth, models, settings.limits, quota.keeper
    )
    return Rooms(
        storage,
        access,
        events,
        state,
        match,
        inbox,
        agents,
        groups,
        audit,
        projects,
        quota,
        transfer,
    )
