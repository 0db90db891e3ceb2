"""The blocking client: a thin facade.

Requests, answers, errors, retries and the state of streams are the modules that `client.py` uses
too. What is here is only how a blocking call is made. `AsyncClient` documents the methods.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import grpc
from grpc_health.v1 import health_pb2

from . import requests, responses
from .blocking import StreamCall
from .channel import HEALTH_CHECK, channel_options
from .errors import from_rpc_error
from .publish_window import PublishWindow
from .resume import ResumableStream, StreamMessage, event_stream, match_stream
from .retry import Retry
from .sync_publish_stream import SyncPublishStream
from .sync_subscription import SyncSubscription
from .v1 import (
    agent_service_pb2,
    agent_service_pb2_grpc,
    event_service_pb2,
    event_service_pb2_grpc,
)
from .values import Agent, Durability, Event, MatchedEvent, NewEvent, Receipt, Registration

Request = TypeVar("Request")
Response = TypeVar("Response")
T = TypeVar("T")


class Client:
    """`AsyncClient` for code without asyncio: same methods, plain iterators and context managers.

    Calls may be made from several threads; a stream belongs to one.

    Args:
        target: gRPC target of the server.
        publisher: Who publishes, as it is noted in each event.
        timeout: Seconds for a call with all its attempts. Streams have no such limit.
        channel: A channel of your own; it is left open by `close`.
    """

    def __init__(
        self,
        target: str = "127.0.0.1:50051",
        *,
        publisher: str = "",
        timeout: float = 10.0,
        channel: grpc.Channel | None = None,
    ) -> None:
        self._publisher = publisher
        self._timeout = timeout
        self._owns_channel = channel is None
        if channel is None:
            channel = grpc.insecure_channel(target, options=channel_options(timeout))
        self._channel = channel
        self._events = event_service_pb2_grpc.EventServiceStub(channel)
        self._agents = agent_service_pb2_grpc.AgentServiceStub(channel)
        self._streams: weakref.WeakSet[SyncSubscription[Any] | SyncPublishStream] = (
            weakref.WeakSet()
        )
        self._closed = False

    def close(self) -> None:
        """Ends all streams of this client and closes its channel."""
        self._closed = True
        for stream in list(self._streams):
            stream.close()
        if self._owns_channel:
            self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

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
            lambda request_iterator: self._events.PublishStream(request_iterator),
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
        since: str | datetime | None = None,
        until: str | datetime | None = None,
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
        since: str | datetime | None = None,
        until: str | datetime | None = None,
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
        needs: Iterable[str],
        *,
        last_seen_sequence: str | None = None,
        threshold: float | None = None,
        max_matches: int | None = None,
    ) -> Registration:
        """Registers an agent, or replaces its registration, and returns what matches now."""
        request = requests.register_agent(
            project,
            agent_id,
            needs,
            last_seen_sequence=last_seen_sequence,
            threshold=threshold,
            max_matches=max_matches,
        )
        return responses.registered(self._repeated(self._agents.RegisterAgent, request))

    def update_agent(
        self,
        project: str,
        agent_id: str,
        *,
        needs: Iterable[str] | None = None,
        threshold: float | None = None,
        max_matches: int | None = None,
    ) -> Registration:
        """Changes what is not `None` and returns what matches now."""
        request = requests.update_agent(
            project, agent_id, needs=needs, threshold=threshold, max_matches=max_matches
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
        reconnect: bool = True,
    ) -> SyncSubscription[MatchedEvent]:
        """Streams everything that matches the agent's needs, without end."""
        request = requests.listen(
            project,
            agent_id,
            cursor=cursor,
            after_sequence=after_sequence,
            heartbeat_interval_ms=heartbeat_interval_ms,
        )
        return self._subscription(self._agents.Listen, match_stream(request, reconnect))

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

    # How calls are made

    def _once(
        self, method: grpc.UnaryUnaryMultiCallable[Request, Response], request: Request
    ) -> Response:
        self._check_open()
        try:
            return method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def _repeated(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        retry: Retry | None = None,
    ) -> Response:
        self._check_open()
        retry = retry or Retry(self._timeout)
        while True:
            try:
                return method(request, timeout=retry.attempt_timeout())
            except grpc.RpcError as error:
                delay = retry.delay_after(from_rpc_error(error))
            time.sleep(delay)

    def _list_events(self, request: event_service_pb2.ListEventsRequest) -> Iterator[Event]:
        while True:
            page = self._once(self._events.ListEvents, request)
            for event in page.events:
                yield responses.event(event)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def _list_agents(self, request: agent_service_pb2.ListAgentsRequest) -> Iterator[Agent]:
        while True:
            page = self._once(self._agents.ListAgents, request)
            for agent in page.agents:
                yield responses.agent(agent)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def _subscription(
        self, method: Callable[[Any], object], stream: ResumableStream[T]
    ) -> SyncSubscription[T]:
        self._check_open()
        subscription = SyncSubscription(
            lambda request: cast(StreamCall[StreamMessage], method(request)), stream
        )
        self._streams.add(subscription)
        return subscription

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the client is closed")
