"""The decorator that makes a command of a function."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from inspect import getdoc, isawaitable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from contex_cli.commands import COMMANDS, command_list
from contex_cli.exits import (
    ExitCode,
    InputError,
    Unreached,
    complain,
    complain_about,
    end_quietly,
    is_broken_pipe,
)
from contex_cli.parameters import argument_of, bind, declared, option
from contex_cli.targets import SECURE, parse_target, unreached

if TYPE_CHECKING:
    import asyncio

    from contex import AsyncClient

T = TypeVar("T")
_Function = Callable[..., Awaitable[ExitCode | None] | int]
_TLS = ("tls", "tls_ca", "tls_cert", "tls_key")
_SHARED = ("project", "target", *_TLS, "api_key_file", "timeout", "json")
"""Options that nearly all commands take; help lists them last."""
_CANCEL_AGAIN_S = 0.2


@dataclass
class Session:
    """What most commands share: where to call, how to print, and the client, opened when used.

    Attributes:
        api_key: What proves who calls; None to look for a key.
        publisher: Who calls, for the log and the audit: CONTEX_PUBLISHER, unless a command knows
            better.
        follows: The command runs until it is interrupted: that is its regular end.
        waits: The command waits for a server by itself.
        is_limited: Whether --timeout was given.
        names_project: Whether the project was given, and is not the default.
    """

    project: str = option("default", "The project.", "--project", "-p", env="CONTEX_PROJECT")
    target: str = option(
        "127.0.0.1:50051",
        "The server to talk to; contexs://HOST:PORT by TLS.",
        metavar="HOST:PORT",
        env="CONTEX_TARGET",
    )
    tls: bool = option(False, "By TLS, as with contexs://; the options below imply it.")
    tls_ca: str | None = option(
        None,
        "Trust the server if this authority says so. [default: the system's]",
        metavar="FILE",
        env="CONTEX_TLS_CA",
    )
    tls_cert: str | None = option(
        None, "A client certificate, in PEM.", metavar="FILE", env="CONTEX_TLS_CLIENT_CERT"
    )
    tls_key: str | None = option(
        None, "Its private key.", metavar="FILE", env="CONTEX_TLS_CLIENT_KEY"
    )
    api_key_file: str = option(
        "",
        "Where the API key is. [default: CONTEX_API_KEY, CONTEX_API_KEY_FILE, or what contex login "
        "keeps]",
        metavar="FILE",
    )
    timeout: float = option(
        10.0, "How long a call may take, with retries.", metavar="SECONDS", minimum=0.001
    )
    json: bool = option(False, "One JSON object a line, for programs.")
    api_key: str | None = field(default=None, init=False, repr=False)
    publisher: str = field(
        default_factory=lambda: os.environ.get("CONTEX_PUBLISHER", ""), init=False
    )
    follows: bool = field(default=False, init=False)
    waits: bool = field(default=False, init=False)
    is_limited: bool = field(default=False, init=False)
    names_project: bool = field(default=False, init=False)
    _clients: AsyncExitStack = field(default_factory=AsyncExitStack, init=False)
    _attempts: list[asyncio.Task[None]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        try:
            # Files of TLS are for TLS, unless the target's scheme says otherwise.
            implied = bool(self.tls_variables) and "://" not in self.target
            self.target = parse_target(self.target, self.tls or implied)
        except ValueError as error:
            raise InputError(str(error)) from None

    @property
    def address(self) -> str:
        """The target, whether by TLS or not: what keys are kept for."""
        return self.target.removeprefix(SECURE)

    @property
    def tls_variables(self) -> dict[str, str]:
        """The files of TLS as variables, for commands that this one runs."""
        files = {"CA": self.tls_ca, "CLIENT_CERT": self.tls_cert, "CLIENT_KEY": self.tls_key}
        return {f"CONTEX_TLS_{name}": os.path.abspath(file) for name, file in files.items() if file}

    @cached_property
    def client(self) -> AsyncClient:
        """The client of the server at `target`."""
        return self.connect(self.target)

    async def reconnect(self) -> None:
        """Lets `client` be another one: a server that is starting may make its certificate, and the
        first key, only now."""
        await self.client.close()
        del self.client

    def connect(self, target: str) -> AsyncClient:
        """A client that is closed at the end of the command.

        Its first attempt to reach the server is also the last: the client itself would repeat
        calls and resume streams until their time is up.
        """
        import asyncio

        from contex import AsyncClient, Tls  # grpc: commands that don't call start without it

        try:
            target = parse_target(target)  # of a place, perhaps
            if self.api_key is None and not self.api_key_file:
                _check_key(target)
            tls = None
            if target.startswith(SECURE):
                tls = Tls(ca=self.tls_ca, cert=self.tls_cert, key=self.tls_key)
            client = AsyncClient(
                target,
                publisher=self.publisher,
                timeout=self.timeout,
                tls=tls,
                api_key=self.api_key,
                api_key_file=(self.api_key_file or None) if self.api_key is None else None,
            )
        except ValueError as error:
            raise InputError(str(error)) from None
        self._clients.push_async_callback(client.close)
        if not self.waits and (command := asyncio.current_task()) is not None:
            self._attempts.append(asyncio.create_task(_attempt(client, target, command)))
        return client

    async def first_failure(self) -> Exception | None:
        """Why no server was reached at first, if that is so."""
        import asyncio

        done = await asyncio.gather(*self._attempts, return_exceptions=True)
        return next((result for result in done if isinstance(result, Unreached)), None)

    def answer(self, value: T, show: Callable[[T], None]) -> None:
        """Prints an answer as JSON, or by `show` for people."""
        from contex_cli.output import print_json

        if self.json:
            print_json(value)
        else:
            show(value)

    async def close(self) -> None:
        import asyncio

        for attempt in self._attempts:
            attempt.cancel()
        await asyncio.gather(*self._attempts, return_exceptions=True)
        await self._clients.aclose()


def _check_key(target: str) -> None:
    """Says why a key is not used; raises what is wrong with the one that will be found."""
    import warnings

    from contex import credentials

    with warnings.catch_warnings(record=True) as problems:
        warnings.simplefilter("always", credentials.CredentialsWarning)
        is_encrypted = target.startswith(SECURE)
        address = target.removeprefix(SECURE)
        credentials.Credentials(address, encrypted=is_encrypted).metadata()
    for problem in problems:
        complain(str(problem.message))
    warnings.simplefilter("ignore", credentials.CredentialsWarning)  # It has been said.


async def _attempt(client: AsyncClient, target: str, command: asyncio.Task[Any]) -> None:
    """Asks a server for its health, once; ends the command if none is reached."""
    import asyncio

    from contex import ContexError

    try:
        await client.health()
    except ContexError as error:  # any answer will do
        if why := unreached(error, target):
            while not command.done():
                # gRPC loses a cancellation that arrives as the command's own call fails.
                command.cancel()
                await asyncio.wait([command], timeout=_CANCEL_AGAIN_S)
            raise Unreached(why) from None


class Command(click.Command):
    """A command: what it takes, what it says about itself, and how it runs."""

    name: str

    def __init__(
        self, name: str, function: _Function, without: Collection[str], timeout: float
    ) -> None:
        self._function = function
        parameters = [p for p in declared(function) if p.name not in without]
        parameters.sort(key=lambda parameter: parameter.name in _SHARED)
        for parameter in parameters:
            if parameter.name == "timeout":
                parameter.default = timeout
        super().__init__(
            name,
            params=parameters,
            help=f"{COMMANDS[name][1]}\n\n{getdoc(function) or ''}",
            context_settings={"help_option_names": ["-h", "--help"], "terminal_width": 100},
        )

    def page(self) -> str:
        """What --help prints."""
        context = click.Context(self, info_name=f"contex {self.name}", **self.context_settings)
        return self.get_help(context) + "\n"

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands of a group that is a command itself."""
        if more := command_list(self.name):
            formatter.write("\n" + more)

    def run(self, words: list[str]) -> int:
        """Runs it with the words of the command line; returns the exit code."""
        context = None
        try:
            context = self.make_context(f"contex {self.name}", list(words))
            arguments = bind(self._function, context.params)
            if isinstance(session := arguments.get("session"), Session):
                source, default = context.get_parameter_source, click.core.ParameterSource.DEFAULT
                session.is_limited = source("timeout") is not default
                session.names_project = source("project") is not default
            work = self._function(**arguments)
            code = _run(work, arguments["session"]) if isawaitable(work) else work
            sys.stdout.flush()
            return code
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
            if is_broken_pipe(error):
                return end_quietly()
            return complain_about(error, partial(argument_of, self))


def command(
    name: str, *, without: Collection[str] = (), timeout: float = 10.0
) -> Callable[[_Function], Command]:
    """Makes a command of `COMMANDS` of a function, which is a coroutine or prepares one.

    Its parameters are the command's options, see `contex_cli.parameters`. Its docstring adds to the
    help in the table. Errors become exit codes, and SIGINT and SIGTERM cancel the coroutine, so
    that streams are closed and cursors acknowledged.

    `without` names the options of its `Session` that it does not take; `timeout` is the default of
    --timeout.
    """
    return lambda function: Command(name, function, without, timeout)


def _run(work: Awaitable[ExitCode | None], session: Session) -> int:
    import asyncio

    return asyncio.run(_until_signal(work, session))


async def _until_signal(work: Awaitable[ExitCode | None], session: Session) -> ExitCode:
    import asyncio
    import signal

    from contex import ContexError

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
            raise await session.first_failure() or asyncio.CancelledError from None
        code = ExitCode.OK
    except ContexError as error:
        # What the command met itself names no target as it was typed.
        raise (unreached(error) and await session.first_failure()) or error from None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        await session.close()
    if not received or session.follows:
        return code
    return ExitCode.TERMINATED if received[0] is signal.SIGTERM else ExitCode.INTERRUPTED
