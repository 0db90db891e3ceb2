"""A server that asks callers who they are, and callers of many kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
from contex.v1 import access_service_pb2 as pb
from contex.v1 import access_service_pb2_grpc
from contex_server.access.bootstrap import ADMIN_KEY_FILE
from contex_server.server import Server, first_key

from tests.conftest import StartServer
from tests.integration.support import DEADLINE_S, Api


class _Bearer(
    grpc.aio.UnaryUnaryClientInterceptor,
    grpc.aio.UnaryStreamClientInterceptor,
    grpc.aio.StreamStreamClientInterceptor,
):
    """Sends a credential with every call."""

    def __init__(self, credential: str) -> None:
        self._header = ("authorization", f"Bearer {credential}")

    async def _call(self, go_on: Any, details: Any, request: Any) -> Any:
        metadata = (*(details.metadata or ()), self._header)
        return await go_on(details._replace(metadata=metadata), request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_stream = _call


def bearer(credential: str) -> list[grpc.aio.ClientInterceptor]:
    """Interceptors that send a credential, one of each kind."""
    one = _Bearer(credential)

    class Unary(grpc.aio.UnaryUnaryClientInterceptor):
        intercept_unary_unary = one._call

    class Stream(grpc.aio.UnaryStreamClientInterceptor):
        intercept_unary_stream = one._call

    class Duplex(grpc.aio.StreamStreamClientInterceptor):
        intercept_stream_stream = one._call

    return [Unary(), Stream(), Duplex()]


class Caller(Api):
    """The services, called with a credential."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        super().__init__(channel)
        self.access: Any = access_service_pb2_grpc.AccessServiceStub(channel)

    @classmethod
    def with_key(cls, port: int, credential: str) -> Caller:
        """A connection of its own; without a credential if that is ""."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        interceptors = bearer(credential) if credential else None
        target = f"127.0.0.1:{port}"
        return cls(grpc.aio.insecure_channel(target, options=options, interceptors=interceptors))


def grant(role: str, *data_keys: str, project: str = "*") -> pb.Grant:
    """A grant, for all data keys if none are given."""
    return pb.Grant(role=role, projects=[project], data_keys=data_keys)


class Deployment:
    """A server with its administrator."""

    def __init__(self, server: Server, secret: str) -> None:
        self.server = server
        self.secret = secret
        self.admin = Caller.with_key(server.port, secret)
        self._callers = [self.admin]

    @classmethod
    async def start(
        cls, start_server: StartServer, url: str, directory: Path, **settings: Any
    ) -> Deployment:
        """Starts a server; its first key is in the directory."""
        path = directory / ADMIN_KEY_FILE
        server = await start_server(url, access=True, admin_key_file=path, **settings)
        await first_key(server.settings, url)
        await server.rooms.access.directory.refresh()
        return cls(server, path.read_text().strip())

    async def key(self, identity: str, *grants: pb.Grant, tenant: str = "", **fields: Any) -> Any:
        """Creates a key; returns the response."""
        request = pb.CreateKeyRequest(identity=identity, tenant=tenant, grants=grants, **fields)
        return await self.admin.access.CreateKey(request, timeout=DEADLINE_S)

    async def caller(self, identity: str, *grants: pb.Grant, tenant: str = "") -> Caller:
        """A caller with a key of its own."""
        issued = await self.key(identity, *grants, tenant=tenant)
        return self.with_key(issued.secret_key)

    def with_key(self, secret: str) -> Caller:
        """A caller with a key, or without one."""
        caller = Caller.with_key(self.server.port, secret)
        self._callers.append(caller)
        return caller

    async def bind(self, identity: str, *grants: pb.Grant, tenant: str = "") -> None:
        """Sets what an identity may do."""
        binding = pb.Binding(identity=identity, tenant=tenant, grants=grants)
        request = pb.SetBindingRequest(binding=binding)
        await self.admin.access.SetBinding(request, timeout=DEADLINE_S)

    async def tenant(self, name: str, *projects: str, **fields: Any) -> None:
        """Creates a tenant."""
        request = pb.SetTenantRequest(tenant=pb.Tenant(name=name, projects=projects, **fields))
        await self.admin.access.SetTenant(request, timeout=DEADLINE_S)

    async def close(self) -> None:
        """Closes all connections."""
        for caller in self._callers:
            await caller.channel.close()
