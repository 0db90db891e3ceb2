"""While a server builds a project's index: how far it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import TypeVar

import contex

from contex_cli import output as out
from contex_cli.bars import bar
from contex_cli.command import Session
from contex_cli.parameters import UsageError

T = TypeVar("T")

_ASK_EVERY_S = 1.0
_TELL_EVERY = 10
"""Of what is asked, what is told where no line can be written over."""
_BAR = 20


async def when_indexed(session: Session, call: Callable[[], Awaitable[T]]) -> T:
    """Makes a call that needs the index.

    One that has run out of time while the index is built is made again, unless --timeout says how
    long it may take.
    """
    async with indexing_shown(session):
        while True:
            try:
                return await call()
            except contex.DeadlineExceeded:
                if session.is_limited or not await _built(session):
                    raise


async def default_threshold(session: Session) -> float:
    """The project's default threshold."""
    if not await _may_ask(session):
        raise UsageError(
            "missing: the project's default is told to those only who may see all of its data",
            "--threshold",
        )
    return (await session.client.matching_status(session.project)).default_threshold


async def _may_ask(session: Session) -> bool:
    """Whether the caller may know how matching is doing: what is refused is in the audit, and
    nobody has asked for it."""
    access = session.client.access
    try:
        is_off = (await access.who_am_i()).credential is None
        return is_off or bool(await access.can("GetMatchingStatus", session.project))
    except contex.Unimplemented:  # A server of before access.
        return True


async def _built(session: Session) -> bool:
    """Waits for the index; False if it was not being built, or the caller may not know."""
    if not await _may_ask(session):
        return False
    waited = False
    while (await session.client.matching_status(session.project)).is_indexing:
        waited = True
        await asyncio.sleep(_ASK_EVERY_S)
    return waited


@asynccontextmanager
async def indexing_shown(session: Session) -> AsyncIterator[None]:
    """Shows how far the index is, if it is being built when the block begins and lasts."""
    task = asyncio.create_task(_show(session))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # The command itself meets what is wrong.


async def _show(session: Session) -> None:
    from rich.live import Live
    from rich.text import Text

    await asyncio.sleep(_ASK_EVERY_S)
    if not await _may_ask(session):
        return
    errors = out.error_console()
    moving = Live(console=errors, transient=True, auto_refresh=False)
    asked = 0
    with moving if errors.is_terminal else nullcontext():
        status = await session.client.matching_status(session.project)
        while status.is_indexing:
            line = indexing_line(status)
            if errors.is_terminal:
                moving.update(Text(line), refresh=True)
            elif asked % _TELL_EVERY == 0:
                out.remark(line)
            asked += 1
            await asyncio.sleep(_ASK_EVERY_S)
            status = await session.client.matching_status(session.project)


def indexing_line(status: contex.MatchingStatus) -> str:
    share = status.data_indexed / max(status.data_total, 1)
    return (
        f"indexing  {bar(share, _BAR)}  {status.data_indexed:,} "
        f"of {out.counted(status.data_total, 'datum')} ({share:.0%})"
    )
