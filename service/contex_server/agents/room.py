"""The room of agents, put together."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass

from contex_server.agents.contacts import StreamContacts
from contex_server.agents.context import AgentContextReader
from contex_server.agents.delivery_recorder import DeliveryRecorder
from contex_server.agents.expiry import AgentExpiry
from contex_server.agents.journal_reader import JournalReader
from contex_server.agents.needs import NeedReader
from contex_server.agents.registry import AgentRegistry
from contex_server.agents.rights import AgentRights, AgentScopes
from contex_server.agents.staleness import StalenessReader
from contex_server.agents.waiting import AgentWaiters
from contex_server.events.expirer import Expirer
from contex_server.inbox.progress import ProgressReader
from contex_server.inbox.room import InboxRoom
from contex_server.kernel.config import Settings
from contex_server.kernel.growth import Growth
from contex_server.match.room import MatchRoom
from contex_server.matching.embeddings import Embeddings
from contex_server.state.reader import StateReader
from contex_server.tiers.storage import Storage


@dataclass(frozen=True, slots=True)
class AgentsRoom:
    """Registers agents, and knows what each was sent."""

    registry: AgentRegistry
    stream_contacts: StreamContacts
    expiry: AgentExpiry
    waiters: AgentWaiters
    recorder: DeliveryRecorder
    journals: JournalReader
    contexts: AgentContextReader
    needs: NeedReader
    rights: AgentRights


def open_agents(
    settings: Settings,
    storage: Storage,
    embeddings: Embeddings,
    states: StateReader,
    match: MatchRoom,
    inbox: InboxRoom,
    growth: Growth,
    scopes: AgentScopes,
    stack: AsyncExitStack,
) -> AgentsRoom:
    """Builds the room; the stack closes it."""
    log, store = storage.log, storage.store
    recorder = DeliveryRecorder(store.journals, enabled=settings.delivery_records)
    stack.push_async_callback(recorder.close)
    journals = JournalReader(store.agents, store.journals, inbox.reader)
    progress = ProgressReader(store.inboxes)
    waiters = AgentWaiters(store.agents, progress)
    inbox.hub.listen(waiters.heard)
    stack.push_async_callback(waiters.close)
    registry = AgentRegistry(
        log,
        store.agents,
        embeddings,
        match.queries,
        recorder,
        inbox.deciders,
        progress,
        waiters,
        default_threshold=settings.match_threshold,
    )
    contexts = AgentContextReader(
        log,
        states,
        journals,
        StalenessReader(log, journals, match.pool.engine),
        match.queries,
        match.pool.engine,
        answer_bytes=settings.limits.answer_bytes,
    )
    needs = NeedReader(store.agents, journals)
    contacts = StreamContacts(store.agents)
    stack.push_async_callback(contacts.close)
    expiry = AgentExpiry(store.agents)
    expirer = Expirer(
        expiry, store.tasks, growth, task="expire-agents", interrupted=expiry.interrupted
    )
    stack.push_async_callback(expirer.close)
    expirer.start()
    rights = AgentRights(registry, inbox.deciders, scopes)
    if settings.access:
        keeping = asyncio.create_task(rights.run(), name="contex-agent-rights")
        stack.callback(keeping.cancel)
    return AgentsRoom(
        registry, contacts, expiry, waiters, recorder, journals, contexts, needs, rights
    )
