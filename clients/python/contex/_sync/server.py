# Generated from _async/server.py by `make generate`.
"""Methods of `contex.v1.ServerService`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from contex.lazy import server as values
from contex.lazy import server_service_pb2, server_service_pb2_grpc

from .calls import Calls

if TYPE_CHECKING:
    from contex.server import ServerInfo


class ServerService(Calls):
    """See `Client`."""

    @property
    def _server(self) -> server_service_pb2_grpc.ServerServiceStub:
        return self._connection.stub(server_service_pb2_grpc.ServerServiceStub)

    def server_info(self) -> ServerInfo:
        """Returns the server's version, limits and features.

        Raises:
            Unimplemented: The server is older than this call.
        """
        request = server_service_pb2.GetServerInfoRequest()
        return values.server_info(self._once(self._server.GetServerInfo, request))
