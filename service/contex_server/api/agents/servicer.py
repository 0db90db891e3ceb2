"""AgentService: check, call the domain, convert."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import partial

from contex.v1 import agent_service_pb2 as pb

from contex_server.agents.journal_reader import RecordedDelivery
from contex_server.api.agents import checks, messages
from contex_server.api.match import checks as need_checks
from contex_server.api.shared import fields
from contex_server.api.shared.cursors import (
    Token,
    decode_position,
    decode_text,
    encode_position,
    encode_text,
)
from contex_server.events.feed import Delivery
from contex_server.events.stream import Message, StreamLimits, stream
from contex_server.kernel.call import Call
from contex_server.kernel.config import Settings
from contex_server.kernel.drain import Drain
from contex_server.kernel.errors import event_not_found, invalid_field
from contex_server.kernel.model import Entry, Range
from contex_server.kernel.scope import Scope
from contex_server.log.pages import check_readable
from contex_server.matching.context import ContextFormat
from contex_server.rooms import Rooms
from contex_server.state.moments import resolve_moment

_INLINE_BYTES = 16 * 1024
"""Larger messages are written out in a thread: 1 MiB of JSON as YAML takes 0.9 s."""


class AgentServicer:
    """See `protos/contex/v1/agent_service.proto`."""

    SERVICE = pb.DESCRIPTOR.services_by_name["AgentService"]

    def __init__(self, settings: Settings, rooms: Rooms, drain: Drain) -> None:
        self._settings = settings
        self._limits = settings.limits
        self._stream_limits = StreamLimits(settings.message_bytes, settings.replay_page_events)
        self._log = rooms.storage.log
        self._agents = rooms.agents.registry
        self._matchers = rooms.match.pool
        self._recorder = rooms.agents.recorder
        self._journals = rooms.agents.journals
        self._contexts = rooms.agents.contexts
        self._presence = rooms.events.presence
        self._drain = drain

    async def register_agent(
        self, request: pb.RegisterAgentRequest, call: Call
    ) -> pb.RegisterAgentResponse:
        project, agent_id = checks.ids(request)
        wishes, last_seen = checks.registration(request, self._limits)
        budget = need_checks.budget(request, self._limits)
        registered = await self._agents.register(
            project,
            agent_id,
            wishes,
            last_seen=last_seen,
            budget=budget,
            origin=call.origin,
            scope=call.scope,
        )
        return messages.registered_message(project, registered)

    async def update_agent(
        self, request: pb.UpdateAgentRequest, call: Call
    ) -> pb.UpdateAgentResponse:
        project, agent_id = checks.ids(request)
        wishes = checks.change(request, self._limits)
        budget = need_checks.budget(request, self._limits)
        updated = await self._agents.update(
            project, agent_id, wishes, budget=budget, origin=call.origin, scope=call.scope
        )
        return messages.updated_message(updated)

    async def get_agent(self, request: pb.GetAgentRequest, call: Call) -> pb.GetAgentResponse:
        agent, acknowledged = await self._agents.get(*checks.ids(request))
        return pb.GetAgentResponse(agent=messages.agent_message(agent, acknowledged))

    async def list_agents(self, request: pb.ListAgentsRequest, call: Call) -> pb.ListAgentsResponse:
        project = fields.project(request.project)
        size = fields.page_size(request.page_size, self._limits)
        after = ""
        if request.page_token:
            after = decode_text(Token.AGENTS_PAGE, project, request.page_token, "page_token")
        page = await self._agents.page(project, after, size + 1)
        response = pb.ListAgentsResponse(
            agents=[
                messages.agent_message(agent, acknowledged) for agent, acknowledged in page[:size]
            ]
        )
        if len(page) > size:
            last = response.agents[-1].agent_id
            response.next_page_token = encode_text(Token.AGENTS_PAGE, project, last)
        return response

    async def unregister_agent(
        self, request: pb.UnregisterAgentRequest, call: Call
    ) -> pb.UnregisterAgentResponse:
        sequence = await self._agents.unregister(*checks.ids(request), call.origin)
        return pb.UnregisterAgentResponse(sequence=str(sequence))

    async def listen(self, request: pb.ListenRequest, call: Call) -> None:
        project, agent_id = checks.ids(request)
        heartbeat_s = fields.heartbeat_s(request.heartbeat_interval_ms, self._settings)
        form = need_checks.context_format(request.context_format)
        _, acknowledged = await self._agents.get(project, agent_id)
        position = checks.start(project, request, acknowledged)
        check_readable(await self._log.bounds(project), position)
        async with (
            self._matchers.matcher(project) as matcher,
            matcher.attach(agent_id) as listening,
        ):

            async def select(entries: list[Entry]) -> list[Delivery]:
                return await matcher.select(listening, entries)

            source = stream(
                self._log,
                project,
                listening.feed,
                select,
                position,
                heartbeat_s=heartbeat_s,
                limits=self._stream_limits,
                drain=self._drain,
                scope=call.scope,
            )
            record = self._recorder.stream(project, agent_id, call.origin)
            await record.opened(position)
            try:
                with self._presence.listener(project):
                    async with aclosing(source):
                        async for message in source:
                            if message.chunk is not None:
                                await record.sending(message.chunk)
                            await call.write(await self._rendered(project, message, form))
            finally:
                record.closed()

    async def _rendered(self, project: str, message: Message, form: ContextFormat) -> bytes:
        render = partial(messages.listen_response, project, message, form)
        deliveries = message.chunk.deliveries if message.chunk is not None else ()
        if form and sum(delivery.size for delivery in deliveries) > _INLINE_BYTES:
            return await asyncio.to_thread(render)
        return render()

    async def acknowledge(
        self, request: pb.AcknowledgeRequest, call: Call
    ) -> pb.AcknowledgeResponse:
        project, agent_id = checks.ids(request)
        position = checks.position(project, request)
        stands = await self._agents.acknowledge(project, agent_id, position, call.origin)
        return pb.AcknowledgeResponse(acknowledged_sequence=str(stands))

    async def get_agent_context(
        self, request: pb.GetAgentContextRequest, call: Call
    ) -> pb.GetAgentContextResponse:
        project, agent_id = checks.ids(request)
        near_misses = checks.near_misses(request.near_misses)
        as_of = fields.as_of(request.as_of, request.HasField("as_of"))
        context = await self._contexts.get(
            project,
            agent_id,
            await resolve_moment(self._log, project, as_of),
            payloads=not request.omit_payloads,
            near_misses=near_misses,
            scope=call.scope,
        )
        return messages.context_message(context)

    async def list_deliveries(
        self, request: pb.ListDeliveriesRequest, call: Call
    ) -> pb.ListDeliveriesResponse:
        project = fields.project(request.project)
        size = fields.page_size(request.page_size, self._limits)
        backwards = fields.is_backwards(request.order)
        match request.WhichOneof("of"):
            case "sequence":
                sendings, token = await self._receivers(project, request, size, call.scope)
            case "agent_id":
                sendings, token = await self._sent_to(project, request, size, backwards, call.scope)
            case _:
                raise invalid_field("of", "a sequence or an agent_id is required")
        return pb.ListDeliveriesResponse(
            deliveries=map(messages.delivery_message, sendings), next_page_token=token
        )

    async def _receivers(
        self, project: str, request: pb.ListDeliveriesRequest, size: int, scope: Scope
    ) -> tuple[list[RecordedDelivery], str]:
        event = checks.delivered_event(request)
        after, kind = "", Token.RECEIVERS_PAGE
        if request.page_token:
            after = decode_text(kind, project, request.page_token, "page_token")
        sendings, last = await self._journals.recipients(project, event, after, size, scope)
        if not sendings and not after and (await self._log.get(project, [event]))[0] is None:
            raise event_not_found(project, event)
        return sendings, encode_text(kind, project, last) if last else ""

    async def _sent_to(
        self,
        project: str,
        request: pb.ListDeliveriesRequest,
        size: int,
        backwards: bool,
        scope: Scope,
    ) -> tuple[list[RecordedDelivery], str]:
        agent_id = fields.agent_id(request.agent_id)
        after = fields.lower_end(request.since, request.HasField("since"))
        until = fields.upper_end(request.until, request.HasField("until"))
        kind = Token.DELIVERIES_BACK_PAGE if backwards else Token.DELIVERIES_PAGE
        if request.page_token:
            resume = decode_position(kind, project, request.page_token, "page_token")
            after, until = (after, resume.prev()) if backwards else (resume, until)
        sendings, place = await self._journals.deliveries_to(
            project, agent_id, Range(after, until, backwards), size, scope
        )
        return sendings, encode_position(kind, project, place) if place else ""
