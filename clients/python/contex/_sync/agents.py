# Generated from _async/agents.py by `make generate`.
"""Methods of `contex.v1.AgentService`: registrations, and what agents are sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from contex.backoff import Retry
from contex.errors import not_passed
from contex.lazy import agent_service_pb2, agent_service_pb2_grpc, event_pb2, events, wire
from contex.lazy import agents as values
from contex.resume import ResumableStream

from .calls import Calls
from .subscription import SyncSubscription

if TYPE_CHECKING:
    from contex.agents import (
        Agent,
        AgentContext,
        AgentProgress,
        Delivery,
        MinDelta,
        Needed,
        NeedsChanged,
        Registration,
        Resync,
        WaitUntil,
    )
    from contex.events import ContextFormat, Event, MatchedEvent, MatchKind
    from contex.wire import At


_LONGEST_WAIT_S = 30.0
"""Longest time that one call waits for an agent; proxies may end calls that take longer."""


class AgentService(Calls):
    """See `Client`."""

    @property
    def _agents(self) -> agent_service_pb2_grpc.AgentServiceStub:
        return self._connection.stub(agent_service_pb2_grpc.AgentServiceStub)

    def register_agent(
        self,
        project: str,
        agent_id: str,
        needs: Iterable[Needed],
        *,
        last_seen_sequence: str | None = None,
        threshold: float | None = None,
        max_matches: int | None = None,
        min_delta: MinDelta | None = None,
        muted_kinds: Iterable[MatchKind] | None = None,
        exclude_own: bool | None = None,
        ttl: float | timedelta | None = None,
        max_context_tokens: int | None = None,
        context_format: ContextFormat | None = None,
    ) -> Registration:
        """Registers an agent, or replaces its registration, and returns what matches now.

        The answer is a preview: `listen` brings all that matches, also what was there before.

        Args:
            needs: What it needs, each in one line of plain words, as an `EventFilter`, or a `Need`
                of either with options.
            last_seen_sequence: Sets the durable cursor; `"0"`: everything. By default a new agent
                starts now and a known one keeps its cursor.
            threshold: Lowest score that matches; by default the server's.
            max_matches: Maximum number of data to return for each need; by default 10.
            min_delta: Which updates are pushed; by default all.
            muted_kinds: Kinds of deliveries that it does without: UPDATED, LEFT, DELETED, EXPIRED.
            exclude_own: Don't deliver what the publisher that is named like the agent publishes.
            ttl: How long it may go without registering, acknowledging or an open stream, in seconds
                or as a `timedelta`: then it expires and is unregistered. 0: it never expires; by
                default a new agent does not, and a known one with the same needs keeps its time.
            max_context_tokens: Budget for the data as text. Whole data are kept, best first; the
                context of the answer lists those that were left out.
            context_format: Returns the data as text, too, in the context of the answer.
        """
        request = wire.message(
            agent_service_pb2.RegisterAgentRequest,
            project=project,
            agent_id=agent_id,
            needs=values.to_needs(needs),
            last_seen_sequence=last_seen_sequence,
            threshold=threshold,
            max_matches=max_matches or 0,
            min_delta=values.to_min_delta(min_delta),
            muted_kinds=values.to_muted_kinds(() if muted_kinds is None else muted_kinds),
            exclude_own=exclude_own or False,
            ttl=None if ttl is None else wire.duration(ttl, "ttl"),
            max_context_tokens=max_context_tokens,
            context_format=events.to_context_format(context_format),
        )
        response = self._repeated(self._agents.RegisterAgent, request)
        return values.registration(response)

    def update_agent(
        self,
        project: str,
        agent_id: str,
        *,
        needs: Iterable[Needed] | None = None,
        threshold: float | None = None,
        max_matches: int | None = None,
        min_delta: MinDelta | None = None,
        muted_kinds: Iterable[MatchKind] | None = None,
        exclude_own: bool | None = None,
        ttl: float | timedelta | None = None,
        max_context_tokens: int | None = None,
        context_format: ContextFormat | None = None,
    ) -> Registration:
        """Changes what is not None and returns what matches now.

        Arguments as in `register_agent`; an empty `MinDelta()` pushes all updates again, empty
        `muted_kinds` deliver all kinds again, and with a `ttl` of 0 the agent never expires.

        Raises:
            NotFound: The agent is not registered.
        """
        request = wire.message(
            agent_service_pb2.UpdateAgentRequest,
            project=project,
            agent_id=agent_id,
            needs=values.to_needs(needs or ()),
            threshold=threshold,
            max_matches=max_matches,
            min_delta=values.to_min_delta(min_delta),
            muted_kinds=None
            if muted_kinds is None
            else agent_service_pb2.MutedKinds(kinds=values.to_muted_kinds(muted_kinds)),
            exclude_own=exclude_own,
            ttl=None if ttl is None else wire.duration(ttl, "ttl"),
            max_context_tokens=max_context_tokens,
            context_format=events.to_context_format(context_format),
        )
        response = self._repeated(self._agents.UpdateAgent, request)
        return values.updated(response)

    def get_agent(self, project: str, agent_id: str) -> Agent:
        """Returns a registration, and in its `progress` how far the agent is.

        Raises:
            NotFound: The agent is not registered.
        """
        request = wire.message(
            agent_service_pb2.GetAgentRequest, project=project, agent_id=agent_id
        )
        response = self._once(self._agents.GetAgent, request)
        return values.agent(response.agent)

    def list_agents(self, project: str, *, page_size: int = 100) -> Iterator[Agent]:
        """Iterates over a project's registrations by id, fetching page after page.

        Each has its agent's `progress`.
        """
        request = wire.message(
            agent_service_pb2.ListAgentsRequest, project=project, page_size=page_size
        )
        return self._listed(
            lambda: self._agents.ListAgents,
            request,
            lambda page: map(values.agent, page.agents),
        )

    def unregister_agent(self, project: str, agent_id: str) -> str:
        """Removes a registration and its cursor.

        The call is never repeated: a second attempt could not tell that the first had succeeded.

        Returns:
            Sequence of the event that records it.

        Raises:
            NotFound: The agent is not registered.
        """
        request = wire.message(
            agent_service_pb2.UnregisterAgentRequest, project=project, agent_id=agent_id
        )
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
        conflate: bool = False,
        on_needs_changed: Callable[[NeedsChanged], object] | None = None,
        on_resync: Callable[[Resync], object] | None = None,
        reconnect: bool = True,
    ) -> SyncSubscription[MatchedEvent]:
        """Streams what the agent gets, without end: the same whether it was away meanwhile or not.

        The `kind` of each delivery is what it says of its datum; `MatchedEvent.apply_to` keeps a
        dict true by it. First comes what matches already, then what is published, and after a
        change of the needs what that brings. `Subscription.acknowledge` notes how far the agent is.

        Args:
            cursor: Where to start; by default at the durable cursor, which `acknowledge` moves.
            after_sequence: Start after this event instead.
            heartbeat_interval_ms: As in `subscribe`.
            context_format: Returns each event as text, too, in its `context`.
            conflate: Of what the agent has missed, only the latest delivery of each data key.
            on_needs_changed: Called with the changed registration before what it brings.
            on_resync: Called with how many deliveries are left out, where that begins: with
                `conflate`, or because the inbox was trimmed. What follows says all the same what
                has become of each datum.
            reconnect: As in `subscribe`.

        Raises:
            NotFound: On opening, or while iterating: the agent is not registered, or no longer.
        """
        request = wire.message(
            agent_service_pb2.ListenRequest,
            **wire.at_most_one(cursor=cursor, after_sequence=after_sequence),
            project=project,
            agent_id=agent_id,
            heartbeat_interval_ms=heartbeat_interval_ms,
            context_format=events.to_context_format(context_format),
            conflate=conflate,
        )
        stream = ResumableStream(
            request,
            events.matched_event,
            reconnect=reconnect,
            on_needs_changed=on_needs_changed,
            on_resync=on_resync,
        )
        return self._subscription(
            lambda: self._agents.Listen,
            stream,
            starts_now=cursor is None and after_sequence is None,
            acknowledge=partial(self.acknowledge, project, agent_id),
        )

    def acknowledge(
        self,
        project: str,
        agent_id: str,
        position: str | Event | MatchedEvent | None = None,
        *,
        cursor: str | None = None,
        timeout: float | None = None,
    ) -> str:
        """Moves the agent's durable cursor forward; never back.

        Args:
            position: The event up to which the agent has processed everything, or its sequence.
                What a registration brings is older than it, so that moves nothing.
            cursor: A stream's cursor, instead; see also `Subscription.acknowledge`.
            timeout: Seconds for all attempts. By default it waits for a server that can't be
                reached as long as `listen` does, without limit.

        Returns:
            Sequence of the durable cursor now.
        """
        sequence = None if position is None else events.sequence_of(position)
        wire.exactly_one(position=position, cursor=cursor)
        request = wire.message(
            agent_service_pb2.AcknowledgeRequest,
            **wire.given(sequence=sequence, cursor=cursor),
            project=project,
            agent_id=agent_id,
        )
        retry = Retry(self._timeout, endless=True) if timeout is None else Retry(timeout)
        response = self._repeated(self._agents.Acknowledge, request, retry)
        return response.acknowledged_sequence

    def wait_for_agent(
        self,
        project: str,
        agent_id: str,
        position: str | Event | MatchedEvent,
        *,
        until: WaitUntil | None = None,
        timeout: float = 30.0,
    ) -> AgentProgress:
        """Waits until an agent has passed an event, and returns how far it is then.

        Args:
            position: The event or its sequence, such as that of a publish.
            until: What it has to have done: by default to have nothing left to process up to there
                (`ACKNOWLEDGED`), or that it is decided what it gets up to there (`DECIDED`).
            timeout: Seconds to wait. 0 asks once.

        Raises:
            DeadlineExceeded: It has not passed the event within that time.
            NotFound: The agent is not registered, or no longer.
            OutOfRange: The event is beyond the end of the log.
        """
        sequence = events.sequence_of(position)
        end = time.monotonic() + timeout
        while True:
            left = max(end - time.monotonic(), 0.0)
            wait_s = min(left, _LONGEST_WAIT_S)
            request = wire.message(
                agent_service_pb2.WaitForAgentRequest,
                project=project,
                agent_id=agent_id,
                sequence=sequence,
                until=agent_service_pb2.WAIT_UNTIL_UNSPECIFIED
                if until is None
                else wire.enum_number(
                    values.WaitUntil, until, agent_service_pb2.WaitUntil, "until"
                ),
                timeout_ms=int(wait_s * 1000),
            )
            # One attempt takes as long as the server waits, so that others need time of their own.
            retry = Retry(2 * wait_s + self._timeout)
            response = self._repeated(self._agents.WaitForAgent, request, retry)
            progress = values.agent_progress(response.progress)
            if response.passed:
                return progress
            if time.monotonic() >= end:
                raise not_passed(agent_id, sequence, timeout, progress)

    def agent_context(
        self,
        project: str,
        agent_id: str,
        *,
        as_of: At | None = None,
        omit_payloads: bool = False,
        near_misses: int = 0,
    ) -> AgentContext:
        """Returns what an agent knew at a moment, what it did not, and why.

        Args:
            as_of: The moment; by default now.
            omit_payloads: Leave out payloads.
            near_misses: Maximum number of data that nearly matched to list too, up to 100.

        Raises:
            NotFound: The agent was not registered then.
            RecordsExpired: Records of that time are not kept.
        """
        request = wire.message(
            agent_service_pb2.GetAgentContextRequest,
            project=project,
            agent_id=agent_id,
            as_of=wire.position(as_of, "as_of"),
            omit_payloads=omit_payloads,
            near_misses=near_misses,
        )
        response = self._once(self._agents.GetAgentContext, request)
        return values.agent_context(response)

    def deliveries(
        self,
        project: str,
        *,
        sequence: str | None = None,
        agent_id: str | None = None,
        since: At | None = None,
        until: At | None = None,
        backwards: bool = False,
        page_size: int = 100,
    ) -> Iterator[Delivery]:
        """Iterates over the agents that were sent an event, or over what an agent was sent.

        Args:
            sequence: The event; or else:
            since: Lower end of the time of sending; only with an agent, like the next two.
            until: Upper end, included.
            backwards: Newest first.
            page_size: Deliveries per call, 1 to 1,000.

        Raises:
            NotFound: There is no such event or agent.
            ValueError: Not exactly one of event and agent is given.
        """
        request = wire.message(
            agent_service_pb2.ListDeliveriesRequest,
            **wire.exactly_one(sequence=sequence, agent_id=agent_id),
            project=project,
            since=wire.position(since, "since"),
            until=wire.position(until, "until"),
            order=event_pb2.ORDER_UNSPECIFIED if agent_id is None else wire.order(backwards),
            page_size=page_size,
        )
        return self._listed(
            lambda: self._agents.ListDeliveries,
            request,
            lambda page: map(values.delivery, page.deliveries),
        )
