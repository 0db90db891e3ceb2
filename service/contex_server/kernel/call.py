"""A call as a servicer sees it, whatever transport it came in by."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from contex_server.kernel.byte_budget import NO_SHARE, Share
from contex_server.kernel.model import UNKNOWN, Origin
from contex_server.kernel.principal import ANYBODY, Principal
from contex_server.kernel.scope import EVERYTHING, Scope

Write = Callable[[bytes], Awaitable[None]]
"""Sends one serialised response message of a stream, and waits while the client is slow."""


Count = Callable[[str, str, str, float], None]
"""Counts a call: its method, code and reason, and the seconds it took."""


def _everything(_project: str) -> Scope:
    return EVERYTHING


def _not_counted(_method: str, _code: str, _reason: str, _seconds: float) -> None:
    pass


AdmitPublish = Callable[[str, int, int], Awaitable[None]]
"""Lets a batch of a stream be published: its project, events and bytes; or raises `ContexError`."""


async def _admitted(_project: str, _events: int, _bytes: int) -> None:
    pass


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
        principal: Who makes it, as that was proved.
        scope: What the caller may see, or publish.
        admit: In calls with a stream of requests, what the caller may see of a project that they
            name; or PERMISSION_DENIED.
        project: The project that the request names, which the edge has checked. In calls with a
            stream of requests it is known from the first one on, and not checked.
        share: In calls with a stream of requests: what the one that was read last takes of what is
            let in. It is given back when the next one is read, unless it is taken away.
        admit_publish: Counts a batch of a stream against the limits of its project.
        count: Counts what came on a stream as the call of its own that it could have been.
    """

    service: str
    method: str
    deadline: float | None = None
    write: Write = _no_stream
    origin: Origin = UNKNOWN
    principal: Principal = ANYBODY
    scope: Scope = EVERYTHING
    admit: Callable[[str], Scope] = _everything
    project: str = ""
    share: Share = NO_SHARE
    admit_publish: AdmitPublish = _admitted
    count: Count = _not_counted

    @property
    def realm(self) -> str:
        """Where page tokens hold: in the project, and for who sees a part of it only with that."""
        return self.project if self.scope.is_open else f"{self.project}\0{self.scope.digest}"

    def take_share(self) -> Share:
        """The share, to be given back by who takes it."""
        share, self.share = self.share, NO_SHARE
        return share
