"""The room of access, put together."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial

from contex_server.access.admin import Admin
from contex_server.access.authenticator import Authenticator
from contex_server.access.certificates import holder_of
from contex_server.access.directory import Directory
from contex_server.access.open_calls import OpenCalls
from contex_server.access.rules import Rule
from contex_server.kernel.config import Settings
from contex_server.log.access import AccessStore


@dataclass(frozen=True, slots=True)
class AccessRoom:
    """Who may do what.

    Attributes:
        required: Whether callers have to prove who they are.
        rules: What each RPC takes, by its name.
    """

    required: bool
    directory: Directory
    authenticator: Authenticator
    open_calls: OpenCalls
    admin: Admin
    rules: dict[str, Rule] = field(default_factory=dict)


async def open_access(settings: Settings, store: AccessStore, stack: AsyncExitStack) -> AccessRoom:
    """Builds the room; the stack closes it.

    Raises:
        ContexError: STORE_UNAVAILABLE.
    """
    directory = Directory(store)
    await directory.refresh()
    stack.push_async_callback(directory.close)
    open_calls = OpenCalls(directory)
    for work in (directory.run(), open_calls.run()):
        task = asyncio.create_task(work, name="contex-access")
        stack.callback(task.cancel)
    verify = None
    if settings.issuers:
        from contex_server.access.tokens import TokenVerifier  # It loads libraries.

        tokens = TokenVerifier(settings.issuers)
        tokens.start()
        stack.push_async_callback(tokens.close)
        verify = tokens.holder
    authenticator = Authenticator(directory, verify, partial(holder_of, part=settings.tls_identity))
    return AccessRoom(
        settings.access, directory, authenticator, open_calls, Admin(directory, store)
    )
