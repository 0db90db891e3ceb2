"""The room of inboxes, put together."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from contex_server.events.hub import Hub
from contex_server.inbox.decider import ProjectDecider
from contex_server.inbox.deciders import Deciders
from contex_server.inbox.hub import InboxHub
from contex_server.inbox.reader import InboxReader
from contex_server.kernel.config import Settings
from contex_server.kernel.growth import Growth
from contex_server.log.inboxes import Shard
from contex_server.match.room import MatchRoom
from contex_server.tiers.storage import Storage


@dataclass(frozen=True, slots=True)
class InboxRoom:
    """Decides what agents get, and hands it to those that listen."""

    reader: InboxReader
    hub: InboxHub
    deciders: Deciders


def open_inbox(
    settings: Settings,
    storage: Storage,
    hub: Hub,
    match: MatchRoom,
    growth: Growth,
    stack: AsyncExitStack,
) -> InboxRoom:
    """Builds the room; the stack closes it."""
    store, engine = storage.store, match.pool.engine
    reader = InboxReader(storage.log, store.inboxes, store.agents, store.journals, engine)
    inboxes = InboxHub(reader, hub, feed_bytes=settings.feed_bytes)
    store.events.hear(inboxes.heard)
    stack.push_async_callback(inboxes.close)

    def start(project: str, shards: dict[int, Shard], owner: str) -> ProjectDecider:
        return ProjectDecider(
            project,
            shards,
            owner=owner,
            engine=engine,
            pool=match.pool,
            hub=hub,
            inboxes=inboxes,
            reader=reader,
            settings=settings,
            on_model_in_use=match.reembedding.start_if_outdated,
        )

    deciders = Deciders(store.inboxes, start)
    growth.listen_deleted(lambda project, _: deciders.deleted(project))
    stack.push_async_callback(deciders.close)
    deciders.start()
    return InboxRoom(reader, inboxes, deciders)
