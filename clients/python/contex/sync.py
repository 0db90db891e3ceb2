"""The blocking client: a thin facade.

Requests, answers, errors, retries and the state of streams are the modules that `client.py` uses
too. What is here is only how a blocking call is made. `AsyncClient` documents the methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime

from grpc_health.v1 import health_pb2

from . import requests, responses
from .channel import HEALTH_CHECK
from .moments import At
from .publish_window import PublishWindow
from .resume import event_stream, match_stream
from .retry import Retry
from .sync_publish_stream import SyncPublishStream
from .sync_subscription import SyncSubscription
from .sync_transfers import Transfers
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


class Client(Transfers):
    """`AsyncClient` for code without asyncio: same methods, plain iterators and context managers.

    Calls may be made from several threads; a stream belongs to one.

    Args:
        target: gRPC target of the server.
        publisher: Who this is: noted in each event that is published, and in the audit.
        timeout: Seconds for a call with all its attempts. Streams have no such limit.
        channel: A channel of your own; it is left open by `close`.
    """

    # Publishing

    def publish(
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
        """Publishes one event."""
        event = NewEvent(
            data_key=data_key,
            payload=payload,
            description=description,
            event_type=event_type,
            content_type=content_type,
            metadata=metadata or {},
            expected_revision=expected_revision,
        )
        batch = self.publish_batch(project, [event], durability=durability, request_id=request_id)
        return batch[0]

    def delete(
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
        batch = self.publish_batch(project, [event], durability=durability, request_id=request_id)
        return batch[0]

    def publish_batch(
        self,
        project: str,
        events: Sequence[NewEvent],
        *,
        durability: Durability | None = None,
        request_id: str | None = None,
    ) -> list[Receipt]:
        """Publishes up to 1,000 events together: all of them or none."""
        request = requests.publish(
            project,
            events,
            publisher=self._publisher,
            durability=durability,
            request_id=request_id,
        )
        retry = Retry(self._timeout, idempotent=bool(request.request_id))
        return list(responses.receipts(self._repeated(self._events.Publish, request, retry)))

    def publish_stream(
        self,
        project: str,
        batches: Iterable[Sequence[NewEvent]],
        *,
        durability: Durability | None = None,
        window: int = 16,
    ) -> SyncPublishStream:
        """Publishes batch after batch over one stream, with many in flight."""
        self._check_open()
        stream = SyncPublishStream(
            lambda request_iterator: self._events.PublishStream(
                request_iterator, metadata=self._metadata
            ),
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

    def get_event(self, project: str, sequence: str) -> Event:
        """Returns one event."""
        request = event_service_pb2.GetEventRequest(project=project, sequence=sequence)
        return responses.event((self._once(self._events.GetEvent, request)).event)

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
    ) -> Iterator[Event]:
        """Iterates over a range of events, fetching page after page."""
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
    ) -> SyncSubscription[Event]:
        """Streams a range of events as fast as they are taken, then ends."""
        request = requests.replay(
            project,
            since=since,
            until=until,
            event_types=event_types,
            data_keys=data_keys,
            publishers=publishers,
            backwards=backwards,
        )
        return self._subscription(self._events.Replay, event_stream(request, reconnect, ends=True))

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
    ) -> SyncSubscription[Event]:
        """Streams everything from the start position on, without end."""
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
        return self._subscription(self._events.Subscribe, event_stream(request, reconnect))

    # Agents

    def register_agent(
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
        """Registers an agent, or replaces its registration, and returns what matches now."""
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
        return responses.registered(self._repeated(self._agents.RegisterAgent, request))

    def update_agent(
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
        """Changes what is not `None` and returns what matches now."""
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
        return responses.updated(self._repeated(self._agents.UpdateAgent, request))

    def get_agent(self, project: str, agent_id: str) -> Agent:
        """Returns a registration."""
        request = agent_service_pb2.GetAgentRequest(project=project, agent_id=agent_id)
        return responses.agent((self._once(self._agents.GetAgent, request)).agent)

    def list_agents(self, project: str, *, page_size: int = 100) -> Iterator[Agent]:
        """Iterates over a project's registrations by id, fetching page after page."""
        return self._list_agents(
            agent_service_pb2.ListAgentsRequest(project=project, page_size=page_size)
        )

    def unregister_agent(self, project: str, agent_id: str) -> str:
        """Removes a registration and its cursor."""
        request = agent_service_pb2.UnregisterAgentRequest(project=project, agent_id=agent_id)
        return (self._once(self._agents.UnregisterAgent, request)).sequence

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
    ) -> SyncSubscription[MatchedEvent]:
        """Streams everything that matches the agent's needs, without end."""
        request = requests.listen(
            project,
            agent_id,
            cursor=cursor,
            after_sequence=after_sequence,
            heartbeat_interval_ms=heartbeat_interval_ms,
            context_format=context_format,
        )
        stream = match_stream(request, reconnect, on_needs_changed=on_needs_changed)
        return self._subscription(self._agents.Listen, stream)

    def acknowledge(
        self,
        project: str,
        agent_id: str,
        position: str | Event | MatchedEvent | None = None,
        *,
        cursor: str | None = None,
    ) -> str:
        """Moves the agent's durable cursor forward; never back."""
        request = requests.acknowledge(project, agent_id, position, cursor=cursor)
        response = self._repeated(self._agents.Acknowledge, request)
        return response.acknowledged_sequence

    def health(self, service: str = "") -> str:
        """Asks for the health of the server or of one of its services."""
        check = self._channel.unary_unary(
            HEALTH_CHECK,
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        request = health_pb2.HealthCheckRequest(service=service)
        response = self._once(check, request)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)

    def _list_events(self, request: event_service_pb2.ListEventsRequest) -> Iterator[Event]:
        for page in self._pages(self._events.ListEvents, request):
            for event in page.events:
                yield responses.event(event)

    def _list_agents(self, request: agent_service_pb2.ListAgentsRequest) -> Iterator[Agent]:
        for page in self._pages(self._agents.ListAgents, request):
            for agent in page.agents:
                yield responses.agent(agent)
