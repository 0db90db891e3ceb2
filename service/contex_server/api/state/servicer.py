"""StateService: check, call the domain, convert."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from contextlib import aclosing
from functools import partial
from itertools import islice
from typing import TypeVar

from contex.v1 import state_service_pb2 as pb

from contex_server.api.shared import fields
from contex_server.api.shared.cursors import Token, invalid_token, page_token, read_page_token
from contex_server.api.shared.servicer import Servicer
from contex_server.api.state import messages
from contex_server.kernel.call import Call
from contex_server.kernel.config import Limits
from contex_server.kernel.errors import Checks, shutting_down
from contex_server.kernel.model import KeyState, Sequence
from contex_server.kernel.scope import Scope
from contex_server.state.diff import ChangeCounts, count_changes, data_of, read_changes
from contex_server.state.fold import RecentEntries
from contex_server.state.history import data_key_not_found
from contex_server.state.moments import Moment, resolve_moment
from contex_server.state.reader import INLINE_KEYS
from contex_server.state.state import Selection, State, changed_keys

T = TypeVar("T")


class StateServicer(Servicer):
    SERVICE = pb.DESCRIPTOR.services_by_name["StateService"]

    async def get_state(self, request: pb.GetStateRequest, call: Call) -> pb.GetStateResponse:
        with Checks() as check:
            selection = check(_selection, request, self._limits, call.scope)
            whole = check(_is_whole, request.view)
            size = check(fields.page_size, request.page_size, self._limits)
            as_of = check(fields.optional_moment, request)
            page = check(read_page_token, Token.STATE_PAGE, call.realm, request, 4)
        if page is not None:
            (*numbers, count), after = page
            moment, state = await self._again(call, numbers)
            recent = None
        else:
            recent = RecentEntries() if whole else None
            moment, state = await self._rooms.state.reader.read(call.project, as_of, recent)
            count, after = await _searched(state, lambda: state.count(selection)), ""
        keys = await _searched(
            state, lambda: list(islice(state.select(selection, after), size + 1))
        )
        response = pb.GetStateResponse(as_of=messages.moment_message(moment), data_count=count)
        size_bytes = 0
        data = data_of(self._log, call.project, state, keys[:size], recent, events=whole)
        async with aclosing(data):
            async for datum in data:
                size_bytes += messages.size_of(datum)
                if response.data and size_bytes > self._limits.page_bytes:
                    break
                omit = size_bytes > self._limits.page_bytes
                messages.fill_datum(response.data.add(), datum, omit_payload=omit)
        if len(response.data) < len(keys):
            response.next_page_token = page_token(
                Token.STATE_PAGE,
                call.realm,
                request,
                (*_numbers(moment), count),
                response.data[-1].data_key,
            )
        return response

    async def stream_state(self, request: pb.StreamStateRequest, call: Call) -> None:
        with Checks() as check:
            selection = check(_selection, request, self._limits, call.scope)
            whole = check(_is_whole, request.view)
            after = check(fields.key_prefix, request.after_data_key, "after_data_key")
            as_of = check(fields.optional_moment, request)
        recent = RecentEntries() if whole else None
        moment, state = await self._rooms.state.reader.read(call.project, as_of, recent)
        count = await _searched(state, lambda: state.count(selection))
        keys = await _searched(state, lambda: list(state.select(selection, after)))

        new_response = partial(
            pb.StreamStateResponse, as_of=messages.moment_message(moment), data_count=count
        )
        response = new_response()
        size_bytes = written = 0

        async def send() -> None:
            nonlocal response, size_bytes, written
            await call.write(response.SerializeToString())
            written += len(response.data)
            response, size_bytes = new_response(), 0

        data = data_of(self._log, call.project, state, keys, recent, events=whole)
        try:
            async with aclosing(data):
                async for datum in data:
                    size = messages.size_of(datum)
                    if response.data and size_bytes + size > self._settings.message_bytes:
                        await send()
                        if self._drain.started:
                            raise shutting_down()
                    messages.fill_datum(response.data.add(), datum)
                    size_bytes += size
            if response.data or not written:
                await send()
        finally:
            self._audit.exported(call.project, call.origin, call.method, written)

    async def diff_states(self, request: pb.DiffStatesRequest, call: Call) -> pb.DiffStatesResponse:
        with Checks() as check:
            selection = check(_selection, request, self._limits, call.scope)
            whole = check(_is_whole, request.view)
            size = check(fields.page_size, request.page_size, self._limits)
            base_query = check(fields.moment, request.base, "base")
            target_query = check(fields.optional_moment, request, "target")
            token = check(read_page_token, Token.DIFF_PAGE, call.realm, request, 6)
        after = ""
        if token is not None:
            numbers, after = token
            base_moment, base = await self._again(call, numbers[:3])
            target_moment, target = await self._again(call, numbers[3:])
        else:
            base_moment, base = await self._rooms.state.reader.read(call.project, base_query)
            target_moment, target = await self._rooms.state.reader.read(call.project, target_query)
        larger = max(base, target, key=lambda state: state.most_keys)
        keys, counts = await _searched(larger, lambda: _compared(base, target, selection))
        page = keys[bisect_right(keys, after) :][: size + 1]
        response = pb.DiffStatesResponse(
            base=messages.moment_message(base_moment),
            target=messages.moment_message(target_moment),
            added_count=counts.added,
            removed_count=counts.removed,
            changed_count=counts.changed,
        )
        size_bytes = 0
        patches = not request.omit_patches
        changes = read_changes(
            self._log, call.project, base, target, page[:size], events=whole, patches=patches
        )
        async with aclosing(changes):
            async for change in changes:
                size_bytes += messages.size_of_change(change, whole=whole)
                if response.changes and size_bytes > self._limits.page_bytes:
                    break
                omit = size_bytes > self._limits.page_bytes
                messages.fill_change(response.changes.add(), change, whole=whole, omit_payload=omit)
        if len(response.changes) < len(page):
            response.next_page_token = page_token(
                Token.DIFF_PAGE,
                call.realm,
                request,
                (*_numbers(base_moment), *_numbers(target_moment)),
                response.changes[-1].data_key,
            )
        return response

    async def get_history(self, request: pb.GetHistoryRequest, call: Call) -> pb.GetHistoryResponse:
        with Checks() as check:
            data_key = check(fields.data_key, request.data_key)
            size = check(fields.page_size, request.page_size, self._limits)
            as_of = check(fields.optional_moment, request)
            token = check(read_page_token, Token.HISTORY_PAGE, call.realm, request, 5)
        if token is not None:
            numbers, _ = token
            moment, start = _moment(numbers[:3]), Sequence(*numbers[3:])
            if not await self._rooms.state.history.is_of(call.project, data_key, start, call.scope):
                raise invalid_token("page_token")
        else:
            moment = await resolve_moment(self._log, call.project, as_of)
            start = (await self._key_at(call, data_key, moment)).sequence
        patches, payloads = not request.omit_patches, not request.omit_payloads
        most = self._limits.page_bytes
        page = await self._rooms.state.history.page(
            call.project, start, size, patches=patches, payloads=payloads, max_bytes=most
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
            numbers = (*_numbers(moment), *page.next)
            response.next_page_token = page_token(Token.HISTORY_PAGE, call.realm, request, numbers)
        return response

    async def get_revision(
        self, request: pb.GetRevisionRequest, call: Call
    ) -> pb.GetRevisionResponse:
        with Checks() as check:
            data_key = check(fields.data_key, request.data_key)
            if request.revision < 1:
                check.refuse("revision", "must be at least 1")
        revision = await self._rooms.state.history.revision(
            call.project, data_key, request.revision, call.scope
        )
        response = pb.GetRevisionResponse()
        messages.fill_revision(response.revision, revision)
        return response

    async def get_blame(self, request: pb.GetBlameRequest, call: Call) -> pb.GetBlameResponse:
        with Checks() as check:
            data_key = check(fields.data_key, request.data_key)
            as_of = check(fields.optional_moment, request)
        moment = await resolve_moment(self._log, call.project, as_of)
        latest = await self._key_at(call, data_key, moment)
        if latest.deleted:
            raise data_key_not_found(call.project, data_key, moment.sequence)
        blamed = await self._rooms.state.history.blame(call.project, latest.sequence)
        most = self._limits.page_bytes
        return await asyncio.to_thread(messages.blame_message, blamed, moment, most)

    async def _key_at(self, call: Call, data_key: str, moment: Moment) -> KeyState:
        latest = await self._rooms.state.reader.key_at(
            call.project, data_key, moment.sequence, call.scope
        )
        if latest is None:
            raise data_key_not_found(call.project, data_key, moment.sequence)
        return latest

    async def _again(self, call: Call, numbers: SequenceOf[int]) -> tuple[Moment, State]:
        """The state at a moment that a page token holds."""
        moment = _moment(numbers)
        if moment.sequence > (await self._log.bounds(call.project)).tail:
            raise invalid_token("page_token")
        return moment, await self._rooms.state.reader.at(call.project, moment.sequence)


def _selection(
    request: pb.GetStateRequest | pb.StreamStateRequest | pb.DiffStatesRequest,
    limits: Limits,
    scope: Scope,
) -> Selection:
    """Which keys of a state to return, of those that the caller may see."""
    with Checks() as check:
        prefix = check(fields.key_prefix, request.prefix)
        globs = check(fields.key_glob.all_of, request.data_keys, "data_keys", limits)
    deleted = not isinstance(request, pb.DiffStatesRequest) and request.include_deleted
    return Selection(globs, prefix, deleted, scope)


def _is_whole(view: int) -> bool:
    """Whether to return whole events, and not only keys."""
    return fields.enum(view, pb.StateView.DESCRIPTOR, "view") != pb.STATE_VIEW_KEYS


def _numbers(moment: Moment) -> tuple[int, int, int]:
    return *moment.sequence, moment.unix_ms


def _moment(numbers: SequenceOf[int]) -> Moment:
    ms, n, unix_ms = numbers
    return Moment(Sequence(ms, n), unix_ms)


def _compared(base: State, target: State, selection: Selection) -> tuple[list[str], ChangeCounts]:
    keys = changed_keys(base, target, selection)
    return keys, count_changes(base, target, keys)


async def _searched(state: State, search: Callable[[], T]) -> T:
    return search() if state.most_keys <= INLINE_KEYS else await asyncio.to_thread(search)
