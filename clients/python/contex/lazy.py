"""Modules that are imported when they are first used.

Most programs use a few methods of the client. The generated messages of a service and the
dataclasses of its answers take longer to import than to use, so each service's are left until one
of its methods is called. Type checkers see ordinary imports:

    if TYPE_CHECKING:
        from .v1 import event_pb2
    else:
        event_pb2 = LazyModule("contex.v1.event_pb2")
"""

from __future__ import annotations

from importlib import import_module


class LazyModule:
    """Stands for a module; safe to use from several threads."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> object:
        value = getattr(import_module(self._name), attribute)
        setattr(self, attribute, value)  # found directly from now on
        return value
