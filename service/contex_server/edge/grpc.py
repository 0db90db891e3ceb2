"""Calls that come in by gRPC: parsing, the chain of links, and statuses.

Requests arrive as bytes and are parsed here, so that bytes which are not a valid message get
the documented error instead of gRPC's own. Responses may be bytes already, for the streams
that join them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import grpc
from google.protobuf import duration_pb2, message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from contex_server.access.rules import rule_of
from contex_server.edge.bound import bound
from contex_server.edge.chain import chained, owner_of
from contex_server.edge.incoming import Incoming, Link
from contex_server.edge.intake import Intake
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.names import PROJECT
from contex_server.log.access import ACCESS

Context = grpc.aio.ServicerContext[Any, Any]

_DOMAIN = "contex.dev"
_OF_DEPLOYMENT = frozenset({"ListRecords", "ExportRecords"})
"""The methods to which no project stands for the deployment."""
_STATUS_CODES = {status.value[0]: status for status in grpc.StatusCode}


def handlers(
    servicers: Iterable[tuple[ServiceDescriptor, object]],
    links: Sequence[Link],
    intake: Intake,
    max_bytes: int,
    certificates: bool = False,
) -> tuple[grpc.GenericRpcHandler, ...]:
    """gRPC's handlers for services, all of whose calls pass the links.

    A servicer's method is named as in the proto, in snake case. It takes the request, or the
    iterator of requests where they are streamed, and the `Call`. It returns the response message,
    or None where the response is a stream, which goes through `Call.write`. The project of a
    single request has been checked. Requests of a stream wait to be let in; see `edge.intake`.
    No response has more than `max_bytes`; see `edge.bound`. With `certificates`, clients may have
    one.
    """
    return tuple(
        grpc.method_handlers_generic_handler(
            service.full_name,
            {
                method.name: _handler(
                    method,
                    getattr(servicer, _snake(method.name)),
                    links,
                    intake,
                    bound(method, max_bytes),
                    certificates,
                )
                for method in service.methods
            },
        )
        for service, servicer in servicers
    )


def _handler(
    method: MethodDescriptor,
    behavior: Callable[..., Awaitable[Any]],
    links: Sequence[Link],
    intake: Intake,
    bounded: Callable[[bytes], bytes],
    certificates: bool,
) -> grpc.RpcMethodHandler[bytes, bytes]:
    service, name = method.containing_service.full_name, method.name
    message_class = message_factory.GetMessageClass(method.input_type)
    project_of = _project_reader(method)
    rule = rule_of(method)
    names_project = project_of is not None and rule.is_of_project and not method.client_streaming

    def read(raw: bytes, call: Incoming) -> Message:
        try:
            request = message_class.FromString(raw)
        except DecodeError as error:
            problem = f"the request is no {method.input_type.full_name}: {error}"
            raise ContexError(Reason.MALFORMED_REQUEST, problem) from None
        if project_of is not None:
            named = project_of(request)
            if names_project and named == ACCESS:
                PROJECT(named)  # Refused: it is nobody's to name.
            call.project = call.project or named
            if not call.project and name in _OF_DEPLOYMENT:
                call.project = ACCESS
        return request

    async def read_all(raws: AsyncIterator[bytes], call: Incoming) -> AsyncIterator[Message]:
        async for raw in raws:
            # Nothing more is read of the stream until then.
            call.share = await intake.take(len(raw), owner_of(call), wait_s=None)
            try:
                yield read(raw, call)
            finally:
                call.take_share().give_back()

    async def serve(call: Incoming) -> Any:
        if names_project and call.project != ACCESS:
            PROJECT(call.project)
        try:
            response: Message | None = await behavior(call.request, call)
            return None if response is None else bounded(response.SerializeToString())
        except grpc.aio.InternalError:
            # A write failed: the client has left, and gRPC is about to cancel the call. It
            # would log its own error with a trace, as if it were a defect.
            raise asyncio.CancelledError from None

    handle = chained(links, serve)

    async def run(read_request: Callable[[Incoming], Any], context: Context, size: int = 0) -> Any:
        left = context.time_remaining()
        call = Incoming(
            service,
            name,
            deadline=None if left is None else asyncio.get_running_loop().time() + left,
            write=lambda message: context.write(bounded(message)),
            headers=_headers(context.invocation_metadata() or ()),
            peer=context.peer(),
            certificate=_certificate(context) if certificates else {},
            read=read_request,
            size=size,
            streams=method.server_streaming,
            rule=rule,
            duplex=method.client_streaming,
        )
        try:
            return await handle(call)
        except ContexError as error:
            failure = error
        try:
            await _abort(context, failure)
        except grpc.aio.InternalError:  # the client has left; as above
            raise asyncio.CancelledError from None
        raise AssertionError("abort raises")

    async def unary(raw: bytes, context: Context) -> bytes:
        response: bytes = await run(partial(read, raw), context, len(raw))
        return response

    async def stream(raw: bytes, context: Context) -> None:
        await run(partial(read, raw), context, len(raw))

    async def duplex(raws: AsyncIterator[bytes], context: Context) -> None:
        await run(partial(read_all, raws), context)

    if method.client_streaming:
        return grpc.stream_stream_rpc_method_handler(duplex)
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(stream)
    return grpc.unary_unary_rpc_method_handler(unary)


def _certificate(context: Context) -> Mapping[str, list[bytes]]:
    """What TLS knows of the client; empty where the client has no certificate."""
    found = context.auth_context()
    if "x509_pem_cert" not in found:
        return {}
    return {name: list(values) for name, values in found.items()}


def _headers(metadata: Iterable[tuple[str, str | bytes]]) -> dict[str, str | bytes]:
    """What a client sent, by name: as in HTTP, texts of one name are joined, so that none of two
    credentials counts."""
    headers: dict[str, str | bytes] = {}
    for name, value in metadata:
        before = headers.get(name)
        if isinstance(before, str) and isinstance(value, str):
            value = f"{before}, {value}"
        headers[name] = value
    return headers


def _project_reader(method: MethodDescriptor) -> Callable[[Any], str] | None:
    """Reads the project that a request of this method names; None if it names none."""
    if "project" in method.input_type.fields_by_name:
        return lambda request: str(request.project)
    for field in method.input_type.fields:
        message = field.message_type
        if message is not None and "project" in message.fields_by_name:
            # PublishStream and ImportProject name it in the message that they wrap.
            return partial(_project_within, field.name)
    return None


def _project_within(field: str, request: Any) -> str:
    return str(getattr(request, field).project)


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


async def _abort(context: Context, error: ContexError) -> None:
    """Ends the call with the error's status and details."""
    code = error.reason.code
    info = error_details_pb2.ErrorInfo(
        reason=error.reason.value, domain=_DOMAIN, metadata=error.metadata
    )
    details: list[Message] = [info]
    if violations := _violations(error, info.ByteSize()):
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    trailers: list[tuple[str, str | bytes]] = []
    if error.retry_after_ms is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(error.retry_after_ms)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        # By this, gRPC's own retries wait as long, whatever their policy says.
        trailers.append(("grpc-retry-pushback-ms", str(error.retry_after_ms)))
    status = status_pb2.Status(code=code, message=error.message)
    for detail in details:
        status.details.add().Pack(detail)
    trailers.append(("grpc-status-details-bin", status.SerializeToString()))
    await context.abort(_STATUS_CODES[code], error.message, trailing_metadata=tuple(trailers))


def _violations(
    error: ContexError, taken: int
) -> list[error_details_pb2.BadRequest.FieldViolation]:
    """The fields at fault: the first, and as many more as the headers have room for."""
    violations: list[error_details_pb2.BadRequest.FieldViolation] = []
    # The message is there twice, and in the header escaped.
    room = _DETAILS_BYTES - taken - 2 * len(error.message.encode())
    for field, problem in error.violations:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=field, description=problem, reason=error.reason.value
        )
        room -= violation.ByteSize() + 3
        if violations and room < 0:
            break
        violations.append(violation)
    return violations


_DETAILS_BYTES = 5_500
"""Clients take 8 KiB of headers, in which the details are base64, and a third longer."""
