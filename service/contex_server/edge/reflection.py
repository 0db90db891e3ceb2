"""Server reflection, by which tools such as grpcurl learn the API: versions v1 and v1alpha.

The library has v1alpha alone. Both are the same messages under two names of the package.
"""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from google.protobuf import text_format
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import Default
from grpc_reflection.v1alpha import reflection, reflection_pb2

V1ALPHA: str = reflection.SERVICE_NAME
V1 = V1ALPHA.replace("v1alpha", "v1")
_METHOD = "ServerReflectionInfo"


def add_reflection(services: Iterable[str], server: grpc.aio.Server) -> None:
    """Lets a server describe services, and reflection itself."""
    pool = _Pool()
    servicer = reflection.aio.ReflectionServicer((*services, V1, V1ALPHA), pool=pool)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        tuple(
            grpc.method_handlers_generic_handler(name, {_METHOD: handler}) for name in (V1, V1ALPHA)
        )
    )


class _Pool:
    """The default pool, with what it does not find by name, and the file of v1 itself."""

    def __init__(self) -> None:
        self._pool = Default()
        proto = FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(proto)
        v1 = text_format.MessageToString(proto).replace("v1alpha", "v1")
        self._pool.AddSerializedFile(
            text_format.Parse(v1, FileDescriptorProto()).SerializeToString()
        )

    def __getattr__(self, name: str) -> object:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:
        """The file that declares a symbol.

        Raises:
            KeyError: None does.
        """
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            owner, _, name = symbol.rpartition(".")
        try:
            return self._pool.FindMethodByName(symbol).containing_service.file
        except KeyError:  # some clients name an enum's values as if they belonged to it
            return self._pool.FindEnumTypeByName(owner).values_by_name[name].type.file
