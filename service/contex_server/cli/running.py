"""Runs a command's coroutine and turns every way it can end into an exit code."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from typing import Any

import typer

from contex_server.cli.exits import ExitCode, complain_about


def run(work: Coroutine[Any, Any, ExitCode | None], *, follows: bool = False) -> None:
    """Runs `work` to its end.

    SIGINT and SIGTERM cancel it, so that streams are closed and cursors acknowledged. A reader of
    our output that goes away (`| head`) ends the command quietly.

    Args:
        work: The command. None means `ExitCode.OK`.
        follows: The command runs until it is interrupted: that is then its regular end.

    Raises:
        typer.Exit: Always, with the exit code.
    """
    try:
        code = asyncio.run(_cancelled_by_signals(work, follows))
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()
        code = ExitCode.OK
    except Exception as error:
        if _is_broken_pipe(error):
            _forget_stdout()
            code = ExitCode.OK
        else:
            code = complain_about(error)
    raise typer.Exit(code)


async def _cancelled_by_signals(
    work: Coroutine[Any, Any, ExitCode | None], follows: bool
) -> ExitCode:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    received: list[signal.Signals] = []

    def cancel(number: signal.Signals) -> None:
        received.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, cancel, number)
    try:
        code = await task or ExitCode.OK
    except asyncio.CancelledError:
        if not received:
            raise
        code = ExitCode.OK
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    if not received or follows:
        return code
    return ExitCode.TERMINATED if received[0] is signal.SIGTERM else ExitCode.INTERRUPTED


def _is_broken_pipe(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_broken_pipe, error.exceptions))
    return isinstance(error, BrokenPipeError)


def _forget_stdout() -> None:
    """The interpreter flushes stdout at exit, which would fail, and say so, once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
