"""What every call passes on its way to a servicer, whatever its kind and transport.

A link is a coroutine function of a call and the rest of the chain. It may look at the call,
fill in what it finds out, refuse by raising `ContexError`, and see how the rest ended.
`links` lists all of them in order; `app.py` hands that list to the transport:

    track       knows the call while it runs, so that a shutdown can wait for it
    metrics     counts the call and its code and reason, however it ends
    translate   turns what is not a `ContexError` into INTERNAL, and logs it
    audit       records in the project's audit that the call was refused
    read        parses the request; links below know the project it names
    identity    finds out who calls
    drain       refuses new calls during a shutdown
    (access)    later: what the caller may do, and `call.scope`, what it may see
    (quota)     later: how much of it
    servicer

Metrics and audit act on the way back, so they stand before the links that refuse: a malformed
request, a name that is not valid and a call that comes too late are counted and audited, too.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import structlog

from contex_server.edge.drain import Calls
from contex_server.edge.identity import connection_of, identity_of
from contex_server.edge.incoming import Incoming, Link, Rest
from contex_server.edge.metrics import CallCounts
from contex_server.edge.refusals import Refusals
from contex_server.kernel.errors import ContexError, Reason

log = structlog.get_logger(__name__)


def links(calls: Calls, counts: CallCounts, refusals: Refusals) -> tuple[Link, ...]:
    """Every link, outermost first."""
    return (
        calls.track,
        counts.count,
        translate,
        refusals.record,
        read,
        identify,
        calls.refuse_when_draining,
    )


def chained(links: Sequence[Link], servicer: Rest) -> Rest:
    """The links in order, and the servicer behind the last."""

    async def serve(call: Incoming) -> Any:
        call.served = True
        return await servicer(call)

    def before(rest: Rest, link: Link) -> Rest:
        return partial(link, rest=rest)

    first: Rest = serve
    return reduce(before, reversed(links), first)


async def translate(call: Incoming, rest: Rest) -> Any:
    """Link: a defect leaves the server as INTERNAL with an id, and its trace goes to the log."""
    try:
        return await rest(call)
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        if isinstance(error, ContexError) and error.reason is not Reason.INTERNAL:
            raise
        error_id = secrets.token_hex(8)
        method = f"{call.service}.{call.method}"
        log.error("internal_error", method=method, error_id=error_id, exc_info=error)
        raise ContexError(
            Reason.INTERNAL,
            f"internal error {error_id}; the server's log has the details",
            metadata={"error_id": error_id},
        ) from None


async def read(call: Incoming, rest: Rest) -> Any:
    """Link: parses the request.

    Raises:
        ContexError: MALFORMED_REQUEST.
    """
    call.request = call.read(call)
    return await rest(call)


async def identify(call: Incoming, rest: Rest) -> Any:
    """Link: finds out who calls.

    Raises:
        ContexError: INVALID_FIELD if the caller's name is not a valid one.
    """
    call.origin = connection_of(call.headers, call.peer)
    call.origin = call.origin._replace(identity=identity_of(call.headers))
    return await rest(call)
