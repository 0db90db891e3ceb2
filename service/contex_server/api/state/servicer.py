"""StateService: check, call the domain, convert."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterable
from contextlib import aclosing
from itertools import islice
from typing import TypeVar

from contex.v1 import state_service_pb2 as pb

from contex_server.api.shared import fields, wire
from contex_server.api.shared.cursors import Token, invalid_token
from contex_server.api.state import checks, messages
from contex_server.kernel.call import Call
from contex_server.kernel.config import Settings
from contex_server.kernel.drain import Drain
from contex_server.kernel.errors import shutting_down
from contex_server.kernel.model import KeyState, Sequence
from contex_server.kernel.scope import Scope
from contex_server.rooms import Rooms
from contex_server.state.diff import Datum, count_changes, data_of, read_changes
from contex_server.state.fold import RecentEntries
from contex_server.state.history import data_key_not_found
from contex_server.state.moments import Moment, resolve_moment
from contex_server.state.state import State, changed_keys

T = TypeVar("T")

_INLINE_KEYS = 10_000
"""Searching a larger state takes over 10 ms and is done in a thread."""


class StateServicer:
    """See `protos/contex/v1/state_service.proto`."""

    SERVICE = pb.DESCRIPTOR.services_by_name["StateService"]

    def __init__(self, settings: Settings, rooms: Rooms, drain: Drain) -> None:
        self._limits = settings.limits
        self._message_bytes = settings.message_bytes
        self._log = rooms.storage.log
        self._states = rooms.state.reader
        self._history = rooms.state.history
        self._audit = rooms.audit.writer
        self._drain = drain

    async def get_state(self, request: pb.GetStateRequest, call: Call) -> pb.GetStateResponse:
        project = fields.project(request.project)
        wanted = checks.selection(request, self._limits, call.scope)
        whole = checks.is_whole(request.view)
        size = fields.page_size(request.page_size, self._limits)
        asked = fields.as_of(request.as_of, request.HasField("as_of"))
        if request.page_token:
            (ms, n, unix_ms, count), after = checks.read_page_token(Token.STATE_PAGE, request, 4)
            moment = Moment(Sequence(ms, n), unix_ms)
            state = await self._again(project, moment)
            recent = None
        else:
            recent = RecentEntries() if whole else None
            moment, state = await self._states.read(project, asked, recent)
            count, after = await _searched(state, lambda: state.count(wanted)), ""
        keys = await _searched(state, lambda: list(islice(state.select(wanted, after), size + 1)))
        response = pb.GetStateResponse(as_of=messages.moment_message(moment), data_count=count)
        held = 0
        data = data_of(self._log, project, state, keys[:size], recent, events=whole)
        async with aclosing(data):
            async for datum in data:
                held += messages.size_of(datum)
                if response.data and held > self._limits.page_bytes:
                    break
                omit = held > self._limits.page_bytes
                messages.fill_datum(response.data.add(), datum, omit_payload=omit)
        if len(response.data) < len(keys):
            numbers = (*moment.sequence, moment.unix_ms, count)
            last = response.data[-1].data_key
            response.next_page_token = checks.page_token(Token.STATE_PAGE, request, numbers, last)
        return response

    async def stream_state(self, request: pb.StreamStateRequest, call: Call) -> None:
        project = fields.project(request.project)
        wanted = checks.selection(request, self._limits, call.scope)
        whole = checks.is_whole(request.view)
        after = fields.part_of_key(request.after_data_key, "after_data_key")
        asked = fields.as_of(request.as_of, request.HasField("as_of"))
        recent = RecentEntries() if whole else None
        moment, state = await self._states.read(project, asked, recent)
        count = await _searched(state, lambda: state.count(wanted))
        keys = await _searched(state, lambda: list(state.select(wanted, after)))

        def message(data: Iterable[Datum]) -> bytes:
            response = pb.StreamStateResponse(
                as_of=messages.moment_message(moment), data_count=count
            )
            for datum in data:
                messages.fill_datum(response.data.add(), datum)
            return response.SerializeToString()

        part: list[Datum] = []
        held = written = 0
        data = data_of(self._log, project, state, keys, recent, events=whole)
        try:
            async with aclosing(data):
                async for datum in data:
                    size = messages.size_of(datum)
                    if part and held + size > self._message_bytes:
                        await call.write(message(part))
                        written += len(part)
                        part, held = [], 0
                        if self._drain.started:
                            raise shutting_down()
                    part.append(datum)
                    held += size
            if part or not written:
                await call.write(message(part))
                written += len(part)
        finally:
            self._audit.exported(project, call.origin, call.method, written)

    async def diff_states(self, request: pb.DiffStatesRequest, call: Call) -> pb.DiffStatesResponse:
        project = fields.project(request.project)
        wanted = checks.selection(request, self._limits, call.scope)
        whole = checks.is_whole(request.view)
        size = fields.page_size(request.page_size, self._limits)
        base_asked = fields.moment(request.base, "base")
        target_asked = fields.as_of(request.target, request.HasField("target"), "target")
        after = ""
        if request.page_token:
            numbers, after = checks.read_page_token(Token.DIFF_PAGE, request, 6)
            base_moment = Moment(Sequence(*numbers[:2]), numbers[2])
            target_moment = Moment(Sequence(*numbers[3:5]), numbers[5])
            base = await self._again(project, base_moment)
            target = await self._again(project, target_moment)
        else:
            base_moment, base = await self._states.read(project, base_asked)
            target_moment, target = await self._states.read(project, target_asked)
        larger = max(base, target, key=len)
        keys = await _searched(larger, lambda: changed_keys(base, target, wanted))
        counts = count_changes(base, target, keys)
        page = keys[bisect_right(keys, after) :][: size + 1]
        response = pb.DiffStatesResponse(
            base=messages.moment_message(base_moment),
            target=messages.moment_message(target_moment),
            added_count=counts.added,
            removed_count=counts.removed,
            changed_count=counts.changed,
        )
        held = 0
        patches = not request.omit_patches
        found = read_changes(
            self._log, project, base, target, page[:size], events=whole, patches=patches
        )
        async with aclosing(found):
            async for change in found:
                held += messages.size_of_change(change, whole=whole)
                if response.changes and held > self._limits.page_bytes:
                    break
                omit = held > self._limits.page_bytes
                messages.fill_change(response.changes.add(), change, whole=whole, omit_payload=omit)
        if len(response.changes) < len(page):
            numbers = (
                *base_moment.sequence,
                base_moment.unix_ms,
                *target_moment.sequence,
                target_moment.unix_ms,
            )
            last = response.changes[-1].data_key
            response.next_page_token = checks.page_token(Token.DIFF_PAGE, request, numbers, last)
        return response

    async def get_history(self, request: pb.GetHistoryRequest, call: Call) -> pb.GetHistoryResponse:
        project = fields.project(request.project)
        data_key = fields.data_key(request.data_key)
        size = fields.page_size(request.page_size, self._limits)
        asked = fields.as_of(request.as_of, request.HasField("as_of"))
        if request.page_token:
            numbers, _ = checks.read_page_token(Token.HISTORY_PAGE, request, 5)
            moment, start = Moment(Sequence(*numbers[:2]), numbers[2]), Sequence(*numbers[3:])
        else:
            moment = await resolve_moment(self._log, project, asked)
            start = (await self._key_at(project, data_key, moment, call.scope)).sequence
        patches, payloads = not request.omit_patches, not request.omit_payloads
        most = self._limits.page_bytes
        page = await self._history.page(
            project, start, size, patches=patches, payloads=payloads, max_bytes=most
        )
        response = pb.GetHistoryResponse(
            as_of=messages.moment_message(moment), trimmed=page.trimmed
        )
        for revision in page.revisions:
            # The first may be larger than a page on its own.
            size_bytes = len(revision.entry.body) + revision.patch_bytes
            omitted = payloads and size_bytes > most
            messages.fill_revision(
                response.revisions.add(), revision, payload=payloads, omitted=omitted
            )
        if page.next is not None:
            numbers = (*moment.sequence, moment.unix_ms, *page.next)
            response.next_page_token = checks.page_token(Token.HISTORY_PAGE, request, numbers)
        return response

    async def get_revision(
        self, request: pb.GetRevisionRequest, call: Call
    ) -> pb.GetRevisionResponse:
        revision = await self._history.revision(
            fields.project(request.project),
            fields.data_key(request.data_key),
            checks.revision(request.revision),
            call.scope,
        )
        response = pb.GetRevisionResponse()
        messages.fill_revision(response.revision, revision)
        return response

    async def get_blame(self, request: pb.GetBlameRequest, call: Call) -> pb.GetBlameResponse:
        project = fields.project(request.project)
        data_key = fields.data_key(request.data_key)
        asked = fields.as_of(request.as_of, request.HasField("as_of"))
        moment = await resolve_moment(self._log, project, asked)
        latest = await self._key_at(project, data_key, moment, call.scope)
        if latest.deleted:
            raise data_key_not_found(project, data_key, moment.sequence)
        blamed = await self._history.blame(project, latest.sequence)
        parts, whole = messages.part_messages(blamed.parts, self._limits.page_bytes)
        return pb.GetBlameResponse(
            event=wire.event_message(blamed.newest.entry),
            parts=parts,
            as_of=messages.moment_message(moment),
            truncated=blamed.truncated or not whole,
        )

    async def _key_at(self, project: str, data_key: str, moment: Moment, scope: Scope) -> KeyState:
        latest = await self._states.key_at(project, data_key, moment.sequence, scope)
        if latest is None:
            raise data_key_not_found(project, data_key, moment.sequence)
        return latest

    async def _again(self, project: str, moment: Moment) -> State:
        """The state that a page token names."""
        if moment.sequence > (await self._log.bounds(project)).tail:
            raise invalid_token("page_token")
        return await self._states.at(project, moment.sequence)


async def _searched(state: State, search: Callable[[], T]) -> T:
    return search() if len(state) <= _INLINE_KEYS else await asyncio.to_thread(search)
