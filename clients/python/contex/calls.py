"""How the asyncio client calls: its channel and stubs, attempts, and streams."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import grpc
from grpc import aio

from .answer_stream import AnswerCall, AnswerStream
from .channel import channel_options, identity_metadata
from .errors import from_rpc_error
from .publish_stream import PublishStream
from .requests import Page, PageRequest
from .resume import ResumableStream
from .retry import Retry
from .subscription import StreamCall, Subscription
from .v1 import (
    agent_service_pb2_grpc,
    audit_service_pb2_grpc,
    event_service_pb2_grpc,
    match_service_pb2_grpc,
    project_service_pb2_grpc,
    state_service_pb2_grpc,
    transfer_service_pb2_grpc,
)

if TYPE_CHECKING:
    from .v1.agent_service_pb2_grpc import AgentServiceAsyncStub
    from .v1.audit_service_pb2_grpc import AuditServiceAsyncStub
    from .v1.event_service_pb2_grpc import EventServiceAsyncStub
    from .v1.match_service_pb2_grpc import MatchServiceAsyncStub
    from .v1.project_service_pb2_grpc import ProjectServiceAsyncStub
    from .v1.state_service_pb2_grpc import StateServiceAsyncStub
    from .v1.transfer_service_pb2_grpc import TransferServiceAsyncStub

Request = TypeVar("Request")
Response = TypeVar("Response")
T = TypeVar("T")
PageRequestT = TypeVar("PageRequestT", bound=PageRequest)
PageT = TypeVar("PageT", bound=Page)


class AsyncCalls:
    """What every method of `AsyncClient` goes through."""

    def __init__(
        self,
        target: str = "127.0.0.1:50051",
        *,
        publisher: str = "",
        timeout: float = 10.0,
        channel: aio.Channel | None = None,
    ) -> None:
        self._target = target
        self._publisher = publisher
        self._timeout = timeout
        self._channel = channel
        self._owns_channel = channel is None
        self._event_stub: EventServiceAsyncStub | None = None
        self._agent_stub: AgentServiceAsyncStub | None = None
        self._match_stub: MatchServiceAsyncStub | None = None
        self._state_stub: StateServiceAsyncStub | None = None
        self._audit_stub: AuditServiceAsyncStub | None = None
        self._project_stub: ProjectServiceAsyncStub | None = None
        self._transfer_stub: TransferServiceAsyncStub | None = None
        self._metadata = identity_metadata(publisher)
        self._streams: weakref.WeakSet[Subscription[Any] | AnswerStream[Any] | PublishStream] = (
            weakref.WeakSet()
        )
        self._closed = False

    async def close(self) -> None:
        """Ends all streams of this client and closes its channel."""
        self._closed = True
        for stream in list(self._streams):
            await stream.close()
        if self._owns_channel and self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _once(
        self,
        method: aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        timeout: float | None = None,
    ) -> Response:
        self._check_open()
        try:
            return await method(request, timeout=timeout or self._timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    async def _repeated(
        self,
        method: aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        retry: Retry | None = None,
    ) -> Response:
        self._check_open()
        retry = retry or Retry(self._timeout)
        while True:
            try:
                return await method(
                    request, timeout=retry.attempt_timeout(), metadata=self._metadata
                )
            except grpc.RpcError as error:
                delay = retry.delay_after(from_rpc_error(error))
            await asyncio.sleep(delay)

    async def _pages(
        self, method: aio.UnaryUnaryMultiCallable[PageRequestT, PageT], request: PageRequestT
    ) -> AsyncIterator[PageT]:
        """All pages of an answer; `request` asks for the first."""
        while True:
            page = await self._once(method, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def _subscription(
        self, method: Callable[[], Callable[..., object]], stream: ResumableStream[T]
    ) -> Subscription[T]:
        self._check_open()
        subscription = Subscription(
            lambda request: cast(StreamCall, method()(request, metadata=self._metadata)), stream
        )
        self._streams.add(subscription)
        return subscription

    def _answers(
        self,
        method: Callable[[], Callable[..., object]],
        request: Request,
        decode: Callable[[Response], Iterable[T]],
    ) -> AnswerStream[T]:
        self._check_open()
        stream = AnswerStream(
            lambda: cast(AnswerCall, method()(request, metadata=self._metadata)), decode
        )
        self._streams.add(stream)
        return stream

    def _resumed_answers(
        self,
        method: Callable[[], Callable[..., object]],
        request: Callable[[], object],
        decode: Callable[[Response], Iterable[T]],
        retry: Callable[[], Retry],
    ) -> AnswerStream[T]:
        self._check_open()
        stream = AnswerStream(
            lambda: cast(AnswerCall, method()(request(), metadata=self._metadata)), decode, retry
        )
        self._streams.add(stream)
        return stream

    @property
    def _events(self) -> EventServiceAsyncStub:
        if self._event_stub is None:
            self._event_stub = event_service_pb2_grpc.EventServiceStub(self._open_channel())
        return self._event_stub

    @property
    def _agents(self) -> AgentServiceAsyncStub:
        if self._agent_stub is None:
            self._agent_stub = agent_service_pb2_grpc.AgentServiceStub(self._open_channel())
        return self._agent_stub

    @property
    def _matching(self) -> MatchServiceAsyncStub:
        if self._match_stub is None:
            self._match_stub = match_service_pb2_grpc.MatchServiceStub(self._open_channel())
        return self._match_stub

    @property
    def _states(self) -> StateServiceAsyncStub:
        if self._state_stub is None:
            self._state_stub = state_service_pb2_grpc.StateServiceStub(self._open_channel())
        return self._state_stub

    @property
    def _audit(self) -> AuditServiceAsyncStub:
        if self._audit_stub is None:
            self._audit_stub = audit_service_pb2_grpc.AuditServiceStub(self._open_channel())
        return self._audit_stub

    @property
    def _projects(self) -> ProjectServiceAsyncStub:
        if self._project_stub is None:
            self._project_stub = project_service_pb2_grpc.ProjectServiceStub(self._open_channel())
        return self._project_stub

    @property
    def _transfers(self) -> TransferServiceAsyncStub:
        if self._transfer_stub is None:
            self._transfer_stub = transfer_service_pb2_grpc.TransferServiceStub(
                self._open_channel()
            )
        return self._transfer_stub

    def _open_channel(self) -> aio.Channel:
        # Not in the constructor: an asyncio channel belongs to the loop it is made in.
        if self._channel is None:
            options = channel_options(self._timeout)
            self._channel = aio.insecure_channel(self._target, options=options)
        return self._channel

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the client is closed")
