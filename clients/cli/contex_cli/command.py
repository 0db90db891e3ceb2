"""The decorator that makes a command of a function."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cached_property
from inspect import isawaitable
from typing import TYPE_CHECKING, TypeVar

import click

from contex_cli.commands import listed, subcommands
from contex_cli.exits import ExitCode, InputError, complain_about
from contex_cli.parameters import bind, declared, option

if TYPE_CHECKING:
    from contex import AsyncClient

T = TypeVar("T")
_Function = Callable[..., Awaitable[ExitCode | None] | int]


@dataclass
class Session:
    """What most commands share: where to call, how to print, and the client, opened when used.

    Attributes:
        publisher: Who calls, for the log and the audit.
        follows: The command runs until it is interrupted: that is its regular end.
    """

    project: str = option("default", "The project.", "--project", "-p", env="CONTEX_PROJECT")
    target: str = option(
        "127.0.0.1:50051", "The server to talk to.", metavar="HOST:PORT", env="CONTEX_TARGET"
    )
    timeout: float = option(
        10.0, "How long a call may take, with retries.", metavar="SECONDS", minimum=0.001
    )
    json: bool = option(False, "One JSON object a line, for programs.")
    publisher: str = field(default="", init=False)
    follows: bool = field(default=False, init=False)
    _clients: AsyncExitStack = field(default_factory=AsyncExitStack, init=False)

    @cached_property
    def client(self) -> AsyncClient:
        """The client of the server at `target`."""
        return self.connect(self.target)

    def connect(self, target: str) -> AsyncClient:
        """A client that is closed at the end of the command."""
        from contex import AsyncClient  # grpc: commands that don't call start without it

        try:
            client = AsyncClient(target, publisher=self.publisher, timeout=self.timeout)
        except ValueError as error:
            raise InputError(str(error)) from None
        self._clients.push_async_callback(client.close)
        return client

    def answer(self, value: T, show: Callable[[T], None]) -> None:
        """Prints an answer as JSON, or by `show` for people."""
        from contex_cli.output import print_json

        if self.json:
            print_json(value)
        else:
            show(value)

    async def close(self) -> None:
        await self._clients.aclose()


class Command(click.Command):
    """A command: what it takes, what it says about itself, and how it runs."""

    def __init__(self, function: _Function, taken: dict[str, bool], timeout: float) -> None:
        self._function = function
        parameters = [p for p in declared(function) if taken.get(p.name or "", True)]
        parameters.sort(key=lambda parameter: parameter.name in taken)  # the session's last
        for parameter in parameters:
            if parameter.name == "timeout":
                parameter.default = timeout
        super().__init__(
            function.__name__,
            params=parameters,
            help=function.__doc__,
            context_settings={"help_option_names": ["-h", "--help"], "terminal_width": 100},
        )

    def page(self, name: str) -> str:
        """What `contex NAME --help` prints."""
        context = click.Context(self, info_name=f"contex {name}", **self.context_settings)
        return self.get_help(context) + "\n"

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands of a group that is a command itself."""
        if more := listed(subcommands((ctx.info_name or "").removeprefix("contex "))):
            formatter.write("\n" + more)

    def run(self, name: str, words: list[str]) -> int:
        """Runs it with the words of the command line; returns the exit code."""
        context = None
        try:
            context = self.make_context(f"contex {name}", list(words))
            arguments = bind(self._function, context.params)
            work = self._function(**arguments)
            return _run(work, arguments["session"]) if isawaitable(work) else work
        except click.exceptions.Exit:  # after --help
            return ExitCode.OK
        except click.UsageError as error:
            error.ctx = error.ctx or context
            error.show()
            return ExitCode.USAGE
        except click.Abort:
            print("Aborted!", file=sys.stderr)
            return ExitCode.UNEXPECTED
        except Exception as error:
            if not _is_broken_pipe(error):
                return complain_about(error)
            # A reader that goes away (`| head`) ends a command quietly. The interpreter flushes
            # stdout at exit, which would fail, and say so, once more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return ExitCode.OK


def command(
    *, project: bool = True, target: bool = True, json: bool = True, timeout: float = 10.0
) -> Callable[[_Function], Command]:
    """Makes a command of a function, which is a coroutine or prepares one.

    Its parameters are the command's options, see `contex_cli.parameters`. Errors become exit
    codes, and SIGINT and SIGTERM cancel the coroutine, so that streams are closed and cursors
    acknowledged.

    `project`, `target` and `json` say whether it takes these options of its `Session`, `target`
    also --timeout, whose default is `timeout`.
    """
    taken = {"project": project, "target": target, "timeout": target, "json": json}
    return lambda function: Command(function, taken, timeout)


def _run(work: Awaitable[ExitCode | None], session: Session) -> int:
    import asyncio

    code = asyncio.run(_until_signal(work, session))
    sys.stdout.flush()
    return code


async def _until_signal(work: Awaitable[ExitCode | None], session: Session) -> ExitCode:
    import asyncio
    import signal

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
        await session.close()
    if not received or session.follows:
        return code
    return ExitCode.TERMINATED if received[0] is signal.SIGTERM else ExitCode.INTERRUPTED


def _is_broken_pipe(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_broken_pipe, error.exceptions))
    return isinstance(error, BrokenPipeError)
