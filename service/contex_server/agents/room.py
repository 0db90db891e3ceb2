"""The room of agents, put together."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from contex_server.agents.context import AgentContextReader
from contex_server.agents.delivery_recorder import DeliveryRecorder
from contex_server.agents.journal_reader import JournalReader
from contex_server.agents.needs import NeedReader
from contex_server.agents.registry import AgentRegistry
from contex_server.agents.staleness import StalenessReader
from contex_server.inbox.room import InboxRoom
from contex_server.kernel.config import Settings
from contex_server.match.room import MatchRoom
from contex_server.matching.embeddings import Embeddings
from contex_server.state.reader import StateReader
from contex_server.tiers.storage import Storage


@dataclass(frozen=True, slots=True)
class AgentsRoom:
    """Registers agents, and knows what each was sent."""

    registry: AgentRegistry
    recorder: DeliveryRecorder
    journals: JournalReader
    contexts: AgentContextReader
    needs: NeedReader


def open_agents(
    settings: Settings,
    storage: Storage,
    embeddings: Embeddings,
    states: StateReader,
    match: MatchRoom,
    inbox: InboxRoom,
    stack: AsyncExitStack,
) -> AgentsRoom:
    """Builds the room; the stack closes it."""
    log, store = storage.log, storage.store
    recorder = DeliveryRecorder(store.journals, enabled=settings.delivery_records)
    stack.push_async_callback(recorder.close)
    journals = JournalReader(store.agents, store.journals, inbox.reader)
    registry = AgentRegistry(
        log,
        store.agents,
        embeddings,
        match.queries,
        recorder,
        inbox.deciders,
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
    return AgentsRoom(registry, recorder, journals, contexts, needs)
