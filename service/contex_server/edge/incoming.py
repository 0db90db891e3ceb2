"""A call on its way in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from contex_server.access.rules import Rule
from contex_server.kernel.call import Call


@dataclass(slots=True, eq=False)
class Incoming(Call):
    """A call on its way in: what only links and transports look at.

    Attributes:
        headers: What the client sent beside the request, by lower-case name.
        peer: Its address, as the transport writes it.
        certificate: What the transport says of the client's certificate, if it verified one.
        read: Parses the request; returns it, and the project that it names.
        size: Bytes of the request; 0 in calls with a stream of requests.
        streams: Whether the answer is a stream.
        duplex: Whether the request is one, too.
        request: The parsed request; in calls with a stream of requests, its iterator.
        rule: What the method takes.
        served: Whether the call passed every link.
    """

    headers: Mapping[str, str | bytes] = field(default_factory=dict)
    peer: str = ""
    certificate: Mapping[str, list[bytes]] = field(default_factory=dict)
    read: Callable[[Incoming], Any] = lambda _call: None
    request: Any = None
    size: int = 0
    streams: bool = False
    rule: Rule | None = None
    duplex: bool = False
    served: bool = False


Rest = Callable[[Incoming], Awaitable[Any]]


class Link(Protocol):
    """What a call passes before the rest of the chain."""

    def __call__(self, call: Incoming, rest: Rest) -> Awaitable[Any]:
        """Hands the call on to the rest, or refuses it by raising `ContexError`."""
        ...
