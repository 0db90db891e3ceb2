# Generated from _async/agents.py by `make generate`.
"""Methods of `contex.v1.AgentService`: registrations, and what agents are sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Literal

from contex.backoff import Backoff, Retry
from contex.errors import not_passed
from contex.lazy import (
    agent_service_pb2,
    agent_service_pb2_grpc,
    consumer_pb2,
    consuming,
    event_pb2,
    events,
    wire,
)
from contex.lazy import agents as values
from contex.resume import ResumableStream

from .calls import Calls
from .delivery_stream import SyncDeliveryStream
from .subscription import SyncSubscription
from .transport import duplex

if TYPE_CHECKING:
    from contex.agents import (
        Agent,
        AgentContext,
        AgentProgress,
        ConsumerGroup,
        Delivery,
        MinDelta,
        Needed,
        NeedsChanged,
        ParkedDelivery,
        Registration,
        Resync,
        SeekResult,
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

    def assign_agents(
        self, project: str, agent_ids: str, identity: str, *, reassign: bool = False
    ) -> int:
        """Gives agents to an identity, whose rights they have from then on.

        Args:
            agent_ids: Glob over the agents' ids.
            identity: Whose they are.
            reassign: Also those that are another identity's; by default those that are nobody's.

        Returns:
            Number of agents that were changed.
        """
        request = wire.message(
            agent_service_pb2.AssignAgentsRequest,
            project=project,
            agent_ids=agent_ids,
            identity=identity,
            reassign=reassign,
        )
        response = self._repeated(self._agents.AssignAgents, request)
        return response.assigned_count

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

    def consume(
        self,
        project: str,
        agent_id: str,
        *,
        consumer: str | None = None,
        max_outstanding_messages: int = 64,
        max_outstanding_bytes: int | None = None,
        ack_deadline: float | timedelta = 30.0,
        max_attempts: int | None = None,
        auto_ack: bool = True,
        max_extension: float | timedelta = 3600.0,
        until_idle: bool = False,
        reconnect: bool = True,
    ) -> SyncDeliveryStream:
        """Shares what the agent gets among consumers: each delivery goes to one, which settles it.

        A delivery comes again, to any consumer, until it is acknowledged, skipped or parked. Those
        of one data key come one after the other.

        Args:
            consumer: The consumer's name, of one process at a time; by default one that no other
                has. Whoever takes the name of another replaces it.
            max_outstanding_messages: How many deliveries to have at a time, those that wait in the
                client included, 1 to 1,000.
            max_outstanding_bytes: How many bytes of them, up to 64 MiB; by default 8 MiB.
            ack_deadline: Seconds after which others get what is not settled if this process is
                gone, 1 to 3,600. While it lives, the client extends it.
            max_attempts: After so many attempts a delivery is parked instead of coming again; by
                default 10.
            auto_ack: Going on to the next delivery acknowledges the one before.
            max_extension: Seconds after which what is not settled is no longer extended.
            until_idle: End when there is nothing to be had and nothing is held, instead of waiting.
                What waits for a retry, or is with other consumers, is not waited for.
            reconnect: As in `subscribe`.

        Raises:
            NotFound: While iterating: the agent is not registered, or no longer.
            ConsumerReplaced: While iterating: another stream consumes under this name.
        """
        deadline = wire.duration(ack_deadline, "ack_deadline")
        extension = wire.duration(max_extension, "max_extension")
        name = consuming.unique_name() if consumer is None else consumer
        start = wire.message(
            consumer_pb2.ConsumeStart,
            project=project,
            agent_id=agent_id,
            consumer=name,
            max_outstanding_messages=max_outstanding_messages,
            max_outstanding_bytes=max_outstanding_bytes or 0,
            ack_deadline=deadline,
            max_attempts=max_attempts or 0,
        )
        shown = self._shown()
        state = consuming.Consuming(
            start,
            deadline_s=max(deadline.ToTimedelta().total_seconds(), 1.0),
            max_extension_s=extension.ToTimedelta().total_seconds(),
            until_idle=until_idle,
            reconnect=reconnect,
            backoff=Backoff(is_renewed=shown.is_renewed),
        )
        stream = SyncDeliveryStream(
            lambda requests: duplex(self._agents.Consume, requests, shown.metadata()),
            state,
            name,
            auto_ack=auto_ack,
        )
        return self._opened(stream)

    def consumer_group(self, project: str, agent_id: str) -> ConsumerGroup:
        """Returns who consumes an agent's deliveries, how far they are, and what holds them up.

        Raises:
            NotFound: The agent is not registered.
        """
        request = wire.message(
            consumer_pb2.GetConsumerGroupRequest, project=project, agent_id=agent_id
        )
        return values.consumer_group(self._once(self._agents.GetConsumerGroup, request))

    def seek_consumers(
        self,
        project: str,
        agent_id: str,
        *,
        start: Literal["beginning", "end"] | None = None,
        after_sequence: str | None = None,
        from_time: datetime | None = None,
        cursor: str | None = None,
    ) -> SeekResult:
        """Moves the place from which an agent's consumers go on, forwards or backwards.

        What is outstanding is cleared, and lost to who has it. Exactly one position is given.

        Args:
            start: `"beginning"` of the agent's inbox, or `"end"` of the log.
            after_sequence: Go on after this event.
            from_time: Go on with the first event of this instant or later.
            cursor: Go on where this cursor of `listen` or of a registration stands.

        Raises:
            NotFound: The agent is not registered.
            ValueError: Not exactly one position is given.
        """
        position = wire.exactly_one(
            edge=wire.edge(start),
            after_sequence=after_sequence,
            from_time=None if from_time is None else wire.timestamp(from_time, "from_time"),
            cursor=cursor,
        )
        request = wire.message(
            consumer_pb2.SeekConsumerGroupRequest, **position, project=project, agent_id=agent_id
        )
        response = self._repeated(self._agents.SeekConsumerGroup, request)
        return values.seek_result(response)

    def parked(
        self, project: str, agent_id: str, *, page_size: int = 100
    ) -> Iterator[ParkedDelivery]:
        """Iterates over an agent's deliveries that were put aside, those first that were first.

        Raises:
            NotFound: The agent is not registered.
        """
        request = wire.message(
            consumer_pb2.ListParkedRequest, project=project, agent_id=agent_id, page_size=page_size
        )
        return self._listed(
            lambda: self._agents.ListParked,
            request,
            lambda page: map(values.parked_delivery, page.deliveries),
        )

    def redrive(self, project: str, agent_id: str, parked_ids: Iterable[str] | None = None) -> int:
        """Sends parked deliveries on their way again, as first attempts.

        Args:
            parked_ids: Which, at most 1,000; by default all.

        Returns:
            How many.

        Raises:
            NotFound: The agent is not registered.
        """
        if parked_ids is not None and not (parked_ids := wire.several(parked_ids, "parked_ids")):
            return 0  # none, not all
        request = wire.message(
            consumer_pb2.RedriveParkedRequest,
            project=project,
            agent_id=agent_id,
            parked_ids=parked_ids or (),
        )
        return (self._once(self._agents.RedriveParked, request)).redriven_count

    def drop_parked(
        self,
        project: str,
        agent_id: str,
        parked_ids: Iterable[str] | None = None,
        *,
        all: bool = False,
    ) -> int:
        """Gives parked deliveries up.

        Args:
            parked_ids: Which, at most 1,000.
            all: All that are parked, instead.

        Returns:
            How many.

        Raises:
            NotFound: The agent is not registered.
            ValueError: Neither or both are given.
        """
        if (parked_ids is None) is not all:
            raise ValueError("give either parked_ids or all=True")
        ids = [] if parked_ids is None else wire.several(parked_ids, "parked_ids")
        if not (ids or all):
            return 0
        request = wire.message(
            consumer_pb2.DropParkedRequest,
            project=project,
            agent_id=agent_id,
            parked_ids=ids,
            all=all,
        )
        return (self._once(self._agents.DropParked, request)).dropped_count

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
