"""How the blocking client calls: its channel and stubs, attempts, and streams."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import grpc

from .blocking import StreamCall
from .channel import channel_options, identity_metadata
from .errors import from_rpc_error
from .requests import Page, PageRequest
from .resume import ResumableStream, StreamMessage
from .retry import Retry
from .sync_answer_stream import SyncAnswerStream
from .sync_publish_stream import SyncPublishStream
from .sync_subscription import SyncSubscription
from .v1 import (
    agent_service_pb2_grpc,
    audit_service_pb2_grpc,
    event_service_pb2_grpc,
    match_service_pb2_grpc,
    project_service_pb2_grpc,
    state_service_pb2_grpc,
    transfer_service_pb2_grpc,
)

Request = TypeVar("Request")
Response = TypeVar("Response")
T = TypeVar("T")
PageRequestT = TypeVar("PageRequestT", bound=PageRequest)
PageT = TypeVar("PageT", bound=Page)


class Calls:
    """What every method of `Client` goes through."""

    def __init__(
        self,
        target: str = "127.0.0.1:50051",
        *,
        publisher: str = "",
        timeout: float = 10.0,
        channel: grpc.Channel | None = None,
    ) -> None:
        self._publisher = publisher
        self._timeout = timeout
        self._owns_channel = channel is None
        if channel is None:
            channel = grpc.insecure_channel(target, options=channel_options(timeout))
        self._channel = channel
        self._events = event_service_pb2_grpc.EventServiceStub(channel)
        self._agents = agent_service_pb2_grpc.AgentServiceStub(channel)
        self._matching = match_service_pb2_grpc.MatchServiceStub(channel)
        self._states = state_service_pb2_grpc.StateServiceStub(channel)
        self._audit = audit_service_pb2_grpc.AuditServiceStub(channel)
        self._projects = project_service_pb2_grpc.ProjectServiceStub(channel)
        self._transfers = transfer_service_pb2_grpc.TransferServiceStub(channel)
        self._metadata = identity_metadata(publisher)
        self._streams: weakref.WeakSet[
            SyncSubscription[Any] | SyncAnswerStream[Any] | SyncPublishStream
        ] = weakref.WeakSet()
        self._closed = False

    def close(self) -> None:
        """Ends all streams of this client and closes its channel."""
        self._closed = True
        for stream in list(self._streams):
            stream.close()
        if self._owns_channel:
            self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _once(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        timeout: float | None = None,
    ) -> Response:
        self._check_open()
        try:
            return method(request, timeout=timeout or self._timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def _repeated(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        retry: Retry | None = None,
    ) -> Response:
        self._check_open()
        retry = retry or Retry(self._timeout)
        while True:
            try:
                return method(request, timeout=retry.attempt_timeout(), metadata=self._metadata)
            except grpc.RpcError as error:
                delay = retry.delay_after(from_rpc_error(error))
            time.sleep(delay)

    def _pages(
        self, method: grpc.UnaryUnaryMultiCallable[PageRequestT, PageT], request: PageRequestT
    ) -> Iterator[PageT]:
        """All pages of an answer; `request` asks for the first."""
        while True:
            page = self._once(method, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def _subscription(
        self, method: Callable[..., object], stream: ResumableStream[T]
    ) -> SyncSubscription[T]:
        self._check_open()
        subscription = SyncSubscription(
            lambda request: cast(
                StreamCall[StreamMessage], method(request, metadata=self._metadata)
            ),
            stream,
        )
        self._streams.add(subscription)
        return subscription

    def _answers(
        self,
        method: Callable[..., object],
        request: Request,
        decode: Callable[[Response], Iterable[T]],
    ) -> SyncAnswerStream[T]:
        self._check_open()
        stream = SyncAnswerStream(
            lambda: cast(StreamCall[Response], method(request, metadata=self._metadata)), decode
        )
        self._streams.add(stream)
        return stream

    def _resumed_answers(
        self,
        method: Callable[..., object],
        request: Callable[[], object],
        decode: Callable[[Response], Iterable[T]],
        retry: Callable[[], Retry],
    ) -> SyncAnswerStream[T]:
        self._check_open()
        stream = SyncAnswerStream(
            lambda: cast(StreamCall[Response], method(request(), metadata=self._metadata)),
            decode,
            retry,
        )
        self._streams.add(stream)
        return stream

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the client is closed")
