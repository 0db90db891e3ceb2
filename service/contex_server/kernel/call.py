"""A call as a servicer sees it, whatever transport it came in by."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from contex_server.kernel.model import UNKNOWN, Origin
from contex_server.kernel.scope import EVERYTHING, Scope

Write = Callable[[bytes], Awaitable[None]]
"""Sends one serialised response message of a stream, and waits while the client is slow."""


async def _no_stream(_message: bytes) -> None:
    raise TypeError("this call is answered by the return value of its method")


@dataclass(slots=True, eq=False)
class Call:
    """One call. The edge fills it in before a servicer sees it.

    Attributes:
        service: The service's full name, such as "contex.v1.EventService".
        method: The method's name, such as "Publish".
        deadline: When the client stops waiting, by the event loop's clock; None if it waits
            for ever.
        write: Sends a response message, in calls that are answered with a stream.
        origin: Who makes the call, and from where.
        scope: What the caller may see.
        project: The project that the request names, which the edge has checked. In calls with a
            stream of requests it is known from the first one on, and not checked.
    """

    service: str
    method: str
    deadline: float | None = None
    write: Write = _no_stream
    origin: Origin = UNKNOWN
    scope: Scope = EVERYTHING
    project: str = ""
