"""Methods of `contex.v1.ServerService`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from contex.lazy import server as values
from contex.lazy import server_service_pb2, server_service_pb2_grpc

from .calls import AsyncCalls

if TYPE_CHECKING:
    from contex.server import ServerInfo


class AsyncServerService(AsyncCalls):
    """See `AsyncClient`."""

    @property
    def _server(self) -> server_service_pb2_grpc.ServerServiceAsyncStub:
        return self._connection.stub(server_service_pb2_grpc.ServerServiceStub)

    async def server_info(self) -> ServerInfo:
        """Returns the server's version, limits and features.

        Raises:
            Unimplemented: The server is older than this call.
        """
        request = server_service_pb2.GetServerInfoRequest()
        return values.server_info(await self._once(self._server.GetServerInfo, request))
