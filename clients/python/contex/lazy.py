"""Modules that are imported when they are first used.

Most programs use a few methods of the client. The generated messages of a service and the
dataclasses of its answers take longer to import than to use, so each service's are left until one
of its methods is called: `from .lazy import event_pb2`. Type checkers see ordinary imports.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import access as access
    from . import agents as agents
    from . import audit as audit
    from . import consuming as consuming
    from . import events as events
    from . import match as match
    from . import projects as projects
    from . import publish_window as publish_window
    from . import server as server
    from . import state as state
    from . import transfer as transfer
    from . import wire as wire
    from .v1 import access_pb2 as access_pb2
    from .v1 import access_service_pb2 as access_service_pb2
    from .v1 import access_service_pb2_grpc as access_service_pb2_grpc
    from .v1 import agent_service_pb2 as agent_service_pb2
    from .v1 import agent_service_pb2_grpc as agent_service_pb2_grpc
    from .v1 import audit_service_pb2 as audit_service_pb2
    from .v1 import audit_service_pb2_grpc as audit_service_pb2_grpc
    from .v1 import consumer_pb2 as consumer_pb2
    from .v1 import event_pb2 as event_pb2
    from .v1 import event_service_pb2 as event_service_pb2
    from .v1 import event_service_pb2_grpc as event_service_pb2_grpc
    from .v1 import match_service_pb2 as match_service_pb2
    from .v1 import match_service_pb2_grpc as match_service_pb2_grpc
    from .v1 import project_service_pb2 as project_service_pb2
    from .v1 import project_service_pb2_grpc as project_service_pb2_grpc
    from .v1 import server_service_pb2 as server_service_pb2
    from .v1 import server_service_pb2_grpc as server_service_pb2_grpc
    from .v1 import state_service_pb2 as state_service_pb2
    from .v1 import state_service_pb2_grpc as state_service_pb2_grpc
    from .v1 import transfer_service_pb2 as transfer_service_pb2
    from .v1 import transfer_service_pb2_grpc as transfer_service_pb2_grpc


class LazyModule:
    """Stands for a module; safe to use from several threads."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> object:
        value = getattr(import_module(self._name), attribute)
        setattr(self, attribute, value)  # found directly from now on
        return value


if not TYPE_CHECKING:

    def __getattr__(name: str) -> LazyModule:
        if name.startswith("__"):
            raise AttributeError(name)
        return LazyModule(f"contex.v1.{name}" if "_pb2" in name else f"contex.{name}")
