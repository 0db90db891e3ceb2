"""Commands and function calls on leased connections: what all facets of the store share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from importlib.resources import files
from typing import Any, TypeVar

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from contex_server.kernel.config import Settings
from contex_server.kernel.model import END_OF_TIME, Entry, Range
from contex_server.log.buckets import BUCKETS, bucket_of
from contex_server.log.redis.connections import (
    STORE_ERRORS,
    Command,
    Connections,
    execute,
    execute_one,
    is_refusal,
)
from contex_server.log.redis.key_names import key

T = TypeVar("T")
_entry = tuple.__new__

_SHARED = ("common", "projects", "expiry", "events", "inboxes", "agents")
"""The files of functions/ whose helpers others use."""
_OWN = (*("groups", "match", "tasks", "state", "archive", "transfer", "keys", "access", "quota"),)
"""Those that only use others'. Each is a block: Lua allows 200 names at a time."""


def _library() -> str:
    source = files("contex_server.log.redis").joinpath("functions")
    shared = [source.joinpath(f"{name}.lua").read_text() for name in _SHARED]
    own = [f"do\n{source.joinpath(f'{name}.lua').read_text()}end\n" for name in _OWN]
    return "\n".join([*shared, *own])


_FUNCTIONS = _library()


class Client:
    """Runs commands on the server that holds a project.

    An error reply is raised as `ContexError`; "no such key" is a reply of None.
    """

    def __init__(self, connections: Connections, settings: Settings) -> None:
        self.connections = connections
        self.settings = settings

    async def command(self, project: str, *command: Any) -> Any:
        """Runs one of `commands` and returns its reply."""
        return (await self.commands(project, command))[0]

    async def commands(self, project: str, *commands: Command) -> list[Any]:
        """Runs commands in one round trip; each is a name, a kind of key and arguments."""
        whole = [(name, key(project, kind), *rest) for name, kind, *rest in commands]
        return await self.run(project, *whole)

    async def read(self, project: str, kind: str, span: Range, count: int) -> list[Any]:
        """The first `count` entries of a range of a stream."""
        if span.backwards and span.until < END_OF_TIME:
            # XREVRANGE from before the first entry walks the whole stream: 30 ms and more.
            some = Range(until=span.until)
            if not await self.command(project, *range_command(kind, some, 1)):
                return []
        rows: list[Any] = await self.command(project, *range_command(kind, span, count))
        return rows

    async def call(self, project: str, function: str, kinds: Iterable[str], *arguments: Any) -> Any:
        """Calls a function of `functions/` with the project's keys of these kinds."""
        (reply,) = await self.run(project, fcall(project, function, kinds, *arguments))
        return reply

    async def attempt(
        self, project: str, function: str, kinds: Iterable[str], *arguments: Any
    ) -> bool:
        """Calls a function that tells whether it did it, or refused and changed nothing."""
        return bool(await self.call(project, function, kinds, *arguments))

    async def call_read_only(
        self, project: str, function: str, kinds: Iterable[str], *arguments: Any
    ) -> Any:
        """Calls a function that writes nothing; also works while the store is full."""
        (reply,) = await self.run(project, fcall_read_only(project, function, kinds, *arguments))
        return reply

    async def scan(
        self, project: str, kind: str, count: int, command: str = "HSCAN"
    ) -> AsyncIterator[list[tuple[bytes, bytes]]]:
        """The fields and values of a hash, or as `command` has it, about `count` at a time."""
        cursor = b"0"
        while True:
            cursor, fields = await self.command(project, command, kind, cursor, "COUNT", count)
            yield [*zip(fields[::2], fields[1::2], strict=True)]
            if cursor == b"0":
                return

    async def run(self, project: str, *commands: Command, required: int | None = None) -> list[Any]:
        """Runs commands whose keys are named in full; raises the first error reply.

        With `required`, only those of so many commands, the first; others stand in their places.
        """
        if not commands:
            return []
        return await self.run_in(bucket_of(project), *commands, required=required)

    def buckets(self, count: int) -> Iterator[list[int]]:
        """All buckets, at most `count` of one server at a time."""
        nodes: dict[str, list[int]] = {}
        for bucket in range(BUCKETS):
            nodes.setdefault(self.connections.node(bucket), []).append(bucket)
        for buckets in nodes.values():
            for start in range(0, len(buckets), count):
                yield buckets[start : start + count]

    async def run_in(
        self, bucket: int, *commands: Command, patient: bool = True, required: int | None = None
    ) -> list[Any]:
        """`run`, for any project of a bucket.

        Args:
            patient: Whether an outage that has just begun is waited out, and commands that were not
                done since another server is in charge are repeated there.
        """

        async def attempt(commands: Sequence[Command]) -> list[Any]:
            return await self.leased(
                bucket, lambda connection: execute_or_load(connection, commands), patient=patient
            )

        replies = await attempt(commands)
        if patient and any(map(is_refusal, replies)):
            await self._repeat(commands, replies, attempt)
        for index, reply in enumerate(replies[:required]):
            if isinstance(reply, Exception):
                if "no such key" not in str(reply):
                    raise await self.connections.translated(reply) from reply
                replies[index] = None
        return replies

    async def _repeat(
        self,
        commands: Sequence[Command],
        replies: list[Any],
        attempt: Callable[[Sequence[Command]], Awaitable[list[Any]]],
    ) -> None:
        """Repeats what was refused, until it is done or that has taken too long."""
        async for _ in self.connections.attempts():
            refused = [index for index, reply in enumerate(replies) if is_refusal(reply)]
            if not refused:
                return
            again = await attempt([commands[index] for index in refused])
            for index, reply in zip(refused, again, strict=True):
                replies[index] = reply

    async def leased(
        self,
        bucket: int,
        work: Callable[[AbstractConnection], Awaitable[T]],
        *,
        patient: bool = True,
    ) -> T:
        """Does something with a connection to the server of a bucket."""
        try:
            async with self.connections.lease(bucket, patient=patient) as connection:
                return await work(connection)
        except STORE_ERRORS as error:
            raise await self.connections.translated(error) from error


class Facet:
    """The base of what the store offers for each capability."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._settings = client.settings


def range_command(kind: str, span: Range, count: int) -> Command:
    """The command that reads the first `count` entries of a range of a stream."""
    after, until = f"({span.after}", str(span.until)
    if span.backwards:
        return ("XREVRANGE", kind, until, after, "COUNT", count)
    return ("XRANGE", kind, after, until, "COUNT", count)


async def execute_or_load(
    connection: AbstractConnection, commands: Sequence[Command], *confirm: Command
) -> list[Any]:
    """`execute`, also on a store that came back without its functions.

    The calls that did nothing for that reason are repeated, and so is `confirm`, the commands
    that come after all others.
    """
    replies = await execute(connection, *commands, *confirm)
    missed = [
        index
        for index, reply in enumerate(replies)
        if isinstance(reply, ResponseError) and "unction not found" in str(reply)
    ]
    if missed:
        await load_functions(connection)
        repeated = [*(commands[index] for index in missed), *confirm]
        again = await execute(connection, *repeated)
        for index, reply in zip((*missed, *range(len(commands), len(replies))), again, strict=True):
            replies[index] = reply
    return replies


def fcall(project: str, function: str, kinds: Iterable[str], *arguments: Any) -> Command:
    """The command that calls a function with the project's keys of these kinds."""
    keys = [key(project, kind) for kind in kinds]
    return ("FCALL", function, len(keys), *keys, *arguments)


def fcall_read_only(project: str, function: str, kinds: Iterable[str], *arguments: Any) -> Command:
    """The same for one that writes nothing; it also works while the store is full."""
    return ("FCALL_RO", *fcall(project, function, kinds, *arguments)[1:])


async def load_functions(connection: AbstractConnection) -> None:
    """Loads the function library unless this very text is loaded already."""
    libraries = await execute_one(
        connection, "FUNCTION", "LIST", "LIBRARYNAME", "contex1", "WITHCODE"
    )
    for library in libraries:
        if pairs(library).get(b"library_code") == _FUNCTIONS.encode():
            return
    await execute_one(connection, "FUNCTION", "LOAD", "REPLACE", _FUNCTIONS)


def entries_of(rows: Iterable[Any]) -> list[Entry]:
    """The events of a range of a log's stream."""
    # What Entry(…) does, without its keyword arguments: twice as fast, on the hottest path.
    return [_entry(Entry, (sequence, fields[1])) for sequence, fields in rows]


def pairs(reply: Any) -> dict[bytes, Any]:
    """A map reply of either version of the protocol."""
    return dict(reply if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True))
