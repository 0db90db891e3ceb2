"""Binds a servicer's methods to gRPC: parsing, error mapping, and knowing what runs.

Requests arrive as bytes and are parsed here, so that bytes which are no message get the
documented error instead of gRPC's own; responses may be bytes already, for the streams that
join them.
"""

from __future__ import annotations

import asyncio
import keyword
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message

from contex_server.edge.identity import recognise
from contex_server.edge.status import abort, as_contex_error
from contex_server.kernel.drain import Drain
from contex_server.kernel.errors import ContexError, Reason, shutting_down

Context = grpc.aio.ServicerContext[Any, Any]
Write = Callable[[bytes], Awaitable[None]]


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
        """Waits until no call is left; False if some are after the time."""
        # grpc.aio's stop() may return before its handlers have ended.
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout_s)
        return not self._tasks

    async def run(self, method: str, context: Context, work: Awaitable[Any]) -> Any:
        """Runs one call and maps what it raises."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            return await work
        except asyncio.CancelledError:
            raise
        except grpc.aio.InternalError:
            # A write failed: the client has left, and gRPC is about to cancel the call. It
            # would log its own error with a trace, as if it were a defect.
            raise asyncio.CancelledError from None
        except BaseException as error:
            failure = as_contex_error(error, method)
        finally:
            self._tasks.discard(task)
        await abort(context, failure)
        raise AssertionError("abort raises")

    def check_open(self) -> None:
        """Refuses new calls once the shutdown has begun."""
        if self._drain.started:
            raise shutting_down()


def bind(service: ServiceDescriptor, servicer: Any, calls: Calls) -> grpc.GenericRpcHandler:
    """gRPC's handler for a service. A method is named as in the proto, in snake case, and
    with "_" behind it where that is a keyword.

    Unary-unary methods take the request and return the response message. Methods with a
    streaming response take also `write`; streaming requests come as an async iterator.
    """
    handlers = {
        method.name: _handler(method, getattr(servicer, _snake(method.name)), calls)
        for method in service.methods
    }
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def _handler(
    method: MethodDescriptor, behavior: Callable[..., Awaitable[Any]], calls: Calls
) -> grpc.RpcMethodHandler[bytes, bytes]:
    name = method.full_name
    parse = _parser(message_factory.GetMessageClass(method.input_type))

    async def unary(raw: bytes, context: Context) -> bytes:
        async def work() -> bytes:
            calls.check_open()
            recognise(context)
            response: Message = await behavior(parse(raw))
            return response.SerializeToString()

        result: bytes = await calls.run(name, context, work())
        return result

    async def stream(raw: bytes, context: Context) -> None:
        async def work() -> None:
            calls.check_open()
            recognise(context)
            await behavior(parse(raw), context.write)

        await calls.run(name, context, work())

    async def duplex(raws: AsyncIterator[bytes], context: Context) -> None:
        async def requests() -> AsyncIterator[Message]:
            async for raw in raws:
                yield parse(raw)

        async def work() -> None:
            calls.check_open()
            recognise(context)
            await behavior(requests(), context.write)

        await calls.run(name, context, work())

    if method.client_streaming:
        return grpc.stream_stream_rpc_method_handler(duplex)
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(stream)
    return grpc.unary_unary_rpc_method_handler(unary)


def _parser(message_class: type[Message]) -> Callable[[bytes], Message]:
    def parse(raw: bytes) -> Message:
        try:
            return message_class.FromString(raw)
        except DecodeError as error:
            raise ContexError(
                Reason.MALFORMED_REQUEST,
                f"the request is no {message_class.DESCRIPTOR.full_name}: {error}",
            ) from None

    return parse


def _snake(name: str) -> str:
    snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
    return f"{snake}_" if keyword.iskeyword(snake) else snake
