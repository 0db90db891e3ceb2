"""The decorator that makes a command of a function."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import cached_property
from inspect import isawaitable
from typing import TYPE_CHECKING, TypeVar

from contex_cli.commands import listed, subcommands
from contex_cli.exits import Abort, ExitCode, UsageError, complain_about
from contex_cli.parameters import HelpWanted, Signature, option

if TYPE_CHECKING:
    from contex import AsyncClient

T = TypeVar("T")
_Function = Callable[..., Awaitable[ExitCode | None] | int]


class Session:
    """What most commands share: where to call, how to print, and the client, opened when used.

    Attributes:
        publisher: Who calls, for the log and the audit.
        follows: The command runs until it is interrupted: that is its regular end.
    """

    def __init__(
        self,
        project: str = option("default", "The project.", "--project", "-p", env="CONTEX_PROJECT"),
        target: str = option(
            "127.0.0.1:50051", "The server to talk to.", metavar="HOST:PORT", env="CONTEX_TARGET"
        ),
        timeout: float = option(
            10.0, "How long a call may take, with retries.", metavar="SECONDS", minimum=0.001
        ),
        json: bool = option(False, "One JSON object a line, for programs."),
    ) -> None:
        self.project = project
        self.target = target
        self.timeout = timeout
        self.json = json
        self.publisher = ""
        self.follows = False
        self._clients = AsyncExitStack()

    @cached_property
    def client(self) -> AsyncClient:
        """The client of the server at `target`."""
        return self.connect(self.target)

    def connect(self, target: str) -> AsyncClient:
        """A client that is closed at the end of the command."""
        from contex import AsyncClient  # grpc: commands that don't call start without it

        client = AsyncClient(target, publisher=self.publisher, timeout=self.timeout)
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
        """Closes the clients."""
        await self._clients.aclose()


class Command:
    """A command: what it takes, what it says about itself, and how it runs."""

    def __init__(self, function: _Function, session: set[str], timeout: float) -> None:
        self.function = function
        self._session = session
        self._timeout = timeout

    @cached_property
    def signature(self) -> Signature:
        """The options and arguments, those of the session last."""
        shared = Signature.of(Session)
        for parameter in shared.parameters:
            if parameter.name == "timeout":
                parameter.spec = replace(parameter.spec, default=self._timeout)
        taken = {name: part for name, part in shared.parts.items() if name in self._session}
        return Signature(Signature.of(self.function).parts | taken)

    def page(self, name: str) -> str:
        """What `contex NAME --help` prints."""
        more = listed(subcommands(name))
        return self.signature.page(f"contex {name}", self.function.__doc__ or "", more)

    def __call__(self, name: str, words: list[str]) -> int:
        """Runs it with the words of the command line; returns the exit code."""
        try:
            values = self.signature.parse(words, subcommands(name))
            shared = Signature.of(Session).parameters
            session = Session(**{p.name: values.pop(p.name, p.spec.default) for p in shared})
            takes_session = "session" in self.function.__annotations__
            work = self.function(**({"session": session} if takes_session else {}), **values)
            if isawaitable(work):
                return _run(work, session)
            return work
        except HelpWanted:
            print(self.page(name), end="")
            return ExitCode.OK
        except UsageError as error:
            usage = self.signature.usage(f"contex {name}")
            print(f"{usage}\nTry 'contex {name} -h' for help.", file=sys.stderr)
            print(f"\nError: {error}", file=sys.stderr)
            return ExitCode.USAGE
        except Abort:
            print("Aborted!", file=sys.stderr)
            return ExitCode.UNEXPECTED
        except Exception as error:
            return _nobody_reads() if _is_broken_pipe(error) else complain_about(error)


def command(
    *, project: bool = True, target: bool = True, json: bool = True, timeout: float = 10.0
) -> Callable[[_Function], Command]:
    """Makes a command of a function, which is a coroutine or prepares one.

    Its parameters are the command's options, see `contex_cli.parameters`; a parameter called
    `session` is the `Session`. Errors become exit codes, and SIGINT and SIGTERM cancel the
    coroutine, so that streams are closed and cursors acknowledged.

    Args:
        project: Whether it takes --project, ...
        target: ... --target and --timeout, ...
        json: ... and --json.
        timeout: The default of --timeout.
    """
    taken = {"project": project, "target": target, "timeout": target, "json": json}
    session = {name for name, is_taken in taken.items() if is_taken}
    return lambda function: Command(function, session, timeout)


def confirm(question: str) -> None:
    """Asks; call it before there is an event loop, which would keep Ctrl-C from ending it.

    Raises:
        Abort: The answer is not yes.
    """
    print(f"{question} [y/N]: ", end="", flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Abort


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


def _nobody_reads() -> ExitCode:
    """A reader that goes away (`| head`) ends a command quietly."""
    # The interpreter flushes stdout at exit, which would fail, and say so, once more.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitCode.OK
