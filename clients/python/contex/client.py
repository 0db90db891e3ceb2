"""The asyncio client. What is no I/O is shared with the sync client in `sync.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import datetime

from grpc_health.v1 import health_pb2

from . import requests, responses
from .channel import HEALTH_CHECK
from .moments import At
from .publish_stream import Batches, PublishStream
from .publish_window import PublishWindow
from .resume import event_stream, match_stream
from .retry import Retry
from .subscription import Subscription
from .transfers import AsyncTransfers
from .v1 import agent_service_pb2, event_service_pb2
from .values import (
    Agent,
    ContextFormat,
    Durability,
    Event,
    MatchedEvent,
    MinDelta,
    Need,
    NeedsChanged,
    NewEvent,
    Receipt,
    Registration,
)


class AsyncClient(AsyncTransfers):
    """A client of one Contex server, for asyncio.

    It opens one channel, at the first call, and keeps it. Use it in an `async with`, or
    `close` it. Calls raise the exceptions of `contex.errors`.

    Args:
        target: gRPC target of the server.
        publisher: Who this is: noted in each event that is published, and in the audit.
        timeout: Seconds for a call with all its attempts. Streams have no such limit.
        channel: A channel of your own, for example a TLS one; it is left open by `close`.
            `contex.channel_options` has the options it should have.
    """

    # Publishing

    async def publish(
        self,
        project: str,
        data_key: str,
        payload: object,
        *,
        description: str = "",
        event_type: str = "",
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        expected_revision: int | None = None,
        durability: Durability | None = None,
        request_id: str | None = None,
    ) -> Receipt:
        """Publishes one event.

        It is repeated with the same request_id until the server has answered or the client's
        timeout is over, so it is appended once even where an answer was lost.

        Args:
            project: The project.
            data_key: Name of the datum.
            payload: Bytes, text, or anything with a JSON form.
            description: What the datum is, in plain words; the best way to have it found.
            event_type: Empty for `data_published`; a type of your own otherwise.
            content_type: Media type; by default the one that goes with the payload's type.
            metadata: Free annotations.
            expected_revision: Refuse unless the key is at this revision; 0: never had an event.
            durability: What the receipt must mean; by default on disk.
            request_id: Idempotency key; by default a fresh one. Empty: not idempotent, and then
                not repeated where it is unknown whether the event was appended.

        Raises:
            RevisionConflict: The key is at another revision.
            InvalidArgument: The event is not acceptable.
            Unavailable: The server could not be reached in time.
            ValueError: The payload has no JSON form.
        """
        event = NewEvent(
            data_key=data_key,
            payload=payload,
            description=description,
            event_type=event_type,
            content_type=content_type,
            metadata=metadata or {},
            expected_revision=expected_revision,
        )
        batch = await self.publish_batch(
            project, [event], durability=durability, request_id=request_id
        )
        return batch[0]

    async def delete(
        self,
        project: str,
        data_key: str,
        *,
        expected_revision: int | None = None,
        durability: Durability | None = None,
        request_id: str | None = None,
    ) -> Receipt:
        """Deletes a datum. Its history stays. Arguments and errors as of `publish`."""
        event = NewEvent(data_key, tombstone=True, expected_revision=expected_revision)
        batch = await self.publish_batch(
            project, [event], durability=durability, request_id=request_id
        )
        return batch[0]

    async def publish_batch(
        self,
        project: str,
        events: Sequence[NewEvent],
        *,
        durability: Durability | None = None,
        request_id: str | None = None,
    ) -> list[Receipt]:
        """Publishes up to 1,000 events together: all of them or none.

        Arguments and errors as of `publish`.

        Returns:
            One receipt for each event, in order.
        """
        request = requests.publish(
            project,
            events,
            publisher=self._publisher,
            durability=durability,
            request_id=request_id,
        )
        retry = Retry(self._timeout, idempotent=bool(request.request_id))
        return list(responses.receipts(await self._repeated(self._events.Publish, request, retry)))

    def publish_stream(
        self,
        project: str,
        batches: Batches,
        *,
        durability: Durability | None = None,
        window: int = 16,
    ) -> PublishStream:
        """Publishes batch after batch over one stream, with many in flight.

        Args:
            project: The project.
            batches: Where the batches come from, each up to 1,000 events; also asynchronous.
            durability: What the receipts must mean; by default on disk.
            window: How many batches may be unanswered; the server reads 16 ahead.

        Returns:
            An async context manager that yields a `BatchResult` for each batch, in order.
        """
        self._check_open()
        stream = PublishStream(
            lambda: self._events.PublishStream(metadata=self._metadata),
            batches,
            lambda batch: requests.publish_batch(
                project, batch, publisher=self._publisher, durability=durability
            ),
            PublishWindow(window),
            self._timeout,
        )
        self._streams.add(stream)
        return stream

    # Reading

    async def get_event(self, project: str, sequence: str) -> Event:
        """Returns one event.

        Raises:
            NotFound: No event has this sequence.
        """
        request = event_service_pb2.GetEventRequest(project=project, sequence=sequence)
        return responses.event((await self._once(self._events.GetEvent, request)).event)

    def list_events(
        self,
        project: str,
        *,
        since: At | None = None,
        until: At | None = None,
        event_types: Iterable[str] = (),
        data_keys: Iterable[str] = (),
        publishers: Iterable[str] = (),
        backwards: bool = False,
        page_size: int = 100,
    ) -> AsyncIterator[Event]:
        """Iterates over a range of events, fetching page after page.

        Args:
            project: The project.
            since: Lower end: after this sequence, or from this time on. By default the beginning.
            until: Upper end: up to and including this sequence, or up to and including this
                time. By default the end.
            event_types: Only these types.
            data_keys: Only data keys that fit one of these globs.
            publishers: Only events of these publishers.
            backwards: Newest first.
            page_size: Events a call, 1 to 1,000.

        Raises:
            SequenceTrimmed: The lower end is older than what can still be read.
            ValueError: A time has no time zone.
        """
        request = requests.list_events(
            project,
            since=since,
            until=until,
            event_types=event_types,
            data_keys=data_keys,
            publishers=publishers,
            backwards=backwards,
            page_size=page_size,
        )
        return self._list_events(request)

    def replay(
        self,
        project: str,
        *,
        since: At | None = None,
        until: At | None = None,
        event_types: Iterable[str] = (),
        data_keys: Iterable[str] = (),
        publishers: Iterable[str] = (),
        backwards: bool = False,
        reconnect: bool = True,
    ) -> Subscription[Event]:
        """Streams a range of events as fast as they are taken, then ends.

        Arguments and errors as of `list_events`; `reconnect` as of `subscribe`.
        """
        request = requests.replay(
            project,
            since=since,
            until=until,
            event_types=event_types,
            data_keys=data_keys,
            publishers=publishers,
            backwards=backwards,
        )
        return self._subscription(
            lambda: self._events.Replay, event_stream(request, reconnect, ends=True)
        )

    def subscribe(
        self,
        project: str,
        *,
        start: requests.Start | None = None,
        after_sequence: str | None = None,
        from_time: datetime | None = None,
        cursor: str | None = None,
        event_types: Iterable[str] = (),
        data_keys: Iterable[str] = (),
        publishers: Iterable[str] = (),
        heartbeat_interval_ms: int = 0,
        reconnect: bool = True,
    ) -> Subscription[Event]:
        """Streams everything from the start position on, without end.

        At most one start position may be given; by default it is the beginning.

        Args:
            project: The project.
            start: `"beginning"` or `"end"`: only what is new. Where the connection breaks before
                the first message, the end is where it is by the time of the next connection.
            after_sequence: After this event; `"0"` is the beginning.
            from_time: At the first event of this instant or later.
            cursor: After the position of this cursor: how to resume.
            event_types: Only these types.
            data_keys: Only data keys that fit one of these globs.
            publishers: Only events of these publishers.
            heartbeat_interval_ms: After this long without an event the server sends a sign of
                life, 100 to 60,000 ms; 0 means 15,000. Three missing ones break the connection.
            reconnect: Whether to mend a broken connection; if not, its error is raised.

        Raises:
            SequenceTrimmed: While iterating: the position can't be read any more.
            ValueError: A time has no time zone, or there are several start positions.
        """
        request = requests.subscribe(
            project,
            start=start,
            after_sequence=after_sequence,
            from_time=from_time,
            cursor=cursor,
            event_types=event_types,
            data_keys=data_keys,
            publishers=publishers,
            heartbeat_interval_ms=heartbeat_interval_ms,
        )
        return self._subscription(lambda: self._events.Subscribe, event_stream(request, reconnect))

    # Agents

    async def register_agent(
        self,
        project: str,
        agent_id: str,
        needs: Iterable[str | Need],
        *,
        last_seen_sequence: str | None = None,
        threshold: float | None = None,
        max_matches: int | None = None,
        min_delta: MinDelta | None = None,
        max_context_tokens: int | None = None,
        context_format: ContextFormat | None = None,
    ) -> Registration:
        """Registers an agent, or replaces its registration, and returns what matches now.

        Args:
            project: The project.
            agent_id: The agent's id.
            needs: What it needs: one line of plain words each, or a `Need` with options.
            last_seen_sequence: Sets the durable cursor; `"0"`: everything. By default a new agent
                starts now and a known one keeps its cursor.
            threshold: Lowest score that matches; by default the server's.
            max_matches: How many data to return for each need; by default 10.
            min_delta: Which updates are pushed; by default all.
            max_context_tokens: Budget for the data when they are written out: whole data are kept,
                best first; the answer's context names what was left out.
            context_format: Writes the data out in the answer's context.
        """
        request = requests.register_agent(
            project,
            agent_id,
            needs,
            last_seen_sequence=last_seen_sequence,
            threshold=threshold,
            max_matches=max_matches,
            min_delta=min_delta,
            max_context_tokens=max_context_tokens,
            context_format=context_format,
        )
        return responses.registered(await self._repeated(self._agents.RegisterAgent, request))

    async def update_agent(
        self,
        project: str,
        agent_id: str,
        *,
        needs: Iterable[str | Need] | None = None,
        threshold: float | None = None,
        max_matches: int | None = None,
        min_delta: MinDelta | None = None,
        max_context_tokens: int | None = None,
        context_format: ContextFormat | None = None,
    ) -> Registration:
        """Changes what is not `None` and returns what matches now.

        Arguments as of `register_agent`; an empty `MinDelta()` pushes all updates again.

        Raises:
            NotFound: The agent is not registered.
        """
        request = requests.update_agent(
            project,
            agent_id,
            needs=needs,
            threshold=threshold,
            max_matches=max_matches,
            min_delta=min_delta,
            max_context_tokens=max_context_tokens,
            context_format=context_format,
        )
        return responses.updated(await self._repeated(self._agents.UpdateAgent, request))

    async def get_agent(self, project: str, agent_id: str) -> Agent:
        """Returns a registration.

        Raises:
            NotFound: The agent is not registered.
        """
        request = agent_service_pb2.GetAgentRequest(project=project, agent_id=agent_id)
        return responses.agent((await self._once(self._agents.GetAgent, request)).agent)

    def list_agents(self, project: str, *, page_size: int = 100) -> AsyncIterator[Agent]:
        """Iterates over a project's registrations by id, fetching page after page."""
        return self._list_agents(
            agent_service_pb2.ListAgentsRequest(project=project, page_size=page_size)
        )

    async def unregister_agent(self, project: str, agent_id: str) -> str:
        """Removes a registration and its cursor.

        It is not repeated by itself: a second attempt could not tell its own success.

        Returns:
            Sequence of the event that says so.

        Raises:
            NotFound: The agent is not registered.
        """
        request = agent_service_pb2.UnregisterAgentRequest(project=project, agent_id=agent_id)
        return (await self._once(self._agents.UnregisterAgent, request)).sequence

    def listen(
        self,
        project: str,
        agent_id: str,
        *,
        cursor: str | None = None,
        after_sequence: str | None = None,
        heartbeat_interval_ms: int = 0,
        context_format: ContextFormat | None = None,
        on_needs_changed: Callable[[NeedsChanged], object] | None = None,
        reconnect: bool = True,
    ) -> Subscription[MatchedEvent]:
        """Streams everything that matches the agent's needs, without end.

        When the needs are changed meanwhile, what matches now and did not before comes next, with
        `backfilled` set; then the stream goes on.

        Args:
            project: The project.
            agent_id: The agent's id.
            cursor: Where to start; by default the durable cursor, which `acknowledge` moves.
            after_sequence: Start after this event instead.
            heartbeat_interval_ms: As of `subscribe`.
            context_format: Writes each event out in its `context`, for an agent's prompt.
            on_needs_changed: Called with the changed registration, before the data that it brings
                are iterated over.
            reconnect: As of `subscribe`.

        Raises:
            NotFound: While iterating: the agent is not registered, or not any more.
        """
        request = requests.listen(
            project,
            agent_id,
            cursor=cursor,
            after_sequence=after_sequence,
            heartbeat_interval_ms=heartbeat_interval_ms,
            context_format=context_format,
        )
        stream = match_stream(request, reconnect, on_needs_changed=on_needs_changed)
        return self._subscription(lambda: self._agents.Listen, stream)

    async def acknowledge(
        self,
        project: str,
        agent_id: str,
        position: str | Event | MatchedEvent | None = None,
        *,
        cursor: str | None = None,
    ) -> str:
        """Moves the agent's durable cursor forward; never back.

        Args:
            project: The project.
            agent_id: The agent's id.
            position: The event up to which the agent has dealt with everything, or its sequence.
            cursor: A stream's cursor, instead.

        Returns:
            Sequence at which the durable cursor stands now.
        """
        request = requests.acknowledge(project, agent_id, position, cursor=cursor)
        response = await self._repeated(self._agents.Acknowledge, request)
        return response.acknowledged_sequence

    async def health(self, service: str = "") -> str:
        """Asks for the health of the server or of one of its services.

        Returns:
            `"SERVING"` or `"NOT_SERVING"`.

        Raises:
            Unavailable: The server can't be reached.
            NotFound: There is no such service.
        """
        check = self._open_channel().unary_unary(
            HEALTH_CHECK,
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        request = health_pb2.HealthCheckRequest(service=service)
        response = await self._once(check, request)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)

    async def _list_events(
        self, request: event_service_pb2.ListEventsRequest
    ) -> AsyncIterator[Event]:
        async for page in self._pages(self._events.ListEvents, request):
            for event in page.events:
                yield responses.event(event)

    async def _list_agents(
        self, request: agent_service_pb2.ListAgentsRequest
    ) -> AsyncIterator[Agent]:
        async for page in self._pages(self._agents.ListAgents, request):
            for agent in page.agents:
                yield responses.agent(agent)
