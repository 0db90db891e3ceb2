"""The part of AgentService that is about consumers: check, call the domain, convert."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from contex.v1 import consumer_pb2 as pb

from contex_server.agents.visibility import Gets, Viewer
from contex_server.api.groups import checks, messages
from contex_server.api.groups.session import Session
from contex_server.api.match.messages import batch_room
from contex_server.api.shared import cursors, fields, ranges
from contex_server.api.shared.cursors import Token
from contex_server.api.shared.servicer import Servicer
from contex_server.kernel.call import Call
from contex_server.kernel.errors import Checks, agent_not_found, invalid_field, permission_denied
from contex_server.kernel.inbox_ids import event_of, inbox_id
from contex_server.kernel.model import BEGINNING
from contex_server.kernel.slices import sliced

_BACKLOG = 10_000
_BLOCKED_KEYS = 10


class GroupServicer(Servicer):
    async def consume(self, requests: AsyncIterator[pb.ConsumeRequest], call: Call) -> None:
        first = await anext(requests, None)
        if first is None:
            raise invalid_field("start", "must be the first message")
        call.admit(call.project)
        start = checks.start(first, self._settings)
        rooms, project, agent_id = self._rooms, call.project, start.agent_id
        viewer = Viewer.of(call)
        registered = await rooms.agents.registry.get(project, agent_id, viewer)
        if not viewer.may_change(registered.agent):
            raise permission_denied(call.method, project, viewer.identity)
        gets = viewer.gets(registered.agent)
        rooms.inbox.deciders.hint(project)
        record = rooms.agents.recorder.stream(project, agent_id, call.origin, consumes=True)
        stream_id, registered_ms = record.sender.stream_id, registered.agent.registered_ms
        async with (
            rooms.agents.stream_contacts.stream(project, agent_id),
            rooms.groups.consumer(
                project,
                agent_id,
                registered_ms,
                start.spec,
                stream_id,
                start.held,
                noted=gets is None,
            ) as (group, consumer),
        ):
            position = registered.acknowledged
            await record.opened(position, inbox_id(position))
            room_bytes = batch_room(self._settings).several
            session = Session(call, rooms.groups, self._settings, group, consumer, room_bytes)
            if gets is not None:
                leaves_out = rooms.agents.rights.leaves_out(project, registered.agent, viewer)
                session.withhold(gets, leaves_out, record, self._audit)
            try:
                with rooms.events.presence.listener(project):
                    await session.run(requests, start.heartbeat_s, self._drain)
            finally:
                record.closed()

    async def get_consumer_group(
        self, request: pb.GetConsumerGroupRequest, call: Call
    ) -> pb.GetConsumerGroupResponse:
        agent_id = fields.agent_id(request.agent_id)
        registry = self._rooms.agents.registry
        registered = await registry.get(call.project, agent_id, Viewer.of(call))
        gets = Viewer.of(call).gets(registered.agent)
        store = self._rooms.groups.store
        state = await store.state(call.project, agent_id, _BACKLOG)
        parked: int | None = None
        if gets is not None:
            parked = len(await self._rooms.groups.all_parked(call.project, agent_id, gets))
        if state is None:
            # The first consumer begins at the durable cursor.
            progress = await registry.progress_of(call.project, registered)
            if parked is None:
                parked = await store.count_parked(call.project, agent_id)
            return pb.GetConsumerGroupResponse(
                backlog_count=progress.unacknowledged,
                has_more_backlog=progress.more,
                lag_ms=progress.lag_ms,
                parked_count=parked,
            )
        blockers = await self._rooms.groups.blockers(call.project, agent_id, _BLOCKED_KEYS, gets)
        if parked is not None:
            state = replace(state, parked=parked)
        return messages.group_message(state, blockers, _BACKLOG)

    async def seek_consumer_group(
        self, request: pb.SeekConsumerGroupRequest, call: Call
    ) -> pb.SeekConsumerGroupResponse:
        with Checks() as check:
            agent_id = check(fields.agent_id, request.agent_id)
            place = check(ranges.seek_position, request)
        registered = await self._rooms.agents.registry.get(call.project, agent_id, Viewer.of(call))
        place = await ranges.seek_place(self._log, request, place, call.scope)
        subscriber = await self._rooms.inbox.reader.subscriber(call.project, agent_id)
        if (
            subscriber is not None
            and subscriber.agent.registered_ms == registered.agent.registered_ms
        ):
            place = max(place, subscriber.first_place)
        cleared = await self._rooms.groups.store.seek(call.project, agent_id, place, call.origin)
        if cleared is None:
            raise agent_not_found(call.project, agent_id)
        return pb.SeekConsumerGroupResponse(
            position_sequence=str(event_of(place)), cleared_count=cleared
        )

    async def list_parked(self, request: pb.ListParkedRequest, call: Call) -> pb.ListParkedResponse:
        token, after = Token.PARKED_PAGE, BEGINNING
        with Checks() as check:
            agent_id = check(fields.agent_id, request.agent_id)
            size = check(fields.page_size, request.page_size, self._limits)
            if request.page_token:
                after = check(cursors.decode_position, token, call.realm, request.page_token)
        gets, groups = await self._gets(call, agent_id), self._rooms.groups
        page = await groups.parked(call.project, agent_id, after, size + 1, gets)
        response, size_bytes = pb.ListParkedResponse(), 0
        async for parked, delivery in sliced(page[:size]):
            message = messages.parked_message(parked, delivery)
            size_bytes += message.ByteSize()
            if response.deliveries and size_bytes > self._limits.page_bytes:
                break
            response.deliveries.append(message)
            after = parked.id
        there = await groups.some_parked(call.project, agent_id, after, 1, gets)
        if response.deliveries and there:
            response.next_page_token = cursors.encode_position(token, call.realm, after)
        return response

    async def redrive_parked(
        self, request: pb.RedriveParkedRequest, call: Call
    ) -> pb.RedriveParkedResponse:
        with Checks() as check:
            agent_id = check(fields.agent_id, request.agent_id)
            ids = check(checks.parked_ids, request.parked_ids)
        groups = self._rooms.groups
        ids = await groups.parked_among(
            call.project, agent_id, ids or None, await self._gets(call, agent_id)
        )
        count = await groups.store.redrive(call.project, agent_id, ids)
        groups.heard(call.project, [agent_id])
        return pb.RedriveParkedResponse(redriven_count=count)

    async def drop_parked(self, request: pb.DropParkedRequest, call: Call) -> pb.DropParkedResponse:
        with Checks() as check:
            agent_id = check(fields.agent_id, request.agent_id)
            ids = check(checks.parked_ids, request.parked_ids, at_least=int(not request.all))
            if request.all and request.parked_ids:
                check.refuse("all", "must not be set with parked_ids")
        groups = self._rooms.groups
        ids = await groups.parked_among(
            call.project,
            agent_id,
            None if request.all else ids,
            await self._gets(call, agent_id),
        )
        count = await groups.store.drop(call.project, agent_id, ids)
        return pb.DropParkedResponse(dropped_count=count)

    async def _gets(self, call: Call, agent_id: str) -> Gets | None:
        """Which of an agent's deliveries the caller gets; refuses an agent that it does not see."""
        viewer = Viewer.of(call)
        registered = await self._rooms.agents.registry.get(call.project, agent_id, viewer)
        return viewer.gets(registered.agent)
