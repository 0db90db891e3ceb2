"""Open streams and the rights that they were opened with.

A stream has one scope for its life: filters, pages and feeds are made for it. When its caller may
see less or more, it ends with ACCESS_CHANGED, and the client goes on from its cursor with what
holds then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from contex_server.access.authenticator import check_valid, valid_until_s
from contex_server.access.directory import Directory
from contex_server.kernel.call import Call, Write
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.principal import Principal
from contex_server.kernel.scope import Scope
from contex_server.kernel.slices import sliced

_CHECK_S = 0.5
_WRITE_S = 3.0
"""How long a message that is under way may take when its stream is ended."""


@dataclass(slots=True, eq=False)
class _Open:
    """An open stream.

    Attributes:
        scopes: By project, what it was opened with.
        ended: Why it was ended from here.
        writing: How many messages are being sent: one at most.
    """

    task: asyncio.Task[Any]
    principal: Principal
    permissions: frozenset[int]
    scopes: dict[str, Scope] = field(default_factory=dict)
    ended: ContexError | None = None
    writing: int = 0

    def sent_by(self, write: Write) -> Write:
        """What sends messages, until the stream is ended.

        It is not cancelled at once while one is under way: gRPC could then tell the client nothing
        more, which would wait for ever.
        """

        async def send(message: bytes) -> None:
            if self.ended is not None:
                raise self.ended
            self.writing += 1
            try:
                await write(message)
            finally:
                self.writing -= 1
                if self.ended is not None:
                    self.task.cancel()

        return send


class OpenCalls:
    """All open streams of a server."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._open: set[_Open] = set()
        self._changed = asyncio.Event()
        directory.watch(self._changed.set)

    def __len__(self) -> int:
        return len(self._open)

    @asynccontextmanager
    async def opened(
        self, call: Call, permissions: frozenset[int]
    ) -> AsyncIterator[dict[str, Scope]]:
        """Ends the block when its caller's rights change; gives where its scopes are to be noted.

        Raises:
            ContexError: UNAUTHENTICATED, PERMISSION_DENIED, ACCESS_CHANGED.
        """
        task = asyncio.current_task()
        assert task is not None
        stream = _Open(task, call.principal, permissions)
        call.write = stream.sent_by(call.write)
        self._open.add(stream)
        try:
            # Since the credential was looked at, the request has been waited for. From here on,
            # changes are told.
            check_valid(call.principal, self._directory)
            yield stream.scopes
        except asyncio.CancelledError:
            if stream.ended is None or task.uncancel():
                raise  # By the client, too.
            raise stream.ended from None
        finally:
            self._open.discard(stream)

    async def run(self) -> None:
        """Ends the streams whose credentials expire, or whose callers have other rights now."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_S):
                    await self._changed.wait()
            changed = self._changed.is_set()
            self._changed.clear()
            now = time.time()
            async for stream in sliced(tuple(self._open)):
                if stream.principal.key_id:
                    self._directory.used(stream.principal.key_id)
                if changed or valid_until_s(stream.principal, self._directory) <= now:
                    self._check(stream)

    def _check(self, stream: _Open) -> None:
        if stream.ended is None and stream in self._open:
            try:
                self._check_rights(stream)
            except ContexError as error:
                stream.ended = error
                if not stream.writing:
                    stream.task.cancel()
                    return
                # A client that does not read keeps nothing for that.
                loop = asyncio.get_running_loop()
                loop.call_later(_WRITE_S, self._cancel, stream)

    def _cancel(self, stream: _Open) -> None:
        if stream in self._open:
            stream.task.cancel()

    def _check_rights(self, stream: _Open) -> None:
        check_valid(stream.principal, self._directory)
        policy = self._directory.policy
        for project, before in stream.scopes.items():
            scope = policy.scope(stream.principal, stream.permissions, project)
            if scope is None:
                raise ContexError(
                    Reason.PERMISSION_DENIED,
                    f"{stream.principal.identity!r} may not do this in {project!r} any more",
                    metadata={"identity": stream.principal.identity, "project": project},
                )
            if scope != before:
                raise ContexError(
                    Reason.ACCESS_CHANGED,
                    f"what {stream.principal.identity!r} may see of {project!r} has changed: go on "
                    "from the cursor",
                    retry_after_ms=0,
                )
