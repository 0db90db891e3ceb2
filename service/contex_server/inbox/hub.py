"""The agents that listen here: each has a feed of what is decided for it, by this process or not.

A decider of this process hands over what it has written. What others decide is read from inboxes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Container, Iterable, Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import structlog

from contex_server.events.feed import Delivery, Feed
from contex_server.events.hub import Hub
from contex_server.inbox.reader import Fed, InboxReader
from contex_server.inbox.subscriber import Subscriber
from contex_server.kernel.errors import (
    ContexError,
    Reason,
    agent_not_found,
    log_changed,
    project_not_found,
)
from contex_server.kernel.failures import Failures
from contex_server.kernel.inbox_ids import decided_upto, event_of, inbox_id, last_place
from contex_server.kernel.model import BEGINNING, Sequence
from contex_server.log.inboxes import shard_of

log = structlog.get_logger(__name__)

_LOOK_S = 1.0
"""How often the inboxes are looked at that other processes fill, whatever was heard of them."""
_SOON_S = 0.05
"""The same of those with a stream that has not caught up."""
_LATE_S = 0.25
"""A stream whose message waits for longer may never send what comes after it."""
_RETRY_S = 0.2
_PAGE = 256
"""What a feed takes in one turn; who is further behind reads the inbox."""


@dataclass(slots=True, eq=False)
class Sender:
    """What is on record of a stream of an agent.

    Attributes:
        noted: The place up to which it is noted that it sends the inbox.
        unsure: Whether more may be noted: a store that went away has not said.
        live: Whether it has caught up, so that it sends what is decided right afterwards.
        sending_since: Since when a message waits for the network, by the loop's clock; None: none.
    """

    stream_id: str
    noted: Sequence = BEGINNING
    unsure: bool = False
    live: bool = False
    sending_since: float | None = None


@dataclass(slots=True, eq=False)
class Listening:
    """An agent that listens here.

    Attributes:
        registered_ms: Tells it from earlier agents of its id.
        feed: What is decided for it.
        number: The inbox that the feed is of, as `Subscriber.number` has it: nothing of one before
            is added any more. 0 if that is not known yet.
        upto: The feed has everything up to this place. Where all is decided that an event brings,
            it is the event's last place, while the feed's position, where readers stand, is that of
            the last delivery.
        fed: The place of the last delivery that the feed got.
        senders: Its streams.
        ready: Whether the feed stands where its inbox ends; until then it is closed.
        early: What was handed over before: the inbox that it is of, the deliveries, what they come
            after, up to where, and where a reader stands then.
    """

    agent_id: str
    registered_ms: int
    feed: Feed
    number: int = 0
    upto: Sequence = BEGINNING
    fed: Sequence = BEGINNING
    senders: set[Sender] = field(default_factory=set)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    early: list[tuple[int, SequenceOf[Delivery], Sequence, Sequence, Sequence]] = field(
        default_factory=list
    )


class InboxHub:
    """Opens a feed for each agent that listens here, and closes it with its last stream."""

    def __init__(self, reader: InboxReader, hub: Hub, *, feed_bytes: int) -> None:
        self._reader = reader
        self._hub = hub
        self._feed_bytes = feed_bytes
        self._projects: dict[str, dict[str, Listening]] = {}
        self._decided_here: dict[str, frozenset[int]] = {}
        self._due: dict[tuple[str, str], None] = {}
        """Agents whose inboxes are to be read."""
        self._catching_up: set[tuple[str, str]] = set()
        """Agents with streams that have not caught up, perhaps with another process."""
        self._wake = asyncio.Event()
        self._awaited: dict[tuple[str, str], asyncio.Event] = {}
        """Agents that streams wait to hear of."""
        self._listeners: list[Callable[[str, Container[str] | None], None]] = []
        self._fill_listeners: list[Callable[[str, Iterable[str]], None]] = []
        self._failures = Failures("inboxes_unread")
        self._task = asyncio.create_task(self._run(), name="contex-inboxes")

    async def close(self) -> None:
        """Stops reading."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def listen(self, listener: Callable[[str, Container[str] | None], None]) -> None:
        """Calls `listener` with a project and the agents for which something was decided, as far as
        this process hears of it; None are any."""
        self._listeners.append(listener)

    def listen_filled(self, listener: Callable[[str, Iterable[str]], None]) -> None:
        """Calls `listener` with a project and the agents whose inboxes have got something, as far
        as this process hears of it; none are many."""
        self._fill_listeners.append(listener)

    @property
    def feeds(self) -> list[Feed]:
        """All feeds that are open."""
        return [each.feed for agents in self._projects.values() for each in agents.values()]

    def is_listening(self, project: str, agent_id: str) -> bool:
        """Whether an agent listens here."""
        return agent_id in self._projects.get(project, ())

    def decides(self, project: str, shards: frozenset[int]) -> None:
        """Notes for which shards of a project this process decides from here on."""
        self._decided_here[project] = shards
        # What was decided before may not have been handed over; also that an agent is gone.
        self._due.update(dict.fromkeys((project, a) for a in self._projects.get(project, ())))
        self._wake.set()

    def decides_no_more(self, project: str, shards: frozenset[int]) -> None:
        """That it ends; `shards` is the same object, for another decider may have begun."""
        if self._decided_here.get(project) is shards:
            del self._decided_here[project]
        self._wake.set()

    @asynccontextmanager
    async def feed(
        self, project: str, agent_id: str, registered_ms: int, sender: Sender
    ) -> AsyncIterator[Feed]:
        """The feed of an agent, while the block lasts; `sender` is the stream that reads it."""
        listening = self._projects.get(project, {}).get(agent_id)
        if listening is not None and listening.registered_ms < registered_ms:
            # Its streams are those of an agent that is registered no more.
            self._fail(project, listening, agent_not_found(project, agent_id))
        agents = self._projects.setdefault(project, {})
        listening = agents.get(agent_id)
        if listening is None or listening.feed.error is not None:
            on_awaited = partial(self._begins_to_catch_up, project, agent_id)
            feed = Feed(BEGINNING, self._feed_bytes, on_awaited=on_awaited)
            listening = Listening(agent_id, registered_ms, feed)
            agents[agent_id] = listening
        listening.senders.add(sender)
        try:
            # Followed, so that is heard what is decided, and told if the log is another one.
            async with self._hub.channel(project) as channel:
                channel.depending.add(listening.feed)
                try:
                    await self._open(project, listening)
                    self._wake.set()  # From now on there is somebody to look for.
                    yield listening.feed
                finally:
                    if len(listening.senders) == 1:
                        channel.depending.discard(listening.feed)
        finally:
            listening.senders.discard(sender)
            if not listening.senders and agents.get(agent_id) is listening:
                del agents[agent_id]
                if not agents and self._projects.get(project) is agents:
                    del self._projects[project]

    async def _open(self, project: str, listening: Listening) -> None:
        """Lets a feed begin where the agent is decided up to; what is decided meanwhile follows it.

        What the inbox has beyond that is read with the next that is decided.
        """
        if listening.ready.is_set():
            return
        subscriber = await self._reader.subscriber(project, listening.agent_id)
        number, event = 0, BEGINNING
        if subscriber is not None and subscriber.agent.registered_ms == listening.registered_ms:
            number = subscriber.number
            event = (await self._reader.store.inbox_end(project, listening.agent_id)).position
        position = await self._reader.proven(project, inbox_id(event))
        if not listening.ready.is_set():
            listening.feed.begin(position)
            listening.number, listening.upto = number, last_place(event)
            listening.ready.set()
            for decided in listening.early:
                self._extend(project, listening, *decided)
            listening.early = []

    def decided(
        self,
        project: str,
        agents: Container[str],
        sizes: Mapping[str, int],
        deliveries: Mapping[str, SequenceOf[Delivery]],
        since: Sequence,
        upto: Sequence,
        began: Mapping[str, Sequence],
        members: Mapping[str, Subscriber],
    ) -> None:
        """Hands over what was decided for some agents between two places, and is written.

        Args:
            sizes: How many deliveries there are for each; those who have begun to listen meanwhile
                read theirs.
            began: Later places, of agents for which it was decided only since then.
            members: What decided for them. Who listens may be another agent of the id.
        """
        self._tell_waiting(project, agents)
        for listener in self._listeners:
            listener(project, agents)
        if sizes:
            for filled in self._fill_listeners:
                filled(project, sizes)
        position = _position(upto)
        for agent_id, listening in self._projects.get(project, {}).items():
            if agent_id in agents:
                subscriber, made = members[agent_id], deliveries.get(agent_id, ())
                registered_ms, number = subscriber.agent.registered_ms, subscriber.number
                begins = max(since, began.get(agent_id, since))
                decided = number, made, begins, upto, position
                if registered_ms < listening.registered_ms:
                    continue
                if registered_ms > listening.registered_ms or len(made) < sizes.get(agent_id, 0):
                    self.look(project, agent_id)
                elif listening.ready.is_set():
                    self._extend(project, listening, *decided)
                else:
                    listening.early.append(decided)

    def senders(self, project: str, subscriber: Subscriber) -> Iterator[Sender]:
        """The streams of an agent that send what is decided for it right afterwards."""
        agent = subscriber.agent
        listening = self._projects.get(project, {}).get(agent.agent_id)
        if listening is None or not listening.ready.is_set():
            return
        if listening.registered_ms != agent.registered_ms or listening.number != subscriber.number:
            return
        late = asyncio.get_running_loop().time() - _LATE_S
        for sender in listening.senders:
            # The others note by themselves what they send.
            keeps_up = sender.sending_since is None or sender.sending_since > late
            is_noted = sender.noted >= listening.fed and not sender.unsure
            if sender.live and keeps_up and is_noted:
                yield sender

    def _extend(
        self,
        project: str,
        listening: Listening,
        number: int,
        deliveries: SequenceOf[Delivery],
        since: Sequence,
        upto: Sequence,
        position: Sequence,
    ) -> None:
        if number < listening.number:
            # The inbox has begun anew since, unless the store has lost that.
            self.look(project, listening.agent_id)
            return
        listening.number = number
        if upto <= listening.upto:
            return
        if listening.upto < since:
            # Another process has decided in between.
            self.look(project, listening.agent_id)
            return
        self._add(listening, deliveries, upto, position)

    def _add(
        self,
        listening: Listening,
        deliveries: SequenceOf[Delivery],
        upto: Sequence,
        position: Sequence,
    ) -> None:
        feed = listening.feed
        new = deliveries
        if new and new[0].sequence <= listening.upto:
            new = [delivery for delivery in deliveries if delivery.sequence > listening.upto]
        listening.upto = upto
        if new:
            listening.fed = new[-1].sequence
            position = max(position, new[-1].position)
        feed.extend(new, max(position, feed.position), inbox_id(decided_upto(upto)))

    def fed(self, project: str, agent_id: str, feed: Feed) -> Fed:
        """What an agent's feed has.

        Raises:
            ContexError: The feed has ended, and what it holds may be of an inbox that began anew.
        """
        if feed.error is not None:
            raise feed.error
        listening = self._projects.get(project, {}).get(agent_id)
        return Fed() if listening is None else Fed(listening.number, listening.upto)

    def look(self, project: str, agent_id: str) -> None:
        """Has an agent's inbox read."""
        self._due[project, agent_id] = None
        self._wake.set()

    async def heard_of(self, project: str, agent_id: str, timeout_s: float) -> None:
        """Waits until something is decided for an agent, as far as this process hears of it, or
        the time is up."""
        event = self._awaited.setdefault((project, agent_id), asyncio.Event())
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await event.wait()
        finally:
            if self._awaited.get((project, agent_id)) is event:
                del self._awaited[project, agent_id]

    def _tell_waiting(self, project: str, agents: Container[str] | None) -> None:
        for (waited, agent_id), event in self._awaited.items():
            if waited == project and (agents is None or agent_id in agents):
                event.set()

    def gone(self, project: str, agent_id: str, registered_ms: int) -> None:
        """Ends the streams of an agent that is registered no more; another one may have its id."""
        listening = self._projects.get(project, {}).get(agent_id)
        if listening is not None and listening.registered_ms <= registered_ms:
            self._fail(project, listening, agent_not_found(project, agent_id))

    def fail(self, project: str, error: ContexError) -> None:
        """Ends the streams of a project's agents."""
        for listening in list(self._projects.get(project, {}).values()):
            self._fail(project, listening, error)

    def _fail(self, project: str, listening: Listening, error: ContexError) -> None:
        agents = self._projects.get(project, {})
        if agents.get(listening.agent_id) is listening:
            del agents[listening.agent_id]
        listening.feed.fail(error)

    def heard(self, project: str, agent_ids: SequenceOf[str]) -> None:
        """Something was decided for some agents, or for many."""
        self._tell_waiting(project, frozenset(agent_ids) or None)
        for listener in self._listeners:
            listener(project, frozenset(agent_ids) or None)
        for filled in self._fill_listeners:
            filled(project, agent_ids)
        decided_here = self._decided_here.get(project, frozenset())
        agents = self._projects.get(project, {})
        for agent_id in agent_ids or agents:
            if agent_id in agents and shard_of(agent_id) not in decided_here:
                self._due[project, agent_id] = None
        if self._due:
            self._wake.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        look = look_at_all = loop.time() + _LOOK_S
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(look if self._projects else None):
                    await self._wake.wait()
            self._wake.clear()
            now = loop.time()
            self._catching_up = {each for each in self._catching_up if self._catches_up(*each)}
            if now >= look_at_all:
                look_at_all = now + _LOOK_S
                self._due.update(dict.fromkeys(self._decided_elsewhere()))
            elif now >= look:
                self._due.update(dict.fromkeys(self._catching_up))
            look = min(look_at_all, now + _SOON_S) if self._catching_up else look_at_all
            due, self._due = self._due, {}
            for project, agent_id in due:
                listening = self._projects.get(project, {}).get(agent_id)
                if listening is None:
                    continue
                if not listening.ready.is_set():
                    self._due[project, agent_id] = None
                    continue
                try:
                    with self._failures.isolated(project):
                        await self._refresh(project, listening)
                except ContexError:
                    self._due[project, agent_id] = None
            if self._due:
                await asyncio.sleep(_RETRY_S)
                self._wake.set()

    def _begins_to_catch_up(self, project: str, agent_id: str) -> None:
        self._catching_up.add((project, agent_id))
        self._wake.set()

    def _catches_up(self, project: str, agent_id: str) -> bool:
        """Whether a stream waits for what another process decides for an agent."""
        listening = self._projects.get(project, {}).get(agent_id)
        elsewhere = shard_of(agent_id) not in self._decided_here.get(project, ())
        return listening is not None and bool(listening.feed.awaited) and elsewhere

    def _decided_elsewhere(self) -> list[tuple[str, str]]:
        return [
            (project, agent_id)
            for project, agents in self._projects.items()
            for agent_id in agents
            if shard_of(agent_id) not in self._decided_here.get(project, ())
        ]

    async def _refresh(self, project: str, listening: Listening) -> None:
        """Reads what others have decided for an agent."""
        agent_id, registered_ms = listening.agent_id, listening.registered_ms
        number = listening.number
        try:
            page = await self._reader.page(project, agent_id, registered_ms, listening.upto, _PAGE)
        except ContexError as error:
            if error.reason is not Reason.AGENT_NOT_FOUND:
                raise
            await self._end(project, listening)
            return
        if listening.number != number:
            # It began anew meanwhile, and what was read may be of the former one.
            self._due[project, agent_id] = None
            return
        listening.number = page.number or number
        if not page.last:
            end = await self._reader.store.inbox_end(project, agent_id)
            upto = max(end.last, last_place(end.position))
            if upto > listening.upto:
                listening.upto = listening.fed = upto
                decided = inbox_id(end.position)
                listening.feed.reset(max(end.last, decided), decided)
        elif page.upto > listening.upto:
            self._add(listening, page.deliveries, page.upto, page.position)
            if page.is_over:
                self._due[project, agent_id] = None  # There may be more, and then it ends.
        elif page.is_over and await self._reader.is_gone(project, agent_id, registered_ms):
            await self._end(project, listening)

    async def _end(self, project: str, listening: Listening) -> None:
        """Ends the streams of an agent that is there no more, perhaps with its project or log."""
        bounds, decided = await self._reader.log.bounds(project), event_of(listening.upto)
        error = agent_not_found(project, listening.agent_id)
        if bounds.deleted >= decided:
            error = project_not_found(project, bounds.deleted.ms)
        elif bounds.tail < decided:
            error = log_changed(project, decided, bounds.tail)
        self._fail(project, listening, error)


def _position(upto: Sequence) -> Sequence:
    """Where a reader stands once everything up to a place is decided."""
    event = event_of(upto)
    return inbox_id(event) if upto == last_place(event) else upto
