"""What every call passes on its way to a servicer, whatever its kind and transport.

A link is a coroutine function of a call and the rest of the chain. It may look at the call,
fill in what it finds out, refuse by raising `ContexError`, and see how the rest ended.
`links` lists all of them in order; `server.py` hands that list to the transport:

    track       knows the call while it runs, so that a shutdown can wait for it
    metrics     counts the call and its code and reason, however it ends
    translate   turns what is not a `ContexError` into INTERNAL, and logs it
    audit       records in the project's audit that the call was refused
    identity    finds out who calls, and refuses whoever can't prove it: before anything is read
    read        lets the request in, unless that is too much at once, and parses it; links below
                know the project it names
    drain       refuses new calls during a shutdown
    access      refuses what the caller may not do, and finds out what it may see: `call.scope`
    existence   refuses to read a project that does not exist
    agent       refuses an agent that the caller may not see, as one that there is not
    quota       refuses what exceeds the limits of tenant or project; see edge/quota.py
    servicer

Metrics and audit act on the way back, so they stand before the links that refuse: a malformed
request, a name that is not valid and a call that comes too late are counted and audited, too.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any
from urllib.parse import unquote

import structlog
from contex.v1.match_service_pb2 import ExplainRequest
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from contex_server.access.admin import Caller
from contex_server.access.authenticator import Authenticator, check_valid
from contex_server.access.room import AccessRoom
from contex_server.access.rules import CallClass, Reach
from contex_server.agents.visibility import Viewer, check_access
from contex_server.audit.writer import AuditWriter
from contex_server.edge.incoming import Incoming, Link, Rest
from contex_server.edge.intake import Intake
from contex_server.edge.metrics import CallCounts
from contex_server.kernel.codes import Code
from contex_server.kernel.drain import Drain
from contex_server.kernel.errors import (
    ContexError,
    Reason,
    concealed,
    invalid_field,
    permission_denied,
    shutting_down,
)
from contex_server.kernel.model import Origin
from contex_server.kernel.names import AGENT_ID, IDENTITY, PROJECT
from contex_server.kernel.scope import Scope
from contex_server.log.access import ACCESS
from contex_server.log.agents import AgentStore
from contex_server.projects.existence import Existence

log = structlog.get_logger(__name__)

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CLIENT_CHARS = 200
_WITHOUT_PROJECT = frozenset(
    {
        # They begin a project, prepare it, or wait for it to begin.
        *(
            "Publish",
            "PublishStream",
            "ImportProject",
            "RegisterAgent",
            "SetRetention",
            "SetEncryption",
            "Subscribe",
        ),
        # They tell of a project also if it does not exist, or bring back one that was lost.
        *("GetProject", "DeleteProject", "GetRetention", "VerifyProject"),
        *("ListRecords", "ExportRecords"),
        # They name an agent, and say if there is none.
        *("GetAgent", "UpdateAgent", "UnregisterAgent", "Listen", "Acknowledge", "WaitForAgent"),
        "GetAgentContext",
        "RecordFeedback",
        *("Consume", "GetConsumerGroup", "SeekConsumerGroup"),
        *("ListParked", "RedriveParked", "DropParked"),
    }
)
"""The methods that don't need the project that they name to exist; all others read one."""
_OF_DEPLOYMENT = {Reason.UNAUTHENTICATED, Reason.PERMISSION_DENIED}
_FAILURES = {Code.INTERNAL, Code.UNAVAILABLE, Code.DATA_LOSS}
"""The server's own trouble: no refusal, unless it kept the call from its servicer."""


class Calls:
    """The calls under way."""

    def __init__(self, drain: Drain) -> None:
        self._drain = drain
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def active(self) -> int:
        """How many calls are being handled."""
        return len(self._tasks)

    async def finished(self, timeout_s: float) -> bool:
        """Waits until no call is left; False if some still run after the timeout."""
        # grpc.aio's stop() may return before its handlers have ended.
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout_s)
        return not self._tasks

    async def track(self, call: Incoming, rest: Rest) -> Any:
        """Link: knows of the call while it runs."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            return await rest(call)
        finally:
            self._tasks.discard(task)

    async def refuse_when_draining(self, call: Incoming, rest: Rest) -> Any:
        """Link: refuses new calls with SHUTTING_DOWN once the shutdown has begun."""
        if self._drain.started:
            raise shutting_down()
        return await rest(call)


def links(
    calls: Calls,
    counts: CallCounts,
    audit: AuditWriter,
    intake: Intake,
    access: AccessRoom,
    *innermost: Link,
) -> tuple[Link, ...]:
    """Every link, outermost first; `innermost` are those that ask the store."""
    authenticator = access.authenticator if access.required else None
    return (
        calls.track,
        counts.count,
        translate,
        partial(record_refusal, audit=audit),
        partial(identify, authenticator=authenticator),
        partial(read, intake=intake),
        calls.refuse_when_draining,
        *([partial(authorize, access=access)] if access.required else []),
        *innermost,
    )


def chained(links: Sequence[Link], servicer: Rest) -> Rest:
    """The links in order, and the servicer behind the last."""

    async def serve(call: Incoming) -> Any:
        call.served = True
        return await servicer(call)

    rest: Rest = serve
    for link in reversed(links):
        rest = _behind(link, rest)
    return rest


def _behind(link: Link, rest: Rest) -> Rest:
    return lambda call: link(call, rest)


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


async def record_refusal(call: Incoming, rest: Rest, audit: AuditWriter) -> Any:
    """Link: records in the project's audit that the call was refused, if it names a valid project;
    in that of the deployment, if its caller is not known, or may not do this to what is no project.

    How many records that makes is bounded by `AuditWriter.refused`.
    """
    try:
        return await rest(call)
    except ContexError as error:
        failed = call.served and error.reason.code in _FAILURES
        # A mistyped name leaves nothing behind.
        failed = failed or error.reason is Reason.PROJECT_NOT_FOUND
        if not failed and PROJECT.fits(call.project):
            audit.refused(call.project, call.origin, call.method, error.reason)
        elif error.reason in _OF_DEPLOYMENT:
            audit.refused(ACCESS, call.origin, call.method, error.reason)
        raise


async def read(call: Incoming, rest: Rest, intake: Intake) -> Any:
    """Link: lets the request in, or refuses it with OVERLOADED; parses it, or refuses it with
    MALFORMED_REQUEST."""
    share = await intake.take(call.size, owner_of(call))
    try:
        call.request = call.read(call)
        if call.streams:
            share.give_back()  # It may last for days, and what is valid of its request is small.
        return await rest(call)
    finally:
        share.give_back()


def owner_of(call: Incoming) -> str:
    """Whose share of what many calls hold together a call takes: its tenant's, or, of a caller
    without one, its own; "" where access is off."""
    return call.principal.tenant or call.principal.identity


async def identify(call: Incoming, rest: Rest, authenticator: Authenticator | None) -> Any:
    """Link: finds out who calls, or refuses a name that is not valid with INVALID_FIELD, and with
    UNAUTHENTICATED whoever can't prove it, where that is asked for."""
    headers = call.headers
    user_agent = headers.get("user-agent", "")
    proved = None
    try:
        if authenticator is not None:
            authorization = str(headers.get("authorization", ""))
            call.principal = await authenticator.authenticate(authorization, call.certificate)
            proved = call.principal.identity
        claimed = headers.get("contex-identity", "")
        call.origin = _origin(claimed, call.peer, user_agent, proved)
    except ContexError:
        call.origin = _origin("", call.peer, user_agent, proved)
        raise
    return await rest(call)


async def authorize(call: Incoming, rest: Rest, access: AccessRoom) -> Any:
    """Link: refuses with PERMISSION_DENIED what the caller may not do, and what it may see.

    Where requests are streamed, that is asked for each project that they name, by `Call.admit`.
    Rights to keys, bindings, roles and tenants are a matter of AccessService.
    """
    rule = call.rule
    # Since the credential was looked at, the request has been waited for.
    check_valid(call.principal, access.directory)
    if rule is None or not rule.is_of_project:
        return await rest(call)
    if call.project == ACCESS:
        access.admin.check_administers_all(Caller(call.principal, call.origin))
        return await rest(call)
    if not call.streams and rule.call_class is not CallClass.READ:
        call.scope = _admitted(call, call.project, access)
        return await rest(call)
    async with access.open_calls.opened(call, rule.permissions) as scopes:

        def admit(project: str) -> Scope:
            scope = scopes[project] = _admitted(call, project, access)
            if not scope.is_open:
                call.scope = scope
            return scope

        call.admit = admit
        if call.project:
            admit(call.project)
        return await rest(call)


def _admitted(call: Incoming, project: str, access: AccessRoom) -> Scope:
    """What the caller may see of a project, or publish to it.

    Raises:
        ContexError: PERMISSION_DENIED: the same whether the project exists or not.
    """
    rule = call.rule
    assert rule is not None
    # A longer name is refused later. It must not be remembered, nor told in full.
    project = project[: PROJECT.high + 1]
    scope = access.directory.policy.scope(call.principal, rule.permissions, project)
    if scope is None or (rule.reach is Reach.PROJECT and not scope.is_open):
        raise permission_denied(call.method, project, call.principal.identity)
    return scope


async def require_agent(call: Incoming, rest: Rest, agents: AgentStore) -> Any:
    """Link: refuses an agent that the caller may not see with AGENT_NOT_FOUND, and with
    PERMISSION_DENIED to change another's, or to take its id. Errors don't tell where the log
    begins and ends.

    For a caller who sees everything it does nothing. Where a stream of requests names an agent,
    that is checked where these are read.
    """
    if call.scope.is_open:
        return await rest(call)
    try:
        if (agent_id := _agent_named(call)) and PROJECT.fits(call.project):
            viewer, project = Viewer.of(call), call.project
            rule, method = call.rule, call.method
            is_of_agent = rule is not None and rule.reach is Reach.AGENT
            changes = is_of_agent and rule is not None and rule.call_class is CallClass.WRITE
            await check_access(agents, project, agent_id, viewer, method, changes=changes)
        return await rest(call)
    except ContexError as error:
        raise concealed(error) from None


def _agent_named(call: Incoming) -> str:
    """The one agent that a request is about; "" if it names none, or none that there can be."""
    request = call.request
    message = request.agent_need if isinstance(request, ExplainRequest) else request
    if not (isinstance(message, Message) and _has_agent_id(message.DESCRIPTOR)):
        return ""
    agent_id: str = getattr(message, "agent_id")  # noqa: B009 - not a field of all messages
    return agent_id if AGENT_ID.fits(agent_id) else ""


@lru_cache(maxsize=256)
def _has_agent_id(kind: Descriptor) -> bool:
    """Whether messages of a kind name an agent; asking a message itself takes longer."""
    return "agent_id" in kind.fields_by_name


async def require_project(call: Incoming, rest: Rest, existence: Existence) -> Any:
    """Link: refuses to read a project that does not exist with PROJECT_NOT_FOUND."""
    is_read = call.method not in _WITHOUT_PROJECT and (call.rule is None or call.rule.is_of_project)
    if is_read and PROJECT.fits(call.project):
        await existence.check(call.project)
    return await rest(call)


@lru_cache(maxsize=4_096)
def _origin(claimed: str | bytes, peer: str, user_agent: str | bytes, proved: str | None) -> Origin:
    """Who calls from where: mostly the same for all calls of a connection."""
    client = _CONTROL.sub(" ", str(user_agent))[:_CLIENT_CHARS]
    name, address = _identity(str(claimed)), _CONTROL.sub(" ", unquote(peer))
    if proved is None:
        return Origin(name, address, client)
    return Origin(proved, address, client, "" if name == proved else name)


def _identity(header: str) -> str:
    """Headers are ASCII: a name comes as UTF-8 that is escaped as in URLs."""
    try:
        return IDENTITY(unquote(header, errors="strict"))
    except UnicodeDecodeError:
        problem = f"must be UTF-8, each byte as % and two digits; got {header[:48]!r}"
        raise invalid_field("contex-identity", problem) from None
