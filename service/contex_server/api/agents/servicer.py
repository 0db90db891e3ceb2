"""AgentService: check, call the domain, convert."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from functools import partial

from contex.v1 import agent_service_pb2 as pb
from contex.v1 import event_pb2

from contex_server.agents.registry import AgentSpec, Registration, Rights
from contex_server.agents.visibility import Viewer, shown_to
from contex_server.api.agents import messages
from contex_server.api.groups.servicer import GroupServicer
from contex_server.api.match import checks
from contex_server.api.match.messages import BatchRoom, answered, batch_room
from contex_server.api.shared import cursors, fields, ranges
from contex_server.api.shared.cursors import Token
from contex_server.events.feed import Part
from contex_server.events.stream import Message, stream
from contex_server.inbox.progress import Passing
from contex_server.kernel import event_codec
from contex_server.kernel.call import Call
from contex_server.kernel.config import Limits
from contex_server.kernel.errors import Checks, ContexError, event_not_found, invalid_field
from contex_server.kernel.inbox_ids import entry_of, event_of, inbox_id
from contex_server.kernel.model import BEGINNING, Agent, Change, MinDelta, Sequence
from contex_server.kernel.slices import sliced
from contex_server.matching.context import ContextFormat
from contex_server.state.moments import resolve_moment

_MAX_NEAR_MISSES = 100
_WAIT_MS = 30_000
_PROGRESS_BYTES = 128
"""What an agent's progress takes of a page."""
_INLINE_BYTES = 16 * 1024
"""Larger messages are written out in a thread: 1 MiB of JSON as YAML takes 0.9 s.
As they are, a mebibyte takes 5 ms."""


class AgentServicer(GroupServicer):
    SERVICE = pb.DESCRIPTOR.services_by_name["AgentService"]

    async def register_agent(
        self, request: pb.RegisterAgentRequest, call: Call
    ) -> pb.RegisterAgentResponse:
        with Checks() as check:
            agent_id = check(fields.agent_id, request.agent_id)
            spec = check(_agent_spec, request, self._limits)
            last_seen = check(fields.optional_sequence, request, "last_seen_sequence")
            budget = check(checks.budget, request, self._limits)
        registered = await self._rooms.agents.registry.register(
            call.project,
            agent_id,
            spec,
            last_seen=last_seen,
            budget=budget,
            origin=call.origin,
            scope=call.scope,
            rights=self._rights(call),
            viewer=Viewer.of(call),
        )
        return await answered(
            pb.RegisterAgentResponse,
            registered.answer,
            agent=messages.registered_message(registered.registered),
            cursor=cursors.encode_position(Token.CURSOR, call.project, registered.resume),
            outcome=_outcome(registered),
        )

    def _rights(self, call: Call) -> Rights | None:
        """Those of the caller's agents; None where access is off."""
        if not self._rooms.access.required:
            return None
        principal = call.principal
        rights = self._rooms.agents.rights
        return rights.of(principal.identity, principal.groups, call.project)

    async def assign_agents(
        self, request: pb.AssignAgentsRequest, call: Call
    ) -> pb.AssignAgentsResponse:
        with Checks() as check:
            glob = check(fields.agent_glob, request.agent_ids, "agent_ids")
            identity = check(fields.identity, request.identity, "identity")
        count = await self._rooms.agents.rights.assign(
            call.project, glob, identity, call.origin, reassign=request.reassign
        )
        return pb.AssignAgentsResponse(assigned_count=count)

    async def update_agent(
        self, request: pb.UpdateAgentRequest, call: Call
    ) -> pb.UpdateAgentResponse:
        with Checks() as check:
            agent_id = check(fields.agent_id, request.agent_id)
            spec = check(_agent_spec, request, self._limits)
            budget = check(checks.budget, request, self._limits)
        updated = await self._rooms.agents.registry.update(
            call.project,
            agent_id,
            spec,
            budget=budget,
            origin=call.origin,
            scope=call.scope,
            viewer=Viewer.of(call),
        )
        return await answered(
            pb.UpdateAgentResponse,
            updated.answer,
            agent=messages.registered_message(updated.registered),
        )

    async def get_agent(self, request: pb.GetAgentRequest, call: Call) -> pb.GetAgentResponse:
        registry = self._rooms.agents.registry
        registered = await registry.get(call.project, fields.agent_id(request.agent_id))
        progress = await registry.progress_of(call.project, registered)
        return pb.GetAgentResponse(agent=messages.registered_message(registered, progress))

    async def list_agents(self, request: pb.ListAgentsRequest, call: Call) -> pb.ListAgentsResponse:
        token = Token.AGENTS_PAGE
        with Checks() as check:
            size = check(fields.page_size, request.page_size, self._limits)
            after = check(cursors.decode_text, token, call.realm, request.page_token)
        registry = self._rooms.agents.registry
        page = await registry.page(call.project, after, size + 1, Viewer.of(call))
        response = pb.ListAgentsResponse()
        size_bytes = 0
        async for registered in sliced(page[:size]):
            agent = messages.registered_message(registered)
            size_bytes += agent.ByteSize() + _PROGRESS_BYTES
            if response.agents and size_bytes > self._limits.page_bytes:
                break
            response.agents.append(agent)
        if len(page) > len(response.agents):
            last = response.agents[-1].agent_id
            response.next_page_token = cursors.encode_text(token, call.realm, last)
        listed = page[: len(response.agents)]
        progress = await registry.progress_of_all(call.project, listed)
        async for agent in sliced(response.agents):
            agent.progress.CopyFrom(messages.progress_message(progress[agent.agent_id]))
        return response

    async def unregister_agent(
        self, request: pb.UnregisterAgentRequest, call: Call
    ) -> pb.UnregisterAgentResponse:
        sequence = await self._rooms.agents.registry.unregister(
            call.project, fields.agent_id(request.agent_id), call.origin
        )
        return pb.UnregisterAgentResponse(sequence=str(sequence))

    async def listen(self, request: pb.ListenRequest, call: Call) -> None:
        with Checks() as check:
            agent_id = check(fields.agent_id, request.agent_id)
            heartbeat_s = check(fields.heartbeat_s, request.heartbeat_interval_ms, self._settings)
            form = check(checks.context_format, request.context_format)
            start = check(ranges.inbox_start, request)
        viewer = Viewer.of(call)
        registered = await self._rooms.agents.registry.get(call.project, agent_id, viewer)
        agent, inbox = registered.agent, self._rooms.inbox
        inbox.deciders.hint(call.project)
        kept = await inbox.reader.kept_place(call.project, agent_id, registered.acknowledged)
        position = await ranges.inbox_start_of(self._log, request, start, kept, call.scope)
        record = self._rooms.agents.recorder.stream(
            call.project, agent_id, call.origin, apart=request.conflate or not viewer.sees_all
        )
        async with (
            self._rooms.agents.stream_contacts.stream(call.project, agent_id),
            inbox.hub.feed(call.project, agent_id, agent.registered_ms, record.sender) as feed,
        ):
            source = stream(
                inbox.reader.source(
                    call.project,
                    agent_id,
                    agent.registered_ms,
                    partial(inbox.hub.heard_of, call.project, agent_id),
                    partial(inbox.hub.fed, call.project, agent_id, feed),
                    partial(inbox.hub.look, call.project, agent_id),
                    conflate=request.conflate,
                ),
                feed,
                position,
                heartbeat_s=heartbeat_s,
                settings=self._settings,
                drain=self._drain,
                show=shown_to(
                    viewer, agent, self._rooms.agents.rights.leaves_out(call.project, agent, viewer)
                ),
            )
            room = batch_room(self._settings)
            await record.opened(event_of(position), position)
            try:
                with self._rooms.events.presence.listener(call.project):
                    async with aclosing(source):
                        async for message in source:
                            parts = await self._responses(call, message, form, room)
                            for places, response in parts:
                                await record.sending(places)
                                await call.write(response)
                            record.sent(message.kind)
            finally:
                record.closed()

    async def _responses(
        self, call: Call, message: Message, form: ContextFormat, room: BatchRoom
    ) -> list[Part]:
        acknowledged = BEGINNING
        agent = None if message.chunk is None else message.chunk.instead
        if isinstance(agent, Agent):
            registry = self._rooms.agents.registry
            with suppress(ContexError):
                acknowledged = (await registry.get(call.project, agent.agent_id)).acknowledged
        render = partial(messages.listen_responses, call.project, message, form, room, acknowledged)
        if form and message.chunk is not None:
            sizes = [delivery.size for delivery in message.chunk.deliveries]
            if sum(sizes) > _INLINE_BYTES:
                return await asyncio.to_thread(render)
        return render()

    async def _check_event(self, call: Call, event: Sequence) -> None:
        """Refuses an event that there is not, or that the caller may not see."""
        (entry,) = await self._log.get(call.project, [event])
        if entry is None or not event_codec.is_admitted(entry, call.scope):
            raise event_not_found(call.project, event)

    async def acknowledge(
        self, request: pb.AcknowledgeRequest, call: Call
    ) -> pb.AcknowledgeResponse:
        with Checks() as check:
            agent_id = check(fields.agent_id, request.agent_id)
            place = check(_acknowledged, request)
        acknowledged = await self._rooms.agents.registry.acknowledge(
            call.project,
            agent_id,
            event_of(place),
            call.origin,
            place if entry_of(place) else None,
        )
        return pb.AcknowledgeResponse(acknowledged_sequence=str(acknowledged))

    async def wait_for_agent(
        self, request: pb.WaitForAgentRequest, call: Call
    ) -> pb.WaitForAgentResponse:
        most_ms = self._limits.wait_ms
        timeout_ms = request.timeout_ms if request.HasField("timeout_ms") else _WAIT_MS
        with Checks() as check:
            agent_id = check(fields.agent_id, request.agent_id)
            event = check(fields.sequence, request.sequence, "sequence")
            until = check(fields.enum, request.until, pb.WaitUntil.DESCRIPTOR, "until")
            check(fields.within, timeout_ms, 0, most_ms, "timeout_ms")
        decided = until == pb.WAIT_UNTIL_DECIDED
        passed, progress = await self._rooms.agents.registry.wait(
            call.project,
            agent_id,
            event,
            Passing.DECIDED if decided else Passing.ACKNOWLEDGED,
            timeout_ms / 1000,
            self._drain,
        )
        return pb.WaitForAgentResponse(passed=passed, progress=messages.progress_message(progress))

    async def get_agent_context(
        self, request: pb.GetAgentContextRequest, call: Call
    ) -> pb.GetAgentContextResponse:
        most = _MAX_NEAR_MISSES
        with Checks() as check:
            agent_id = check(fields.agent_id, request.agent_id)
            near_misses = check(fields.within, request.near_misses, 0, most, "near_misses")
            as_of = check(fields.optional_moment, request)
        moment = await resolve_moment(self._log, call.project, as_of)
        context = await self._rooms.agents.contexts.get(
            call.project,
            agent_id,
            moment,
            payloads=not request.omit_payloads,
            near_misses=near_misses,
            viewer=Viewer.of(call),
        )
        return await asyncio.to_thread(messages.context_message, context)

    async def list_deliveries(
        self, request: pb.ListDeliveriesRequest, call: Call
    ) -> pb.ListDeliveriesResponse:
        of, text = request.WhichOneof("of"), request.page_token
        backwards = request.order == event_pb2.ORDER_BACKWARDS
        token = Token.DELIVERIES_BACK_PAGE if backwards else Token.DELIVERIES_PAGE
        with Checks() as check:
            size = check(fields.page_size, request.page_size, self._limits)
            span = check(fields.span, request, order=request.order)
            if of == "sequence":
                for field in ("since", "until"):
                    if request.HasField(field):
                        check.refuse(field, "must be unset where a sequence is given")
                token = Token.RECEIVERS_PAGE
                event = check(fields.sequence, request.sequence, "sequence")
                last = check(cursors.decode_text, token, call.realm, text)
            elif of == "agent_id":
                agent_id = check(fields.agent_id, request.agent_id)
                position = check(cursors.decode_position, token, call.realm, text) if text else None
            else:
                check.refuse("of", "a sequence or an agent_id is required")
        journals, next_page_token = self._rooms.agents.journals, ""
        match of:
            case "sequence":
                deliveries, next_id = await journals.recipients(
                    call.project, event, last, size, Viewer.of(call)
                )
                if next_id:
                    next_page_token = cursors.encode_text(token, call.realm, next_id)
                elif not deliveries and not last:
                    await self._check_event(call, event)
            case "agent_id":
                if position is not None:
                    span = span.rest(position)
                deliveries, place = await journals.deliveries_to(
                    call.project, agent_id, span, size, call.scope
                )
                if place:
                    next_page_token = cursors.encode_position(token, call.realm, place)
        return pb.ListDeliveriesResponse(
            deliveries=[messages.delivery_message(d) async for d in sliced(deliveries)],
            next_page_token=next_page_token,
        )


def _agent_spec(
    request: pb.RegisterAgentRequest | pb.UpdateAgentRequest, limits: Limits
) -> AgentSpec:
    """What a registration sets or changes; a new one must have needs."""
    is_new = isinstance(request, pb.RegisterAgentRequest)
    max_matches: int | None
    muted: frozenset[Change] | None = None
    exclude_own: bool | None = None
    ttl_ms: int | None = None
    delta: tuple[MinDelta | None] | None = None
    with Checks() as check:
        needs = check(checks.needs, request.needs, "needs", limits, at_least=int(is_new))
        threshold = check(checks.threshold, request)
        if isinstance(request, pb.RegisterAgentRequest):
            max_matches = check(checks.registered_max_matches, request, limits)
            muted = check(checks.muted, request.muted_kinds, "muted_kinds") or None
            exclude_own = request.exclude_own or None
        else:
            max_matches = check(checks.own_max_matches, request, limits)
            if request.HasField("muted_kinds"):
                muted = check(checks.muted, request.muted_kinds.kinds, "muted_kinds.kinds")
            if request.HasField("exclude_own"):
                exclude_own = request.exclude_own
        if request.HasField("min_delta"):
            delta = (check(checks.min_delta, request.min_delta, limits),)
        if request.HasField("ttl"):
            ttl_ms = check(checks.ttl_ms, request.ttl, limits)
    return AgentSpec(needs or None, threshold, max_matches, delta, muted, exclude_own, ttl_ms)


def _outcome(registered: Registration) -> pb.RegistrationOutcome.ValueType:
    return pb.RegistrationOutcome.Value(f"REGISTRATION_OUTCOME_{registered.outcome.name}")


def _acknowledged(request: pb.AcknowledgeRequest) -> Sequence:
    """The place in the agent's inbox up to which it acknowledges."""
    if request.HasField("cursor"):
        return cursors.decode_inbox(request.project, request.cursor, "cursor")
    position = fields.optional_sequence(request)
    if position is None:
        raise invalid_field("position", "a cursor or a sequence is required")
    return inbox_id(position)
