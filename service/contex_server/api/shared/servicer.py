"""What the methods of every service work with."""

from __future__ import annotations

from typing import ClassVar

from google.protobuf.descriptor import ServiceDescriptor

from contex_server.kernel.config import Settings
from contex_server.kernel.drain import Drain
from contex_server.rooms import Rooms


class Servicer:
    """Implements a service of `protos/`: checks requests, calls the domain, converts the result."""

    SERVICE: ClassVar[ServiceDescriptor]

    def __init__(self, settings: Settings, rooms: Rooms, drain: Drain) -> None:
        self._settings = settings
        self._limits = settings.limits
        self._rooms = rooms
        self._log = rooms.storage.log
        self._audit = rooms.audit.writer
        self._drain = drain
