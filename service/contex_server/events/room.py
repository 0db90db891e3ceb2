"""The room of events, put together."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from contex_server.events.descriptions import Descriptions
from contex_server.events.expirer import Expirer
from contex_server.events.hub import Hub
from contex_server.events.presence import Presence
from contex_server.events.publisher import Publisher
from contex_server.kernel.config import Settings
from contex_server.kernel.growth import Growth
from contex_server.matching.embeddings import Embeddings
from contex_server.tiers.storage import Storage


@dataclass(frozen=True, slots=True)
class EventsRoom:
    """Publishes events, follows those that others publish, and lets facts expire."""

    publisher: Publisher
    hub: Hub
    presence: Presence


def open_events(
    settings: Settings,
    storage: Storage,
    embeddings: Embeddings,
    growth: Growth,
    stack: AsyncExitStack,
) -> EventsRoom:
    """Builds the room; the stack closes it."""
    hub = Hub(
        storage.log,
        feed_bytes=settings.feed_bytes,
        confirmed=settings.feed_after == "replicated",
        changed=growth.deleted,
    )
    stack.push_async_callback(hub.close)
    growth.listen_deleted(hub.deleted)
    presence = Presence(storage.store.presence)
    stack.push_async_callback(presence.close)
    descriptions = Descriptions(storage.log, storage.store.descriptions)
    publisher = Publisher(
        storage.log, descriptions, embeddings, storage.sealer, storage.encryption, growth
    )
    expirer = Expirer(storage.store.expiry, storage.store.tasks, growth)
    stack.push_async_callback(expirer.close)
    expirer.start()
    return EventsRoom(publisher, hub, presence)
